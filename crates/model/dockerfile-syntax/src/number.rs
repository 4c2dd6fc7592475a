//! Numbers, sizes and durations as the Go tools read them.

use crate::quote;

/// Digits only: no sign, no blanks.
pub(crate) fn go_uint(text: &str, radix: u32) -> Option<u64> {
    if !text.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(text, radix).ok()
}

/// A size such as `64m`, with factors of 1024.
pub(crate) fn ram_in_bytes(text: &str) -> Option<i64> {
    let last = text.rfind(|c: char| c.is_ascii_digit() || matches!(c, '.' | ' '))?;
    let (number, unit) = text.split_at(last + 1);
    let number = number.strip_suffix(' ').unwrap_or(number);
    // Rust reads some more words as numbers, all with letters in front.
    if !number.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '.' | '+' | '-')) {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    if number < 0.0 {
        return None;
    }
    let unit = unit.to_ascii_lowercase();
    let (letter, tail) = match unit.as_bytes() {
        [] => return Some(number as i64),
        [letter, tail @ ..] => (letter, tail),
    };
    let power = match letter {
        b'b' if tail.is_empty() => 0,
        b'k' => 1,
        b'm' => 2,
        b'g' => 3,
        b't' => 4,
        b'p' => 5,
        _ => return None,
    };
    match tail {
        b"" | b"b" | b"ib" => Some((number * 1024f64.powi(power)) as i64),
        _ => None,
    }
}

/// A count: 32 bits with sign. The error is a text.
pub(crate) fn go_int32(text: &str) -> Result<i32, String> {
    let refused = |why| format!("strconv.ParseInt: parsing {}: {why}", quote::go(text));
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refused("invalid syntax"));
    }
    text.parse().map_err(|_| refused("value out of range"))
}

/// A duration such as `1m30s` in nanoseconds. The error is a text.
pub(crate) fn go_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", quote::go(text));
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (whole, tail) = split_digits(rest);
        let (fraction, tail) = match tail.strip_prefix('.') {
            Some(tail) => split_digits(tail),
            None => ("", tail),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = tail
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        if unit.is_empty() {
            return Err(format!(
                "time: missing unit in duration {}",
                quote::go(text)
            ));
        }
        let factor: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => {
                let (unit, text) = (quote::go(unit), quote::go(text));
                return Err(format!("time: unknown unit {unit} in duration {text}"));
            }
        };
        let whole: i128 = if whole.is_empty() {
            0
        } else {
            whole.parse::<i64>().map_err(|_| invalid())?.into()
        };
        total += whole * factor + scale(fraction, factor);
        if total > i128::from(i64::MAX) {
            return Err(invalid());
        }
        rest = tail;
    }
    let total = i64::try_from(total).map_err(|_| invalid())?;
    Ok(if negative { -total } else { total })
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

/// `0.fraction` of `factor`, rounded down.
fn scale(fraction: &str, factor: i128) -> i128 {
    let (mut sum, mut unit) = (0, 1);
    // More digits than these are below a nanosecond.
    for digit in fraction.bytes().take(18) {
        sum = sum * 10 + i128::from(digit - b'0');
        unit *= 10;
    }
    sum * factor / unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_factors_of_1024() {
        for (text, bytes) in [
            ("64m", Some(64 << 20)),
            ("1.5k", Some(1536)),
            ("10", Some(10)),
            ("1 GB", Some(1 << 30)),
            ("1KiB", Some(1024)),
            ("7b", Some(7)),
            ("7bb", None),
            ("z", None),
            ("", None),
            ("-1", None),
            ("1kk", None),
            ("1mmb", None),
            ("inf0", None),
        ] {
            assert_eq!(ram_in_bytes(text), bytes, "{text}");
        }
    }

    #[test]
    fn durations_need_units() {
        assert_eq!(go_duration("1m30s"), Ok(90_000_000_000));
        assert_eq!(go_duration("-1.5h"), Ok(-5_400_000_000_000));
        assert_eq!(go_duration(".5us"), Ok(500));
        assert_eq!(go_duration("0"), Ok(0));
        assert_eq!(
            go_duration("5"),
            Err("time: missing unit in duration \"5\"".into())
        );
        assert_eq!(
            go_duration("5x"),
            Err("time: unknown unit \"x\" in duration \"5x\"".into())
        );
        assert_eq!(go_duration("x"), Err("time: invalid duration \"x\"".into()));
        assert_eq!(go_duration(""), Err("time: invalid duration \"\"".into()));
        assert_eq!(
            go_duration("9999999h"),
            Err("time: invalid duration \"9999999h\"".into())
        );
    }

    #[test]
    fn counts_are_32_bits() {
        assert_eq!(go_int32("-3"), Ok(-3));
        assert_eq!(
            go_int32("x"),
            Err("strconv.ParseInt: parsing \"x\": invalid syntax".into())
        );
        assert_eq!(
            go_int32("9999999999"),
            Err("strconv.ParseInt: parsing \"9999999999\": value out of range".into())
        );
    }
}
