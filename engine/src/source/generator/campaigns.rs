//! Fraud as campaigns over time: objects with a kind, a start, a length and a size, each of whose events is made alone.
//! How many events start on a day is a closed form of the day (no feedback from what was made), so ranges can be made apart.
//! It knows nothing of delivery.

use super::numbers::{Stream, key, mix, nth, to_unit};
use super::places::COUNTRIES;
use super::row::{Channel, Kind, Row};
use super::settings::DAY_MS;
use super::world::{CAMPAIGN, HOUR_MS, Spending, World, domain};

/// No campaign lasts longer than this; so a time is reached by the campaigns of that day and of the days before it alone.
pub(super) const LONGEST_DAYS: i64 = 5;

/// Honest purchases per user and day for which the sizes below are meant; denser worlds get larger campaigns.
const NORMAL_DENSITY: f64 = 2.2;
/// Tests and purchases per tested card.
const EVENTS_PER_CARD: f64 = 2.5;
const NEW_ATTACK_SHARE: f64 = 0.2;
/// A card test's large purchases come at most this long after the test of their card.
const CASH_OUT_MS: i64 = 3 * HOUR_MS;

/// A campaign. Its events are `0 .. size`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Campaign {
    kind: Kind,
    /// The seed of everything in it.
    id: u64,
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
        Kind::AccountTakeover => (3.0, 15.0, HOUR_MS, 8 * HOUR_MS),
        Kind::CardTesting => (15.0 * EVENTS_PER_CARD, 60.0 * EVENTS_PER_CARD, HOUR_MS / 6, HOUR_MS),
        Kind::MerchantCollusion => (40.0, 150.0, 2 * DAY_MS, 4 * DAY_MS),
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
                share_out(kind, seed, day, events, density, out);
            }
        }
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

/// Divides the events of a day over campaigns of different sizes, so that the sum is exact.
fn share_out(kind: Kind, seed: u64, day: i64, events: u32, density: f64, out: &mut Vec<Campaign>) {
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
        let tail = match kind {
            Kind::CardTesting => CASH_OUT_MS,
            // What falls before the first opening waits for the next.
            Kind::MerchantCollusion | Kind::SubscriptionTrap => DAY_MS,
            _ => 0,
        };
        let start = match kind {
            Kind::BaselineNoise => 0,
            // One test can be a third of a small world's fraud of a day: it ends on that day, or rates of days would vary.
            Kind::CardTesting => stream.below_ms(DAY_MS - length_ms - tail),
            _ => stream.below_ms(DAY_MS),
        };
        let start_ms = day * DAY_MS + start;
        out.push(Campaign {
            kind,
            id: stream.bits(),
            start_ms,
            length_ms,
            end_ms: start_ms + length_ms + tail,
            size: upto - given,
        });
        given = upto;
    }
}

/// What all events of a campaign have in common.
struct Plan {
    victim: u32,
    merchant: u32,
    country: u8,
    /// The attacker's device.
    device: u64,
    has_own_device: bool,
    /// Amounts: a factor of the victim's own, or dollars.
    amount: f64,
    /// Cards of a card test.
    num_cards: u32,
}

impl Plan {
    fn new(world: &World, campaign: &Campaign) -> Self {
        let mut stream = Stream::new(mix(campaign.id ^ 0x706c_616e));
        let victim = stream.below(world.users.len() as u32);
        let home = world.users[victim as usize].home;
        let online = &world.merchants.online;
        let any_online = online[stream.below(online.len() as u32) as usize];
        let elsewhere = world.homes.at(stream.bits()) as u8;
        let device = stream.bits() | 1;
        let mut plan = Self {
            victim,
            merchant: any_online,
            country: home,
            device,
            has_own_device: stream.chance(0.5),
            amount: 1.0,
            num_cards: 1,
        };
        match campaign.kind {
            Kind::AccountTakeover => {
                plan.amount = stream.between(2.0, 6.0);
                if stream.chance(0.35) {
                    plan.country = elsewhere;
                }
            }
            Kind::CardTesting => {
                plan.country = elsewhere;
                plan.num_cards = ((f64::from(campaign.size) / EVENTS_PER_CARD) as u32).max(1);
            }
            Kind::MerchantCollusion => {
                if stream.chance(0.7) {
                    let shops = &world.merchants.local[usize::from(elsewhere)];
                    plan.merchant = shops[stream.below(shops.len() as u32) as usize];
                }
                plan.amount = 50.0 * f64::from(1 + stream.below(8));
            }
            Kind::GeographicAnomaly => {
                let here = world.whereabouts(victim, campaign.start_ms.div_euclid(DAY_MS));
                let far = stream.below(COUNTRIES.len() as u32) as u8;
                plan.country = if far == home || far == here { (home + here + 1) % COUNTRIES.len() as u8 } else { far };
                plan.amount = stream.between(0.8, 2.5);
            }
            Kind::SubscriptionTrap => plan.amount = [9.99, 14.99, 19.99, 29.99][stream.below(4) as usize],
            Kind::BaselineNoise | Kind::Honest => {}
        }
        plan
    }

    /// The tests come first, two or three a card, then a large purchase on a quarter of the cards.
    fn num_tests(&self, campaign: &Campaign) -> u32 {
        campaign.size - (self.num_cards / 4).min(campaign.size - 1)
    }

    fn who_and_when(&self, world: &World, campaign: &Campaign, event: u32, stream: &mut Stream) -> (u32, i64) {
        match campaign.kind {
            Kind::CardTesting => self.test_or_purchase(world, campaign, event),
            Kind::MerchantCollusion | Kind::SubscriptionTrap => {
                let user = self.neighbour(world, stream);
                // Within business hours of the merchant's country: 8 to 22.
                let clock = i64::from(COUNTRIES[usize::from(world.merchants.get(self.merchant).home)].utc_offset);
                let at = campaign.start_ms + stream.below_ms(campaign.length_ms);
                let local = at + clock * HOUR_MS;
                let open = local.div_euclid(DAY_MS) * DAY_MS + 8 * HOUR_MS + local.rem_euclid(DAY_MS) / 24 * 14;
                let ms = open - clock * HOUR_MS;
                (user, if ms < campaign.start_ms { ms + DAY_MS } else { ms })
            }
            Kind::BaselineNoise => {
                let user = world.active_user(stream);
                (user, world.waking_ms(user, campaign.start_ms.div_euclid(DAY_MS), stream))
            }
            Kind::AccountTakeover | Kind::GeographicAnomaly | Kind::Honest => {
                (self.victim, campaign.start_ms + stream.below_ms(campaign.length_ms))
            }
        }
    }

    fn test_or_purchase(&self, world: &World, campaign: &Campaign, event: u32) -> (u32, i64) {
        let num_tests = self.num_tests(campaign);
        let card = if event < num_tests { event % self.num_cards } else { event - num_tests };
        let mut own = Stream::new(key(campaign.id, u64::from(card), 0x6361_7264));
        let user = own.below(world.users.len() as u32);
        let tested = campaign.start_ms + own.below_ms(campaign.length_ms - 60_000);
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
            Kind::CardTesting => self.cash_out(world, user, stream),
            Kind::MerchantCollusion => self.collusion(world, user, ms, stream),
            Kind::GeographicAnomaly => self.far_purchase(world, ms, stream),
            Kind::SubscriptionTrap => self.subscription(world, user, ms, stream),
            Kind::BaselineNoise | Kind::Honest => return world.purchase(user, ms, campaign.kind, stream),
        };
        world.row(user, ms, campaign.kind, spending, stream)
    }

    /// Mostly online, dearer than the victim's own purchases, on the attacker's device or on the victim's session.
    fn takeover(&self, world: &World, ms: i64, stream: &mut Stream) -> Spending {
        let online = &world.merchants.online;
        let is_online = stream.chance(0.75);
        let merchant = if is_online {
            online[stream.below(online.len() as u32) as usize]
        } else {
            world.merchants.local(self.country, stream.bits())
        };
        let usd = self.amount * world.price(self.victim, merchant, ms, stream.bits());
        let (channel, device) = if !is_online {
            (Channel::CardPresent, 0)
        } else if self.has_own_device {
            (Channel::Online, self.device)
        } else {
            (Channel::App, world.own_device(self.victim, ms.div_euclid(DAY_MS), stream.bits()))
        };
        Spending { merchant, cents: world.cents(usd, merchant), country: self.country, channel, device }
    }

    fn card_test(&self, world: &World, user: u32, stream: &mut Stream) -> Spending {
        let usd = stream.between(0.5, 1.99);
        // Online merchants bill in dollars, pounds or euros; in none of them do 1.99 dollars make two units or more.
        let cents = world.cents(usd, self.merchant).min(199);
        let country = if stream.chance(0.6) { world.users[user as usize].home } else { self.country };
        Spending {
            merchant: self.merchant,
            cents,
            country,
            channel: Channel::Online,
            device: self.rotating_device(stream),
        }
    }

    fn cash_out(&self, world: &World, user: u32, stream: &mut Stream) -> Spending {
        let online = &world.merchants.online;
        let merchant = online[stream.below(online.len() as u32) as usize];
        let usd = stream.between(150.0, 1200.0);
        let country = if stream.chance(0.6) { world.users[user as usize].home } else { self.country };
        let device = self.rotating_device(stream);
        Spending { merchant, cents: world.cents(usd, merchant), country, channel: Channel::Online, device }
    }

    /// Half of the tests come from a fresh device, the rest from one of three.
    fn rotating_device(&self, stream: &mut Stream) -> u64 {
        let bits = stream.bits();
        if bits & 1 == 0 { mix(bits) | 1 } else { nth(self.device, (bits >> 8) % 3) | 1 }
    }

    fn collusion(&self, world: &World, user: u32, ms: i64, stream: &mut Stream) -> Spending {
        let shop = world.merchants.get(self.merchant);
        // Around the campaign's own round amount: half of them on fifties, most others on tens.
        let units = self.amount
            + match stream.below(10) {
                0..5 => 50.0 * f64::from(stream.below(3)),
                5..8 => 10.0 * f64::from(stream.below(16)),
                _ => stream.between(0.0, 150.0),
            };
        let (channel, device, country) = if shop.is_online {
            let device = world.own_device(user, ms.div_euclid(DAY_MS), stream.bits());
            (Channel::Online, device, world.users[user as usize].home)
        } else {
            (Channel::CardPresent, 0, shop.home)
        };
        Spending { merchant: self.merchant, cents: (units * 100.0) as u32, country, channel, device }
    }

    fn far_purchase(&self, world: &World, ms: i64, stream: &mut Stream) -> Spending {
        let merchant = world.merchants.local(self.country, stream.bits());
        let usd = self.amount * world.price(self.victim, merchant, ms, stream.bits());
        Spending {
            merchant,
            cents: world.cents(usd, merchant),
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
