//! Drift of what a run serves: the values that go into `score` and the scores are counted as they are served, on the workers'
//! threads, against the reference profile of the model version that scored them. Counts are of this process and live in memory:
//! a restart begins the open windows anew, and other processes of the pipeline have their own.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::Float64Type;
use tidemill_udfs::functions::{LoadedModel, Models};
use tidemill_udfs::scorer::{Column, Validity};
use tokio_util::sync::CancellationToken;

use super::labels::LabelBoard;
use crate::model::drift::{
    ColumnDrift, DriftBins, DriftScratch, DriftSettings, DriftState, DriftWindows, Verdict, WindowDrift,
};
use crate::model::profile::{Distance, ReferenceProfile, SCORE};
use crate::observe::drift::{self, DriftColumnStatus, DriftStatus, DriftWindowStatus};
use crate::observe::status::StatusBoard;
use crate::pipeline::settings::Drift;
use crate::plan::{ScoreObserver, Scored};

/// How often windows are judged.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);
/// Versions of a model whose windows are kept.
const VERSIONS_KEPT: usize = 4;
/// Features of a window that the status document shows.
const WORST_SHOWN: usize = 5;

thread_local! {
    /// One per thread, so that no batch pays for it.
    static SCRATCH: RefCell<DriftScratch> = RefCell::default();
}

/// What is counted of the models of a process.
#[derive(Debug)]
pub struct DriftBoard {
    settings: DriftSettings,
    /// Only rows of these event times count; both ends open by default.
    times: Range<i64>,
    /// By hash of the model file: its profile, where it has one.
    profiles: Mutex<BTreeMap<String, Arc<ReferenceProfile>>>,
    /// By name in SQL: the versions that scored, each with its own windows.
    versions: RwLock<BTreeMap<String, Vec<Arc<Watched>>>>,
    /// Counts batches, to tell which version scored last.
    turn: AtomicU64,
}

/// A version of a model that scored.
#[derive(Debug)]
struct Watched {
    version: String,
    sha256: String,
    /// The turn of its last batch.
    seen: AtomicU64,
    counted: Option<(DriftBins, Mutex<DriftWindows>)>,
}

/// Shows a board what the models of one worker score.
#[derive(Debug)]
struct Observer {
    board: Arc<DriftBoard>,
    models: Arc<Models>,
}

/// The settings of a pipeline file.
#[must_use]
pub fn drift_settings(drift: &Drift) -> DriftSettings {
    DriftSettings {
        window_micros: i64::try_from(drift.window.as_micros()).unwrap_or(i64::MAX),
        min_rows: drift.min_rows,
        watch: drift.watch,
        act: drift.act,
        consecutive: drift.consecutive,
        not_judged: drift.ignore.clone(),
        ..DriftSettings::default()
    }
}

/// What is watched of the models of a run: their drift, and the labels that come.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    pub(crate) drift: Option<Arc<DriftBoard>>,
    pub(crate) labels: Option<Arc<LabelBoard>>,
}

impl Watch {
    /// Sets metrics and status.
    pub(crate) fn report(&self, status: &StatusBoard) {
        if let Some(board) = &self.drift {
            status.set_drift(board.report());
        }
        if let Some(board) = &self.labels {
            status.set_labels(board.report());
        }
    }

    /// Reports until `stop`.
    pub(crate) async fn report_until(self, status: StatusBoard, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(REPORT_INTERVAL) => self.report(&status),
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while counting leaves counts, which are numbers whatever they are.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DriftBoard {
    /// Without rows.
    #[must_use]
    pub fn new(settings: DriftSettings) -> DriftBoard {
        DriftBoard {
            settings,
            times: i64::MIN..i64::MAX,
            profiles: Mutex::default(),
            versions: RwLock::default(),
            turn: AtomicU64::new(1),
        }
    }

    /// Counts only rows of these event times, microseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn within(mut self, times: Range<i64>) -> DriftBoard {
        self.times = times;
        self
    }

    /// The event times that count.
    #[must_use]
    pub fn period(&self) -> &Range<i64> {
        &self.times
    }

    /// Says what a model file was trained on, by the file's hash; to be called before the version serves.
    pub fn set_reference(&self, sha256: &str, profile: ReferenceProfile) {
        locked(&self.profiles).insert(sha256.to_owned(), Arc::new(profile));
    }

    /// What sees the rows that `models` score. One for each worker, since each swaps its models by itself.
    #[must_use]
    pub fn observer(self: &Arc<Self>, models: &Arc<Models>) -> Arc<dyn ScoreObserver> {
        Arc::new(Observer { board: Arc::clone(self), models: Arc::clone(models) })
    }

    /// The counts of a version. Workers may serve two of them side by side while they swap.
    fn watched(&self, name: &str, model: &LoadedModel) -> Arc<Watched> {
        let turn = self.turn.fetch_add(1, Relaxed);
        let is_it = |watched: &&Arc<Watched>| watched.sha256 == model.sha256 && watched.version == model.version;
        let known = self.versions.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(watched) = known.get(name).and_then(|versions| versions.iter().find(is_it)) {
            watched.seen.store(turn, Relaxed);
            return Arc::clone(watched);
        }
        drop(known);
        let mut versions = self.versions.write().unwrap_or_else(PoisonError::into_inner);
        let versions = versions.entry(name.to_owned()).or_default();
        if let Some(watched) = versions.iter().find(is_it) {
            return Arc::clone(watched);
        }
        if versions.len() >= VERSIONS_KEPT {
            versions.sort_by_key(|watched| watched.seen.load(Relaxed));
            versions.remove(0);
        }
        let watched = Arc::new(self.watch(model, turn));
        versions.push(Arc::clone(&watched));
        watched
    }

    fn watch(&self, model: &LoadedModel, turn: u64) -> Watched {
        let features = model.model.feature_names();
        let is_of_model =
            |profile: &&Arc<ReferenceProfile>| profile.features.iter().map(|feature| &feature.name).eq(features.iter());
        let profiles = locked(&self.profiles);
        let profile = profiles.get(&model.sha256).filter(is_of_model).filter(|_| model.model.num_outputs() == 1);
        let bins = profile.and_then(|profile| DriftBins::new(Arc::clone(profile), &self.settings).ok());
        let counted = bins.map(|bins| (bins, Mutex::new(DriftWindows::new(self.settings.clone()))));
        let (version, sha256) = (model.version.clone(), model.sha256.clone());
        Watched { version, sha256, seen: AtomicU64::new(turn), counted }
    }

    /// What the windows of each model that scored say: of the version that scored last.
    #[must_use]
    pub fn verdicts(&self) -> Vec<ModelVerdict> {
        let versions = self.versions.read().unwrap_or_else(PoisonError::into_inner).clone();
        let verdict = |(model, versions): (String, Vec<Arc<Watched>>)| {
            let watched = versions.into_iter().max_by_key(|watched| watched.seen.load(Relaxed))?;
            let judged = watched.counted.as_ref().map(|(bins, windows)| {
                // Judged on a copy: the workers do not wait for it.
                let windows = locked(windows).clone();
                (windows.judge(bins.profile()), windows.rows_too_old())
            });
            Some(ModelVerdict { model, version: watched.version.clone(), judged })
        };
        versions.into_iter().filter_map(verdict).collect()
    }

    /// Sets the gauges, and gives what the status document says.
    pub(crate) fn report(&self) -> Vec<DriftStatus> {
        let verdicts = self.verdicts();
        for ModelVerdict { model, judged, .. } in &verdicts {
            let Some((verdict, _)) = judged else { continue };
            let newest = verdict.windows.last();
            let judged = verdict.windows.iter().rev().find(|window| window.is_judged);
            let state = match verdict.state {
                DriftState::TooFewRows => f64::NAN,
                DriftState::Steady => 0.0,
                DriftState::Watch => 1.0,
                DriftState::Act => 2.0,
            };
            // Without a judged window the gauges of another version must not stay.
            let columns = judged.or(newest).map_or_else(Vec::new, |window| {
                let nothing = |column: DriftColumnStatus| match judged {
                    Some(_) => column,
                    None => DriftColumnStatus { psi: f64::NAN, ks: f64::NAN, ..column },
                };
                window.columns.iter().map(column_status).map(nothing).collect()
            });
            let rows = newest.map_or(0, |window| window.rows);
            drift::set_gauges(model, state, rows, judged.map(|window| window.start), &columns);
        }
        verdicts.iter().map(ModelVerdict::status).collect()
    }
}

/// What the windows of one model say.
#[derive(Debug, Clone)]
pub struct ModelVerdict {
    /// Name in SQL.
    pub model: String,
    /// The version that serves.
    pub version: String,
    /// The verdict, and the rows whose windows were given up before they came; `None` without a reference profile.
    pub judged: Option<(Verdict, u64)>,
}

impl ModelVerdict {
    /// As in the status document.
    #[must_use]
    pub fn status(&self) -> DriftStatus {
        let (model, version) = (self.model.clone(), self.version.clone());
        let Some((verdict, rows_too_old)) = &self.judged else {
            return DriftStatus { model, version, state: "no_reference".to_owned(), ..DriftStatus::default() };
        };
        DriftStatus {
            model,
            version,
            state: verdict.state.as_str().to_owned(),
            acting: verdict.acting.clone(),
            watched: verdict.watched.clone(),
            windows: verdict.windows.iter().map(window_status).collect(),
            rows_too_old: *rows_too_old,
        }
    }
}

fn window_status(window: &WindowDrift) -> DriftWindowStatus {
    let (score, features): (Vec<_>, Vec<_>) = window.columns.iter().partition(|column| column.name == SCORE);
    let mut worst: Vec<DriftColumnStatus> = features.into_iter().map(column_status).collect();
    worst.sort_by(|a, b| {
        (a.not_judged.is_some(), b.psi).partial_cmp(&(b.not_judged.is_some(), a.psi)).unwrap_or(Ordering::Equal)
    });
    worst.truncate(WORST_SHOWN);
    DriftWindowStatus {
        start_micros: window.start,
        end_micros: window.end,
        rows: window.rows,
        rows_history_incomplete: window.rows_history_incomplete,
        coverage: window.coverage,
        judged: window.is_judged,
        score: score.first().map(|column| column_status(column)),
        worst,
    }
}

fn column_status(column: &ColumnDrift) -> DriftColumnStatus {
    let Distance { psi, ks, missing_share, reference_missing_share } = column.distance;
    let (name, not_judged) = (column.name.clone(), column.not_judged.clone());
    DriftColumnStatus { name, psi, ks, missing_share, reference_missing_share, not_judged }
}

impl ScoreObserver for Observer {
    fn observe(&self, rows: Scored<'_>) {
        let Scored { model, features, scores, event_times, is_history_incomplete } = rows;
        let Some(serving) = self.models.slot(model).ok().and_then(|slot| slot.serving()) else { return };
        let watched = self.board.watched(model, &serving);
        let Some((bins, windows)) = &watched.counted else { return };
        let wanted = &self.board.times;
        let columns: Option<Vec<Column<'_>>> = features.iter().chain([scores]).map(column).collect();
        let Some(columns) = columns else { return };
        let (times, incomplete) = (event_times.values(), is_history_incomplete.values());
        let count = |columns: &[Column<'_>], times: &[i64], incomplete: &BooleanBuffer| {
            SCRATCH.with_borrow_mut(|scratch| {
                bins.count(columns, times, incomplete, scratch, |window, counts| locked(windows).add(window, counts));
            });
        };
        if times.iter().all(|time| wanted.contains(time)) {
            return count(&columns, times, incomplete);
        }
        // At the ends of a period; rows of it come together, but for late ones.
        for rows in within(times, wanted) {
            let columns: Vec<Column<'_>> = columns.iter().map(|column| slice(*column, &rows)).collect();
            let incomplete = incomplete.slice(rows.start, rows.len());
            count(&columns, &times[rows], &incomplete);
        }
    }
}

/// The runs of rows whose event times are wanted.
fn within(times: &[i64], wanted: &Range<i64>) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    for run in times.chunk_by(|a, b| wanted.contains(a) == wanted.contains(b)) {
        if wanted.contains(&run[0]) {
            runs.push(start..start + run.len());
        }
        start += run.len();
    }
    runs
}

fn slice<'a>(column: Column<'a>, rows: &Range<usize>) -> Column<'a> {
    let moved = |validity: Validity<'a>| Validity { offset: validity.offset + rows.start, ..validity };
    Column { values: &column.values[rows.clone()], validity: column.validity.map(moved) }
}

/// A column of doubles as it stands; `None` for the scores of several classes.
fn column(array: &ArrayRef) -> Option<Column<'_>> {
    let doubles = array.as_primitive_opt::<Float64Type>()?;
    let validity = doubles
        .nulls()
        .filter(|nulls| nulls.null_count() > 0)
        .map(|nulls| Validity { bits: nulls.validity(), offset: nulls.offset() });
    Some(Column { values: doubles.values(), validity })
}

#[cfg(test)]
#[path = "drift_tests.rs"]
mod tests;
