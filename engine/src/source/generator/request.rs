//! The options of `tidemill generate` that say which events to make, and their meaning. Where the events go to Kafka, and at what
//! pace, is the command's business. It reads no clock: without `--from` the world begins at the time that the caller names.

use std::ops::Range;

use chrono::{DateTime, NaiveDate, NaiveTime};

use super::error::GeneratorError;
use super::settings::{DAY_MS, Drift, GeneratorSettings, Imperfections, OptionalFields, WorldKind};

/// An optional field of the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum FieldName {
    /// The device of a purchase that is not card-present.
    DeviceId,
    /// How a purchase was made.
    Channel,
    /// The kind of fraud: an answer, not a feature.
    Campaign,
}

/// Which events to make.
#[derive(Debug, Clone, clap::Args)]
pub struct GenerateRequest {
    /// Everything is derived from it: the same seed gives the same events.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Number of users; their ids begin at 1000.
    #[arg(long, default_value_t = 9000)]
    pub users: u32,
    /// Number of merchants.
    #[arg(long, default_value_t = 1500)]
    pub merchants: u32,
    /// Mean events per second of event time; without it, 2.2 purchases a day of each user.
    #[arg(long, value_name = "RATE")]
    pub events_per_second: Option<f64>,
    /// First event time: a day such as 2026-01-01 or a time such as 2026-01-01T08:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// End of event time, exclusive.
    #[arg(long, value_name = "TIME", conflicts_with = "days")]
    pub to: Option<String>,
    /// Number of days of event time, in place of `--to`.
    #[arg(long, value_name = "DAYS")]
    pub days: Option<f64>,
    /// Share of fraud in all events.
    #[arg(long, default_value_t = 0.014, value_name = "SHARE")]
    pub fraud_rate: f64,
    /// Share of fraud that looks like any purchase; a part of the fraud rate.
    #[arg(long, default_value_t = 0.0015, value_name = "SHARE")]
    pub noise_rate: f64,
    /// Prices, merchants and attacks change from this day on.
    #[arg(long, value_name = "DAY")]
    pub drift_from: Option<String>,
    /// The events of the project that Tidemill replaces, for comparison.
    #[arg(long)]
    pub compat: bool,
    /// Fields beyond the schema's eight, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub fields: Vec<FieldName>,
    /// Share of malformed records.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub malformed: f64,
    /// Share of records that arrive minutes late.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub late: f64,
    /// Share of records that are sent twice.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub duplicates: f64,
    /// Share of records that others overtake by up to two seconds.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub out_of_order: f64,
    /// Share of records that are stamped up to two hours ahead.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub future: f64,
    /// Share of the honest traffic that is at one user.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub hot_user: f64,
}

/// Milliseconds since 1970 of a day or of an RFC 3339 time.
fn parse_time(option: &str, text: &str) -> Result<i64, String> {
    if let Ok(day) = text.parse::<NaiveDate>() {
        return Ok(day.and_time(NaiveTime::MIN).and_utc().timestamp_millis());
    }
    DateTime::parse_from_rfc3339(text).map(|time| time.timestamp_millis()).map_err(|_| {
        format!("{option}: expected a day such as 2026-01-01 or a time such as 2026-01-01T08:00:00Z, found {text:?}")
    })
}

impl GenerateRequest {
    /// The settings that are asked for, checked; all problems at once.
    pub fn settings(&self) -> Result<GeneratorSettings, GeneratorError> {
        let mut problems = Vec::new();
        let drift = self.drift_from.as_deref().and_then(|text| match parse_time("--drift-from", text) {
            Ok(from_ms) => Some(Drift::from_day(from_ms)),
            Err(problem) => {
                problems.push(problem);
                None
            }
        });
        let asks = |field| self.fields.contains(&field);
        let mut settings = GeneratorSettings {
            seed: self.seed,
            world: if self.compat { WorldKind::Compat } else { WorldKind::Credible },
            num_users: self.users,
            num_merchants: self.merchants,
            fraud_rate: self.fraud_rate,
            noise_rate: self.noise_rate,
            drift,
            hot_user_share: self.hot_user,
            fields: OptionalFields {
                device_id: asks(FieldName::DeviceId),
                channel: asks(FieldName::Channel),
                campaign: asks(FieldName::Campaign),
            },
            imperfections: Imperfections {
                malformed_share: self.malformed,
                late_share: self.late,
                duplicate_share: self.duplicates,
                out_of_order_share: self.out_of_order,
                future_share: self.future,
                ..Imperfections::default()
            },
            ..GeneratorSettings::default()
        };
        if let Some(rate) = self.events_per_second {
            settings = settings.with_events_per_second(rate);
        }
        match settings.check() {
            Err(GeneratorError::Settings(more)) => problems.extend(more),
            other => other?,
        }
        if problems.is_empty() { Ok(settings) } else { Err(GeneratorError::Settings(problems)) }
    }

    /// The range of time that is asked for; its end is `None` where none was given, which only a live feed can follow.
    pub fn time_ms(&self, default_from_ms: i64) -> Result<(i64, Option<i64>), GeneratorError> {
        let parse = |option, text: &Option<String>| text.as_deref().map(|text| parse_time(option, text)).transpose();
        let invalid = |problem| GeneratorError::Settings(vec![problem]);
        let from_ms = parse("--from", &self.from).map_err(invalid)?.unwrap_or(default_from_ms);
        let to_ms = match (parse("--to", &self.to).map_err(invalid)?, self.days) {
            (Some(to_ms), _) => Some(to_ms),
            (None, Some(days)) => Some(from_ms.saturating_add((days * DAY_MS as f64).round() as i64)),
            (None, None) => None,
        };
        match to_ms {
            Some(to_ms) if to_ms <= from_ms => Err(GeneratorError::Range { from_ms, to_ms }),
            _ => Ok((from_ms, to_ms)),
        }
    }

    /// As [`GenerateRequest::time_ms`], for files, which need an end.
    pub fn range_ms(&self, default_from_ms: i64) -> Result<Range<i64>, GeneratorError> {
        match self.time_ms(default_from_ms)? {
            (from_ms, Some(to_ms)) => Ok(from_ms..to_ms),
            _ => Err(GeneratorError::Settings(vec![
                "--to: expected an end of event time, found none; give --to or --days".to_owned(),
            ])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        request: GenerateRequest,
    }

    fn request(options: &str) -> GenerateRequest {
        let words = std::iter::once("generate").chain(options.split_whitespace());
        <Line as clap::Parser>::try_parse_from(words).unwrap().request
    }

    const START: i64 = 1_767_225_600_000;

    #[test]
    fn no_option_asks_for_the_default_world() {
        assert_eq!(request("").settings().unwrap(), GeneratorSettings::default());
        assert_eq!(request("").time_ms(START).unwrap(), (START, None));
        assert!(request("").range_ms(START).unwrap_err().to_string().contains("--to or --days"));
    }

    #[test]
    fn options_reach_the_settings() {
        let settings = request(
            "--seed 7 --users 100 --events-per-second 50 --drift-from 2026-02-01 --fields device_id,campaign --late 0.1 --hot-user 0.2",
        )
        .settings()
        .unwrap();
        assert_eq!((settings.seed, settings.num_users, settings.hot_user_share), (7, 100, 0.2));
        assert_eq!(settings.drift.unwrap().from_ms, START + 31 * DAY_MS);
        assert_eq!(settings.fields, OptionalFields { device_id: true, channel: false, campaign: true });
        assert_eq!(settings.imperfections.late_share, 0.1);
        assert_eq!(request("--compat").settings().unwrap().world, WorldKind::Compat);
        assert!((settings.events_per_second() - 50.0).abs() < 1e-9);
    }

    #[test]
    fn times_are_days_or_instants() {
        assert_eq!(request("--from 2026-01-01 --days 1.5").range_ms(0).unwrap(), START..START + 3 * DAY_MS / 2);
        let range = request("--from 2026-01-01T01:00:00+01:00 --to 2026-01-02").range_ms(0).unwrap();
        assert_eq!(range, START..START + DAY_MS);
        assert!(matches!(request("--days=-1").range_ms(START), Err(GeneratorError::Range { .. })));
        assert!(request("--from yesterday").range_ms(0).unwrap_err().to_string().contains("--from: expected a day"));
    }

    #[test]
    fn wrong_options_are_named_together() {
        let Err(GeneratorError::Settings(problems)) = request("--drift-from soon --late 2 --users 0").settings() else {
            panic!("the options are wrong");
        };
        assert_eq!(problems.len(), 4, "{problems:?}");
    }
}
