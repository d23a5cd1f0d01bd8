//! What can go wrong in the generator. Messages name the place and never quote an event.

use std::path::PathBuf;

use super::row::SchemaRule;

/// An error of the generator.
#[derive(Debug, thiserror::Error)]
pub enum GeneratorError {
    /// The settings cannot be used; all problems at once.
    #[error("generator settings: {}", .0.join("; "))]
    Settings(Vec<String>),
    /// A range of time that is not one.
    #[error(
        "time range: expected an end after the start, between the years 1970 and 9999, found {from_ms} to {to_ms} ms"
    )]
    Range {
        /// Start, milliseconds since 1970.
        from_ms: i64,
        /// End, exclusive.
        to_ms: i64,
    },
    /// The generator made an event that breaks the schema: a bug of ours, stopped before it left.
    #[error("an event of the generator breaks the schema ({rule}); nothing of its batch was given out")]
    Schema {
        /// The rule that failed.
        rule: SchemaRule,
    },
    /// The output place is taken.
    #[error("{}: expected no file or an empty place, found existing data; remove it or choose another path", path.display())]
    Occupied {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Encoding Parquet failed.
    #[error("{}: cannot write parquet: {source}", path.display())]
    Parquet {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: parquet::errors::ParquetError,
    },
    /// Building an Arrow batch failed.
    #[error("cannot build an arrow batch: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
}
