//! What a worker says of itself: positions, lag, state and counts, for the status document, the gauges and the sources.

use std::collections::BTreeMap;

use super::clock;
use super::units::partition_status;
use super::worker::Worker;
use crate::observe::metrics::state_gauges;
use crate::observe::status::StateStatus;

impl Worker {
    /// What the windows hold, by operator; takes note when it is too much.
    fn weigh_state(&mut self) -> BTreeMap<String, StateStatus> {
        let sizes = self.driver.graph.state_sizes();
        if let Err(error) = self.limit.check(self.index, &sizes) {
            self.over_limit.get_or_insert(error);
        }
        let state = sizes.into_iter().map(|size| {
            let (bytes, keys) = state_gauges(self.index, &size.operator);
            bytes.set(size.bytes as f64);
            keys.set(size.num_keys as f64);
            (size.operator, StateStatus { keys: size.num_keys as u64, bytes: size.bytes as u64 })
        });
        state.collect()
    }

    /// Writes the status document and the gauges, and tells the sources our positions.
    pub(super) fn report(&mut self) {
        self.reported_at = clock::now();
        let mut partitions = Vec::with_capacity(self.driver.units.len());
        for (index, feed) in self.feeds.iter_mut().enumerate() {
            let progress = feed.source.progress();
            let mut positions = Vec::new();
            for (assignment, held) in self.driver.units.iter().filter(|(_, held)| held.source == index) {
                let progress = progress.iter().find(|one| one.assignment == assignment);
                partitions.push(partition_status(
                    held,
                    progress,
                    self.driver.sources[index].decoder.watermark(assignment).get(),
                ));
                // Of a unit that went back for a slower sink: where it is. The other members of a bounded run see by it that
                // somebody still has to read what that sink lacks.
                positions.extend(held.published.map(|published| (assignment, published.min(held.processed))));
            }
            feed.source.report(&positions);
        }
        let state = self.weigh_state();
        let driver = &mut self.driver;
        let rows_out = driver.all_sinks().map(|lane| (lane.name.clone(), lane.rows)).collect();
        let sources = driver.sources.iter().map(|lane| (lane.name.clone(), lane.counts)).collect();
        let (checkpoint_at_ms, checkpoint_millis) = self.checkpointer.last();
        let models = self.models.versions();
        let is_ready = self.feeds.iter().all(|feed| feed.is_assigned);
        self.status.update(self.index, |worker| {
            worker.ready = is_ready;
            worker.epochs = driver.epoch.get() - 1;
            worker.last_epoch_rows = driver.last_epoch.0;
            worker.last_epoch_micros = driver.last_epoch.1;
            worker.sources = sources;
            worker.rows_out = rows_out;
            worker.partitions = partitions;
            worker.state = state;
            worker.models = models;
            worker.checkpoint_at_ms = checkpoint_at_ms;
            worker.checkpoint_millis = checkpoint_millis;
        });
    }
}
