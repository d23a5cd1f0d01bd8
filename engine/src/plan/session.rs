//! The one place where a DataFusion session is configured. A session plans; it never runs anything on threads of its own,
//! and knows no object store, file or catalogue of the outside.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use arrow::datatypes::DataType;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::ScalarUDF;
use datafusion::prelude::SessionConfig;

use super::observe::ScoreObserver;
use super::problem::Refusal;
use crate::error::{Error, Result};

/// Rows per batch inside a segment: a filter cuts its output into batches of this size.
const BATCH_ROWS: usize = 8192;

/// The SQL functions that the engine adds to DataFusion's own.
#[derive(Debug, Clone, Default)]
pub struct Functions {
    /// The functions. Those named in `once` are evaluated once per row, however often and wherever a row's value is used.
    pub scalar: Vec<Arc<ScalarUDF>>,
    /// Names of the expensive ones (`score`).
    pub once: Vec<String>,
    /// Names of those that no row can make fail, so that a view which uses nothing worse may be computed within its reader.
    pub infallible: Vec<String>,
    /// Judges every call of the functions in `once`.
    pub check_call: Option<Arc<dyn CallCheck>>,
    /// Sees every row that `score` scores.
    pub observer: Option<Arc<dyn ScoreObserver>>,
}

/// A call of one of [`Functions::once`], as found in a view, a sink or a check.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The function.
    pub function: String,
    /// The arguments in order.
    pub arguments: Vec<CallArgument>,
}

/// One argument of a [`Call`].
#[derive(Debug, Clone, PartialEq)]
pub struct CallArgument {
    /// The column's name without its table, or the expression's text.
    pub name: String,
    /// A literal string's value: the model's name.
    pub literal: Option<String>,
    /// The type before any coercion.
    pub data_type: DataType,
}

/// Checks calls when the pipeline is planned: that the model exists, that its features are these columns.
pub trait CallCheck: Send + Sync + std::fmt::Debug {
    /// What is wrong with the call.
    fn check(&self, call: &Call) -> Result<(), Refusal>;
}

/// A new session. Physical optimisation is switched off: its rules repartition, buffer and push down what the logical ones
/// kept in place; with one plan partition there is nothing for them to gain.
pub(super) fn session(functions: &Functions) -> Result<SessionState> {
    let mut config =
        SessionConfig::new().with_target_partitions(1).with_batch_size(BATCH_ROWS).with_information_schema(false);
    let options = config.options_mut();
    options.sql_parser.collect_spans = true;
    // Decode makes Utf8; a cast to varchar must not make another string type of it.
    options.sql_parser.map_string_types_to_utf8view = false;
    options.execution.time_zone = Some("+00:00".to_owned());
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_default_features()
        .with_physical_optimizer_rules(Vec::new())
        .build();
    let not_registered = |error| Error::internal("an SQL function cannot be registered").with_source(error);
    for function in &functions.scalar {
        state.register_udf(Arc::clone(function)).map_err(not_registered)?;
    }
    // Everywhere: a sum must not depend on where it is computed.
    for function in tidemill_udfs::aggregates() {
        state.register_udaf(function).map_err(not_registered)?;
    }
    Ok(state)
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future to its end on this thread. Planning and segments never wait for anything outside, so this does not
/// sleep in practice; no runtime is involved.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
