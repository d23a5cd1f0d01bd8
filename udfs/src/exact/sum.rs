//! The exact sum of doubles. It does not know how many there are: a mean is told.

use super::bytes::{self, BadBytes, Number};
use super::round::{self, signed};
use super::specials::Specials;
use super::wide::Wide;
use super::{BITS_BELOW, EXPONENT_MIN, is_special, split};

/// Words of a number that holds 2^64 of the greatest doubles, and the last bit of the smallest.
pub(super) const SUM_WORDS: usize = 34;

/// The greatest shift by which a double's 53 bits still lie within the 127 of a sum.
const SHIFT_MAX: u32 = 127 - 53;

/// Bits that a rescaled sum may have before it goes to the heap. A sum and its addend are one bit less each.
const BITS_MAX: i32 = 126;

/// Bits below which a sum comes back from the heap. Fewer than it may have inline, so that one at the border does not go to and fro.
const BITS_BACK: u32 = 100;

/// The exact sum of doubles, of which values can be removed again. 24 bytes; sums whose bits span more than about 120 binary places, and those that hold NaN or
/// infinities, take 296 bytes more on the heap until they no longer do.
#[derive(Debug, Clone)]
pub struct ExactSum(Repr);

#[derive(Debug, Clone)]
enum Repr {
    /// `high:low * 2^exponent`. The two halves are apart so that the sum needs no alignment to 16 bytes.
    Small {
        low: u64,
        high: i64,
        exponent: i16,
    },
    Large(Box<Large>),
}

#[derive(Debug, Clone)]
struct Large {
    specials: Specials,
    /// In units of the smallest double.
    sum: Wide<SUM_WORDS>,
}

/// `mantissa * 2^exponent`.
#[derive(Debug, Clone, Copy)]
struct Part {
    mantissa: i128,
    exponent: i32,
}

impl Default for ExactSum {
    fn default() -> Self {
        Self::new()
    }
}

/// Equal sums have equal bytes, however they came about.
impl PartialEq for ExactSum {
    fn eq(&self, other: &Self) -> bool {
        self.to_bytes() == other.to_bytes()
    }
}

impl Eq for ExactSum {}

impl ExactSum {
    /// A sum of nothing.
    pub const fn new() -> Self {
        Self(Repr::Small { low: 0, high: 0, exponent: 0 })
    }

    /// Adds a value.
    #[inline]
    pub fn add(&mut self, value: f64) {
        self.apply(value, false);
    }

    /// Removes a value that was added.
    #[inline]
    pub fn remove(&mut self, value: f64) {
        self.apply(value, true);
    }

    #[inline(always)]
    fn apply(&mut self, value: f64, remove: bool) {
        let bits = value.to_bits();
        if let Repr::Small { low, high, exponent } = &mut self.0 {
            let (magnitude, value_exponent) = split(bits);
            let shift = (value_exponent - i32::from(*exponent)) as u32;
            if shift <= SHIFT_MAX && !is_special(bits) {
                let part = i128::from(magnitude) << shift;
                let part = if (bits >> 63 == 1) == remove { part } else { -part };
                if let Some(sum) = join(*high, *low).checked_add(part) {
                    (*high, *low) = cut(sum);
                    return;
                }
            }
        }
        self.apply_rescaled(value, remove);
    }

    #[cold]
    #[inline(never)]
    fn apply_rescaled(&mut self, value: f64, remove: bool) {
        if value == 0.0 {
            return;
        }
        if !value.is_finite() {
            self.count_specials(Specials::of(value), remove);
            return;
        }
        let (magnitude, exponent) = split(value.to_bits());
        let mantissa = i128::from(magnitude);
        self.combine(Part { mantissa: if value < 0.0 { -mantissa } else { mantissa }, exponent }, remove);
    }

    /// Adds all that `other` holds.
    #[inline]
    pub fn merge(&mut self, other: &Self) {
        self.apply_sum(other, false);
    }

    /// Removes all that `other` holds.
    #[inline]
    pub fn unmerge(&mut self, other: &Self) {
        self.apply_sum(other, true);
    }

    #[inline]
    fn apply_sum(&mut self, other: &Self, remove: bool) {
        match &other.0 {
            Repr::Small { low, high, exponent } => {
                let mantissa = join(*high, *low);
                if let Repr::Small { low, high, exponent: own } = &mut self.0 {
                    let shift = (i32::from(*exponent) - i32::from(*own)) as u32;
                    let part = mantissa.unbounded_shl(shift);
                    if part.unbounded_shr(shift) == mantissa {
                        let sum = join(*high, *low);
                        if let Some(sum) = if remove { sum.checked_sub(part) } else { sum.checked_add(part) } {
                            (*high, *low) = cut(sum);
                            return;
                        }
                    }
                }
                self.combine(Part { mantissa, exponent: i32::from(*exponent) }, remove);
            }
            Repr::Large(other) => {
                let large = self.enlarge();
                large.sum.accumulate(&other.sum, 0, remove);
                large.specials.count(other.specials, remove);
                self.shrink_after(remove);
            }
        }
    }

    /// The sum, rounded to the nearest double.
    #[inline]
    pub fn value(&self) -> f64 {
        match &self.0 {
            Repr::Small { low, high, exponent } => {
                let mantissa = join(*high, *low);
                signed(round::integer(mantissa.unsigned_abs(), i32::from(*exponent)), mantissa < 0)
            }
            Repr::Large(large) => large.mean(1),
        }
    }

    /// The sum divided by `count`, rounded once. NaN if `count` is zero.
    #[inline]
    pub fn mean(&self, count: u64) -> f64 {
        match &self.0 {
            Repr::Small { low, high, exponent } => {
                let mantissa = join(*high, *low);
                let mean = round::integer_quotient(mantissa.unsigned_abs(), i32::from(*exponent), count);
                signed(mean, mantissa < 0)
            }
            Repr::Large(large) => large.mean(count),
        }
    }

    /// Whether all that was added has been removed, or cancels out: the sum is zero, and no NaN and no infinity is held.
    #[inline]
    pub fn is_zero(&self) -> bool {
        match &self.0 {
            Repr::Small { low, high, .. } => *low == 0 && *high == 0,
            Repr::Large(large) => large.specials.is_empty() && large.sum.is_zero(),
        }
    }

    /// Forgets everything.
    #[inline]
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// Bytes on the heap: zero but for sums that span too many binary places, and those that hold NaN or infinities.
    #[inline]
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Repr::Small { .. } => 0,
            Repr::Large(_) => size_of::<Large>(),
        }
    }

    /// The canonical bytes: equal for equal sums, whatever the way to them. Sums of nothing take 4 bytes, sums of amounts about 16.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(24);
        match &self.0 {
            Repr::Small { low, high, exponent } => {
                let Part { mantissa, exponent } = Part::stripped(join(*high, *low), i32::from(*exponent));
                let magnitude = &words(mantissa.unsigned_abs());
                let sum = Number { negative: mantissa < 0, magnitude, unit: exponent };
                bytes::write_sum(&mut bytes, Specials::default(), sum);
            }
            Repr::Large(large) => {
                let (negative, magnitude) = large.sum.magnitude();
                let sum = Number { negative, magnitude: &magnitude.0, unit: EXPONENT_MIN };
                bytes::write_sum(&mut bytes, large.specials, sum);
            }
        }
        bytes
    }

    /// The sum of these bytes, which must be whole and canonical.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadBytes> {
        let (specials, stored) = bytes::read_sum(bytes)?;
        if !specials.is_empty() || stored.bits() > BITS_MAX {
            let sum = stored.wide(EXPONENT_MIN);
            return Ok(Self(Repr::Large(Box::new(Large { specials, sum }))));
        }
        let mut sum = Self::new();
        let mantissa = stored.wide::<2>(stored.exponent).to_i128();
        sum.combine(Part { mantissa, exponent: stored.exponent }, false);
        Ok(sum)
    }

    fn enlarge(&mut self) -> &mut Large {
        if let Repr::Small { low, high, exponent } = self.0 {
            let mut sum = Wide::ZERO;
            Part::stripped(join(high, low), i32::from(exponent)).accumulate(&mut sum, false);
            self.0 = Repr::Large(Box::new(Large { specials: Specials::default(), sum }));
        }
        match &mut self.0 {
            Repr::Large(large) => large,
            Repr::Small { .. } => unreachable!("it has just been made large"),
        }
    }

    /// Comes back from the heap if the sum fits inline with room to grow.
    fn shrink(&mut self) {
        let Repr::Large(large) = &self.0 else { return };
        if !large.specials.is_empty() {
            return;
        }
        let zeros = large.sum.trailing_zeros();
        let bits = large.sum.significant_bits();
        if bits <= zeros || bits - zeros <= BITS_BACK {
            let part =
                Part { mantissa: large.sum.shifted_right(zeros).to_i128(), exponent: EXPONENT_MIN + zeros as i32 };
            self.clear();
            self.combine(part, false);
        }
    }

    fn count_specials(&mut self, specials: Specials, remove: bool) {
        self.enlarge().specials.count(specials, remove);
        self.shrink_after(remove);
    }

    /// What was added seldom makes a sum smaller, so it is not worth a look.
    fn shrink_after(&mut self, remove: bool) {
        if remove {
            self.shrink();
        }
    }

    /// Adds a part, or subtracts it, at whatever exponent fits both.
    fn combine(&mut self, part: Part, subtract: bool) {
        let part = Part::stripped(part.mantissa, part.exponent);
        if part.mantissa == 0 {
            return;
        }
        if let Repr::Small { low, high, exponent } = self.0 {
            let own = Part::stripped(join(high, low), i32::from(exponent));
            let lowest = own.exponent.min(part.exponent);
            let room = BITS_MAX - (own.end().max(part.end()) - lowest);
            if room >= 0 {
                let exponent = lowest - (room / 3).min(BITS_BELOW);
                let (own, part) = (own.at(exponent), part.at(exponent));
                let (high, low) = cut(if subtract { own - part } else { own + part });
                self.0 = Repr::Small { low, high, exponent: exponent as i16 };
                return;
            }
        }
        let large = self.enlarge();
        part.accumulate(&mut large.sum, subtract);
        self.shrink_after(subtract);
    }
}

impl Large {
    fn mean(&self, count: u64) -> f64 {
        if count == 0 {
            return f64::NAN;
        }
        self.specials.value().unwrap_or_else(|| {
            let (negative, magnitude) = self.sum.magnitude();
            signed(round::quotient(&magnitude.0, EXPONENT_MIN, u128::from(count)), negative)
        })
    }
}

impl Part {
    /// The exponent of zero: above all others, so that it is nobody's minimum.
    const ZERO_EXPONENT: i32 = i32::MAX / 8;

    /// The same number without zero bits at the end.
    fn stripped(mantissa: i128, exponent: i32) -> Self {
        match mantissa {
            0 => Self { mantissa, exponent: Self::ZERO_EXPONENT },
            _ => {
                let zeros = mantissa.trailing_zeros();
                Self { mantissa: mantissa >> zeros, exponent: exponent + zeros as i32 }
            }
        }
    }

    /// The exponent of the first bit above the number. Below all others for zero.
    fn end(self) -> i32 {
        match self.mantissa {
            0 => -Self::ZERO_EXPONENT,
            _ => self.exponent + 128 - self.mantissa.unsigned_abs().leading_zeros() as i32,
        }
    }

    /// The mantissa at a lower exponent, which the caller has checked to fit.
    fn at(self, exponent: i32) -> i128 {
        if self.mantissa == 0 { 0 } else { self.mantissa << (self.exponent - exponent) }
    }

    /// Adds the stripped part to a sum in units of the smallest double.
    fn accumulate(self, sum: &mut Wide<SUM_WORDS>, subtract: bool) {
        if self.mantissa != 0 {
            let shift = (self.exponent - EXPONENT_MIN) as u32;
            sum.accumulate_words(&words(self.mantissa.unsigned_abs()), shift, subtract != (self.mantissa < 0));
        }
    }
}

#[inline(always)]
fn join(high: i64, low: u64) -> i128 {
    i128::from(high) << 64 | i128::from(low)
}

#[inline(always)]
fn cut(value: i128) -> (i64, u64) {
    ((value >> 64) as i64, value as u64)
}

#[inline(always)]
fn words(value: u128) -> [u64; 2] {
    [value as u64, (value >> 64) as u64]
}
