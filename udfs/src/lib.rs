//! Tidemill's SQL functions, and the scorer behind `score`.
//!
//! This crate knows models and Arrow batches. It reads no files, talks to no registry, and holds no state of a stream.

mod aggregates;
pub mod bins;
pub mod exact;
#[cfg(test)]
mod exact_tests;
pub mod functions;
mod near;
#[cfg(feature = "lightgbm")]
pub mod oracle;
pub mod scorer;

pub use aggregates::aggregates;
pub use functions::{
    CallError, LoadedModel, ModelSlot, Models, SwapError, UnknownModel, WrongArgument, check_call, functions,
};
