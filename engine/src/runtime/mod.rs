//! The run: settings become components, components become workers, workers turn records into epochs and publish how far they
//! came. The only layer that knows all others.

mod block;
pub(crate) mod bootstrap;
mod build;
mod checkpointer;
pub mod clock;
pub mod drift;
mod driver;
mod following;
mod functions;
pub(crate) mod labels;
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
pub(crate) use build::{Alone, compile_beside, compile_observed};
pub use functions::{UnloadedPlan, plan_unloaded};
pub(crate) use functions::{plan_untrained, staged_untrained};
pub(crate) use models::kept_model;
pub(crate) use repartition::{feeding_windows, table_name};
pub use run::{RunHandle, RunSummary, start};
pub(crate) use stages::make_topics;
