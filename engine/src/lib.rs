//! The engine: a library and the `tidemill` binary.
//!
#![doc = include_str!("../ARCHITECTURE.md")]

pub mod checkpoint;
pub mod cli;
pub mod decode;
pub mod error;
pub mod model;
pub mod observe;
pub mod operator;
pub mod pipeline;
pub mod plan;
pub mod replay;
pub mod runtime;
pub mod sink;
pub mod source;
pub mod state;
#[cfg(feature = "lightgbm")]
pub mod train;
pub mod types;

pub use error::{Error, ErrorKind, Result};
