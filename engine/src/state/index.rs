//! The hash index of one sub-table: from a key's hash to the number of its slot. Open addressing with linear probing in
//! one word per entry, which holds enough of the hash to grow without looking at the keys. It refuses to compare keys:
//! the caller does.

/// Entries of the first table.
const CAPACITY_MIN: usize = 8;

/// From hash to slot number, for the keys of one sub-table.
#[derive(Debug, Default)]
pub struct Index {
    /// The upper half of the hash above the slot number plus one; zero is empty. The length is a power of two, or zero.
    entries: Vec<u64>,
    len: usize,
}

#[inline(always)]
fn entry(hash: u64, slot: u32) -> u64 {
    (hash & !0xffff_ffff) | (u64::from(slot) + 1)
}

#[inline(always)]
fn slot_of(entry: u64) -> u32 {
    (entry as u32).wrapping_sub(1)
}

impl Index {
    #[inline(always)]
    fn home(&self, entry_or_hash: u64) -> usize {
        (entry_or_hash >> 32) as usize & (self.entries.len() - 1)
    }

    /// Reads the first entry that a search for `hash` would read, so that it is in the cache when the search comes.
    #[inline(always)]
    #[must_use]
    pub fn touch(&self, hash: u64) -> u64 {
        if self.entries.is_empty() { 0 } else { self.entries[self.home(hash)] }
    }

    /// The slot with this hash for which `is_key` holds.
    #[inline]
    pub fn find(&self, hash: u64, mut is_key: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.entries.is_empty() {
            return None;
        }
        let mask = self.entries.len() - 1;
        let mut at = self.home(hash);
        loop {
            let found = self.entries[at];
            if found == 0 {
                return None;
            }
            if found >> 32 == hash >> 32 && is_key(slot_of(found)) {
                return Some(slot_of(found));
            }
            at = (at + 1) & mask;
        }
    }

    /// Adds a slot whose key is not in the index.
    pub fn insert(&mut self, hash: u64, slot: u32) {
        if (self.len + 1) * 4 > self.entries.len() * 3 {
            self.grow();
        }
        self.place(entry(hash, slot));
        self.len += 1;
    }

    /// Takes out the slot; it must be in the index with this hash.
    pub fn remove(&mut self, hash: u64, slot: u32) {
        let mask = self.entries.len() - 1;
        let wanted = entry(hash, slot);
        let mut hole = self.home(hash);
        while self.entries[hole] != wanted {
            debug_assert_ne!(self.entries[hole], 0, "the slot is in the index");
            hole = (hole + 1) & mask;
        }
        // Entries behind the hole move up unless that would put one before its home.
        let mut at = (hole + 1) & mask;
        while self.entries[at] != 0 {
            let distance_home = at.wrapping_sub(self.home(self.entries[at])) & mask;
            if distance_home >= (at.wrapping_sub(hole) & mask) {
                self.entries[hole] = self.entries[at];
                hole = at;
            }
            at = (at + 1) & mask;
        }
        self.entries[hole] = 0;
        self.len -= 1;
    }

    /// Number of slots in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.entries.capacity() * size_of::<u64>()
    }

    fn place(&mut self, entry: u64) {
        let mask = self.entries.len() - 1;
        let mut at = self.home(entry);
        while self.entries[at] != 0 {
            at = (at + 1) & mask;
        }
        self.entries[at] = entry;
    }

    fn grow(&mut self) {
        let capacity = (self.entries.len() * 2).max(CAPACITY_MIN);
        let old = std::mem::replace(&mut self.entries, vec![0; capacity]);
        for entry in old {
            if entry != 0 {
                self.place(entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_agrees_with_a_map_under_insertions_and_removals(acts in prop::collection::vec((any::<bool>(), 0_u64..200), 0..400)) {
            let mut index = Index::default();
            let mut map = BTreeMap::new();
            // Few distinct homes, so that runs of entries form and wrap.
            let hash = |key: u64| (key % 7) << 33 | key << 60;
            for (insert, key) in acts {
                if insert && !map.contains_key(&key) {
                    index.insert(hash(key), key as u32);
                    map.insert(key, ());
                } else if !insert && map.remove(&key).is_some() {
                    index.remove(hash(key), key as u32);
                }
            }
            prop_assert_eq!(index.len(), map.len());
            for key in 0..200 {
                let found = index.find(hash(key), |slot| slot == key as u32);
                prop_assert_eq!(found.is_some(), map.contains_key(&key));
            }
        }
    }
}
