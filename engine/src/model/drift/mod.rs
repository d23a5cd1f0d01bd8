//! Drift: served rows counted into windows of event time, each held against the reference profile of the model that scored them.
//! Counting allocates nothing; judging is pure. It alarms only when a feature or the score is far in several windows that
//! follow each other, each with enough rows from enough of the day: a part of a day, or a handful of rows, differ by themselves.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::buffer::BooleanBuffer;
use tidemill_udfs::bins::{BINS_MAX, Binner, Counts, MISSING};
use tidemill_udfs::scorer::Column;

use super::profile::{Distance, HOURS, HourWeights, ReferenceProfile, hour_of_day};
use crate::error::{Error, Result};

/// A window is judged when it has rows in the hours of day that hold this share of the reference's rows.
const COVERAGE_MIN: f64 = 0.8;

/// When served rows differ so much that somebody should act.
#[derive(Debug, Clone, PartialEq)]
pub struct DriftSettings {
    /// Length of a window of event time, microseconds: a day or more.
    pub window_micros: i64,
    /// A window with fewer rows is not judged.
    pub min_rows: u64,
    /// PSI from which on a difference is to be watched.
    pub watch: f64,
    /// PSI above which a difference is far.
    pub act: f64,
    /// Judged windows, one after the other, in which the same column must be far.
    pub consecutive: usize,
    /// Features that are shown and not judged, beside those of the profile.
    pub not_judged: Vec<String>,
    /// Windows kept, the newest.
    pub windows_max: usize,
}

impl Default for DriftSettings {
    fn default() -> DriftSettings {
        DriftSettings {
            window_micros: 24 * 3_600_000_000,
            min_rows: 5000,
            watch: 0.1,
            act: 0.2,
            consecutive: 2,
            not_judged: Vec::new(),
            windows_max: 8,
        }
    }
}

/// What the windows say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DriftState {
    /// No window has enough rows yet.
    TooFewRows,
    /// Nothing differs.
    Steady,
    /// Something differs in the newest judged window, or differs much there for the first time.
    Watch,
    /// Something differs much, window after window.
    Act,
}

impl DriftState {
    /// As in the status document.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            DriftState::TooFewRows => "too_few_rows",
            DriftState::Steady => "steady",
            DriftState::Watch => "watch",
            DriftState::Act => "act",
        }
    }
}

/// One column of one window.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnDrift {
    /// The feature, or `score`.
    pub name: String,
    /// How far.
    pub distance: Distance,
    /// Why it is not judged, if it is not.
    pub not_judged: Option<String>,
}

/// One window, judged or not.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowDrift {
    /// First event time that belongs to it, microseconds since 1970-01-01 UTC.
    pub start: i64,
    /// First that does not.
    pub end: i64,
    /// Rows.
    pub rows: u64,
    /// Those of them whose SQL windows reach behind the first record that was there to be read.
    pub rows_history_incomplete: u64,
    /// The share of the reference's rows whose hours of day the window has.
    pub coverage: f64,
    /// Whether it has enough rows from enough of the day.
    pub is_judged: bool,
    /// Features in the model's order, then the score.
    pub columns: Vec<ColumnDrift>,
}

/// All windows of a model, and what follows.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What they say together.
    pub state: DriftState,
    /// Columns that are far, window after window.
    pub acting: Vec<String>,
    /// Columns that differ in the newest judged window.
    pub watched: Vec<String>,
    /// The windows, oldest first.
    pub windows: Vec<WindowDrift>,
}

/// Rows of one window by column and bin.
#[derive(Debug, Clone)]
pub struct WindowCounts {
    by_hour: HourWeights,
    /// Rows whose history is incomplete.
    incomplete: u64,
    columns: Vec<Counts>,
}

impl WindowCounts {
    fn new(num_columns: usize) -> WindowCounts {
        WindowCounts { by_hour: [0; HOURS], incomplete: 0, columns: vec![[0; BINS_MAX + 1]; num_columns] }
    }

    fn clear(&mut self, num_columns: usize) {
        (self.by_hour, self.incomplete) = ([0; HOURS], 0);
        self.columns.clear();
        self.columns.resize(num_columns, [0; BINS_MAX + 1]);
    }

    fn add(&mut self, more: &WindowCounts) {
        self.by_hour.iter_mut().zip(&more.by_hour).for_each(|(sum, rows)| *sum += rows);
        self.incomplete += more.incomplete;
        for (column, more) in self.columns.iter_mut().zip(&more.columns) {
            column.iter_mut().zip(more).for_each(|(sum, rows)| *sum += rows);
        }
    }
}

/// Room to count a batch in; one for each thread, used again for every batch.
#[derive(Debug, Default)]
pub struct DriftScratch {
    counts: Option<WindowCounts>,
}

/// How the rows of one model are binned. Shared by all that count.
#[derive(Debug)]
pub struct DriftBins {
    profile: Arc<ReferenceProfile>,
    binners: Vec<Binner>,
    window_micros: i64,
}

impl DriftBins {
    /// The profile.
    #[must_use]
    pub fn profile(&self) -> &ReferenceProfile {
        &self.profile
    }

    /// For the features and the score of a profile.
    pub fn new(profile: Arc<ReferenceProfile>, settings: &DriftSettings) -> Result<DriftBins> {
        let binner = |column: &super::profile::ColumnProfile| {
            column.binner().ok_or_else(|| Error::data(format!("the reference profile of {} has no edges", column.name)))
        };
        let binners = profile.columns().map(binner).collect::<Result<_>>()?;
        Ok(DriftBins { profile, binners, window_micros: settings.window_micros.max(1) })
    }

    /// Counts the rows of a batch, window by window, and gives each window's counts to `add`. Columns are the features in the
    /// model's order, then the score if the profile has one; all that is given is of equal length.
    pub fn count(
        &self,
        columns: &[Column<'_>],
        times: &[i64],
        is_history_incomplete: &BooleanBuffer,
        scratch: &mut DriftScratch,
        mut add: impl FnMut(i64, &WindowCounts),
    ) {
        let (Some(first), Some(last)) = (times.iter().min(), times.iter().max()) else { return };
        let (first, last) = (self.window_of(*first), self.window_of(*last));
        let num_columns = self.binners.len();
        let counts = scratch.counts.get_or_insert_with(|| WindowCounts::new(num_columns));
        if first == last {
            counts.clear(num_columns);
            count_hours(times, &mut counts.by_hour);
            counts.incomplete = is_history_incomplete.count_set_bits() as u64;
            for ((binner, column), counts) in self.binners.iter().zip(columns).zip(&mut counts.columns) {
                binner.count(column, counts);
            }
            add(first, counts);
            return;
        }
        // A batch across midnight, or of partitions that are at different days.
        let mut windows: Vec<i64> = times.iter().map(|time| self.window_of(*time)).collect();
        windows.sort_unstable();
        windows.dedup();
        for window in windows {
            counts.clear(num_columns);
            for (row, time) in times.iter().enumerate().filter(|(_, time)| self.window_of(**time) == window) {
                counts.by_hour[hour_of_day(*time)] += 1;
                counts.incomplete += u64::from(is_history_incomplete.value(row));
                for ((binner, column), counts) in self.binners.iter().zip(columns).zip(&mut counts.columns) {
                    counts[value(column, row).map_or(MISSING, |value| binner.bin(value))] += 1;
                }
            }
            add(window, counts);
        }
    }

    fn window_of(&self, time: i64) -> i64 {
        time.div_euclid(self.window_micros)
    }
}

/// Rows by hour; runs of one hour, as live rows come, cost one division.
fn count_hours(times: &[i64], by_hour: &mut HourWeights) {
    const HOUR: i64 = 3_600_000_000;
    let (mut start, mut hour) = (i64::MAX, 0);
    for time in times {
        if !(start..start.saturating_add(HOUR)).contains(time) {
            start = time.div_euclid(HOUR) * HOUR;
            hour = hour_of_day(*time);
        }
        by_hour[hour] += 1;
    }
}

fn value(column: &Column<'_>, row: usize) -> Option<f64> {
    let is_valid = column.validity.is_none_or(|validity| {
        let bit = validity.offset + row;
        validity.bits[bit / 8] >> (bit % 8) & 1 == 1
    });
    if is_valid { column.values.get(row).copied() } else { None }
}

/// The windows of one model version in one process.
#[derive(Debug, Clone)]
pub struct DriftWindows {
    settings: DriftSettings,
    windows: BTreeMap<i64, WindowCounts>,
    /// Rows whose windows were given up before they came.
    rows_too_old: u64,
}

impl DriftWindows {
    /// Without rows.
    #[must_use]
    pub fn new(settings: DriftSettings) -> DriftWindows {
        DriftWindows { settings, windows: BTreeMap::new(), rows_too_old: 0 }
    }

    /// Adds what [`DriftBins::count`] counted of a window.
    pub fn add(&mut self, window: i64, counts: &WindowCounts) {
        let is_full = self.windows.len() >= self.settings.windows_max.max(1);
        let oldest = self.windows.keys().next().copied();
        if !self.windows.contains_key(&window) && is_full {
            if oldest.is_some_and(|oldest| window < oldest) {
                self.rows_too_old += counts.by_hour.iter().sum::<u64>();
                return;
            }
            self.windows.pop_first();
        }
        let num_columns = counts.columns.len();
        self.windows.entry(window).or_insert_with(|| WindowCounts::new(num_columns)).add(counts);
    }

    /// Rows whose windows were given up before they came.
    #[must_use]
    pub fn rows_too_old(&self) -> u64 {
        self.rows_too_old
    }

    /// Holds all windows against the profile.
    #[must_use]
    pub fn judge(&self, profile: &ReferenceProfile) -> Verdict {
        let windows: Vec<WindowDrift> =
            self.windows.iter().map(|(window, counts)| self.judge_window(profile, *window, counts)).collect();
        let judged: Vec<&WindowDrift> = windows.iter().filter(|window| window.is_judged).collect();
        let far = |window: &WindowDrift, limit: f64| -> Vec<String> {
            let is_far = |column: &&ColumnDrift| column.not_judged.is_none() && column.distance.psi > limit;
            window.columns.iter().filter(is_far).map(|column| column.name.clone()).collect()
        };
        let watched = judged.last().map_or_else(Vec::new, |window| far(window, self.settings.watch));
        let newest = judged.len().saturating_sub(self.settings.consecutive.max(1))..;
        let newest = judged.get(newest).filter(|newest| newest.len() == self.settings.consecutive.max(1));
        let acting = newest.map_or_else(Vec::new, |newest| {
            let everywhere = |name: &String| newest.iter().all(|window| far(window, self.settings.act).contains(name));
            newest
                .last()
                .map_or_else(Vec::new, |window| far(window, self.settings.act))
                .into_iter()
                .filter(everywhere)
                .collect()
        });
        let state = match (judged.is_empty(), acting.is_empty(), watched.is_empty()) {
            (true, _, _) => DriftState::TooFewRows,
            (_, false, _) => DriftState::Act,
            (_, _, false) => DriftState::Watch,
            (false, true, true) => DriftState::Steady,
        };
        Verdict { state, acting, watched, windows }
    }

    fn judge_window(&self, profile: &ReferenceProfile, window: i64, counts: &WindowCounts) -> WindowDrift {
        let rows = counts.by_hour.iter().sum();
        let coverage = profile.coverage(&counts.by_hour);
        let column = |(column, bins): (&super::profile::ColumnProfile, &Counts)| {
            let mut places = bins[..column.num_bins()].to_vec();
            places.push(bins[MISSING]);
            let named = self.settings.not_judged.contains(&column.name);
            let named = named.then(|| "named as not to be judged".to_owned());
            ColumnDrift {
                name: column.name.clone(),
                distance: column.distance(&places, &counts.by_hour),
                not_judged: column.not_judged.clone().or(named),
            }
        };
        WindowDrift {
            start: window * self.settings.window_micros,
            end: (window + 1) * self.settings.window_micros,
            rows,
            rows_history_incomplete: counts.incomplete,
            coverage,
            is_judged: rows >= self.settings.min_rows && coverage >= COVERAGE_MIN,
            columns: profile.columns().zip(&counts.columns).map(column).collect(),
        }
    }
}
