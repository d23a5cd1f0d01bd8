//! Numbers of a model file, read as LightGBM reads them.
//!
//! LightGBM has two readers of floating-point numbers: an exact one for thresholds and leaf values, and an older, inexact one
//! for the parameters of the objective. Scores are bit-equal only if each number goes through the same one.

use super::error::ModelError;

/// A list of numbers separated by blanks, of a known length.
pub(super) fn list<T: std::str::FromStr>(
    place: impl Fn() -> String,
    text: &str,
    count: usize,
    kind: &str,
) -> Result<Vec<T>, ModelError> {
    // The capacity is bounded by the text, not by a number that the file claims.
    let mut numbers = Vec::with_capacity(count.min(text.len()));
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        numbers.push(one(&place, word, kind)?);
    }
    if numbers.len() != count {
        return Err(ModelError::malformed(place(), format!("{count} numbers"), format!("{} numbers", numbers.len())));
    }
    Ok(numbers)
}

/// One number.
pub(super) fn one<T: std::str::FromStr>(place: impl Fn() -> String, word: &str, kind: &str) -> Result<T, ModelError> {
    word.trim().parse().map_err(|_| ModelError::malformed(place(), kind, format!("{word:?}")))
}

/// LightGBM's `Common::Atof`, rounding errors included: it reads the parameters of objectives. `None` if the text is not a
/// plain decimal number.
pub(super) fn parameter(text: &str) -> Option<f64> {
    let bytes = text.as_bytes();
    let mut at = 0;
    let digit = |at: usize| bytes.get(at).filter(|byte| byte.is_ascii_digit()).map(|byte| f64::from(byte - b'0'));
    let mut sign = 1.0;
    if let Some(first @ (b'-' | b'+')) = bytes.first() {
        sign = if *first == b'-' { -1.0 } else { 1.0 };
        at += 1;
    }
    digit(at)?;
    let mut value = 0.0;
    while let Some(next) = digit(at) {
        value = value * 10.0 + next;
        at += 1;
    }
    if bytes.get(at) == Some(&b'.') {
        at += 1;
        let (mut right, mut digits) = (0.0, 0);
        while let Some(next) = digit(at) {
            right = next + right * 10.0;
            digits += 1;
            at += 1;
        }
        value += right / power(10.0, digits);
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        at += 1;
        let negative = bytes.get(at) == Some(&b'-');
        if let Some(b'-' | b'+') = bytes.get(at) {
            at += 1;
        }
        digit(at)?;
        let mut exponent = 0_u32;
        while let Some(next) = digit(at) {
            exponent = exponent.saturating_mul(10).saturating_add(next as u32);
            at += 1;
        }
        let scale = scale(exponent);
        value = if negative { value / scale } else { value * scale };
    }
    (at == bytes.len()).then_some(sign * value)
}

/// The scaling factor of an exponent, in `Common::Atof`'s own steps.
fn scale(exponent: u32) -> f64 {
    let mut rest = exponent.min(308);
    let mut scale = 1.0;
    for (step, factor) in [(50, 1e50), (8, 1e8), (1, 10.0)] {
        while rest >= step {
            scale *= factor;
            rest -= step;
        }
    }
    scale
}

/// LightGBM's `Common::Pow`: its order of multiplications decides the last bit.
fn power(base: f64, exponent: u32) -> f64 {
    if exponent == 0 {
        1.0
    } else if exponent.is_multiple_of(2) {
        power(base * base, exponent / 2)
    } else if exponent.is_multiple_of(3) {
        power(base * base * base, exponent / 3)
    } else {
        base * power(base, exponent - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_like_lightgbm_reads_them() {
        assert_eq!(parameter("1"), Some(1.0));
        assert_eq!(parameter("0.7"), Some(0.7));
        assert_eq!(parameter("-2.5e-3"), Some(-0.0025));
        assert_eq!(parameter("1e+2"), Some(100.0));
        for wrong in ["", "x", "1x", "1e", "-", "nan", "inf", "0x1"] {
            assert_eq!(parameter(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_list_of_another_length_is_refused() {
        let place = || "tree 3, threshold".to_owned();
        assert_eq!(list::<f64>(place, "1 2  3.5", 3, "a number"), Ok(vec![1.0, 2.0, 3.5]));
        let error = list::<f64>(place, "1 2", usize::MAX, "a number").unwrap_err();
        assert!(error.to_string().contains("tree 3, threshold"), "{error}");
    }
}
