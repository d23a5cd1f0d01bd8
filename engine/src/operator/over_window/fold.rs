//! What is accumulated over the rows of a frame: exact, mergeable, and, where the function allows it, removable. A
//! measure says what of which column under which filter; a fold is its state. Calls with the same measure share
//! summaries in long rings.

use std::cmp::Ordering;
use std::sync::LazyLock;

use crate::state::blocks::{Row, Rows, mask};
use crate::state::strings::Strings;
use crate::state::value::Kind;

use super::exact::{ExactMoments, ExactSum};

/// What is accumulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// How many rows, or values that are not null.
    Count,
    /// The sum of integers, wrapping in 64 bits, and their number.
    Integers,
    /// The exact sum of doubles, and their number.
    Floats,
    /// The exact sums of doubles and of their squares, and their number.
    Moments,
    /// The least value.
    Min,
    /// The greatest value.
    Max,
    /// The value of the first row in total order, null or not.
    First,
    /// The value of the last row in total order, null or not.
    Last,
}

/// What is accumulated of which column under which filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Measure {
    pub(super) what: What,
    /// The retained column.
    pub(super) argument: Option<usize>,
    /// How its words are read.
    pub(super) kind: Kind,
    /// Bit column of the filter.
    pub(super) filter: Option<usize>,
}

/// The state of a measure over some rows.
#[derive(Debug, Clone)]
pub(super) enum Fold {
    Count(u64),
    Integers {
        sum: u64,
        count: u64,
    },
    Floats {
        sum: ExactSum,
        count: u64,
    },
    Moments(ExactMoments),
    /// The least or greatest value, if there is one.
    Extreme {
        word: u64,
        is_some: bool,
    },
    /// A row at an end: its event time, its value, and whether there is a row at all.
    Edge {
        time: i64,
        word: Option<u64>,
        is_some: bool,
    },
}

impl Measure {
    /// The fold of no rows. Sums begin at a scale that fits amounts, which is no part of their value.
    #[inline]
    pub(super) fn empty(&self) -> Fold {
        match self.what {
            What::Count => Fold::Count(0),
            What::Integers => Fold::Integers { sum: 0, count: 0 },
            What::Floats => Fold::Floats { sum: zero_sum(), count: 0 },
            What::Moments => Fold::Moments(ExactMoments::new()),
            What::Min | What::Max => Fold::Extreme { word: 0, is_some: false },
            What::First | What::Last => Fold::Edge { time: 0, word: None, is_some: false },
        }
    }

    /// Whether a fold can follow a frame along: rows can be taken out of it again, or it can be told that they do not
    /// matter.
    #[inline]
    pub(super) fn is_followed(&self) -> bool {
        !matches!(self.what, What::First | What::Last)
    }

    /// Whether the number of rows alone is the answer.
    #[inline(always)]
    pub(super) fn counts_rows(&self) -> bool {
        self.what == What::Count && self.argument.is_none() && self.filter.is_none()
    }

    /// Which of the rows `from..to` count.
    #[inline(always)]
    pub(super) fn mask(&self, rows: &Rows<'_>, from: usize, to: usize) -> u64 {
        let mut counted = mask(from, to);
        if let Some(argument) = self.argument {
            counted &= rows.bits(argument);
        }
        if let Some(filter) = self.filter {
            counted &= rows.bits(filter);
        }
        counted
    }

    /// Whether a row counts.
    #[inline(always)]
    pub(super) fn counts(&self, row: Row<'_>) -> bool {
        let is_set = |column: Option<usize>| column.is_none_or(|column| row.bits >> column & 1 == 1);
        is_set(self.argument) && is_set(self.filter)
    }

    #[inline(always)]
    fn word(&self, row: Row<'_>) -> u64 {
        self.argument.map_or(0, |argument| row.words[argument])
    }

    /// Adds one row.
    #[inline]
    pub(super) fn add_row(&self, fold: &mut Fold, row: Row<'_>, strings: &Strings) {
        if let Fold::Edge { .. } = fold {
            let argument = self.argument.unwrap_or(0);
            let word = (row.bits >> argument & 1 == 1).then_some(row.words[argument]);
            self.add_edge(fold, row.time, word);
        } else if self.counts(row) {
            self.add_word(fold, self.word(row), strings);
        }
    }

    #[inline(always)]
    fn add_word(&self, fold: &mut Fold, word: u64, strings: &Strings) {
        match fold {
            Fold::Extreme { word: best, is_some } => {
                if !*is_some || self.is_better(word, *best, strings) {
                    (*best, *is_some) = (word, true);
                }
            }
            _ => self.add_removable_word(fold, word),
        }
    }

    #[inline(always)]
    fn add_removable_word(&self, fold: &mut Fold, word: u64) {
        match fold {
            Fold::Count(count) => *count += 1,
            Fold::Integers { sum, count } => {
                *sum = sum.wrapping_add(word);
                *count += 1;
            }
            Fold::Floats { sum, count } => {
                sum.add(self.kind.as_f64(word));
                *count += 1;
            }
            Fold::Moments(moments) => moments.add(self.kind.as_f64(word)),
            Fold::Extreme { .. } | Fold::Edge { .. } => debug_assert!(false, "only sums can be undone"),
        }
    }

    #[inline(always)]
    fn remove_word(&self, fold: &mut Fold, word: u64) {
        match fold {
            Fold::Count(count) => *count -= 1,
            Fold::Integers { sum, count } => {
                *sum = sum.wrapping_sub(word);
                *count -= 1;
            }
            Fold::Floats { sum, count } => {
                sum.remove(self.kind.as_f64(word));
                *count -= 1;
            }
            Fold::Moments(moments) => moments.remove(self.kind.as_f64(word)),
            Fold::Extreme { .. } | Fold::Edge { .. } => debug_assert!(false, "only sums can be undone"),
        }
    }

    /// Adds rows `from..to` of a block.
    #[inline]
    pub(super) fn add_rows(&self, fold: &mut Fold, rows: &Rows<'_>, from: usize, to: usize, strings: &Strings) {
        if let Fold::Edge { .. } = fold {
            if from < to {
                let lane = if self.what == What::First { from } else { to - 1 };
                let argument = self.argument.unwrap_or(0);
                let word = (rows.bits(argument) >> lane & 1 == 1).then(|| rows.column(argument)[lane]);
                self.add_edge(fold, rows.time(lane), word);
            }
            return;
        }
        let counted = self.mask(rows, from, to);
        if let Fold::Count(count) = fold {
            *count += u64::from(counted.count_ones());
            return;
        }
        let column = rows.column(self.argument.unwrap_or(0));
        match fold {
            Fold::Integers { sum, count } => {
                for_each_bit(counted, |lane| *sum = sum.wrapping_add(column[lane]));
                *count += u64::from(counted.count_ones());
            }
            Fold::Floats { sum, count } => {
                if self.kind == Kind::Float64 {
                    for_each_bit(counted, |lane| sum.add(f64::from_bits(column[lane])));
                } else {
                    for_each_bit(counted, |lane| sum.add(self.kind.as_f64(column[lane])));
                }
                *count += u64::from(counted.count_ones());
            }
            _ => for_each_bit(counted, |lane| self.add_word(fold, column[lane], strings)),
        }
    }

    /// Removes rows `from..to` of a block, which were added. False, and the fold is to be thrown away, if what is left
    /// cannot be told.
    pub(super) fn remove_rows(&self, fold: &mut Fold, rows: &Rows<'_>, from: usize, to: usize) -> bool {
        let counted = self.mask(rows, from, to);
        if let (Fold::Extreme { word, .. }, Some(argument)) = (&*fold, self.argument) {
            let column = rows.column(argument);
            let mut is_kept = true;
            // Equally extreme values are equal words.
            for_each_bit(counted, |lane| is_kept &= column[lane] != *word);
            return is_kept;
        }
        match self.argument {
            Some(argument) => {
                let column = rows.column(argument);
                for_each_bit(counted, |lane| self.remove_word(fold, column[lane]));
            }
            None => for_each_bit(counted, |_| self.remove_word(fold, 0)),
        }
        true
    }

    /// Adds the rows of `other`.
    #[inline]
    pub(super) fn merge(&self, fold: &mut Fold, other: &Fold, strings: &Strings) {
        match (&mut *fold, other) {
            (Fold::Count(count), Fold::Count(other)) => *count += other,
            (Fold::Integers { sum, count }, Fold::Integers { sum: other, count: others }) => {
                *sum = sum.wrapping_add(*other);
                *count += others;
            }
            (Fold::Floats { sum, count }, Fold::Floats { sum: other, count: others }) => {
                sum.merge(other);
                *count += others;
            }
            (Fold::Moments(moments), Fold::Moments(other)) => moments.merge(other),
            (Fold::Extreme { .. }, Fold::Extreme { word, is_some: true }) => self.add_word(fold, *word, strings),
            (Fold::Edge { .. }, Fold::Edge { time, word, is_some: true }) => self.add_edge(fold, *time, *word),
            _ => {}
        }
    }

    /// Among rows of one event time those that were there first stand first.
    fn add_edge(&self, fold: &mut Fold, row_time: i64, row_word: Option<u64>) {
        if let Fold::Edge { time, word, is_some } = fold {
            let is_better = if self.what == What::First { row_time < *time } else { row_time >= *time };
            if !*is_some || is_better {
                (*time, *word, *is_some) = (row_time, row_word, true);
            }
        }
    }

    #[inline(always)]
    fn is_better(&self, word: u64, best: u64, strings: &Strings) -> bool {
        let ordering = if self.kind == Kind::Bytes {
            strings.get(word).cmp(strings.get(best))
        } else {
            self.kind.order_key(word).cmp(&self.kind.order_key(best))
        };
        ordering == if self.what == What::Min { Ordering::Less } else { Ordering::Greater }
    }
}

/// Zero at a scale that leaves room for everything between a millionth of a cent and a hundred thousand millions, so
/// that the first amount that is added needs no rescaling.
static ZERO_SUM: LazyLock<ExactSum> = LazyLock::new(|| {
    let mut sum = ExactSum::new();
    sum.add(0.1);
    sum.remove(0.1);
    sum
});

/// A sum of nothing, ready for amounts.
#[inline]
pub(super) fn zero_sum() -> ExactSum {
    ZERO_SUM.clone()
}

/// Calls `act` with the place of each set bit, in order.
#[inline(always)]
pub(super) fn for_each_bit(bits: u64, mut act: impl FnMut(usize)) {
    let mut bits = bits;
    while bits != 0 {
        act(bits.trailing_zeros() as usize);
        bits &= bits - 1;
    }
}

impl Fold {
    /// The string that it names, if it names one: such a string must be held while the fold lives.
    pub(super) fn held(&self, measure: &Measure) -> Option<u64> {
        match (measure.kind, self) {
            (Kind::Bytes, Fold::Extreme { word, is_some: true }) => Some(*word),
            (Kind::Bytes, Fold::Edge { word, .. }) => *word,
            _ => None,
        }
    }
}
