//! When windows alarm and when they do not.

use super::*;
use crate::model::profile::SCORE;

const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;
/// Rows of a day.
const ROWS: usize = 6000;

/// Rows of some hours: amounts are higher by night, and there is more of them.
struct Rows {
    times: Vec<i64>,
    amounts: Vec<f64>,
    seen: Vec<f64>,
}

fn rows(from: i64, hours: i64, factor: f64, seed: u64) -> Rows {
    let num_rows = ROWS * hours as usize / 24;
    let mut state = seed;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    let times: Vec<i64> = (0..num_rows as i64).map(|row| from + row * hours * HOUR / num_rows as i64).collect();
    let night = |time: &i64| if hour_of_day(*time) < 6 { 3.0 } else { 0.0 };
    let amounts = times.iter().map(|time| (random() + night(time)) * factor).collect();
    let seen = times.iter().map(|time| *time as f64 / DAY as f64 + random()).collect();
    Rows { times, amounts, seen }
}

/// Ten days of training.
fn profile() -> Arc<ReferenceProfile> {
    let Rows { times, amounts, seen } = rows(0, 240, 1.0, 1);
    let columns = [("amount", &amounts[..]), ("seen_before", &seen[..])];
    Arc::new(ReferenceProfile::of(&columns, Some(&amounts), &times, &[]).unwrap())
}

struct Counting {
    bins: DriftBins,
    windows: DriftWindows,
    scratch: DriftScratch,
}

impl Counting {
    fn new(settings: DriftSettings) -> Counting {
        let bins = DriftBins::new(profile(), &settings).unwrap();
        Counting { bins, windows: DriftWindows::new(settings), scratch: DriftScratch::default() }
    }

    fn add(&mut self, rows: &Rows) {
        self.add_part(rows, 0..rows.times.len());
    }

    fn add_part(&mut self, rows: &Rows, part: std::ops::Range<usize>) {
        let columns: Vec<Column<'_>> =
            [&rows.amounts, &rows.seen, &rows.amounts].map(|column| column[part.clone()].into()).to_vec();
        let Counting { bins, windows, scratch } = self;
        let incomplete = BooleanBuffer::collect_bool(part.len(), |row| (part.start + row).is_multiple_of(4));
        bins.count(&columns, &rows.times[part], &incomplete, scratch, |window, counts| windows.add(window, counts));
    }

    fn verdict(&self) -> Verdict {
        self.windows.judge(self.bins.profile())
    }
}

#[test]
fn days_like_those_of_training_are_steady() {
    let mut counting = Counting::new(DriftSettings::default());
    assert_eq!(counting.verdict().state, DriftState::TooFewRows);
    for day in 10..14 {
        counting.add(&rows(day * DAY, 24, 1.0, day as u64));
    }
    let verdict = counting.verdict();
    assert_eq!(verdict.state, DriftState::Steady, "{verdict:?}");
    assert!(verdict.windows.iter().all(|window| window.is_judged && window.rows == ROWS as u64));
    let newest = verdict.windows.last().unwrap();
    let [amount, seen, score] = &newest.columns[..] else { panic!("{newest:?}") };
    assert!(amount.distance.psi < 0.02 && score.name == SCORE, "{newest:?}");
    // The counter is far away, by construction, and no alarm.
    assert!(seen.distance.psi > 0.2 && seen.not_judged.is_some(), "{seen:?}");
}

#[test]
fn one_day_that_is_far_is_watched_and_the_second_is_an_alarm() {
    let mut counting = Counting::new(DriftSettings::default());
    counting.add(&rows(10 * DAY, 24, 1.0, 2));
    counting.add(&rows(11 * DAY, 24, 1.5, 3));
    let verdict = counting.verdict();
    assert_eq!((verdict.state, verdict.acting.len()), (DriftState::Watch, 0), "{verdict:?}");
    assert_eq!(verdict.watched, ["amount", "score"]);
    counting.add(&rows(12 * DAY, 24, 1.5, 4));
    let verdict = counting.verdict();
    assert_eq!((verdict.state, verdict.acting), (DriftState::Act, vec!["amount".to_owned(), "score".to_owned()]));
    // And over, when a day is as before.
    counting.add(&rows(13 * DAY, 24, 1.0, 5));
    assert_eq!(counting.verdict().state, DriftState::Steady);
}

#[test]
fn a_part_of_a_day_is_no_alarm_however_different_it_looks() {
    let mut settings = DriftSettings { min_rows: 1000, ..DriftSettings::default() };
    for act in [0.2, 1e-6] {
        settings.act = act;
        settings.watch = act;
        let mut counting = Counting::new(settings.clone());
        for day in 10..14 {
            counting.add(&rows(day * DAY, 6, 1.0, day as u64));
        }
        let verdict = counting.verdict();
        assert_eq!(verdict.state, DriftState::TooFewRows, "{verdict:?}");
        let night = &verdict.windows[0];
        assert!(!night.is_judged && night.rows == 1500 && (night.coverage - 0.25).abs() < 0.01, "{night:?}");
        // Hour-matched it is near all the same.
        assert!(night.columns[0].distance.psi < 0.1, "{night:?}");
    }
}

#[test]
fn a_window_with_few_rows_is_not_judged() {
    let mut counting = Counting::new(DriftSettings::default());
    let day = rows(10 * DAY, 24, 9.0, 2);
    for row in (0..ROWS).step_by(2) {
        counting.add_part(&day, row..row + 1);
    }
    let verdict = counting.verdict();
    assert_eq!((verdict.state, verdict.windows[0].rows), (DriftState::TooFewRows, 3000));
    assert_eq!(verdict.windows[0].coverage, 1.0);
}

#[test]
fn what_is_named_as_not_to_be_judged_is_shown_and_no_alarm() {
    let not_judged = vec!["amount".to_owned(), "score".to_owned()];
    let mut counting = Counting::new(DriftSettings { not_judged, ..DriftSettings::default() });
    for day in 10..13 {
        counting.add(&rows(day * DAY, 24, 2.0, day as u64));
    }
    let verdict = counting.verdict();
    assert_eq!(verdict.state, DriftState::Steady);
    assert!(verdict.windows[2].columns[0].distance.psi > 0.2);
}

#[test]
fn counts_do_not_depend_on_how_the_rows_were_cut() {
    // Over two midnights.
    let rows = rows(10 * DAY + 20 * HOUR, 36, 1.0, 2);
    let mut whole = Counting::new(DriftSettings::default());
    whole.add(&rows);
    for size in [1, 7, 8192] {
        let mut cut = Counting::new(DriftSettings::default());
        for start in (0..rows.times.len()).step_by(size) {
            cut.add_part(&rows, start..(start + size).min(rows.times.len()));
        }
        assert_eq!(cut.verdict(), whole.verdict(), "{size}");
    }
    let windows = whole.verdict().windows;
    assert_eq!(windows.iter().map(|window| window.rows).collect::<Vec<_>>(), [1000, 6000, 2000]);
    assert_eq!(windows[0].start, 10 * DAY);
}

#[test]
fn only_the_newest_windows_are_kept_and_what_comes_too_late_is_counted() {
    let mut counting = Counting::new(DriftSettings { windows_max: 3, ..DriftSettings::default() });
    for day in [10, 12, 11, 13] {
        counting.add(&rows(day * DAY, 24, 1.0, day as u64));
    }
    counting.add(&rows(10 * DAY, 24, 1.0, 5));
    let verdict = counting.verdict();
    assert_eq!(verdict.windows.iter().map(|window| window.start / DAY).collect::<Vec<_>>(), [11, 12, 13]);
    assert_eq!(counting.windows.rows_too_old(), ROWS as u64);
}
