//! Hashing of millions of short byte strings: multiplication folded onto itself, with keys that differ from table to
//! table so that nobody can prepare collisions. The order of these tables never shows in an image.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Makes hashers with keys of its own.
#[derive(Debug, Clone)]
pub(super) struct Keyed {
    first: u64,
    second: u64,
}

impl Default for Keyed {
    fn default() -> Self {
        let random = RandomState::new();
        // Odd, so that no multiplication loses what it is given.
        Self { first: random.hash_one(1_u8), second: random.hash_one(2_u8) | 1 }
    }
}

impl BuildHasher for Keyed {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded { state: self.first, key: self.second }
    }
}

/// The hash so far.
#[derive(Debug)]
pub(super) struct Folded {
    state: u64,
    key: u64,
}

impl Folded {
    fn take(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.key);
        let [low, high] = [product, product >> 64].map(|half| half & u128::from(u64::MAX));
        // Both halves fit; the key is turned so that words at different places count differently.
        let folded = u64::try_from(low ^ high).unwrap_or(u64::MAX);
        self.state = folded.wrapping_add(self.key.rotate_left(23));
    }
}

impl Hasher for Folded {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.take(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.take(u64::from_le_bytes(word));
        }
    }

    fn write_usize(&mut self, value: usize) {
        self.take(value as u64);
    }

    fn finish(&self) -> u64 {
        let product = u128::from(self.state) * u128::from(self.key.rotate_left(32) | 1);
        let low = u64::try_from(product & u128::from(u64::MAX)).unwrap_or(0);
        low ^ u64::try_from(product >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_strings_are_spread() {
        let keyed = Keyed::default();
        let mut buckets = vec![0_u32; 1024];
        for number in 0..100_000_u32 {
            let hash = keyed.hash_one(&number.to_le_bytes()[..]);
            buckets[(hash % 1024) as usize] += 1;
            assert_eq!(hash, keyed.hash_one(&number.to_le_bytes()[..]));
        }
        // 98 each on average.
        assert!(buckets.iter().all(|count| (30..250).contains(count)), "{buckets:?}");
        let top = (0..100_000_u32).map(|number| keyed.hash_one(number) >> 57);
        assert_eq!(top.collect::<std::collections::HashSet<_>>().len(), 128);
    }
}
