//! The exact sum of doubles, the exact sum of their squares and their number: what a mean and a variance need.

mod part;

use self::part::{Part, SQUARES_BITS_MAX, SUM_BITS_MAX};
use super::bytes::{self, BadBytes, Number, StoredMoments};
use super::round::{self, signed};
use super::specials::Specials;
use super::sum::SUM_WORDS;
use super::wide::{self, Wide};
use super::{BITS_BELOW, EXPONENT_MIN, is_special, split};

/// Words of a number that holds 2^64 squares of the greatest double, and the square of the smallest.
pub(super) const SQUARES_WORDS: usize = 67;

/// The greatest shift by which a double's 53 bits lie within the 127 of the sum, and its square's 106 bits, shifted twice, within 254.
const SHIFT_MAX: u32 = 74;

/// Bits of the sum, and half of those of the squares, below which moments come back from the heap.
const BITS_BACK: u32 = 100;

/// The number of doubles, their exact sum and the exact sum of their squares, of which values can be removed again. 64 bytes; those whose bits span too many
/// binary places, and those that hold NaN or infinities, take 832 bytes more on the heap until they no longer do.
#[derive(Debug, Clone)]
pub struct ExactMoments {
    count: u64,
    repr: Repr,
}

#[derive(Debug, Clone)]
enum Repr {
    /// The sum is in units of `2^exponent`, the squares in units of `2^(2 * exponent)`. The exponent is out here since it shares a word with the tag.
    Small {
        exponent: i16,
        small: Small,
    },
    Large(Box<Large>),
}

/// A sum and a sum of squares, in words so that they need no alignment to 16 bytes.
#[derive(Debug, Clone, Copy)]
struct Small {
    sum: [u64; 2],
    squares: [u64; 4],
}

#[derive(Debug, Clone)]
struct Large {
    specials: Specials,
    /// In units of the smallest double.
    sum: Wide<SUM_WORDS>,
    /// In units of its square.
    squares: Wide<SQUARES_WORDS>,
}

impl Default for ExactMoments {
    fn default() -> Self {
        Self::new()
    }
}

/// Equal moments have equal bytes, however they came about.
impl PartialEq for ExactMoments {
    fn eq(&self, other: &Self) -> bool {
        self.to_bytes() == other.to_bytes()
    }
}

impl Eq for ExactMoments {}

impl ExactMoments {
    /// The moments of no values.
    pub const fn new() -> Self {
        Self { count: 0, repr: Repr::ZERO }
    }

    /// Adds a value.
    #[inline]
    pub fn add(&mut self, value: f64) {
        self.count = self.count.wrapping_add(1);
        self.apply(value, false);
    }

    /// Removes a value that was added.
    #[inline]
    pub fn remove(&mut self, value: f64) {
        self.count = self.count.wrapping_sub(1);
        self.apply(value, true);
    }

    #[inline(always)]
    fn apply(&mut self, value: f64, remove: bool) {
        let bits = value.to_bits();
        if let Repr::Small { exponent, small } = &mut self.repr {
            let (magnitude, value_exponent) = split(bits);
            let shift = (value_exponent - i32::from(*exponent)) as u32;
            if shift <= SHIFT_MAX && !is_special(bits) && small.apply(magnitude, shift, bits >> 63 == 1, remove) {
                return;
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
            self.enlarge().specials.count(Specials::of(value), remove);
            self.shrink_after(remove);
            return;
        }
        let (magnitude, exponent) = split(value.to_bits());
        let sum = i128::from(magnitude);
        let squares = Wide::<2>::from_i128(sum * sum).resize();
        self.combine(Part { sum: if value < 0.0 { -sum } else { sum }, squares, exponent }, remove);
    }

    /// Adds all that `other` holds.
    pub fn merge(&mut self, other: &Self) {
        self.count = self.count.wrapping_add(other.count);
        self.apply_moments(other, false);
    }

    /// Removes all that `other` holds.
    pub fn unmerge(&mut self, other: &Self) {
        self.count = self.count.wrapping_sub(other.count);
        self.apply_moments(other, true);
    }

    fn apply_moments(&mut self, other: &Self, remove: bool) {
        match &other.repr {
            Repr::Small { exponent, small } => {
                if let Repr::Small { exponent: own, small: to } = &mut self.repr {
                    let shift = (i32::from(*exponent) - i32::from(*own)) as u32;
                    if shift <= SHIFT_MAX && to.apply_small(small, shift, remove) {
                        return;
                    }
                }
                self.combine(small.part(*exponent), remove);
            }
            Repr::Large(other) => {
                let large = self.enlarge();
                large.sum.accumulate(&other.sum, 0, remove);
                large.squares.accumulate(&other.squares, 0, remove);
                large.specials.count(other.specials, remove);
                self.shrink_after(remove);
            }
        }
    }

    /// How many values are held, NaN and infinities included.
    #[inline]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum, rounded to the nearest double.
    pub fn sum(&self) -> f64 {
        match &self.repr {
            Repr::Small { exponent, small } => {
                let sum = join(small.sum);
                signed(round::integer(sum.unsigned_abs(), i32::from(*exponent)), sum < 0)
            }
            Repr::Large(_) => self.divided_sum(1),
        }
    }

    /// The mean, rounded once. NaN of no values.
    pub fn mean(&self) -> f64 {
        self.divided_sum(self.count)
    }

    /// The variance `(n Σx² - (Σx)²) / (n (n - ddof))`, rounded once; `ddof` is 1 for the variance of a sample, 0 for that of a population. None unless there are more
    /// values than `ddof`.
    pub fn var(&self, ddof: u64) -> Option<f64> {
        let freedom = self.count.checked_sub(ddof).filter(|freedom| *freedom > 0)?;
        let divisor = u128::from(self.count) * u128::from(freedom);
        Some(match &self.repr {
            Repr::Small { exponent, small } => small.variance(*exponent, self.count, divisor),
            Repr::Large(large) => large.variance(self.count, divisor),
        })
    }

    /// Whether nothing is held: no values, and none that cancel out.
    pub fn is_empty(&self) -> bool {
        self.count == 0
            && match &self.repr {
                Repr::Small { exponent, small } => small.part(*exponent).is_zero(),
                Repr::Large(large) => large.specials.is_empty() && large.sum.is_zero() && large.squares.is_zero(),
            }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// Bytes on the heap: zero but for values that span too many binary places, NaN and infinities.
    pub fn heap_bytes(&self) -> usize {
        match &self.repr {
            Repr::Small { .. } => 0,
            Repr::Large(_) => size_of::<Large>(),
        }
    }

    /// The canonical bytes: equal for equal moments, whatever the way to them. About 50 bytes for amounts.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        let mut write = |specials, sum: (bool, &[u64]), squares: (bool, &[u64]), unit| {
            let sum = Number { negative: sum.0, magnitude: sum.1, unit };
            let squares = Number { negative: squares.0, magnitude: squares.1, unit: 2 * unit };
            bytes::write_moments(&mut bytes, self.count, specials, sum, squares);
        };
        match &self.repr {
            Repr::Small { exponent, small } => {
                let Part { sum, squares, exponent } = small.part(*exponent);
                let (negative, squares) = squares.magnitude();
                write(Specials::default(), (sum < 0, &words(sum.unsigned_abs())), (negative, &squares.0), exponent);
            }
            Repr::Large(large) => {
                let (sum, squares) = (large.sum.magnitude(), large.squares.magnitude());
                write(large.specials, (sum.0, &sum.1.0), (squares.0, &squares.1.0), EXPONENT_MIN);
            }
        }
        bytes
    }

    /// The moments of these bytes, which must be whole and canonical.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadBytes> {
        let StoredMoments { count, specials, sum, squares } = bytes::read_moments(bytes)?;
        let mut moments = Self { count, repr: Repr::ZERO };
        match Part::of_stored(sum, squares).filter(|_| specials.is_empty()) {
            Some(part) => moments.combine(part, false),
            None => {
                let (sum, squares) = (sum.wide(EXPONENT_MIN), squares.wide(2 * EXPONENT_MIN));
                moments.repr = Repr::Large(Box::new(Large { specials, sum, squares }));
            }
        }
        Ok(moments)
    }

    fn divided_sum(&self, count: u64) -> f64 {
        match &self.repr {
            Repr::Small { exponent, small } => {
                let sum = join(small.sum);
                signed(round::integer_quotient(sum.unsigned_abs(), i32::from(*exponent), count), sum < 0)
            }
            Repr::Large(_) if count == 0 => f64::NAN,
            Repr::Large(large) => large.specials.value().unwrap_or_else(|| {
                let (negative, magnitude) = large.sum.magnitude();
                signed(round::quotient(&magnitude.0, EXPONENT_MIN, u128::from(count)), negative)
            }),
        }
    }

    fn enlarge(&mut self) -> &mut Large {
        if let Repr::Small { exponent, small } = &self.repr {
            let mut large = Large { specials: Specials::default(), sum: Wide::ZERO, squares: Wide::ZERO };
            large.accumulate(&small.part(*exponent).stripped(), false);
            self.repr = Repr::Large(Box::new(large));
        }
        match &mut self.repr {
            Repr::Large(large) => large,
            Repr::Small { .. } => unreachable!("it has just been made large"),
        }
    }

    /// What was added seldom makes sums smaller, so it is not worth a look.
    fn shrink_after(&mut self, remove: bool) {
        if remove {
            self.shrink();
        }
    }

    /// Comes back from the heap if all fits inline with room to grow.
    fn shrink(&mut self) {
        let Repr::Large(large) = &self.repr else { return };
        if !large.specials.is_empty() {
            return;
        }
        // Zero has as many zeros as there are bits, so the minimum is the other's.
        let zeros = large.sum.trailing_zeros().min(large.squares.trailing_zeros() / 2);
        let fits = large.sum.significant_bits().saturating_sub(zeros) <= BITS_BACK
            && large.squares.significant_bits().saturating_sub(2 * zeros) <= 2 * BITS_BACK;
        if fits {
            let part = Part {
                sum: large.sum.shifted_right(zeros).to_i128(),
                squares: large.squares.shifted_right(2 * zeros).resize(),
                exponent: EXPONENT_MIN + zeros as i32,
            };
            self.repr = Repr::ZERO;
            self.combine(part, false);
        }
    }

    /// Adds a part, or subtracts it, at whatever exponent fits both.
    fn combine(&mut self, part: Part, subtract: bool) {
        let part = part.stripped();
        if part.is_zero() {
            return;
        }
        if let Repr::Small { exponent, small } = &self.repr {
            let own = small.part(*exponent).stripped();
            let lowest = own.exponent.min(part.exponent);
            let (sum_end, squares_end) = own.ends().max_each(part.ends());
            let room = (SUM_BITS_MAX - (sum_end - lowest)).min((SQUARES_BITS_MAX - (squares_end - 2 * lowest)) / 2);
            // The halving rounds to zero, so the sign of the squares' room is looked at apart.
            if room >= 0 && squares_end - 2 * lowest <= SQUARES_BITS_MAX {
                let exponent = lowest - (room / 3).min(BITS_BELOW);
                let (mut own, part) = (own.at(exponent), part.at(exponent));
                own.sum = if subtract { own.sum - part.sum } else { own.sum + part.sum };
                own.squares.accumulate(&part.squares, 0, subtract);
                let small = Small { sum: words(own.sum as u128), squares: own.squares.0 };
                self.repr = Repr::Small { exponent: exponent as i16, small };
                return;
            }
        }
        self.enlarge().accumulate(&part, subtract);
        self.shrink_after(subtract);
    }
}

impl Repr {
    const ZERO: Self = Self::Small { exponent: 0, small: Small { sum: [0; 2], squares: [0; 4] } };
}

impl Small {
    /// Adds a value and its square, or subtracts them; false, and nothing done, if they do not fit.
    #[inline(always)]
    fn apply(&mut self, magnitude: u64, shift: u32, negative: bool, remove: bool) -> bool {
        let part = i128::from(magnitude) << shift;
        let part = if negative == remove { part } else { -part };
        let square = u128::from(magnitude) * u128::from(magnitude);
        self.apply_parts(part, shifted(square, 0, 2 * shift), remove)
    }

    /// The same with all of another one's values, whose units are greater by `shift` places.
    fn apply_small(&mut self, other: &Self, shift: u32, remove: bool) -> bool {
        let (sum, low, high) = (join(other.sum), unsigned(other.squares, 0), unsigned(other.squares, 2));
        let (part, squares) = (sum.unbounded_shl(shift), shifted(low, high, 2 * shift));
        let fits = part.unbounded_shr(shift) == sum && (high as i128) >= 0 && high.leading_zeros() > 2 * shift + 1;
        match (fits, remove) {
            (false, _) => false,
            (true, false) => self.apply_parts(part, squares, false),
            (true, true) => part.checked_neg().is_some_and(|part| self.apply_parts(part, squares, true)),
        }
    }

    /// Adds to the sum; adds to the squares below 2^254, or subtracts from them. False, and nothing done, if a result does not fit.
    #[inline(always)]
    fn apply_parts(&mut self, part: i128, (part_low, part_high): (u128, u128), remove: bool) -> bool {
        let Some(sum) = join(self.sum).checked_add(part) else { return false };
        let (low, high) = (unsigned(self.squares, 0), unsigned(self.squares, 2));
        let (low, high) = if remove {
            let (low, borrow) = low.overflowing_sub(part_low);
            (low, high.wrapping_sub(part_high).wrapping_sub(u128::from(borrow)))
        } else {
            let (low, carry) = low.overflowing_add(part_low);
            (low, high.wrapping_add(part_high).wrapping_add(u128::from(carry)))
        };
        // Both were below 2^254, so they did not wrap; the result must be below it again.
        if (high ^ (high << 1)) >> 127 == 1 {
            return false;
        }
        self.sum = words(sum as u128);
        let ([a, b], [c, d]) = (words(low), words(high));
        self.squares = [a, b, c, d];
        true
    }

    fn part(&self, exponent: i16) -> Part {
        Part { sum: join(self.sum), squares: Wide(self.squares), exponent: i32::from(exponent) }
    }

    fn variance(&self, exponent: i16, count: u64, divisor: u128) -> f64 {
        let sum = words(join(self.sum).unsigned_abs());
        variance(Wide(self.squares), &sum, &mut [0; 6], &mut [0; 6], 2 * i32::from(exponent), count, divisor)
    }
}

impl Large {
    fn accumulate(&mut self, part: &Part, subtract: bool) {
        if !part.is_zero() {
            let shift = (part.exponent - EXPONENT_MIN) as u32;
            self.sum.accumulate_words(&words(part.sum.unsigned_abs()), shift, subtract != (part.sum < 0));
            let (negative, squares) = part.squares.magnitude();
            self.squares.accumulate_words(&squares.0, 2 * shift, subtract != negative);
        }
    }

    fn variance(&self, count: u64, divisor: u128) -> f64 {
        if !self.specials.is_empty() {
            return f64::NAN;
        }
        let (_, sum) = self.sum.magnitude();
        const WORDS: usize = 2 * SUM_WORDS + 1;
        variance(self.squares, &sum.0, &mut [0; WORDS], &mut [0; WORDS], 2 * EXPONENT_MIN, count, divisor)
    }
}

/// `(count * squares - sum * sum) * 2^exponent / divisor`, rounded once. The scratch is zero, and longer than either product.
fn variance<const N: usize>(
    squares: Wide<N>,
    sum: &[u64],
    numerator: &mut [u64],
    square: &mut [u64],
    exponent: i32,
    count: u64,
    divisor: u128,
) -> f64 {
    // Values that were removed before they were added may leave what no values have.
    if squares.is_negative() {
        return f64::NAN;
    }
    wide::multiply(&squares.0, &[count], numerator);
    wide::multiply(sum, sum, square);
    let mut borrow = false;
    for (to, word) in numerator.iter_mut().zip(square.iter()) {
        (*to, borrow) = to.borrowing_sub(*word, borrow);
    }
    if borrow { f64::NAN } else { round::quotient(numerator, exponent, divisor) }
}

/// The number `high:low` times two to the power of `shift`, in the same halves.
#[inline(always)]
fn shifted(low: u128, high: u128, shift: u32) -> (u128, u128) {
    match shift {
        0 => (low, high),
        1..128 => (low << shift, high << shift | low >> (128 - shift)),
        _ => (0, low.unbounded_shl(shift - 128)),
    }
}

#[inline(always)]
fn join(words: [u64; 2]) -> i128 {
    unsigned(words, 0) as i128
}

/// The 128 bits from word `at` on.
#[inline(always)]
fn unsigned<const N: usize>(words: [u64; N], at: usize) -> u128 {
    u128::from(words[at + 1]) << 64 | u128::from(words[at])
}

#[inline(always)]
fn words(value: u128) -> [u64; 2] {
    [value as u64, (value >> 64) as u64]
}
