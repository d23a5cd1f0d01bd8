//! Storage that grows by pages, so that growing never copies what is there: no resize is a visible pause, however large
//! the state. It hands out numbers instead of references, and refuses nothing but a number that it never gave.

/// Items of one page. Small enough that a new page costs microseconds.
const PAGE_ITEMS: usize = 1024;

/// Items by number, in pages, with the numbers of free items kept for the next insertion.
#[derive(Debug)]
pub struct Slab<T> {
    pages: Vec<Vec<T>>,
    len: usize,
    /// Free numbers, as a stack in pages for the same reason as the items.
    free: Vec<Vec<u32>>,
    num_free: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { pages: Vec::new(), len: 0, free: Vec::new(), num_free: 0 }
    }
}

impl<T> Slab<T> {
    /// Stores an item and gives its number.
    pub fn insert(&mut self, item: T) -> u32 {
        if let Some(id) = self.pop_free() {
            self[id] = item;
            return id;
        }
        let (page, lane) = split(self.len);
        if lane == 0 {
            self.pages.push(Vec::with_capacity(PAGE_ITEMS));
        }
        self.pages[page].push(item);
        self.len += 1;
        (self.len - 1) as u32
    }

    /// Takes an item out, leaving `empty` in its place; its number will be given again.
    pub fn remove(&mut self, id: u32, empty: T) -> T {
        let item = std::mem::replace(&mut self[id], empty);
        let (page, lane) = split(self.num_free);
        if page == self.free.len() {
            self.free.push(Vec::with_capacity(PAGE_ITEMS));
        }
        debug_assert_eq!(self.free[page].len(), lane, "the stack of free numbers is dense");
        self.free[page].push(id);
        self.num_free += 1;
        item
    }

    /// Numbers ever given: every item's number is below it.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.len as u32
    }

    /// Number of items held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len - self.num_free
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the pages, without what the items own elsewhere.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pages.len() * PAGE_ITEMS * size_of::<T>() + self.free.len() * PAGE_ITEMS * size_of::<u32>()
    }

    fn pop_free(&mut self) -> Option<u32> {
        let last = self.num_free.checked_sub(1)?;
        let id = self.free[split(last).0].pop();
        self.num_free = last;
        id
    }
}

#[inline(always)]
fn split(at: usize) -> (usize, usize) {
    (at / PAGE_ITEMS, at % PAGE_ITEMS)
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;

    #[inline(always)]
    fn index(&self, id: u32) -> &T {
        let (page, lane) = split(id as usize);
        &self.pages[page][lane]
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    #[inline(always)]
    fn index_mut(&mut self, id: u32) -> &mut T {
        let (page, lane) = split(id as usize);
        &mut self.pages[page][lane]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_removed_items_are_given_again_and_items_stay_where_they_are() {
        let mut slab = Slab::default();
        let ids: Vec<u32> = (0..3000).map(|item| slab.insert(item)).collect();
        for id in &ids[..2500] {
            assert_eq!(slab.remove(*id, -1), *id as i32);
        }
        assert_eq!(slab.len(), 500);
        for item in 0..2500 {
            slab.insert(item + 10_000);
        }
        assert_eq!((slab.end(), slab.len()), (3000, 3000));
        assert!(ids[2500..].iter().all(|id| slab[*id] == *id as i32));
    }
}
