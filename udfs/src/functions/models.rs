//! The models that SQL functions speak of by name, and their replacement.
//!
//! One [`Models`] belongs to one worker. Only the worker swaps its models, between two epochs, so that an epoch sees one model
//! of each name; this file does not check when that happens. It refuses a successor that answers another question.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::near::nearest;
use crate::scorer::Model;

/// A model with what came with it.
#[derive(Debug)]
pub struct LoadedModel {
    pub model: Model,
    /// The model's immutable identity, as the registry or the file gives it.
    pub version: String,
    /// The score from which on the decision is yes.
    pub threshold: f64,
    /// Of the model file, in hexadecimal.
    pub sha256: String,
    /// The training run that the model came from, where it is known.
    pub run_id: Option<String>,
}

/// A place for a model. What stands in it changes only by [`ModelSlot::swap`].
#[derive(Debug)]
pub struct ModelSlot {
    current: RwLock<Arc<LoadedModel>>,
    /// Whether SQL asks for reasons: then so must every successor be able to give them.
    is_explained: AtomicBool,
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
}

impl ModelSlot {
    pub fn new(model: LoadedModel) -> Self {
        Self { current: RwLock::new(Arc::new(model)), is_explained: AtomicBool::new(false) }
    }

    /// The model of this moment. Hold it for as long as one answer must come from one model.
    pub fn current(&self) -> Arc<LoadedModel> {
        // A panic cannot leave an Arc half written.
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on, only models whose scores can be explained may take the place of the current one.
    pub(super) fn keep_explained(&self) {
        self.is_explained.store(true, Ordering::Relaxed);
    }

    /// Puts a model in the place of the current one, which is returned. On an error nothing has changed: the SQL of the running
    /// pipeline was checked against the current features.
    pub fn swap(&self, successor: Arc<LoadedModel>) -> Result<Arc<LoadedModel>, SwapError> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
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
        Ok(std::mem::replace(&mut *current, successor))
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

impl Models {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a model, in the place of one of the same name if there is one, and returns its slot.
    pub fn insert(&mut self, name: impl Into<String>, model: LoadedModel) -> Arc<ModelSlot> {
        let slot = Arc::new(ModelSlot::new(model));
        self.slots.insert(name.into(), Arc::clone(&slot));
        slot
    }

    pub fn slot(&self, name: &str) -> Result<&Arc<ModelSlot>, UnknownModel> {
        self.slots.get(name).ok_or_else(|| UnknownModel {
            name: name.to_owned(),
            nearest: nearest(name, self.names()).map(str::to_owned),
            known: if self.slots.is_empty() { "none".to_owned() } else { self.names().collect::<Vec<_>>().join(", ") },
        })
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.slots.keys().map(String::as_str)
    }
}
