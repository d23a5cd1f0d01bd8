//! The one place that says where exact sums come from.

pub(super) use tidemill_udfs::exact::{ExactMoments, ExactSum};
