//! The credible world: users with habits, and the honest purchases of any user at any time.
//! Everything is a pure function of (seed, user, time); nothing here remembers what was made before, so any range of time and any
//! shard of users can be made alone. Merchants are in `merchants`, fraud is in `campaigns`.

use super::merchants::{Merchants, skewed};
use super::numbers::{Cells, Normal, Stream, exp, key, mix, nth, poisson, to_unit};
use super::places::{CATEGORIES, COUNTRIES, HOUR_WEIGHTS, WEEKDAY_WEIGHTS};
use super::row::{Channel, Kind, MAX_CENTS, Row};
use super::settings::{DAY_MS, GeneratorSettings};

pub(super) const HOUR_MS: i64 = 3_600_000;

// Domains of keys: two objects of different domains never share randomness.
const USER: u64 = 1;
pub(super) const MERCHANT: u64 = 2;
const PURCHASE: u64 = 3;
const FAVOURITE: u64 = 4;
const TRAVEL: u64 = 5;
const DEVICE: u64 = 6;
pub(super) const CAMPAIGN: u64 = 7;

const NUM_FAVOURITES: usize = 10;
const FAVOURITE_SHARE: f64 = 0.66;
const ONLINE_SHARE: f64 = 0.42;
const WAVE_SHARE: f64 = 0.30;
/// A purchase that begins a spree is followed by 2 to 5 more.
const SPREE_CHANCE: f64 = 0.015;
const SPREE_MEAN: f64 = 3.5;
const SPREE_MS: i64 = 25 * 60_000;

#[derive(Debug, Clone, Copy)]
pub(super) struct User {
    per_hour: f32,
    /// The logarithm of how much dearer than the merchant's median this user buys.
    pub(super) log_amount: f32,
    pub(super) home: u8,
    /// Added to the hour of UTC to find the user's own.
    pub(super) clock: u8,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) settings: GeneratorSettings,
    pub(super) seed: u64,
    pub(super) users: Vec<User>,
    pub(super) merchants: Merchants,
    pub(super) slot_ms: i64,
    /// Honest purchases of a mean day, all users.
    pub(super) honest_per_day: f64,
    pub(super) homes: Cells,
    hours: Cells,
    favourites: Cells,
    normal: Normal,
    /// Twice the day, so that an hour plus a clock needs no modulo.
    hour_weights: [f64; 48],
    /// The largest of them.
    busiest: f64,
}

pub(super) fn domain(seed: u64, domain: u64) -> u64 {
    key(seed, domain, 0x7469_6465)
}

/// The longest of the allowed slots that stays small, unless walking over the users would then cost more than their events.
fn choose_slot_ms(settings: &GeneratorSettings) -> i64 {
    let mut chosen = HOUR_MS;
    for slot_ms in [HOUR_MS, 600_000, 60_000, 10_000, 1_000] {
        let rows = settings.events_per_second() * slot_ms as f64 / 1000.0;
        if slot_ms == HOUR_MS || rows * 16.0 > f64::from(settings.num_users) {
            chosen = slot_ms;
        }
        if rows <= 65_536.0 {
            break;
        }
    }
    chosen
}

impl World {
    pub(super) fn new(settings: GeneratorSettings) -> Self {
        let normal = Normal::new();
        let homes = Cells::new(&COUNTRIES.map(|c| f64::from(c.weight)));
        let mean = HOUR_WEIGHTS.iter().sum::<f64>() / 24.0;
        let mut hour_weights = [0.0; 48];
        for (i, weight) in hour_weights.iter_mut().enumerate() {
            *weight = HOUR_WEIGHTS[i % 24] / mean;
        }
        let ranks: [f64; NUM_FAVOURITES] = std::array::from_fn(|i| 1.0 / (i as f64 + 1.0));
        let seed = mix(settings.seed ^ 0x7469_6465_6d69_6c6c);
        let mut users = make_users(seed, &settings, &normal, &homes);
        let honest = |users: &[User]| users.iter().map(|u| f64::from(u.per_hour)).sum::<f64>();
        // The mean is what was asked for, not what these users happen to make of it.
        let asked = f64::from(settings.num_users) * settings.transactions_per_user_day
            / (24.0 * (1.0 + SPREE_CHANCE * SPREE_MEAN));
        let scale = asked / honest(&users);
        for user in &mut users {
            user.per_hour = (f64::from(user.per_hour) * scale) as f32;
        }
        if settings.hot_user_share > 0.0
            && let Some((hot, others)) = users.split_last_mut()
            && !others.is_empty()
        {
            hot.per_hour = (honest(others) * settings.hot_user_share / (1.0 - settings.hot_user_share)) as f32;
        }
        Self {
            seed,
            merchants: Merchants::new(seed, &settings, &normal),
            slot_ms: choose_slot_ms(&settings),
            honest_per_day: honest(&users) * 24.0 * (1.0 + SPREE_CHANCE * SPREE_MEAN),
            users,
            homes,
            hours: Cells::new(&HOUR_WEIGHTS),
            favourites: Cells::new(&ranks),
            normal,
            busiest: hour_weights.iter().copied().fold(0.0, f64::max),
            hour_weights,
            settings,
        }
    }

    /// Honest purchases expected on a day: the closed form that the number of frauds of that day rests on.
    pub(super) fn honest_on(&self, day: i64) -> f64 {
        // Day 0 was a Thursday.
        self.honest_per_day * WEEKDAY_WEIGHTS[(day + 3).rem_euclid(7) as usize]
    }

    pub(super) fn has_drifted(&self, ms: i64) -> bool {
        self.settings.drift.is_some_and(|d| ms >= d.from_ms)
    }

    /// The step over users and the first one, so that only those of the shard are walked.
    pub(super) fn shard(&self) -> (u32, u32) {
        self.settings.shard.map_or((0, 1), |s| (s.index, s.of))
    }

    /// Appends the purchases that begin in a slot, in no order. Those of sprees may lie in the next slot.
    pub(super) fn honest_purchases(&self, slot: i64, out: &mut Vec<Row>) {
        let start = slot * self.slot_ms;
        let day = start.div_euclid(DAY_MS);
        let hour = (start.rem_euclid(DAY_MS) / HOUR_MS) as usize;
        let weight = WEEKDAY_WEIGHTS[(day + 3).rem_euclid(7) as usize] * self.slot_ms as f64 / HOUR_MS as f64;
        let weights: [f64; 24] = std::array::from_fn(|clock| self.hour_weights[hour + clock] * weight);
        let slot_seed = key(domain(self.seed, PURCHASE), slot as u64, 0);
        let (first, step) = self.shard();
        for index in (first..self.users.len() as u32).step_by(step as usize) {
            let user = &self.users[index as usize];
            let bits = nth(slot_seed, u64::from(index));
            let u = to_unit(bits);
            let lambda = f64::from(user.per_hour) * weights[usize::from(user.clock)];
            // 1 - e^-lambda < lambda: most users buy nothing in most slots, and leave here.
            if u >= lambda {
                continue;
            }
            let mut stream = Stream::new(mix(bits ^ PURCHASE));
            for _ in 0..poisson(lambda, 1.0 - u, &mut stream) {
                let ms = start + stream.below_ms(self.slot_ms);
                self.visit(index, ms, &mut stream, out);
            }
        }
    }

    /// One purchase, or a spree of some.
    fn visit(&self, user: u32, ms: i64, stream: &mut Stream, out: &mut Vec<Row>) {
        out.push(self.purchase(user, ms, Kind::Honest, stream));
        if stream.chance(SPREE_CHANCE) {
            let more = 2 + stream.below(4);
            for _ in 0..more {
                let later = 1 + stream.below_ms(SPREE_MS.min(self.slot_ms - 1));
                out.push(self.purchase(user, ms + later, Kind::Honest, stream));
            }
        }
    }

    /// A purchase of a user's own: by habit or not, at home or on a journey.
    pub(super) fn purchase(&self, user: u32, ms: i64, kind: Kind, stream: &mut Stream) -> Row {
        let day = ms.div_euclid(DAY_MS);
        let here = self.whereabouts(user, day);
        let merchant = self.choose_merchant(user, day, here, stream);
        let is_online = self.merchants.get(merchant).is_online;
        let choice = stream.bits();
        let (channel, device) = if is_online {
            (online_channel(choice), self.own_device(user, day, choice >> 8))
        } else {
            (Channel::CardPresent, 0)
        };
        // Three in a hundred of the online purchases seem to come from elsewhere (proxies, roaming).
        let country = if !is_online {
            self.merchants.get(merchant).home
        } else if (choice >> 32) & 0xff < 8 {
            self.homes.at(stream.bits()) as u8
        } else {
            here
        };
        let bits = stream.bits();
        let category = &CATEGORIES[usize::from(self.merchants.get(merchant).category)];
        let cents = if (choice >> 48) & 0xff < u64::from(category.micro_weight) {
            self.micro_cents(merchant, bits)
        } else {
            self.rounded_by_habit(self.price(user, merchant, ms, bits), merchant, choice >> 40)
        };
        self.row(user, ms, kind, Spending { merchant, cents, country, channel, device }, stream)
    }

    pub(super) fn row(&self, user: u32, ms: i64, kind: Kind, spending: Spending, stream: &mut Stream) -> Row {
        Row {
            event_ms: ms,
            sent_ms: ms,
            id: [stream.bits(), stream.bits()],
            device: spending.device,
            user,
            merchant: spending.merchant,
            cents: spending.cents,
            currency: self.merchants.get(spending.merchant).home,
            country: spending.country,
            kind,
            channel: spending.channel,
        }
    }

    fn choose_merchant(&self, user: u32, day: i64, here: u8, stream: &mut Stream) -> u32 {
        let home = self.users[user as usize].home;
        if stream.chance(FAVOURITE_SHARE) {
            let favourite = self.favourite(user, self.favourites.at(stream.bits()), day);
            if here == home || self.merchants.get(favourite).is_online {
                return favourite;
            }
            return self.merchants.local(here, stream.bits());
        }
        let bits = stream.bits();
        let wave = &self.merchants.wave;
        if !wave.is_empty() && self.has_drifted(day * DAY_MS) && stream.chance(WAVE_SHARE) {
            return wave[skewed(bits, wave.len())];
        }
        if stream.chance(ONLINE_SHARE) { self.merchants.online(bits) } else { self.merchants.local(here, bits) }
    }

    /// The merchant at a rank of a user's habits. Habits change: each lasts 120 to 375 days.
    fn favourite(&self, user: u32, rank: usize, day: i64) -> u32 {
        let own = key(domain(self.seed, FAVOURITE), u64::from(user), rank as u64);
        let period = 120 + (own & 0xff) as i64;
        let since = (day + ((own >> 8) & 0x1ff) as i64).div_euclid(period);
        let bits = nth(own, since as u64);
        if to_unit(mix(bits ^ 1)) < ONLINE_SHARE {
            self.merchants.online(bits)
        } else {
            self.merchants.local(self.users[user as usize].home, bits)
        }
    }

    /// The country where a user is on a day: home, or a journey of 3 to 12 days (a chance of one in four every 28 days).
    pub(super) fn whereabouts(&self, user: u32, day: i64) -> u8 {
        const PERIOD: i64 = 28;
        let shifted = day + i64::from(user % 28);
        let spell = key(domain(self.seed, TRAVEL), u64::from(user), shifted.div_euclid(PERIOD) as u64);
        let home = self.users[user as usize].home;
        if spell & 0xff >= 64 {
            return home;
        }
        let length = 3 + ((spell >> 8) % 10) as i64;
        let start = ((spell >> 16) & 0xffff) as i64 % (PERIOD - length);
        if (start..start + length).contains(&shifted.rem_euclid(PERIOD)) {
            // Where this draws the home country again, the user stays there.
            self.homes.at(mix(spell)) as u8
        } else {
            home
        }
    }

    /// A user's device. The main one is replaced every 150 to 661 days (about a tenth of the users change in a month), the second
    /// never; one purchase in a hundred is made on a borrowed device.
    pub(super) fn own_device(&self, user: u32, day: i64, bits: u64) -> u64 {
        let seed = domain(self.seed, DEVICE);
        let own = key(seed, u64::from(user), 0);
        let percent = ((bits & 0xffff) * 100) >> 16;
        match percent {
            0 => mix(own ^ mix(bits ^ day as u64)) | 1,
            1..=12 => key(seed, u64::from(user), 1) | 1,
            _ => {
                let period = 150 + (own & 0x1ff) as i64;
                nth(own, (day + ((own >> 9) & 0x3ff) as i64).div_euclid(period) as u64) | 1
            }
        }
    }

    /// A user's price at a merchant, in dollars.
    pub(super) fn price(&self, user: u32, merchant: u32, ms: i64, bits: u64) -> f64 {
        let shop = self.merchants.get(merchant);
        let sigma = CATEGORIES[usize::from(shop.category)].sigma;
        let log =
            f64::from(shop.log_price) + f64::from(self.users[user as usize].log_amount) + sigma * self.normal.at(bits);
        let factor = match &self.settings.drift {
            Some(drift) if ms >= drift.from_ms => drift.price_factor,
            _ => 1.0,
        };
        exp(log) * factor
    }

    /// Hundredths of the merchant's currency.
    pub(super) fn cents(&self, usd: f64, merchant: u32) -> u32 {
        let country = &COUNTRIES[usize::from(self.merchants.get(merchant).home)];
        (usd * country.per_usd * 100.0).round().clamp(1.0, f64::from(MAX_CENTS)) as u32
    }

    /// A payment below two dollars: at the price points of apps and machines, or metered.
    pub(super) fn micro_cents(&self, merchant: u32, bits: u64) -> u32 {
        // Below 1.90, so that no price point above it makes two dollars in any currency.
        let cents = self.cents(0.45 + 1.45 * to_unit(bits), merchant);
        match bits & 3 {
            0 => (cents / 50 * 50).max(50),
            1 | 2 => cents / 10 * 10 + 9,
            _ => cents,
        }
    }

    /// Honest people, too, pay round amounts (fuel, vouchers, deposits): large ones often to fifties, others to tens or fives.
    pub(super) fn rounded_by_habit(&self, usd: f64, merchant: u32, bits: u64) -> u32 {
        let cents = self.cents(usd, merchant);
        let step = match bits & 0xff {
            0..40 if cents >= 7_500 => 5_000,
            0..64 if cents >= 1_500 => 1_000,
            0..96 if cents >= 750 => 500,
            _ => return cents,
        };
        ((cents + step / 2) / step * step).min(MAX_CENTS)
    }

    /// A time of a day (of UTC) at which people whose hour is `clock` ahead would be up and buying.
    pub(super) fn waking_ms(&self, clock: u8, day: i64, stream: &mut Stream) -> i64 {
        let local = self.hours.at(stream.bits());
        let hour = (local + 24 - usize::from(clock)) % 24;
        day * DAY_MS + hour as i64 * HOUR_MS + stream.below_ms(HOUR_MS)
    }

    /// Whether people whose hour is `clock` ahead are about at a time: certain at noon, rare at night.
    pub(super) fn is_waking(&self, clock: u8, ms: i64, stream: &mut Stream) -> bool {
        let hour = (ms.rem_euclid(DAY_MS) / HOUR_MS) as usize;
        stream.unit() * self.busiest < self.hour_weights[hour + usize::from(clock)]
    }

    /// A user, drawn in proportion to how much each buys (up to four times the mean).
    pub(super) fn active_user(&self, stream: &mut Stream) -> u32 {
        let cap = 4.0 * self.settings.transactions_per_user_day / 24.0;
        let mut user = stream.below(self.users.len() as u32);
        for _ in 0..64 {
            if stream.unit() * cap < f64::from(self.users[user as usize].per_hour) {
                break;
            }
            user = stream.below(self.users.len() as u32);
        }
        user
    }
}

/// How an online purchase is made, by the lowest byte of `bits`.
pub(super) const fn online_channel(bits: u64) -> Channel {
    if bits & 0xff < 110 { Channel::App } else { Channel::Online }
}

/// What is spent where, by which means.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spending {
    pub(super) merchant: u32,
    pub(super) cents: u32,
    pub(super) country: u8,
    pub(super) channel: Channel,
    pub(super) device: u64,
}

/// How far ahead of UTC somebody's day is in a country: larks and owls live up to two hours either way.
pub(super) fn clock_at(country: u8, bits: u64) -> u8 {
    let own = (((bits >> 32) * 5) >> 32) as i32 - 2;
    (i32::from(COUNTRIES[usize::from(country)].utc_offset) + own).rem_euclid(24) as u8
}

fn make_users(seed: u64, settings: &GeneratorSettings, normal: &Normal, homes: &Cells) -> Vec<User> {
    let seed = domain(seed, USER);
    let sigma = 0.7;
    (0..settings.num_users)
        .map(|index| {
            let mut stream = Stream::new(nth(seed, u64::from(index)));
            let home = homes.at(stream.bits()) as u8;
            let rate = exp(sigma * normal.at(stream.bits()) - sigma * sigma / 2.0);
            let clock = clock_at(home, stream.bits());
            let log_amount = 0.4 * normal.at(stream.bits());
            User { per_hour: rate as f32, log_amount: log_amount as f32, home, clock }
        })
        .collect()
}
