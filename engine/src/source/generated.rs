//! The simulator as a source: one endless partition, whose record at an offset is the same in every run. Paced by the clock it
//! is given, and only as a stand-in for a topic: it has no broker, so nothing is ever lost or late in delivery.

use std::time::Duration;

use super::generator::{Feed, GeneratorSettings, Simulator};
use super::{AssignmentNumbers, PartitionProgress, Source, SourceEvent, StartAt};
use crate::error::{Error, Result};
use crate::pipeline::settings;
use crate::types::{Assignment, Offset, RecordBlock, StateUnit};

/// Time since some moment, never going back.
pub type MonotonicClock = Box<dyn Fn() -> Duration + Send>;

/// Where the simulated time begins: 2026-01-01 UTC, milliseconds.
const FIRST_MS: i64 = 1_767_225_600_000;
/// Simulated time that is made at once.
const STEP_MS: i64 = 60_000;
/// Records of a block at most.
const BLOCK_RECORDS: usize = 4096;

/// See the module.
pub struct GeneratedSource {
    assignment: Assignment,
    /// Not yet told to the driver; `None` for workers other than the first.
    assigned: Option<SourceEvent>,
    feed: Feed,
    /// Made and not yet given out.
    made: RecordBlock,
    given: usize,
    /// Offset of the next record to give out; `None` before the start.
    next: Option<i64>,
    /// Offset of the next record to make.
    next_made: i64,
    rate: Option<u64>,
    count: Option<i64>,
    clock: MonotonicClock,
    /// When giving out began, and how many records were given out since.
    pace: Option<(Duration, u64)>,
    has_ended: bool,
}

impl std::fmt::Debug for GeneratedSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GeneratedSource").field("next", &self.next).finish_non_exhaustive()
    }
}

impl GeneratedSource {
    /// The source of one worker: the first has the partition, the others have none.
    pub fn new(
        source: &str,
        settings: &settings::GeneratorSource,
        worker: usize,
        numbers: &AssignmentNumbers,
        clock: MonotonicClock,
    ) -> Result<GeneratedSource> {
        let mut world = GeneratorSettings { seed: settings.seed, ..GeneratorSettings::default() };
        if let Some(users) = settings.users {
            world.num_users = users;
        }
        let simulator = Simulator::new(world).map_err(|error| Error::invalid(format!("source {source}: {error}")))?;
        let assignment = numbers.next();
        let unit = StateUnit { source: source.into(), topic: "generator".into(), partition: 0 };
        let own = if worker == 0 { vec![(assignment, unit)] } else { Vec::new() };
        Ok(GeneratedSource {
            assignment,
            assigned: Some(SourceEvent::Assigned(own)),
            feed: simulator.feed(FIRST_MS),
            made: RecordBlock::default(),
            given: 0,
            next: None,
            next_made: 0,
            rate: settings.rate,
            count: settings.count.map(|count| i64::try_from(count).unwrap_or(i64::MAX)),
            clock,
            pace: None,
            has_ended: worker != 0,
        })
    }

    /// Makes the records of the next step of simulated time.
    fn make(&mut self) -> Result<()> {
        self.made = RecordBlock::default();
        self.given = 0;
        let events = self
            .feed
            .events(self.feed.position_ms() + STEP_MS)
            .map_err(|error| Error::internal(format!("the simulator failed: {error}")))?;
        for record in events.iter() {
            self.made.units.push(self.assignment.0);
            self.made.offsets.push(self.next_made);
            self.made.timestamps_ms.push(record.arrival_ms);
            self.made.keys.push(Some(record.key));
            self.made.values.push(Some(record.value));
            self.made.headers.end_record();
            self.next_made += 1;
        }
        Ok(())
    }

    /// How many records may be given out now.
    fn allowance(&mut self) -> usize {
        let Some(rate) = self.rate else { return BLOCK_RECORDS };
        let now = (self.clock)();
        let (since, given) = *self.pace.get_or_insert((now, 0));
        let due = ((now.saturating_sub(since)).as_secs_f64() * rate as f64) as u64;
        usize::try_from(due.saturating_sub(given)).unwrap_or(usize::MAX).min(BLOCK_RECORDS)
    }
}

impl Source for GeneratedSource {
    fn next_event(&mut self) -> Result<Option<SourceEvent>> {
        if let Some(assigned) = self.assigned.take() {
            return Ok(Some(assigned));
        }
        if self.has_ended {
            // Said once: a worker without a partition has nothing to wait for.
            self.has_ended = false;
            self.count = Some(0);
            self.next = None;
            return Ok(Some(SourceEvent::End));
        }
        let Some(next) = self.next else { return Ok(None) };
        if self.count.is_some_and(|count| next >= count) {
            self.next = None;
            return Ok(Some(SourceEvent::End));
        }
        let left = self.count.map_or(usize::MAX, |count| usize::try_from(count - next).unwrap_or(usize::MAX));
        let allowed = self.allowance().min(left);
        if allowed == 0 {
            return Ok(None);
        }
        while self.given == self.made.len() || self.next_made <= next {
            self.make()?;
        }
        // A restart in the middle: what lies below was given out in an earlier run.
        let first = self.made.offsets.partition_point(|offset| *offset < next);
        self.given = self.given.max(first);
        let end = (self.given + allowed).min(self.made.len());
        let block = self.made.slice(self.given..end);
        self.given = end;
        self.next = Some(next + block.len() as i64);
        if let Some((_, given)) = &mut self.pace {
            *given += block.len() as u64;
        }
        Ok(Some(SourceEvent::Records(block)))
    }

    fn start(&mut self, starts: &[(Assignment, StartAt)]) -> Result<Vec<(Assignment, Offset)>> {
        let mut resolved = Vec::new();
        for (assignment, at) in starts {
            let offset = match at {
                StartAt::Stored(offset) => *offset,
                StartAt::Configured | StartAt::Beginning => Offset::ZERO,
            };
            self.next = Some(offset.get());
            resolved.push((*assignment, offset));
        }
        Ok(resolved)
    }

    fn release(&mut self, _: &[Assignment]) -> Result<()> {
        self.next = None;
        Ok(())
    }

    fn report(&mut self, _: &[(Assignment, Offset)]) {}

    fn num_partitions(&self, _topic: &str) -> Option<u32> {
        None
    }

    fn progress(&self) -> Vec<PartitionProgress> {
        let position = self.next.and_then(Offset::new);
        let progress = |position| PartitionProgress {
            assignment: self.assignment,
            position,
            delivered: position,
            end: self.count.and_then(Offset::new),
        };
        position.map(progress).into_iter().collect()
    }

    fn close(&mut self, _: Duration) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(count: u64) -> GeneratedSource {
        let settings = settings::GeneratorSource { seed: 7, rate: None, count: Some(count), users: Some(100) };
        GeneratedSource::new("s", &settings, 0, &AssignmentNumbers::default(), Box::new(|| Duration::ZERO)).unwrap()
    }

    /// All records from `start` on: (offset, payload).
    fn read(count: u64, start: i64) -> Vec<(i64, Vec<u8>)> {
        let mut source = source(count);
        let Some(SourceEvent::Assigned(units)) = source.next_event().unwrap() else { panic!("assignment first") };
        source.start(&[(units[0].0, StartAt::Stored(Offset::new(start).unwrap()))]).unwrap();
        let mut records = Vec::new();
        loop {
            match source.next_event().unwrap() {
                Some(SourceEvent::Records(block)) => {
                    records.extend((0..block.len()).map(|i| (block.offsets[i], block.values.get(i).unwrap().to_vec())));
                }
                Some(SourceEvent::End) => return records,
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    #[test]
    fn a_restart_goes_on_with_the_same_records() {
        let whole = read(500, 0);
        assert_eq!(whole.len(), 500);
        assert_eq!(whole.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), (0..500).collect::<Vec<_>>());
        assert_eq!(read(500, 123), whole[123..]);
    }

    #[test]
    fn the_rate_is_that_of_the_clock() {
        let seconds = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let clock = std::sync::Arc::clone(&seconds);
        let settings = settings::GeneratorSource { seed: 7, rate: Some(10), count: None, users: None };
        let clock = Box::new(move || Duration::from_secs(clock.load(std::sync::atomic::Ordering::Relaxed)));
        let mut source = GeneratedSource::new("s", &settings, 0, &AssignmentNumbers::default(), clock).unwrap();
        let Some(SourceEvent::Assigned(units)) = source.next_event().unwrap() else { panic!("assignment first") };
        source.start(&[(units[0].0, StartAt::Configured)]).unwrap();
        assert!(source.next_event().unwrap().is_none());
        seconds.store(3, std::sync::atomic::Ordering::Relaxed);
        let mut records = 0;
        while let Some(SourceEvent::Records(block)) = source.next_event().unwrap() {
            records += block.len();
        }
        assert_eq!(records, 30);
    }
}
