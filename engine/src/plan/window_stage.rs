//! An over-window as a stage of the graph: which columns of its input slot it reads and what it puts into its output slot.
//! The stage is shared by all workers; the state belongs to each worker's [`OverWindow`].

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::or;
use arrow::datatypes::SchemaRef;
use datafusion::common::cast::as_boolean_array;

use super::failure::{Failure, FailureClass};
use crate::error::{Error, Result};
use crate::operator::over_window::{OverWindow, WindowInput, WindowSpec};
use crate::types::{HIDDEN_COLUMNS, Hidden};

/// Column behind the visible ones of rows that came through a window, before the hidden columns: `_history_incomplete` of all
/// windows so far.
pub(super) const INCOMPLETE: &str = "__tm_history_incomplete";

/// What is known of an operator without its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorInfo {
    /// For people, and unique in the pipeline: the view and the window's number in it, `features.1`.
    pub name: String,
    /// A hash of everything that its state depends on. A state with another one is not its own.
    pub fingerprint: String,
    /// Index of the source whose state units it holds.
    pub source: usize,
    /// Names of the PARTITION BY columns, as in the SQL.
    pub keys: Vec<String>,
}

/// The stage. Its input slot has the columns that pass, keys, arguments and filters, [`INCOMPLETE`] if an earlier window is
/// below, and the hidden ones; its output slot those that pass, one column per call, [`INCOMPLETE`] and the hidden ones.
#[derive(Debug)]
pub(super) struct WindowStage {
    pub(super) info: OperatorInfo,
    /// `view features`.
    pub(super) part: Arc<str>,
    pub(super) spec: WindowSpec,
    pub(super) input: usize,
    pub(super) output: usize,
    /// Number of columns that pass.
    pub(super) num_passed: usize,
    pub(super) has_incomplete: bool,
    /// Columns of the output slot.
    pub(super) schema: SchemaRef,
    /// The calls as the user wrote them, as far as the parser kept that.
    pub(super) texts: Vec<String>,
    /// The retained columns as the user wrote them.
    pub(super) arguments: Vec<String>,
}

impl WindowStage {
    /// Takes a batch of the input slot into the state, and answers its rows. A row on which an aggregate failed is in `failed`
    /// by its position, with null for an answer.
    pub(super) fn process(
        &self,
        window: &mut OverWindow,
        batch: &RecordBatch,
        failed: &mut BTreeMap<(u32, i64), Failure>,
    ) -> Result<RecordBatch> {
        let columns = batch.columns();
        let num_hidden = HIDDEN_COLUMNS.len();
        let wanted = self.num_passed
            + self.spec.keys.len()
            + self.spec.arguments.len()
            + self.spec.num_filters
            + usize::from(self.has_incomplete)
            + num_hidden;
        if columns.len() != wanted {
            return Err(Error::internal(format!("{}: a window's input has {} columns", self.part, columns.len())));
        }
        let (passed, rest) = columns.split_at(self.num_passed);
        let (keys, rest) = rest.split_at(self.spec.keys.len());
        let (arguments, rest) = rest.split_at(self.spec.arguments.len());
        let (filters, rest) = rest.split_at(self.spec.num_filters);
        let positions = Hidden::of(batch)?;
        let answers = window
            .process(&WindowInput { keys, arguments, filters, hidden: positions })
            .map_err(|error| error.context(self.part.to_string()))?;
        for call in &answers.failures {
            let part = format!("{} ({})", self.part, call.reason).into();
            let failure = Failure { class: FailureClass::Function, part, is_after_state: true };
            failed.entry((positions.unit.value(call.row), positions.offset.value(call.row))).or_insert(failure);
        }
        let incomplete = match self.has_incomplete.then(|| &rest[0]) {
            Some(below) => either(below, &answers.is_history_incomplete)?,
            None => answers.is_history_incomplete,
        };
        let hidden = &columns[columns.len() - num_hidden..];
        let columns =
            passed.iter().cloned().chain(answers.columns).chain([incomplete]).chain(hidden.iter().cloned()).collect();
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(|error| {
            Error::internal(format!("{}: a window's answers do not fit", self.part)).with_source(error)
        })
    }
}

fn either(below: &ArrayRef, above: &ArrayRef) -> Result<ArrayRef> {
    let flags = |array| as_boolean_array(array).map_err(|_| Error::internal("a window's flag is no boolean"));
    let both: BooleanArray = or(flags(below)?, flags(above)?)
        .map_err(|error| Error::internal("flags of two windows differ in length").with_source(error))?;
    Ok(Arc::new(both))
}
