//! How the place of a model is followed: what a look tells, what has been refused and is not tried again, and how long the
//! next pause is. It reads and judges; what a successor does to the run is not its business.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use super::library::{Found, Identity, Library};
use super::place::Place;
use crate::error::Result;

/// Pauses after failures are at most this many times as long as those after successes, ...
const BACK_OFF_MAX: u32 = 8;
/// ... and none is longer than that, where looks are not further apart anyway.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Pauses differ by up to this share of them, so that many processes do not ask at the same moment.
const JITTER: f64 = 0.1;

/// Looks at one place again and again.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) library: Library,
    pub(crate) place: Place,
    every: Duration,
    /// What serves, as far as its place tells; `None` when nothing does, or a copy from elsewhere.
    serving: Option<Identity>,
    /// Refused, and not looked at again while the place means it.
    refused: Option<Identity>,
    num_failures: u32,
}

/// What a look told.
#[derive(Debug)]
pub(crate) enum Look {
    /// What serves, or what was refused.
    Known,
    /// The alias means no model.
    Absent,
    /// Another model.
    New(Found),
}

impl Follower {
    /// A follower of a place; `None` when the pipeline file does not want it followed.
    pub(crate) fn new(
        library: &Library,
        place: &Place,
        serving: Option<Identity>,
        refused: Option<Identity>,
    ) -> Option<Follower> {
        let (library, place) = (library.clone(), place.clone());
        place.reload.map(|every| Follower { library, place, every, serving, refused, num_failures: 0 })
    }

    /// Looks at the place, cheaply.
    pub(crate) async fn look(&mut self) -> Result<Look> {
        let found = self.library.look(&self.place).await?;
        Ok(self.judge(found))
    }

    fn judge(&mut self, found: Option<Found>) -> Look {
        let Some(found) = found else {
            self.refused = None;
            return Look::Absent;
        };
        if self.refused.as_ref() == Some(&found.identity) {
            return Look::Known;
        }
        self.refused = None;
        if self.serving.as_ref() == Some(&found.identity) { Look::Known } else { Look::New(found) }
    }

    /// Whether the place means a model that was refused.
    pub(crate) fn has_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// Says that what was found serves now.
    pub(crate) fn serves(&mut self, found: &Found) {
        self.serving = Some(found.identity.clone());
    }

    /// Says that nothing serves now.
    pub(crate) fn serves_nothing(&mut self) {
        self.serving = None;
    }

    /// Says that what was found will not serve.
    pub(crate) fn refuses(&mut self, found: &Found) {
        self.refused = Some(found.identity.clone());
    }

    /// How long to wait before the next look, after one that could be finished or could not.
    pub(crate) fn pause(&mut self, is_well: bool) -> Duration {
        self.num_failures = if is_well { 0 } else { self.num_failures.saturating_add(1) };
        // Seeded anew each time by the standard library: pauses need to differ, not to be unpredictable.
        let random = RandomState::new().hash_one(self.num_failures);
        pause(self.every, self.num_failures, random as f64 / u64::MAX as f64)
    }
}

/// A pause after so many failures; `part` is between 0 and 1.
fn pause(every: Duration, num_failures: u32, part: f64) -> Duration {
    let times = 1_u32.checked_shl(num_failures).unwrap_or(BACK_OFF_MAX).clamp(1, BACK_OFF_MAX);
    let longest = PAUSE_MAX.max(every);
    (every * times).min(longest).mul_f64(1.0 - JITTER + 2.0 * JITTER * part.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_failures_and_no_further_than_they_may() {
        let seconds = |every, failures| pause(Duration::from_secs(every), failures, 0.5).as_secs_f64().round() as u64;
        assert_eq!([seconds(30, 0), seconds(30, 1), seconds(30, 2), seconds(30, 3)], [30, 60, 120, 240]);
        assert_eq!([seconds(30, 4), seconds(30, 40), seconds(60, 9)], [240, 240, 300]);
        assert_eq!(seconds(3600, 5), 3600, "looks that are further apart stay so");
    }

    #[test]
    fn pauses_differ_by_a_tenth() {
        let every = Duration::from_secs(10);
        assert_eq!(pause(every, 0, 0.0), Duration::from_secs(9));
        assert_eq!(pause(every, 0, 1.0), Duration::from_secs(11));
    }
}
