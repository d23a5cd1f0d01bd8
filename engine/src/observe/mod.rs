//! What people and machines see of a running pipeline: metrics, the status document, health, and the HTTP server that
//! serves them on loopback. Reads shared numbers; never touches a record.

pub mod drift;
pub mod http;
pub mod labels;
pub mod latency;
pub mod logging;
pub mod metrics;
pub mod status;
