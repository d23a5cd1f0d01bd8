//! Moments taken apart to be put together at another exponent. This is the way of the few values that do not fit as they come.

use super::super::wide::{Wide, bit_length};

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
