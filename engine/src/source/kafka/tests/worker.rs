//! A worker as tests need one: it starts what it is given, gives back what is asked for, and keeps everything. Shared with the
//! tests against a real broker, which include this file.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::*;

/// After this a test has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A topic and a partition.
pub(super) type Place = (String, i32);

/// A record as it was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Delivered {
    pub(super) offset: i64,
    pub(super) timestamp_ms: i64,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Delivered {
    fn of(block: &RecordBlock, index: usize) -> Delivered {
        let header = |(name, value): (&[u8], Option<&[u8]>)| {
            (String::from_utf8(name.to_vec()).unwrap(), value.map(<[u8]>::to_vec))
        };
        Delivered {
            offset: block.offsets[index],
            timestamp_ms: block.timestamps_ms[index],
            key: block.keys.get(index).map(<[u8]>::to_vec),
            value: block.values.get(index).map(<[u8]>::to_vec),
            headers: block.headers.of(index).map(header).collect(),
        }
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8(self.value.clone().unwrap_or_default()).unwrap()
    }
}

/// See the file.
pub(super) struct Worker {
    pub(super) source: KafkaSource,
    woken: Receiver<()>,
    pub(super) units: BTreeMap<Assignment, StateUnit>,
    /// Where partitions start; the settings decide for others. Written at each release, and shared by the workers of a group.
    pub(super) stored: Arc<Mutex<BTreeMap<Place, Offset>>>,
    /// Where partitions did start.
    pub(super) positions: BTreeMap<Place, Offset>,
    pub(super) records: BTreeMap<Place, Vec<Delivered>>,
    pub(super) releases: bool,
    /// What was to be released, and was not.
    pub(super) revoked: Vec<Assignment>,
    pub(super) events: Vec<String>,
    pub(super) has_ended: bool,
    reported_at: Instant,
}

impl Worker {
    pub(super) fn open(settings: settings::KafkaSource, membership: Membership) -> Worker {
        Worker::numbered(settings, membership, AssignmentNumbers::default())
    }

    pub(super) fn numbered(
        settings: settings::KafkaSource,
        membership: Membership,
        numbers: AssignmentNumbers,
    ) -> Worker {
        let (waker, woken) = Waker::new();
        let source = "s".into();
        let source = KafkaSource::open(Opening {
            source,
            settings,
            membership,
            max_record_bytes: 16 << 20,
            numbers,
            waker,
            gate: None,
        })
        .unwrap();
        Worker {
            source,
            woken,
            units: BTreeMap::new(),
            stored: Arc::default(),
            positions: BTreeMap::new(),
            records: BTreeMap::new(),
            releases: true,
            revoked: Vec::new(),
            events: Vec::new(),
            has_ended: false,
            reported_at: Instant::now(),
        }
    }

    pub(super) fn store(&self, topic: &str, partition: i32, position: i64) {
        self.stored.lock().unwrap().insert((topic.to_owned(), partition), Offset::new(position).unwrap());
    }

    /// One event, if there is one.
    pub(super) fn step(&mut self) -> Result<bool> {
        let Some(event) = self.source.next_event()? else {
            self.report();
            return Ok(false);
        };
        match event {
            SourceEvent::Rows(_) => panic!("Kafka gives records"),
            SourceEvent::Records(block) => {
                for index in 0..block.len() {
                    let unit = &self.units[&Assignment(block.units[index])];
                    let place = (unit.topic.to_string(), unit.partition);
                    self.records.entry(place).or_default().push(Delivered::of(&block, index));
                }
            }
            SourceEvent::Assigned(units) => {
                self.events.push(format!("assigned {}", units.len()));
                self.start(units)?;
            }
            SourceEvent::Revoked(assignments) => {
                self.events.push(format!("revoked {}", assignments.len()));
                if self.releases {
                    self.release(&assignments)?;
                } else {
                    self.revoked = assignments;
                }
            }
            SourceEvent::Lost(assignments) => {
                self.events.push(format!("lost {}", assignments.len()));
                self.units.retain(|assignment, _| !assignments.contains(assignment));
            }
            SourceEvent::DataLost { wanted, found, .. } => self.events.push(format!("data lost {wanted} {found}")),
            SourceEvent::End => self.has_ended = true,
        }
        Ok(true)
    }

    fn start(&mut self, units: Vec<(Assignment, StateUnit)>) -> Result<()> {
        let at = |unit: &StateUnit| {
            let stored = self.stored.lock().unwrap().get(&(unit.topic.to_string(), unit.partition)).copied();
            stored.map_or(StartAt::Configured, StartAt::Stored)
        };
        let starts: Vec<(Assignment, StartAt)> =
            units.iter().map(|(assignment, unit)| (*assignment, at(unit))).collect();
        self.units.extend(units);
        for (assignment, position) in self.source.start(&starts)? {
            let unit = &self.units[&assignment];
            self.positions.insert((unit.topic.to_string(), unit.partition), position);
        }
        Ok(())
    }

    /// Stores the positions and gives partitions back.
    pub(super) fn release(&mut self, assignments: &[Assignment]) -> Result<()> {
        self.report();
        for assignment in assignments {
            let (place, position) = self.position(&self.units[assignment]).unwrap();
            self.units.remove(assignment);
            self.stored.lock().unwrap().insert(place, position);
        }
        self.source.release(assignments)
    }

    /// `None` before the unit is started.
    fn position(&self, unit: &StateUnit) -> Option<(Place, Offset)> {
        let place = (unit.topic.to_string(), unit.partition);
        let read = self.records.get(&place).and_then(|records| records.last()).map(|last| Offset::after(last.offset));
        let position = read.unwrap_or_default().max(*self.positions.get(&place)?);
        Some((place, position))
    }

    /// Tells the group how far it is, as a driver does from time to time.
    fn report(&mut self) {
        if self.reported_at.elapsed() < Duration::from_millis(100) {
            return;
        }
        self.reported_at = Instant::now();
        let position = |(assignment, unit): (&Assignment, &StateUnit)| Some((*assignment, self.position(unit)?.1));
        let positions: Vec<(Assignment, Offset)> = self.units.iter().filter_map(position).collect();
        self.source.report(&positions);
    }

    pub(super) fn run_until(&mut self, done: impl Fn(&Worker) -> bool) {
        self.try_until(done).unwrap();
    }

    pub(super) fn try_until(&mut self, done: impl Fn(&Worker) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(
                Instant::now() < deadline,
                "not in {PATIENCE:?}: {:?}, {} records",
                self.events,
                self.num_records()
            );
            if !self.step()? {
                self.woken.recv_timeout(Duration::from_millis(50)).ok();
            }
        }
        Ok(())
    }

    /// The error that the source ends with.
    pub(super) fn failure(&mut self) -> Error {
        self.try_until(|_| false).unwrap_err()
    }

    pub(super) fn num_records(&self) -> usize {
        self.records.values().map(Vec::len).sum()
    }

    /// All values, sorted.
    pub(super) fn values(&self) -> Vec<String> {
        sorted(self.records.values().flatten().map(Delivered::text).collect())
    }
}

/// `values` in alphabetical order.
pub(super) fn sorted(mut values: Vec<String>) -> Vec<String> {
    values.sort();
    values
}

/// `value 0`, `value 1`, ...
pub(super) fn numbers(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|number| format!("value {number}")).collect()
}
