//! Drift and labels: ranges, and the SELECTs of served rows and labels.

use std::time::Duration;

use super::super::file::{DriftFile, LabelsFile};
use super::super::settings::{Drift, Labels};
use super::{Validator, to_usize};

/// Windows shorter than this differ by the hour of day alone.
const WINDOW_MIN: Duration = Duration::from_secs(24 * 3600);
const WINDOW_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
const KEEP_MIN: Duration = Duration::from_secs(60);
const KEEP_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

impl Validator<'_> {
    pub(super) fn drift(&mut self, drift: &DriftFile) -> Drift {
        if drift.act <= drift.watch {
            let message = format!("expected more than `watch`, which is {}, found {}", drift.watch, drift.act);
            self.refuse(&["drift", "act"], message, "a difference is watched before it calls for an act");
        }
        Drift {
            is_enabled: drift.enabled,
            window: self.duration(&["drift", "window"], drift.window, WINDOW_MIN, WINDOW_MAX),
            min_rows: drift.min_rows,
            watch: drift.watch,
            act: drift.act,
            consecutive: to_usize(drift.consecutive),
            ignore: drift.ignore.clone(),
        }
    }

    pub(super) fn labels(&mut self, labels: &LabelsFile) -> Labels {
        Labels {
            served: self.sql(&["labels", "served"], &labels.served),
            reported: self.sql(&["labels", "reported"], &labels.reported),
            keep: self.duration(&["labels", "keep"], labels.keep, KEEP_MIN, KEEP_MAX),
            max_rows: to_usize(labels.max_rows),
        }
    }
}
