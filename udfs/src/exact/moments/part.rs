//! Moments taken apart to be put together at another exponent. This is the way of the few values that do not fit as they come.

use super::super::bytes::Stored;
use super::super::wide::{Wide, bit_length};

/// Bits that a rescaled sum may have.
pub(super) const SUM_BITS_MAX: i32 = 126;

/// Bits that a rescaled sum of squares may have.
pub(super) const SQUARES_BITS_MAX: i32 = 253;

/// A sum and a sum of squares, in units of `2^exponent` and its square.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) sum: i128,
    pub(super) squares: Wide<4>,
    pub(super) exponent: i32,
}

/// The exponents of the first bits above a sum and above its squares.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends(i32, i32);

impl Ends {
    pub(super) fn max_each(self, other: Self) -> (i32, i32) {
        (self.0.max(other.0), self.1.max(other.1))
    }
}

impl Part {
    /// Above all exponents, so that zero's is nobody's minimum.
    const ZERO_EXPONENT: i32 = i32::MAX / 8;

    /// Stored numbers in common units, if they fit.
    pub(super) fn of_stored(sum: Stored<'_>, squares: Stored<'_>) -> Option<Self> {
        let exponents = [(sum.bits(), sum.exponent), (squares.bits(), squares.exponent.div_euclid(2))];
        let exponent = exponents.into_iter().filter(|(bits, _)| *bits > 0).map(|(_, exponent)| exponent).min();
        let exponent = exponent.unwrap_or(sum.exponent);
        let fits = |number: Stored<'_>, unit, bits_max| {
            number.bits() == 0 || number.bits() + number.exponent - unit <= bits_max
        };
        (fits(sum, exponent, SUM_BITS_MAX) && fits(squares, 2 * exponent, SQUARES_BITS_MAX)).then(|| Self {
            sum: sum.wide::<2>(exponent).to_i128(),
            squares: squares.wide(2 * exponent),
            exponent,
        })
    }

    pub(super) fn is_zero(&self) -> bool {
        self.sum == 0 && self.squares.is_zero()
    }

    /// The same numbers at the greatest exponent.
    pub(super) fn stripped(&self) -> Self {
        if self.is_zero() {
            return Self { exponent: Self::ZERO_EXPONENT, ..*self };
        }
        // Zero has as many zeros as bits; the other one has fewer.
        let zeros = if self.sum == 0 { u32::MAX } else { self.sum.trailing_zeros() };
        let zeros = if self.squares.is_zero() { zeros } else { zeros.min(self.squares.trailing_zeros() / 2) };
        Self {
            sum: self.sum >> zeros.min(127),
            squares: self.squares.shifted_right(2 * zeros),
            exponent: self.exponent + zeros as i32,
        }
    }

    pub(super) fn ends(&self) -> Ends {
        let end = |bits: u32, exponent: i32| if bits == 0 { -4 * Self::ZERO_EXPONENT } else { exponent + bits as i32 };
        Ends(
            end(128 - self.sum.unsigned_abs().leading_zeros(), self.exponent),
            end(bit_length(&self.squares.magnitude().1.0), 2 * self.exponent),
        )
    }

    /// The same numbers at a lower exponent, which the caller has checked to fit.
    pub(super) fn at(&self, exponent: i32) -> Self {
        if self.is_zero() {
            return Self { exponent, ..*self };
        }
        let shift = (self.exponent - exponent) as u32;
        Self {
            sum: if self.sum == 0 { 0 } else { self.sum << shift },
            squares: self.squares.shifted_left(2 * shift),
            exponent,
        }
    }
}
