//! Reading the kernel's small text files.

use std::path::Path;

use serde::{Serialize, Serializer};

/// How long processes waited for something.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Pressure {
    /// Some of them.
    pub some: Option<PressureValues>,
    /// All of them.
    pub full: Option<PressureValues>,
}

/// Shares of the time in percent, and the whole of it in microseconds.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[allow(missing_docs)]
pub struct PressureValues {
    #[serde(serialize_with = "optional_decimal")]
    pub avg10: Option<f64>,
    #[serde(serialize_with = "optional_decimal")]
    pub avg60: Option<f64>,
    #[serde(serialize_with = "optional_decimal")]
    pub avg300: Option<f64>,
    pub total: Option<u64>,
}

impl Pressure {
    /// That of a file; none if the kernel does not keep it.
    pub(super) fn read(path: &Path) -> Option<Self> {
        Some(Self::parse(&read(path)?))
    }

    pub(super) fn parse(text: &str) -> Self {
        let mut pressure = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let kind = words.next();
            let mut values = PressureValues::default();
            for (key, value) in words.filter_map(|word| word.split_once('=')) {
                match key {
                    "avg10" => values.avg10 = value.parse().ok(),
                    "avg60" => values.avg60 = value.parse().ok(),
                    "avg300" => values.avg300 = value.parse().ok(),
                    "total" => values.total = value.parse().ok(),
                    _ => {}
                }
            }
            match kind {
                Some("some") => pressure.some = Some(values),
                Some("full") => pressure.full = Some(values),
                _ => {}
            }
        }
        pressure
    }
}

/// A file, if it can be read.
pub(super) fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// A file with one number.
pub(super) fn number(path: &Path) -> Option<u64> {
    read(path)?.trim().parse().ok()
}

/// Lines of a name and a number.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        Some((name, words.next()?.parse().ok()?))
    })
}

/// Whole numbers without a fraction, as upstream writes them.
pub(super) fn decimal<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "only what is whole and small"
    )]
    if value.fract() == 0.0 && value.abs() < 1e15 {
        serializer.serialize_i64(*value as i64)
    } else {
        serializer.serialize_f64(*value)
    }
}

#[allow(clippy::ref_option, reason = "serde asks for it")]
fn optional_decimal<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => decimal(value, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_and_written() {
        let text = "some avg10=3.63 avg60=0.00 avg300=4.89 total=181\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        let pressure = Pressure::parse(text);
        assert_eq!(
            serde_json::to_string(&pressure).expect("JSON"),
            concat!(
                r#"{"some":{"avg10":3.63,"avg60":0,"avg300":4.89,"total":181},"#,
                r#""full":{"avg10":0,"avg60":0,"avg300":0,"total":0}}"#
            )
        );
        let half = Pressure::parse("some avg10=1.00\nnonsense\n");
        assert_eq!(half.full, None);
        assert_eq!(half.some.and_then(|it| it.total), None);
    }

    #[test]
    fn lines_that_are_no_pairs_do_not_count() {
        let found: Vec<_> = pairs("a 1\nb\nc x\n\nd 4 5\n").collect();
        assert_eq!(found, [("a", 1), ("d", 4)]);
    }
}
