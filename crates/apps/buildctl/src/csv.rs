//! Values of the form `key=value,key=value`, with quotes around fields as in CSV.
//!
//! Compat: what is refused, and the words and columns of it, are those of Go's encoding/csv.

use anyhow::{Result, bail};

/// Splits at commas outside of quotes; a doubled quote inside quotes is one.
pub(crate) fn fields(text: &str) -> Result<Vec<String>> {
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = match line.len() < text.len() {
        true => line.strip_suffix('\r').unwrap_or(line),
        false => line,
    };
    if line.is_empty() {
        bail!("EOF");
    }
    let mut fields = Vec::new();
    let mut at = 0;
    loop {
        let rest = &line[at..];
        let (field, end) = match rest.strip_prefix('"') {
            Some(_) => quoted(line, at + 1)?,
            None => {
                let field = rest.split(',').next().unwrap_or_default();
                if let Some(quote) = field.find('"') {
                    let column = at + quote + 1;
                    bail!("parse error on line 1, column {column}: bare \" in non-quoted-field");
                }
                (field.to_owned(), at + field.len())
            }
        };
        fields.push(field);
        if end == line.len() {
            return Ok(fields);
        }
        // What ends a field before the end of the line is a comma.
        at = end + 1;
    }
}

/// The field whose content begins at `start`, and where what follows its last quote begins.
fn quoted(line: &str, start: usize) -> Result<(String, usize)> {
    let wrong = |at: usize| {
        let column = at + 1;
        anyhow::anyhow!(
            "parse error on line 1, column {column}: extraneous or missing \" in quoted-field"
        )
    };
    let mut field = String::new();
    let mut at = start;
    loop {
        let length = line[at..].find('"').ok_or_else(|| wrong(at))?;
        field.push_str(&line[at..at + length]);
        at += length + 1;
        match line.as_bytes().get(at) {
            Some(b'"') => field.push('"'),
            Some(b',') | None => return Ok((field, at)),
            Some(_) => return Err(wrong(at - 1)),
        }
        at += 1;
    }
}

/// The fields as pairs; keys in lower case.
pub(crate) fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    fields(text)?
        .into_iter()
        .map(|field| match field.split_once('=') {
            Some((key, value)) => Ok((key.to_lowercase(), value.to_owned())),
            None => bail!("invalid value {field}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_commas() {
        let got = fields("type=image,\"name=a,b\",\"c=\"\"d\"\"\"\n").expect("valid");
        assert_eq!(got, ["type=image", "name=a,b", "c=\"d\""]);
        assert_eq!(fields("a,").expect("valid"), ["a", ""]);
        assert_eq!(fields("\"\"\r\n").expect("valid"), [""]);
    }

    #[test]
    fn what_is_wrong_is_said_as_upstream_says_it() {
        let missing = "extraneous or missing \" in quoted-field";
        for (text, said) in [
            ("", "EOF".to_owned()),
            ("\n", "EOF".to_owned()),
            (
                "type=local,\"dest=x",
                format!("parse error on line 1, column 13: {missing}"),
            ),
            (
                "type=local,\"dest=x\"y",
                format!("parse error on line 1, column 19: {missing}"),
            ),
            (
                "type=local,dest=\"x\"",
                "parse error on line 1, column 17: bare \" in non-quoted-field".to_owned(),
            ),
        ] {
            assert_eq!(fields(text).expect_err(text).to_string(), said);
        }
        let err = pairs("type=local,").expect_err("an empty field");
        assert_eq!(err.to_string(), "invalid value ");
    }

    #[test]
    fn keys_are_lower_case() {
        let got = pairs("Type=local,Dest=X").expect("valid");
        assert_eq!(
            got,
            [("type".into(), "local".into()), ("dest".into(), "X".into())]
        );
    }
}
