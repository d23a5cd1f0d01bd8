//! What the generator is asked for, with every default and unit, and the check of it.
//! All problems are reported at once, each with the field, what was expected and what was found. It reads no file and no environment.

use super::error::GeneratorError;

/// Milliseconds of a day.
pub const DAY_MS: i64 = 86_400_000;

/// A world and how its events are delivered. Two equal settings give the same bits.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratorSettings {
    /// Everything is derived from it.
    pub seed: u64,
    /// Which world: the credible one, or the producer of the job that Tidemill replaces.
    pub world: WorldKind,
    /// The smallest user id.
    pub first_user_id: i64,
    /// User ids are `first_user_id .. first_user_id + num_users`.
    pub num_users: u32,
    /// Merchants at the start; a drift may add more.
    pub num_merchants: u32,
    /// Honest purchases of the average user on the average day. The bursts of campaigns grow with it, so that dense worlds (a high
    /// rate from few users) are about as hard as the default.
    pub transactions_per_user_day: f64,
    /// Share of fraud in all events, 0 to 0.1. 0.014 is 1.4 %.
    pub fraud_rate: f64,
    /// Share of baseline noise in all events; it is part of `fraud_rate`.
    pub noise_rate: f64,
    /// How the rest of the fraud is divided.
    pub fraud_shares: FraudShares,
    /// A change of the world from a given day on.
    pub drift: Option<Drift>,
    /// Share of the honest traffic that is at one user (the last of the world's), 0 to 0.9.
    pub hot_user_share: f64,
    /// Only the users of one shard; all shards together are the world.
    pub shard: Option<Shard>,
    /// Optional fields of the event.
    pub fields: OptionalFields,
    /// How delivery spoils the events. It concerns records, never Arrow batches, which hold the truth.
    pub imperfections: Imperfections,
    /// Rows of an Arrow batch.
    pub batch_rows: usize,
}

impl Default for GeneratorSettings {
    fn default() -> Self {
        Self {
            seed: 42,
            world: WorldKind::Credible,
            first_user_id: 1000,
            num_users: 9000,
            num_merchants: 1500,
            transactions_per_user_day: 2.2,
            fraud_rate: 0.014,
            noise_rate: 0.0015,
            fraud_shares: FraudShares::default(),
            drift: None,
            hot_user_share: 0.0,
            shard: None,
            fields: OptionalFields::default(),
            imperfections: Imperfections::default(),
            batch_rows: 65_536,
        }
    }
}

/// Which events are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorldKind {
    /// Users with habits, merchants, campaigns.
    Credible,
    /// The replaced project's producer: uniform amounts, random users, keyed by transaction id, stamped -5 to +50 minutes around the
    /// time of sending, labelled by that project's rules (0.37 % fraud, whatever `fraud_rate` says).
    Compat,
}

/// Shares of the campaigns in the fraud that is not noise. They add up to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FraudShares {
    /// Bursts on one account.
    pub account_takeover: f64,
    /// Micro-payments over many cards.
    pub card_testing: f64,
    /// Round amounts at one merchant.
    pub merchant_collusion: f64,
    /// Far purchases.
    pub geographic_anomaly: f64,
}

impl Default for FraudShares {
    fn default() -> Self {
        Self { account_takeover: 0.4, card_testing: 0.3, merchant_collusion: 0.2, geographic_anomaly: 0.1 }
    }
}

/// A change of the world.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    /// When it begins: milliseconds since 1970, UTC; the start of a day.
    pub from_ms: i64,
    /// New merchants, as a share of `num_merchants`; they take 30 % of the purchases that are not habits.
    pub new_merchants: f64,
    /// All honest prices are multiplied by it, 0.1 to 10.
    pub price_factor: f64,
    /// A kind of fraud that was not there before takes a fifth of the campaigns' share.
    pub new_attack: bool,
}

impl Drift {
    /// All three changes, as they are usually wanted.
    pub fn from_day(from_ms: i64) -> Self {
        Self { from_ms, new_merchants: 0.2, price_factor: 1.5, new_attack: true }
    }
}

/// The users whose index is `index` modulo `of`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Below `of`.
    pub index: u32,
    /// Number of shards.
    pub of: u32,
}

/// Fields beyond the schema's eight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OptionalFields {
    /// The device of a purchase that is not card-present, else null.
    pub device_id: bool,
    /// `card_present`, `online` or `app`.
    pub channel: bool,
    /// The kind of fraud, null for an honest event. An answer, not a feature.
    pub campaign: bool,
}

impl OptionalFields {
    /// All of them.
    pub const ALL: Self = Self { device_id: true, channel: true, campaign: true };
}

/// How delivery spoils events. Shares are of all events, exclude each other and add up to at most 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Imperfections {
    /// Records whose value breaks the schema or JSON itself, in equal parts of every [`super::Malformation`].
    pub malformed_share: f64,
    /// Records that arrive much later than their event time.
    pub late_share: f64,
    /// The median of their delay, in milliseconds (lognormal with sigma 1).
    pub late_median_ms: i64,
    /// The bound of their delay, in milliseconds.
    pub late_max_ms: i64,
    /// Records that are sent twice, the same bytes.
    pub duplicate_share: f64,
    /// The second copy comes 1 to this many milliseconds after the first.
    pub duplicate_max_ms: i64,
    /// Records that are overtaken by others.
    pub out_of_order_share: f64,
    /// They are held back 1 to this many milliseconds.
    pub out_of_order_max_ms: i64,
    /// Records whose timestamp is ahead of their arrival.
    pub future_share: f64,
    /// By at most this many milliseconds, and at least a tenth of it.
    pub future_max_ms: i64,
}

impl Default for Imperfections {
    fn default() -> Self {
        Self {
            malformed_share: 0.0,
            late_share: 0.0,
            late_median_ms: 120_000,
            late_max_ms: 3_600_000,
            duplicate_share: 0.0,
            duplicate_max_ms: 5_000,
            out_of_order_share: 0.0,
            out_of_order_max_ms: 2_000,
            future_share: 0.0,
            future_max_ms: 7_200_000,
        }
    }
}

impl Imperfections {
    /// The longest time between an event and the last record of it.
    pub(super) fn max_delay_ms(&self) -> i64 {
        let mut longest = 0;
        for (share, delay) in [
            (self.late_share, self.late_max_ms),
            (self.duplicate_share, self.duplicate_max_ms),
            (self.out_of_order_share, self.out_of_order_max_ms),
        ] {
            if share > 0.0 {
                longest = longest.max(delay);
            }
        }
        longest
    }

    fn total_share(&self) -> f64 {
        self.malformed_share + self.late_share + self.duplicate_share + self.out_of_order_share + self.future_share
    }
}

struct Problems(Vec<String>);

impl Problems {
    fn share(&mut self, field: &str, value: f64, max: f64) {
        if !(0.0..=max).contains(&value) {
            self.0.push(format!("{field}: expected a share from 0 to {max}, found {value}"));
        }
    }

    fn unless(&mut self, good: bool, problem: impl FnOnce() -> String) {
        if !good {
            self.0.push(problem());
        }
    }
}

impl GeneratorSettings {
    /// Sets `transactions_per_user_day` so that the world gives about `events_per_second` on average, fraud and hot user included.
    /// It reads the world, the number of users, the fraud rate and the hot user's share, which are to be set before.
    #[must_use]
    pub fn with_events_per_second(mut self, events_per_second: f64) -> Self {
        self.transactions_per_user_day = 1.0;
        self.transactions_per_user_day = events_per_second / self.events_per_second();
        self
    }

    /// The mean of events per second over a week, fraud and hot user included, before duplicates.
    pub fn events_per_second(&self) -> f64 {
        let honest = f64::from(self.num_users) * self.transactions_per_user_day / 86_400.0;
        match self.world {
            WorldKind::Credible => honest / ((1.0 - self.fraud_rate) * (1.0 - self.hot_user_share)),
            WorldKind::Compat => honest,
        }
    }

    /// Finds everything that is wrong.
    pub fn check(&self) -> Result<(), GeneratorError> {
        let mut problems = Problems(Vec::new());
        self.check_world(&mut problems);
        self.check_fraud(&mut problems);
        self.check_delivery(&mut problems);
        if problems.0.is_empty() { Ok(()) } else { Err(GeneratorError::Settings(problems.0)) }
    }

    fn check_world(&self, problems: &mut Problems) {
        problems.unless((1..=50_000_000).contains(&self.num_users), || {
            format!("num_users: expected 1 to 50000000, found {}", self.num_users)
        });
        problems.unless((0..=i64::from(u32::MAX)).contains(&self.first_user_id), || {
            format!("first_user_id: expected 0 to {}, found {}", u32::MAX, self.first_user_id)
        });
        problems.unless((50..=1_000_000).contains(&self.num_merchants), || {
            format!("num_merchants: expected 50 to 1000000, found {}", self.num_merchants)
        });
        let most = 10_000_000.0;
        problems.unless(self.transactions_per_user_day > 0.0 && self.transactions_per_user_day <= most, || {
            format!(
                "transactions_per_user_day: expected more than 0 and at most {most}, found {}",
                self.transactions_per_user_day
            )
        });
        problems.share("hot_user_share", self.hot_user_share, 0.9);
        let rate = self.events_per_second();
        problems.unless(rate <= 2_000_000.0 || rate.is_nan(), || {
            format!("num_users and transactions_per_user_day: expected at most 2000000 events per second together, found {rate}")
        });
        problems.unless((1..=1_048_576).contains(&self.batch_rows), || {
            format!("batch_rows: expected 1 to 1048576, found {}", self.batch_rows)
        });
        if let Some(shard) = self.shard {
            problems.unless(shard.of >= 1 && shard.index < shard.of, || {
                format!("shard: expected an index below the number of shards, found {} of {}", shard.index, shard.of)
            });
        }
        if self.world == WorldKind::Compat {
            problems
                .unless(self.shard.is_none(), || "shard: the compat world has no user shards; leave it out".to_owned());
            problems.unless(self.drift.is_none(), || "drift: the compat world does not drift; leave it out".to_owned());
            problems.unless(self.hot_user_share == 0.0, || {
                "hot_user_share: the compat world draws users uniformly; leave it at 0".to_owned()
            });
            problems.unless(
                self.fields == OptionalFields { campaign: self.fields.campaign, ..OptionalFields::default() },
                || "fields: the compat world has no device_id and no channel; ask for campaign only".to_owned(),
            );
        }
    }

    fn check_fraud(&self, problems: &mut Problems) {
        problems.share("fraud_rate", self.fraud_rate, 0.1);
        problems.share("noise_rate", self.noise_rate, 0.1);
        problems.unless(self.noise_rate <= self.fraud_rate || (self.noise_rate + self.fraud_rate).is_nan(), || {
            format!(
                "noise_rate: expected at most fraud_rate ({}), of which it is a part, found {}",
                self.fraud_rate, self.noise_rate
            )
        });
        let shares = &self.fraud_shares;
        problems.share("fraud_shares.account_takeover", shares.account_takeover, 1.0);
        problems.share("fraud_shares.card_testing", shares.card_testing, 1.0);
        problems.share("fraud_shares.merchant_collusion", shares.merchant_collusion, 1.0);
        problems.share("fraud_shares.geographic_anomaly", shares.geographic_anomaly, 1.0);
        let total =
            shares.account_takeover + shares.card_testing + shares.merchant_collusion + shares.geographic_anomaly;
        problems.unless((total - 1.0).abs() < 1e-9, || {
            format!("fraud_shares: expected shares that add up to 1, found {total}")
        });
        if let Some(drift) = &self.drift {
            problems.unless(drift.from_ms.rem_euclid(DAY_MS) == 0, || {
                format!(
                    "drift.from_ms: expected the start of a day (a multiple of {DAY_MS} ms), found {}",
                    drift.from_ms
                )
            });
            problems.share("drift.new_merchants", drift.new_merchants, 1.0);
            problems.unless((0.1..=10.0).contains(&drift.price_factor), || {
                format!("drift.price_factor: expected 0.1 to 10, found {}", drift.price_factor)
            });
        }
    }

    fn check_delivery(&self, problems: &mut Problems) {
        let spoil = &self.imperfections;
        problems.share("imperfections.malformed_share", spoil.malformed_share, 1.0);
        problems.share("imperfections.late_share", spoil.late_share, 1.0);
        problems.share("imperfections.duplicate_share", spoil.duplicate_share, 1.0);
        problems.share("imperfections.out_of_order_share", spoil.out_of_order_share, 1.0);
        problems.share("imperfections.future_share", spoil.future_share, 1.0);
        let total = spoil.total_share();
        problems.unless(total <= 1.0 || total.is_nan(), || {
            format!("imperfections: expected shares that add up to at most 1, found {total}")
        });
        for (field, value) in [
            ("late_median_ms", spoil.late_median_ms),
            ("late_max_ms", spoil.late_max_ms),
            ("duplicate_max_ms", spoil.duplicate_max_ms),
            ("out_of_order_max_ms", spoil.out_of_order_max_ms),
            ("future_max_ms", spoil.future_max_ms),
        ] {
            problems.unless((1..=7 * DAY_MS).contains(&value), || {
                format!("imperfections.{field}: expected 1 to {} ms (7 days), found {value}", 7 * DAY_MS)
            });
        }
    }
}
