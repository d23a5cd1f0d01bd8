//! What a board makes of models that change while rows are scored.

use arrow::array::{BooleanArray, Float64Array, Int64Array};
use tidemill_udfs::functions::LoadedModel;

use super::*;
use crate::model;

const MODEL: &str = include_str!("../../../udfs/testdata/binary_31.txt");
const MINUTE: i64 = 60_000_000;
const DAY: i64 = 24 * 60 * MINUTE;

/// The same model under another name, as the next version of a registry may be.
fn version(version: &str) -> LoadedModel {
    let loaded = model::parse(MODEL, 0.5).unwrap();
    LoadedModel { version: version.to_owned(), sha256: format!("hash of {version}"), ..loaded }
}

/// A column for each feature and one of scores, for a day of minutes; `factor` stretches all of them.
fn columns(factor: f64) -> Vec<ArrayRef> {
    let column = |prime: i64| {
        let values = (0..1440).map(|row| (row * prime % 1009) as f64 / 1009.0 * factor);
        Arc::new(Float64Array::from_iter_values(values)) as ArrayRef
    };
    [37, 91, 211, 499, 613].map(column).to_vec()
}

fn times(day: i64) -> Int64Array {
    Int64Array::from_iter_values((0..1440).map(|minute| day * DAY + minute * MINUTE))
}

fn profile(factor: f64) -> ReferenceProfile {
    let columns = columns(factor);
    let values: Vec<&[f64]> = columns.iter().map(|column| &column.as_primitive::<Float64Type>().values()[..]).collect();
    let features: Vec<(&str, &[f64])> = ["f0", "f1", "f2", "f3"].into_iter().zip(values.iter().copied()).collect();
    ReferenceProfile::of(&features, Some(values[4]), times(0).values(), &[]).unwrap()
}

fn board() -> Arc<DriftBoard> {
    Arc::new(DriftBoard::new(DriftSettings { min_rows: 1000, consecutive: 1, ..DriftSettings::default() }))
}

fn observe(observer: &Arc<dyn ScoreObserver>, factor: f64, day: i64) {
    let (columns, times) = (columns(factor), times(day));
    observe_rows(observer, &columns, &times, &BooleanArray::from(vec![false; times.len()]));
}

fn observe_rows(
    observer: &Arc<dyn ScoreObserver>,
    columns: &[ArrayRef],
    times: &Int64Array,
    incomplete: &BooleanArray,
) {
    let (features, scores) = (&columns[..4], &columns[4]);
    observer.observe(Scored {
        model: "fraud",
        features,
        scores,
        event_times: times,
        is_history_incomplete: incomplete,
    });
}

fn state(board: &DriftBoard) -> (String, DriftState, usize) {
    let verdicts = board.verdicts();
    let [ModelVerdict { version, judged: Some((verdict, 0)), .. }] = &verdicts[..] else { panic!("{verdicts:?}") };
    (version.clone(), verdict.state, verdict.windows.len())
}

#[test]
fn a_swap_begins_anew_against_what_the_new_version_was_trained_on() {
    let board = board();
    board.set_reference("hash of 1", profile(1.0));
    board.set_reference("hash of 2", profile(3.0));
    let mut models = Models::new();
    let slot = models.insert("fraud", version("1"));
    let observer = board.observer(&Arc::new(models));
    observe(&observer, 1.0, 10);
    assert_eq!(state(&board), ("1".to_owned(), DriftState::Steady, 1));
    observe(&observer, 3.0, 11);
    assert_eq!(state(&board), ("1".to_owned(), DriftState::Act, 2));
    slot.swap(Arc::new(version("2"))).unwrap();
    observe(&observer, 3.0, 12);
    assert_eq!(state(&board), ("2".to_owned(), DriftState::Steady, 1));
    // A version that comes back has what it had.
    slot.swap(Arc::new(version("1"))).unwrap();
    observe(&observer, 3.0, 13);
    assert_eq!(state(&board), ("1".to_owned(), DriftState::Act, 3));
}

#[test]
fn workers_that_swap_one_after_the_other_do_not_take_windows_from_each_other() {
    let board = board();
    board.set_reference("hash of 1", profile(1.0));
    board.set_reference("hash of 2", profile(1.0));
    let workers: Vec<_> = ["1", "2"]
        .into_iter()
        .map(|number| {
            let mut models = Models::new();
            models.insert("fraud", version(number));
            board.observer(&Arc::new(models))
        })
        .collect();
    for _ in 0..3 {
        workers.iter().for_each(|observer| observe(observer, 1.0, 10));
    }
    let verdicts = board.verdicts();
    let (verdict, _) = verdicts[0].judged.as_ref().unwrap();
    assert_eq!((verdicts[0].version.as_str(), verdict.windows[0].rows), ("2", 3 * 1440));
}

#[test]
fn a_version_without_a_profile_of_its_features_is_not_counted() {
    let board = board();
    let mut other = profile(1.0);
    other.features.pop();
    board.set_reference("hash of 1", other);
    let mut models = Models::new();
    models.insert("fraud", version("1"));
    let observer = board.observer(&Arc::new(models));
    observe(&observer, 1.0, 10);
    assert_eq!(board.verdicts()[0].status().state, "no_reference");
}

#[test]
fn only_rows_of_the_period_count() {
    let board = DriftBoard::new(DriftSettings::default()).within(10 * DAY + 60 * MINUTE..10 * DAY + 120 * MINUTE);
    let board = Arc::new(board);
    board.set_reference("hash of 1", profile(1.0));
    let mut models = Models::new();
    models.insert("fraud", version("1"));
    let observer = board.observer(&Arc::new(models));
    (9..12).for_each(|day| observe(&observer, 1.0, day));
    let verdicts = board.verdicts();
    let (verdict, _) = verdicts[0].judged.as_ref().unwrap();
    assert_eq!(verdict.windows.iter().map(|window| window.rows).collect::<Vec<_>>(), [60]);
}

#[test]
fn rows_of_the_period_without_their_whole_history_are_counted() {
    let board = DriftBoard::new(DriftSettings::default()).within(10 * DAY + 60 * MINUTE..12 * DAY);
    let board = Arc::new(board);
    board.set_reference("hash of 1", profile(1.0));
    let mut models = Models::new();
    models.insert("fraud", version("1"));
    let observer = board.observer(&Arc::new(models));
    // The first ninety minutes of day 10, and nothing later; a batch may lie across two days.
    let times = Int64Array::from_iter_values((0..1440).map(|row| 10 * DAY + row * 2 * MINUTE));
    let incomplete: BooleanArray = (0..1440).map(|row| Some(row < 45)).collect();
    observe_rows(&observer, &columns(1.0), &times, &incomplete);
    let verdicts = board.verdicts();
    let (verdict, _) = verdicts[0].judged.as_ref().unwrap();
    let rows: Vec<_> = verdict.windows.iter().map(|window| (window.rows, window.rows_history_incomplete)).collect();
    assert_eq!(rows, [(690, 15), (720, 0)]);
    assert_eq!(verdicts[0].status().windows[0].rows_history_incomplete, 15);
}
