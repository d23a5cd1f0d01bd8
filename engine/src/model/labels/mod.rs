//! Labels joined to the scores that were served, by id: precision, recall and PR-AUC of what is live, by model version and
//! segment, over the rows of the last days. Memory is bounded: rows go when they are too old, the oldest first when there are too
//! many. Pure; event time is its only clock. Ids are kept as hashes of 64 bits, never as they are.

mod figures;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

pub use figures::{DELAY_BOUNDS_SECONDS, GroupFigures, LabelFigures};
use figures::{Group, score_bin};

/// Groups of model version and segment at most; rows of more go into one that is called so.
const GROUPS_MAX: usize = 256;
const OTHER: &str = "other";
/// A label whose row was not served waits until rows this much younger than the label were: they may come from other partitions.
const SLACK_MICROS: i64 = 3_600_000_000;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelSettings {
    /// How long, in event time, a served row is kept: microseconds.
    pub keep_micros: i64,
    /// Served rows that are kept, and labels that wait, at most.
    pub rows_max: usize,
}

/// The hash of an id.
#[must_use]
pub fn hash_of(id: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

/// What was served for one row.
#[derive(Debug, Clone, Copy)]
pub struct ServedRow<'a> {
    /// See [`hash_of`].
    pub id: u64,
    /// Event time, microseconds.
    pub time: i64,
    /// The score.
    pub score: f64,
    /// Whether it was an alert.
    pub alert: bool,
    /// The version of the model; empty when it is not told.
    pub version: &'a str,
    /// Whatever the figures are to be told apart by; empty when they are not.
    pub segment: &'a str,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    /// Tells this row from an earlier one of the same id.
    number: u64,
    time: i64,
    group: u16,
    score_bin: u16,
    alert: bool,
    label: Option<bool>,
}

/// What became of the labels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LabelCounts {
    /// Labels of rows that were served.
    pub matched: u64,
    /// Labels of rows that had one, and got another or the same again; counted in `matched` too.
    pub repeated: u64,
    /// Labels that were given up: their rows were not served here, or are gone.
    pub unmatched: u64,
    /// Served rows that were given up before they were too old, because there were too many.
    pub crowded_out: u64,
}

/// Served rows and labels, until they meet.
#[derive(Debug)]
pub struct LabelJoin {
    settings: LabelSettings,
    kept: HashMap<u64, Kept>,
    /// (time, id, number), as they were served.
    order: VecDeque<(i64, u64, u64)>,
    waiting: HashMap<u64, (i64, bool, u64)>,
    waiting_order: VecDeque<(i64, u64, u64)>,
    groups: Vec<Group>,
    group_of: HashMap<u64, u16>,
    /// Greatest event time served.
    clock: i64,
    numbers: u64,
    counts: LabelCounts,
    delays: [u64; DELAY_BOUNDS_SECONDS.len() + 1],
    delay_seconds_sum: f64,
}

impl LabelJoin {
    /// Empty.
    #[must_use]
    pub fn new(settings: LabelSettings) -> LabelJoin {
        LabelJoin {
            settings,
            kept: HashMap::new(),
            order: VecDeque::new(),
            waiting: HashMap::new(),
            waiting_order: VecDeque::new(),
            groups: Vec::new(),
            group_of: HashMap::new(),
            clock: i64::MIN,
            numbers: 0,
            counts: LabelCounts::default(),
            delays: [0; DELAY_BOUNDS_SECONDS.len() + 1],
            delay_seconds_sum: 0.0,
        }
    }

    /// Takes a row that was served. One of the same id takes the place of the earlier one.
    pub fn serve(&mut self, row: ServedRow<'_>) {
        self.clock = self.clock.max(row.time);
        if row.time < self.clock.saturating_sub(self.settings.keep_micros) {
            return;
        }
        self.numbers += 1;
        let group = self.group(row.version, row.segment);
        let mut kept = Kept {
            number: self.numbers,
            time: row.time,
            group,
            score_bin: score_bin(row.score),
            alert: row.alert,
            label: None,
        };
        if let Some(before) = self.kept.get(&row.id) {
            // At least once: its label stays.
            kept.label = before.label;
            let before = *before;
            self.groups[usize::from(before.group)].remove(before.score_bin, before.alert, before.label);
        }
        self.groups[usize::from(group)].add(kept.score_bin, kept.alert, kept.label);
        self.kept.insert(row.id, kept);
        self.order.push_back((row.time, row.id, kept.number));
        if let Some((time, label, _)) = self.waiting.remove(&row.id) {
            self.attach(row.id, time, label);
        }
        self.expire();
    }

    /// Takes a label of event time `time`.
    pub fn report(&mut self, id: u64, time: i64, label: bool) {
        if self.kept.contains_key(&id) {
            self.attach(id, time, label);
            return;
        }
        self.numbers += 1;
        if self.waiting.insert(id, (time, label, self.numbers)).is_some() {
            self.counts.unmatched += 1;
        }
        self.waiting_order.push_back((time, id, self.numbers));
        self.expire();
    }

    fn attach(&mut self, id: u64, time: i64, label: bool) {
        let Some(kept) = self.kept.get_mut(&id) else { return };
        let group = &mut self.groups[usize::from(kept.group)];
        group.remove(kept.score_bin, kept.alert, kept.label);
        let is_first = kept.label.is_none();
        kept.label = Some(label);
        group.add(kept.score_bin, kept.alert, kept.label);
        self.counts.matched += 1;
        if is_first {
            let delay = time.saturating_sub(kept.time).max(0) as f64 / 1e6;
            self.delays[DELAY_BOUNDS_SECONDS.partition_point(|bound| *bound < delay)] += 1;
            self.delay_seconds_sum += delay;
        } else {
            self.counts.repeated += 1;
        }
    }

    /// Gives up what is too old, and the oldest of what is too much.
    fn expire(&mut self) {
        let oldest = self.clock.saturating_sub(self.settings.keep_micros);
        while let Some((time, id, number)) = self.order.front().copied() {
            let is_current = self.kept.get(&id).is_some_and(|kept| kept.number == number);
            let is_too_old = time < oldest;
            if is_current && !is_too_old && self.kept.len() <= self.settings.rows_max {
                break;
            }
            self.order.pop_front();
            if is_current && let Some(kept) = self.kept.remove(&id) {
                self.groups[usize::from(kept.group)].remove(kept.score_bin, kept.alert, kept.label);
                self.counts.crowded_out += u64::from(!is_too_old);
            }
        }
        while let Some((time, id, number)) = self.waiting_order.front().copied() {
            let is_current = self.waiting.get(&id).is_some_and(|waiting| waiting.2 == number);
            // Nothing was served yet: everything may still come.
            let is_too_old = self.clock != i64::MIN && time.saturating_add(SLACK_MICROS) < self.clock;
            if is_current && !is_too_old && self.waiting.len() <= self.settings.rows_max {
                break;
            }
            self.waiting_order.pop_front();
            if is_current {
                self.waiting.remove(&id);
                self.counts.unmatched += 1;
            }
        }
    }

    fn group(&mut self, version: &str, segment: &str) -> u16 {
        let hash = hash_of((version, segment));
        if let Some(group) = self.group_of.get(&hash) {
            return *group;
        }
        let empty = self.groups.iter().position(Group::is_empty);
        let place = match empty.filter(|_| self.groups.len() >= GROUPS_MAX) {
            Some(empty) => {
                self.group_of.retain(|_, group| usize::from(*group) != empty);
                empty
            }
            None if self.groups.len() >= GROUPS_MAX => {
                let other = GROUPS_MAX - 1;
                if self.groups[other].segment != OTHER {
                    // Its rows stay in it, under the name of all that follow.
                    (self.groups[other].version, self.groups[other].segment) = (OTHER.to_owned(), OTHER.to_owned());
                }
                self.group_of.insert(hash, other as u16);
                // Of many names only so many are remembered.
                if self.group_of.len() > 16 * GROUPS_MAX {
                    self.group_of.retain(|_, group| usize::from(*group) != other);
                }
                return other as u16;
            }
            None => {
                self.groups.push(Group::default());
                self.groups.len() - 1
            }
        };
        self.groups[place] = Group::new(version, segment);
        self.group_of.insert(hash, place as u16);
        place as u16
    }

    /// The figures of the rows that are kept.
    #[must_use]
    pub fn figures(&self) -> LabelFigures {
        let mut all = Group::new("", "");
        self.groups.iter().for_each(|group| all.merge(group));
        let groups = self.groups.iter().filter(|group| !group.is_empty()).map(Group::figures).collect();
        LabelFigures {
            all: all.figures(),
            groups,
            counts: self.counts,
            waiting: self.waiting.len() as u64,
            delays: self.delays,
            delay_seconds_sum: self.delay_seconds_sum,
        }
    }
}
