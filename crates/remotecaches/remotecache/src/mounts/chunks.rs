//! Cuts a stream of bytes where its content says so.
//!
//! A rolling sum over the last 64 bytes decides. What is inserted or removed somewhere thus moves the cuts around it and
//! no others. How the stream is handed in does not matter.

use crate::Error;

/// Takes whole pieces.
pub(super) type Taker<'a> = dyn FnMut(&[u8]) -> Result<(), Error> + 'a;

/// Cuts a stream.
pub(super) struct Chunker {
    min: usize,
    max: usize,
    mask: u64,
    piece: Vec<u8>,
    sum: u64,
}

/// A number for each byte, chosen once.
const NUMBERS: [u64; 256] = {
    let mut numbers = [0; 256];
    let mut seed: u64 = 0x6b69_6c6e;
    let mut at = 0;
    while at < numbers.len() {
        // SplitMix64.
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        numbers[at] = mixed ^ (mixed >> 31);
        at += 1;
    }
    numbers
};

impl Chunker {
    /// Pieces of about `1 << bits` bytes, and from a quarter to four times of that.
    pub(super) fn new(bits: u32) -> Self {
        Self {
            min: 1 << (bits - 2),
            max: 1 << (bits + 2),
            mask: !(u64::MAX >> bits),
            piece: Vec::new(),
            sum: 0,
        }
    }

    /// Adds bytes.
    pub(super) fn add(&mut self, mut bytes: &[u8], take: &mut Taker<'_>) -> Result<(), Error> {
        while !bytes.is_empty() {
            let early = self.min.saturating_sub(self.piece.len()).min(bytes.len());
            self.piece.extend_from_slice(&bytes[..early]);
            bytes = &bytes[early..];
            let room = (self.max - self.piece.len()).min(bytes.len());
            let cut = self.cut(&bytes[..room]);
            let (own, rest) = bytes.split_at(cut.unwrap_or(room));
            self.piece.extend_from_slice(own);
            bytes = rest;
            if cut.is_some() || self.piece.len() == self.max {
                self.finish(take)?;
            }
        }
        Ok(())
    }

    /// Where the piece ends, if it ends in these bytes.
    fn cut(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, byte) in bytes.iter().enumerate() {
            self.sum = (self.sum << 1).wrapping_add(NUMBERS[usize::from(*byte)]);
            if self.sum & self.mask == 0 {
                return Some(at + 1);
            }
        }
        None
    }

    /// Hands on what is left.
    pub(super) fn finish(&mut self, take: &mut Taker<'_>) -> Result<(), Error> {
        self.sum = 0;
        if !self.piece.is_empty() {
            take(&self.piece)?;
            self.piece.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn pieces(bytes: &[u8], step: usize) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        let mut chunker = Chunker::new(10);
        let mut take = |piece: &[u8]| {
            pieces.push(piece.to_vec());
            Ok(())
        };
        for part in bytes.chunks(step) {
            chunker.add(part, &mut take).expect("taken");
        }
        chunker.finish(&mut take).expect("taken");
        pieces
    }

    fn noise(size: usize) -> Vec<u8> {
        let mut state: u32 = 1;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..size).map(|_| next()).collect()
    }

    #[test]
    fn pieces_are_the_stream_and_do_not_depend_on_how_it_comes() {
        let bytes = noise(300_000);
        let whole = pieces(&bytes, bytes.len());
        assert_eq!(whole.concat(), bytes);
        assert!(whole.len() > 100, "{}", whole.len());
        for step in [1, 255, 4096] {
            assert!(pieces(&bytes, step) == whole, "{step}");
        }
        for piece in &whole[..whole.len() - 1] {
            assert!((256..=4096).contains(&piece.len()), "{}", piece.len());
        }
    }

    #[test]
    fn what_is_inserted_changes_few_pieces() {
        let before = noise(300_000);
        let mut after = before.clone();
        after.splice(150_000..150_000, *b"something new");
        let old: BTreeSet<_> = pieces(&before, 4096).into_iter().collect();
        let new = pieces(&after, 4096);
        let changed = new.iter().filter(|piece| !old.contains(*piece)).count();
        assert!((1..=4).contains(&changed), "{changed}");
    }

    #[test]
    fn what_never_says_where_to_cut_is_cut_all_the_same() {
        let sizes: Vec<_> = pieces(&[0; 10_000], 10_000).iter().map(Vec::len).collect();
        assert_eq!(sizes.iter().sum::<usize>(), 10_000);
        assert!(sizes.iter().all(|size| *size <= 4096));
    }
}
