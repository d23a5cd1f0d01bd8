//! The plan: a pipeline's SQL, judged, planned once per process, and run by every worker in every epoch. The only adapter to
//! DataFusion's planning. It knows nothing of Kafka, files or time, and never shows the content of a row.
//!
//! `accept` (what may be written) -> `analyse` (names and types) -> `lineage` (what a window may be partitioned and ordered by) ->
//! `reasons` (features of `explain_score`), `once`, `hidden`, `windows`, `builder` (one graph over slots, cut at windows) -> `segment`
//! (optimised, planned, reasons after filters), `window_stage` -> `graph` (run, bisect, state).

mod accept;
mod analyse;
mod builder;
mod checks;
mod compile;
mod defer;
mod explain;
mod failure;
pub mod fallback;
mod graph;
mod hidden;
mod lineage;
mod mentions;
mod observe;
mod once;
mod origins;
mod outline;
mod problem;
mod reasons;
mod segment;
mod session;
mod short_circuit;
mod table;
#[cfg(test)]
mod tests;
mod window_stage;
mod windows;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::execution::TaskContext;

pub use failure::{Failure, FailureClass};
pub use graph::{EpochOutput, FailedRow, Graph, StateSize};
pub use mentions::{Mentions, mentions};
pub use observe::{ScoreObserver, Scored};
pub(crate) use origins::ColumnOrigins;
pub(crate) use outline::{Outline, outline};
pub(crate) use problem::choices;
pub use problem::{PlanProblem, Refusal};
pub use session::{Call, CallArgument, CallCheck, Functions};
pub use window_stage::OperatorInfo;

use crate::decode::RowChecks;
use crate::error::{Error, Result};
use crate::pipeline::settings::Pipeline;
use crate::types::HIDDEN_PREFIX;
use checks::SourceChecks;
use graph::Stage;

/// A pipeline's SQL, compiled. One per process; each worker takes a [`Graph`] from it.
#[derive(Debug)]
pub struct Plan {
    sources: Arc<[SchemaRef]>,
    checks: Vec<SourceChecks>,
    sinks: Vec<SchemaRef>,
    stages: Arc<[Stage]>,
    num_slots: usize,
    context: Arc<TaskContext>,
    fingerprint: String,
    explanation: String,
    /// By view: the columns whose values come from windows.
    history: BTreeMap<String, Vec<String>>,
    /// By view and column: what it is computed from.
    origins: BTreeMap<String, BTreeMap<String, ColumnOrigins>>,
}

impl Plan {
    /// Compiles the SQL of `pipeline`, or says everything that is wrong with it.
    pub fn compile(pipeline: &Pipeline, functions: &Functions) -> Result<Plan, Vec<PlanProblem>> {
        compile::compile(pipeline, functions)
    }

    /// Declared and metadata columns of a source, then the hidden ones: what [`Graph::run`] takes.
    #[must_use]
    pub fn source_schema(&self, source: usize) -> SchemaRef {
        Arc::clone(&self.sources[source])
    }

    /// The columns of a sink's rows, then the hidden ones.
    #[must_use]
    pub fn sink_schema(&self, sink: usize) -> SchemaRef {
        Arc::clone(&self.sinks[sink])
    }

    /// The checks of a source.
    #[must_use]
    pub fn checks(&self, source: usize) -> Box<dyn RowChecks> {
        Box::new(self.checks[source].clone())
    }

    /// The operators that hold state, in the order in which rows meet them.
    #[must_use]
    pub fn operators(&self) -> Vec<OperatorInfo> {
        let info = |stage: &Stage| match stage {
            Stage::Window(window) => Some(window.info.clone()),
            Stage::Segment(_) => None,
        };
        self.stages.iter().filter_map(info).collect()
    }

    /// A worker's own graph.
    pub fn instantiate(&self) -> Result<Graph> {
        let (stages, sources) = (Arc::clone(&self.stages), Arc::clone(&self.sources));
        Graph::new(stages, sources, self.num_slots, self.sinks.len(), &self.context)
    }

    /// A hash of everything that state depends on: columns, checks, event time, lateness and the views. Sinks are not in it,
    /// nor blanks and comments.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    /// The columns of a view whose values come, in any part, from windows: what a row cannot say by itself.
    #[must_use]
    pub fn history_columns(&self, view: &str) -> &[String] {
        self.history.get(view).map_or(&[], Vec::as_slice)
    }

    /// The columns of a view by name, each with the columns of sources and views that it is computed from; none of what is no view.
    #[must_use]
    #[cfg_attr(not(feature = "lightgbm"), expect(dead_code, reason = "training asks for it"))]
    pub(crate) fn column_origins(&self, view: &str) -> Option<&BTreeMap<String, ColumnOrigins>> {
        self.origins.get(view)
    }

    /// Sources, stages with their physical plans, and sinks, for a person.
    #[must_use]
    pub fn explain(&self) -> String {
        self.explanation.clone()
    }
}

/// All problems of a plan as one error.
#[must_use]
pub fn refused(problems: Vec<PlanProblem>) -> Error {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Error::invalid(lines.join("\n"))
}

/// Whether a name is the engine's own, in any case.
fn is_hidden(name: &str) -> bool {
    name.get(..HIDDEN_PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(HIDDEN_PREFIX))
}
