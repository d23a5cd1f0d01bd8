//! The one integration binary. Everything here runs against real parts: a Kafka broker and an S3 server that `make test`
//! starts, and the `tidemill` binary itself.

mod checkpoint;
mod files_source;
mod harness;
mod kafka;
mod run;
mod tidy;
