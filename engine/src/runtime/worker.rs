//! A worker: one thread that owns its sources, its plan, its sinks and its state units, and turns records into epochs at its
//! own pace. It starts partitions that it is given, and gives them back only when all that was read of them is published.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use tokio_util::sync::CancellationToken;

use super::block::Block;
use super::checkpointer::Checkpointer;
use super::clock;
use super::driver::Driver;
use super::limits::StateLimit;
use super::log_checks::LogCheck;
use super::models::WorkerModels;
use super::recovery::{Claimed, Wanted, state_lost};
use super::snapshots::{empty_snapshot, wanted_operators};
use super::trigger::{EPOCH_BYTES_MAX, Trigger};
use super::units::HeldUnit;
use crate::checkpoint::RestartPoint;
use crate::error::{Error, Result};
use crate::observe::metrics::partition_gauges;
use crate::observe::status::StatusBoard;
use crate::pipeline::settings::DataLossPolicy;
use crate::source::{Gate, Source, SourceEvent, StartAt};
use crate::types::{Assignment, Offset, StateUnit};

/// Longest sleep of a worker with nothing to do: how late it may notice that something went wrong without a wake-up.
const IDLE_WAIT: Duration = Duration::from_millis(100);
/// Sleep while deliveries of a checkpoint are outstanding.
const PREPARING_WAIT: Duration = Duration::from_millis(1);
/// How long leaving a group may take: all is published by then, and a group notices by itself.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// How often positions are reported and the status document is written.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// A source as the worker holds it.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) source: Box<dyn Source>,
    pub(crate) pending: Vec<Block>,
    pub(crate) has_ended: bool,
    /// Whether its partitions (perhaps none) have been named.
    pub(crate) is_assigned: bool,
    pub(crate) on_data_loss: DataLossPolicy,
    /// Of an internal topic: what stands before it.
    pub(crate) upstream: Option<Upstream>,
    /// Of a source that windows read: what its topics have to promise.
    pub(crate) log_check: Option<LogCheck>,
}

/// What writes the topic that a source reads.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// Sources whose rows go in.
    pub(crate) sources: Vec<usize>,
    /// Opens when they have all gone in; only sources with an end have one.
    pub(crate) gate: Option<Gate>,
}

/// One worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) feeds: Vec<Feed>,
    pub(crate) driver: Driver,
    pub(crate) checkpointer: Checkpointer,
    pub(crate) models: WorkerModels,
    pub(crate) trigger: Trigger,
    pub(crate) wake: Receiver<()>,
    pub(crate) stop: CancellationToken,
    pub(crate) stop_timeout: Duration,
    pub(crate) status: StatusBoard,
    pub(crate) reported_at: Instant,
    pub(crate) pending_since: Option<Instant>,
    /// The source that is listened to first in the next turn.
    pub(crate) first_feed: usize,
    pub(crate) limit: StateLimit,
    /// Set when there is too much state: the worker drains, and ends with this.
    pub(crate) over_limit: Option<Error>,
}

impl Worker {
    /// Runs until every source has ended or a stop is asked for; then drains: runs what was read, publishes, gives back.
    pub(crate) fn run(mut self) -> Result<()> {
        let span = tracing::info_span!("worker", worker = self.index);
        let _entered = span.enter();
        let result = self.turn_until_done().and_then(|()| self.drain());
        let result = result.and_then(|()| self.over_limit.take().map_or(Ok(()), Err));
        self.status.update(self.index, |worker| worker.ready = false);
        for feed in &mut self.feeds {
            // After an error the client is closed without publishing: the next start goes on from the last manifest.
            if let Err(error) = feed.source.close(self.stop_timeout.min(CLOSE_TIMEOUT)) {
                tracing::warn!(%error, "a source did not close");
            }
        }
        result
    }

    fn turn_until_done(&mut self) -> Result<()> {
        while !self.stop.is_cancelled() && self.over_limit.is_none() {
            self.follow_models()?;
            let heard = self.listen()?;
            let ran = self.run_if_due()?;
            self.checkpointer.tick(&mut self.driver)?;
            self.open_gates();
            if self.reported_at.elapsed() >= REPORT_INTERVAL {
                self.report();
            }
            if self.feeds.iter().all(|feed| feed.has_ended && feed.pending.is_empty()) {
                break;
            }
            if !heard && !ran {
                self.sleep();
            }
        }
        Ok(())
    }

    /// Tells sources behind other stages when nothing more will be written for them: the stage has come to its end in the whole
    /// group, and what it read here is published, which it is only when it was acknowledged.
    fn open_gates(&self) {
        for feed in &self.feeds {
            let Some(Upstream { sources, gate: Some(gate) }) = &feed.upstream else { continue };
            let is_done = |source: &usize| {
                let Feed { has_ended, pending, .. } = &self.feeds[*source];
                let mut units = self.driver.units.iter().filter(|(_, held)| held.source == *source);
                *has_ended && pending.is_empty() && units.all(|(_, held)| held.published == Some(held.processed))
            };
            if !gate.is_open() && sources.iter().all(is_done) {
                gate.open();
            }
        }
    }

    fn sleep(&self) {
        let mut wait = if self.checkpointer.is_preparing() { PREPARING_WAIT } else { IDLE_WAIT };
        if let Some(due) = self.checkpointer.next_due() {
            wait = wait.min(due.saturating_duration_since(clock::now()));
        }
        if let Some(since) = self.pending_since {
            wait = wait.min((since + self.trigger.max_wait).saturating_duration_since(clock::now()));
        }
        if let Err(RecvTimeoutError::Disconnected) = self.wake.recv_timeout(wait) {
            // Every source is gone; what is left is to notice their end.
            std::thread::sleep(wait);
        }
    }

    /// Rows and bytes that wait for an epoch.
    fn pending(&self) -> (usize, usize) {
        let blocks = self.feeds.iter().flat_map(|feed| &feed.pending);
        blocks.fold((0, 0), |(rows, bytes), block| (rows + block.len(), bytes + block.num_bytes()))
    }

    /// Takes what the sources have, up to a full epoch. Whether anything was heard. Each turn begins with another source, so
    /// that a busy one does not keep the others, and their groups, from being heard.
    fn listen(&mut self) -> Result<bool> {
        let mut heard = false;
        let num_feeds = self.feeds.len();
        self.first_feed = (self.first_feed + 1) % num_feeds.max(1);
        for turn in 0..num_feeds {
            let index = (self.first_feed + turn) % num_feeds;
            while !self.trigger.is_full(self.pending()) {
                let Some(event) = self.feeds[index].source.next_event()? else { break };
                heard = true;
                self.handle(index, event)?;
            }
        }
        Ok(heard)
    }

    fn handle(&mut self, index: usize, event: SourceEvent) -> Result<()> {
        match event {
            SourceEvent::Records(records) => {
                self.queue(index, Block::Records(records));
                Ok(())
            }
            SourceEvent::Rows(rows) => {
                self.queue(index, Block::Rows(rows));
                Ok(())
            }
            SourceEvent::Assigned(units) => self.take_over(index, units),
            SourceEvent::Revoked(assignments) => self.give_back(index, &assignments),
            SourceEvent::Lost(assignments) => {
                tracing::warn!(
                    partitions = assignments.len(),
                    "partitions were lost to another worker; what was not published is discarded"
                );
                self.driver.metrics.rebalances.increment(1);
                self.discard(&assignments)
            }
            SourceEvent::DataLost { assignment, wanted, found } => {
                self.note_data_loss(index, assignment, wanted, found)
            }
            SourceEvent::End => {
                self.feeds[index].has_ended = true;
                Ok(())
            }
        }
    }

    /// Keeps a block for the next epoch, in pieces that fit into one. Records of one source become one block, so that an epoch
    /// decodes them at once.
    fn queue(&mut self, index: usize, block: Block) {
        if block.len() == 0 {
            return;
        }
        self.pending_since.get_or_insert_with(clock::now);
        let pending = &mut self.feeds[index].pending;
        for piece in block.split(self.trigger.max_batch_rows) {
            match (pending.last_mut(), piece) {
                (Some(Block::Records(before)), Block::Records(more))
                    if before.len() + more.len() <= self.trigger.max_batch_rows
                        && before.num_bytes() + more.num_bytes() <= EPOCH_BYTES_MAX =>
                {
                    before.append(&more);
                }
                (_, piece) => pending.push(piece),
            }
        }
    }

    /// Claims assigned units and starts them where their manifests say.
    fn take_over(&mut self, index: usize, units: Vec<(Assignment, StateUnit)>) -> Result<()> {
        self.driver.metrics.rebalances.increment(1);
        self.feeds[index].is_assigned = true;
        if !units.is_empty() {
            // Of a bounded source that had ended: it says so again when these have ended too.
            self.feeds[index].has_ended = false;
        }
        if let Some(check) = &mut self.feeds[index].log_check {
            units.iter().try_for_each(|(_, unit)| check.check(&unit.topic))?;
        }
        let sinks = self.driver.all_sinks().map(|lane| lane.name.clone()).collect();
        let wanted = Wanted { sinks, operators: wanted_operators(&self.driver.graph, index) };
        let source = &self.feeds[index].source;
        let claimed = self.checkpointer.claim(&units, &wanted, |unit| source.num_partitions(&unit.topic))?;
        let starts: Vec<(Assignment, StartAt)> = claimed.iter().map(|claim| (claim.assignment, claim.start)).collect();
        let resolved = self.feeds[index].source.start(&starts)?;
        for claim in claimed {
            match resolved.iter().find(|(assignment, _)| *assignment == claim.assignment) {
                Some((_, offset)) => self.hold(index, claim, *offset, &wanted)?,
                // Taken again while we claimed it: the revocation is on its way.
                None => self.checkpointer.release(&[claim.assignment])?,
            }
        }
        self.driver.metrics.units.set(self.driver.units.len() as f64);
        self.report();
        Ok(())
    }

    /// Takes a claimed unit in, whose source reads from `offset` on: its state, its watermark, its sinks.
    fn hold(&mut self, index: usize, claim: Claimed, offset: Offset, wanted: &Wanted) -> Result<()> {
        self.refuse_other_partitions(index, &claim)?;
        let assignment = claim.assignment;
        let usable = match &claim.restore {
            Some(restore) => {
                if offset != restore.offset {
                    return Err(state_lost(&claim.unit, restore.offset, offset));
                }
                self.checkpointer.snapshots.restore(&mut self.driver.graph, assignment, restore)?;
                restore.state.clone()
            }
            None => {
                self.note_backfill(index, &claim, offset, wanted)?;
                empty_snapshot(offset, &wanted.operators)
            }
        };
        self.checkpointer.snapshots.take_over(assignment, &claim.unit, claim.generation, usable);
        self.begin_decoding(index, &claim, offset);
        let num_sinks = self.driver.num_sinks();
        let sink_positions = claim.sink_positions.unwrap_or_else(|| vec![offset; num_sinks]);
        let covered = claim.sinks_covered.unwrap_or_else(|| vec![offset; num_sinks]);
        let smallest = sink_positions.iter().copied().min().unwrap_or(offset);
        let from = match claim.published {
            Some(published) => self.models.recall(assignment, &claim.schedule, smallest, published)?,
            None => smallest,
        };
        self.checkpointer.serve_from(assignment, claim.schedule, from);
        for (lane, covered) in self.driver.all_sinks().zip(covered) {
            lane.sink.take_over(assignment, &claim.unit, covered);
        }
        let replayed_below = claim.published.unwrap_or(offset);
        tracing::info!(unit = %claim.unit, offset = offset.get(), published = replayed_below.get(), "partition taken over");
        let held = HeldUnit {
            source: index,
            unit: claim.unit,
            processed: offset,
            sink_positions,
            published: claim.published,
            replayed_below,
        };
        self.driver.units.insert(assignment, held);
        Ok(())
    }

    /// Tells decode, and who names places for a restart, what is known of a unit that is read from `offset` on.
    fn begin_decoding(&mut self, index: usize, claim: &Claimed, offset: Offset) {
        let Claimed { assignment, watermark, seen, .. } = claim;
        let source = &mut self.driver.sources[index];
        source.decoder.set_watermark(*assignment, *watermark);
        if let Some(check) = &mut source.key_check
            && let Some(number) = self.feeds[index].source.num_partitions(&claim.unit.topic)
        {
            check.take_over(*assignment, &claim.unit, number);
        }
        if self.feeds[index].upstream.is_some() {
            source.decoder.set_seen(*assignment, seen.clone());
            let point = RestartPoint { offset, watermark: *watermark, seen: seen.clone() };
            self.checkpointer.start_at(*assignment, point);
            // State may begin further back than that; the next manifest's place does not.
            if let Some(restart) = claim.restart.clone() {
                self.checkpointer.start_at(*assignment, restart);
            }
        }
    }

    /// Says that a unit's state is rebuilt from the log, and refuses it where records that a sink has not had are gone.
    fn note_backfill(&mut self, index: usize, claim: &Claimed, offset: Offset, wanted: &Wanted) -> Result<()> {
        let (Some(published), false) = (claim.published, wanted.operators.is_empty()) else { return Ok(()) };
        tracing::info!(
            unit = %claim.unit,
            from = offset.get(),
            published = published.get(),
            "state is rebuilt from the oldest record of the log; rows whose frames reach further back are flagged `_history_incomplete`"
        );
        let smallest = claim.sink_positions.iter().flatten().min().copied().unwrap_or(published);
        if offset <= smallest {
            return Ok(());
        }
        match self.feeds[index].on_data_loss {
            DataLossPolicy::Fail => Err(Error::data(format!(
                "{}: the log begins at {offset}, and a sink has had the rows of records below {smallest} only: the records between \
                 are gone; set `on_data_loss: continue` to go on without them",
                claim.unit
            ))),
            DataLossPolicy::Continue => {
                let lost = u64::try_from(offset.get() - smallest.get()).unwrap_or(0);
                self.driver.sources[index].metrics.lost.increment(lost);
                tracing::error!(unit = %claim.unit, wanted = smallest.get(), found = offset.get(), "records are gone from the log; going on after them, as on_data_loss says");
                Ok(())
            }
        }
    }

    /// With another number of partitions a key's rows go to another place than before, and its history is in two.
    fn refuse_other_partitions(&self, index: usize, claim: &Claimed) -> Result<()> {
        let feed = &self.feeds[index];
        let has_state = self.driver.graph.operators().iter().any(|operator| operator.source == index);
        let Some(first) = claim.num_first_partitions.filter(|_| feed.upstream.is_some() || has_state) else {
            return Ok(());
        };
        let now = feed.source.num_partitions(&claim.unit.topic).unwrap_or(first);
        let after = u32::try_from(claim.unit.partition).map_or(0, |partition| partition.saturating_add(1));
        if now == first && after <= first {
            return Ok(());
        }
        let (kind, way_out) = match feed.upstream {
            Some(_) => {
                ("internal topic", "name another topic under `repartition`, and start with another checkpoint path")
            }
            None => (
                "topic",
                "bring the rows of a key together with `repartition`, or start with another checkpoint path and load its state with \
                 `tidemill bootstrap`",
            ),
        };
        Err(Error::invalid(format!(
            "source {}: the {kind} {} has {} partitions, and had {first} when this pipeline began to use it: the rows of one key \
             would be in two of them; {way_out}",
            claim.unit.source,
            claim.unit.topic,
            now.max(after)
        )))
    }

    /// Publishes all that was read of revoked units, and lets them go.
    fn give_back(&mut self, index: usize, assignments: &[Assignment]) -> Result<()> {
        self.driver.metrics.rebalances.increment(1);
        self.run_pending()?;
        self.checkpointer.close(&mut self.driver, assignments)?;
        self.checkpointer.release(assignments)?;
        self.discard(assignments)?;
        self.feeds[index].source.release(assignments)?;
        tracing::info!(partitions = assignments.len(), "partitions given back");
        Ok(())
    }

    fn discard(&mut self, assignments: &[Assignment]) -> Result<()> {
        self.checkpointer.forget(assignments);
        self.models.forget(assignments);
        for (_, held) in self.driver.units.iter().filter(|(assignment, _)| assignments.contains(assignment)) {
            let (lag, _) = partition_gauges(&held.unit);
            lag.set(0.0);
        }
        self.driver.forget(assignments);
        self.driver.metrics.units.set(self.driver.units.len() as f64);
        Ok(())
    }

    fn note_data_loss(&mut self, index: usize, assignment: Assignment, wanted: Offset, found: Offset) -> Result<()> {
        if let Some(unit) = self.driver.units.names().get(assignment)
            && !wanted_operators(&self.driver.graph, index).is_empty()
        {
            return Err(state_lost(unit, wanted, found));
        }
        let lost = u64::try_from(found.get() - wanted.get()).unwrap_or(0);
        self.driver.sources[index].metrics.lost.increment(lost);
        let unit = self.driver.units.names().get(assignment).map(ToString::to_string);
        tracing::error!(
            unit,
            wanted = wanted.get(),
            found = found.get(),
            "records are gone from the log; going on after them, as on_data_loss says"
        );
        Ok(())
    }

    fn run_if_due(&mut self) -> Result<bool> {
        let waited = self.pending_since.map_or(Duration::ZERO, |since| since.elapsed());
        let is_exhausted = self.feeds.iter().all(|feed| feed.has_ended);
        if !self.trigger.is_due(self.pending(), waited, is_exhausted) {
            return Ok(false);
        }
        self.run_pending()?;
        Ok(true)
    }

    /// Runs everything pending, as epochs of at most `max_batch_rows` and of about [`EPOCH_BYTES_MAX`] bytes.
    fn run_pending(&mut self) -> Result<()> {
        self.pending_since = None;
        let blocks: Vec<(usize, Block)> = self
            .feeds
            .iter_mut()
            .enumerate()
            .flat_map(|(index, feed)| feed.pending.drain(..).map(move |block| (index, block)))
            .collect();
        let (mut epoch, mut rows, mut bytes) = (Vec::new(), 0, 0);
        for (index, block) in blocks {
            let (more_rows, more_bytes) = (block.len(), block.num_bytes());
            let has_room = rows + more_rows <= self.trigger.max_batch_rows && bytes + more_bytes <= EPOCH_BYTES_MAX;
            if !has_room && !epoch.is_empty() {
                self.models.run_epoch(&mut self.driver, std::mem::take(&mut epoch))?;
                (rows, bytes) = (0, 0);
            }
            (rows, bytes) = (rows + more_rows, bytes + more_bytes);
            epoch.push((index, block));
        }
        if epoch.is_empty() { Ok(()) } else { self.models.run_epoch(&mut self.driver, epoch) }
    }

    /// Ends: runs what was read, publishes everything, and gives all units back.
    fn drain(&mut self) -> Result<()> {
        self.run_pending()?;
        let held: Vec<Assignment> = self.driver.units.iter().map(|(assignment, _)| assignment).collect();
        self.checkpointer.close(&mut self.driver, &held)?;
        self.report();
        self.checkpointer.release(&held)?;
        tracing::info!(partitions = held.len(), "drained");
        Ok(())
    }
}

/// What a worker's thread ended with when it panicked.
pub(crate) fn panicked(index: usize) -> Error {
    Error::internal(format!("worker {index} ended by a panic; the log has its message"))
}

#[cfg(test)]
mod tests;
