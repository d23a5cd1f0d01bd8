//! Strings of retained rows, each stored once per state unit and counted by how many rows hold it. A row holds the
//! string's number, so equal numbers are equal strings. It refuses to free a string that a row still holds.

use super::index::Index;
use super::keys::hash_bytes;
use super::slab::Slab;

/// Sub-tables of the index, so that none is so large that its growth is a visible pause.
const SUB_TABLES: usize = 16;

#[derive(Debug)]
struct Entry {
    text: Box<str>,
    holders: u32,
}

/// The strings that the rows of one state unit hold.
#[derive(Debug)]
pub struct Strings {
    entries: Slab<Entry>,
    index: Vec<Index>,
    text_bytes: usize,
}

impl Default for Strings {
    fn default() -> Self {
        let index = (0..SUB_TABLES).map(|_| Index::default()).collect();
        Strings { entries: Slab::default(), index, text_bytes: 0 }
    }
}

impl Strings {
    /// The number of `text`, held once more.
    pub fn hold(&mut self, text: &str) -> u64 {
        let hash = hash_bytes(text.as_bytes());
        let index = &mut self.index[hash as usize % SUB_TABLES];
        let entries = &mut self.entries;
        if let Some(id) = index.find(hash, |id| &*entries[id].text == text) {
            entries[id].holders += 1;
            return u64::from(id);
        }
        let id = entries.insert(Entry { text: text.into(), holders: 1 });
        index.insert(hash, id);
        self.text_bytes += text.len();
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
            let hash = hash_bytes(entry.text.as_bytes());
            self.index[hash as usize % SUB_TABLES].remove(hash, id);
            let entry = self.entries.remove(id, Entry { text: "".into(), holders: 0 });
            self.text_bytes -= entry.text.len();
        }
    }

    /// The string of a number.
    #[inline]
    #[must_use]
    pub fn get(&self, word: u64) -> &str {
        &self.entries[word as u32].text
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.entries.bytes() + self.text_bytes + self.index.iter().map(Index::bytes).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_share_a_number_until_the_last_holder_goes() {
        let mut strings = Strings::default();
        let a = strings.hold("a");
        let b = strings.hold("b");
        assert_eq!(strings.hold("a"), a);
        assert_ne!(a, b);
        strings.release(a);
        assert_eq!(strings.get(a), "a");
        strings.release(a);
        assert_eq!(strings.hold("c"), a, "the number is free again");
        assert_eq!((strings.get(a), strings.get(b)), ("c", "b"));
    }
}
