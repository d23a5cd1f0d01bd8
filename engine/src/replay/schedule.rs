//! The schedule of models of a run, from its checkpoints: which models served which records. A replay of what was served gives each
//! row the models of its time, so that scores come out as they did.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tidemill_udfs::functions::{LoadedModel, ModelSlot, Models};
use tokio::runtime::Runtime;

use crate::checkpoint::inspect::Inspector;
use crate::checkpoint::{Folder, ServedModel, Serving, Stores};
use crate::error::{Error, Result};
use crate::runtime::kept_model;
use crate::types::{Offset, StateUnit};

/// Models that served together; `None` where there was no challenger.
type Set = Vec<(Arc<ModelSlot>, Option<Arc<LoadedModel>>)>;

/// From which offset on which set served, ascending.
type Servings = Vec<(Offset, usize)>;

/// Which models served which records.
pub(super) struct Schedule {
    /// By topic and partition.
    units: BTreeMap<(Arc<str>, i32), Servings>,
    sets: Vec<Arc<Set>>,
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule").field("units", &self.units).field("sets", &self.sets.len()).finish()
    }
}

/// The models of a turn.
#[derive(Clone)]
pub(super) struct Serve(Arc<Set>);

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let versions = self.0.iter().map(|(_, model)| model.as_ref().map(|model| &model.version));
        f.debug_list().entries(versions).finish()
    }
}

impl Serve {
    /// Puts the models into their places.
    pub(super) fn apply(&self) -> Result<()> {
        for (slot, model) in self.0.iter() {
            let Some(model) = model else {
                slot.retire();
                continue;
            };
            if slot.serving().is_none_or(|serving| !Arc::ptr_eq(&serving, model)) {
                slot.swap(Arc::clone(model)).map_err(|error| {
                    Error::invalid(format!("{error}; replay with the SQL and the model that served then"))
                })?;
            }
        }
        Ok(())
    }
}

impl Schedule {
    /// Reads the schedule from the checkpoints at `uri`, for the models of a plan.
    pub(super) fn read(
        io: &Runtime,
        env: &BTreeMap<String, String>,
        uri: &str,
        source: &str,
        models: &Models,
    ) -> Result<Schedule> {
        let stores = Stores::new({
            let env = env.clone();
            move |name| env.get(name).cloned()
        });
        io.block_on(read(&stores, uri, source, models)).map_err(|error| error.context(format!("checkpoints at {uri}")))
    }

    /// Whether some rows are served by other models than others, so that the models change while the replay runs.
    pub(super) fn has_changes(&self) -> bool {
        self.sets.len() > 1
    }

    /// The first record at or after `from` that other models serve than the one at `from`, and the models of that one.
    pub(super) fn at(&self, unit: &StateUnit, from: i64) -> Result<(Serve, Option<i64>)> {
        let servings = self.units.get(&(unit.topic.clone(), unit.partition)).map_or(&[][..], Vec::as_slice);
        let next = servings.partition_point(|(offset, _)| offset.get() <= from);
        let Some((_, set)) = next.checked_sub(1).map(|place| &servings[place]) else {
            return Err(Error::data(format!(
                "{unit}: the checkpoints do not say which model served the record at offset {from}; replay without \
                 --models-of, or give the checkpoints of the run that wrote the archive"
            )));
        };
        Ok((Serve(Arc::clone(&self.sets[*set])), servings.get(next).map(|(offset, _)| offset.get())))
    }
}

async fn read(stores: &Stores, uri: &str, source: &str, models: &Models) -> Result<Schedule> {
    let inspector = Inspector::open(stores, uri).await?;
    let mut schedule = Schedule { units: BTreeMap::new(), sets: Vec::new() };
    let mut known: Vec<BTreeMap<String, ServedModel>> = Vec::new();
    for summary in inspector.list().await? {
        if *summary.unit.source != *source {
            continue;
        }
        let mut servings = Vec::new();
        for Serving { from, models: served } in summary.newest?.schedule {
            let place = match known.iter().position(|known| *known == served) {
                Some(place) => place,
                None => {
                    schedule.sets.push(Arc::new(load(inspector.folder(), &served, models).await?));
                    known.push(served);
                    known.len() - 1
                }
            };
            servings.push((from, place));
        }
        schedule.units.insert((summary.unit.topic.clone(), summary.unit.partition), servings);
    }
    Ok(schedule)
}

async fn load(folder: &Folder, served: &BTreeMap<String, ServedModel>, models: &Models) -> Result<Set> {
    let mut set = Set::new();
    for (name, slot) in models.slots() {
        let model = match served.get(name) {
            Some(model) => Some(kept_model(folder, name, model).await?),
            None if slot.is_optional() => None,
            None => {
                return Err(Error::data(format!(
                    "model {name} did not serve in that run; replay with the pipeline file of that time"
                )));
            }
        };
        set.push((Arc::clone(slot), model));
    }
    Ok(set)
}
