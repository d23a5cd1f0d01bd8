//! Strings of retained rows, of letters or other bytes, each stored once per state unit and counted by how many rows hold
//! it. A row holds the string's number, so equal numbers are equal strings. It refuses to free a string that a row still
//! holds.

use super::index::Index;
use super::keys::hash_bytes;
use super::slab::Slab;

/// Sub-tables of the index, so that none is so large that its growth is a visible pause.
const SUB_TABLES: usize = 16;

#[derive(Debug)]
struct Entry {
    bytes: Box<[u8]>,
    holders: u32,
}

/// The strings that the rows of one state unit hold.
#[derive(Debug)]
pub struct Strings {
    entries: Slab<Entry>,
    index: Vec<Index>,
    num_bytes: usize,
}

impl Default for Strings {
    fn default() -> Self {
        let index = (0..SUB_TABLES).map(|_| Index::default()).collect();
        Strings { entries: Slab::default(), index, num_bytes: 0 }
    }
}

impl Strings {
    /// The number of `bytes`, held once more.
    pub fn hold(&mut self, bytes: &[u8]) -> u64 {
        let hash = hash_bytes(bytes);
        let index = &mut self.index[hash as usize % SUB_TABLES];
        let entries = &mut self.entries;
        if let Some(id) = index.find(hash, |id| &*entries[id].bytes == bytes) {
            entries[id].holders += 1;
            return u64::from(id);
        }
        let id = entries.insert(Entry { bytes: bytes.into(), holders: 1 });
        index.insert(hash, id);
        self.num_bytes += bytes.len();
        u64::from(id)
    }

    /// Holds a string that is held already once more.
    pub fn hold_again(&mut self, word: u64) {
        self.entries[word as u32].holders += 1;
    }

    /// One holder less; the last one frees the string.
    pub fn release(&mut self, word: u64) {
        let id = word as u32;
        let entry = &mut self.entries[id];
        entry.holders -= 1;
        if entry.holders == 0 {
            let hash = hash_bytes(&entry.bytes);
            self.index[hash as usize % SUB_TABLES].remove(hash, id);
            let entry = self.entries.remove(id, Entry { bytes: Box::default(), holders: 0 });
            self.num_bytes -= entry.bytes.len();
        }
    }

    /// The string of a number.
    #[inline]
    #[must_use]
    pub fn get(&self, word: u64) -> &[u8] {
        &self.entries[word as u32].bytes
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.entries.bytes() + self.num_bytes + self.index.iter().map(Index::bytes).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_share_a_number_until_the_last_holder_goes() {
        let mut strings = Strings::default();
        let a = strings.hold(b"a");
        let b = strings.hold(b"b");
        assert_eq!(strings.hold(b"a"), a);
        assert_ne!(a, b);
        strings.release(a);
        assert_eq!(strings.get(a), b"a");
        strings.release(a);
        assert_eq!(strings.hold(b"c"), a, "the number is free again");
        assert_eq!((strings.get(a), strings.get(b)), (&b"c"[..], &b"b"[..]));
    }
}
