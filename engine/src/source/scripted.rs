//! A source in memory: the double for tests, of the driver above all. It says what its script says, in order, and keeps what it
//! was told. It keeps the promises of a source: nothing of a partition before its start, and nothing after its release.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{PartitionProgress, Source, SourceEvent, StartAt, Waker};
use crate::error::{Error, Result};
use crate::types::{Assignment, Offset};

/// What a scripted source says, and what it was told.
#[derive(Debug, Default)]
pub struct Script {
    events: VecDeque<Result<SourceEvent>>,
    waker: Option<Waker>,
    /// Where each assignment starts that is not stored; [`Offset::ZERO`] for others.
    pub configured: BTreeMap<Assignment, Offset>,
    /// Starts that were asked for, in order.
    pub starts: Vec<(Assignment, StartAt)>,
    /// Releases, in order.
    pub releases: Vec<Assignment>,
    /// The last position reported of each assignment.
    pub reports: BTreeMap<Assignment, Offset>,
    /// Whether it was closed.
    pub is_closed: bool,
    /// Started partitions and the position that a reader has.
    positions: BTreeMap<Assignment, Offset>,
}

/// See the module. Clones share one script.
#[derive(Debug, Clone, Default)]
pub struct ScriptedSource(Arc<Mutex<Script>>);

impl ScriptedSource {
    /// A source that has nothing to say yet, and wakes the driver when it has.
    #[must_use]
    pub fn new(waker: Waker) -> ScriptedSource {
        let source = ScriptedSource::default();
        source.script().waker = Some(waker);
        source
    }

    /// The script, to look at.
    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something after all that was said before.
    pub fn say(&self, event: SourceEvent) {
        self.push(Ok(event));
    }

    /// Fails after all that was said before.
    pub fn fail(&self, error: Error) {
        self.push(Err(error));
    }

    fn push(&self, event: Result<SourceEvent>) {
        let mut script = self.script();
        script.events.push_back(event);
        if let Some(waker) = &script.waker {
            waker.wake();
        }
    }
}

impl Script {
    /// Takes records into account, and holds the script to the promises of a source.
    fn check(&mut self, event: &SourceEvent) -> Result<()> {
        match event {
            SourceEvent::Records(block) => {
                for (unit, offset) in block.units.iter().zip(&block.offsets) {
                    let position = self.positions.get_mut(&Assignment(*unit));
                    let Some(position) = position.filter(|position| position.get() <= *offset) else {
                        return Err(Error::internal(format!(
                            "the script has record {offset} of assignment {unit} before its start, after its release, or twice"
                        )));
                    };
                    *position = Offset::after(*offset);
                }
            }
            SourceEvent::Lost(assignments) => self.positions.retain(|assignment, _| !assignments.contains(assignment)),
            SourceEvent::Rows(_)
            | SourceEvent::Assigned(_)
            | SourceEvent::Revoked(_)
            | SourceEvent::DataLost { .. }
            | SourceEvent::End => {}
        }
        Ok(())
    }
}

impl Source for ScriptedSource {
    fn next_event(&mut self) -> Result<Option<SourceEvent>> {
        let mut script = self.script();
        let Some(event) = script.events.pop_front().transpose()? else { return Ok(None) };
        script.check(&event)?;
        Ok(Some(event))
    }

    fn start(&mut self, starts: &[(Assignment, StartAt)]) -> Result<Vec<(Assignment, Offset)>> {
        let mut script = self.script();
        let mut resolved = Vec::with_capacity(starts.len());
        for (assignment, at) in starts {
            let position = match at {
                StartAt::Stored(offset) => *offset,
                StartAt::Configured => script.configured.get(assignment).copied().unwrap_or_default(),
                StartAt::Beginning => Offset::ZERO,
            };
            script.starts.push((*assignment, *at));
            script.positions.insert(*assignment, position);
            resolved.push((*assignment, position));
        }
        Ok(resolved)
    }

    fn release(&mut self, assignments: &[Assignment]) -> Result<()> {
        let mut script = self.script();
        script.releases.extend_from_slice(assignments);
        script.positions.retain(|assignment, _| !assignments.contains(assignment));
        Ok(())
    }

    fn report(&mut self, positions: &[(Assignment, Offset)]) {
        self.script().reports.extend(positions.iter().copied());
    }

    fn num_partitions(&self, _topic: &str) -> Option<u32> {
        None
    }

    fn progress(&self) -> Vec<PartitionProgress> {
        let script = self.script();
        let progress = |(assignment, position): (&Assignment, &Offset)| PartitionProgress {
            assignment: *assignment,
            position: *position,
            delivered: *position,
            end: None,
        };
        script.positions.iter().map(progress).collect()
    }

    fn close(&mut self, _timeout: Duration) -> Result<()> {
        self.script().is_closed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::RecordBlock;

    fn record(unit: u32, offset: i64) -> SourceEvent {
        let mut block = RecordBlock::default();
        block.units.push(unit);
        block.offsets.push(offset);
        block.timestamps_ms.push(-1);
        block.keys.push(None);
        block.values.push(Some(b"{}"));
        block.headers.end_record();
        SourceEvent::Records(block)
    }

    #[test]
    fn it_says_its_script_wakes_the_driver_and_keeps_what_it_was_told() {
        let (waker, woken) = Waker::new();
        let handle = ScriptedSource::new(waker);
        let mut source = handle.clone();
        assert!(source.next_event().unwrap().is_none());
        handle.say(record(1, 5));
        assert!(woken.try_recv().is_ok());
        let start = StartAt::Stored(Offset::after(4));
        assert_eq!(source.start(&[(Assignment(1), start)]).unwrap(), [(Assignment(1), Offset::after(4))]);
        assert!(matches!(source.next_event(), Ok(Some(SourceEvent::Records(_)))));
        assert_eq!(source.progress()[0].position.get(), 6);
        source.report(&[(Assignment(1), Offset::after(5))]);
        source.release(&[Assignment(1)]).unwrap();
        source.close(Duration::ZERO).unwrap();
        let script = handle.script();
        assert_eq!(script.starts, [(Assignment(1), start)]);
        assert_eq!(script.releases, [Assignment(1)]);
        assert_eq!(script.reports[&Assignment(1)].get(), 6);
        assert!(script.is_closed);
    }

    #[test]
    fn a_script_that_breaks_the_promises_of_a_source_is_refused() {
        let (waker, _woken) = Waker::new();
        let handle = ScriptedSource::new(waker);
        let mut source = handle.clone();
        handle.say(record(1, 5));
        assert!(source.next_event().is_err());
        source.start(&[(Assignment(1), StartAt::Beginning)]).unwrap();
        handle.say(record(1, 5));
        handle.say(record(1, 5));
        assert!(source.next_event().is_ok());
        assert!(source.next_event().is_err());
    }
}
