//! Tidemill's SQL functions.
