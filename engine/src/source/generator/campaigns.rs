//! Fraud as campaigns over time: objects with a kind, a start, a length and a size, each of whose events is made alone.
//! How many events start on a day is a closed form of the day (no feedback from what was made), so ranges can be made apart.
//! It knows nothing of delivery.

use super::merchants::any_of;
use super::numbers::{Stream, exp, key, mix, nth, to_unit};
use super::places::COUNTRIES;
use super::row::{Channel, Kind, MAX_CENTS, Row};
use super::settings::DAY_MS;
use super::world::{CAMPAIGN, HOUR_MS, Spending, World, clock_at, domain, online_channel};

/// No campaign lasts longer than this; so a time is reached by the campaigns of that day and of the days before it alone.
pub(super) const LONGEST_DAYS: i64 = 5;

/// Honest purchases per user and day for which the sizes below are meant; denser worlds get larger campaigns.
const NORMAL_DENSITY: f64 = 2.2;
/// Tests and purchases per tested card.
const EVENTS_PER_CARD: f64 = 3.0;
const NEW_ATTACK_SHARE: f64 = 0.2;
/// A median price of 20 dollars.
const COLLUDER_LOG_PRICE: f64 = 3.0;
/// A card test's large purchases come at most this long after the test of their card.
const CASH_OUT_MS: i64 = 3 * HOUR_MS;

/// A campaign. Its events are `0 .. size`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Campaign {
    kind: Kind,
    /// The seed of everything in it.
    id: u64,
    victim: u32,
    /// Where it plays, and the clock there: crime keeps the hours of the trade that it hides in.
    country: u8,
    clock: u8,
    start_ms: i64,
    /// Of its main part; what follows from it may come later.
    length_ms: i64,
    /// No event is at or after it.
    end_ms: i64,
    size: u32,
}

/// The smallest and largest usual number of events, and the bounds of the length in milliseconds.
const fn shape(kind: Kind) -> (f64, f64, i64, i64) {
    match kind {
        Kind::AccountTakeover => (5.0, 18.0, HOUR_MS / 2, 5 * HOUR_MS),
        Kind::CardTesting => (15.0 * EVENTS_PER_CARD, 60.0 * EVENTS_PER_CARD, HOUR_MS / 6, HOUR_MS),
        Kind::MerchantCollusion => (40.0, 150.0, DAY_MS, 5 * DAY_MS / 2),
        Kind::GeographicAnomaly => (1.0, 4.0, HOUR_MS / 2, 6 * HOUR_MS),
        Kind::SubscriptionTrap => (30.0, 100.0, DAY_MS, 2 * DAY_MS),
        Kind::BaselineNoise | Kind::Honest => (1.0, 1.0, DAY_MS, DAY_MS),
    }
}

impl World {
    /// The share of a kind in all events.
    pub(super) fn rate_of(&self, kind: Kind, day: i64) -> f64 {
        let settings = &self.settings;
        let campaigns = settings.fraud_rate - settings.noise_rate;
        let has_new = settings.drift.is_some_and(|d| d.new_attack) && self.has_drifted(day * DAY_MS);
        let old = if has_new { campaigns * (1.0 - NEW_ATTACK_SHARE) } else { campaigns };
        let shares = &settings.fraud_shares;
        match kind {
            Kind::Honest => 1.0 - settings.fraud_rate,
            Kind::BaselineNoise => settings.noise_rate,
            Kind::AccountTakeover => old * shares.account_takeover,
            Kind::CardTesting => old * shares.card_testing,
            Kind::MerchantCollusion => old * shares.merchant_collusion,
            Kind::GeographicAnomaly => old * shares.geographic_anomaly,
            Kind::SubscriptionTrap => campaigns - old,
        }
    }

    /// All campaigns that start on a day.
    fn campaigns_of(&self, day: i64, out: &mut Vec<Campaign>) {
        let density = (self.settings.transactions_per_user_day / NORMAL_DENSITY).max(1.0);
        for kind in Kind::ALL.into_iter().filter(|k| k.is_fraud()) {
            let seed = key(domain(self.seed, CAMPAIGN), kind.index() as u64, day as u64);
            let expected = self.honest_on(day) * self.rate_of(kind, day) / (1.0 - self.settings.fraud_rate);
            // Rounded up or down by chance, so that small worlds keep the rate over many days.
            let events = (expected + to_unit(mix(seed ^ 1))) as u32;
            if events > 0 {
                self.share_out(kind, seed, day, events, density, out);
            }
        }
    }

    /// Divides the events of a day over campaigns of different sizes, so that the sum is exact.
    fn share_out(&self, kind: Kind, seed: u64, day: i64, events: u32, density: f64, out: &mut Vec<Campaign>) {
        let (smallest, largest, shortest, longest) = shape(kind);
        let mean = (smallest + largest) / 2.0 * density;
        let num = match kind {
            Kind::BaselineNoise => 1,
            _ => ((f64::from(events) / mean).round() as u32).clamp(1, events),
        };
        let weight = |i: u32| smallest + (largest - smallest) * to_unit(nth(seed ^ 2, u64::from(i)));
        let total: f64 = (0..num).map(weight).sum();
        let (mut reached, mut given) = (0.0, 0);
        for i in 0..num {
            reached += weight(i);
            let upto = if i + 1 == num { events } else { (f64::from(events) * reached / total) as u32 };
            let mut stream = Stream::new(nth(seed, u64::from(i)));
            // Short ones are more usual.
            let bound = 1 + stream.below_ms(longest - shortest + 1);
            let length_ms = shortest + stream.below_ms(bound);
            out.push(self.campaign(kind, day, length_ms, upto - given, &mut stream));
            given = upto;
        }
    }

    /// Chooses whom a campaign is at, where, and when it begins.
    fn campaign(&self, kind: Kind, day: i64, length_ms: i64, size: u32, stream: &mut Stream) -> Campaign {
        let victim = stream.below(self.users.len() as u32);
        let user = &self.users[victim as usize];
        let elsewhere = self.homes.at(stream.bits()) as u8;
        let country = match kind {
            Kind::AccountTakeover if stream.chance(0.65) => user.home,
            Kind::GeographicAnomaly => self.far_from(victim, day, stream),
            _ => elsewhere,
        };
        let clock = if country == user.home { user.clock } else { clock_at(country, stream.bits()) };
        let start_ms = match kind {
            Kind::BaselineNoise => day * DAY_MS,
            // Its events have clocks of their own.
            Kind::MerchantCollusion | Kind::SubscriptionTrap => day * DAY_MS + stream.below_ms(DAY_MS),
            // One test can be a third of a small world's fraud of a day: it ends on that day, or rates of days would vary.
            Kind::CardTesting => {
                let last = (day + 1) * DAY_MS - length_ms;
                let mut start = self.waking_ms(clock, day, stream);
                for _ in 0..8 {
                    if start <= last {
                        break;
                    }
                    start = self.waking_ms(clock, day, stream);
                }
                start.min(last)
            }
            _ => self.waking_ms(clock, day, stream),
        };
        let tail = match kind {
            Kind::CardTesting => CASH_OUT_MS,
            // What falls before the first opening waits for the next.
            Kind::MerchantCollusion | Kind::SubscriptionTrap => DAY_MS,
            _ => 0,
        };
        let end_ms = start_ms + length_ms + tail;
        Campaign { kind, id: stream.bits(), victim, country, clock, start_ms, length_ms, end_ms, size }
    }

    /// A country where a user is not, most likely a large one.
    fn far_from(&self, user: u32, day: i64, stream: &mut Stream) -> u8 {
        let (home, here) = (self.users[user as usize].home, self.whereabouts(user, day));
        for _ in 0..16 {
            let far = self.homes.at(stream.bits()) as u8;
            if far != home && far != here {
                return far;
            }
        }
        (home + here + 1) % COUNTRIES.len() as u8
    }

    /// Appends the events of fraud with a time in `[from_ms, to_ms)` at users of this shard, in no order.
    pub(super) fn frauds(&self, from_ms: i64, to_ms: i64, out: &mut Vec<Row>) {
        let mut campaigns = Vec::new();
        for day in from_ms.div_euclid(DAY_MS) - LONGEST_DAYS..=(to_ms - 1).div_euclid(DAY_MS) {
            self.campaigns_of(day, &mut campaigns);
        }
        let (index, of) = self.shard();
        let first = out.len();
        for campaign in &campaigns {
            if campaign.start_ms < to_ms && campaign.end_ms > from_ms {
                self.expand(campaign, from_ms, to_ms, out);
            }
        }
        if of > 1 {
            let mut at = 0;
            out.retain(|row| {
                at += 1;
                at <= first || row.user % of == index
            });
        }
    }

    fn expand(&self, campaign: &Campaign, from_ms: i64, to_ms: i64, out: &mut Vec<Row>) {
        let plan = Plan::new(self, campaign);
        for event in 0..campaign.size {
            let mut stream = Stream::new(nth(campaign.id, u64::from(event)));
            let (user, ms) = plan.who_and_when(self, campaign, event, &mut stream);
            if (from_ms..to_ms).contains(&ms) {
                out.push(plan.row(self, campaign, event, user, ms, &mut stream));
            }
        }
    }
}

/// What all events of a campaign have in common.
struct Plan {
    victim: u32,
    merchant: u32,
    country: u8,
    clock: u8,
    /// The attacker's device.
    device: u64,
    has_own_device: bool,
    /// Amounts: a factor of the victim's own or of the merchant's median.
    amount: f64,
    /// Cards of a card test.
    num_cards: u32,
}

impl Plan {
    fn new(world: &World, campaign: &Campaign) -> Self {
        let mut stream = Stream::new(mix(campaign.id ^ 0x706c_616e));
        let shops = &world.merchants;
        let (country, bits) = (campaign.country, stream.bits());
        let device = stream.bits() | 1;
        let mut plan = Self {
            victim: campaign.victim,
            merchant: any_of(&shops.online, bits),
            country,
            clock: campaign.clock,
            device,
            has_own_device: stream.chance(0.5),
            amount: 1.0,
            num_cards: 1,
        };
        match campaign.kind {
            Kind::AccountTakeover => plan.amount = stream.between(2.0, 6.0),
            Kind::CardTesting => {
                plan.merchant = any_of(&shops.online_small, bits);
                plan.num_cards = ((f64::from(campaign.size) / EVENTS_PER_CARD) as u32).max(1);
            }
            Kind::MerchantCollusion => {
                let is_local = stream.chance(0.7);
                plan.merchant = world.colluder(is_local.then_some(country), &mut stream);
                plan.amount = stream.between(2.0, 3.5);
            }
            Kind::GeographicAnomaly => plan.amount = stream.between(0.8, 2.5),
            Kind::SubscriptionTrap => plan.amount = [9.99, 14.99, 19.99, 29.99][stream.below(4) as usize],
            Kind::BaselineNoise | Kind::Honest => {}
        }
        plan
    }

    /// The tests come first, two or three a card, then a large purchase on a third of the cards.
    fn num_tests(&self, campaign: &Campaign) -> u32 {
        campaign.size - (self.num_cards / 3).min(campaign.size - 1)
    }

    fn who_and_when(&self, world: &World, campaign: &Campaign, event: u32, stream: &mut Stream) -> (u32, i64) {
        let start = campaign.start_ms;
        match campaign.kind {
            Kind::CardTesting => self.test_or_purchase(world, campaign, event),
            Kind::MerchantCollusion | Kind::SubscriptionTrap => {
                let user = self.neighbour(world, stream);
                let day = (start + stream.below_ms(campaign.length_ms)).div_euclid(DAY_MS);
                let ms = world.waking_ms(world.users[user as usize].clock, day, stream);
                (user, if ms < start { ms + DAY_MS } else { ms })
            }
            Kind::BaselineNoise => {
                let user = world.active_user(stream);
                (user, world.waking_ms(world.users[user as usize].clock, start.div_euclid(DAY_MS), stream))
            }
            Kind::AccountTakeover | Kind::GeographicAnomaly | Kind::Honest => {
                let mut ms = start + stream.below_ms(campaign.length_ms);
                for _ in 0..4 {
                    if world.is_waking(self.clock, ms, stream) {
                        break;
                    }
                    ms = start + stream.below_ms(campaign.length_ms);
                }
                (self.victim, ms)
            }
        }
    }

    fn test_or_purchase(&self, world: &World, campaign: &Campaign, event: u32) -> (u32, i64) {
        let num_tests = self.num_tests(campaign);
        let card = if event < num_tests { event % self.num_cards } else { event - num_tests };
        let mut own = Stream::new(key(campaign.id, u64::from(card), 0x6361_7264));
        let tested = campaign.start_ms + own.below_ms(campaign.length_ms - 60_000);
        // Cards whose owners are up: a test at night would be seen.
        let mut user = own.below(world.users.len() as u32);
        for _ in 0..16 {
            if world.is_waking(world.users[user as usize].clock, tested, &mut own) {
                break;
            }
            user = own.below(world.users.len() as u32);
        }
        if event >= num_tests {
            return (user, tested + HOUR_MS / 6 + own.below_ms(CASH_OUT_MS - HOUR_MS / 6));
        }
        // Further tests of a card follow within a minute.
        let is_first = event < self.num_cards;
        let again = 1 + Stream::new(nth(campaign.id ^ 1, u64::from(event))).below_ms(59_999);
        (user, if is_first { tested } else { tested + again })
    }

    /// A user who lives where the merchant is, as far as some tries find one.
    fn neighbour(&self, world: &World, stream: &mut Stream) -> u32 {
        let shop = world.merchants.get(self.merchant);
        let mut user = stream.below(world.users.len() as u32);
        for _ in 0..64 {
            if shop.is_online || world.users[user as usize].home == shop.home {
                break;
            }
            user = stream.below(world.users.len() as u32);
        }
        user
    }

    fn row(&self, world: &World, campaign: &Campaign, event: u32, user: u32, ms: i64, stream: &mut Stream) -> Row {
        let spending = match campaign.kind {
            Kind::AccountTakeover => self.takeover(world, ms, stream),
            Kind::CardTesting if event < self.num_tests(campaign) => self.card_test(world, user, stream),
            Kind::CardTesting => self.cash_out(world, user, ms, stream),
            Kind::MerchantCollusion => self.collusion(world, user, ms, stream),
            Kind::GeographicAnomaly => self.far_purchase(world, ms, stream),
            Kind::SubscriptionTrap => self.subscription(world, user, ms, stream),
            Kind::BaselineNoise | Kind::Honest => return world.purchase(user, ms, campaign.kind, stream),
        };
        world.row(user, ms, campaign.kind, spending, stream)
    }

    /// Mostly online, dearer than the victim's own purchases, on the attacker's device or on the victim's session.
    fn takeover(&self, world: &World, ms: i64, stream: &mut Stream) -> Spending {
        let is_online = stream.chance(0.75);
        let bits = stream.bits();
        let merchant =
            if is_online { any_of(&world.merchants.online, bits) } else { world.merchants.local(self.country, bits) };
        let usd = self.amount * world.price(self.victim, merchant, ms, stream.bits());
        let cents = world.rounded_by_habit(usd, merchant, stream.bits());
        let (channel, device) = if !is_online {
            (Channel::CardPresent, 0)
        } else if self.has_own_device {
            (Channel::Online, self.device)
        } else {
            (Channel::App, world.own_device(self.victim, ms.div_euclid(DAY_MS), stream.bits()))
        };
        Spending { merchant, cents, country: self.country, channel, device }
    }

    fn card_test(&self, world: &World, user: u32, stream: &mut Stream) -> Spending {
        let cents = world.micro_cents(self.merchant, stream.bits());
        let country = if stream.chance(0.6) { world.users[user as usize].home } else { self.country };
        Spending {
            merchant: self.merchant,
            cents,
            country,
            channel: online_channel(stream.bits()),
            device: self.rotating_device(stream),
        }
    }

    fn cash_out(&self, world: &World, user: u32, ms: i64, stream: &mut Stream) -> Spending {
        let merchant = any_of(&world.merchants.online_dear, stream.bits());
        let usd = stream.between(1.5, 4.0) * world.price(user, merchant, ms, stream.bits());
        let cents = world.rounded_by_habit(usd.max(stream.between(135.0, 250.0)), merchant, stream.bits());
        let country = if stream.chance(0.6) { world.users[user as usize].home } else { self.country };
        let device = self.rotating_device(stream);
        Spending { merchant, cents, country, channel: online_channel(stream.bits()), device }
    }

    /// Half of the tests come from a fresh device, the rest from one of three.
    fn rotating_device(&self, stream: &mut Stream) -> u64 {
        let bits = stream.bits();
        if bits & 1 == 0 { mix(bits) | 1 } else { nth(self.device, (bits >> 8) % 3) | 1 }
    }

    fn collusion(&self, world: &World, user: u32, ms: i64, stream: &mut Stream) -> Spending {
        let shop = world.merchants.get(self.merchant);
        // Around the campaign's own round amount, which is in keeping with the merchant's prices: half of them are that
        // amount or one and a half of it or twice, most others any round amount near it.
        let own = self.amount * exp(f64::from(shop.log_price));
        let usd = match stream.below(10) {
            0..5 => own * (1.0 + 0.5 * f64::from(stream.below(3))),
            _ => own * stream.between(0.6, 2.2),
        };
        let cents = world.cents(usd, self.merchant);
        let cents = if stream.chance(0.85) { (cents + 500) / 1_000 * 1_000 } else { cents }.clamp(1_000, MAX_CENTS);
        let (channel, device, country) = if shop.is_online {
            let device = world.own_device(user, ms.div_euclid(DAY_MS), stream.bits());
            (Channel::Online, device, world.users[user as usize].home)
        } else {
            (Channel::CardPresent, 0, shop.home)
        };
        Spending { merchant: self.merchant, cents, country, channel, device }
    }

    fn far_purchase(&self, world: &World, ms: i64, stream: &mut Stream) -> Spending {
        let merchant = world.merchants.local(self.country, stream.bits());
        let usd = self.amount * world.price(self.victim, merchant, ms, stream.bits());
        Spending {
            merchant,
            cents: world.rounded_by_habit(usd, merchant, stream.bits()),
            country: self.country,
            channel: Channel::CardPresent,
            device: 0,
        }
    }

    fn subscription(&self, world: &World, user: u32, ms: i64, stream: &mut Stream) -> Spending {
        Spending {
            merchant: self.merchant,
            cents: (self.amount * 100.0).round() as u32,
            country: world.users[user as usize].home,
            channel: Channel::Online,
            device: world.own_device(user, ms.div_euclid(DAY_MS), stream.bits()),
        }
    }
}

impl World {
    /// A merchant whose prices are high enough for theft by round amounts: local to a country, or online.
    fn colluder(&self, country: Option<u8>, stream: &mut Stream) -> u32 {
        let list = country.map_or(&self.merchants.online, |c| &self.merchants.local[usize::from(c)]);
        let mut merchant = list[stream.below(list.len() as u32) as usize];
        for _ in 0..16 {
            if f64::from(self.merchants.get(merchant).log_price) > COLLUDER_LOG_PRICE {
                break;
            }
            merchant = list[stream.below(list.len() as u32) as usize];
        }
        merchant
    }
}
