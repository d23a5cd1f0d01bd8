//! The kernels: one row's answers from the rows of its key, before it joins them. Typed per column when the plan was
//! made; here is no virtual call, no allocation for rows in blocks, and no scalar of a dynamic type. For
//! what has no kernel the rows of the frame are gathered. It refuses to
//! change what is retained.

use crate::state::blocks::{BLOCK_ROWS_MAX, Blocks, Row, Rows};
use crate::state::ring::{Long, Ring, Rings};
use crate::state::strings::Strings;
use crate::state::value::{ColumnBuilder, Kind};

use super::fallback::Gathered;
use super::fold::{Fold, for_each_bit};
use super::follow::{distinct_mask, fold_range};
use super::frame::{Place, Ranks, Span};
use super::plan::{Act, Finish, Literal, Plan, PlannedCall};
use super::short;
use super::unit::Answers;

/// The retained rows of a key.
enum View<'a> {
    Empty,
    Short(Rows<'a>),
    Long(&'a mut Long<Plan>, &'a Blocks),
}

impl Ranks for View<'_> {
    #[inline(always)]
    fn rank_lower(&self, time: i64) -> usize {
        match self {
            View::Empty => 0,
            View::Short(rows) => rows.rank_lower(time),
            View::Long(long, blocks) => long.tree.rank(blocks, time, false),
        }
    }

    #[inline(always)]
    fn time(&self, rank: usize) -> i64 {
        match self {
            View::Empty => i64::MIN,
            View::Short(rows) => rows.time(rank),
            View::Long(long, blocks) => {
                let (block, lane) = long.tree.place(rank);
                blocks.rows(block).time(lane)
            }
        }
    }

    #[inline(always)]
    fn rank_upper(&self, time: i64) -> usize {
        match self {
            View::Empty => 0,
            View::Short(rows) => rows.rank_upper(time),
            View::Long(long, blocks) => long.tree.rank(blocks, time, true),
        }
    }
}

impl View<'_> {
    fn len(&self) -> usize {
        match self {
            View::Empty => 0,
            View::Short(rows) => rows.len(),
            View::Long(long, _) => long.tree.len(),
        }
    }

    /// The value of a retained row.
    fn value(&self, rank: usize, argument: usize) -> Option<u64> {
        let (rows, lane) = match self {
            View::Empty => return None,
            View::Short(rows) => (*rows, rank),
            View::Long(long, blocks) => {
                let (block, lane) = long.tree.place(rank);
                (blocks.rows(block), lane)
            }
        };
        (rows.bits(argument) >> lane & 1 == 1).then(|| rows.column(argument)[lane])
    }
}

/// What one row is asked with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) row: Row<'a>,
    /// W - `max_lateness` in microseconds; the smallest number where there is no W.
    pub(super) h: i64,
    /// The event time at which the unit's log began, microseconds.
    pub(super) log_begin: i64,
    /// The folds of the rows that the key forgot.
    pub(super) prefix: Option<&'a [Fold]>,
}

/// What one row is answered, besides its columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    /// Its rank in the ring, where it is to be inserted.
    pub(super) rank: usize,
    pub(super) is_history_incomplete: bool,
}

/// Answers a row into one column per call. `spans` is room for one span per frame.
#[inline]
pub(super) fn evaluate(
    plan: &Plan,
    rings: &mut Rings<Plan>,
    ring: Ring,
    strings: &Strings,
    asked: Asked<'_>,
    spans: &mut [Span],
    answers: &mut Answers,
) -> Answered {
    let mut view = match ring {
        Ring::Empty => View::Empty,
        Ring::Short(block) => View::Short(rings.blocks().rows(block)),
        Ring::Long(id) => match rings.long_mut(id) {
            (Some(long), blocks) => View::Long(long, blocks),
            (None, _) => View::Empty,
        },
    };
    let time = asked.row.time;
    let place = Place { time, h: asked.h, rank: view.rank_upper(time) };
    for (span, frame) in spans.iter_mut().zip(&plan.frames) {
        *span = place.span(*frame, plan.max_lookback, &view);
    }
    for (index, (call, column)) in plan.calls.iter().zip(&mut answers.columns).enumerate() {
        let span = spans[call.frame];
        let value = match &call.act {
            Act::Fold { measure, finish } => {
                let short = match &view {
                    View::Short(rows) if call.prefix.is_none() || asked.prefix.is_none() => {
                        short::answer(&plan.measures[*measure], *finish, rows, span, asked.row)
                    }
                    _ => None,
                };
                short.unwrap_or_else(|| {
                    let fold = fold(plan, index, *measure, &mut view, span, asked, strings);
                    finish_fold(*finish, &fold)
                })
            }
            Act::Distinct { argument } => Some(distinct(plan, index, *argument, &mut view, span, asked.row)),
            Act::Edge { argument, is_first } => edge(*argument, *is_first, &view, span, asked.row),
            Act::Fallback { index } => {
                gather(plan, *index, &view, span, asked.row, strings, &mut answers.gathered[*index]);
                continue;
            }
            Act::Lag { argument, offset, default } => {
                let has_row = place.rank >= *offset && (*offset == 0 || place.rank - *offset >= span.from);
                if !has_row {
                    push_default(default.as_ref(), column);
                    continue;
                }
                if *offset == 0 { own_value(asked.row, *argument) } else { view.value(place.rank - *offset, *argument) }
            }
        };
        push(call, value, strings, column);
    }
    Answered { rank: place.rank, is_history_incomplete: place.is_history_incomplete(plan, asked.log_begin) }
}

#[inline(always)]
fn push(call: &PlannedCall, value: Option<u64>, strings: &Strings, column: &mut ColumnBuilder) {
    if call.kind == Kind::Bytes && column.is_bytes() {
        column.push_bytes(value.map(|word| strings.get(word)));
    } else {
        column.push(value);
    }
}

fn push_default(default: Option<&Literal>, column: &mut ColumnBuilder) {
    match default {
        Some(Literal::Bytes(bytes)) => column.push_bytes(Some(bytes)),
        Some(Literal::Word(word)) => column.push(Some(*word)),
        None if column.is_bytes() => column.push_bytes(None),
        None => column.push(None),
    }
}

fn own_value(row: Row<'_>, argument: usize) -> Option<u64> {
    (row.bits >> argument & 1 == 1).then(|| row.words[argument])
}

#[inline(never)]
fn fold(
    plan: &Plan,
    call: usize,
    measure: usize,
    view: &mut View<'_>,
    span: Span,
    asked: Asked<'_>,
    strings: &Strings,
) -> Fold {
    let rule = &plan.measures[measure];
    let is_to_newest = span.to == view.len();
    let mut fold = match view {
        View::Empty => rule.empty(),
        _ if rule.counts_rows() => Fold::Count((span.to - span.from) as u64),
        View::Short(rows) => {
            let mut fold = rule.empty();
            rule.add_rows(&mut fold, rows, span.from, span.to, strings);
            fold
        }
        View::Long(long, blocks) if is_to_newest && span.to - span.from > BLOCK_ROWS_MAX && rule.is_followed() => {
            let Long { tree, running, .. } = &mut **long;
            running.fold_to_newest(plan, call, measure, (tree, blocks), span.from, strings)
        }
        View::Long(long, blocks) => fold_range(plan, measure, (&long.tree, blocks), span.from, span.to, strings),
    };
    if let (Some(prefix), Some(folds)) = (plan.calls[call].prefix, asked.prefix) {
        // The forgotten rows stand first: among rows of one event time they arrived before those that are retained.
        let retained = std::mem::replace(&mut fold, folds[prefix].clone());
        rule.merge(&mut fold, &retained, strings);
    }
    if span.has_own {
        match &mut fold {
            // The row itself is the last row that it sees, and the first only if it sees no other.
            Fold::Edge { is_some: true, .. } if rule.what == super::fold::What::First => {}
            Fold::Edge { word, is_some, .. } => {
                *word = own_value(asked.row, rule.argument.unwrap_or(0));
                *is_some = true;
            }
            _ => rule.add_row(&mut fold, asked.row, strings),
        }
    }
    fold
}

#[inline]
fn finish_fold(finish: Finish, fold: &Fold) -> Option<u64> {
    match (fold, finish) {
        (Fold::Count(count), _) => Some(*count),
        (Fold::Integers { sum, count }, _) => (*count > 0).then_some(*sum),
        (Fold::Floats { sum, count }, Finish::Mean) => (*count > 0).then(|| sum.mean(*count).to_bits()),
        (Fold::Floats { sum, count }, _) => (*count > 0).then(|| sum.value().to_bits()),
        (Fold::Moments(moments), Finish::Variance { ddof, is_root }) => {
            let variance = moments.var(ddof)?;
            Some(if is_root { variance.sqrt() } else { variance }.to_bits())
        }
        (Fold::Moments(_), _) => None,
        (Fold::Extreme { word, is_some }, _) => is_some.then_some(*word),
        (Fold::Edge { word, .. }, _) => *word,
    }
}

/// Gathers the rows of a frame for the fallback.
#[inline(never)]
fn gather(
    plan: &Plan,
    index: usize,
    view: &View<'_>,
    span: Span,
    own: Row<'_>,
    strings: &Strings,
    gathered: &mut Gathered,
) {
    let fallback = &plan.fallbacks[index];
    match view {
        View::Empty => {}
        View::Short(rows) => gathered.add_rows(fallback, rows, span.from, span.to, strings),
        View::Long(long, blocks) => long.tree.visit_rows(blocks, span.from, span.to, &mut |rows, from, to| {
            gathered.add_rows(fallback, &rows, from, to, strings);
        }),
    }
    if span.has_own {
        gathered.add_row(fallback, own, strings);
    }
    gathered.end_frame(plan, fallback, span.from < span.to || span.has_own);
}

fn edge(argument: usize, is_first: bool, view: &View<'_>, span: Span, own: Row<'_>) -> Option<u64> {
    let has_rows = span.from < span.to;
    match (is_first, span.has_own) {
        (true, _) if has_rows => view.value(span.from, argument),
        (false, true) | (true, true) => own_value(own, argument),
        (false, false) if has_rows => view.value(span.to - 1, argument),
        _ => None,
    }
}

fn distinct(plan: &Plan, call: usize, argument: usize, view: &mut View<'_>, span: Span, row: Row<'_>) -> u64 {
    let own = if span.has_own { plan.distinct_word(call, row) } else { None };
    match view {
        View::Empty => u64::from(own.is_some()),
        View::Short(rows) => {
            let counted = distinct_mask(plan, call, rows, span.from, span.to);
            distinct_of_block(rows.column(argument), counted, own)
        }
        View::Long(long, blocks) => {
            let Long { tree, running, .. } = &mut **long;
            running.distinct(plan, call, (tree, blocks), (span.from, span.to), own)
        }
    }
}

/// Distinct values among those of at most 64 rows and one more.
fn distinct_of_block(column: &[u64], counted: u64, own: Option<u64>) -> u64 {
    const PLACES: usize = 256;
    let mut values = [0_u64; PLACES];
    let mut used = [0_u64; PLACES / 64];
    let mut count = 0;
    let mut add = |word: u64| {
        let mut at = crate::state::keys::hash_word(word) as usize % PLACES;
        while used[at / 64] >> (at % 64) & 1 == 1 {
            if values[at] == word {
                return;
            }
            at = (at + 1) % PLACES;
        }
        used[at / 64] |= 1 << (at % 64);
        values[at] = word;
        count += 1;
    };
    for_each_bit(counted, |lane| add(column[lane]));
    if let Some(word) = own {
        add(word);
    }
    count
}
