//! Where a partition starts, and what a position outside of the log means: pure functions from what is stored, what the
//! settings say and what the broker has, to a closed answer. Asks nobody and changes nothing.

use std::fmt;

use crate::error::Error;
use crate::pipeline::settings::{DataLossPolicy, StartPosition};
use crate::source::StartAt;
use crate::types::{Offset, OffsetRange};

/// What the broker says of a partition, before it is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// What can be read.
    pub(super) range: OffsetRange,
    /// The first record at or after the settings' time; `None` when there is none, or no time was asked for.
    pub(super) at_time: Option<Offset>,
    /// Whether the partition was there when this source was opened. One that was not starts at its beginning: under
    /// `latest`, what was written between its creation and our first look would be lost.
    pub(super) was_there: bool,
}

/// Where to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resolved {
    /// Here, and nothing is missing.
    At(Offset),
    /// The position is gone; the policy goes on at the oldest record.
    Skipped {
        /// The position.
        wanted: Offset,
        /// The oldest record.
        found: Offset,
    },
}

/// A position that is not in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfRange {
    pub(super) wanted: Offset,
    pub(super) range: OffsetRange,
    pub(super) origin: Origin,
}

/// Who asked for a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The checkpoint, or our own reading.
    Stored,
    /// `start: offsets`.
    Settings,
}

/// Where a partition starts.
pub(super) fn resolve(
    at: StartAt,
    configured: &StartPosition,
    topic_partition: &(String, i32),
    found: Found,
    policy: DataLossPolicy,
) -> Result<Resolved, OutOfRange> {
    let oldest = Ok(Resolved::At(found.range.start));
    match (at, configured) {
        (StartAt::Stored(wanted), _) => check(wanted, found.range, policy),
        (StartAt::Beginning, _) | (StartAt::Configured, StartPosition::Earliest) => oldest,
        (StartAt::Configured, StartPosition::Latest) if found.was_there => Ok(Resolved::At(found.range.end)),
        (StartAt::Configured, StartPosition::Latest) => oldest,
        (StartAt::Configured, StartPosition::Timestamp(_)) => {
            Ok(Resolved::At(found.at_time.unwrap_or(found.range.end)))
        }
        (StartAt::Configured, StartPosition::Offsets(offsets)) => match offsets.get(topic_partition) {
            Some(&wanted) if wanted < found.range.start || wanted > found.range.end => {
                Err(OutOfRange { wanted, range: found.range, origin: Origin::Settings })
            }
            Some(&wanted) => Ok(Resolved::At(wanted)),
            None => oldest,
        },
    }
}

/// Whether reading can go on at `wanted`. A position past the end is refused under every policy: the topic was made anew or
/// truncated, its offsets mean other records now, and going back would break what is stored.
pub(super) fn check(wanted: Offset, range: OffsetRange, policy: DataLossPolicy) -> Result<Resolved, OutOfRange> {
    let out_of_range = OutOfRange { wanted, range, origin: Origin::Stored };
    if wanted > range.end {
        return Err(out_of_range);
    }
    if wanted >= range.start {
        return Ok(Resolved::At(wanted));
    }
    match policy {
        DataLossPolicy::Fail => Err(out_of_range),
        DataLossPolicy::Continue => Ok(Resolved::Skipped { wanted, found: range.start }),
    }
}

impl OutOfRange {
    /// The error to a person.
    pub(super) fn into_error(self, place: impl fmt::Display) -> Error {
        let OutOfRange { wanted, range, origin } = self;
        let found = format!("{place}: position {wanted} is not in the log, which holds {range}");
        match origin {
            Origin::Settings => Error::invalid(format!("{found}; mend `start: offsets`")),
            Origin::Stored if wanted > range.end => Error::data(format!(
                "{found}; the topic was made anew or truncated: start with a new checkpoint path, or restore the topic"
            )),
            Origin::Stored => Error::data(format!(
                "{found}; the records between were deleted before they were read: set `on_data_loss: continue` to go on at \
                 {start} and count what is gone, and raise the topic's retention",
                start = range.start
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::error::ErrorKind;

    fn offset(number: i64) -> Offset {
        Offset::new(number).unwrap()
    }

    fn found() -> Found {
        Found { range: OffsetRange::new(offset(10), offset(20)).unwrap(), at_time: Some(offset(15)), was_there: true }
    }

    fn resolved(at: StartAt, configured: &StartPosition, found: Found) -> Result<Resolved, OutOfRange> {
        resolve(at, configured, &("t".to_owned(), 3), found, DataLossPolicy::Fail)
    }

    fn at(number: i64) -> Result<Resolved, OutOfRange> {
        Ok(Resolved::At(offset(number)))
    }

    #[test]
    fn settings_decide_where_nothing_is_stored() {
        let new = Found { was_there: false, ..found() };
        let nothing_at_time = Found { at_time: None, ..found() };
        assert_eq!(resolved(StartAt::Configured, &StartPosition::Earliest, found()), at(10));
        assert_eq!(resolved(StartAt::Configured, &StartPosition::Latest, found()), at(20));
        assert_eq!(resolved(StartAt::Configured, &StartPosition::Latest, new), at(10));
        assert_eq!(resolved(StartAt::Beginning, &StartPosition::Latest, found()), at(10));
        assert_eq!(resolved(StartAt::Configured, &StartPosition::Timestamp(7), found()), at(15));
        assert_eq!(resolved(StartAt::Configured, &StartPosition::Timestamp(7), nothing_at_time), at(20));
    }

    #[test]
    fn explicit_offsets_hold_for_their_partition_and_must_be_in_the_log() {
        let offsets = |number| StartPosition::Offsets(BTreeMap::from([(("t".to_owned(), 3), offset(number))]));
        let others = StartPosition::Offsets(BTreeMap::from([(("t".to_owned(), 4), offset(12))]));
        assert_eq!(resolved(StartAt::Configured, &offsets(12), found()), at(12));
        assert_eq!(resolved(StartAt::Configured, &offsets(20), found()), at(20));
        assert_eq!(resolved(StartAt::Configured, &others, found()), at(10));
        for number in [9, 21] {
            let error = resolved(StartAt::Configured, &offsets(number), found()).unwrap_err().into_error("s/t/3");
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }

    #[test]
    fn a_stored_position_is_never_moved_unless_the_policy_says_so() {
        for number in 10..=20 {
            assert_eq!(resolved(StartAt::Stored(offset(number)), &StartPosition::Latest, found()), at(number));
        }
        let gone = resolved(StartAt::Stored(offset(4)), &StartPosition::Latest, found()).unwrap_err();
        let error = gone.into_error("s/t/3");
        assert_eq!(error.kind(), ErrorKind::Data);
        for part in ["s/t/3", "position 4", "[10, 20)", "on_data_loss"] {
            assert!(error.message().contains(part), "{error}");
        }
        let skipped = check(offset(4), found().range, DataLossPolicy::Continue);
        assert_eq!(skipped, Ok(Resolved::Skipped { wanted: offset(4), found: offset(10) }));
    }

    #[test]
    fn a_position_past_the_end_is_refused_under_every_policy() {
        for policy in [DataLossPolicy::Fail, DataLossPolicy::Continue] {
            let error = check(offset(21), found().range, policy).unwrap_err().into_error("s/t/3");
            assert!(error.message().contains("made anew"), "{error}");
        }
    }
}
