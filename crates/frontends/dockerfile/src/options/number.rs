//! Numbers as Go's strconv reads them, with its words of refusal.

/// A decimal i64.
pub(crate) fn parse_int(text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    refuse("ParseInt", text, digits)?;
    text.parse().map_err(|_| range("ParseInt", text))
}

/// A decimal u64, without sign.
pub(crate) fn parse_uint(text: &str) -> Result<u64, String> {
    refuse("ParseUint", text, text)?;
    text.parse().map_err(|_| range("ParseUint", text))
}

fn refuse(function: &str, text: &str, digits: &str) -> Result<(), String> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let quoted = dockerfile_syntax::quote::go(text);
        return Err(format!(
            "strconv.{function}: parsing {quoted}: invalid syntax"
        ));
    }
    Ok(())
}

fn range(function: &str, text: &str) -> String {
    let quoted = dockerfile_syntax::quote::go(text);
    format!("strconv.{function}: parsing {quoted}: value out of range")
}
