//! Exact sums against an oracle of big integers, which shares nothing with them: it finds the nearest double by bisection.

use num_bigint::{BigInt, Sign};
use proptest::prelude::*;

use super::exact::{BadBytes, ExactMoments, ExactSum};

/// All numbers of the oracle are in units of two to the power of this, or of its double.
const UNIT: i32 = -1074;

/// The double as a multiple of `2^(2 * UNIT)`, also of the first bits that are no double's any more, as if infinity were the next number.
fn in_square_units(bits: u64) -> BigInt {
    let biased = (bits >> 52) as i32;
    let fraction = bits & ((1 << 52) - 1);
    let magnitude = if biased == 0 { fraction } else { fraction | 1 << 52 };
    BigInt::from(magnitude) << (biased.max(1) - 1 - UNIT)
}

/// The double nearest to `numerator / divisor * 2^(2 * UNIT)`, ties to even.
fn nearest(numerator: &BigInt, divisor: &BigInt) -> f64 {
    if numerator.sign() == Sign::Minus {
        let positive = nearest(&-numerator, divisor);
        return if positive == 0.0 { 0.0 } else { -positive };
    }
    // The greatest double that is not above the fraction.
    let (mut low, mut high) = (0_u64, f64::INFINITY.to_bits() + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if in_square_units(middle) * divisor <= *numerator { low = middle } else { high = middle }
    }
    if f64::from_bits(low) == f64::INFINITY || f64::from_bits(low).is_nan() {
        return f64::INFINITY;
    }
    let twice_middle = (in_square_units(low) + in_square_units(low + 1)) * divisor;
    let twice = numerator * 2;
    let up = twice > twice_middle || (twice == twice_middle && low % 2 == 1);
    f64::from_bits(low + u64::from(up))
}

fn exact(value: f64) -> BigInt {
    let magnitude = in_square_units(value.abs().to_bits()) >> -UNIT;
    if value < 0.0 { -magnitude } else { magnitude }
}

/// What the values add up to beside their finite part.
fn special(values: &[f64]) -> Option<f64> {
    let special: Vec<f64> = values.iter().copied().filter(|value| !value.is_finite()).collect();
    let first = *special.first()?;
    Some(if special.iter().all(|value| *value == first) { first } else { f64::NAN })
}

fn finite(values: &[f64]) -> impl Iterator<Item = BigInt> {
    values.iter().copied().filter(|value| value.is_finite()).map(exact)
}

fn mean_oracle(values: &[f64], count: u64) -> f64 {
    special(values).unwrap_or_else(|| nearest(&(finite(values).sum::<BigInt>() << -UNIT), &BigInt::from(count)))
}

fn var_oracle(values: &[f64], ddof: u64) -> Option<f64> {
    let count = values.len() as u64;
    if count <= ddof {
        return None;
    }
    if special(values).is_some() {
        return Some(f64::NAN);
    }
    let sum: BigInt = finite(values).sum();
    let squares: BigInt = finite(values).map(|value| &value * &value).sum();
    Some(nearest(&(squares * count - &sum * &sum), &(BigInt::from(count) * (count - ddof))))
}

fn assert_same(found: f64, expected: f64) {
    assert!(
        found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
        "{found:e}, expected {expected:e}"
    );
}

/// Checks everything that can be asked of a sum and of moments of these values.
fn check(sum: &ExactSum, moments: &ExactMoments, values: &[f64]) {
    let count = values.len() as u64;
    let expected = mean_oracle(values, 1);
    assert_same(sum.value(), expected);
    assert_same(moments.sum(), expected);
    assert_eq!(moments.count(), count);
    if count > 0 {
        let expected = mean_oracle(values, count);
        assert_same(sum.mean(count), expected);
        assert_same(moments.mean(), expected);
    }
    for ddof in [0, 1] {
        match (moments.var(ddof), var_oracle(values, ddof)) {
            (Some(found), Some(expected)) => assert_same(found, expected),
            (found, expected) => assert_eq!(found, expected),
        }
    }
    let (fresh_sum, fresh_moments) = of(values);
    let (bytes, moments_bytes) = (sum.to_bytes(), moments.to_bytes());
    assert_eq!(bytes, fresh_sum.to_bytes());
    assert_eq!(moments_bytes, fresh_moments.to_bytes());
    let read = ExactSum::from_bytes(&bytes).unwrap();
    assert_same(read.value(), sum.value());
    assert_eq!(read.to_bytes(), bytes);
    let read = ExactMoments::from_bytes(&moments_bytes).unwrap();
    assert_eq!(read.to_bytes(), moments_bytes);
    assert_eq!(read.var(0).map(f64::to_bits), moments.var(0).map(f64::to_bits));
}

fn of(values: &[f64]) -> (ExactSum, ExactMoments) {
    let (mut sum, mut moments) = (ExactSum::new(), ExactMoments::new());
    for value in values {
        sum.add(*value);
        moments.add(*value);
    }
    (sum, moments)
}

/// Values of one sort each, so that inline sums are met as often as those on the heap.
fn values(max: usize) -> impl Strategy<Value = Vec<f64>> {
    let cents = (-1_000_000_i64..1_000_000).prop_map(|cents| cents as f64 / 100.0);
    let integers = (-1000_i64..1_000_000_000_000).prop_map(|number| number as f64);
    let every = any::<u64>().prop_map(f64::from_bits);
    let subnormal =
        (0..1_u64 << 54, any::<bool>()).prop_map(|(bits, sign)| f64::from_bits(bits | u64::from(sign) << 63));
    let greatest = prop::sample::select(vec![f64::MAX, f64::MIN, 2f64.powi(970), -2f64.powi(970), 2f64.powi(969), 1.0]);
    let chosen = prop::sample::select(vec![
        0.0,
        -0.0,
        1e16,
        -1e16,
        1.0,
        -1.0,
        0.1,
        1e300,
        -1e300,
        1e-300,
        f64::MIN_POSITIVE,
        5e-324,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
    ]);
    let span = (-60_i32..60, 1_u64..1 << 53).prop_map(|(exponent, bits)| bits as f64 * 2f64.powi(exponent));
    let near = (-10_i64..10).prop_map(|cents| 1e8 + cents as f64 / 10.0);
    prop_oneof![
        prop::collection::vec(cents.clone(), 0..max),
        prop::collection::vec(integers, 0..max),
        prop::collection::vec(every.clone(), 0..max),
        prop::collection::vec(subnormal, 0..max),
        prop::collection::vec(greatest, 0..max),
        prop::collection::vec(span.clone(), 0..max),
        prop::collection::vec(near, 0..max),
        prop::collection::vec(chosen.clone(), 0..max),
        prop::collection::vec(prop_oneof![8 => cents, 1 => span, 1 => every, 1 => chosen], 0..max),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 1000 } else { 20_000 }))]

    #[test]
    fn results_are_those_of_big_integers(values in values(12)) {
        let (sum, moments) = of(&values);
        check(&sum, &moments, &values);
    }

    #[test]
    fn values_leave_without_a_trace_in_any_order(values in values(14), order in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 40)) {
        let mut outside = values;
        let mut inside = Vec::new();
        let (mut sum, mut moments) = (ExactSum::new(), ExactMoments::new());
        for (index, enters) in order {
            let (from, to) = if enters { (&mut outside, &mut inside) } else { (&mut inside, &mut outside) };
            if from.is_empty() {
                continue;
            }
            let value: f64 = from.swap_remove(index.index(from.len()));
            to.push(value);
            if enters {
                sum.add(value);
                moments.add(value);
            } else {
                sum.remove(value);
                moments.remove(value);
            }
            check(&sum, &moments, &inside);
        }
        for value in inside {
            sum.remove(value);
            moments.remove(value);
        }
        prop_assert!(sum.is_zero() && moments.is_empty());
        prop_assert_eq!(sum.heap_bytes() + moments.heap_bytes(), 0);
        prop_assert_eq!(sum, ExactSum::new());
        prop_assert_eq!(moments, ExactMoments::new());
    }

    #[test]
    fn sums_merge_and_part_again(mut left in values(8), right in values(8)) {
        let (mut sum, mut moments) = of(&left);
        let (right_sum, right_moments) = of(&right);
        let before = (sum.to_bytes(), moments.to_bytes());
        sum.merge(&right_sum);
        moments.merge(&right_moments);
        let left_only = left.clone();
        left.extend(&right);
        check(&sum, &moments, &left);
        sum.unmerge(&right_sum);
        moments.unmerge(&right_moments);
        prop_assert_eq!((sum.to_bytes(), moments.to_bytes()), before);
        check(&sum, &moments, &left_only);
        // Removing before adding is the same in the end.
        let (mut sum, mut moments) = (ExactSum::new(), ExactMoments::new());
        sum.unmerge(&right_sum);
        moments.unmerge(&right_moments);
        for value in &left {
            sum.add(*value);
            moments.add(*value);
        }
        check(&sum, &moments, &left_only);
    }

    #[test]
    fn a_mean_of_many_is_rounded_once(values in values(6), count in 1_u64..) {
        let (sum, _) = of(&values);
        assert_same(sum.mean(count), mean_oracle(&values, count));
    }

    /// Where doubles are closer together on one side, and where the quotient is half-way between two.
    #[test]
    fn means_beside_powers_of_two_and_ties_are_rounded_once(
        count in any::<u64>(),
        bits in 1_u32..=64,
        exponent in -1090_i32..960,
        units in -9_i32..9,
        half_units in -5_i32..5,
        tiny in -1_i32..=1,
    ) {
        let count = (count >> (64 - bits)).max(1);
        let (high, low) = ((count >> 32 << 32) as f64, (count & u64::from(u32::MAX)) as f64);
        let mut values = Vec::new();
        for (factor, exponent) in [(1, exponent), (units, exponent - 52), (half_units, exponent - 54)] {
            let factor = f64::from(factor) * 2f64.powi(exponent.max(-1022));
            values.extend([high * factor, low * factor]);
        }
        values.push(f64::from(tiny) * 2f64.powi((exponent - 200).max(-1070)));
        if values.iter().all(|value| value.is_finite()) {
            let (sum, _) = of(&values);
            assert_same(sum.mean(count), mean_oracle(&values, count));
            assert_same(sum.value(), mean_oracle(&values, 1));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60), kind in 0_u8..3) {
        let mut bytes = bytes;
        // Random bytes are hardly ever of a known version.
        if let (Some(first), 1..) = (bytes.first_mut(), kind) {
            *first = if kind == 1 { 0x11 } else { 0x21 };
        }
        if let (Some(length), 1..) = (bytes.get_mut(3), kind) {
            *length = 0;
        }
        if let Ok(sum) = ExactSum::from_bytes(&bytes) {
            prop_assert_eq!(sum.to_bytes(), bytes.clone());
        }
        if let Ok(moments) = ExactMoments::from_bytes(&bytes) {
            prop_assert_eq!(moments.to_bytes(), bytes.clone());
            let _ = (moments.var(0), moments.mean(), moments.sum());
        }
    }

    #[test]
    fn changed_bytes_are_another_sum_or_refused(values in values(5), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let (sum, moments) = of(&values);
        let (mut sum, mut moments) = (sum.to_bytes(), moments.to_bytes());
        let (sum_at, moments_at) = (at.index(sum.len()), at.index(moments.len()));
        sum[sum_at] ^= 1 << bit;
        moments[moments_at] ^= 1 << bit;
        // A sum that no values make may be read, and must then be as harmless as any.
        let (whole_sum, whole_moments) = of(&values);
        if let Ok(mut read) = ExactSum::from_bytes(&sum) {
            prop_assert_eq!(read.to_bytes(), sum.clone());
            read.merge(&whole_sum);
            read.unmerge(&whole_sum);
            read.add(-1.5);
            read.remove(-1.5);
            prop_assert_eq!(read.to_bytes(), sum.clone());
            let _ = (read.value(), read.mean(3));
        }
        if let Ok(mut read) = ExactMoments::from_bytes(&moments) {
            prop_assert_eq!(read.to_bytes(), moments.clone());
            read.merge(&whole_moments);
            read.unmerge(&whole_moments);
            read.add(-1.5);
            read.remove(-1.5);
            prop_assert_eq!(read.to_bytes(), moments.clone());
            let _ = (read.var(1), read.sum(), read.mean());
        }
        sum.truncate(sum_at);
        moments.truncate(moments_at);
        prop_assert!(ExactSum::from_bytes(&sum).is_err());
        prop_assert!(ExactMoments::from_bytes(&moments).is_err());
    }
}

#[test]
fn the_states_are_small() {
    assert_eq!(size_of::<ExactSum>(), 24);
    assert_eq!(size_of::<ExactMoments>(), 64);
    let (sum, moments) = of(&[0.01, 12.34, 9999.99, 10_000.0, -0.5, 1e-6, 1e9]);
    assert_eq!((sum.heap_bytes(), moments.heap_bytes()), (0, 0));
    let (sum, moments) = of(&[1e300, 1e-300]);
    assert_eq!((sum.heap_bytes(), moments.heap_bytes()), (296, 832));
    assert_eq!(ExactSum::new().to_bytes().len(), 4);
}

#[test]
fn a_million_amounts_stay_inline() {
    let (mut sum, mut moments) = (ExactSum::new(), ExactMoments::new());
    for cents in 1..1_000_000_u32 {
        sum.add(f64::from(cents) / 100.0);
        moments.add(f64::from(cents) / 100.0);
    }
    assert_eq!((sum.heap_bytes(), moments.heap_bytes()), (0, 0));
}

/// Half-way cases and those beside them, and what overflows only on the way.
#[test]
fn rounding_is_to_even_and_overflow_is_the_exact_one() {
    let sum = |values: &[f64]| of(values).0.value();
    let ulp = f64::EPSILON;
    assert_eq!(sum(&[1.0, ulp / 2.0]), 1.0);
    assert_eq!(sum(&[1.0 + ulp, ulp / 2.0]), 1.0 + 2.0 * ulp);
    assert_eq!(sum(&[1.0, ulp / 2.0, 5e-324]), 1.0 + ulp);
    assert_eq!(sum(&[1.0, ulp / 2.0, -5e-324]), 1.0);
    assert_eq!(sum(&[f64::MAX, f64::MAX, -f64::MAX]), f64::MAX);
    assert_eq!(sum(&[f64::MAX, 2f64.powi(970)]), f64::INFINITY);
    assert_eq!(sum(&[f64::MAX, 2f64.powi(970), -5e-324]), f64::MAX);
    assert_eq!(sum(&[f64::MIN, -(2f64.powi(970))]), f64::NEG_INFINITY);
    assert_eq!(of(&[f64::MAX, f64::MAX]).0.mean(2), f64::MAX);
    assert_eq!(of(&[5e-324]).0.mean(2).to_bits(), 0);
    assert_eq!(of(&[-5e-324]).0.mean(3).to_bits(), 0);
    assert_eq!(of(&[5e-324, 1e-323]).0.mean(2), 1e-323);
    assert_eq!(of(&[f64::MAX, -f64::MAX]).1.var(0), Some(f64::INFINITY));
    assert_eq!(of(&[1e200, 1e200]).1.var(1).map(f64::to_bits), Some(0));
    assert_eq!(sum(&[-0.0]).to_bits(), 0);
    assert_eq!(sum(&[1.5, -1.5]).to_bits(), 0);
    assert!(of(&[]).0.mean(0).is_nan());
}

/// The figures of `semantics/exact_sums.json`: rows four seconds apart, frames of eight seconds.
#[test]
fn the_agreed_sums() {
    let infinity = f64::INFINITY;
    let log = [1e16, 1.0, -1e16, 0.1, 0.2, infinity, 1.0, 2.0, 3.0, f64::NAN, 1.0, 2.0, 3.0, -0.0, -0.0, -0.0];
    let expected = [
        (1e16, 1e16),
        (1e16, 5000000000000000.0),
        (1.0, 0.3333333333333333),
        (-9999999999999998.0, -3333333333333333.0),
        (-1e16, -3333333333333333.0),
        (infinity, infinity),
        (infinity, infinity),
        (infinity, infinity),
        (6.0, 2.0),
        (f64::NAN, f64::NAN),
        (f64::NAN, f64::NAN),
        (f64::NAN, f64::NAN),
        (6.0, 2.0),
        (5.0, 1.6666666666666667),
        (3.0, 1.0),
        (0.0, 0.0),
    ];
    let mut sum = ExactSum::new();
    for (at, (sum_expected, mean_expected)) in expected.into_iter().enumerate() {
        sum.add(log[at]);
        if let Some(leaves) = at.checked_sub(3) {
            sum.remove(log[leaves]);
        }
        assert_same(sum.value(), sum_expected);
        assert_same(sum.mean(3.min(at as u64 + 1)), mean_expected);
    }
}

/// The figures of `semantics/variance.json`: rows a second apart, frames of two seconds.
#[test]
fn the_agreed_variances() {
    let log = [0.1, 0.2, 0.3, 100000000.1, 100000000.2, 100000000.3, 5.0];
    let expected = [
        None,
        Some((0.005000000000000001, 0.07071067811865477)),
        Some((0.009999999999999998, 0.09999999999999999)),
        Some((3333333323333333.0, 57735026.83236004)),
        Some((3333333323333333.0, 57735026.83236004)),
        Some((0.010000000298023245, 0.10000000149011622)),
        Some((3333333016666674.0, 57735024.176548794)),
    ];
    let mut moments = ExactMoments::new();
    for (at, expected) in expected.into_iter().enumerate() {
        moments.add(log[at]);
        if let Some(leaves) = at.checked_sub(3) {
            moments.remove(log[leaves]);
        }
        let found = moments.var(1);
        assert_eq!(found, expected.map(|(var, _)| var));
        assert_eq!(found.map(f64::sqrt), expected.map(|(_, stddev)| stddev));
    }
}

/// More rows than fit a divisor of 64 bits, by doubling.
#[test]
fn thousands_of_millions_of_rows_have_a_variance() {
    let (_, mut moments) = of(&[0.1, 7.3]);
    for _ in 0..40 {
        let same = moments.clone();
        moments.merge(&same);
    }
    let count = 1_u64 << 41;
    let (half, low, high) = (BigInt::from(count / 2), exact(0.1), exact(7.3));
    let sum = (&low + &high) * &half;
    let squares = (&low * &low + &high * &high) * &half;
    let numerator = squares * count - &sum * &sum;
    for ddof in [0, 1] {
        assert_same(moments.var(ddof).unwrap(), nearest(&numerator, &(BigInt::from(count) * (count - ddof))));
    }
}

#[test]
fn bytes_of_version_1_are_these() {
    let (sum, moments) = of(&[1.5, -4.0]);
    assert_eq!(sum.to_bytes(), [0x11, 1, 1, 0, 0xff, 0xff, 5]);
    assert_eq!(moments.to_bytes(), [0x21, 1, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0xff, 0xff, 5, 1, 0, 0xfe, 0xff, 73]);
    let (sum, _) = of(&[f64::NAN]);
    let mut expected = [0; 28];
    (expected[0], expected[1], expected[2]) = (0x11, 4, 1);
    assert_eq!(sum.to_bytes(), expected);
}

#[test]
fn bytes_that_no_sum_writes_are_refused() {
    let sum = |bytes: &[u8]| ExactSum::from_bytes(bytes).unwrap_err();
    assert_eq!(sum(&[]), BadBytes::TooShort);
    assert_eq!(sum(&[0x12, 0, 0, 0]), BadBytes::UnknownVersion(0x12));
    assert_eq!(sum(&[0x11, 0, 0, 0, 0]), BadBytes::TooLong);
    // A negative zero; an even magnitude; a leading zero byte; an exponent below all doubles; a number above all sums.
    for bytes in [
        &[0x11, 1, 0, 0][..],
        &[0x11, 0, 1, 0, 0, 0, 2],
        &[0x11, 0, 2, 0, 0, 0, 1, 0],
        &[0x11, 0, 1, 0, 0xcd, 0xfb, 1],
        &[0x11, 0, 1, 0, 0xff, 0x7f, 1],
        &[0x11, 8, 0, 0],
        &[0x11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        assert_eq!(sum(bytes), BadBytes::NotCanonical, "{bytes:?}");
    }
}
