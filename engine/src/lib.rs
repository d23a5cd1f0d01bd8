//! Tidemill.

pub mod source;
