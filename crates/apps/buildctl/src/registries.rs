//! `--registry-auth-tlscontext`: whether what is said of a registry's certificates is complete.

use anyhow::{Result, bail};

use crate::csv;

/// Checks one option.
pub(crate) fn check(option: &str) -> Result<()> {
    let (mut host, mut ca, mut cert, mut key) = Default::default();
    let mut is_insecure = false;
    for (name, value) in csv::pairs(option)? {
        match name.as_str() {
            "host" => host = value,
            "ca" => ca = value,
            "cert" => cert = value,
            "key" => key = value,
            "insecure" => is_insecure = fault::truth(&value) == Some(true),
            _ => {}
        }
    }
    let pair = [&cert, &key].map(|it: &String| !it.is_empty());
    match (host.is_empty(), ca.is_empty(), pair) {
        (true, ..) => bail!("--registry-auth-tlscontext requires host=<host>"),
        (_, false, [true, false] | [false, true]) => {
            bail!("--registry-auth-tlscontext requires cert=<cert>,key=<key>")
        }
        (_, true, pair) if !is_insecure && pair != [true, true] => bail!(
            "--registry-auth-tlscontext requires ca=<ca> or cert=<cert>,key=<key> or insecure=true"
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told() {
        let of = |option: &str| check(option).map_err(|err| err.to_string());
        let flag = "--registry-auth-tlscontext requires";
        let some = "ca=<ca> or cert=<cert>,key=<key> or insecure=true";
        for (option, text) in [
            ("", "EOF".to_owned()),
            ("x", "invalid value x".to_owned()),
            ("ca=x", format!("{flag} host=<host>")),
            ("host=x", format!("{flag} {some}")),
            ("host=x,insecure=maybe", format!("{flag} {some}")),
            ("host=x,cert=y", format!("{flag} {some}")),
            (
                "host=x,ca=y,cert=z",
                format!("{flag} cert=<cert>,key=<key>"),
            ),
        ] {
            assert_eq!(of(option), Err(text), "{option}");
        }
        for option in [
            "host=x,ca=y",
            "Host=x,insecure=1,colour=red",
            "host=x,cert=y,key=z",
            "host=x,ca=w,cert=y,key=z",
        ] {
            assert_eq!(of(option), Ok(()), "{option}");
        }
    }
}
