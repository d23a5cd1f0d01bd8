//! The one place that rounds: an exact fraction to the nearest double, ties to even, with subnormal results and overflow.

use super::wide::bit_length;

/// The double nearest to `numerator * 2^exponent / divisor`. A divisor of zero gives NaN.
pub(super) fn quotient(numerator: &[u64], exponent: i32, divisor: u128) -> f64 {
    let bits = bit_length(numerator);
    if bits == 0 || divisor == 0 {
        return if divisor == 0 { f64::NAN } else { 0.0 };
    }
    // The highest 128 bits decide, with one bit for whether anything lies below them.
    let (top, dropped) = leading(numerator, bits);
    let exponent = exponent + bits as i32 - 128;
    match u64::try_from(divisor) {
        Ok(divisor) => small_quotient(top, dropped, exponent, divisor),
        Err(_) => large_quotient(top, dropped, exponent, divisor),
    }
}

/// The double nearest to `top * 2^exponent / divisor`, where the highest bit of `top` is set and `dropped` says that the numerator was a bit more.
///
/// A division of doubles comes within a few units of the last place; the remainder, in integers, tells which double is nearest. That takes a third of the time
/// of a division of 128 bits.
#[inline]
pub(super) fn small_quotient(top: u128, dropped: bool, exponent: i32, divisor: u64) -> f64 {
    let bits = ((top >> 64) as u64 as f64 / divisor as f64).to_bits();
    // The quotient is near `digits * 2^(shift + exponent)`. It is at least 1/2, so the shift is positive.
    let mut digits = bits & ((1 << 52) - 1) | 1 << 52;
    let shift = (bits >> 52) as i32 - 1075 + 64;
    let last = shift + exponent;
    if !(-1022..=971).contains(&last) {
        return rare_quotient(top, dropped, exponent, divisor);
    }
    let unit = i128::from(divisor) << shift;
    let half = unit >> 1;
    // Both products are below 2^129 and their difference is a few units, so what overflows cancels out.
    let product = (u128::from(digits) * u128::from(divisor)) << shift;
    let mut remainder = top.wrapping_sub(product) as i128;
    while remainder < -half {
        (digits, remainder) = (digits - 1, remainder + unit);
    }
    while remainder > half {
        (digits, remainder) = (digits + 1, remainder - unit);
    }
    if !(1 << 52..1 << 53).contains(&digits) || (digits == 1 << 52 && remainder < 0) {
        // Below a power of two the doubles are closer together, and from the next one on they are further apart.
        return rare_quotient(top, dropped, exponent, divisor);
    }
    let odd = digits & 1;
    // A tie goes to the even neighbour, unless a dropped bit decides it.
    if remainder == half {
        digits += u64::from(dropped) | odd;
    } else if remainder == -half && !dropped {
        digits -= odd;
    }
    digits as f64 * power_of_two(last)
}

/// The same by a division of 128 bits: for results that are subnormal or overflow, and beside powers of two.
#[cold]
fn rare_quotient(top: u128, dropped: bool, exponent: i32, divisor: u64) -> f64 {
    // The quotient has at least 64 bits, so that what remains is below its rounding bit.
    let quotient = top / u128::from(divisor);
    let remains = quotient * u128::from(divisor) != top;
    scaled(quotient, remains | dropped, exponent)
}

/// The same for a divisor of more than 64 bits, a bit of the quotient at a time. Variances of more than four thousand million rows come here.
fn large_quotient(top: u128, dropped: bool, exponent: i32, divisor: u128) -> f64 {
    const QUOTIENT_BITS: i32 = 60;
    let (mut quotient, mut remainder) = (top / divisor, top % divisor);
    for _ in 0..QUOTIENT_BITS {
        // The remainder is below the divisor, so twice of it is below twice of it: one subtraction is enough, even where doubling overflows.
        let overflows = remainder >> 127 == 1;
        remainder <<= 1;
        quotient <<= 1;
        if overflows || remainder >= divisor {
            remainder = remainder.wrapping_sub(divisor);
            quotient |= 1;
        }
    }
    scaled(quotient, remainder != 0 || dropped, exponent - QUOTIENT_BITS)
}

/// The highest 128 of the `bits` bits of a number, and whether any lower one is set. A shorter number is shifted up.
fn leading(words: &[u64], bits: u32) -> (u128, bool) {
    let word = |at: i64| usize::try_from(at).ok().and_then(|at| words.get(at)).copied().unwrap_or(0);
    let lowest = i64::from(bits) - 128;
    let (at, shift) = (lowest.div_euclid(64), lowest.rem_euclid(64) as u32);
    let low = u128::from(word(at)) | u128::from(word(at + 1)) << 64;
    let top = if shift == 0 { low } else { low >> shift | u128::from(word(at + 2)) << (128 - shift) };
    let whole = usize::try_from(at).unwrap_or(0).min(words.len());
    let dropped = words[..whole].iter().any(|word| *word != 0) || (lowest > 0 && word(at) & ((1 << shift) - 1) != 0);
    (top, dropped)
}

/// The double nearest to `number * 2^exponent`. If `more`, the exact number is greater by less than one, and it has at least 55 bits.
#[inline]
pub(super) fn scaled(number: u128, more: bool, exponent: i32) -> f64 {
    let bits = 128 - number.leading_zeros() as i32;
    // The exponent of the result's last bit: 53 bits are kept, fewer where the result is subnormal.
    let last = (bits + exponent - 53).max(super::EXPONENT_MIN);
    let drop = last - exponent;
    if last > 971 {
        return if number == 0 { 0.0 } else { f64::INFINITY };
    }
    if drop <= 0 {
        // Everything is kept; the number has at most 53 bits.
        return if number == 0 { 0.0 } else { (number as f64) * power_of_two(exponent) };
    }
    if drop > bits {
        return 0.0;
    }
    let kept = if drop == 128 { 0 } else { (number >> drop) as u64 };
    let half = 1_u128 << (drop - 1);
    let rest = number & (half - 1);
    let round_up = number & half != 0 && (more || rest != 0 || kept & 1 == 1);
    (kept + u64::from(round_up)) as f64 * power_of_two(last)
}

/// The double nearest to `number * 2^exponent`, without a sign.
#[inline]
pub(super) fn integer(number: u128, exponent: i32) -> f64 {
    let zeros = number.leading_zeros();
    // The conversion rounds 63 bits, the last of which stands for all below it; the product does not round, as nothing here is subnormal.
    let top = number.unbounded_shl(zeros);
    let digits = (top >> 65) as i64 | i64::from((top << 63) != 0);
    let last = exponent - zeros as i32 + 65;
    if (-1022..=1023).contains(&last) { digits as f64 * power_of_two(last) } else { scaled(number, false, exponent) }
}

/// The double nearest to `number * 2^exponent / divisor`, without a sign. A divisor of zero gives NaN.
#[inline]
pub(super) fn integer_quotient(number: u128, exponent: i32, divisor: u64) -> f64 {
    if number == 0 || divisor == 0 {
        return if divisor == 0 { f64::NAN } else { 0.0 };
    }
    let zeros = number.leading_zeros();
    small_quotient(number << zeros, false, exponent - zeros as i32, divisor)
}

/// A result with its sign. Zero has none.
#[inline]
pub(super) fn signed(magnitude: f64, negative: bool) -> f64 {
    if negative && magnitude != 0.0 { -magnitude } else { magnitude }
}

/// Two to a power from -1074 to 1023, exactly.
#[inline]
pub(super) fn power_of_two(exponent: i32) -> f64 {
    if exponent >= -1022 {
        f64::from_bits(((exponent + 1023) as u64) << 52)
    } else {
        f64::from_bits(1 << (exponent - super::EXPONENT_MIN))
    }
}
