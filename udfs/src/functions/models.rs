//! The models that SQL functions speak of by name, and their replacement.
//!
//! One [`Models`] belongs to one worker. Only the worker swaps its models, between two epochs, so that an epoch sees one model
//! of each name; this file does not check when that happens. It refuses a successor that answers another question.
//!
//! A model may have a challenger, in a slot of its own named `<model>@challenger`, which may be empty. It takes the features
//! of its champion, so that one call of `score` can hold the two against each other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use arrow::array::ArrayRef;

use super::agreement::Agreement;
use crate::near::nearest;
use crate::scorer::Model;

/// A model with what came with it.
#[derive(Debug)]
pub struct LoadedModel {
    pub model: Model,
    /// The model's immutable identity, as the registry or the file gives it.
    pub version: String,
    /// The score from which on the decision is yes. NaN: it has none, and SQL must not ask for it.
    pub threshold: f64,
    /// Of the model file, in hexadecimal.
    pub sha256: String,
    /// The training run that the model came from, where it is known.
    pub run_id: Option<String>,
}

/// What a challenger's name ends with.
pub const CHALLENGER_SUFFIX: &str = "@challenger";

/// The name of a model's challenger in SQL.
#[must_use]
pub fn challenger_name(model: &str) -> String {
    format!("{model}{CHALLENGER_SUFFIX}")
}

/// A place for a model. What stands in it changes only by [`ModelSlot::swap`] and [`ModelSlot::retire`].
#[derive(Debug)]
pub struct ModelSlot {
    standing: RwLock<Standing>,
    /// Whether it may be empty: a challenger's.
    is_optional: bool,
    /// Whether SQL asks for reasons: then so must every successor be able to give them.
    is_explained: AtomicBool,
    /// Whether SQL asks for the threshold: then every successor must have one.
    is_decided: AtomicBool,
    challenger: OnceLock<Arc<ModelSlot>>,
    /// How champion and challenger agreed since this was last taken.
    agreement: Mutex<Agreement>,
    /// Of a challenger: the last batch that it scored, so that the champion's call and its own are one pass.
    last: Mutex<Option<Scored>>,
}

/// The model that says what a call looks like, and whether it answers.
#[derive(Debug)]
struct Standing {
    model: Arc<LoadedModel>,
    serves: bool,
}

/// A batch and its scores.
#[derive(Debug)]
pub(super) struct Scored {
    pub(super) model: Arc<LoadedModel>,
    pub(super) columns: Vec<ArrayRef>,
    pub(super) scores: ArrayRef,
}

/// Why a model cannot take another's place in a running pipeline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SwapError {
    #[error(
        "model version {version} takes other features: expected {expected}, found {found}; start the pipeline with SQL for the new features"
    )]
    Features { version: String, expected: String, found: String },
    #[error("model version {version} gives {found} scores a row, the running one {expected}; start the pipeline again")]
    Outputs { version: String, expected: usize, found: usize },
    #[error("model version {version} gives no reasons, which the pipeline's explain_score asks for: {reason}")]
    Unexplained { version: String, reason: String },
    #[error(
        "model version {version} has no threshold, which the pipeline's SQL asks for: a model directory has one in tidemill.json, a text model on its own has none; fix a number between 0 and 1 in the pipeline file with `models.<name>.threshold`"
    )]
    NoThreshold { version: String },
}

fn check_threshold(model: &LoadedModel) -> Result<(), SwapError> {
    if model.threshold.is_nan() { Err(SwapError::NoThreshold { version: model.version.clone() }) } else { Ok(()) }
}

impl ModelSlot {
    pub fn new(model: impl Into<Arc<LoadedModel>>) -> Self {
        Self::with(Standing { model: model.into(), serves: true }, false)
    }

    fn with(standing: Standing, is_optional: bool) -> Self {
        Self {
            standing: RwLock::new(standing),
            is_optional,
            is_explained: AtomicBool::new(false),
            is_decided: AtomicBool::new(false),
            challenger: OnceLock::new(),
            agreement: Mutex::default(),
            last: Mutex::default(),
        }
    }

    fn standing(&self) -> RwLockReadGuard<'_, Standing> {
        // A panic cannot leave an Arc half written.
        self.standing.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model that says what a call looks like: features, number of scores. Of an empty slot it is the champion, which does
    /// not answer there: whoever computes rows asks [`ModelSlot::serving`].
    pub fn current(&self) -> Arc<LoadedModel> {
        Arc::clone(&self.standing().model)
    }

    /// The model of this moment; `None` while there is no challenger. Hold it for as long as one answer must come from one model.
    pub fn serving(&self) -> Option<Arc<LoadedModel>> {
        let standing = self.standing();
        standing.serves.then(|| Arc::clone(&standing.model))
    }

    /// Whether its answers may be null: it is a challenger's.
    pub fn is_optional(&self) -> bool {
        self.is_optional
    }

    /// The challenger of this model, if it may have one.
    pub fn challenger(&self) -> Option<&Arc<ModelSlot>> {
        self.challenger.get()
    }

    /// From now on, only models whose scores can be explained may take the place of the current one.
    pub(super) fn keep_explained(&self) {
        self.is_explained.store(true, Ordering::Relaxed);
    }

    /// From now on, only models with a threshold may take the place of the current one, which must have one too.
    pub(super) fn keep_threshold(&self) -> Result<(), SwapError> {
        self.is_decided.store(true, Ordering::Relaxed);
        check_threshold(&self.current())
    }

    /// Whether a model can take the current one's place: the SQL of the running pipeline was checked against its features.
    pub fn check(&self, successor: &LoadedModel) -> Result<(), SwapError> {
        let current = self.current();
        let (old, new) = (&current.model, &successor.model);
        if old.feature_names() != new.feature_names() {
            return Err(SwapError::Features {
                version: successor.version.clone(),
                expected: old.feature_names().join(", "),
                found: new.feature_names().join(", "),
            });
        }
        if old.num_outputs() != new.num_outputs() {
            return Err(SwapError::Outputs {
                version: successor.version.clone(),
                expected: old.num_outputs(),
                found: new.num_outputs(),
            });
        }
        if let (true, Err(reason)) = (self.is_explained.load(Ordering::Relaxed), new.explainer()) {
            let reason = reason.to_string();
            return Err(SwapError::Unexplained { version: successor.version.clone(), reason });
        }
        if self.is_decided.load(Ordering::Relaxed) {
            check_threshold(successor)?;
        }
        Ok(())
    }

    /// Puts a model in the place of the current one, which is returned. On an error nothing has changed.
    pub fn swap(&self, successor: Arc<LoadedModel>) -> Result<Arc<LoadedModel>, SwapError> {
        self.check(&successor)?;
        let mut standing = self.standing.write().unwrap_or_else(PoisonError::into_inner);
        standing.serves = true;
        Ok(std::mem::replace(&mut standing.model, successor))
    }

    /// Empties a challenger's slot: its answers are null from now on. Other slots are left as they are.
    pub fn retire(&self) {
        let mut standing = self.standing.write().unwrap_or_else(PoisonError::into_inner);
        standing.serves &= !self.is_optional;
    }

    /// How champion and challenger agreed since this was last asked.
    pub fn take_agreement(&self) -> Agreement {
        std::mem::take(&mut *self.agreement())
    }

    pub(super) fn agreement(&self) -> MutexGuard<'_, Agreement> {
        // Numbers only: a panic cannot leave them unusable.
        self.agreement.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn last(&self) -> MutexGuard<'_, Option<Scored>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The models of a pipeline, by the names that SQL uses.
#[derive(Debug, Default)]
pub struct Models {
    slots: BTreeMap<String, Arc<ModelSlot>>,
}

/// A name that no model has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no model is named '{name}'{}; models of this pipeline: {known}", nearest.as_ref().map_or_else(String::new, |near| format!(" (did you mean '{near}'?)")))]
pub struct UnknownModel {
    pub name: String,
    pub nearest: Option<String>,
    pub known: String,
}

/// Why a model cannot have this challenger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChallengerError {
    #[error(transparent)]
    Champion(#[from] UnknownModel),
    #[error(transparent)]
    Other(#[from] SwapError),
}

impl Models {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a model, in the place of one of the same name if there is one, and returns its slot.
    pub fn insert(&mut self, name: impl Into<String>, model: impl Into<Arc<LoadedModel>>) -> Arc<ModelSlot> {
        let slot = Arc::new(ModelSlot::new(model));
        self.slots.insert(name.into(), Arc::clone(&slot));
        slot
    }

    /// Gives a model a challenger, which may come later. It must answer the champion's question.
    pub fn insert_challenger(
        &mut self,
        champion: &str,
        model: Option<Arc<LoadedModel>>,
    ) -> Result<Arc<ModelSlot>, ChallengerError> {
        let of = Arc::clone(self.slot(champion)?);
        let slot = Arc::new(ModelSlot::with(Standing { model: of.current(), serves: false }, true));
        if let Some(model) = model {
            slot.swap(model)?;
        }
        let slot = Arc::clone(of.challenger.get_or_init(|| slot));
        self.slots.insert(challenger_name(champion), Arc::clone(&slot));
        Ok(slot)
    }

    /// The same models in places of their own, for another worker.
    #[must_use]
    pub fn fork(&self) -> Models {
        let copy = |slot: &ModelSlot| {
            let standing = slot.standing();
            let standing = Standing { model: Arc::clone(&standing.model), serves: standing.serves };
            Arc::new(ModelSlot::with(standing, slot.is_optional))
        };
        let slots: BTreeMap<String, Arc<ModelSlot>> =
            self.slots.iter().map(|(name, slot)| (name.clone(), copy(slot))).collect();
        for (name, slot) in &slots {
            if let Some(challenger) = slots.get(&challenger_name(name)) {
                slot.challenger.get_or_init(|| Arc::clone(challenger));
            }
        }
        Models { slots }
    }

    pub fn slot(&self, name: &str) -> Result<&Arc<ModelSlot>, UnknownModel> {
        self.slots.get(name).ok_or_else(|| UnknownModel {
            name: name.to_owned(),
            nearest: nearest(name, self.names()).map(str::to_owned),
            known: if self.slots.is_empty() { "none".to_owned() } else { self.names().collect::<Vec<_>>().join(", ") },
        })
    }

    /// All slots by name, those of challengers behind their champions.
    pub fn slots(&self) -> impl Iterator<Item = (&str, &Arc<ModelSlot>)> {
        self.slots.iter().map(|(name, slot)| (name.as_str(), slot))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.slots.keys().map(String::as_str)
    }
}
