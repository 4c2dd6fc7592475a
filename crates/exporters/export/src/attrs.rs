//! Values of options.

use crate::Error;

/// A truth value; an empty one is `true`, as in `push` without a value.
pub fn parse_flag(key: &str, value: &str) -> Result<bool, Error> {
    if value.is_empty() {
        return Ok(true);
    }
    parse_bool(key, value)
}

/// A truth value in any of the spellings Go accepts.
pub fn parse_bool(key: &str, value: &str) -> Result<bool, Error> {
    fault::truth(value).ok_or_else(|| {
        Error::user(format!(
            "non-bool value specified for {key}: strconv.ParseBool: parsing {value:?}: invalid syntax"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_values_are_those_of_go() {
        assert!(parse_flag("push", "").expect("true"));
        assert!(parse_bool("push", "").is_err());
        assert!(!parse_bool("push", "F").expect("false"));
        assert_eq!(
            parse_bool("push", "yes")
                .expect_err("no truth value")
                .message,
            "non-bool value specified for push: strconv.ParseBool: parsing \"yes\": invalid syntax"
        );
    }
}
