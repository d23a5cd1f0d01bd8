//! The one integration binary. Everything here runs against real parts: a Kafka broker and an S3 server that `make test`
//! starts, and the `tidemill` binary itself.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests fail loudly, and wait by the wall clock")]

mod checkpoint;
mod commands;
mod files_source;
mod gate;
mod harness;
mod kafka;
mod models;
mod run;
mod tidy;
mod train;
