//! The state of one state unit: its keys in sub-tables, their rings, and when to look at them again. A batch goes
//! through it in passes: resolve the keys of some rows, read where their rows are, then answer row by row in the order
//! of arrival. It never looks at another unit, so a unit's answers depend on its own log alone (I8).

use std::hint::black_box;
use std::ops::Range;

use crate::state::blocks::Row;
use crate::state::index::Index;
use crate::state::keys::{BatchKeys, Key};
use crate::state::ring::{Ring, Rings};
use crate::state::slab::Slab;
use crate::state::strings::Strings;
use crate::state::value::{ColumnBuilder, Kind};
use crate::state::wheel::Wheel;

use super::batch::BatchRows;
use super::evaluate::{Asked, evaluate};
use super::fallback::Gathered;
use super::fold::Fold;
use super::frame::Span;
use super::plan::Plan;
use super::snapshot::Saving;

/// Sub-tables of a unit, by key group (the hash modulo this number).
const KEY_GROUPS: usize = 1024;

/// Rows whose keys are resolved together, so that their cache misses overlap.
pub(super) const ROWS_TOGETHER: usize = 32;

/// Keys that are looked at for expiry beyond one per row of a batch. Few, as they are part of what a batch of one row takes.
const EXPIRY_CATCH_UP: usize = 2;

/// One key.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Slot {
    /// The key itself, or its number among the keys of bytes.
    key: u64,
    hash: u64,
    pub(super) ring: Ring,
    /// Number plus one of the folds of forgotten rows; 0 is none.
    pub(super) prefix: u32,
    /// Number of the newest snapshot begun before its last change.
    pub(super) changed: u32,
    /// Number of the newest snapshot that has it, or that began before it was there.
    pub(super) saved: u32,
    is_null: bool,
    pub(super) is_used: bool,
    is_in_wheel: bool,
}

/// The state of one state unit.
#[derive(Debug)]
pub(super) struct Unit {
    index: Vec<Index>,
    pub(super) slots: Slab<Slot>,
    key_bytes: Slab<Box<[u8]>>,
    key_bytes_len: usize,
    pub(super) rings: Rings<Plan>,
    pub(super) strings: Strings,
    pub(super) prefixes: Slab<Option<Box<[Fold]>>>,
    wheel: Wheel,
    /// The greatest W seen, microseconds.
    pub(super) w: Option<i64>,
    /// The event time at which the unit's log began, microseconds.
    pub(super) log_begin: Option<i64>,
    pub(super) saving: Saving,
    /// Whether the state that is being restored found the unit without keys.
    pub(super) is_first_state: bool,
}

/// Where answers go.
#[derive(Debug)]
pub(super) struct Answers {
    /// By call; unused for a call without a kernel.
    pub(super) columns: Vec<ColumnBuilder>,
    /// By call without a kernel.
    pub(super) gathered: Vec<Gathered>,
    pub(super) late_by: Vec<i64>,
    pub(super) is_history_incomplete: Vec<bool>,
}

/// Memory that one batch uses over and over.
#[derive(Debug)]
pub(super) struct Scratch {
    spans: Vec<Span>,
    words: Vec<u64>,
}

impl Scratch {
    pub(super) fn new(plan: &Plan) -> Scratch {
        let span = Span { from: 0, to: 0, has_own: false };
        Scratch { spans: vec![span; plan.frames.len()], words: vec![0; plan.arguments.len()] }
    }
}

impl Unit {
    pub(super) fn new(plan: &Plan, log_begin: Option<i64>) -> Unit {
        Unit {
            index: (0..KEY_GROUPS).map(|_| Index::default()).collect(),
            slots: Slab::default(),
            key_bytes: Slab::default(),
            key_bytes_len: 0,
            rings: Rings::new(plan.row_layout()),
            strings: Strings::default(),
            prefixes: Slab::default(),
            wheel: Wheel::new(plan.lifetime()),
            w: None,
            log_begin,
            saving: Saving::default(),
            is_first_state: false,
        }
    }

    /// Answers some rows of a batch, all of this unit, and takes them in.
    pub(super) fn process(
        &mut self,
        plan: &Plan,
        rows: Range<usize>,
        keys: &BatchKeys,
        batch: &BatchRows<'_>,
        scratch: &mut Scratch,
        answers: &mut Answers,
    ) {
        let num_rows = rows.len();
        let mut start = rows.start;
        while start < rows.end {
            let end = rows.end.min(start + ROWS_TOGETHER);
            let mut slots = [0_u32; ROWS_TOGETHER];
            self.resolve(start..end, keys, &mut slots);
            for (row, slot) in (start..end).zip(slots) {
                self.process_row(plan, slot, row, batch, scratch, answers);
            }
            start = end;
        }
        // A key is in the wheel because of a row, so looking at one key per row keeps up.
        self.expire(plan, num_rows + EXPIRY_CATCH_UP);
    }

    /// The slots of some rows' keys; new keys get one. Each pass reads only what the pass before has found, so that the
    /// reads of many rows overlap.
    fn resolve(&mut self, rows: Range<usize>, keys: &BatchKeys, slots: &mut [u32; ROWS_TOGETHER]) {
        let mut touched = 0;
        for row in rows.clone() {
            let hash = keys.hashes[row];
            let entry = self.index[group(hash)].touch(hash);
            touched ^= entry;
            slots[row - rows.start] = entry as u32;
        }
        black_box(touched);
        for likely in slots.iter().take(rows.len()).filter(|likely| **likely != 0) {
            touched ^= self.slots[*likely - 1].hash;
        }
        black_box(touched);
        for row in rows.clone() {
            let (hash, key) = (keys.hashes[row], keys.key(row));
            slots[row - rows.start] = self.find(hash, key).unwrap_or_else(|| self.add_key(hash, key));
        }
        self.touch(&slots[..rows.len()]);
    }

    /// Reads where some keys' entries are or will be, so that the reads overlap.
    pub(super) fn touch_index(&self, hashes: &[u64]) {
        black_box(hashes.iter().fold(0, |touched, hash| touched ^ self.index[group(*hash)].touch(*hash)));
    }

    pub(super) fn find(&self, hash: u64, key: Key<'_>) -> Option<u32> {
        self.index[group(hash)].find(hash, |slot| {
            let slot = &self.slots[slot];
            match key {
                Key::Word(word, is_null) => slot.key == word && slot.is_null == is_null,
                Key::Bytes(bytes) => &*self.key_bytes[slot.key as u32] == bytes,
            }
        })
    }

    pub(super) fn add_key(&mut self, hash: u64, key: Key<'_>) -> u32 {
        let (key, is_null) = match key {
            Key::Word(word, is_null) => (word, is_null),
            Key::Bytes(bytes) => {
                self.key_bytes_len += bytes.len();
                (u64::from(self.key_bytes.insert(bytes.into())), false)
            }
        };
        let saved = self.saving.number();
        let slot = Slot { key, hash, is_null, saved, is_used: true, ..Slot::default() };
        let slot = self.slots.insert(slot);
        self.index[group(hash)].insert(hash, slot);
        slot
    }

    /// The key of a slot.
    pub(super) fn key_of(&self, plan: &Plan, slot: u32) -> Key<'_> {
        let slot = &self.slots[slot];
        if plan.keys.is_word() {
            Key::Word(slot.key, slot.is_null)
        } else {
            Key::Bytes(&self.key_bytes[slot.key as u32])
        }
    }

    #[inline]
    fn process_row(
        &mut self,
        plan: &Plan,
        slot_id: u32,
        row: usize,
        batch: &BatchRows<'_>,
        scratch: &mut Scratch,
        answers: &mut Answers,
    ) {
        let time = batch.event_times[row];
        let w = batch.w(row);
        self.w = self.w.max(w);
        let log_begin = *self.log_begin.get_or_insert(time);
        let h = w.map_or(i64::MIN, |w| w.saturating_sub(plan.max_lateness));
        let bits = batch.read(row, &mut self.strings, &mut scratch.words);
        let row = Row { time, words: &scratch.words, bits };

        self.save_before_change(plan, slot_id);
        let Slot { ring, prefix, .. } = self.slots[slot_id];
        let prefix = if prefix == 0 { None } else { self.prefixes[prefix - 1].as_deref() };
        let asked = Asked { row, h, log_begin, prefix };
        let answered = evaluate(plan, &mut self.rings, ring, &self.strings, asked, &mut scratch.spans, answers);
        self.rings.count_bytes(ring, plan);
        answers.late_by.push(w.map_or(0, |w| w.saturating_sub(time).max(0)));
        answers.is_history_incomplete.push(answered.is_history_incomplete);

        let mut rank = answered.rank;
        if self.rings.is_time_to_remove(ring) && self.forget(plan, slot_id, h) > 0 {
            rank = self.rings.rank_upper(self.slots[slot_id].ring, time);
        }
        self.insert(plan, slot_id, rank, row);
    }

    /// Puts a row into a key's ring before the row of rank `rank`.
    pub(super) fn insert(&mut self, plan: &Plan, slot_id: u32, rank: usize, row: Row<'_>) {
        let slot = &mut self.slots[slot_id];
        self.rings.insert(slot_id, &mut slot.ring, rank, row, plan, &self.strings);
        if !slot.is_in_wheel {
            slot.is_in_wheel = true;
            self.wheel.schedule(slot_id, row.time.saturating_add(plan.lifetime()).saturating_add(1));
        }
        self.tell_moved();
    }

    /// Tells the slot whose block moved, if one did.
    #[inline(always)]
    fn tell_moved(&mut self) {
        if let Some(moved) = self.rings.take_moved() {
            self.slots[moved.slot].ring.set_block(moved.id);
        }
    }

    /// Removes the rows of a key that no row to come can see; those of unbounded frames into the key's prefix. Gives
    /// their number.
    fn forget(&mut self, plan: &Plan, slot_id: u32, h: i64) -> usize {
        if h == i64::MIN {
            return 0;
        }
        let Unit { slots, rings, strings, prefixes, .. } = self;
        let slot = &mut slots[slot_id];
        let before = rings.len(slot.ring);
        let num = match slot.ring {
            Ring::Empty => 0,
            Ring::Short(block) => {
                let rows = rings.blocks().rows(block);
                plan.num_unneeded(h, |time| rows.rank_lower(time))
            }
            Ring::Long(_) => plan.num_unneeded(h, |time| rings.rank_lower(slot.ring, time)),
        };
        if num == 0 {
            return 0;
        }
        if !plan.prefixes.is_empty() && slot.prefix == 0 {
            let folds = plan.prefixes.iter().map(|measure| plan.measures[*measure].empty()).collect();
            slot.prefix = prefixes.insert(Some(folds)) + 1;
        }
        let mut folds = if slot.prefix == 0 { None } else { prefixes[slot.prefix - 1].as_deref_mut() };
        rings.remove_first(&mut slot.ring, num, plan, strings, &mut |rows, num, strings| {
            if let Some(folds) = &mut folds {
                for (fold, measure) in folds.iter_mut().zip(&plan.prefixes) {
                    let measure = &plan.measures[*measure];
                    let before = fold.held(measure);
                    measure.add_rows(fold, rows, 0, num, strings);
                    // The string of a fold is held by the fold.
                    if before != fold.held(measure) {
                        fold.held(measure).into_iter().for_each(|word| strings.hold_again(word));
                        before.into_iter().for_each(|word| strings.release(word));
                    }
                }
            }
            release_bytes(plan, rows, num, strings);
        });
        let removed = before - rings.len(slot.ring);
        self.tell_moved();
        let Unit { slots, rings, .. } = self;
        rings.shrink(slot_id, &mut slots[slot_id].ring);
        self.tell_moved();
        removed
    }

    /// Removes all rows of a key.
    pub(super) fn clear(&mut self, plan: &Plan, slot_id: u32) {
        let Unit { slots, rings, strings, prefixes, .. } = self;
        let slot = &mut slots[slot_id];
        let num = rings.len(slot.ring);
        rings.remove_first(&mut slot.ring, num, plan, strings, &mut |rows, num, strings| {
            release_bytes(plan, rows, num, strings);
        });
        if slot.prefix != 0
            && let Some(folds) = prefixes.remove(slot.prefix - 1, None)
        {
            for (fold, measure) in folds.iter().zip(&plan.prefixes) {
                fold.held(&plan.measures[*measure]).into_iter().for_each(|word| strings.release(word));
            }
            slot.prefix = 0;
        }
        self.tell_moved();
    }

    /// Looks at a few keys whose time has come, and forgets what no row to come can see. No answer depends on it.
    fn expire(&mut self, plan: &Plan, keys_max: usize) {
        let Some(w) = self.w else { return };
        let h = w.saturating_sub(plan.max_lateness);
        let mut keys_left = keys_max;
        while keys_left > 0 {
            let mut due = [0_u32; ROWS_TOGETHER];
            let mut num_due = 0;
            while num_due < ROWS_TOGETHER.min(keys_left)
                && let Some(slot) = self.wheel.pop_due(w)
            {
                due[num_due] = slot;
                num_due += 1;
            }
            if num_due == 0 {
                return;
            }
            keys_left -= num_due;
            self.touch(&due[..num_due]);
            for slot in &due[..num_due] {
                self.look_at(plan, *slot, h, w);
            }
        }
    }

    /// Reads where the rows of some keys are, so that the cache misses of many keys overlap.
    #[inline(always)]
    fn touch(&self, slots: &[u32]) {
        let touched = slots.iter().fold(0, |touched, slot| match self.slots[*slot].ring {
            Ring::Short(block) => touched ^ self.rings.blocks().touch(block),
            Ring::Empty | Ring::Long(_) => touched,
        });
        black_box(touched);
    }

    /// Forgets what no row to come can see of a key that has just left the wheel, and says when to look again.
    fn look_at(&mut self, plan: &Plan, slot_id: u32, h: i64, w: i64) {
        self.save_before_change(plan, slot_id);
        self.forget(plan, slot_id, h);
        let slot = &mut self.slots[slot_id];
        slot.is_in_wheel = false;
        if let Some(newest) = self.rings.newest(slot.ring) {
            let due = newest.saturating_add(plan.lifetime()).saturating_add(1);
            if due > w {
                slot.is_in_wheel = true;
                self.wheel.schedule(slot_id, due);
            }
        } else if slot.prefix == 0 {
            self.remove_key(plan, slot_id);
        }
    }

    fn remove_key(&mut self, plan: &Plan, slot_id: u32) {
        let slot = self.slots.remove(slot_id, Slot::default());
        self.index[group(slot.hash)].remove(slot.hash, slot_id);
        if !plan.keys.is_word() {
            let bytes = self.key_bytes.remove(slot.key as u32, Box::default());
            self.key_bytes_len -= bytes.len();
        }
    }

    /// Number of keys.
    pub(super) fn num_keys(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of a slot and its place in the tables, about.
    pub(super) fn slot_bytes() -> usize {
        size_of::<Slot>() + 2 * size_of::<u64>()
    }

    /// Bytes of the whole state.
    pub(super) fn bytes(&self, plan: &Plan) -> usize {
        let index: usize = self.index.iter().map(Index::bytes).sum();
        let prefixes = self.prefixes.len() * plan.prefixes.len() * size_of::<Fold>();
        let keys = self.key_bytes.bytes() + self.key_bytes_len;
        let rows = self.rings.bytes(plan) + self.strings.bytes();
        index + self.slots.bytes() + keys + rows + self.prefixes.bytes() + prefixes + self.wheel.bytes()
    }
}

fn release_bytes(plan: &Plan, rows: &crate::state::blocks::Rows<'_>, num: usize, strings: &mut Strings) {
    for (argument, (_, kind)) in plan.arguments.iter().enumerate() {
        if *kind == Kind::Bytes {
            let held = rows.bits(argument) & crate::state::blocks::mask(0, num);
            super::fold::for_each_bit(held, |lane| strings.release(rows.column(argument)[lane]));
        }
    }
}

#[inline(always)]
fn group(hash: u64) -> usize {
    hash as usize % KEY_GROUPS
}
