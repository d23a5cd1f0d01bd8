//! What a reference profile promises, as facts and as properties over random columns.

use proptest::prelude::*;
use tidemill_udfs::bins::{BINS_MAX, Counts, MISSING};
use tidemill_udfs::scorer::Column;

use super::*;

const HOUR: i64 = 3_600_000_000;

/// Deterministic numbers in [0, 1).
fn uniform(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Event times spread evenly over `days`.
fn times(num_rows: usize, days: i64) -> Vec<i64> {
    (0..num_rows as i64).map(|row| row * days * 24 * HOUR / num_rows as i64).collect()
}

/// What serving counts of a column.
fn served(column: &ColumnProfile, values: &[f64]) -> Vec<u64> {
    let mut counts: Counts = [0; BINS_MAX + 1];
    column.binner().unwrap().count(&Column::from(values), &mut counts);
    let mut places = counts[..column.num_bins()].to_vec();
    places.push(counts[MISSING]);
    places
}

fn by_hour(times: &[i64]) -> HourWeights {
    let mut weights = [0; HOURS];
    times.iter().for_each(|time| weights[hour_of_day(*time)] += 1);
    weights
}

fn profile_of(values: &[f64], times: &[i64]) -> ReferenceProfile {
    ReferenceProfile::of(&[("amount", values)], Some(values), times, &[]).unwrap()
}

/// An amount that depends on the hour: large by night.
fn daily(times: &[i64], seed: u64) -> Vec<f64> {
    let mut random = uniform(seed);
    let is_night = |time: &i64| hour_of_day(*time) < 6;
    times.iter().map(|time| random() * 10.0 + if is_night(time) { 8.0 } else { 0.0 }).collect()
}

#[test]
fn the_same_rows_are_no_distance_away() {
    let times = times(50_000, 10);
    let values = daily(&times, 1);
    let profile = profile_of(&values, &times);
    let distance = profile.features[0].distance(&served(&profile.features[0], &values), &by_hour(&times));
    assert!(distance.psi < 1e-9 && distance.ks < 1e-9, "{distance:?}");
    assert_eq!((profile.rows, profile.rows_by_hour.iter().sum::<u64>()), (50_000, 50_000));
}

#[test]
fn other_rows_of_the_same_kind_are_near_and_shifted_ones_are_far() {
    let times = times(50_000, 10);
    let profile = profile_of(&daily(&times, 1), &times);
    let column = &profile.features[0];
    let others = daily(&times, 2);
    let near = column.distance(&served(column, &others), &by_hour(&times));
    assert!(near.psi < 0.005 && near.ks < 0.02, "{near:?}");
    let shifted: Vec<f64> = others.iter().map(|value| value * 1.5).collect();
    let far = column.distance(&served(column, &shifted), &by_hour(&times));
    assert!(far.psi > 0.2 && far.ks > 0.1, "{far:?}");
}

#[test]
fn six_hours_of_a_day_are_held_against_the_same_hours() {
    let times = times(200_000, 20);
    let profile = profile_of(&daily(&times, 1), &times);
    let column = &profile.features[0];
    // A night of day 21: without the hours it looks like another world.
    let night: Vec<i64> = (0..6000).map(|row| 20 * 24 * HOUR + row * 6 * HOUR / 6000).collect();
    let (counts, hours) = (served(column, &daily(&night, 7)), by_hour(&night));
    let whole_day = column.distance(&counts, &by_hour(&times));
    assert!(whole_day.psi > 0.2, "the trap is not there: {whole_day:?}");
    let matched = column.distance(&counts, &hours);
    assert!(matched.psi < 0.02, "{matched:?}");
    assert!(profile.coverage(&hours) < 0.3 && profile.coverage(&by_hour(&times)) == 1.0);
}

#[test]
fn a_value_that_training_never_saw_is_seen() {
    let times = times(10_000, 2);
    let kinds: Vec<f64> = (0..10_000).map(|row| f64::from(row % 4)).collect();
    let profile = profile_of(&kinds, &times);
    let column = &profile.features[0];
    assert_eq!(column.values.as_deref(), Some(&[0.0, 1.0, 2.0, 3.0][..]));
    for new in [1.5, 4.0, -1.0] {
        let with_new: Vec<f64> =
            kinds.iter().enumerate().map(|(row, kind)| if row % 10 == 0 { new } else { *kind }).collect();
        let distance = column.distance(&served(column, &with_new), &by_hour(&times));
        assert!(distance.psi > 0.5, "{new}: {distance:?}");
    }
}

#[test]
fn a_feature_that_differs_from_day_to_day_is_shown_and_not_judged() {
    let times = times(70_000, 14);
    let day = |time: &i64| time.div_euclid(24 * HOUR) % 7;
    let weekday: Vec<f64> = times.iter().map(|time| day(time) as f64).collect();
    let is_weekend: Vec<f64> = times.iter().map(|time| f64::from(day(time) >= 5)).collect();
    // Dearer on weekends, as many things are, and by the hour: neither makes days another world.
    let amount: Vec<f64> =
        daily(&times, 1).iter().zip(&is_weekend).map(|(usd, more)| usd * (1.0 + 0.1 * more)).collect();
    // Weekends alone are far.
    let busy: Vec<f64> = amount.iter().zip(&is_weekend).map(|(usd, more)| usd + 6.0 * more).collect();
    // The world changed once, for the last three days.
    let changed: Vec<f64> =
        amount.iter().zip(&times).map(|(usd, time)| usd + f64::from(*time >= 11 * 24 * HOUR) * 9.0).collect();
    let columns = [
        ("weekday", &weekday[..]),
        ("is_weekend", &is_weekend),
        ("amount", &amount),
        ("busy", &busy),
        ("changed", &changed),
    ];
    let judged = |rows: usize| {
        let columns = columns.map(|(name, values)| (name, &values[..rows]));
        let profile = ReferenceProfile::of(&columns, Some(&weekday[..rows]), &times[..rows], &[]).unwrap();
        assert!(profile.score.is_some_and(|score| score.not_judged.is_none()), "a score is always judged");
        let named = profile.features.iter().filter(|feature| {
            feature.not_judged.as_ref().is_some_and(|reason| reason.starts_with("differs from day to day"))
        });
        named.map(|feature| feature.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(judged(70_000), ["weekday", "is_weekend", "busy"]);
    // Of four days that cannot be said.
    assert_eq!(judged(20_000), Vec::<String>::new());
}

#[test]
fn missing_values_have_a_share_of_their_own() {
    let times = times(20_000, 2);
    let some = |every: usize| -> Vec<f64> {
        let mut random = uniform(3);
        (0..20_000).map(|row| if row % every == 0 { f64::NAN } else { random() }).collect()
    };
    let profile = profile_of(&some(100), &times);
    let column = &profile.features[0];
    let distance = column.distance(&served(column, &some(2)), &by_hour(&times));
    assert!((distance.missing_share - 0.5).abs() < 1e-9 && (distance.reference_missing_share - 0.01).abs() < 1e-9);
    assert!(distance.psi > 1.0 && distance.ks < 0.02, "{distance:?}");
}

#[test]
fn a_counter_is_found_and_not_judged() {
    let times = times(20_000, 10);
    let mut random = uniform(5);
    let counter: Vec<f64> = (0..20_000).map(|row| f64::from(row) / 100.0 + random() * 50.0).collect();
    let steady: Vec<f64> = (0..20_000).map(|_| random()).collect();
    let falling: Vec<f64> = counter.iter().map(|value| -value).collect();
    let columns =
        [("seen_before", &counter[..]), ("amount", &steady[..]), ("left", &falling[..]), ("week", &steady[..])];
    let profile = ReferenceProfile::of(&columns, Some(&counter), &times, &["week".to_owned()]).unwrap();
    let reasons: Vec<Option<&str>> = profile.columns().map(|column| column.not_judged.as_deref()).collect();
    assert!(reasons[0].is_some_and(|reason| reason.contains("it grows from each tenth")), "{reasons:?}");
    assert!(reasons[2].is_some_and(|reason| reason.contains("it shrinks from each tenth")), "{reasons:?}");
    assert_eq!((reasons[1], reasons[3], reasons[4]), (None, Some("named as not to be judged"), None));
    let error = ReferenceProfile::of(&columns, None, &times, &["weak".to_owned()]).unwrap_err();
    assert!(error.to_string().contains("no feature is named weak"), "{error}");
}

#[test]
fn constants_infinities_and_nothing_at_all_have_profiles() {
    let times = times(1000, 1);
    let infinite: Vec<f64> = (0..1000).map(|row| if row % 2 == 0 { f64::INFINITY } else { f64::from(row) }).collect();
    for values in [vec![7.0; 1000], vec![f64::NAN; 1000], vec![f64::NEG_INFINITY; 1000], infinite] {
        let profile = profile_of(&values, &times);
        let column = &profile.features[0];
        let counts = served(column, &values);
        assert_eq!(counts.iter().sum::<u64>(), 1000);
        let distance = column.distance(&counts, &by_hour(&times));
        assert!(distance.psi < 1e-9, "{distance:?}");
    }
    let error = ReferenceProfile::of(&[], None, &[], &[]).unwrap_err();
    assert!(error.to_string().contains("needs rows"), "{error}");
}

#[test]
fn a_rare_atom_and_its_surroundings_have_bins_of_their_own() {
    // Half of the rows are exactly 0; the others are spread.
    let times = times(32_000, 4);
    let mut random = uniform(9);
    let values: Vec<f64> = (0..32_000).map(|row| if row % 2 == 0 { 0.0 } else { random() * 100.0 }).collect();
    let profile = profile_of(&values, &times);
    let column = &profile.features[0];
    let counts = served(column, &values);
    assert_eq!(counts.iter().filter(|rows| **rows == 16_000).count(), 1, "{counts:?}");
    assert!(column.edges.len() >= 7, "{:?}", column.edges);
}

#[test]
fn version_1_is_read_as_it_was_written() {
    let golden = include_str!("golden-v1.json");
    let profile = ReferenceProfile::from_json(golden).unwrap();
    assert_eq!(profile.features[0].edges, [0.75, 1.25]);
    assert_eq!(profile.features[1].not_judged.as_deref(), Some("named as not to be judged"));
    assert_eq!(ReferenceProfile::from_json(&profile.to_json().unwrap()).unwrap(), profile);
    for (from, to, expected) in [
        ("\"version\":1", "\"version\":2", "has version 2"),
        ("0.75,1.25", "1.25,0.75", "amount does not have"),
        ("\"rows\":", "\"lines\":", "is not a reference profile"),
    ] {
        let error = ReferenceProfile::from_json(&golden.replace(from, to)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.kind(), crate::ErrorKind::Data);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_profile_survives_its_file_and_counts_its_own_rows(
        values in prop::collection::vec(
            prop_oneof![3 => any::<f64>(), 2 => (-9..9_i32).prop_map(f64::from), 1 => Just(f64::NAN)], 1..400),
        days in 1..30_i64,
    ) {
        let times = times(values.len(), days);
        let profile = profile_of(&values, &times);
        let read = ReferenceProfile::from_json(&profile.to_json().unwrap()).unwrap();
        let column = &read.features[0];
        let counts = served(column, &values);
        let reference: Vec<u64> =
            (0..counts.len()).map(|place| column.counts.iter().map(|hour| hour[place]).sum()).collect();
        // Written and read: no row changes its bin but where two neighbours are a rounding apart.
        let moved: u64 = counts.iter().zip(&reference).map(|(a, b)| a.abs_diff(*b)).sum();
        prop_assert!(moved as usize <= values.len() / 50 * 2, "{moved} of {}", values.len());
        let distance = column.distance(&counts, &by_hour(&times));
        prop_assert!(distance.psi >= 0.0 && distance.psi.is_finite() && (0.0..=1.0).contains(&distance.ks));
    }

    #[test]
    fn psi_is_symmetric_and_grows_with_the_shift(shift in 0.0..3.0_f64) {
        let mut random = uniform(11);
        let times = times(5000, 2);
        let base: Vec<f64> = (0..5000).map(|_| random() * 4.0).collect();
        let profile = profile_of(&base, &times);
        let column = &profile.features[0];
        let at = |shift: f64| served(column, &base.iter().map(|value| value + shift).collect::<Vec<_>>());
        let number = |counts: &[u64]| counts.iter().map(|count| *count as f64).collect::<Vec<_>>();
        let (here, near, far) = (number(&at(0.0)), number(&at(shift)), number(&at(shift + 0.5)));
        prop_assert!((psi(&here, &near) - psi(&near, &here)).abs() < 1e-9);
        prop_assert!(psi(&far, &here) > psi(&near, &here), "{} {}", psi(&far, &here), psi(&near, &here));
        prop_assert!(ks(&far, &here) >= ks(&near, &here));
    }
}
