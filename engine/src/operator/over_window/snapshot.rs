//! Snapshots of one state unit, as Arrow batches in pieces of bounded size, written while rows go on being processed: a
//! key that is about to change before its turn is saved first, so that the pieces together are the state at the moment
//! when the snapshot began (I1). A delta holds the keys that changed since the last whole snapshot. Persisted are key
//! columns, values and exact sums, never hashes or ranks.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, Int64Array, RecordBatch, StringArray, UInt32Array,
    UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt32Type, UInt64Type};

use crate::error::{Error, Result};
use crate::state::blocks::{Row, Rows};
use crate::state::keys::Key;
use crate::state::strings::Strings;
use crate::state::value::{ColumnBuilder, InputColumn, Kind};

use super::exact::{ExactMoments, ExactSum};
use super::fold::{Fold, Measure, What};
use super::plan::Plan;
use super::unit::{ROWS_TOGETHER, Unit};

/// The version of the form in which state is persisted.
pub const STATE_VERSION: u32 = 1;

/// Which keys a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotKind {
    /// All of them.
    Full,
    /// Those that changed since the last snapshot that was written to its end; all, if there was none. A key in a delta
    /// replaces the key of that name.
    Delta,
}

/// A piece of a snapshot.
#[derive(Debug, Clone)]
pub struct Piece {
    /// One row per key: `key` (UInt64, its number within the snapshot), `key_<i>` (the key columns), and for each
    /// unbounded measure `prefix_<i>_count`, `prefix_<i>_time`, `prefix_<i>_value`.
    pub slots: RecordBatch,
    /// One row per retained row, in total order within a key: `key`, `event_time` (Int64, microseconds),
    /// `argument_<i>`, `filter_<i>`.
    pub rows: RecordBatch,
}

/// What a unit knows of its snapshots.
#[derive(Debug, Default)]
pub(super) struct Saving {
    /// Number of the newest snapshot begun.
    number: u32,
    /// Number of the newest snapshot written to its end.
    finished: u32,
    active: Option<Box<Active>>,
}

#[derive(Debug)]
struct Active {
    /// Keys whose last change is older are left out.
    since: u32,
    /// The next slot to save, and the end of the slots that there were.
    next: u32,
    end: u32,
    keys_saved: u64,
    piece: PieceBuilder,
}

#[derive(Debug)]
struct PieceBuilder {
    slot_keys: Vec<u64>,
    keys: Vec<ColumnBuilder>,
    prefixes: Vec<PrefixBuilder>,
    row_keys: Vec<u64>,
    times: Vec<i64>,
    columns: Vec<ColumnBuilder>,
}

impl Saving {
    pub(super) fn number(&self) -> u32 {
        self.number
    }
}

impl Unit {
    /// Begins a snapshot and gives its `meta` batch. A snapshot that was not written to its end is given up.
    pub(super) fn begin_snapshot(&mut self, plan: &Plan, kind: SnapshotKind) -> Result<RecordBatch> {
        let since = if kind == SnapshotKind::Full { 0 } else { self.saving.finished };
        self.saving.number += 1;
        let (end, piece) = (self.slots.end(), PieceBuilder::new(plan));
        self.saving.active = Some(Box::new(Active { since, next: 0, end, keys_saved: 0, piece }));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("version", Arc::new(UInt32Array::from(vec![STATE_VERSION]))),
            ("is_delta", Arc::new(arrow::array::BooleanArray::from(vec![since > 0]))),
            ("layout", Arc::new(StringArray::from(vec![plan.layout()]))),
            ("log_begin", Arc::new(Int64Array::from(vec![self.log_begin]))),
            ("w", Arc::new(Int64Array::from(vec![self.w]))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
            .map_err(broken)
    }

    /// The next piece, of at least one key and about `rows_max` rows; `None` at the end.
    pub(super) fn next_piece(&mut self, plan: &Plan, rows_max: usize) -> Result<Option<Piece>> {
        let Some(mut active) = self.saving.active.take() else { return Ok(None) };
        while active.next < active.end && active.piece.times.len() + active.piece.slot_keys.len() < rows_max {
            let slot = active.next;
            active.next += 1;
            self.save(plan, slot, &mut active);
        }
        if active.piece.slot_keys.is_empty() {
            self.saving.finished = self.saving.number;
            return Ok(None);
        }
        let piece = std::mem::replace(&mut active.piece, PieceBuilder::new(plan));
        self.saving.active = Some(active);
        piece.finish(plan).map(Some)
    }

    /// Gives up a snapshot that is being written.
    pub(super) fn abort_snapshot(&mut self) {
        self.saving.active = None;
    }

    /// To be called before a key changes: a snapshot that is being written takes the key as it is.
    #[inline(always)]
    pub(super) fn save_before_change(&mut self, plan: &Plan, slot: u32) {
        if self.saving.active.is_some() {
            self.save_now(plan, slot);
        }
        self.slots[slot].changed = self.saving.number;
    }

    #[inline(never)]
    fn save_now(&mut self, plan: &Plan, slot: u32) {
        if let Some(mut active) = self.saving.active.take() {
            self.save(plan, slot, &mut active);
            self.saving.active = Some(active);
        }
    }

    fn save(&mut self, plan: &Plan, slot_id: u32, active: &mut Active) {
        let number = self.saving.number;
        let slot = &mut self.slots[slot_id];
        if !slot.is_used || slot.saved == number {
            return;
        }
        // A key that a delta leaves out is done with too: it may change now, and that is for the next delta.
        slot.saved = number;
        // Numbers of changes before the first snapshot are 0, and so is `since` of a full one.
        if slot.changed < active.since {
            return;
        }
        let slot = *slot;
        let key = active.keys_saved;
        active.keys_saved += 1;
        let piece = &mut active.piece;
        piece.slot_keys.push(key);
        plan.keys.append(self.key_of(plan, slot_id), &mut piece.keys);
        let folds = if slot.prefix == 0 { None } else { self.prefixes[slot.prefix - 1].as_deref() };
        for (index, builder) in piece.prefixes.iter_mut().enumerate() {
            builder.push(folds.map(|folds| &folds[index]), &self.strings);
        }
        self.rings.for_each_block(slot.ring, &mut |rows| piece.push_rows(plan, key, &rows, &self.strings));
    }

    /// Takes over `log_begin` and W from a `meta` batch.
    pub(super) fn restore_meta(&mut self, plan: &Plan, meta: &RecordBatch) -> Result<()> {
        let column =
            |name: &str| meta.column_by_name(name).ok_or_else(|| bad_state(&format!("no column {name} in meta")));
        let version = column("version")?.as_primitive_opt::<UInt32Type>().map(|column| column.value(0));
        if version != Some(STATE_VERSION) {
            return Err(bad_state(&format!("version {version:?} found, {STATE_VERSION} expected")));
        }
        let layout = column("layout")?.as_string_opt::<i32>().map(|column| column.value(0).to_owned());
        if layout.as_deref() != Some(plan.layout().as_str()) {
            return Err(bad_state("it was written by other SQL or other settings of lateness and lookback"));
        }
        let micros = |name: &str| -> Result<Option<i64>> {
            let column =
                column(name)?.as_primitive_opt::<Int64Type>().ok_or_else(|| bad_state("meta has another type"))?;
            Ok((!column.is_null(0)).then(|| column.value(0)))
        };
        self.log_begin = micros("log_begin")?;
        self.w = micros("w")?;
        self.is_first_state = self.slots.is_empty();
        Ok(())
    }

    /// An empty slot for a key. The keys of the first state that a unit is given are all new.
    fn slot_to_restore(&mut self, plan: &Plan, hash: u64, key: Key<'_>) -> u32 {
        let known = if self.is_first_state { None } else { self.find(hash, key) };
        let slot = match known {
            Some(slot) => {
                self.clear(plan, slot);
                slot
            }
            None => self.add_key(hash, key),
        };
        self.slots[slot].changed = self.saving.number;
        slot
    }

    /// Takes in the keys of a piece; a key that is there is replaced.
    pub(super) fn restore_piece(&mut self, plan: &Plan, piece: &Piece) -> Result<()> {
        let restored = Restored::of(plan, piece)?;
        let num_keys = piece.slots.num_rows();
        let keys = plan.keys.read(&restored.keys, num_keys)?;
        let mut next = 0;
        let mut words = vec![0; plan.arguments.len()];
        for start in (0..num_keys).step_by(ROWS_TOGETHER) {
            let together = start..num_keys.min(start + ROWS_TOGETHER);
            self.touch_index(&keys.hashes[together.clone()]);
            for index in together {
                let slot = self.slot_to_restore(plan, keys.hashes[index], keys.key(index));
                if let Some(folds) = restored.folds(plan, index, &mut self.strings)? {
                    self.slots[slot].prefix = self.prefixes.insert(Some(folds)) + 1;
                }
                let mut rank = 0;
                while next < restored.row_keys.len() && restored.row_keys[next] == restored.slot_keys[index] {
                    let bits = restored.read(next, &mut self.strings, &mut words);
                    let row = Row { time: restored.times[next], words: &words, bits };
                    self.insert(plan, slot, rank, row);
                    rank += 1;
                    next += 1;
                }
            }
        }
        if next != restored.row_keys.len() {
            return Err(bad_state("rows without a key"));
        }
        Ok(())
    }
}

impl PieceBuilder {
    fn new(plan: &Plan) -> PieceBuilder {
        let filters = std::iter::repeat_n(&DataType::Boolean, plan.num_filters);
        let types = plan.arguments.iter().map(|(data_type, _)| data_type).chain(filters);
        PieceBuilder {
            slot_keys: Vec::new(),
            keys: plan.keys.builders(),
            prefixes: plan.prefixes.iter().map(|measure| PrefixBuilder::new(plan, plan.measures[*measure])).collect(),
            row_keys: Vec::new(),
            times: Vec::new(),
            columns: types.map(|data_type| ColumnBuilder::new(data_type, 0)).collect(),
        }
    }

    fn push_rows(&mut self, plan: &Plan, key: u64, rows: &Rows<'_>, strings: &Strings) {
        self.row_keys.extend(std::iter::repeat_n(key, rows.len()));
        self.times.extend((0..rows.len()).map(|lane| rows.time(lane)));
        for (index, builder) in self.columns.iter_mut().enumerate() {
            let bits = rows.bits(index);
            let is_set = |lane: usize| bits >> lane & 1 == 1;
            if index >= plan.arguments.len() {
                (0..rows.len()).for_each(|lane| builder.push(Some(u64::from(is_set(lane)))));
                continue;
            }
            let column = rows.column(index);
            for (lane, word) in column.iter().enumerate() {
                if builder.is_bytes() {
                    builder.push_bytes(is_set(lane).then(|| strings.get(*word)));
                } else {
                    builder.push(is_set(lane).then_some(*word));
                }
            }
        }
    }

    fn finish(self, plan: &Plan) -> Result<Piece> {
        let mut slots: Vec<(String, ArrayRef)> = vec![("key".to_owned(), Arc::new(UInt64Array::from(self.slot_keys)))];
        for (index, builder) in self.keys.into_iter().enumerate() {
            slots.push((format!("key_{index}"), builder.finish()?));
        }
        for (index, builder) in self.prefixes.into_iter().enumerate() {
            builder.finish(&format!("prefix_{index}"), &mut slots)?;
        }
        let mut rows: Vec<(String, ArrayRef)> = vec![
            ("key".to_owned(), Arc::new(UInt64Array::from(self.row_keys))),
            ("event_time".to_owned(), Arc::new(Int64Array::from(self.times))),
        ];
        for (index, builder) in self.columns.into_iter().enumerate() {
            let name = match index.checked_sub(plan.arguments.len()) {
                None => format!("argument_{index}"),
                Some(filter) => format!("filter_{filter}"),
            };
            rows.push((name, builder.finish()?));
        }
        Ok(Piece { slots: to_batch(slots)?, rows: to_batch(rows)? })
    }
}

/// The columns of one unbounded measure's folds.
#[derive(Debug)]
struct PrefixBuilder {
    counts: Vec<Option<u64>>,
    times: Vec<Option<i64>>,
    values: PrefixValues,
}

#[derive(Debug)]
enum PrefixValues {
    /// Of the argument's type.
    Plain(ColumnBuilder),
    /// Canonical bytes of exact sums.
    Exact(BinaryBuilder),
}

impl PrefixBuilder {
    fn new(plan: &Plan, measure: Measure) -> PrefixBuilder {
        let argument = measure.argument.map(|argument| &plan.arguments[argument].0);
        let values = match measure.what {
            What::Floats | What::Moments => PrefixValues::Exact(BinaryBuilder::new()),
            What::Count | What::Integers => PrefixValues::Plain(ColumnBuilder::new(&DataType::Int64, 0)),
            _ => PrefixValues::Plain(ColumnBuilder::new(argument.unwrap_or(&DataType::Int64), 0)),
        };
        PrefixBuilder { counts: Vec::new(), times: Vec::new(), values }
    }

    /// A count is there if the fold is there.
    fn push(&mut self, fold: Option<&Fold>, strings: &Strings) {
        let (count, time, value) = match fold {
            None => (None, None, None),
            Some(Fold::Count(count)) => (Some(*count), None, None),
            Some(Fold::Integers { sum, count }) => (Some(*count), None, Some(*sum)),
            Some(Fold::Floats { count, .. }) => (Some(*count), None, None),
            Some(Fold::Moments(moments)) => (Some(moments.count()), None, None),
            Some(Fold::Extreme { word, is_some }) => (Some(u64::from(*is_some)), None, is_some.then_some(*word)),
            Some(Fold::Edge { time, word, is_some }) => (Some(u64::from(*is_some)), is_some.then_some(*time), *word),
        };
        self.counts.push(count);
        self.times.push(time);
        match &mut self.values {
            PrefixValues::Plain(builder) if builder.is_bytes() => {
                builder.push_bytes(value.map(|word| strings.get(word)))
            }
            PrefixValues::Plain(builder) => builder.push(value),
            PrefixValues::Exact(builder) => builder.append_option(match fold {
                Some(Fold::Floats { sum, .. }) => Some(sum.to_bytes()),
                Some(Fold::Moments(moments)) => Some(moments.to_bytes()),
                _ => None,
            }),
        }
    }

    fn finish(self, name: &str, columns: &mut Vec<(String, ArrayRef)>) -> Result<()> {
        columns.push((format!("{name}_count"), Arc::new(UInt64Array::from(self.counts))));
        columns.push((format!("{name}_time"), Arc::new(Int64Array::from(self.times))));
        let values: ArrayRef = match self.values {
            PrefixValues::Plain(builder) => builder.finish()?,
            PrefixValues::Exact(mut builder) => Arc::new(builder.finish()),
        };
        columns.push((format!("{name}_value"), values));
        Ok(())
    }
}

/// The columns of a piece, read back.
struct Restored<'a> {
    slot_keys: &'a [u64],
    keys: Vec<ArrayRef>,
    prefixes: Vec<RestoredPrefix<'a>>,
    row_keys: &'a [u64],
    times: &'a [i64],
    columns: Vec<InputColumn<'a>>,
}

struct RestoredPrefix<'a> {
    counts: &'a UInt64Array,
    times: &'a Int64Array,
    exact: Option<&'a BinaryArray>,
    plain: Option<InputColumn<'a>>,
}

impl<'a> Restored<'a> {
    fn of(plan: &Plan, piece: &'a Piece) -> Result<Restored<'a>> {
        let (num_keys, num_prefixes) = (plan.keys.types().len(), plan.prefixes.len());
        let num_columns = plan.arguments.len() + plan.num_filters;
        if piece.slots.num_columns() != 1 + num_keys + 3 * num_prefixes || piece.rows.num_columns() != 2 + num_columns {
            return Err(bad_state("another number of columns"));
        }
        let words = |batch: &'a RecordBatch| batch.column(0).as_primitive_opt::<UInt64Type>().ok_or_else(wrong_type);
        let measures = plan.prefixes.iter().map(|measure| &plan.measures[*measure]);
        let prefixes = piece.slots.columns()[1 + num_keys..].chunks_exact(3).zip(measures).map(|(columns, measure)| {
            Ok(RestoredPrefix {
                counts: columns[0].as_primitive_opt().ok_or_else(wrong_type)?,
                times: columns[1].as_primitive_opt().ok_or_else(wrong_type)?,
                exact: columns[2].as_binary_opt(),
                plain: match measure.what {
                    What::Floats | What::Moments => None,
                    _ => Some(InputColumn::read(&columns[2], columns[2].data_type())?),
                },
            })
        });
        let filters = std::iter::repeat_n(&DataType::Boolean, plan.num_filters);
        let types = plan.arguments.iter().map(|(data_type, _)| data_type).chain(filters);
        Ok(Restored {
            slot_keys: words(&piece.slots)?.values(),
            keys: piece.slots.columns()[1..1 + num_keys].to_vec(),
            prefixes: prefixes.collect::<Result<_>>()?,
            row_keys: words(&piece.rows)?.values(),
            times: piece.rows.column(1).as_primitive_opt::<Int64Type>().ok_or_else(wrong_type)?.values(),
            columns: piece.rows.columns()[2..]
                .iter()
                .zip(types)
                .map(|(array, data_type)| InputColumn::read(array, data_type))
                .collect::<Result<_>>()?,
        })
    }

    fn read(&self, row: usize, strings: &mut Strings, words: &mut [u64]) -> u64 {
        let mut bits = 0;
        for (index, column) in self.columns.iter().enumerate() {
            let is_valid = column.is_valid(row);
            let word = match (is_valid, &column.bytes) {
                (false, _) => 0,
                (true, Some(bytes)) => strings.hold(bytes.get(row)),
                (true, None) => column.words[row],
            };
            match words.get_mut(index) {
                Some(to) => {
                    *to = word;
                    bits |= u64::from(is_valid) << index;
                }
                // Behind the retained columns stand the filters.
                None => bits |= u64::from(word != 0) << index,
            }
        }
        bits
    }

    /// The folds of a key's forgotten rows, if it has any. Their strings are held.
    fn folds(&self, plan: &Plan, row: usize, strings: &mut Strings) -> Result<Option<Box<[Fold]>>> {
        if self.prefixes.first().is_none_or(|prefix| prefix.counts.is_null(row)) {
            return Ok(None);
        }
        let folds = self.prefixes.iter().zip(&plan.prefixes);
        folds
            .map(|(prefix, measure)| prefix.fold(&plan.measures[*measure], row, strings))
            .collect::<Result<_>>()
            .map(Some)
    }
}

impl RestoredPrefix<'_> {
    fn fold(&self, measure: &Measure, row: usize, strings: &mut Strings) -> Result<Fold> {
        let count = self.counts.value(row);
        let bytes =
            || self.exact.filter(|exact| exact.is_valid(row)).map(|exact| exact.value(row)).ok_or_else(wrong_type);
        let value = match &self.plain {
            Some(column) if column.is_valid(row) => Some(match &column.bytes {
                Some(bytes) if measure.kind == Kind::Bytes => strings.hold(bytes.get(row)),
                Some(_) => return Err(wrong_type()),
                None => column.words[row],
            }),
            _ => None,
        };
        Ok(match measure.what {
            What::Count => Fold::Count(count),
            What::Integers => Fold::Integers { sum: value.ok_or_else(wrong_type)?, count },
            What::Floats => {
                let sum = ExactSum::from_bytes(bytes()?).map_err(|_| bad_state("an exact sum is not readable"))?;
                Fold::Floats { sum, count }
            }
            What::Moments => Fold::Moments(
                ExactMoments::from_bytes(bytes()?).map_err(|_| bad_state("exact moments are not readable"))?,
            ),
            What::Min | What::Max => Fold::Extreme { word: value.unwrap_or(0), is_some: value.is_some() },
            What::First | What::Last => {
                let time = if self.times.is_null(row) { 0 } else { self.times.value(row) };
                Fold::Edge { time, word: value, is_some: count > 0 }
            }
        })
    }
}

fn to_batch(columns: Vec<(String, ArrayRef)>) -> Result<RecordBatch> {
    let fields: Vec<Field> =
        columns.iter().map(|(name, column)| Field::new(name, column.data_type().clone(), true)).collect();
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(broken)
}

fn broken(error: arrow::error::ArrowError) -> Error {
    Error::internal("the columns of an over-window do not fit together").with_source(error)
}

fn bad_state(why: &str) -> Error {
    Error::data(format!("stored state of an over-window cannot be restored: {why}"))
}

fn wrong_type() -> Error {
    bad_state("a column has another type")
}
