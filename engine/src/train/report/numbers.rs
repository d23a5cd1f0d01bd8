//! Numbers as people read them, and the interval of a share.

/// A count with thin groups of three digits: `12 345`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A number with at most four digits that matter, without trailing zeros.
pub(super) fn short(number: f64) -> String {
    if number == 0.0 || !number.is_finite() {
        return if number == 0.0 { "0".to_owned() } else { number.to_string() };
    }
    let magnitude = number.abs().log10().floor() as i32;
    let decimals = (3 - magnitude).clamp(0, 12) as usize;
    let text = format!("{number:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// The 95 % interval of a share of which `part` of `whole` were seen (Wilson's).
pub(super) fn wilson(part: u64, whole: u64) -> (f64, f64) {
    const Z: f64 = 1.959_963_984_540_054;
    if whole == 0 {
        return (0.0, 1.0);
    }
    let whole = whole as f64;
    let share = part as f64 / whole;
    let scale = 1.0 + Z * Z / whole;
    let center = share + Z * Z / (2.0 * whole);
    let spread = Z * (share * (1.0 - share) / whole + Z * Z / (4.0 * whole * whole)).sqrt();
    (((center - spread) / scale).max(0.0), ((center + spread) / scale).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped_by_three_digits() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1 000", "1 234 567"]);
    }

    #[test]
    fn numbers_keep_what_matters_of_them() {
        let read = [0.0, 1.0, 0.6000000000000001, 0.278_345, 0.000_123_45, 1234.56, -0.5].map(short);
        assert_eq!(read, ["0", "1", "0.6", "0.2783", "0.0001234", "1235", "-0.5"]);
    }

    #[test]
    fn the_interval_of_a_share_is_wilsons() {
        // statsmodels: proportion_confint(8, 10, method="wilson")
        let (low, high) = wilson(8, 10);
        assert!((low - 0.490_162_471_9).abs() < 1e-9 && (high - 0.943_317_848_5).abs() < 1e-9, "{low} {high}");
        assert_eq!(wilson(0, 0), (0.0, 1.0));
        assert_eq!(wilson(0, 5).0, 0.0);
    }
}
