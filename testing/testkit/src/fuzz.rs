//! What tests with made-up inputs share: the inputs follow from a seed, and only how many are tried depends on the machine.

use std::time::{Duration, Instant};

/// What an answer may take. Unoptimised and beside other tests, it takes some ten times as long as in the daemon.
pub const LIMIT: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });

/// A moment `usual` seconds from now, or as many as `FUZZ_SECONDS` says.
pub fn end(usual: u64) -> Instant {
    let seconds = std::env::var("FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    Instant::now() + Duration::from_secs(seconds.unwrap_or(usual))
}

/// Marsaglia's xorshift: the same numbers on every machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dice(u64);

impl Dice {
    /// Different seeds, small ones too, throw differently.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`; zero if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let upper = usize::try_from(self.0 >> 33).expect("31 bits");
        upper % end.max(1)
    }

    /// Whether something happens that happens this often in a hundred times.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Up to so many bytes of anything.
    pub fn bytes(&mut self, end: usize) -> Vec<u8> {
        let count = self.below(end);
        let byte = |_| u8::try_from(self.below(256)).expect("below 256");
        (0..count).map(byte).collect()
    }

    /// Damages a row as a disk or a program might: cuts it, flips a bit, says lengths that nothing of that size
    /// follows, repeats a part, or puts garbage or one of `words` in.
    pub fn damage(&mut self, row: &mut Vec<u8>, words: &[&[u8]]) {
        let at = self.below(row.len() + 1);
        match self.below(7) {
            0 => row.truncate(at),
            1 => drop(row.splice(at..at, self.bytes(40))),
            2 => drop(row.splice(at..at, [0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])),
            3 => {
                let end = (at + 8).min(row.len());
                row[at..end].fill(0xff);
            }
            4 => {
                let end = (at + self.below(100)).min(row.len());
                let copied = row[at..end].to_vec();
                row.splice(at..at, copied);
            }
            5 => {
                let word = words.get(self.below(words.len())).copied();
                row.splice(at..at, word.unwrap_or_default().iter().copied());
            }
            _ if at < row.len() => row[at] ^= 1 << self.below(8),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_what_comes() {
        let throws = |seed| {
            let mut dice = Dice::new(seed);
            (0..20).map(|_| dice.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(throws(1), throws(1));
        assert_ne!(throws(1), throws(2));
        assert!(throws(3).iter().all(|&number| number < 1000));
        assert_eq!(Dice::new(1).below(0), 0);
    }

    #[test]
    fn damage_takes_every_shape() {
        let mut dice = Dice::new(1);
        let row = b"0123456789".repeat(3);
        let bent: Vec<_> = (0..500)
            .map(|_| {
                let mut bent = row.clone();
                dice.damage(&mut bent, &[b"{\"word\""]);
                bent
            })
            .collect();
        assert!(bent.iter().any(|bent| bent.len() < row.len()));
        assert!(
            bent.iter()
                .any(|bent| bent.len() == row.len() && *bent != row)
        );
        let has_word = |bent: &Vec<u8>| bent.windows(7).any(|part| part == b"{\"word\"");
        assert!(bent.iter().any(has_word));
    }
}
