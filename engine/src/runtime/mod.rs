//! The run: settings become components, components become workers, workers turn records into epochs and publish how far they
//! came. The only layer that knows all others.

mod block;
pub(crate) mod bootstrap;
mod build;
mod checkpointer;
pub mod clock;
mod driver;
mod following;
mod functions;
mod limits;
mod log_checks;
mod models;
mod positions;
mod recovery;
mod repartition;
mod report;
mod restart_points;
mod run;
mod snapshots;
mod stages;
mod starting;
pub mod tasks;
mod trigger;
mod units;
mod worker;

pub use build::compile;
pub(crate) use build::{Alone, compile_beside};
pub(crate) use functions::plan_untrained;
pub use functions::{UnloadedPlan, plan_unloaded};
pub(crate) use models::kept_model;
pub use run::{RunHandle, RunSummary, start};
