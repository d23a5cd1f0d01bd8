//! The models of a worker: which serve, how a successor takes their place between two epochs, and which served the records
//! that come again after a restart. Reading and judging successors is the business of others; here they only take effect.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemill_udfs::functions::{LoadedModel, ModelSlot, Models};
use tokio::runtime::Handle;

use super::block::Block;
use super::driver::Driver;
use super::worker::Worker;
use crate::checkpoint::layout::model_path;
use crate::checkpoint::{Folder, ServedModel, Serving, sha256_hex};
use crate::error::{Error, Result};
use crate::model::{self, MODEL_BYTES_MAX};
use crate::observe::metrics::AgreementMetrics;
use crate::source::Waker;
use crate::types::{Assignment, Offset};

/// Blocks of sources, and the models that score them.
type Part = (Arc<ModelSet>, Vec<(usize, Block)>);

/// Models that serve together, by name; `None` where a challenger's place is empty.
#[derive(Debug, Clone, Default)]
pub(crate) struct ModelSet(BTreeMap<String, Option<Arc<LoadedModel>>>);

impl ModelSet {
    /// Those that serve now.
    pub(crate) fn of(models: &Models) -> ModelSet {
        ModelSet(models.slots().map(|(name, slot)| (name.to_owned(), slot.serving())).collect())
    }

    /// What manifests say of it.
    pub(crate) fn served(&self) -> BTreeMap<String, ServedModel> {
        let present = self.0.iter().filter_map(|(name, model)| Some((name, model.as_ref()?)));
        present.map(|(name, model)| (name.clone(), served_model(model))).collect()
    }

    fn versions(&self) -> BTreeMap<String, String> {
        self.served().into_iter().map(|(name, model)| (name, model.version)).collect()
    }

    /// Puts all of them into their places.
    fn apply(&self, models: &Models) -> Result<()> {
        for (name, slot) in models.slots() {
            match self.0.get(name) {
                Some(Some(model)) if slot.serving().is_none_or(|serving| !Arc::ptr_eq(&serving, model)) => {
                    // Whoever hands a model over has held it against this slot.
                    slot.swap(Arc::clone(model)).map_err(|error| Error::internal(error.to_string()))?;
                }
                Some(Some(_)) => {}
                Some(None) | None => slot.retire(),
            }
        }
        Ok(())
    }
}

/// A model as a manifest names it.
pub(crate) fn served_model(model: &LoadedModel) -> ServedModel {
    ServedModel {
        version: model.version.clone(),
        sha256: model.sha256.clone(),
        // `Debug` writes as many digits as reading the same number back takes.
        threshold: format!("{:?}", model.threshold),
        run_id: model.run_id.clone(),
    }
}

/// The newest models, on their way to all workers.
#[derive(Debug, Clone)]
pub(crate) struct Offers(Arc<Offered>);

#[derive(Debug)]
struct Offered {
    number: AtomicU64,
    set: Mutex<Arc<ModelSet>>,
    wakers: Mutex<Vec<Waker>>,
}

impl Offers {
    pub(crate) fn new(models: &Models) -> Offers {
        let set = Mutex::new(Arc::new(ModelSet::of(models)));
        Offers(Arc::new(Offered { number: AtomicU64::new(0), set, wakers: Mutex::default() }))
    }

    /// Names a worker to be woken by offers.
    pub(crate) fn wake(&self, waker: Waker) {
        locked(&self.0.wakers).push(waker);
    }

    /// Hands a model over to all workers, or the absence of a challenger. It must fit into its slot.
    pub(crate) fn offer(&self, name: &str, model: Option<Arc<LoadedModel>>) {
        {
            let mut set = locked(&self.0.set);
            let mut next = ModelSet::clone(&set);
            next.0.insert(name.to_owned(), model);
            *set = Arc::new(next);
            // While the set is locked, so that whoever sees the number finds at least this set.
            self.0.number.fetch_add(1, Ordering::Release);
        }
        locked(&self.0.wakers).iter().for_each(Waker::wake);
    }

    fn number(&self) -> u64 {
        self.0.number.load(Ordering::Acquire)
    }

    fn newest(&self) -> (u64, Arc<ModelSet>) {
        let set = locked(&self.0.set);
        (self.number(), Arc::clone(&set))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in there is replaced as a whole, so a panic cannot leave it half written.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The models of one worker.
#[derive(Debug)]
pub(crate) struct WorkerModels {
    models: Arc<Models>,
    offers: Offers,
    /// Number of the offer that serves.
    number: u64,
    /// What serves new records.
    set: Arc<ModelSet>,
    /// Records that come again after a restart: below each offset, ascending, the models that served them then.
    past: BTreeMap<Assignment, Vec<(Offset, Arc<ModelSet>)>>,
    /// Sets that were read again, so that partitions share them.
    known: Vec<(BTreeMap<String, ServedModel>, Arc<ModelSet>)>,
    /// Beside the checkpoints.
    folder: Option<Folder>,
    io: Handle,
    agreement: Vec<(Arc<ModelSlot>, AgreementMetrics)>,
}

impl WorkerModels {
    /// `models` are this worker's own.
    pub(crate) fn new(models: Arc<Models>, offers: Offers, folder: Option<Folder>, io: Handle) -> WorkerModels {
        let with_challenger = models.slots().filter(|(_, slot)| slot.challenger().is_some());
        let agreement = with_challenger.map(|(name, slot)| (Arc::clone(slot), AgreementMetrics::new(name))).collect();
        let set = Arc::new(ModelSet::of(&models));
        WorkerModels { models, offers, number: 0, set, past: BTreeMap::new(), known: Vec::new(), folder, io, agreement }
    }

    /// Versions by name.
    pub(crate) fn versions(&self) -> BTreeMap<String, String> {
        self.set.versions()
    }

    /// Puts newer models into their places, if there are any; what manifests say of them.
    fn renew(&mut self) -> Result<Option<BTreeMap<String, ServedModel>>> {
        if self.offers.number() == self.number {
            return Ok(None);
        }
        let (number, set) = self.offers.newest();
        set.apply(&self.models)?;
        (self.number, self.set) = (number, set);
        Ok(Some(self.set.served()))
    }

    /// Finds the models that served a unit's records from `from` to `until`, which come again for a sink that has not had them
    /// all: rows of one record come from one model in every sink. The offset from which on today's models serve.
    pub(crate) fn recall(
        &mut self,
        assignment: Assignment,
        schedule: &[Serving],
        from: Offset,
        until: Offset,
    ) -> Result<Offset> {
        self.past.remove(&assignment);
        let mut sets = Vec::new();
        for (place, serving) in schedule.iter().enumerate() {
            let end = schedule.get(place + 1).map_or(until, |next| next.from.min(until));
            if end <= from || serving.from >= until {
                continue;
            }
            match self.read_again(&serving.models) {
                Ok(set) => sets.push((end, set)),
                Err(error) if error.kind().is_retryable() => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "the models that served cannot be had any more; records that come again for a sink are scored by today's");
                    return Ok(from);
                }
            }
        }
        if sets.is_empty() {
            return Ok(from);
        }
        self.past.insert(assignment, sets);
        Ok(until)
    }

    fn read_again(&mut self, served: &BTreeMap<String, ServedModel>) -> Result<Arc<ModelSet>> {
        if self.set.served() == *served {
            return Ok(Arc::clone(&self.set));
        }
        if let Some((_, set)) = self.known.iter().find(|(known, _)| known == served) {
            return Ok(Arc::clone(set));
        }
        let folder = self.folder.as_ref().ok_or_else(|| Error::internal("a schedule of models without checkpoints"))?;
        let mut set = ModelSet::default();
        for (name, slot) in self.models.slots() {
            let model = match served.get(name) {
                Some(served) => Some(self.io.block_on(kept_model(folder, name, served))?),
                None if slot.is_optional() => None,
                // The model is new in the pipeline, and with it the SQL that calls it.
                None => slot.serving(),
            };
            if let Some(model) = &model {
                slot.check(model).map_err(|error| Error::invalid(error.to_string()))?;
            }
            set.0.insert(name.to_owned(), model);
        }
        let set = Arc::new(set);
        self.known.push((served.clone(), Arc::clone(&set)));
        Ok(set)
    }

    /// Forgets units that are somebody else's now.
    pub(crate) fn forget(&mut self, assignments: &[Assignment]) {
        assignments.iter().for_each(|assignment| drop(self.past.remove(assignment)));
    }

    /// The models of a record that comes again; `None`: today's.
    fn past_of(&self, unit: u32, offset: i64) -> Option<&Arc<ModelSet>> {
        let sets = self.past.get(&Assignment(unit))?;
        sets.iter().find(|(until, _)| offset < until.get()).map(|(_, set)| set)
    }

    /// Cuts an epoch where other models serve. Records of one unit stay in their order.
    fn parts(&self, blocks: Vec<(usize, Block)>) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        for (source, block) in blocks {
            let set_at = |record: usize| {
                let (unit, offset) = block.position(record);
                self.past_of(unit, offset).unwrap_or(&self.set)
            };
            let mut start = 0;
            while start < block.len() {
                let set = set_at(start);
                let end = (start..block.len()).find(|record| !Arc::ptr_eq(set_at(*record), set)).unwrap_or(block.len());
                let piece = (source, block.slice(start..end));
                match parts.last_mut() {
                    Some((last, pieces)) if Arc::ptr_eq(last, set) => pieces.push(piece),
                    _ => parts.push((Arc::clone(set), vec![piece])),
                }
                start = end;
            }
        }
        parts
    }

    /// Runs an epoch, as several where records of another time are among them.
    pub(crate) fn run_epoch(&mut self, driver: &mut Driver, blocks: Vec<(usize, Block)>) -> Result<()> {
        let is_new = !driver.units.is_catching_up();
        if self.past.is_empty() {
            return driver.run_epoch(blocks).map(|()| self.note_agreement(is_new));
        }
        for (set, blocks) in self.parts(blocks) {
            set.apply(&self.models)?;
            driver.run_epoch(blocks)?;
            self.note_agreement(is_new);
        }
        let processed: BTreeMap<Assignment, Offset> =
            driver.units.iter().map(|(assignment, held)| (assignment, held.processed)).collect();
        self.past.retain(|assignment, sets| {
            processed.get(assignment).is_some_and(|processed| sets.last().is_some_and(|(until, _)| processed < until))
        });
        self.set.apply(&self.models)
    }

    /// Hands on how champions and challengers agreed. Of an epoch with records that were counted before a restart nothing is.
    fn note_agreement(&self, is_new: bool) {
        for (slot, metrics) in &self.agreement {
            let agreement = slot.take_agreement();
            if is_new && agreement.rows() > 0 {
                metrics.add(&agreement);
            }
        }
    }

    /// Where models that come now begin to serve a unit: behind what comes again.
    fn begins_at(&self, assignment: Assignment, processed: Offset) -> Offset {
        let last = self.past.get(&assignment).and_then(|sets| sets.last());
        last.map_or(processed, |(until, _)| processed.max(*until))
    }
}

/// A model that stands beside the checkpoints, as it served.
pub(crate) async fn kept_model(folder: &Folder, name: &str, served: &ServedModel) -> Result<Arc<LoadedModel>> {
    let path = model_path(&served.sha256);
    let wrong = |problem: &str| {
        Error::data(format!("{}: {problem}; it is version {} of model {name}", folder.place(&path), served.version))
    };
    let bytes = folder.read(&path, MODEL_BYTES_MAX).await?.ok_or_else(|| wrong("there is no such model"))?;
    if sha256_hex(&bytes) != served.sha256 {
        return Err(wrong("it is not the model of its name"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong("it is no text"))?;
    let threshold = served.threshold.parse().map_err(|_| wrong("its threshold in the manifest is no number"))?;
    let mut model = model::parse(text, threshold)?;
    (model.version, model.run_id) = (served.version.clone(), served.run_id.clone());
    Ok(Arc::new(model))
}

impl Worker {
    /// Between two epochs: lets newer models serve, and says so to the manifests.
    pub(super) fn follow_models(&mut self) -> Result<()> {
        let Some(served) = self.models.renew()? else { return Ok(()) };
        let models = &self.models;
        let begins: Vec<(Assignment, Offset)> = self
            .driver
            .units
            .iter()
            .map(|(assignment, held)| (assignment, models.begins_at(assignment, held.processed)))
            .collect();
        self.checkpointer.serve(served, &begins);
        let versions = self.models.versions();
        tracing::info!(models = ?versions, partitions = begins.len(), "models took over");
        self.status.update(self.index, |worker| worker.models = versions);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::testing::{InMemory, StorePath};
    use crate::types::RecordBlock;

    const TEXT: &str = include_str!("../../../udfs/testdata/binary_31.txt");

    fn loaded(version: &str, threshold: f64) -> LoadedModel {
        LoadedModel { version: version.to_owned(), ..model::parse(TEXT, threshold).unwrap() }
    }

    fn models() -> Arc<Models> {
        let mut models = Models::new();
        models.insert("fraud", loaded("3", 0.5));
        models.insert_challenger("fraud", None).unwrap();
        Arc::new(models)
    }

    fn offset(offset: i64) -> Offset {
        Offset::new(offset).unwrap()
    }

    fn serving(from: i64, version: &str, threshold: f64) -> Serving {
        let models = BTreeMap::from([("fraud".to_owned(), served_model(&loaded(version, threshold)))]);
        Serving { from: offset(from), models }
    }

    fn block(unit: u32, offsets: std::ops::Range<i64>) -> Block {
        let mut block = RecordBlock::default();
        for offset in offsets {
            block.units.push(unit);
            block.offsets.push(offset);
            block.timestamps_ms.push(-1);
            block.keys.push(None);
            block.values.push(None);
            block.headers.end_record();
        }
        Block::Records(block)
    }

    fn io() -> tokio::runtime::Runtime {
        super::super::tasks::io_runtime().unwrap()
    }

    fn folder(io: &tokio::runtime::Runtime, has_model: bool) -> Folder {
        let folder = Folder::new(Arc::new(InMemory::new()), StorePath::from("c"), "memory://c".into());
        if has_model {
            io.block_on(folder.write(&model_path(&sha256_hex(TEXT.as_bytes())), TEXT.into())).unwrap();
        }
        folder
    }

    type Place = (u32, i64, usize);

    /// By part: the version, and of each block its unit, its first offset and its length.
    fn versions(parts: &[Part]) -> Vec<(String, Vec<Place>)> {
        let place = |(_, block): &(usize, Block)| {
            let (unit, offset) = block.position(0);
            (unit, offset, block.len())
        };
        let part = |(set, blocks): &Part| (set.versions()["fraud"].clone(), blocks.iter().map(place).collect());
        parts.iter().map(part).collect()
    }

    #[test]
    fn records_that_come_again_are_scored_by_the_models_of_their_time() {
        let io = io();
        let models = models();
        let mut worker =
            WorkerModels::new(models, Offers::new(&self::models()), Some(folder(&io, true)), io.handle().clone());
        let schedule = [serving(0, "1", 0.1), serving(100, "2", 0.2), serving(150, "3", 0.5)];
        let from = worker.recall(Assignment(7), &schedule, offset(120), offset(160)).unwrap();
        assert_eq!(from, offset(160), "today's begin where the manifest ends");
        let parts = worker.parts(vec![(0, block(7, 120..165)), (0, block(8, 0..3))]);
        let expected = [("2".to_owned(), vec![(7, 120, 30)]), ("3".to_owned(), vec![(7, 150, 15), (8, 0, 3)])];
        assert_eq!(versions(&parts), expected);
        parts[0].0.apply(&worker.models).unwrap();
        let slot = worker.models.slot("fraud").unwrap();
        assert_eq!((slot.current().version.as_str(), slot.current().threshold), ("2", 0.2));
        worker.set.apply(&worker.models).unwrap();
        assert_eq!(slot.current().version, "3");
        assert_eq!(worker.begins_at(Assignment(7), offset(130)), offset(160));
        assert_eq!(worker.begins_at(Assignment(8), offset(130)), offset(130));
        worker.forget(&[Assignment(7)]);
        assert_eq!(worker.parts(vec![(0, block(7, 120..165))]).len(), 1);
    }

    #[test]
    fn where_nothing_comes_again_or_nothing_is_known_todays_models_serve_from_the_start() {
        let io = io();
        let mut worker =
            WorkerModels::new(models(), Offers::new(&models()), Some(folder(&io, false)), io.handle().clone());
        let schedule = [serving(0, "1", 0.1), serving(100, "3", 0.5)];
        let mut recall = |schedule: &[Serving], from, until| {
            worker.recall(Assignment(7), schedule, offset(from), offset(until)).unwrap().get()
        };
        assert_eq!(recall(&schedule, 160, 160), 160);
        assert_eq!(recall(&[], 120, 160), 120);
        assert_eq!(recall(&schedule, 120, 160), 160, "today's models served them");
        assert_eq!(recall(&schedule, 50, 160), 50, "the model that served them is gone");
        assert!(worker.past.is_empty());
    }

    #[test]
    fn an_offer_takes_all_places_at_once_and_is_taken_once() {
        let io = io();
        let (base, own) = (models(), models());
        let offers = Offers::new(&base);
        let mut worker = WorkerModels::new(Arc::clone(&own), offers.clone(), None, io.handle().clone());
        assert_eq!(worker.renew().unwrap(), None);
        offers.offer("fraud", Some(Arc::new(loaded("4", 0.4))));
        offers.offer("fraud@challenger", Some(Arc::new(loaded("5", 0.3))));
        let versions = |served: BTreeMap<String, ServedModel>| -> Vec<String> {
            served.into_values().map(|model| model.version).collect()
        };
        assert_eq!(versions(worker.renew().unwrap().unwrap()), ["4", "5"]);
        assert_eq!(own.slot("fraud").unwrap().current().version, "4");
        assert_eq!(base.slot("fraud").unwrap().current().version, "3", "other workers swap for themselves");
        assert_eq!(worker.renew().unwrap(), None);
        offers.offer("fraud@challenger", None);
        assert_eq!(versions(worker.renew().unwrap().unwrap()), ["4"]);
        assert!(own.slot("fraud@challenger").unwrap().serving().is_none());
    }
}
