//! Why a record is rejected: a closed list with stable names, which users meet in dead letters, metrics and logs. A reason
//! and its detail never hold anything of the record's content.

use std::fmt;

/// Why a record was rejected. The first problem counts: payload as a whole, then members from left to right, then missing
/// columns in declared order, then the guard against the future, then checks in the order of the pipeline file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The record has no payload at all.
    Tombstone,
    /// The payload has no bytes, or white space only.
    EmptyPayload,
    /// The payload is above `max_record_bytes`.
    TooLarge,
    /// The payload begins with byte 0: a serializer with a schema registry wrote it.
    SchemaRegistryFraming,
    /// The payload is not UTF-8.
    InvalidUtf8,
    /// The payload is not JSON (RFC 8259).
    NotJson,
    /// The payload ends inside a JSON value.
    TruncatedJson,
    /// The payload is JSON, but not an object.
    NotAnObject,
    /// Another value begins after the object.
    SeveralValues,
    /// A declared column occurs twice.
    DuplicateKey,
    /// A value is of another type than its column.
    WrongType,
    /// Null in a column that is `not null`.
    NullValue,
    /// A column that is `not null` is absent.
    MissingColumn,
    /// A number (or a time) is outside the range of its column.
    NumberOverflow,
    /// A number written with a fraction or an exponent in a column of whole numbers.
    FractionalNumber,
    /// A number in quotes in a column of numbers.
    QuotedNumber,
    /// NaN or an infinity.
    NonFiniteNumber,
    /// A decimal that its column's scale cannot hold exactly.
    DecimalTooPrecise,
    /// A string that is not a time as in RFC 3339.
    InvalidTimestamp,
    /// The event time is null or absent.
    NullEventTime,
    /// The event time is further ahead of the broker's timestamp than `max_future_skew`.
    FutureEventTime,
    /// A check is not true.
    FailedCheck,
    /// The SQL of a view or a sink failed on the row.
    SqlError,
    /// The record of an internal topic is none that this pipeline wrote there.
    ForeignRecord,
}

impl Reason {
    /// All reasons, in the order of the list.
    pub const ALL: [Reason; 24] = [
        Reason::Tombstone,
        Reason::EmptyPayload,
        Reason::TooLarge,
        Reason::SchemaRegistryFraming,
        Reason::InvalidUtf8,
        Reason::NotJson,
        Reason::TruncatedJson,
        Reason::NotAnObject,
        Reason::SeveralValues,
        Reason::DuplicateKey,
        Reason::WrongType,
        Reason::NullValue,
        Reason::MissingColumn,
        Reason::NumberOverflow,
        Reason::FractionalNumber,
        Reason::QuotedNumber,
        Reason::NonFiniteNumber,
        Reason::DecimalTooPrecise,
        Reason::InvalidTimestamp,
        Reason::NullEventTime,
        Reason::FutureEventTime,
        Reason::FailedCheck,
        Reason::SqlError,
        Reason::ForeignRecord,
    ];

    /// The name that users see; it never changes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Tombstone => "tombstone",
            Reason::EmptyPayload => "empty_payload",
            Reason::TooLarge => "too_large",
            Reason::SchemaRegistryFraming => "schema_registry_framing",
            Reason::InvalidUtf8 => "invalid_utf8",
            Reason::NotJson => "not_json",
            Reason::TruncatedJson => "truncated_json",
            Reason::NotAnObject => "not_an_object",
            Reason::SeveralValues => "several_values",
            Reason::DuplicateKey => "duplicate_key",
            Reason::WrongType => "wrong_type",
            Reason::NullValue => "null_value",
            Reason::MissingColumn => "missing_column",
            Reason::NumberOverflow => "number_overflow",
            Reason::FractionalNumber => "fractional_number",
            Reason::QuotedNumber => "quoted_number",
            Reason::NonFiniteNumber => "non_finite_number",
            Reason::DecimalTooPrecise => "decimal_too_precise",
            Reason::InvalidTimestamp => "invalid_timestamp",
            Reason::NullEventTime => "null_event_time",
            Reason::FutureEventTime => "future_event_time",
            Reason::FailedCheck => "failed_check",
            Reason::SqlError => "sql_error",
            Reason::ForeignRecord => "foreign_record",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A record that did not become a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Its index in the block, or of the row in the batch.
    pub record: usize,
    /// Why.
    pub reason: Reason,
    /// Which column, which check, which limit: never a value of the record.
    pub detail: Option<String>,
}
