//! Values of the form `key=value,key=value`, with quotes around fields as in CSV.

use anyhow::{Result, bail};

/// Splits at commas outside of quotes; a doubled quote inside quotes is one.
pub(crate) fn fields(text: &str) -> Result<Vec<String>> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match (quoted, character) {
            (false, ',') => fields.push(std::mem::take(&mut field)),
            (false, '"') if field.is_empty() => quoted = true,
            (true, '"') if characters.next_if_eq(&'"').is_some() => field.push('"'),
            (true, '"') => quoted = false,
            (_, other) => field.push(other),
        }
    }
    if quoted {
        bail!("invalid value {text:?}: a quote is not closed");
    }
    fields.push(field);
    Ok(fields)
}

/// The fields as pairs; keys in lower case.
pub(crate) fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    fields(text)?
        .into_iter()
        .map(|field| match field.split_once('=') {
            Some((key, value)) => Ok((key.to_lowercase(), value.to_owned())),
            None => bail!("invalid value {field}: expected KEY=VALUE"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_commas() {
        let got = fields("type=image,\"name=a,b\",c=\"d\"").expect("valid");
        assert_eq!(got, ["type=image", "name=a,b", "c=\"d\""]);
        assert!(fields("\"open").is_err());
    }

    #[test]
    fn keys_are_lower_case() {
        let got = pairs("Type=local,Dest=X").expect("valid");
        assert_eq!(
            got,
            [("type".into(), "local".into()), ("dest".into(), "X".into())]
        );
        assert!(pairs("type").is_err());
    }
}
