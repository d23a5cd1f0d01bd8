//! The compat world: what the producer of the replaced project sends, for like-for-like comparison.
//! Its events have no history to learn from, most of its rules can hardly fire, and its fraud rate is 0.37 %, not the 1 to 2 % that
//! it claims; all that is kept on purpose. Two things differ: amounts always have two decimals (there, an amount with more decimals
//! gave a fraud away), and company names come from a table of 65 539.

use super::numbers::{Stream, key, mix};
use super::places::{COMPANY_SUFFIXES, FAMILY_NAMES, HIGH_RISK_MERCHANTS, ISO_3166};
use super::row::{Channel, Kind, MAX_CENTS, Row};
use super::settings::{DAY_MS, GeneratorSettings};
use super::world::domain;

const COMPAT: u64 = 8;
const COMPROMISED: u64 = 9;
const NUM_COMPANIES: u32 = 65_536;
const NUM_COMPROMISED: usize = 50;
/// Stamps lie from 5 minutes before to 50 minutes after the time of sending, in whole seconds.
pub(super) const BEHIND_MS: i64 = 300_000;
pub(super) const AHEAD_MS: i64 = 3_000_000;
/// The share of labels that the producer's last rule leaves alone; it drops the others.
const KEPT_LABELS: f64 = 0.985;

#[derive(Debug)]
pub(super) struct CompatWorld {
    pub(super) settings: GeneratorSettings,
    pub(super) names: Vec<String>,
    pub(super) countries: Vec<&'static str>,
    pub(super) slot_ms: i64,
    seed: u64,
    rows_per_day: i64,
    /// Sorted indices of users.
    compromised: Vec<u32>,
    /// Where the rules move a transaction to: US for card testing; CN, RU, NG for the geographic rule.
    testing_country: u8,
    far_countries: [u8; 3],
}

fn company(index: u32) -> String {
    let mut stream = Stream::new(key(COMPAT, u64::from(index), 1));
    let mut family = || FAMILY_NAMES[stream.below(FAMILY_NAMES.len() as u32) as usize];
    let (a, b, c) = (family(), family(), family());
    match stream.below(3) {
        0 => format!("{a} {}", COMPANY_SUFFIXES[stream.below(COMPANY_SUFFIXES.len() as u32) as usize]),
        1 => format!("{a}-{b}"),
        _ => format!("{a}, {b} and {c}"),
    }
}

impl CompatWorld {
    pub(super) fn new(settings: GeneratorSettings) -> Self {
        let seed = mix(settings.seed ^ 0x636f_6d70_6174);
        let countries: Vec<&'static str> = ISO_3166.split(' ').collect();
        let place = |code: &str| countries.iter().position(|c| *c == code).unwrap_or(0) as u8;
        let names =
            HIGH_RISK_MERCHANTS.iter().map(|n| (*n).to_owned()).chain((0..NUM_COMPANIES).map(company)).collect();
        let mut stream = Stream::new(domain(seed, COMPROMISED));
        let mut compromised = Vec::new();
        // The original draws from range(1000, 9999), which leaves out the last user.
        let candidates = (settings.num_users - 1).max(1);
        while compromised.len() < NUM_COMPROMISED.min(candidates as usize) {
            let user = stream.below(candidates);
            if let Err(at) = compromised.binary_search(&user) {
                compromised.insert(at, user);
            }
        }
        let rows_per_day = (f64::from(settings.num_users) * settings.transactions_per_user_day).round().max(1.0) as i64;
        let mut slot_ms = 3_600_000;
        while slot_ms > 1_000 && rows_per_day as f64 * slot_ms as f64 / DAY_MS as f64 > 65_536.0 {
            slot_ms /= 10;
        }
        Self {
            seed: domain(seed, COMPAT),
            names,
            testing_country: place("US"),
            far_countries: [place("CN"), place("RU"), place("NG")],
            countries,
            slot_ms,
            rows_per_day,
            compromised,
            settings,
        }
    }

    /// Appends the rows sent in `[from_ms, to_ms)`, in the order of sending.
    pub(super) fn sent(&self, from_ms: i64, to_ms: i64, out: &mut Vec<Row>) {
        let mut from = from_ms;
        while from < to_ms {
            let day = from.div_euclid(DAY_MS);
            let to = to_ms.min((day + 1) * DAY_MS);
            let first_at = |ms: i64| {
                let scaled = i128::from(ms - day * DAY_MS) * i128::from(self.rows_per_day);
                ((scaled + i128::from(DAY_MS) - 1) / i128::from(DAY_MS)) as i64
            };
            for index in first_at(from)..first_at(to) {
                let sent = i128::from(index) * i128::from(DAY_MS) / i128::from(self.rows_per_day);
                out.push(self.row(day, index, day * DAY_MS + sent as i64));
            }
            from = to;
        }
    }

    fn row(&self, day: i64, index: i64, sent_ms: i64) -> Row {
        let mut stream = Stream::new(key(self.seed, day as u64, index as u64));
        let user = stream.below(self.settings.num_users);
        let cents = 1 + stream.below(MAX_CENTS);
        let merchant = HIGH_RISK_MERCHANTS.len() as u32 + stream.below(NUM_COMPANIES);
        let skew_s = i64::from(stream.below(((BEHIND_MS + AHEAD_MS) / 1000 + 1) as u32));
        let mut row = Row {
            event_ms: sent_ms - BEHIND_MS + skew_s * 1000,
            sent_ms,
            id: [stream.bits(), stream.bits()],
            device: 0,
            user,
            merchant,
            cents,
            currency: 0,
            country: stream.below(self.countries.len() as u32) as u8,
            kind: Kind::Honest,
            channel: Channel::Online,
        };
        self.label(&mut row, &mut stream);
        if !stream.chance(KEPT_LABELS) {
            row.kind = Kind::Honest;
        }
        row
    }

    /// The producer's rules, in its order. The rule of collusion asks for one of the three names in what the name generator gave,
    /// which never gives them; it stands here as it stands there.
    fn label(&self, row: &mut Row, stream: &mut Stream) {
        let user_id = self.settings.first_user_id + i64::from(row.user);
        let is_high_risk = row.merchant < HIGH_RISK_MERCHANTS.len() as u32;
        let amount = row.cents;
        let uniform = |stream: &mut Stream, low: u32, high: u32| low + stream.below(high - low + 1);
        if self.compromised.binary_search(&row.user).is_ok() && amount > 50_000 && stream.chance(0.3) {
            row.kind = Kind::AccountTakeover;
            row.cents = uniform(stream, 50_000, 500_000);
            row.merchant = stream.below(HIGH_RISK_MERCHANTS.len() as u32);
        } else if amount < 200 && user_id % 1000 == 0 && stream.chance(0.25) {
            row.kind = Kind::CardTesting;
            row.cents = uniform(stream, 1, 200);
            row.country = self.testing_country;
        } else if is_high_risk && amount > 30_000 && stream.chance(0.15) {
            row.kind = Kind::MerchantCollusion;
            row.cents = uniform(stream, 30_000, 150_000);
        } else if user_id % 500 == 0 && stream.chance(0.1) {
            row.kind = Kind::GeographicAnomaly;
            row.country = self.far_countries[stream.below(3) as usize];
        } else if stream.chance(0.002) {
            row.kind = Kind::BaselineNoise;
            row.cents = uniform(stream, 10_000, 200_000);
        }
    }
}
