//! Exact sums of doubles: a sum, a mean and a variance that depend on which values are held, and on nothing else.
//!
//! A value is added as the binary fraction that it is, in integers, so adding and removing are exact, commute, and undo each other; only a result is
//! rounded, once, to the nearest double (ties to even). NaN and infinities are counted apart and leave with their values. It refuses to lose a bit:
//! where the inline integers do not reach, it takes the whole range of a double on the heap. It uses nothing but `std`, and panics at no input.
//!
//! Results: any NaN, or infinities of both signs, give NaN; infinities of one sign give that infinity (a variance with any of them is NaN); a result
//! is infinite otherwise only if the exact one rounds to it; every result that is zero is +0.0. A value may be removed before it is added: in
//! between the results mean nothing, and afterwards all is as if the order had been the other.

mod bytes;
mod moments;
mod round;
mod specials;
mod sum;
mod wide;

pub use bytes::BadBytes;
pub use moments::ExactMoments;
pub use sum::ExactSum;

/// The exponent of the last bit of the smallest double: every finite double is a multiple of two to the power of it.
const EXPONENT_MIN: i32 = -1074;

/// Room that is left below the lowest bit of the first values, so that smaller ones which follow need no rescaling.
const BITS_BELOW: i32 = 24;

/// A finite double as a signed integer of at most 53 bits, times two to the power of the exponent.
#[inline(always)]
fn split(bits: u64) -> (u64, i32) {
    let biased = (bits >> 52 & 0x7ff) as i32;
    let fraction = bits & ((1 << 52) - 1);
    // A subnormal number has the exponent of the smallest normal one, and no implicit bit.
    let implicit = u64::from(biased != 0) << 52;
    (fraction | implicit, biased.max(1) + EXPONENT_MIN - 1)
}

/// Whether the bits are those of an infinity or a NaN.
#[inline(always)]
fn is_special(bits: u64) -> bool {
    bits >> 52 & 0x7ff == 0x7ff
}
