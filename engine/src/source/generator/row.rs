//! One event inside the generator, and the schema that every event must meet before it leaves.
//! A row holds indices, not text, so that making one allocates nothing. The check reads what is about to be written, not the row
//! that it came from, and names the rule that failed; it never quotes the event's contents.

use std::fmt;

/// Which kind of campaign an event belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Not fraud.
    Honest,
    /// A burst on one taken-over account.
    AccountTakeover,
    /// Micro-payments over many cards at one online merchant, some followed by a large purchase.
    CardTesting,
    /// A merchant that charges many cards round amounts over some days.
    MerchantCollusion,
    /// Card-present purchases far from where the owner is.
    GeographicAnomaly,
    /// Fraud that looks like any honest purchase.
    BaselineNoise,
    /// Only after a drift with `new_attack`: small equal charges on many cards at one online merchant.
    SubscriptionTrap,
}

impl Kind {
    /// Every kind, in the order of `index`.
    pub const ALL: [Self; 7] = [
        Self::Honest,
        Self::AccountTakeover,
        Self::CardTesting,
        Self::MerchantCollusion,
        Self::GeographicAnomaly,
        Self::BaselineNoise,
        Self::SubscriptionTrap,
    ];

    /// The name in the optional `campaign` field; `None` for an honest event, whose field is null.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Honest => None,
            Self::AccountTakeover => Some("account_takeover"),
            Self::CardTesting => Some("card_testing"),
            Self::MerchantCollusion => Some("merchant_collusion"),
            Self::GeographicAnomaly => Some("geographic_anomaly"),
            Self::BaselineNoise => Some("baseline_noise"),
            Self::SubscriptionTrap => Some("subscription_trap"),
        }
    }

    /// The place in [`Kind::ALL`] and in counts by kind.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The label.
    pub const fn is_fraud(self) -> bool {
        !matches!(self, Self::Honest)
    }
}

/// How a purchase was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Channel {
    CardPresent,
    Online,
    App,
}

impl Channel {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::CardPresent => "card_present",
            Self::Online => "online",
            Self::App => "app",
        }
    }
}

/// An event before it becomes text or columns. `currency`, `country` and `merchant` are indices into the world's tables.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) event_ms: i64,
    /// When the event is sent if nothing delays it. Equal to `event_ms` except in compatibility mode.
    pub(super) sent_ms: i64,
    pub(super) id: [u64; 2],
    /// 0 when no device took part (card present).
    pub(super) device: u64,
    pub(super) user: u32,
    pub(super) merchant: u32,
    pub(super) cents: u32,
    pub(super) currency: u8,
    pub(super) country: u8,
    pub(super) kind: Kind,
    pub(super) channel: Channel,
}

pub(super) const TRANSACTION_ID_BYTES: usize = 36;
pub(super) const DEVICE_ID_BYTES: usize = 14;
pub(super) const MAX_CENTS: u32 = 1_000_000;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The UUID of an event. Its version is 8 (RFC 9562, "custom"): it is derived, neither random nor a clock's.
pub(super) fn write_transaction_id(id: [u64; 2], out: &mut [u8; TRANSACTION_ID_BYTES]) {
    let high = (id[0] & !0xf000) | 0x8000;
    let low = (id[1] & 0x3fff_ffff_ffff_ffff) | 0x8000_0000_0000_0000;
    let (high, low) = (high.to_be_bytes(), low.to_be_bytes());
    let mut at = 0;
    for (i, byte) in high.iter().chain(&low).enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out[at] = b'-';
            at += 1;
        }
        out[at] = HEX[usize::from(byte >> 4)];
        out[at + 1] = HEX[usize::from(byte & 15)];
        at += 2;
    }
}

/// `d-` and twelve hexadecimal digits.
pub(super) fn write_device_id(device: u64, out: &mut [u8; DEVICE_ID_BYTES]) {
    out[0] = b'd';
    out[1] = b'-';
    for (i, byte) in device.to_be_bytes()[2..].iter().enumerate() {
        out[2 + 2 * i] = HEX[usize::from(byte >> 4)];
        out[3 + 2 * i] = HEX[usize::from(byte & 15)];
    }
}

/// What an event must meet. The user range comes from the settings.
#[derive(Debug, Clone, Copy)]
pub struct EventLimits {
    /// The smallest user id.
    pub first_user_id: i64,
    /// The largest user id.
    pub last_user_id: i64,
}

/// An event as it is about to be written.
#[derive(Debug, Clone, Copy)]
pub struct EventView<'a> {
    /// A UUID in lower-case hexadecimal.
    pub transaction_id: &'a str,
    /// Between the limits' user ids.
    pub user_id: i64,
    /// 0.01 to 10000, two decimals.
    pub amount: f64,
    /// ISO 4217.
    pub currency: &'a str,
    /// Not empty.
    pub merchant: &'a str,
    /// Milliseconds since 1970, UTC; years 1970 to 9999.
    pub timestamp_ms: i64,
    /// ISO 3166 alpha-2.
    pub location: &'a str,
    /// 0 or 1.
    pub is_fraud: i32,
}

/// The rule of the event schema that an event failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaRule {
    /// `transaction_id` is a UUID string.
    TransactionId,
    /// `user_id` is in the range of the settings.
    UserId,
    /// `amount` is from 0.01 to 10000.
    AmountRange,
    /// `amount` has at most two decimals.
    AmountDecimals,
    /// `currency` is three capital letters.
    Currency,
    /// `merchant` is not empty and has no control characters.
    Merchant,
    /// `timestamp` is between the years 1970 and 9999.
    Timestamp,
    /// `location` is two capital letters.
    Location,
    /// `is_fraud` is 0 or 1.
    IsFraud,
}

impl fmt::Display for SchemaRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TransactionId => "transaction_id: expected a uuid of 36 lower-case characters",
            Self::UserId => "user_id: expected a number in the range of the settings",
            Self::AmountRange => "amount: expected 0.01 to 10000",
            Self::AmountDecimals => "amount: expected at most two decimals",
            Self::Currency => "currency: expected three capital letters (iso 4217)",
            Self::Merchant => "merchant: expected a name without control characters",
            Self::Timestamp => "timestamp: expected a time between the years 1970 and 9999",
            Self::Location => "location: expected two capital letters (iso 3166 alpha-2)",
            Self::IsFraud => "is_fraud: expected 0 or 1",
        })
    }
}

const fn is_uuid_digit() -> [bool; 256] {
    let mut table = [false; 256];
    let mut i = 0;
    while i < 16 {
        table[HEX[i] as usize] = true;
        i += 1;
    }
    table
}

static UUID_DIGIT: [bool; 256] = is_uuid_digit();

fn is_uuid(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.len() != TRANSACTION_ID_BYTES {
        return false;
    }
    let mut good = true;
    for (i, byte) in bytes.iter().enumerate() {
        good &= if matches!(i, 8 | 13 | 18 | 23) { *byte == b'-' } else { UUID_DIGIT[usize::from(*byte)] };
    }
    good
}

fn is_capitals(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| b.is_ascii_uppercase())
}

const FIRST_MS_OF_YEAR_10000: i64 = 253_402_300_800_000;

/// Checks an event against the schema. The first rule that fails, in the order of the fields, is returned.
pub fn validate(event: &EventView<'_>, limits: &EventLimits) -> Result<(), SchemaRule> {
    if !is_uuid(event.transaction_id) {
        return Err(SchemaRule::TransactionId);
    }
    if !(limits.first_user_id..=limits.last_user_id).contains(&event.user_id) {
        return Err(SchemaRule::UserId);
    }
    // Written so that NaN fails.
    if !(0.01..=10_000.0).contains(&event.amount) {
        return Err(SchemaRule::AmountRange);
    }
    if (event.amount * 100.0).round() / 100.0 != event.amount {
        return Err(SchemaRule::AmountDecimals);
    }
    if !is_capitals(event.currency, 3) {
        return Err(SchemaRule::Currency);
    }
    if event.merchant.is_empty() || event.merchant.bytes().any(|b| b < b' ') {
        return Err(SchemaRule::Merchant);
    }
    if !(0..FIRST_MS_OF_YEAR_10000).contains(&event.timestamp_ms) {
        return Err(SchemaRule::Timestamp);
    }
    if !is_capitals(event.location, 2) {
        return Err(SchemaRule::Location);
    }
    if !(0..=1).contains(&event.is_fraud) {
        return Err(SchemaRule::IsFraud);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: EventLimits = EventLimits { first_user_id: 1000, last_user_id: 9999 };

    fn good() -> EventView<'static> {
        EventView {
            transaction_id: "00112233-4455-8677-8899-aabbccddeeff",
            user_id: 1000,
            amount: 12.34,
            currency: "USD",
            merchant: "Amber Bakery",
            timestamp_ms: 1_767_225_600_000,
            location: "US",
            is_fraud: 0,
        }
    }

    #[test]
    fn a_good_event_passes() {
        assert_eq!(validate(&good(), &LIMITS), Ok(()));
        for amount in [0.01, 0.07, 1.15, 9_999.99, 10_000.0] {
            assert_eq!(validate(&EventView { amount, ..good() }, &LIMITS), Ok(()));
        }
    }

    #[test]
    fn each_corruption_is_named() {
        let cases = [
            (EventView { transaction_id: "00112233-4455-8677-8899-aabbccddeefg", ..good() }, SchemaRule::TransactionId),
            (EventView { transaction_id: "001122334-455-8677-8899-aabbccddeeff", ..good() }, SchemaRule::TransactionId),
            (EventView { transaction_id: "", ..good() }, SchemaRule::TransactionId),
            (EventView { user_id: 999, ..good() }, SchemaRule::UserId),
            (EventView { user_id: 10_000, ..good() }, SchemaRule::UserId),
            (EventView { amount: 0.0, ..good() }, SchemaRule::AmountRange),
            (EventView { amount: 10_000.01, ..good() }, SchemaRule::AmountRange),
            (EventView { amount: f64::NAN, ..good() }, SchemaRule::AmountRange),
            (EventView { amount: 12.345, ..good() }, SchemaRule::AmountDecimals),
            (EventView { currency: "usd", ..good() }, SchemaRule::Currency),
            (EventView { currency: "USDT", ..good() }, SchemaRule::Currency),
            (EventView { merchant: "", ..good() }, SchemaRule::Merchant),
            (EventView { merchant: "a\nb", ..good() }, SchemaRule::Merchant),
            (EventView { timestamp_ms: -1, ..good() }, SchemaRule::Timestamp),
            (EventView { timestamp_ms: FIRST_MS_OF_YEAR_10000, ..good() }, SchemaRule::Timestamp),
            (EventView { location: "USA", ..good() }, SchemaRule::Location),
            (EventView { is_fraud: 2, ..good() }, SchemaRule::IsFraud),
        ];
        for (event, rule) in cases {
            assert_eq!(validate(&event, &LIMITS), Err(rule), "{event:?}");
        }
    }

    #[test]
    fn kinds_stand_at_their_index() {
        for (i, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(kind.index(), i);
            assert_eq!(kind.is_fraud(), kind.name().is_some());
        }
    }
}
