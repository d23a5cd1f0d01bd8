//! Tidemill: SQL feature queries and a machine-learned score over Kafka.

pub mod checkpoint;
pub mod decode;
pub mod error;
pub mod pipeline;
pub mod sink;
pub mod source;
pub mod types;

pub use error::{Error, ErrorKind, Result};
