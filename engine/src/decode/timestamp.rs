//! Times as in RFC 3339, to microseconds since 1970-01-01 UTC. `T`, `t` or a space stands between date and time; the offset
//! may be absent, which means UTC; digits of a fraction beyond microseconds (nine at most) are cut off. A date alone, a leap
//! second and anything else is refused.

/// 0000-01-01T00:00:00Z, the first time that RFC 3339 can write.
pub(super) const MIN_MICROS: i64 = -62_167_219_200_000_000;
/// 9999-12-31T23:59:59.999999Z, the last one.
pub(super) const MAX_MICROS: i64 = 253_402_300_799_999_999;

/// Microseconds since the epoch; `None` when `text` is not such a time.
pub(super) fn parse(text: &[u8]) -> Option<i64> {
    let (fixed, rest) = text.split_at_checked(19)?;
    let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1, b'T' | b't' | b' ', h0, h1, b':', n0, n1, b':', s0, s1] = *fixed
    else {
        return None;
    };
    let year = i64::from(two_digits(y0, y1)?) * 100 + i64::from(two_digits(y2, y3)?);
    let (month, day) = (two_digits(m0, m1)?, two_digits(d0, d1)?);
    let (hour, minute, second) = (two_digits(h0, h1)?, two_digits(n0, n1)?, two_digits(s0, s1)?);
    if !(1..=12).contains(&month) || day == 0 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (fraction_micros, rest) = fraction(rest)?;
    let seconds = days_from_epoch(year, month, day) * 86_400
        + i64::from(hour) * 3_600
        + i64::from(minute) * 60
        + i64::from(second)
        - offset_seconds(rest)?;
    let micros = seconds * 1_000_000 + fraction_micros;
    (MIN_MICROS..=MAX_MICROS).contains(&micros).then_some(micros)
}

fn two_digits(tens: u8, ones: u8) -> Option<u32> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens <= 9 && ones <= 9).then(|| u32::from(tens) * 10 + u32::from(ones))
}

/// The fraction in microseconds, and what follows it.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some((b'.', digits)) = text.split_first() else {
        return Some((0, text));
    };
    let num_digits = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if num_digits == 0 || num_digits > 9 {
        return None;
    }
    let micros = (0..6).fold(0, |micros, place| {
        let digit = if place < num_digits { digits[place] - b'0' } else { 0 };
        micros * 10 + i64::from(digit)
    });
    Some((micros, &digits[num_digits..]))
}

fn offset_seconds(text: &[u8]) -> Option<i64> {
    match *text {
        [] | [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h0, h1, b':', m0, m1] => {
            let (hours, minutes) = (two_digits(h0, h1)?, two_digits(m0, m1)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = i64::from(hours) * 3_600 + i64::from(minutes) * 60;
            Some(if sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar, by counting years from March so that the leap day is last.
fn days_from_epoch(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = i64::from((month + 9) % 12);
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, NaiveDateTime};
    use proptest::prelude::*;

    use super::*;

    fn micros_of(text: &str) -> Option<i64> {
        parse(text.as_bytes())
    }

    #[test]
    fn accepts_what_rfc_3339_writes_and_a_missing_offset_as_utc() {
        let expected = Some(1_704_067_200_123_456);
        for text in [
            "2024-01-01T00:00:00.123456Z",
            "2024-01-01t00:00:00.123456z",
            "2024-01-01 00:00:00.123456",
            "2024-01-01T00:00:00.123456789Z",
            "2024-01-01T00:00:00.123456+00:00",
            "2024-01-01T05:30:00.123456+05:30",
            "2023-12-31T16:00:00.123456-08:00",
        ] {
            assert_eq!(micros_of(text), expected, "{text}");
        }
        assert_eq!(micros_of("1969-12-31T23:59:59.9999999Z"), Some(-1));
        assert_eq!(micros_of("0000-01-01T00:00:00Z"), Some(MIN_MICROS));
        assert_eq!(micros_of("9999-12-31T23:59:59.999999Z"), Some(MAX_MICROS));
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "2024-01-01",
            "2024-01-01T00:00",
            "2024-01-01T00:00:00.",
            "2024-01-01T00:00:00.1234567890Z",
            "2024-01-01T00:00:00Z ",
            "2024-01-01T00:00:00+0530",
            "2024-01-01T00:00:00+05",
            "2024-01-01T00:00:00+24:00",
            "2024-02-30T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2024-00-01T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-12-31T23:59:60Z",
            "2024-1-01T00:00:00Z",
            "+2024-01-01T00:00:00Z",
            "0000-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
        ] {
            assert_eq!(micros_of(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_chrono(micros in MIN_MICROS..=MAX_MICROS, offset_minutes in -1_439_i32..=1_439) {
            let utc = DateTime::from_timestamp_micros(micros).unwrap();
            prop_assert_eq!(micros_of(&utc.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()), Some(micros));
            let offset = chrono::FixedOffset::east_opt(offset_minutes * 60).unwrap();
            let local = utc.with_timezone(&offset);
            let text = local.format("%Y-%m-%d %H:%M:%S%.6f%:z").to_string();
            if text.len() == 32 {
                prop_assert_eq!(micros_of(&text), Some(micros));
            }
        }

        #[test]
        fn what_it_accepts_chrono_accepts(text in "[0-9]{4}-[0-3][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{0,10})?") {
            let ours = micros_of(&text);
            let theirs = NaiveDateTime::parse_from_str(&text.replace(['t', ' '], "T"), "%Y-%m-%dT%H:%M:%S%.f");
            if let Some(micros) = ours {
                prop_assert_eq!(theirs.unwrap().and_utc().timestamp_micros(), micros);
            }
        }
    }
}
