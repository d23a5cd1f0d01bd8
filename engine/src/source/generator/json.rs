//! Rows to JSON, and the ways in which a record's value can be spoilt.
//! The bytes are written by hand because every field is known to need no escaping; each event is checked before its bytes count.

use super::row::{
    DEVICE_ID_BYTES, EventLimits, EventView, Row, SchemaRule, TRANSACTION_ID_BYTES, validate, write_device_id,
    write_transaction_id,
};
use super::settings::{DAY_MS, WorldKind};
use super::slots::AnyWorld;

/// How a record's value is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Malformation {
    /// The first half of the value.
    Truncated,
    /// No byte.
    Empty,
    /// Text that is no JSON.
    NotJson,
    /// The value twice.
    TwoObjects,
    /// A byte that is no UTF-8, in the merchant.
    BadUtf8,
    /// No `user_id`.
    MissingField,
    /// `amount` is null.
    NullRequired,
    /// `amount` is words.
    WrongType,
    /// `amount` is negative.
    OutOfRange,
    /// `timestamp` is no time.
    BadTimestamp,
}

impl Malformation {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Truncated,
        Self::Empty,
        Self::NotJson,
        Self::TwoObjects,
        Self::BadUtf8,
        Self::MissingField,
        Self::NullRequired,
        Self::WrongType,
        Self::OutOfRange,
        Self::BadTimestamp,
    ];
}

/// Writes events; remembers the text of the current day.
#[derive(Debug)]
pub(super) struct JsonWriter {
    limits: EventLimits,
    day: i64,
    date: [u8; 10],
}

fn push_two(out: &mut [u8], value: u32) {
    out[0] = b'0' + (value / 10) as u8;
    out[1] = b'0' + (value % 10) as u8;
}

fn push_number(value: u64, out: &mut Vec<u8>) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Year, month and day of a day since 1970 (Hinnant's algorithm).
fn civil(day: i64) -> (u32, u32, u32) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year as u32, month as u32, day as u32)
}

impl JsonWriter {
    pub(super) fn new(world: &AnyWorld) -> Self {
        Self { limits: world.limits(), day: i64::MIN, date: *b"0000-00-00" }
    }

    fn push_timestamp(&mut self, ms: i64, is_compat: bool, out: &mut Vec<u8>) {
        let day = ms.div_euclid(DAY_MS);
        if day != self.day {
            let (year, month, date) = civil(day);
            push_two(&mut self.date[0..2], year / 100 % 100);
            push_two(&mut self.date[2..4], year % 100);
            push_two(&mut self.date[5..7], month);
            push_two(&mut self.date[8..10], date);
            self.day = day;
        }
        let of_day = ms.rem_euclid(DAY_MS) as u32;
        let mut time = *b"T00:00:00.000";
        push_two(&mut time[1..3], of_day / 3_600_000);
        push_two(&mut time[4..6], of_day / 60_000 % 60);
        push_two(&mut time[7..9], of_day / 1000 % 60);
        time[10] = b'0' + (of_day / 100 % 10) as u8;
        push_two(&mut time[11..13], of_day % 100);
        out.extend_from_slice(&self.date);
        out.extend_from_slice(&time);
        // The replaced producer writes what Python's isoformat gives.
        out.extend_from_slice(if is_compat { b"000+00:00".as_slice() } else { b"Z" });
    }

    /// Appends the message key: the user id, or in the compat world the transaction id.
    pub(super) fn push_key(&self, world: &AnyWorld, row: &Row, out: &mut Vec<u8>) {
        match world.settings().world {
            WorldKind::Credible => push_number(world.user_id(row) as u64, out),
            WorldKind::Compat => {
                let mut id = [0; TRANSACTION_ID_BYTES];
                write_transaction_id(row.id, &mut id);
                out.extend_from_slice(&id);
            }
        }
    }

    /// Checks an event and appends it. On failure nothing has been appended.
    pub(super) fn push_value(&mut self, world: &AnyWorld, row: &Row, out: &mut Vec<u8>) -> Result<(), SchemaRule> {
        let mut id = [0; TRANSACTION_ID_BYTES];
        write_transaction_id(row.id, &mut id);
        let event = EventView {
            transaction_id: std::str::from_utf8(&id).map_err(|_| SchemaRule::TransactionId)?,
            user_id: world.user_id(row),
            amount: f64::from(row.cents) / 100.0,
            currency: world.currency(row),
            merchant: world.merchant(row),
            timestamp_ms: row.event_ms,
            location: world.location(row),
            is_fraud: i32::from(row.kind.is_fraud()),
        };
        validate(&event, &self.limits)?;
        self.push_event(&event, row, world.settings().world == WorldKind::Compat, out);
        let fields = world.settings().fields;
        if fields.device_id {
            push_device(row, out);
        }
        if fields.channel {
            out.extend_from_slice(b",\"channel\":\"");
            out.extend_from_slice(row.channel.name().as_bytes());
            out.push(b'"');
        }
        if fields.campaign {
            push_campaign(row, out);
        }
        out.push(b'}');
        Ok(())
    }

    fn push_event(&mut self, event: &EventView<'_>, row: &Row, is_compat: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"transaction_id\":\"");
        out.extend_from_slice(event.transaction_id.as_bytes());
        out.extend_from_slice(b"\",\"user_id\":");
        push_number(event.user_id as u64, out);
        out.extend_from_slice(b",\"amount\":");
        push_number(u64::from(row.cents / 100), out);
        let mut cents = *b".00";
        push_two(&mut cents[1..3], row.cents % 100);
        out.extend_from_slice(&cents);
        out.extend_from_slice(b",\"currency\":\"");
        out.extend_from_slice(event.currency.as_bytes());
        out.extend_from_slice(b"\",\"merchant\":\"");
        out.extend_from_slice(event.merchant.as_bytes());
        out.extend_from_slice(b"\",\"timestamp\":\"");
        self.push_timestamp(event.timestamp_ms, is_compat, out);
        out.extend_from_slice(b"\",\"location\":\"");
        out.extend_from_slice(event.location.as_bytes());
        out.extend_from_slice(b"\",\"is_fraud\":");
        out.push(b'0' + event.is_fraud as u8);
    }
}

fn push_device(row: &Row, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"device_id\":");
    if row.device == 0 {
        out.extend_from_slice(b"null");
        return;
    }
    let mut id = [0; DEVICE_ID_BYTES];
    write_device_id(row.device, &mut id);
    out.push(b'"');
    out.extend_from_slice(&id);
    out.push(b'"');
}

fn push_campaign(row: &Row, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"campaign\":");
    match row.kind.name() {
        None => out.extend_from_slice(b"null"),
        Some(name) => {
            out.push(b'"');
            out.extend_from_slice(name.as_bytes());
            out.push(b'"');
        }
    }
}

fn position(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|window| window == what).unwrap_or(bytes.len())
}

/// The value of a field of a good event: after its name and colon, up to the comma or brace that follows a value of that field.
fn field(value: &[u8], name: &str) -> std::ops::Range<usize> {
    let named = format!("\"{name}\":");
    let start = (position(value, named.as_bytes()) + named.len()).min(value.len());
    let end = start + position(&value[start..], b",");
    start..end
}

/// Spoils the good value that begins at `start`.
pub(super) fn spoil(value: &mut Vec<u8>, start: usize, how: Malformation) {
    let good = value.split_off(start);
    let replaced = |name: &str, by: &[u8]| {
        let at = field(&good, name);
        [&good[..at.start], by, &good[at.end..]].concat()
    };
    let bad = match how {
        Malformation::Truncated => good[..good.len() / 2].to_vec(),
        Malformation::Empty => Vec::new(),
        Malformation::NotJson => b"amount=12.34;user=unknown".to_vec(),
        Malformation::TwoObjects => [good.as_slice(), good.as_slice()].concat(),
        Malformation::BadUtf8 => {
            let mut bad = good.clone();
            if let Some(byte) = bad.get_mut(field(&good, "merchant").start + 1) {
                *byte = 0xff;
            }
            bad
        }
        Malformation::MissingField => {
            let at = field(&good, "user_id");
            [&good[..at.start - "\"user_id\":".len()], &good[at.end + 1..]].concat()
        }
        Malformation::NullRequired => replaced("amount", b"null"),
        Malformation::WrongType => replaced("amount", b"\"a lot\""),
        Malformation::OutOfRange => replaced("amount", b"-12.34"),
        Malformation::BadTimestamp => replaced("timestamp", b"\"2026-02-30T25:61:00Z\""),
    };
    value.extend_from_slice(&bad);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn civil_dates_are_right_at_their_corners() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(11_017), (2000, 3, 1));
        assert_eq!(civil(20_453), (2025, 12, 31));
        assert_eq!(civil(20_454), (2026, 1, 1));
        assert_eq!(civil(2_932_896), (9999, 12, 31));
    }
}
