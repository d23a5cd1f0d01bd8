//! What the reader asks of the cluster: the topics and their ends when it opens, positions when partitions start, and the
//! log's range again when a position turns out to be gone. What follows from the answers is decided in `start`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};

use super::Membership;
use super::connection::{client_error, now};
use super::native::{Entry, NEWEST, OLDEST};
use super::reader::{Halt, Reader};
use super::start::{Found, Resolved, check, resolve};
use crate::error::{Error, Result};
use crate::pipeline::settings::{StartPosition, Until};
use crate::source::{SourceEvent, StartAt};
use crate::types::{Assignment, Offset, OffsetRange};

/// One question to the cluster.
pub(super) const QUESTION: Duration = Duration::from_secs(5);
/// One question that is asked again and again: a close is not heard while it is open. Connections are made meanwhile, and
/// stay when it ends.
const PATIENT_QUESTION: Duration = Duration::from_secs(1);
/// Positions are asked for this long, then the start fails.
const POSITIONS: Duration = Duration::from_secs(30);
/// A topic that was made a moment ago may not be known to every broker yet.
const TOPIC_APPEARS: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(100);

/// What was found when the source opened.
#[derive(Debug, Default)]
pub(super) struct Topics {
    /// Number of partitions of each topic.
    num_partitions: BTreeMap<Arc<str>, i32>,
    /// Ends of a bounded source.
    ends: BTreeMap<(Arc<str>, i32), i64>,
}

impl Topics {
    fn had(&self, topic: &str, partition: i32) -> bool {
        self.num_partitions.get(topic).is_some_and(|number| partition < *number)
    }

    /// Ends of a bounded source, by topic and partition.
    pub(super) fn ends(&self) -> impl Iterator<Item = (&Arc<str>, i32, i64)> {
        self.ends.iter().map(|((topic, partition), end)| (topic, *partition, *end))
    }

    fn partitions(&self) -> Vec<(Arc<str>, i32)> {
        let all = |(topic, number): (&Arc<str>, &i32)| {
            (0..*number).map(|partition| (topic.clone(), partition)).collect::<Vec<_>>()
        };
        self.num_partitions.iter().flat_map(all).collect()
    }
}

fn newest(places: &[(Arc<str>, i32)]) -> Vec<Entry> {
    places.iter().map(|(topic, partition)| Entry::new(topic, *partition, NEWEST)).collect()
}

impl Reader {
    /// Learns what topics there are and joins the group, or takes all partitions. Waits for a broker as long as it takes.
    pub(super) fn open(&mut self) -> Result<(), Halt> {
        let names: Vec<Arc<str>> = self.opening.settings.topics.iter().map(|topic| topic.as_str().into()).collect();
        for topic in &names {
            let number = self.num_partitions(topic)?;
            self.topics.num_partitions.insert(topic.clone(), number);
            self.partitions.set_num_partitions(topic, number);
        }
        self.has_contact = true;
        let all = self.topics.partitions();
        if self.opening.settings.until == Until::Now && self.opening.gate.is_none() {
            let newest = newest(&all);
            let ends = self.patiently(|reader| reader.consumer.list_offsets(&newest, PATIENT_QUESTION))?;
            let ends = self.positions(ends)?;
            self.set_ends(&all, ends);
        }
        match self.opening.membership {
            Membership::Group => self.consumer.subscribe(&names).map_err(|error| {
                Error::internal(format!("source `{}`: the kafka client takes no topics", self.opening.source))
                    .with_source(error)
            })?,
            Membership::Alone => {
                let entries: Vec<Entry> =
                    all.iter().map(|(topic, partition)| Entry::new(topic, *partition, 0)).collect();
                self.assigned(&entries);
            }
        }
        Ok(())
    }

    fn set_ends(&mut self, places: &[(Arc<str>, i32)], ends: Vec<i64>) {
        self.topics.ends.extend(places.iter().cloned().zip(ends));
        self.has_ends = true;
    }

    /// Takes the ends of a source behind another stage, once that has written all. Whether they are there now.
    pub(super) fn take_late_ends(&mut self) -> bool {
        if !self.opening.gate.as_ref().is_some_and(crate::source::Gate::is_open) {
            return false;
        }
        let all = self.topics.partitions();
        let asked = self.consumer.list_offsets(&newest(&all), QUESTION);
        let ends = match asked {
            Ok(found) if found.iter().all(|entry| entry.error.is_none()) => {
                found.into_iter().map(|entry| entry.offset).collect()
            }
            Ok(_) | Err(_) => {
                tracing::debug!(
                    source = &*self.opening.source,
                    "kafka does not say where an internal topic ends; asking again"
                );
                return false;
            }
        };
        self.set_ends(&all, ends);
        let ends = &self.topics.ends;
        for held in self.partitions.iter_mut() {
            held.end = Some(ends.get(&(held.place.topic.clone(), held.place.partition)).copied().unwrap_or(0));
        }
        true
    }

    fn num_partitions(&mut self, topic: &Arc<str>) -> Result<i32, Halt> {
        let began = now();
        loop {
            let metadata =
                self.patiently(|reader| reader.consumer.client().fetch_metadata(Some(topic), PATIENT_QUESTION))?;
            let found = metadata.topics().iter().find(|found| found.name() == &**topic);
            let code = found.and_then(|found| found.error()).map(Code::from).filter(|code| *code != Code::NoError);
            let number = found.map_or(0, |found| found.partitions().len());
            match code {
                None if number > 0 => return Ok(i32::try_from(number).unwrap_or(i32::MAX)),
                Some(code) if code != Code::UnknownTopicOrPartition && code != Code::UnknownTopic => {
                    self.not_refused(&KafkaError::MetadataFetch(code), topic)?;
                }
                _ if began.elapsed() >= TOPIC_APPEARS => return Err(Halt::Failed(self.unknown_topic(topic))),
                _ => {}
            }
            self.pause()?;
        }
    }

    /// Which topic is missing, and what there is. Names of other topics stay out of it, but for one that is nearly the same.
    fn unknown_topic(&self, topic: &str) -> Error {
        let others = self.consumer.client().fetch_metadata(None, QUESTION);
        let names: Vec<String> = others
            .map(|metadata| metadata.topics().iter().map(|found| found.name().to_owned()).collect())
            .unwrap_or_default();
        let nearest = names
            .iter()
            .map(|name| (strsim::jaro_winkler(name, topic), name))
            .filter(|(likeness, _)| *likeness > 0.85)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, name)| format!("did you mean `{name}`? "))
            .unwrap_or_default();
        Error::invalid(format!(
            "source `{}`: the kafka cluster at {} has no topic `{topic}` that this user may see (it shows {} topics); \
             {nearest}create the topic or mend `topic`",
            self.opening.source,
            self.opening.settings.connection.bootstrap_servers,
            names.len(),
        ))
    }

    /// Asks again and again until a broker answers; a refusal ends it.
    fn patiently<T>(&mut self, mut ask: impl FnMut(&Reader) -> KafkaResult<T>) -> Result<T, Halt> {
        let mut tries = 0_u32;
        loop {
            match ask(self) {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    self.not_refused(&error, "metadata")?;
                    tries += 1;
                    if tries.is_power_of_two() {
                        let brokers = &*self.opening.settings.connection.bootstrap_servers;
                        tracing::warn!(source = &*self.opening.source, brokers, tries, %error, "kafka does not answer; trying on");
                    }
                }
            }
            self.pause()?;
        }
    }

    /// An error for which asking again makes sense is nothing.
    fn not_refused(&self, error: &KafkaError, what: &str) -> Result<(), Halt> {
        let refused = |code| client_error(code, &format!("source `{}`", self.opening.source), what);
        error.rdkafka_error_code().and_then(refused).map_or(Ok(()), |error| Err(Halt::Failed(error)))
    }

    /// A moment in which callbacks (a refused login, say) and a close are heard.
    fn pause(&mut self) -> Result<(), Halt> {
        let mut none = super::native::Messages::new(1);
        self.consumer.consume(&mut none, 1, PAUSE);
        self.serve_callbacks()?;
        self.flush()?;
        if self.is_closing() { Err(Halt::Closed) } else { Ok(()) }
    }

    fn positions(&self, entries: Vec<Entry>) -> Result<Vec<i64>> {
        entries
            .into_iter()
            .map(|entry| match entry.error {
                None => Ok(entry.offset),
                Some(code) => Err(Error::unavailable(format!(
                    "source `{}`: no position of {}/{} could be had ({code}); try again",
                    self.opening.source, entry.topic, entry.partition
                ))),
            })
            .collect()
    }

    /// Positions of `entries`, asked for as long as is bearable while the driver waits.
    fn ask(&self, entries: &[Entry]) -> Result<Vec<i64>> {
        let began = now();
        loop {
            let answer = self.consumer.list_offsets(entries, QUESTION);
            let result = match answer {
                Ok(found) => self.positions(found),
                Err(error) => Err(Error::unavailable(format!(
                    "source `{}`: kafka does not say where its partitions begin and end; try again",
                    self.opening.source
                ))
                .with_source(error)),
            };
            if result.is_ok() || began.elapsed() >= POSITIONS {
                return result;
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn ranges(&self, places: &[(Arc<str>, i32)]) -> Result<Vec<OffsetRange>> {
        let ask = |which| {
            let entries: Vec<Entry> =
                places.iter().map(|(topic, partition)| Entry::new(topic, *partition, which)).collect();
            self.ask(&entries)
        };
        // The oldest first: if it moves in between, the range is too wide and the fetch itself tells.
        let (oldest, newest) = (ask(OLDEST)?, ask(NEWEST)?);
        let range = |(oldest, newest): (i64, i64)| {
            let start = Offset::new(oldest).unwrap_or_default();
            let end = Offset::new(newest).unwrap_or_default().max(start);
            OffsetRange { start, end }
        };
        Ok(oldest.into_iter().zip(newest).map(range).collect())
    }

    fn at_times(&self, places: &[(Arc<str>, i32)]) -> Result<Vec<Option<Offset>>> {
        let StartPosition::Timestamp(time) = self.opening.settings.start else {
            return Ok(vec![None; places.len()]);
        };
        // Negative times are librdkafka's words for other things, and nothing was written before 1970.
        let entries: Vec<Entry> =
            places.iter().map(|(topic, partition)| Entry::new(topic, *partition, time.max(0))).collect();
        Ok(self.ask(&entries)?.into_iter().map(Offset::new).collect())
    }

    /// Starts partitions; see [`crate::source::Source::start`].
    pub(super) fn start(&mut self, starts: &[(Assignment, StartAt)]) -> Result<Vec<(Assignment, Offset)>> {
        let known: Vec<(Assignment, StartAt, (Arc<str>, i32))> = starts
            .iter()
            .filter_map(|(assignment, at)| {
                let held = self.partitions.get(*assignment)?;
                let is_new = held.stage == super::partitions::Stage::Waiting;
                is_new.then(|| (*assignment, *at, (held.place.topic.clone(), held.place.partition)))
            })
            .collect();
        let places: Vec<(Arc<str>, i32)> = known.iter().map(|(_, _, place)| place.clone()).collect();
        let (ranges, at_times) = (self.ranges(&places)?, self.at_times(&places)?);
        let mut answers = Vec::with_capacity(known.len());
        for ((assignment, at, (topic, partition)), (range, at_time)) in
            known.into_iter().zip(ranges.into_iter().zip(at_times))
        {
            let found = Found { range, at_time, was_there: self.topics.had(&topic, partition) };
            let settings = &self.opening.settings;
            let resolved = resolve(at, &settings.start, &(topic.to_string(), partition), found, settings.on_data_loss);
            let place = format!("{}/{topic}/{partition}", self.opening.source);
            let position = self.go_on(assignment, resolved.map_err(|gone| gone.into_error(place))?);
            answers.push((assignment, position));
            let end = self.topics.ends.get(&(topic, partition)).copied().unwrap_or(0);
            let end = (self.opening.settings.until == Until::Now && self.has_ends).then_some(end);
            self.partitions.start(assignment, position, end);
        }
        self.fetch_started();
        Ok(answers)
    }

    fn go_on(&mut self, assignment: Assignment, resolved: Resolved) -> Offset {
        match resolved {
            Resolved::At(position) => position,
            Resolved::Skipped { wanted, found } => {
                tracing::warn!(
                    source = &*self.opening.source,
                    wanted = wanted.get(),
                    found = found.get(),
                    "records were deleted before they were read; going on at the oldest"
                );
                self.outbox.push_back(SourceEvent::DataLost { assignment, wanted, found });
                found
            }
        }
    }

    /// librdkafka says that a partition's position is not in the log (any more).
    pub(super) fn find_again(&mut self, topic: &str, partition: i32) -> Result<(), Halt> {
        let Some(held) = self.partitions.find(topic, partition).filter(|held| held.is_assigned) else { return Ok(()) };
        let (assignment, place) = (held.assignment, (held.place.topic.clone(), partition));
        let wanted = held.place.next();
        let range = self.ranges(&[place])?.pop().unwrap_or_default();
        let place = format!("{}/{topic}/{partition}", self.opening.source);
        let resolved =
            check(wanted, range, self.opening.settings.on_data_loss).map_err(|gone| gone.into_error(place))?;
        let position = self.go_on(assignment, resolved);
        if let Some(held) = self.partitions.find(topic, partition) {
            held.advance(position.get());
            held.is_broken = true;
        }
        Ok(())
    }
}
