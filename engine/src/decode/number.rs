//! Number tokens of JSON, strictly as in RFC 8259, and their exact conversion into columns. Nothing is rounded except a
//! float to its nearest value; what a column cannot hold is refused.

use super::reason::Reason;

/// A number as it was written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number<'a> {
    token: &'a [u8],
    is_negative: bool,
    /// Written without fraction and exponent.
    is_whole: bool,
    /// The digits without the point; wrong when there are more than 19 significant ones.
    mantissa: u64,
    num_significant: usize,
    /// The value is mantissa times ten to this.
    exponent: i64,
}

/// Reads the longest number at the beginning of `bytes`.
///
/// `Err` when none begins there: whether the bytes ended too soon.
pub(super) fn scan(bytes: &[u8]) -> Result<Number<'_>, EndedTooSoon> {
    let is_negative = bytes.first() == Some(&b'-');
    let mut digits = Digits { bytes, at: usize::from(is_negative), mantissa: 0, num_significant: 0 };
    let start = digits.at;
    let num_whole = digits.take()?;
    if num_whole > 1 && bytes[start] == b'0' {
        // `01` is the number 0, and then something that does not belong there.
        let token = &bytes[..=start];
        return Ok(Number { token, is_negative, is_whole: true, mantissa: 0, num_significant: 0, exponent: 0 });
    }
    let mut is_whole = true;
    let mut exponent = 0;
    if bytes.get(digits.at) == Some(&b'.') {
        is_whole = false;
        digits.at += 1;
        exponent = -i64::try_from(digits.take()?).unwrap_or(i64::MAX);
    }
    let mut at = digits.at;
    if let Some(b'e' | b'E') = bytes.get(at) {
        is_whole = false;
        at += 1;
        let sign = bytes.get(at).copied();
        at += usize::from(matches!(sign, Some(b'+' | b'-')));
        let mut power = Digits { bytes, at, mantissa: 0, num_significant: 0 };
        power.take()?;
        at = power.at;
        let value = if power.num_significant > 9 { 1_000_000_000 } else { power.mantissa.cast_signed() };
        exponent += if sign == Some(b'-') { -value } else { value };
    }
    let Digits { mantissa, num_significant, .. } = digits;
    Ok(Number { token: &bytes[..at], is_negative, is_whole, mantissa, num_significant, exponent })
}

/// Whether a number failed to be one because the bytes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EndedTooSoon(pub(super) bool);

struct Digits<'a> {
    bytes: &'a [u8],
    at: usize,
    mantissa: u64,
    num_significant: usize,
}

impl Digits<'_> {
    /// Takes one digit or more; returns how many.
    #[inline]
    fn take(&mut self) -> Result<usize, EndedTooSoon> {
        let start = self.at;
        while let Some(byte) = self.bytes.get(self.at) {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                break;
            }
            self.mantissa = self.mantissa.wrapping_mul(10).wrapping_add(u64::from(digit));
            self.num_significant += usize::from(self.num_significant > 0 || digit > 0);
            self.at += 1;
        }
        if self.at == start { Err(EndedTooSoon(self.at >= self.bytes.len())) } else { Ok(self.at - start) }
    }
}

/// Powers of ten that a double holds exactly.
const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

impl Number<'_> {
    /// Bytes of the token.
    pub(super) fn len(&self) -> usize {
        self.token.len()
    }

    /// The whole number.
    pub(super) fn to_i64(self) -> Result<i64, Reason> {
        if !self.is_whole {
            return Err(Reason::FractionalNumber);
        }
        if self.num_significant > 19 {
            return Err(Reason::NumberOverflow);
        }
        let value = i128::from(self.mantissa);
        i64::try_from(if self.is_negative { -value } else { value }).map_err(|_| Reason::NumberOverflow)
    }

    /// The nearest double; a number that rounds to infinity is refused.
    pub(super) fn to_f64(self) -> Result<f64, Reason> {
        // Both operands are exact, so one operation rounds once, to the nearest.
        if self.num_significant <= 19 && self.mantissa <= 1 << 53 && self.exponent.unsigned_abs() <= 22 {
            let mantissa = self.mantissa as f64;
            let power = EXACT_POWERS[usize::try_from(self.exponent.unsigned_abs()).unwrap_or_default()];
            let value = if self.exponent < 0 { mantissa / power } else { mantissa * power };
            return Ok(if self.is_negative { -value } else { value });
        }
        let value: Option<f64> = str::from_utf8(self.token).ok().and_then(|token| token.parse().ok());
        value.filter(|value| value.is_finite()).ok_or(Reason::NumberOverflow)
    }

    /// The nearest single; a number that rounds to infinity is refused.
    pub(super) fn to_f32(self) -> Result<f32, Reason> {
        let value: Option<f32> = str::from_utf8(self.token).ok().and_then(|token| token.parse().ok());
        value.filter(|value| value.is_finite()).ok_or(Reason::NumberOverflow)
    }

    /// The number times ten to the `scale`, exactly.
    pub(super) fn to_decimal(self, precision: u8, scale: i8) -> Result<i128, Reason> {
        let mantissa = self.exact_mantissa()?;
        let shift = self.exponent + i64::from(scale);
        let unsigned = if mantissa == 0 {
            0
        } else if shift >= 0 {
            power_of_ten(shift).and_then(|power| mantissa.checked_mul(power)).ok_or(Reason::NumberOverflow)?
        } else {
            let power = power_of_ten(-shift).ok_or(Reason::DecimalTooPrecise)?;
            if mantissa % power != 0 {
                return Err(Reason::DecimalTooPrecise);
            }
            mantissa / power
        };
        if power_of_ten(i64::from(precision)).is_some_and(|limit| unsigned >= limit) {
            return Err(Reason::NumberOverflow);
        }
        Ok(if self.is_negative { -unsigned } else { unsigned })
    }

    fn exact_mantissa(self) -> Result<i128, Reason> {
        if self.num_significant <= 19 {
            return Ok(i128::from(self.mantissa));
        }
        let mut mantissa: i128 = 0;
        let mut is_fraction = false;
        for byte in self.token {
            match byte {
                b'.' => is_fraction = true,
                b'0'..=b'9' => {
                    let longer = mantissa.checked_mul(10).and_then(|m| m.checked_add(i128::from(byte - b'0')));
                    let reason = if is_fraction { Reason::DecimalTooPrecise } else { Reason::NumberOverflow };
                    mantissa = longer.ok_or(reason)?;
                }
                b'e' | b'E' => break,
                _ => {}
            }
        }
        Ok(mantissa)
    }
}

fn power_of_ten(exponent: i64) -> Option<i128> {
    10_i128.checked_pow(u32::try_from(exponent).ok()?)
}

/// Why a string in a column of numbers is refused.
pub(super) fn reason_of_quoted(text: &[u8]) -> Reason {
    let text = text.trim_ascii();
    let unsigned = text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text);
    let is_non_finite = [&b"nan"[..], b"inf", b"infinity"].iter().any(|name| unsigned.eq_ignore_ascii_case(name));
    if is_non_finite {
        Reason::NonFiniteNumber
    } else if str::from_utf8(unsigned).is_ok_and(|text| text.parse::<f64>().is_ok()) {
        Reason::QuotedNumber
    } else {
        Reason::WrongType
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(text: &str) -> Number<'_> {
        let number = scan(text.as_bytes()).unwrap();
        assert_eq!(number.len(), text.len(), "{text}");
        number
    }

    #[test]
    fn tokens_are_those_of_rfc_8259() {
        for (text, len) in [("0", 1), ("-0", 2), ("01", 1), ("-01", 2), ("12,", 2), ("1.5e+3}", 6), ("1E-2 ", 4)] {
            assert_eq!(scan(text.as_bytes()).unwrap().len(), len, "{text}");
        }
        for (text, ended) in [("", true), ("-", true), ("1.", true), ("1e", true), ("1e-", true), ("+1", false)] {
            assert_eq!(scan(text.as_bytes()).unwrap_err(), EndedTooSoon(ended), "{text}");
        }
        for text in ["-a", ".5", "1.e3", "1ex", "NaN", "-Infinity"] {
            assert_eq!(scan(text.as_bytes()).unwrap_err(), EndedTooSoon(false), "{text}");
        }
    }

    #[test]
    fn whole_numbers_keep_their_range() {
        assert_eq!(number("9223372036854775807").to_i64(), Ok(i64::MAX));
        assert_eq!(number("-9223372036854775808").to_i64(), Ok(i64::MIN));
        assert_eq!(number("-0").to_i64(), Ok(0));
        for text in ["9223372036854775808", "-9223372036854775809", "18446744073709551616", "100000000000000000000"] {
            assert_eq!(number(text).to_i64(), Err(Reason::NumberOverflow), "{text}");
        }
        for text in ["1.0", "1e3", "1E0", "0.5"] {
            assert_eq!(number(text).to_i64(), Err(Reason::FractionalNumber), "{text}");
        }
    }

    #[test]
    fn floats_that_round_to_infinity_are_refused() {
        for text in ["1e999", "-1e999", "1e99999999999999999999", "1.8e308"] {
            assert_eq!(number(text).to_f64(), Err(Reason::NumberOverflow), "{text}");
        }
        assert_eq!(number("1e39").to_f32(), Err(Reason::NumberOverflow));
        assert_eq!(number("0e999").to_f64(), Ok(0.0));
        assert_eq!(number("1e-999").to_f64(), Ok(0.0));
        assert_eq!(number("-0.0").to_f64().unwrap().to_bits(), (-0.0_f64).to_bits());
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        assert_eq!(number("1.50").to_decimal(10, 2), Ok(150));
        assert_eq!(number("1.500").to_decimal(10, 2), Ok(150));
        assert_eq!(number("-1.5e2").to_decimal(10, 2), Ok(-15_000));
        assert_eq!(number("12300").to_decimal(5, -2), Ok(123));
        assert_eq!(number("0e99999").to_decimal(10, 2), Ok(0));
        assert_eq!(number("99999999999999999999999999999999999999").to_decimal(38, 0), Ok(10_i128.pow(38) - 1));
        for text in ["1.501", "1e-3", "0.33333333333333333333333333333333333333333333", "1e-99999"] {
            assert_eq!(number(text).to_decimal(10, 2), Err(Reason::DecimalTooPrecise), "{text}");
        }
        for text in ["100000000", "1e8", "1e99999", "9999999999999999999999999999999999999999"] {
            assert_eq!(number(text).to_decimal(10, 2), Err(Reason::NumberOverflow), "{text}");
        }
    }

    #[test]
    fn a_quoted_number_is_told_from_a_quoted_word() {
        for (text, reason) in [
            ("77", Reason::QuotedNumber),
            (" -7.5e3 ", Reason::QuotedNumber),
            ("NaN", Reason::NonFiniteNumber),
            ("-Infinity", Reason::NonFiniteNumber),
            ("seven", Reason::WrongType),
            ("", Reason::WrongType),
        ] {
            assert_eq!(reason_of_quoted(text.as_bytes()), reason, "{text}");
        }
    }

    proptest! {
        #[test]
        fn floats_are_those_of_the_standard_library(
            text in "-?(0|[1-9][0-9]{0,22})(\\.[0-9]{1,22})?([eE][+-]?[0-9]{1,3})?"
        ) {
            let expected: f64 = text.parse().unwrap();
            match number(&text).to_f64() {
                Ok(value) => prop_assert_eq!(value.to_bits(), expected.to_bits()),
                Err(reason) => {
                    prop_assert_eq!(reason, Reason::NumberOverflow);
                    prop_assert!(expected.is_infinite());
                }
            }
        }

        #[test]
        fn whole_numbers_are_those_of_the_standard_library(text in "-?(0|[1-9][0-9]{0,21})") {
            prop_assert_eq!(number(&text).to_i64().ok(), text.parse::<i64>().ok());
        }
    }
}
