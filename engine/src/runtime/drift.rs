//! Drift of what a run serves: the values that go into `score` and the scores are counted as they are served, on the workers'
//! threads, against the reference profile of the model version that scored them. Counts are of this process and live in memory:
//! a restart begins the open windows anew, and other processes of the pipeline have their own.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::datatypes::Float64Type;
use tidemill_udfs::functions::{LoadedModel, Models};
use tidemill_udfs::scorer::{Column, Validity};
use tokio_util::sync::CancellationToken;

use crate::model::drift::{
    ColumnDrift, DriftBins, DriftScratch, DriftSettings, DriftState, DriftWindows, Verdict, WindowDrift,
};
use crate::model::profile::{Distance, ReferenceProfile, SCORE};
use crate::observe::drift::{self, DriftColumnStatus, DriftStatus, DriftWindowStatus};
use crate::observe::status::StatusBoard;
use crate::pipeline::settings::Drift;
use crate::plan::ScoreObserver;

/// How often windows are judged.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);
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
    models: Arc<Models>,
    /// Only rows of these event times count; both ends open by default.
    times: std::ops::Range<i64>,
    versions: Mutex<Versions>,
}

#[derive(Debug, Default)]
struct Versions {
    /// By hash of the model file: its profile, where it has one.
    profiles: BTreeMap<String, Arc<ReferenceProfile>>,
    /// By name in SQL: the version that scored last.
    current: BTreeMap<String, Arc<Watched>>,
}

/// A version of a model while it serves.
#[derive(Debug)]
struct Watched {
    version: String,
    sha256: String,
    counted: Option<(DriftBins, Mutex<DriftWindows>)>,
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

/// Reports until `stop`.
pub(crate) async fn report_until(board: Arc<DriftBoard>, status: StatusBoard, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep(REPORT_INTERVAL) => status.set_drift(board.report()),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while counting leaves counts, which are numbers whatever they are.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DriftBoard {
    /// For the models of a run.
    #[must_use]
    pub fn new(settings: DriftSettings, models: Arc<Models>) -> DriftBoard {
        DriftBoard { settings, models, times: i64::MIN..i64::MAX, versions: Mutex::default() }
    }

    /// Counts only rows of these event times, microseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn within(mut self, times: std::ops::Range<i64>) -> DriftBoard {
        self.times = times;
        self
    }

    /// Says what a model file was trained on, by the file's hash; to be called before the version serves.
    pub fn set_reference(&self, sha256: &str, profile: ReferenceProfile) {
        locked(&self.versions).profiles.insert(sha256.to_owned(), Arc::new(profile));
    }

    /// The version that scores under a name now; windows begin anew when it is another than before.
    fn watched(&self, name: &str) -> Option<Arc<Watched>> {
        let model = self.models.slot(name).ok()?.current();
        let mut versions = locked(&self.versions);
        match versions.current.get(name) {
            Some(watched) if watched.sha256 == model.sha256 => Some(Arc::clone(watched)),
            _ => {
                let watched = Arc::new(self.watch(&model, &versions));
                versions.current.insert(name.to_owned(), Arc::clone(&watched));
                Some(watched)
            }
        }
    }

    fn watch(&self, model: &LoadedModel, versions: &Versions) -> Watched {
        let features = model.model.feature_names();
        let is_of_model =
            |profile: &&Arc<ReferenceProfile>| profile.features.iter().map(|feature| &feature.name).eq(features.iter());
        let profile =
            versions.profiles.get(&model.sha256).filter(is_of_model).filter(|_| model.model.num_outputs() == 1);
        let bins = profile.and_then(|profile| DriftBins::new(Arc::clone(profile), &self.settings).ok());
        let counted = bins.map(|bins| (bins, Mutex::new(DriftWindows::new(self.settings.clone()))));
        Watched { version: model.version.clone(), sha256: model.sha256.clone(), counted }
    }

    /// What the windows of each model say, by name; `None` for a model without a profile.
    #[must_use]
    pub fn verdicts(&self) -> Vec<ModelVerdict> {
        let names: Vec<String> = self.models.names().map(str::to_owned).collect();
        let verdict = |name: String| {
            let watched = self.watched(&name)?;
            let judged = watched.counted.as_ref().map(|(bins, windows)| {
                // Judged on a copy: the workers do not wait for it.
                let windows = locked(windows).clone();
                (windows.judge(bins.profile()), windows.rows_too_old())
            });
            Some(ModelVerdict { model: name, version: watched.version.clone(), judged })
        };
        names.into_iter().filter_map(verdict).collect()
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

impl ScoreObserver for DriftBoard {
    fn observe(&self, model: &str, features: &[ArrayRef], scores: &ArrayRef, event_times: &Int64Array) {
        let Some(watched) = self.watched(model) else { return };
        let Some((bins, windows)) = &watched.counted else { return };
        let columns: Option<Vec<Column<'_>>> = features.iter().chain([scores]).map(column).collect();
        let Some(columns) = columns else { return };
        let times = event_times.values();
        let count = |columns: &[Column<'_>], times: &[i64]| {
            SCRATCH.with_borrow_mut(|scratch| {
                bins.count(columns, times, scratch, |window, counts| locked(windows).add(window, counts));
            });
        };
        if times.iter().all(|time| self.times.contains(time)) {
            return count(&columns, times);
        }
        // At the ends of a period; rows of it come together, but for late ones.
        for rows in within(times, &self.times) {
            let columns: Vec<Column<'_>> = columns.iter().map(|column| slice(*column, &rows)).collect();
            count(&columns, &times[rows]);
        }
    }
}

/// The runs of rows whose event times are wanted.
fn within(times: &[i64], wanted: &std::ops::Range<i64>) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    let mut start = 0;
    for run in times.chunk_by(|a, b| wanted.contains(a) == wanted.contains(b)) {
        if wanted.contains(&run[0]) {
            runs.push(start..start + run.len());
        }
        start += run.len();
    }
    runs
}

fn slice<'a>(column: Column<'a>, rows: &std::ops::Range<usize>) -> Column<'a> {
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
