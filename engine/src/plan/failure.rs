//! Whose fault a failing segment is: that of a row, which is then rejected, or of the engine, which stops. DataFusion's texts
//! quote values, so they go no further than here.

use std::fmt;
use std::sync::Arc;

use arrow::error::ArrowError;
use datafusion::common::DataFusionError;

use crate::error::Error;

/// Why a row failed, without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// An integer or decimal was divided by zero.
    DivisionByZero,
    /// A number left the range of its type.
    Overflow,
    /// A value could not be converted to another type.
    Conversion,
    /// A function refused its arguments.
    Function,
}

impl FailureClass {
    /// All classes, for metrics and documents.
    pub const ALL: [FailureClass; 4] =
        [FailureClass::DivisionByZero, FailureClass::Overflow, FailureClass::Conversion, FailureClass::Function];

    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            FailureClass::DivisionByZero => "division by zero",
            FailureClass::Overflow => "number out of range",
            FailureClass::Conversion => "value cannot be converted",
            FailureClass::Function => "function refused its arguments",
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why and where a row failed: `division by zero in view features`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub class: FailureClass,
    /// The view or sink whose SQL failed; views that only one other part reads are computed within it.
    pub part: Arc<str>,
    /// Whether the row is in the state of the windows all the same.
    pub is_after_state: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.class, self.part)?;
        f.write_str(if self.is_after_state { ", after the windows took the row in" } else { "" })
    }
}

/// The class of an error that a row's values can cause; otherwise the engine's error.
pub(super) fn classify(error: &DataFusionError, part: &str) -> Result<FailureClass, Error> {
    match error {
        DataFusionError::ArrowError(error, _) => classify_arrow(error, part),
        DataFusionError::Execution(_) => Ok(FailureClass::Function),
        DataFusionError::Context(_, error) | DataFusionError::Diagnostic(_, error) => classify(error, part),
        DataFusionError::Shared(error) => classify(error, part),
        DataFusionError::Collection(errors) if !errors.is_empty() => classify(&errors[0], part),
        DataFusionError::External(error) => match error.downcast_ref::<ArrowError>() {
            Some(error) => classify_arrow(error, part),
            None => Err(engine_error("external", part)),
        },
        DataFusionError::ResourcesExhausted(_) => {
            Err(Error::unavailable(format!("{part}: memory for one epoch is exhausted; lower max_batch_rows")))
        }
        DataFusionError::NotImplemented(_) => Err(engine_error("not implemented", part)),
        DataFusionError::Plan(_) | DataFusionError::SchemaError(..) => Err(engine_error("plan", part)),
        _ => Err(engine_error("internal", part)),
    }
}

fn classify_arrow(error: &ArrowError, part: &str) -> Result<FailureClass, Error> {
    match error {
        ArrowError::DivideByZero => Ok(FailureClass::DivisionByZero),
        ArrowError::ArithmeticOverflow(_) | ArrowError::OffsetOverflowError(_) => Ok(FailureClass::Overflow),
        ArrowError::CastError(_) | ArrowError::ParseError(_) => Ok(FailureClass::Conversion),
        ArrowError::ComputeError(_) | ArrowError::InvalidArgumentError(_) => Ok(FailureClass::Function),
        ArrowError::ExternalError(error) => match error.downcast_ref::<DataFusionError>() {
            Some(error) => classify(error, part),
            None => Err(engine_error("external", part)),
        },
        _ => Err(engine_error("arrow", part)),
    }
}

/// The text of the cause stays out: it may quote a record.
fn engine_error(class: &str, part: &str) -> Error {
    Error::internal(format!("{part}: the query engine failed ({class} error) on more than a row's values"))
}
