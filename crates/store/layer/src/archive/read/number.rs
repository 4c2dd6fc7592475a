//! Numbers of header fields and of records.

use fstree::Time;

/// Octal text, or a binary number marked by its first bit.
pub(in crate::archive) fn parse(field: &[u8]) -> Option<u64> {
    u64::try_from(parse_signed(field)?).ok()
}

pub(in crate::archive) fn parse_signed(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        return binary(field, first & 0x40 != 0);
    }
    let text = field
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default()
        .trim_ascii();
    if text.is_empty() {
        return Some(0);
    }
    i64::from_str_radix(std::str::from_utf8(text).ok()?, 8).ok()
}

fn binary(field: &[u8], negative: bool) -> Option<i64> {
    let mut value: i64 = if negative { -1 } else { 0 };
    for (at, byte) in field.iter().enumerate() {
        let byte = match (at, negative) {
            (0, true) => *byte | 0x80,
            (0, false) => *byte & 0x7f,
            _ => *byte,
        };
        value = value.checked_mul(256)?;
        value |= i64::from(byte);
    }
    Some(value)
}

/// Decimal seconds with any number of decimals.
pub(in crate::archive) fn parse_time(text: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let sec: i64 = whole.parse().ok()?;
    if !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nine: String = decimals
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nsec: u32 = nine.parse().ok()?;
    if whole.starts_with('-') && nsec > 0 {
        return Some(Time {
            sec: sec.checked_sub(1)?,
            nsec: 1_000_000_000 - nsec,
        });
    }
    Some(Time { sec, nsec })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_in_octal_and_binary() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"\x80\0\0\0\0\0\x01\x02", Some(258)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"00009\0\0\0", None),
        ] {
            assert_eq!(parse_signed(field), value, "{field:?}");
        }
    }

    #[test]
    fn times_keep_nine_decimals_and_round_down() {
        let time = |text: &str| parse_time(text.as_bytes()).map(|time| (time.sec, time.nsec));
        assert_eq!(time("12"), Some((12, 0)));
        assert_eq!(time("12.5"), Some((12, 500_000_000)));
        assert_eq!(time("12.0000000019"), Some((12, 1)));
        assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time("-0.5"), Some((-1, 500_000_000)));
        assert_eq!(time("1.x"), None);
    }
}
