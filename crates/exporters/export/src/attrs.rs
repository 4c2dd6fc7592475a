//! Values of options.

use std::num::IntErrorKind;

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

/// A number in decimal digits, or what Go says of it.
pub fn parse_integer(value: &str) -> Result<i64, String> {
    value.parse().map_err(|err: std::num::ParseIntError| {
        let why = match err.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.ParseInt: parsing {value:?}: {why}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_go() {
        assert_eq!(parse_integer("+3"), Ok(3));
        assert_eq!(parse_integer("-9223372036854775808"), Ok(i64::MIN));
        for (text, why) in [
            ("9223372036854775808", "value out of range"),
            ("-9223372036854775809", "value out of range"),
            ("", "invalid syntax"),
            ("1.5", "invalid syntax"),
            (" 5", "invalid syntax"),
        ] {
            let said = format!("strconv.ParseInt: parsing {text:?}: {why}");
            assert_eq!(parse_integer(text), Err(said));
        }
    }

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
