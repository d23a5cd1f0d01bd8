//! The merchants of the credible world: what they sell, where, how dear, and how popular each is.
//! They are drawn once, from the seed; nobody's purchases are here.

use super::numbers::{Cells, Normal, Stream, nth, to_unit};
use super::places::{CATEGORIES, COUNTRIES, NAME_FIRST, NAME_SECOND, ONLINE_HOMES};
use super::settings::GeneratorSettings;
use super::world::{MERCHANT, domain};

/// A median price of 55 dollars and more.
const DEAR_LOG_PRICE: f64 = 4.0;

#[derive(Debug, Clone, Copy)]
pub(super) struct Merchant {
    pub(super) log_price: f32,
    pub(super) home: u8,
    pub(super) category: u8,
    pub(super) is_online: bool,
}

#[derive(Debug)]
pub(super) struct Merchants {
    pub(super) all: Vec<Merchant>,
    pub(super) names: Vec<String>,
    /// Physical merchants by country, most popular first.
    pub(super) local: Vec<Vec<u32>>,
    pub(super) online: Vec<u32>,
    /// Online merchants of small things: where a micro-payment is nothing unusual.
    pub(super) online_small: Vec<u32>,
    /// Online merchants of dear things.
    pub(super) online_dear: Vec<u32>,
    /// Those that the drift brings.
    pub(super) wave: Vec<u32>,
}

pub(super) fn skewed(bits: u64, len: usize) -> usize {
    // A third power: the density of rank r falls as r^(-2/3), a Zipf-like popularity without a logarithm.
    let u = to_unit(bits);
    (u * u * u * len as f64) as usize
}

/// One of a list by popularity, but less so than `skewed`: whoever looks for a merchant to abuse has no favourites.
pub(super) fn any_of(list: &[u32], bits: u64) -> u32 {
    let u = to_unit(bits);
    list[(u * u * list.len() as f64) as usize]
}

impl Merchants {
    pub(super) fn new(seed: u64, settings: &GeneratorSettings, normal: &Normal) -> Self {
        let seed = domain(seed, MERCHANT);
        let homes = Cells::new(&COUNTRIES.map(|c| f64::from(c.weight)));
        let place = Cells::new(&CATEGORIES.map(|c| f64::from(c.weight)));
        let online_place = Cells::new(&CATEGORIES.map(|c| f64::from(c.online_weight)));
        let first_of_wave = settings.num_merchants;
        let wave_share = settings.drift.map_or(0.0, |d| d.new_merchants);
        let num_wave = (f64::from(first_of_wave) * wave_share) as u32;
        let mut merchants = Self {
            all: Vec::new(),
            names: Vec::new(),
            local: vec![Vec::new(); COUNTRIES.len()],
            online: Vec::new(),
            online_small: Vec::new(),
            online_dear: Vec::new(),
            wave: (first_of_wave..first_of_wave + num_wave).collect(),
        };
        for index in 0..first_of_wave + num_wave {
            let mut stream = Stream::new(nth(seed, u64::from(index)));
            // The first ones give every country a merchant, and then the world some online ones.
            let fixed = (index as usize) < COUNTRIES.len();
            let is_online = !fixed && (stream.chance(0.25) || index < 34);
            let home = if fixed {
                index as u8
            } else if is_online {
                ONLINE_HOMES[stream.below(4) as usize]
            } else {
                homes.at(stream.bits()) as u8
            };
            let category = if is_online { online_place.at(stream.bits()) } else { place.at(stream.bits()) };
            let log_price = CATEGORIES[category].log_price + 0.4 * normal.at(stream.bits());
            merchants.all.push(Merchant { log_price: log_price as f32, home, category: category as u8, is_online });
            merchants.names.push(merchant_name(index, category, stream.bits()));
            if index < first_of_wave {
                let list = if is_online { &mut merchants.online } else { &mut merchants.local[usize::from(home)] };
                list.push(index);
            }
        }
        merchants.list_by_price();
        merchants
    }

    fn list_by_price(&mut self) {
        let is = |keep: fn(&Merchant) -> bool| {
            let kept: Vec<u32> = self.online.iter().copied().filter(|m| keep(self.get(*m))).collect();
            // The smallest worlds may have none of a kind.
            if kept.is_empty() { self.online.clone() } else { kept }
        };
        let small = is(|m| CATEGORIES[usize::from(m.category)].micro_weight >= 64);
        let dear = is(|m| f64::from(m.log_price) >= DEAR_LOG_PRICE);
        (self.online_small, self.online_dear) = (small, dear);
    }

    pub(super) fn get(&self, index: u32) -> &Merchant {
        &self.all[index as usize]
    }

    /// A physical merchant of a country, by popularity.
    pub(super) fn local(&self, country: u8, bits: u64) -> u32 {
        let list = &self.local[usize::from(country)];
        list[skewed(bits, list.len())]
    }

    pub(super) fn online(&self, bits: u64) -> u32 {
        self.online[skewed(bits, self.online.len())]
    }
}

/// Two words by a bijection of the index (so that names differ) and a word of the category; a number once the words run out.
fn merchant_name(index: u32, category: usize, bits: u64) -> String {
    let pairs = (NAME_FIRST.len() * NAME_SECOND.len()) as u32;
    let pair = (index % pairs * 607 % pairs) as usize;
    let first = NAME_FIRST[pair % NAME_FIRST.len()];
    let second = NAME_SECOND[pair / NAME_FIRST.len()];
    let suffix = CATEGORIES[category].suffixes[(bits & 3) as usize];
    match index / pairs {
        0 => format!("{first} {second} {suffix}"),
        round => format!("{first} {second} {suffix} {}", round + 1),
    }
}
