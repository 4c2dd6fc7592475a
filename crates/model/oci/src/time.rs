//! Points in time as image documents write them.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fault::{Class, Classify};
use serde::{Deserialize, Serialize};

/// A point in time: RFC 3339 with as many decimals as needed. Two that are equal may be written in different zones.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp {
    seconds: i64,
    nanos: u32,
    /// Minutes east of Greenwich, for writing it as it was read.
    zone: i16,
}

/// A text that is no point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid time {text:?}")]
pub struct TimestampError {
    /// What was given.
    pub text: String,
}

impl Classify for TimestampError {
    fn class(&self) -> Class {
        Class::User
    }
}

impl Timestamp {
    /// So many seconds after 1970.
    pub fn from_seconds(seconds: i64) -> Self {
        Self {
            seconds,
            nanos: 0,
            zone: 0,
        }
    }

    /// Seconds since 1970, rounded down.
    pub fn seconds(self) -> i64 {
        self.seconds
    }

    /// Without the part below the second, in UTC.
    #[must_use]
    pub fn truncated(self) -> Self {
        Self::from_seconds(self.seconds)
    }

    fn key(self) -> (i64, u32) {
        (self.seconds, self.nanos)
    }
}

impl PartialEq for Timestamp {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Timestamp {}

impl PartialOrd for Timestamp {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timestamp {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let clamp = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Self {
                seconds: clamp(since.as_secs()),
                nanos: since.subsec_nanos(),
                zone: 0,
            },
            Err(before) => {
                let before = before.duration();
                let (borrow, nanos) = match before.subsec_nanos() {
                    0 => (0, 0),
                    nanos => (1, 1_000_000_000 - nanos),
                };
                Self {
                    seconds: -clamp(before.as_secs()) - borrow,
                    nanos,
                    zone: 0,
                }
            }
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        let whole = Duration::from_secs(time.seconds.unsigned_abs());
        let base = if time.seconds < 0 {
            UNIX_EPOCH.checked_sub(whole)
        } else {
            UNIX_EPOCH.checked_add(whole)
        };
        base.and_then(|base| base.checked_add(Duration::from_nanos(time.nanos.into())))
            .unwrap_or(UNIX_EPOCH)
    }
}

/// Days since 1970 of a date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March have their leap day at the end.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let era = year.div_euclid(400);
    let year = year.rem_euclid(400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + year * 365 + year / 4 - year / 100 + day_of_year - 719_468
}

/// Year, month and day of a day since 1970.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day = days.rem_euclid(146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year;
    if month < 10 {
        (year, month + 3, day)
    } else {
        (year + 1, month - 9, day)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = self.seconds + i64::from(self.zone) * 60;
        let (year, month, day) = date(local.div_euclid(86_400));
        let second = local.rem_euclid(86_400);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
        )?;
        if self.nanos > 0 {
            let decimals = format!("{:09}", self.nanos);
            write!(f, ".{}", decimals.trim_end_matches('0'))?;
        }
        if self.zone == 0 {
            return f.write_str("Z");
        }
        let sign = if self.zone < 0 { '-' } else { '+' };
        let zone = self.zone.abs();
        write!(f, "{sign}{:02}:{:02}", zone / 60, zone % 60)
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        parse(text).ok_or_else(|| TimestampError {
            text: text.to_owned(),
        })
    }
}

fn parse(text: &str) -> Option<Timestamp> {
    let number = |from: usize, to: usize, limit: i64| -> Option<i64> {
        let digits = text.get(from..to)?;
        let valid = digits.bytes().all(|byte| byte.is_ascii_digit());
        let value = digits.parse().ok()?;
        (valid && value <= limit).then_some(value)
    };
    let fixed = [(4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":")];
    for (at, wanted) in fixed {
        if text.get(at..=at)? != wanted {
            return None;
        }
    }
    let (year, month, day) = (number(0, 4, 9999)?, number(5, 7, 12)?, number(8, 10, 31)?);
    let (hour, minute, second) = (
        number(11, 13, 23)?,
        number(14, 16, 59)?,
        number(17, 19, 59)?,
    );
    let day_number = days(year, month, day);
    if date(day_number) != (year, month, day) {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut nanos = 0;
    if let Some(decimals) = rest.strip_prefix('.') {
        let end = decimals.find(|letter: char| !letter.is_ascii_digit())?;
        let nine: String = decimals[..end]
            .chars()
            .chain("000000000".chars())
            .take(9)
            .collect();
        nanos = nine.parse().ok().filter(|_| end > 0)?;
        rest = &decimals[end..];
    }
    let at = text.len() - rest.len();
    let zone = match rest.as_bytes().first()? {
        b'Z' if rest.len() == 1 => 0,
        sign @ (b'+' | b'-') if rest.len() == 6 && rest.as_bytes()[3] == b':' => {
            let minutes = number(at + 1, at + 3, 23)? * 60 + number(at + 4, at + 6, 59)?;
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    let local = day_number * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(Timestamp {
        seconds: local - zone * 60,
        nanos,
        zone: i16::try_from(zone).ok()?,
    })
}

impl TryFrom<String> for Timestamp {
    type Error = TimestampError;

    fn try_from(text: String) -> Result<Self, TimestampError> {
        text.parse()
    }
}

impl From<Timestamp> for String {
    fn from(time: Timestamp) -> Self {
        time.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_they_were_read() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2020-09-13T12:26:40Z",
            "2026-11-20T22:28:14.623254176Z",
            "2024-02-29T23:59:59.5+02:30",
            "0001-01-01T00:00:00Z",
            "1969-12-31T23:59:59.999999999-11:00",
        ] {
            let time: Timestamp = text.parse().expect(text);
            assert_eq!(time.to_string(), text);
            assert_eq!(Timestamp::from(SystemTime::from(time)), time, "{text}");
        }
        let time: Timestamp = "2020-09-13T14:26:40+02:00".parse().expect("a time");
        assert_eq!(time, Timestamp::from_seconds(1_600_000_000));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "2020-09-13",
            "2020-02-30T00:00:00Z",
            "2020-13-01T00:00:00Z",
            "2020-09-13T12:26:40",
            "2020-09-13T12:26:40.Z",
            "2020-09-13 12:26:40Z",
            "2020-09-13T12:26:40+1:00",
            "2020-09-13T12:26:40é",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }
}
