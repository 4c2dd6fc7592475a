//! Random names, in the one form ids have on the wire and on disk.

/// How many characters an id has.
pub const LENGTH: usize = 25;

/// An id nobody has used: 25 characters of `0-9a-z`, as clients send and expect them.
pub fn new_id() -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    // 36^25 is a little more than 2^129: one number holds all but the last bit.
    let mut number: u128 = rand::random();
    let mut id = String::with_capacity(LENGTH);
    for _ in 0..LENGTH {
        // The remainder is below 36.
        let digit = usize::try_from(number % 36).unwrap_or(0);
        id.push(char::from(DIGITS[digit]));
        number /= 36;
    }
    id
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_have_one_form_and_do_not_come_twice() {
        let ids: BTreeSet<String> = (0..10_000).map(|_| new_id()).collect();
        assert_eq!(ids.len(), 10_000);
        for id in ids {
            assert_eq!(id.len(), LENGTH);
            let valid = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
            assert!(id.bytes().all(valid), "{id}");
        }
    }
}
