//! What was asked for last, in a fixed number of places.

use std::hash::{BuildHasher as _, Hash, RandomState};

/// How much is remembered.
const PLACES: usize = 64;

/// A memory that holds at most one thing in each of its places.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    places: Vec<Option<(K, V)>>,
    hasher: RandomState,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        let places = std::iter::repeat_with(|| None).take(PLACES).collect();
        Self { places, hasher: RandomState::new() }
    }
}

impl<K: Hash + Eq, V: Clone> Recent<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<V> {
        let place = self.places[self.place(key)].as_ref();
        place.filter(|(held, _)| held == key).map(|(_, value)| value.clone())
    }

    pub(super) fn put(&mut self, key: K, value: V) {
        let place = self.place(&key);
        self.places[place] = Some((key, value));
    }

    fn place(&self, key: &K) -> usize {
        let hash = self.hasher.hash_one(key) % PLACES as u64;
        usize::try_from(hash).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_last_is_there() {
        let mut recent = Recent::default();
        for key in 0..1000_u32 {
            recent.put(key, key + 1);
            assert_eq!(recent.get(&key), Some(key + 1));
        }
        assert_eq!((0..1000).filter(|key| recent.get(key).is_some()).count(), PLACES);
    }
}
