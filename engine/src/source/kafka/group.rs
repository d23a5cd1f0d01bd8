//! The reader's part in its group: what it is given, what it gives back and when, and the end of a bounded source. The driver
//! decides when a partition starts and when it is let go; the group's protocol waits for it.

use std::time::{Duration, Instant};

use super::Membership;
use super::connection::now;
use super::native::{Entry, Rebalance};
use super::opening::QUESTION;
use super::partitions::{Held, Stage};
use super::reader::{Halt, Reader};
use crate::error::Error;
use crate::pipeline::settings::Until;
use crate::source::SourceEvent;
use crate::types::Assignment;

/// How often a member that is done asks how far the others are.
const ASK_GROUP: Duration = Duration::from_millis(250);

/// Partitions that the group wants back.
#[derive(Debug)]
pub(super) struct Revocation {
    pub(super) revoked: Vec<Assignment>,
    /// Those of them that the driver has not released yet.
    waiting: Vec<Assignment>,
    deadline: Instant,
}

impl Reader {
    pub(super) fn serve_callbacks(&mut self) -> Result<(), Halt> {
        for error in self.consumer.errors() {
            self.serve_client_error(error.code, &error.reason)?;
        }
        for rebalance in self.consumer.rebalances() {
            self.has_contact = true;
            match rebalance {
                Rebalance::Assigned(entries) => self.assigned(&entries),
                Rebalance::Revoked(entries) => self.revoked(&entries),
                Rebalance::Lost(entries) => self.lost(&entries),
            }
        }
        if self.revocation.is_some() && self.consumer.has_lost_its_assignment() {
            // While it waits for us the group cannot say so by a callback.
            let lost: Vec<Entry> =
                self.partitions.iter().filter(|held| held.stage == Stage::Revoking).map(Held::entry).collect();
            self.lost(&lost);
        }
        let Some(revocation) = &self.revocation else { return Ok(()) };
        if now() < revocation.deadline {
            return Ok(());
        }
        Err(Halt::Failed(Error::unavailable(format!(
            "source `{}`: {} partitions were to be given to another worker, and were not released within {} s; the group has \
             gone on without us: start again, and raise the kafka option `max.poll.interval.ms` if a checkpoint takes that long",
            self.opening.source,
            revocation.waiting.len(),
            self.release_within.as_secs(),
        ))))
    }

    /// Takes partitions in. The group is told at once that we heard it; fetching begins with `start`.
    pub(super) fn assigned(&mut self, entries: &[Entry]) {
        if self.opening.membership == Membership::Group {
            self.warn_if_refused("assign", self.consumer.assign(&[]));
        }
        let is_first = !std::mem::replace(&mut self.is_assigned, true);
        let stale: Vec<Entry> = entries
            .iter()
            .filter(|entry| self.partitions.find(&entry.topic, entry.partition).is_some())
            .cloned()
            .collect();
        if !stale.is_empty() {
            self.lost(&stale);
        }
        let mut units = Vec::new();
        for entry in entries {
            let assignment = self.opening.numbers.next();
            self.partitions.add(assignment, entry.topic.clone(), entry.partition);
            units.extend(self.partitions.get(assignment).map(|held| (assignment, held.unit(&self.opening.source))));
        }
        self.has_said_end &= units.is_empty();
        // Once also that there is nothing for this worker: more workers than partitions are ready too.
        if is_first || !units.is_empty() {
            self.outbox.push_back(SourceEvent::Assigned(units));
        }
    }

    fn revoked(&mut self, entries: &[Entry]) {
        let mut assignments = Vec::new();
        for entry in entries {
            if let Some(held) = self.partitions.find(&entry.topic, entry.partition) {
                held.stage = Stage::Revoking;
                assignments.push(held.assignment);
            }
        }
        if assignments.is_empty() {
            return self.warn_if_refused("unassign", self.consumer.unassign(&[]));
        }
        self.outbox.push_back(SourceEvent::Revoked(assignments.clone()));
        self.revocation = Some(Revocation {
            revoked: assignments.clone(),
            waiting: assignments,
            deadline: now() + self.release_within,
        });
    }

    fn lost(&mut self, entries: &[Entry]) {
        let mut assignments = Vec::new();
        for entry in entries {
            assignments.extend(self.partitions.find(&entry.topic, entry.partition).map(|held| held.assignment));
        }
        tracing::warn!(
            source = &*self.opening.source,
            num_partitions = assignments.len(),
            "partitions were lost to the group: this worker was too slow or cut off; what was not committed of them is discarded"
        );
        if let Some(revocation) = &mut self.revocation {
            revocation.waiting.retain(|assignment| !assignments.contains(assignment));
            if revocation.waiting.is_empty() {
                self.revocation = None;
            }
        }
        self.let_go(&assignments);
        if !assignments.is_empty() {
            self.outbox.push_back(SourceEvent::Lost(assignments));
        }
    }

    /// Of a bounded source: says the end when every partition has reached its own, here and in the rest of the group. Who
    /// left earlier could be the last to leave a partition that is just being given away.
    pub(super) fn say_end(&mut self) {
        if self.opening.settings.until == Until::Forever || self.has_said_end || !self.messages.is_empty() {
            return;
        }
        if !self.is_assigned || !(self.has_ends || self.take_late_ends()) {
            return;
        }
        self.stop_ended();
        let is_settled = self.revocation.is_none() && self.partitions.iter().all(|held| held.has_ended());
        if is_settled && (self.opening.membership == Membership::Alone || self.has_group_ended()) {
            self.has_said_end = true;
            self.outbox.push_back(SourceEvent::End);
        }
    }

    /// Whether all partitions that are not ours have ended, by the positions that their members reported.
    fn has_group_ended(&mut self) -> bool {
        let mine = |topic: &str, partition: i32| {
            self.partitions.iter().any(|held| held.place.partition == partition && *held.place.topic == *topic)
        };
        let others: Vec<Entry> = self
            .topics
            .ends()
            .filter(|(topic, partition, end)| *end > 0 && !mine(topic, *partition))
            .map(|(topic, partition, end)| Entry::new(topic, partition, end))
            .collect();
        if others.is_empty() {
            return true;
        }
        if self.asked_group_at.is_some_and(|at| at.elapsed() < ASK_GROUP) {
            return false;
        }
        let committed = self.consumer.committed(&others, QUESTION);
        self.asked_group_at = Some(now());
        match committed {
            Ok(committed) => others.iter().all(|end| {
                let is_it = |found: &&Entry| found.partition == end.partition && found.topic == end.topic;
                committed.iter().find(is_it).is_some_and(|found| found.error.is_none() && found.offset >= end.offset)
            }),
            Err(error) => {
                tracing::debug!(source = &*self.opening.source, %error, "the group does not say how far it is; asking again");
                false
            }
        }
    }

    /// Stops fetching partitions that have reached their end: by a record, or, past control records that end a transaction,
    /// by librdkafka's word that there is nothing more.
    fn stop_ended(&mut self) {
        let mut ended = Vec::new();
        for held in self.partitions.iter_mut().filter(|held| held.is_assigned && !held.is_paused && held.has_ended()) {
            held.is_paused = true;
            ended.push(held.entry());
        }
        if !ended.is_empty() {
            self.warn_if_refused("pause", self.consumer.pause(&ended));
        }
    }

    /// The driver has let partitions go.
    pub(super) fn release(&mut self, assignments: &[Assignment]) {
        let Some(revocation) = &mut self.revocation else { return };
        revocation.waiting.retain(|assignment| !assignments.contains(assignment));
        // The group goes on with the first unassign, so all wait for the last release.
        if revocation.waiting.is_empty() {
            self.release_all();
        }
    }

    /// Answers the revocation that waits, if one does.
    pub(super) fn release_all(&mut self) {
        if let Some(revocation) = self.revocation.take() {
            self.let_go(&revocation.revoked);
        }
    }

    /// Whether the group waits for a release.
    pub(super) fn is_revoking(&self) -> bool {
        self.revocation.is_some()
    }

    /// Takes partitions out, which tells the group to go on.
    fn let_go(&mut self, assignments: &[Assignment]) {
        let gone = self.partitions.remove(assignments);
        // A pause would outlive the assignment.
        let paused: Vec<Entry> = gone.iter().filter(|held| held.is_paused).map(Held::entry).collect();
        if !paused.is_empty() {
            self.warn_if_refused("resume", self.consumer.resume(&paused));
        }
        let assigned: Vec<Entry> = gone.iter().filter(|held| held.is_assigned).map(Held::entry).collect();
        self.warn_if_refused("unassign", self.consumer.unassign(&assigned));
    }
}
