//! The forms of text that the file writes values in: durations, sizes, column types, times, paths. Pure functions from text
//! to value; a wrong text says what was expected.

use std::net::SocketAddr;
use std::time::Duration;

use super::problem::{choices_help, quoted};
use super::settings::{ColumnType, EpochUnit};

/// A value that the file writes as text in a form of its own.
pub(super) trait TextForm: Sized {
    /// The name of the form in the JSON Schema (`format`).
    const FORMAT: &'static str;
    /// A regular expression for editors; wider than [`TextForm::parse`].
    const PATTERN: &'static str;
    /// "a duration such as ...".
    const EXPECTED: &'static str;

    /// The value, or what to do about the text.
    fn parse(text: &str) -> Result<Self, String>;

    /// The text for a value.
    fn print(&self) -> String;
}

/// The number at the beginning of a text, without sign, and the rest. A number that is too large becomes the largest.
fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| (text[..end].parse().unwrap_or(u64::MAX), &text[end..]))
}

impl TextForm for Duration {
    const FORMAT: &'static str = "tidemill-duration";
    const PATTERN: &'static str = "^[0-9]+(ms|s|m|h|d)$";
    const EXPECTED: &'static str = "a duration such as 250ms, 1s, 5m, 2h or 90d";

    fn parse(text: &str) -> Result<Duration, String> {
        let units = "units: ms, s, m, h, d";
        let (number, unit) = leading_number(text).ok_or_else(|| format!("a whole number and a unit; {units}"))?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "" => return Err(format!("add a unit: {text}s or {text}ms")),
            _ => return Err(format!("a whole number and a unit; {units}")),
        };
        let millis = number.checked_mul(millis).filter(|millis| *millis <= 3_652_500 * 86_400_000);
        millis.map(Duration::from_millis).ok_or_else(|| "durations end at 10000 years".to_string())
    }

    fn print(&self) -> String {
        let millis = self.as_millis();
        for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
            // 60s reads better than 1m, and 1m better than 60000ms.
            if millis >= size && millis.is_multiple_of(size) && (unit != "m" || millis > 60_000) {
                return format!("{}{unit}", millis / size);
            }
        }
        format!("{millis}ms")
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ByteSize(pub(super) u64);

impl TextForm for ByteSize {
    const FORMAT: &'static str = "tidemill-size";
    const PATTERN: &'static str = "^[0-9]+(B|KiB|MiB|GiB)$";
    const EXPECTED: &'static str = "a size such as 64KiB, 1MiB or 2GiB";

    fn parse(text: &str) -> Result<ByteSize, String> {
        let (number, unit) = leading_number(text).ok_or("a whole number and a unit; units: B, KiB, MiB, GiB")?;
        let factor = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "" => return Err(format!("add a unit: {text}B, or KiB, MiB, GiB")),
            "k" | "K" | "KB" | "kB" | "kb" => return Err(format!("write {number}KiB: units are B, KiB, MiB, GiB")),
            "M" | "MB" | "mb" => return Err(format!("write {number}MiB: units are B, KiB, MiB, GiB")),
            "G" | "GB" | "gb" => return Err(format!("write {number}GiB: units are B, KiB, MiB, GiB")),
            _ => return Err("units are B, KiB, MiB, GiB, right behind the number".to_string()),
        };
        number.checked_mul(factor).map(ByteSize).ok_or_else(|| "more bytes than can be counted".to_string())
    }

    fn print(&self) -> String {
        for (unit, size) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= size && self.0.is_multiple_of(size) {
                return format!("{}{unit}", self.0 / size);
            }
        }
        format!("{}B", self.0)
    }
}

/// A point in time, milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimestampMillis(pub(super) i64);

impl TextForm for TimestampMillis {
    const FORMAT: &'static str = "date-time";
    const PATTERN: &'static str = "^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}";
    const EXPECTED: &'static str = "a time such as 2026-01-31T08:00:00Z";

    fn parse(text: &str) -> Result<TimestampMillis, String> {
        let time = chrono::DateTime::parse_from_rfc3339(text)
            .map_err(|_| "date, `T`, time, and `Z` or an offset such as +01:00 (RFC 3339)".to_string())?;
        let millis = time.timestamp_millis();
        if millis < 0 { Err("no record is older than 1970".to_string()) } else { Ok(TimestampMillis(millis)) }
    }

    fn print(&self) -> String {
        chrono::DateTime::from_timestamp_millis(self.0).map_or_else(String::new, |time| time.to_rfc3339())
    }
}

/// `type` or `type not null`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ColumnSpec {
    pub(super) column_type: ColumnType,
    pub(super) is_nullable: bool,
}

const TYPES: [(&str, ColumnType); 10] = [
    ("string", ColumnType::String),
    ("int", ColumnType::Int32),
    ("bigint", ColumnType::Int64),
    ("float", ColumnType::Float32),
    ("double", ColumnType::Float64),
    ("boolean", ColumnType::Boolean),
    ("timestamp", ColumnType::Timestamp),
    ("epoch_s", ColumnType::Epoch(EpochUnit::Seconds)),
    ("epoch_ms", ColumnType::Epoch(EpochUnit::Milliseconds)),
    ("epoch_us", ColumnType::Epoch(EpochUnit::Microseconds)),
];

impl TextForm for ColumnSpec {
    const FORMAT: &'static str = "tidemill-column";
    const PATTERN: &'static str = "^(string|int|bigint|float|double|boolean|timestamp|epoch_s|epoch_ms|epoch_us|\
        decimal *\\( *[0-9]+ *, *[0-9]+ *\\))( +not +null)?$";
    const EXPECTED: &'static str = "a column type, such as `string` or `double not null`";

    fn parse(text: &str) -> Result<ColumnSpec, String> {
        let lower = text.to_lowercase();
        if lower != text {
            return match ColumnSpec::parse(&lower) {
                Ok(spec) => Err(format!("write it in lower case: {}", quoted(&spec.print()))),
                Err(help) => Err(help),
            };
        }
        let (name, is_nullable) = match text.strip_suffix("null").map(str::trim_end).and_then(|t| t.strip_suffix("not"))
        {
            Some(name) if name.ends_with(' ') => (name.trim_end(), false),
            _ => (text, true),
        };
        if let Some((_, column_type)) = TYPES.iter().find(|(known, _)| *known == name) {
            return Ok(ColumnSpec { column_type: *column_type, is_nullable });
        }
        if let Some(arguments) = name.strip_prefix("decimal") {
            return Ok(ColumnSpec { column_type: decimal(arguments.trim())?, is_nullable });
        }
        Err(unknown_type(name))
    }

    fn print(&self) -> String {
        let name = match self.column_type {
            ColumnType::Decimal(precision, scale) => format!("decimal({precision}, {scale})"),
            other => TYPES
                .iter()
                .find(|(_, known)| *known == other)
                .map_or_else(String::new, |(name, _)| (*name).to_string()),
        };
        if self.is_nullable { name } else { format!("{name} not null") }
    }
}

fn decimal(arguments: &str) -> Result<ColumnType, String> {
    let wrong =
        || "write decimal(precision, scale), with a precision of 1 to 38 and a scale of 0 to the precision".to_string();
    if arguments.starts_with('(') && !arguments.contains(')') {
        return Err(
            "inside `{ }` the comma of a decimal ends the value: put it in quotes, \"decimal(10, 2)\"".to_string()
        );
    }
    let inner = arguments.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).ok_or_else(wrong)?;
    let (precision, scale) = inner.split_once(',').ok_or_else(wrong)?;
    let precision: u8 = precision.trim().parse().map_err(|_| wrong())?;
    let scale: i8 = scale.trim().parse().map_err(|_| wrong())?;
    if !(1..=38).contains(&precision) || scale < 0 || scale.unsigned_abs() > precision {
        return Err(wrong());
    }
    Ok(ColumnType::Decimal(precision, scale))
}

/// Names that other systems use, and ours.
fn unknown_type(name: &str) -> String {
    let mut known: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
    known.push("decimal(p, s)");
    let ours = match name.split('(').next().unwrap_or_default().trim() {
        "varchar" | "text" | "char" | "utf8" | "uuid" | "str" => "string",
        "integer" | "int32" | "smallint" | "tinyint" => "int",
        "int64" | "long" | "int8" => "bigint",
        "float32" | "real" => "float",
        "float64" | "number" | "double precision" => "double",
        "bool" => "boolean",
        "datetime" | "date" | "timestamptz" => "timestamp",
        "numeric" => "decimal(p, s)",
        other => return choices_help(other, "types, each with or without `not null`", &known),
    };
    format!("did you mean {}? {}", quoted(ours), choices_help("", "types, each with or without `not null`", &known))
}

/// What a name must be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameKind {
    /// A table in SQL: unquoted identifiers are read in lower case.
    Table,
    /// A name of ours, in metrics and paths.
    Own,
}

/// Whether a name may stand; otherwise what it must look like.
pub(super) fn check_name(name: &str, kind: NameKind) -> Result<(), &'static str> {
    let is_ok = match kind {
        NameKind::Table => {
            name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
                && !name.starts_with(|c: char| c.is_ascii_digit())
        }
        NameKind::Own => {
            name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
                && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        }
    };
    match kind {
        _ if is_ok && !name.is_empty() && name.len() <= 100 => Ok(()),
        NameKind::Table => {
            Err("a name in SQL: at most 100 lower-case letters, digits and `_`, not beginning with a digit")
        }
        NameKind::Own => Err("at most 100 letters, digits, `-` and `_`, beginning with a letter or digit"),
    }
}

/// Whether a topic's name is one that Kafka takes.
pub(super) fn check_topic(topic: &str) -> Result<(), &'static str> {
    let is_ok = topic.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if is_ok && (1..=249).contains(&topic.len()) && topic != "." && topic != ".." {
        return Ok(());
    }
    Err("a topic's name is 1 to 249 letters, digits, `.`, `_` and `-`; patterns are not supported, list the topics")
}

/// An address to serve at, or nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listen(pub(super) Option<SocketAddr>);

impl TextForm for Listen {
    const FORMAT: &'static str = "tidemill-listen";
    const PATTERN: &'static str = "^(off|.+:[0-9]+)$";
    const EXPECTED: &'static str = "an address such as 127.0.0.1:8080, or `off`";

    fn parse(text: &str) -> Result<Listen, String> {
        if text == "off" {
            return Ok(Listen(None));
        }
        text.parse().map(|address| Listen(Some(address))).map_err(|_| {
            "an IP address and a port: 127.0.0.1:8080 for this machine alone, 0.0.0.0:8080 for all, [::1]:8080 for IPv6".to_string()
        })
    }

    fn print(&self) -> String {
        self.0.map_or_else(|| "off".to_string(), |address| address.to_string())
    }
}
