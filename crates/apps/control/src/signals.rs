//! Signals by the names clients give them.

/// The names in the order of their numbers, without `SIG`.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// Other names for some of them.
const OTHERS: [(&str, i32); 5] = [
    ("IOT", 6),
    ("CLD", 17),
    ("POLL", 29),
    ("UNUSED", 31),
    ("RTMIN", 34),
];

/// The number of a signal on this machine.
pub(crate) fn number(name: &str) -> Option<i32> {
    let position = NAMES.iter().position(|known| *known == name);
    let number = position.and_then(|position| i32::try_from(position + 1).ok());
    let other = || OTHERS.iter().find(|(known, _)| *known == name);
    number.or_else(|| other().map(|(_, number)| *number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_the_numbers_of_this_machine() {
        for (name, expected) in [
            ("HUP", 1),
            ("KILL", 9),
            ("TERM", 15),
            ("WINCH", 28),
            ("SYS", 31),
        ] {
            assert_eq!(number(name), Some(expected), "{name}");
        }
        assert_eq!(number("SIGTERM"), None);
    }
}
