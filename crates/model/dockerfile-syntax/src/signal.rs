//! Names of signals, for `STOPSIGNAL` after expansion.

/// Text that names no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid signal: {0}")]
pub struct SignalError(pub String);

impl fault::Classify for SignalError {
    fn class(&self) -> fault::Class {
        fault::Class::User
    }
}

const NAMES: [&str; 35] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN",
];

/// Whether `text` is a signal: a number other than 0, or a name with or without `SIG`, in any case.
pub fn check(text: &str) -> Result<(), SignalError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let valid = if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse::<i64>().is_ok_and(|number| number != 0)
    } else {
        let upper = text.to_uppercase();
        is_name(upper.strip_prefix("SIG").unwrap_or(&upper))
    };
    if valid {
        Ok(())
    } else {
        Err(SignalError(text.to_owned()))
    }
}

fn is_name(name: &str) -> bool {
    let offset = |text: &str, last: u32| {
        !text.starts_with('0')
            && crate::number::go_uint(text, 10).is_some_and(|n| (1..=u64::from(last)).contains(&n))
    };
    NAMES.contains(&name)
        || name == "RTMAX"
        || name
            .strip_prefix("RTMIN+")
            .is_some_and(|text| offset(text, 15))
        || name
            .strip_prefix("RTMAX-")
            .is_some_and(|text| offset(text, 14))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_signals() {
        for text in [
            "SIGTERM",
            "term",
            "9",
            "99",
            "-1",
            "SigRtMin+15",
            "RTMAX-1",
            "rtmax",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        for text in [
            "",
            "0",
            "SIGFOO",
            "RTMIN+16",
            "RTMIN+",
            "RTMIN+01",
            "RTMAX-15",
            "SIGSIGTERM",
            "99999999999999999999",
        ] {
            assert_eq!(
                check(text).map_err(|err| err.to_string()),
                Err(format!("invalid signal: {text}"))
            );
        }
    }
}
