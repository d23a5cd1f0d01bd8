//! The kernels of short rings: a frame within one block of at most 64 rows, scanned afresh, which costs less than
//! keeping an accumulator in step. Sums of doubles are taken as two doubles and proven exact while they are taken;
//! where the proof fails, and for what is rare, the caller folds instead.

use crate::state::blocks::{Row, Rows, mask};
use crate::state::value::Kind;

use super::exact::ExactSum;
use super::fold::{Measure, What, for_each_bit};
use super::frame::Span;
use super::plan::Finish;

/// The answer of a measure over a span of a block, or `None` where it has to be folded.
#[inline(always)]
pub(super) fn answer(
    measure: &Measure,
    finish: Finish,
    rows: &Rows<'_>,
    span: Span,
    own: Row<'_>,
) -> Option<Option<u64>> {
    let counted = measure.mask(rows, span.from, span.to);
    let has_own = span.has_own && measure.counts(own);
    let count = u64::from(counted.count_ones()) + u64::from(has_own);
    if measure.what == What::Count {
        return Some(Some(count));
    }
    let argument = measure.argument?;
    let values = Values { column: rows.column(argument), counted, span, own: has_own.then(|| own.words[argument]) };
    match (measure.what, measure.kind) {
        (What::Integers, _) => {
            let mut sum = 0_u64;
            values.for_each(|word| sum = sum.wrapping_add(word));
            Some((count > 0).then_some(sum))
        }
        (What::Floats, Kind::Float64) => {
            let sum = values.exact_sum()?;
            Some((count > 0).then(|| if finish == Finish::Mean { sum.mean(count) } else { sum.value() }.to_bits()))
        }
        (What::Min, Kind::Float64) => Some(values.least(|word| Kind::Float64.order_key(word))),
        (What::Max, Kind::Float64) => Some(values.least(|word| !Kind::Float64.order_key(word))),
        (What::Min, Kind::Signed) => Some(values.least(|word| word as i64)),
        (What::Max, Kind::Signed) => Some(values.least(|word| !(word as i64))),
        _ => None,
    }
}

/// The values that count: those of a span of a block that are not null and pass the filter, and that of the row itself.
struct Values<'a> {
    column: &'a [u64],
    counted: u64,
    span: Span,
    own: Option<u64>,
}

impl Values<'_> {
    #[inline(always)]
    fn for_each(&self, mut act: impl FnMut(u64)) {
        if self.counted == mask(self.span.from, self.span.to) {
            // Nearly always: nothing in between is null.
            self.column[self.span.from..self.span.to].iter().for_each(|word| act(*word));
        } else {
            for_each_bit(self.counted, |lane| act(self.column[lane]));
        }
        self.own.into_iter().for_each(act);
    }

    /// The value whose key is the least; `!key` turns the order around.
    #[inline(always)]
    fn least(&self, key: impl Fn(u64) -> i64) -> Option<u64> {
        let mut best = None;
        let mut least = i64::MAX;
        self.for_each(|word| {
            let key = key(word);
            if key <= least {
                (least, best) = (key, Some(word));
            }
        });
        best
    }

    /// The sum as two doubles that together are exact, or `None` if that was not so at every step.
    #[inline(always)]
    fn exact_sum(&self) -> Option<TwoDoubles> {
        let (mut sum, mut rest, mut lost) = (0.0_f64, 0.0_f64, 0.0_f64);
        self.for_each(|word| {
            let (high, error) = two_sum(sum, f64::from_bits(word));
            let (low, lower) = two_sum(rest, error);
            (sum, rest) = (high, low);
            // A NaN or an infinity makes the errors NaN, which stays.
            lost += lower.abs();
        });
        (lost == 0.0).then_some(TwoDoubles { sum, rest })
    }
}

/// `a + b` and what the addition lost, exactly (Knuth), unless it overflows.
#[inline(always)]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_part = sum - a;
    let a_part = sum - b_part;
    (sum, (a - a_part) + (b - b_part))
}

/// A number that is the sum of two doubles.
struct TwoDoubles {
    sum: f64,
    rest: f64,
}

impl TwoDoubles {
    /// Rounded once: one addition of two doubles rounds their exact sum. A zero is +0.0, as the sum began at it.
    #[inline(always)]
    fn value(&self) -> f64 {
        self.sum + self.rest
    }

    #[inline(always)]
    fn mean(&self, count: u64) -> f64 {
        let mut sum = super::fold::zero_sum();
        sum.add(self.sum);
        sum.add(self.rest);
        ExactSum::mean(&sum, count)
    }
}
