//! Countries, currencies, clocks and names: the fixed tables of the worlds.
//! Exchange rates and weights are rounded guesses that make amounts plausible; nothing may depend on their being right.

/// A country of the credible world.
#[derive(Debug, Clone, Copy)]
pub(super) struct Country {
    pub(super) code: &'static str,
    pub(super) currency: &'static str,
    /// Units of the currency for one US dollar.
    pub(super) per_usd: f64,
    /// Hours ahead of UTC.
    pub(super) utc_offset: i8,
    /// Share of users and merchants, in thousandths.
    pub(super) weight: u16,
}

const fn country(code: &'static str, currency: &'static str, per_usd: f64, utc_offset: i8, weight: u16) -> Country {
    Country { code, currency, per_usd, utc_offset, weight }
}

pub(super) const COUNTRIES: [Country; 26] = [
    country("US", "USD", 1.0, -6, 250),
    country("GB", "GBP", 0.8, 0, 120),
    country("DE", "EUR", 0.92, 1, 110),
    country("FR", "EUR", 0.92, 1, 90),
    country("ES", "EUR", 0.92, 1, 60),
    country("IT", "EUR", 0.92, 1, 60),
    country("NL", "EUR", 0.92, 1, 40),
    country("CA", "CAD", 1.36, -5, 40),
    country("AU", "AUD", 1.5, 10, 35),
    country("BR", "BRL", 5.0, -3, 30),
    country("PL", "PLN", 4.0, 1, 25),
    country("MX", "MXN", 17.0, -6, 20),
    country("IE", "EUR", 0.92, 0, 15),
    country("PT", "EUR", 0.92, 0, 15),
    country("AT", "EUR", 0.92, 1, 12),
    country("GR", "EUR", 0.92, 2, 10),
    country("SE", "SEK", 10.4, 1, 10),
    country("NO", "NOK", 10.6, 1, 8),
    country("DK", "DKK", 6.9, 1, 8),
    country("CH", "CHF", 0.9, 1, 8),
    country("AE", "AED", 3.67, 4, 8),
    country("SG", "SGD", 1.34, 8, 8),
    country("NZ", "NZD", 1.65, 12, 6),
    country("ZA", "ZAR", 18.5, 2, 5),
    country("RO", "RON", 4.6, 2, 4),
    country("CN", "CNY", 7.2, 8, 3),
];

/// Where online merchants bill from, and so in which currency: the United States, Britain, Germany, Ireland.
pub(super) const ONLINE_HOMES: [u8; 4] = [0, 1, 2, 12];

/// Purchases by local hour of the day; only the proportions count.
pub(super) const HOUR_WEIGHTS: [f64; 24] = [
    0.25, 0.15, 0.10, 0.10, 0.15, 0.30, 0.60, 0.90, 1.10, 1.20, 1.30, 1.50, 1.70, 1.50, 1.30, 1.30, 1.40, 1.60, 1.70,
    1.60, 1.30, 1.00, 0.70, 0.45,
];

/// Purchases by day of the week from Monday (UTC); their mean is 1.
pub(super) const WEEKDAY_WEIGHTS: [f64; 7] = [0.92, 0.92, 0.95, 0.98, 1.10, 1.18, 0.95];

/// What merchants sell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Category {
    /// The last word of the merchants' names.
    pub(super) suffixes: [&'static str; 4],
    /// The natural logarithm of the median price in dollars.
    pub(super) log_price: f64,
    /// The spread of the logarithm of the price.
    pub(super) sigma: f64,
    /// Share of such merchants at a place, in hundredths.
    pub(super) weight: u16,
    /// Share of such merchants online, in hundredths.
    pub(super) online_weight: u16,
    /// Share of the purchases there that are micro-payments (an app, a ride, half an hour of parking), in 256ths.
    pub(super) micro_weight: u8,
}

const fn category(
    suffixes: [&'static str; 4],
    log_price: f64,
    sigma: f64,
    weight: u16,
    online_weight: u16,
    micro_weight: u8,
) -> Category {
    Category { suffixes, log_price, sigma, weight, online_weight, micro_weight }
}

pub(super) const CATEGORIES: [Category; 9] = [
    category(["Market", "Grocers", "Foods", "Pantry"], 3.5, 0.7, 28, 5, 0),
    category(["Kitchen", "Bistro", "Grill", "Diner"], 3.1, 0.6, 22, 4, 0),
    category(["Coffee", "Bakery", "Kiosk", "Vending"], 1.2, 0.75, 14, 0, 40),
    category(["Fuel", "Motors", "Garage", "Parking"], 3.6, 0.7, 10, 3, 32),
    category(["Apparel", "Tailors", "Shoes", "Outfitters"], 4.1, 0.7, 10, 22, 0),
    category(["Electronics", "Computers", "Mobile", "Audio"], 5.1, 0.9, 5, 18, 0),
    category(["Travel", "Hotels", "Airways", "Rentals"], 5.5, 0.9, 6, 14, 0),
    category(["Pharmacy", "Health", "Clinic", "Optics"], 3.0, 0.8, 5, 6, 0),
    category(["Games", "Media", "Apps", "Cloud"], 1.5, 1.0, 0, 28, 90),
];

pub(super) const NAME_FIRST: [&str; 40] = [
    "Amber", "Anchor", "Aspen", "Beacon", "Birch", "Bluebell", "Bramble", "Bright", "Canyon", "Cedar", "Clover",
    "Copper", "Coral", "Crescent", "Delta", "Ember", "Falcon", "Fern", "Golden", "Granite", "Harbor", "Hazel", "Heron",
    "Indigo", "Juniper", "Lantern", "Linden", "Maple", "Meadow", "Mill", "North", "Oak", "Orchid", "Pine", "Quartz",
    "River", "Silver", "Summit", "Violet", "Willow",
];

pub(super) const NAME_SECOND: [&str; 40] = [
    "Arch", "Bank", "Bay", "Bridge", "Brook", "Castle", "Corner", "Court", "Cross", "Dale", "Field", "Ford", "Forge",
    "Garden", "Gate", "Glen", "Green", "Grove", "Hall", "Hill", "House", "Island", "Lake", "Lane", "Light", "Park",
    "Path", "Point", "Pond", "Port", "Ridge", "Road", "Rock", "Square", "Stone", "Street", "Tower", "Valley", "Wharf",
    "Yard",
];

/// ISO 3166 alpha-2 codes, for the compat world, which draws any of them.
pub(super) const ISO_3166: &str = "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT \
BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD \
GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW \
KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP \
NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ \
TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW";

/// Family names of the compat world's company names.
pub(super) const FAMILY_NAMES: [&str; 64] = [
    "Adams",
    "Allen",
    "Anderson",
    "Baker",
    "Bennett",
    "Brooks",
    "Brown",
    "Campbell",
    "Carter",
    "Clark",
    "Collins",
    "Cook",
    "Cooper",
    "Cox",
    "Davis",
    "Diaz",
    "Edwards",
    "Evans",
    "Fisher",
    "Flores",
    "Foster",
    "Garcia",
    "Gray",
    "Green",
    "Hall",
    "Harris",
    "Hayes",
    "Hernandez",
    "Hill",
    "Howard",
    "Hughes",
    "Jackson",
    "James",
    "Jenkins",
    "Johnson",
    "Jones",
    "Kelly",
    "King",
    "Lee",
    "Lewis",
    "Long",
    "Lopez",
    "Martin",
    "Miller",
    "Mitchell",
    "Moore",
    "Morgan",
    "Morris",
    "Murphy",
    "Nelson",
    "Ortiz",
    "Parker",
    "Perez",
    "Perry",
    "Phillips",
    "Powell",
    "Price",
    "Reed",
    "Rivera",
    "Roberts",
    "Rogers",
    "Sanders",
    "Scott",
    "Turner",
];

/// Company suffixes of the compat world.
pub(super) const COMPANY_SUFFIXES: [&str; 6] = ["Inc", "Ltd", "LLC", "PLC", "Group", "and Sons"];

/// The merchants that the replaced project's rules call high-risk.
pub(super) const HIGH_RISK_MERCHANTS: [&str; 3] = ["QuickCash", "GlobalDigital", "FastMoneyX"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_249_distinct_iso_codes_and_ours_are_among_them() {
        let mut codes: Vec<&str> = ISO_3166.split(' ').collect();
        assert_eq!(codes.len(), 249);
        assert!(COUNTRIES.iter().all(|c| codes.contains(&c.code)));
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), 249);
    }

    #[test]
    fn weights_add_up() {
        assert_eq!(COUNTRIES.iter().map(|c| u32::from(c.weight)).sum::<u32>(), 1000);
        assert_eq!(CATEGORIES.iter().map(|c| u32::from(c.weight)).sum::<u32>(), 100);
        assert_eq!(CATEGORIES.iter().map(|c| u32::from(c.online_weight)).sum::<u32>(), 100);
        assert!((WEEKDAY_WEIGHTS.iter().sum::<f64>() - 7.0).abs() < 1e-12);
        assert!(ONLINE_HOMES.iter().all(|h| ["USD", "GBP", "EUR"].contains(&COUNTRIES[usize::from(*h)].currency)));
    }
}
