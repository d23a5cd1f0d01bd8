//! The records of an internal topic on their way to rows: what is not ours is rejected, what was there before is left out.
//!
//! The outer stage is at least once: after a crash it writes again what it had written since its last manifest, record by
//! record as before, since decode, checks and SQL are functions of the outer log (I7, I8). So the rows of one source partition
//! stand in one internal partition in the order of their positions, but for such repetitions, and without gaps: an idempotent
//! producer loses nothing in between, and what is written again begins at or below what was there. That holds for two
//! writers at once too, one of whom has lost the partition and does not know it yet: each writes without gaps from a place
//! that was acknowledged. Hence the first occurrence of a row is the one that lies above all seen before it, and every other
//! is a repetition.
//!
//! What was seen below an internal offset is therefore a function of the internal log up to there. Together with that offset
//! it is a place to restart from: reading on from it leaves out the same records again, however far back the place lies.

use std::collections::BTreeMap;

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::filter;
use arrow::datatypes::SchemaRef;

use super::super::decoder::{Candidates, HeldUnits, new_batch};
use super::super::reason::{Reason, Rejected};
use super::{Foreign, Prefix, RowDecoder, Stamp, VERSION};
use crate::error::{Error, Result};
use crate::pipeline::settings::InternalTopic;
use crate::types::{Assignment, RecordBlock, SeenPosition, SeenPositions, StateUnit, Units};

/// The form of an internal topic, and what was seen of it.
#[derive(Debug)]
pub(in crate::decode) struct InternalRows {
    decoder: RowDecoder,
    event_time: usize,
    seen: BTreeMap<Assignment, SeenPositions>,
}

/// The greatest position of one source partition in one internal partition, while records of them come in a run.
struct Run<'a> {
    unit: u32,
    topic: &'a str,
    partition: i32,
    greatest: Option<SeenPosition>,
}

impl InternalRows {
    pub(in crate::decode) fn new(internal: &InternalTopic, event_time: usize, stamp: Stamp) -> Result<InternalRows> {
        let decoder = RowDecoder::new(internal.columns.clone(), stamp)?;
        Ok(InternalRows { decoder, event_time, seen: BTreeMap::new() })
    }

    pub(in crate::decode) fn set_seen(&mut self, assignment: Assignment, seen: SeenPositions) {
        self.seen.insert(assignment, seen);
    }

    pub(in crate::decode) fn seen(&self, assignment: Assignment) -> SeenPositions {
        self.seen.get(&assignment).cloned().unwrap_or_default()
    }

    pub(in crate::decode) fn forget(&mut self, assignment: Assignment) {
        self.seen.remove(&assignment);
    }

    /// The rows of a block. An error when its records are of another pipeline, or of this one before it was changed.
    pub(in crate::decode) fn read(
        &mut self,
        block: &RecordBlock,
        units: &Units,
        schema: &SchemaRef,
    ) -> Result<Candidates> {
        let (mut records, mut bodies) = (Vec::with_capacity(block.len()), Vec::with_capacity(block.len()));
        let (mut rejected, mut num_stale, mut num_repeated) = (Vec::new(), 0, 0);
        let mut held = HeldUnits::new(units);
        let mut run: Option<Run<'_>> = None;
        for record in 0..block.len() {
            let unit = block.units[record];
            if !held.contains(unit) {
                num_stale += 1;
                continue;
            }
            let prefix = match self.decoder.prefix(block.values.get(record).unwrap_or_default()) {
                Ok(prefix) => prefix,
                Err(Foreign::NotOurs) => {
                    rejected.push(foreign(record));
                    continue;
                }
                Err(other) => {
                    let place = units.get(Assignment(unit)).map(ToString::to_string).unwrap_or_default();
                    return Err(refused(other, &place, block.offsets[record]));
                }
            };
            if self.is_first(&mut run, unit, &prefix) {
                records.push(record);
                bodies.push(prefix.body);
            } else {
                num_repeated += 1;
            }
        }
        self.keep(run);
        let batch = self.batch(schema, &bodies, &mut records, &mut rejected)?;
        Ok(Candidates { batch, records, rejected, num_stale, num_repeated })
    }

    /// Whether a record lies above all that was seen of its source partition; then it is seen too.
    fn is_first<'a>(&mut self, run: &mut Option<Run<'a>>, unit: u32, prefix: &Prefix<'a>) -> bool {
        let is_same = run
            .as_ref()
            .is_some_and(|run| (run.unit, run.partition, run.topic) == (unit, prefix.partition, prefix.topic));
        if !is_same {
            self.keep(run.take());
        }
        let run = run.get_or_insert_with(|| {
            let seen = self.seen.get(&Assignment(unit));
            let greatest = seen.and_then(|seen| seen.get(prefix.topic, prefix.partition));
            Run { unit, topic: prefix.topic, partition: prefix.partition, greatest }
        });
        let position = Some(SeenPosition(prefix.offset, prefix.ordinal));
        let is_first = position > run.greatest;
        run.greatest = run.greatest.max(position);
        is_first
    }

    fn keep(&mut self, run: Option<Run<'_>>) {
        if let Some(Run { unit, topic, partition, greatest: Some(greatest) }) = run {
            self.seen.entry(Assignment(unit)).or_default().advance(topic, partition, greatest);
        }
    }

    /// The rows of `bodies`, without those whose records are not whole.
    fn batch(
        &self,
        schema: &SchemaRef,
        bodies: &[&[u8]],
        records: &mut Vec<usize>,
        rejected: &mut Vec<Rejected>,
    ) -> Result<RecordBatch> {
        let (mut columns, mut broken) = self.decoder.columns(bodies)?;
        let times = &columns[self.event_time];
        if times.null_count() > 0 {
            broken.extend((0..times.len()).filter(|row| times.is_null(*row)));
            broken.sort_unstable();
            broken.dedup();
        }
        if !broken.is_empty() {
            let mut is_whole = vec![true; bodies.len()];
            for row in broken {
                is_whole[row] = false;
                rejected.push(foreign(records[row]));
            }
            rejected.sort_unstable_by_key(|rejected| rejected.record);
            let mut row = 0;
            records.retain(|_| {
                row += 1;
                is_whole[row - 1]
            });
            let is_whole = BooleanArray::from(is_whole);
            for column in &mut columns {
                *column =
                    filter(column, &is_whole).map_err(|_| Error::internal("rejected rows could not be taken out"))?;
            }
        }
        new_batch(schema, columns, records.len())
    }
}

fn foreign(record: usize) -> Rejected {
    Rejected { record, reason: Reason::ForeignRecord, detail: None }
}

/// Whether the next record of an internal topic is one that must not be read, and must not be written behind.
pub(crate) fn refuse_foreign(
    unit: &StateUnit,
    offset: i64,
    payload: &[u8],
    stamp: Stamp,
    schema: &SchemaRef,
) -> Result<()> {
    match RowDecoder::new(schema.clone(), stamp)?.prefix(payload) {
        Ok(_) | Err(Foreign::NotOurs) => Ok(()),
        Err(other) => Err(refused(other, &unit.to_string(), offset)),
    }
}

/// Records that somebody meant to be read here, and that must not be left out.
fn refused(foreign: Foreign, place: &str, offset: i64) -> Error {
    let what = match foreign {
        Foreign::NotOurs => "is not one of this pipeline".to_owned(),
        Foreign::Version(version) => format!(
            "has version {version} of its form, and this engine reads {VERSION}; use the engine that wrote it, or name \
             another topic under `repartition`"
        ),
        Foreign::Pipeline => "was written by another pipeline, or by this one with another checkpoint; an internal topic \
             belongs to one pipeline and one checkpoint: name another topic under `repartition`, or delete this one"
            .to_owned(),
        Foreign::Columns => "was written with other columns, another key or another event time than the pipeline has now; \
             let the pipeline as it was read the topic to its end (`until: now`) before you change it, or name another topic \
             under `repartition`"
            .to_owned(),
    };
    Error::data(format!("{place}: the record at offset {offset} {what}"))
}
