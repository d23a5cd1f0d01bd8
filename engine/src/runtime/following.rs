//! Successors of models in a running pipeline: looked for beside the workers, read, checked, kept beside the checkpoints, and
//! then handed over. Whatever goes wrong on the way, the model that serves goes on serving, and status and metrics say why.

use std::sync::Arc;

use tidemill_udfs::functions::{LoadedModel, Models};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::drift::DriftBoard;
use super::models::Offers;
use super::starting::{keep, serving_status};
use super::{clock, tasks};
use crate::checkpoint::Folder;
use crate::error::{Error, Result};
use crate::model::Candidate;
use crate::model::candidate::{examine, fits};
use crate::model::follow::{Follower, Look};
use crate::model::library::Found;
use crate::observe::metrics::ModelMetrics;
use crate::observe::status::{ModelStatus, RefusedModel, StatusBoard};

/// What followers of one run share.
#[derive(Debug, Clone)]
pub(crate) struct Following {
    /// The slots that successors must fit into.
    pub(crate) models: Arc<Models>,
    pub(crate) offers: Offers,
    /// That of the checkpoints.
    pub(crate) folder: Option<Folder>,
    pub(crate) status: StatusBoard,
    pub(crate) io: Handle,
    /// Compares what is served with what the models were trained on.
    pub(crate) drift: Option<Arc<DriftBoard>>,
}

/// Follows one place until `stop`.
pub(crate) async fn follow(follower: Follower, following: Following, stop: CancellationToken) {
    let metrics = ModelMetrics::new(&follower.place.slot);
    let serving = following.models.slot(&follower.place.slot).ok().and_then(|slot| slot.serving());
    let mut one = One { follower, following, metrics, serving };
    let mut pause = one.follower.pause(true);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
        pause = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            pause = one.step() => pause,
        };
    }
}

/// A place that is followed, and what serves from there.
struct One {
    follower: Follower,
    following: Following,
    metrics: ModelMetrics,
    serving: Option<Arc<LoadedModel>>,
}

/// Why a model that was found does not serve.
enum Stop {
    /// It may not; the next look does not try it again.
    Refused(Error),
    /// It could not be had; the next look tries again.
    Failed(Error),
}

impl One {
    /// One look and what follows from it; how long to wait for the next.
    async fn step(&mut self) -> std::time::Duration {
        let is_well = match self.follower.look().await {
            Ok(Look::Known) => {
                if !self.follower.has_refused() {
                    self.change(|status| status.refused = None);
                }
                self.is_well()
            }
            Ok(Look::Absent) => self.absent().await,
            Ok(Look::New(found)) => self.found(&found).await,
            Err(error) => self.fails(&error),
        };
        self.follower.pause(is_well)
    }

    async fn found(&mut self, found: &Found) -> bool {
        match self.prepare(found).await {
            Ok(candidate) => {
                self.follower.serves(found);
                if let (Some(board), Some(profile)) = (&self.following.drift, candidate.profile) {
                    board.set_reference(&candidate.model.sha256, profile);
                }
                if self.serving.as_deref().is_none_or(|serving| differ(serving, &candidate.model)) {
                    self.hand_over(Some(candidate.model));
                }
                self.change(|status| (status.is_kept_copy, status.refused) = (false, None));
                self.is_well()
            }
            Err(Stop::Refused(error)) => {
                self.follower.refuses(found);
                self.refuse(found, &error);
                self.is_well()
            }
            Err(Stop::Failed(error)) => self.fails(&error),
        }
    }

    /// Reads a model, holds it against everything that it must be, and keeps it.
    async fn prepare(&self, found: &Found) -> Result<Candidate, Stop> {
        let judged = |error: Error| match error.kind().is_retryable() {
            true => Stop::Failed(error),
            false => Stop::Refused(error),
        };
        let place = &self.follower.place;
        let (raw, named) = self.follower.library.fetch(place, found).await.map_err(judged)?;
        // A large model takes a while to parse; nothing else waits for it.
        let examined = tasks::spawn_blocking(&self.following.io, {
            let place = place.clone();
            move || examine(raw, named, &place)
        });
        let examined = examined.await.map_err(|error| {
            Stop::Refused(Error::internal("reading the model panicked; the log has its message").with_source(error))
        })?;
        let candidate = examined.map_err(Stop::Refused)?;
        let slot = self.following.models.slot(&place.slot);
        let slot = slot.map_err(|error| Stop::Refused(Error::internal(error.to_string())))?;
        fits(slot, &candidate).map_err(Stop::Refused)?;
        if let Some(folder) = &self.following.folder {
            keep(folder, place, &candidate).await.map_err(Stop::Failed)?;
        }
        Ok(candidate)
    }

    async fn absent(&mut self) -> bool {
        if self.follower.place.champion.is_none() {
            let error = self.follower.library.absent(&self.follower.place).await;
            return self.fails(&error);
        }
        self.follower.serves_nothing();
        if self.serving.is_some() {
            self.hand_over(None);
        }
        self.change(|status| status.refused = None);
        self.is_well()
    }

    fn hand_over(&mut self, model: Option<Arc<LoadedModel>>) {
        let place = &self.follower.place;
        let version = |model: &Option<Arc<LoadedModel>>| model.as_ref().map(|model| model.version.clone());
        tracing::info!(
            model = place.slot,
            uri = place.uri,
            before = version(&self.serving),
            now = version(&model),
            "another model takes over"
        );
        self.following.offers.offer(&place.slot, model.clone());
        if let Some(before) = &self.serving {
            self.metrics.in_use(before, 0.0);
        }
        if let Some(now) = &model {
            self.metrics.in_use(now, 1.0);
        }
        self.metrics.swaps.increment(1);
        let now = serving_status(model.as_deref(), clock::wall_millis());
        self.serving = model;
        self.change(|status| {
            let ModelStatus { version, run_id, sha256, threshold, since_ms, .. } = now;
            (status.version, status.run_id, status.sha256) = (version, run_id, sha256);
            (status.threshold, status.since_ms) = (threshold, since_ms);
        });
    }

    fn refuse(&self, found: &Found, error: &Error) {
        let place = &self.follower.place;
        let version = found.version().map(str::to_owned);
        tracing::error!(model = place.slot, uri = place.uri, version, %error, "a model was refused; the one before serves on");
        self.metrics.refused.increment(1);
        let refused = RefusedModel { version, at_ms: clock::wall_millis(), reason: error.to_string() };
        self.change(|status| status.refused = Some(refused));
    }

    /// Notes a look that could be finished.
    fn is_well(&self) -> bool {
        let now = clock::wall_millis();
        self.metrics.checks_ok.increment(1);
        self.metrics.check_time.set(now as f64 / 1e3);
        self.change(|status| (status.checked_at_ms, status.check_error) = (Some(now), None));
        true
    }

    /// Notes a look that could not be finished.
    fn fails(&self, error: &Error) -> bool {
        let place = &self.follower.place;
        self.metrics.checks_failed.increment(1);
        tracing::warn!(model = place.slot, uri = place.uri, %error, "it is not known whether there is another model; the one before serves on");
        self.change(|status| status.check_error = Some(error.to_string()));
        false
    }

    fn change(&self, change: impl FnOnce(&mut ModelStatus)) {
        self.following.status.update_model(&self.follower.place.slot, change);
    }
}

/// Whether a row can tell one model from the other.
fn differ(one: &LoadedModel, other: &LoadedModel) -> bool {
    (&one.version, &one.sha256, &one.run_id, one.threshold.to_bits())
        != (&other.version, &other.sha256, &other.run_id, other.threshold.to_bits())
}
