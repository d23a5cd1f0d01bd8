//! Tests of the decisions: each table in full, and every interleaving of a few writers with crashes, sleeps and retention.

use std::collections::HashSet;

use super::*;
use crate::checkpoint::{OperatorState, StateFile, StateKind, StateTable};
use crate::error::ErrorKind;
use crate::types::{EventTime, SeenPosition};

fn offset(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

fn number(number: u64) -> ManifestNumber {
    ManifestNumber::new(number).unwrap()
}

fn watermark(micros: i64) -> Watermark {
    let mut watermark = Watermark::NONE;
    watermark.advance(EventTime::from_micros(micros));
    watermark
}

fn unit() -> StateUnit {
    StateUnit { source: "s".into(), topic: "t".into(), partition: 0 }
}

fn signature() -> Signature {
    let writer = WriterIdentity { host: "h".into(), pid: 1, id: "w".into() };
    Signature { pipeline: "p".into(), writer, written_at: "then".into() }
}

fn sink(position: i64, micros: i64) -> SinkProgress {
    SinkProgress { position: offset(position), watermark: watermark(micros), covered: None, files: Vec::new() }
}

fn progress(next: i64, sinks: &[(&str, SinkProgress)]) -> Progress {
    Progress {
        epoch: Epoch::FIRST,
        offset: offset(next),
        watermark: watermark(next),
        sinks: sinks.iter().map(|(name, sink)| ((*name).to_owned(), sink.clone())).collect(),
        state: Vec::new(),
        restart: None,
        models: BTreeMap::new(),
        schedule: Vec::new(),
        sql_fingerprint: "f".into(),
    }
}

fn first_claim() -> Manifest {
    claim_after(None, &unit(), None, signature())
}

#[test]
fn a_claim_takes_the_next_number_and_generation_and_keeps_the_progress() {
    let claim = first_claim();
    assert_eq!(
        (claim.number, claim.generation, claim.predecessor),
        (number(1), Generation::FIRST, Some(Predecessor::Nobody))
    );
    assert_eq!(claim.offset, None);
    let checkpoint = checkpoint_after(&claim, progress(10, &[("a", sink(7, 5))]), signature()).unwrap();
    let next = claim_after(Some(&checkpoint), &unit(), None, signature());
    assert_eq!(
        (next.number, next.generation, next.predecessor),
        (number(3), Generation::FIRST.next(), Some(Predecessor::MayLive))
    );
    assert_eq!(
        (next.offset, &next.sinks, next.watermark),
        (checkpoint.offset, &checkpoint.sinks, checkpoint.watermark)
    );
    let release = release_after(&next, true, signature());
    assert_eq!((release.number, release.generation), (number(4), next.generation));
    assert_eq!(claim_after(Some(&release), &unit(), None, signature()).predecessor, Some(Predecessor::Released));
    assert_eq!(claim_after(Some(&next), &unit(), None, signature()).predecessor, Some(Predecessor::MayLive));
}

#[test]
fn i4_progress_that_goes_back_is_refused() {
    let last = checkpoint_after(&first_claim(), progress(10, &[("a", sink(8, 5))]), signature()).unwrap();
    let refused = |progress| checkpoint_after(&last, progress, signature()).unwrap_err().kind() == ErrorKind::Internal;
    assert!(refused(progress(9, &[("a", sink(8, 5))])));
    assert!(refused(progress(11, &[("a", sink(7, 5))])));
    assert!(refused(Progress { watermark: watermark(9), ..progress(11, &[("a", sink(8, 5))]) }));
    assert!(refused(progress(10, &[("a", SinkProgress { covered: Some(offset(7)), ..sink(8, 5) })])));
    assert!(checkpoint_after(&last, progress(10, &[("a", sink(8, 5))]), signature()).is_ok());
}

#[test]
fn a_unit_without_a_checkpoint_starts_as_configured() {
    let claim = first_claim();
    assert_eq!(recover(&claim, &["a".into()]), Recovery::Fresh);
    assert_eq!(recover(&claim_after(Some(&claim), &unit(), None, signature()), &["a".into()]), Recovery::Fresh);
}

#[test]
fn reading_starts_at_the_smallest_position_of_a_sink_that_the_pipeline_has() {
    let sinks = [("archive", sink(40, 30)), ("kafka", sink(100, 90)), ("old", sink(10, 5))];
    let checkpoint = checkpoint_after(&first_claim(), progress(100, &sinks), signature()).unwrap();
    let Recovery::Resume(resume) = recover(&checkpoint, &["archive".into(), "kafka".into(), "new".into()]) else {
        panic!()
    };
    assert_eq!((resume.offset, resume.watermark, resume.published), (offset(40), watermark(30), offset(100)));
    // I5: each is suppressed below its own position; a new one has nothing to make up for.
    let expected = [("archive", 40), ("kafka", 100), ("new", 100)].map(|(name, at)| (name.to_owned(), offset(at)));
    assert_eq!(resume.positions, BTreeMap::from(expected));
    assert_eq!(resume.gone, BTreeMap::from([("old".to_owned(), offset(10))]));
}

fn restart(at: i64) -> Option<RestartPoint> {
    let mut seen = SeenPositions::default();
    seen.advance("outer/t", 0, SeenPosition(at * 2, 0));
    Some(RestartPoint { offset: offset(at), watermark: watermark(at), seen })
}

#[test]
fn a_unit_of_an_internal_topic_goes_on_where_it_is_known_what_was_seen() {
    let sinks = [("archive", sink(40, 30)), ("kafka", sink(100, 90))];
    let there = Progress { restart: restart(35), ..progress(100, &sinks) };
    let checkpoint = checkpoint_after(&first_claim(), there.clone(), signature()).unwrap();
    // Claims and releases hand it on.
    let claim = claim_after(Some(&checkpoint), &unit(), None, signature());
    let release = release_after(&claim, true, signature());
    for manifest in [&checkpoint, &claim, &release] {
        let Recovery::Resume(resume) = recover(manifest, &["archive".into(), "kafka".into()]) else { panic!() };
        assert_eq!((resume.offset, resume.watermark, resume.published), (offset(35), watermark(35), offset(100)));
        assert_eq!(resume.seen, restart(35).unwrap().seen);
        assert_eq!(resume.positions["archive"], offset(40), "each sink is suppressed below its own position");
    }
    let refused = |progress| checkpoint_after(&release, progress, signature()).is_err();
    assert!(refused(Progress { restart: restart(34), ..there.clone() }));
    assert!(refused(Progress { restart: None, ..there.clone() }));
    let forgotten = RestartPoint { seen: SeenPositions::default(), ..restart(40).unwrap() };
    assert!(refused(Progress { restart: Some(forgotten), ..there.clone() }));
    assert!(!refused(Progress { restart: restart(40), ..there }));
}

#[test]
fn the_next_file_begins_where_the_files_so_far_end() {
    let archive = SinkProgress { covered: Some(offset(30)), ..sink(40, 30) };
    let sinks = [("archive", archive), ("kafka", sink(100, 90))];
    let checkpoint = checkpoint_after(&first_claim(), progress(100, &sinks), signature()).unwrap();
    let claim = claim_after(Some(&checkpoint), &unit(), None, signature());
    let names = ["archive".into(), "kafka".into(), "new".into()];
    let Recovery::Resume(resume) = recover(&claim, &names) else { panic!() };
    let expected = [("archive", 30), ("kafka", 100), ("new", 100)].map(|(name, at)| (name.to_owned(), offset(at)));
    assert_eq!(resume.covered, BTreeMap::from(expected));
    assert_eq!(resume.positions["archive"], offset(40));
}

#[test]
fn the_number_of_first_partitions_is_that_of_the_first_claim_for_good() {
    let claim = claim_after(None, &unit(), Some(3), signature());
    let checkpoint = checkpoint_after(&claim, progress(10, &[]), signature()).unwrap();
    let release = release_after(&checkpoint, true, signature());
    let again = claim_after(Some(&release), &unit(), Some(5), signature());
    assert_eq!(again.num_first_partitions, Some(3));
    // Of one that was made without a number nothing is known later either.
    let unknown = claim_after(Some(&first_claim()), &unit(), Some(5), signature());
    assert_eq!(unknown.num_first_partitions, None);
}

#[test]
fn without_a_lagging_sink_reading_starts_at_the_offset() {
    let checkpoint = checkpoint_after(&first_claim(), progress(100, &[("kafka", sink(100, 90))]), signature()).unwrap();
    for sinks in [vec!["kafka".to_owned()], vec![]] {
        let Recovery::Resume(resume) = recover(&checkpoint, &sinks) else { panic!() };
        assert_eq!((resume.offset, resume.watermark), (offset(100), watermark(100)));
    }
}

#[test]
fn every_result_of_a_creation_has_its_decision() {
    use CreateDecision as D;
    use CreateOutcome as C;
    use ReadOutcome as R;
    let reads = [None, Some(R::Same), Some(R::Other), Some(R::Absent), Some(R::Unknown)];
    let expected = |created| match created {
        C::Created => [D::Ours; 5],
        C::Exists => [D::Read, D::Ours, D::Taken, D::Again, D::Again],
        C::Unknown => [D::Again; 5],
        C::Refused => [D::GiveUp; 5],
    };
    for created in [C::Created, C::Exists, C::Unknown, C::Refused] {
        for (read, expected) in reads.into_iter().zip(expected(created)) {
            assert_eq!(judge_create(created, read, 1), expected, "{created:?} {read:?}");
            let last = if expected == D::Again { D::GiveUp } else { expected };
            assert_eq!(judge_create(created, read, 0), last, "{created:?} {read:?}");
        }
    }
}

#[test]
fn every_sight_of_a_committed_file_has_its_decision() {
    use FileDecision as D;
    for (staged, named, expected) in [
        (None, None, D::Lost),
        (Some(5), None, D::Move),
        (Some(6), None, D::Lost),
        (None, Some(5), D::Done),
        (Some(5), Some(5), D::Compare),
        (Some(6), Some(5), D::Compare),
        (None, Some(6), D::Foreign),
        (Some(5), Some(6), D::Foreign),
    ] {
        assert_eq!(judge_file(5, staged, named), expected, "{staged:?} {named:?}");
    }
}

#[test]
fn retention_keeps_the_newest_and_the_claims_of_writers_whose_predecessor_may_live() {
    let fact = |kind, predecessor| Some(ManifestFact { kind, predecessor });
    use ManifestKind as K;
    let facts = BTreeMap::from([
        (number(1), fact(K::Claim, Some(Predecessor::Nobody))),
        (number(2), fact(K::Checkpoint, None)),
        (number(3), fact(K::Claim, Some(Predecessor::MayLive))),
        (number(4), None),
        (number(5), fact(K::Release, None)),
        (number(6), fact(K::Claim, Some(Predecessor::Released))),
        (number(7), fact(K::Checkpoint, None)),
        (number(8), fact(K::Checkpoint, None)),
    ]);
    let deleted = |keep| deletable(&facts, keep).iter().map(|number| number.get()).collect::<Vec<_>>();
    assert_eq!(deleted(0), [1, 2, 5, 6, 7]);
    assert_eq!(deleted(1), [1, 2, 5, 6, 7]);
    assert_eq!(deleted(3), [1, 2, 5]);
    assert_eq!(deleted(8), [0; 0]);
    assert_eq!(deleted(usize::MAX), [0; 0]);
}

/// The store and a few writers, small enough to try every interleaving. Each step is one request to the store; a writer
/// that never steps again has crashed, one that steps much later has slept.
mod interleavings {
    use super::*;

    const WRITERS: usize = 3;
    const CHECKPOINTS_MAX: u8 = 2;

    /// What the protocol does; with one rule off, something must go wrong, or the model shows nothing.
    #[derive(Clone, Copy)]
    struct Rules {
        keep: usize,
        closing_claims_stay: bool,
        claims_are_confirmed: bool,
    }

    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    enum Stage {
        Idle,
        /// Has listed and read, and will create this claim: number, generation, and whether the writer before may live.
        Claiming(u64, u64, bool),
        /// Its claim was created; not yet confirmed by a listing.
        Confirming(u64, u64),
        /// Owns a generation: its last manifest, the generation, checkpoints left to make.
        Writing(u64, u64, u8),
        Stopped,
    }

    #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
    struct Writer {
        stage: Stage,
        /// Deletions decided and not yet carried out, ascending: they may come arbitrarily late.
        deletions: Vec<u64>,
    }

    #[derive(Clone, PartialEq, Eq, Hash)]
    struct World {
        /// What is in the store: number, generation, kind and predecessor.
        store: BTreeMap<u64, (u64, ManifestFact)>,
        writers: Vec<Writer>,
        /// The newest manifest that counts: number and generation. All names up to it were used.
        published: (u64, u64),
    }

    fn manifest(at: u64, generation: u64, fact: ManifestFact) -> Manifest {
        let mut manifest = first_claim();
        manifest.number = number(at);
        manifest.kind = fact.kind;
        manifest.predecessor = fact.predecessor;
        for _ in 1..generation {
            manifest.generation = manifest.generation.next();
        }
        manifest
    }

    /// What went wrong: a writer took a manifest for its own that is not the next of a generation at least as new.
    #[derive(Debug, PartialEq, Eq)]
    struct Violation(&'static str);

    impl World {
        fn new() -> World {
            let writer = Writer { stage: Stage::Idle, deletions: Vec::new() };
            World { store: BTreeMap::new(), writers: vec![writer; WRITERS], published: (0, 0) }
        }

        /// A writer takes a manifest for published.
        fn publish(&mut self, number: u64, generation: u64) -> Result<(), Violation> {
            if number <= self.published.0 {
                return Err(Violation("I2: a name was used twice"));
            }
            if number != self.published.0 + 1 || generation < self.published.1 {
                return Err(Violation("I3: an older generation published, or a number was left out"));
            }
            self.published = (number, generation);
            Ok(())
        }

        fn listed(&self) -> BTreeSet<ManifestNumber> {
            self.store.keys().map(|key| number(*key)).collect()
        }

        /// All worlds that one step of one writer leads to.
        fn steps(&self, rules: Rules) -> Result<Vec<World>, Violation> {
            let mut worlds = Vec::new();
            for writer in 0..WRITERS {
                self.step(writer, rules, &mut worlds)?;
                if !self.writers[writer].deletions.is_empty() {
                    let mut world = self.clone();
                    let number = world.writers[writer].deletions.remove(0);
                    world.store.remove(&number);
                    worlds.push(world);
                }
            }
            // Writers are alike: which of them does what makes no difference.
            for world in &mut worlds {
                world.writers.sort_unstable();
            }
            Ok(worlds)
        }

        fn step(&self, writer: usize, rules: Rules, worlds: &mut Vec<World>) -> Result<(), Violation> {
            let mut world = self.clone();
            let stage = &mut world.writers[writer].stage;
            match *stage {
                Stage::Stopped => return Ok(()),
                Stage::Idle => {
                    let newest =
                        self.store.last_key_value().map(|(key, (generation, fact))| manifest(*key, *generation, *fact));
                    let claim = claim_after(newest.as_ref(), &unit(), None, signature());
                    let may_live = claim.predecessor == Some(Predecessor::MayLive);
                    *stage = Stage::Claiming(claim.number.get(), claim.generation.get(), may_live);
                }
                Stage::Claiming(at, _, _) if self.store.contains_key(&at) => *stage = Stage::Idle,
                Stage::Claiming(at, generation, may_live) => {
                    *stage = Stage::Confirming(at, generation);
                    let predecessor = Some(if may_live { Predecessor::MayLive } else { Predecessor::Released });
                    world.store.insert(at, (generation, ManifestFact { kind: ManifestKind::Claim, predecessor }));
                    // Under a name that was used before it counts for nothing, and its writer must find that out.
                    if at > self.published.0 {
                        world.publish(at, generation)?;
                    }
                }
                Stage::Confirming(at, generation) => {
                    let decision = judge_claim(number(at), &self.listed());
                    if rules.claims_are_confirmed && decision == ClaimDecision::Superseded {
                        *stage = Stage::Stopped;
                    } else if self.published.0 > at && self.published.1 <= generation {
                        return Err(Violation(
                            "I2: a claim under a name that was used before was taken for one that holds",
                        ));
                    } else {
                        *stage = Stage::Writing(at, generation, CHECKPOINTS_MAX);
                    }
                }
                Stage::Writing(last, generation, left) => {
                    self.retain(writer, last, rules, worlds);
                    worlds.push(self.write(writer, (last, generation, left), ManifestKind::Release)?);
                    if left > 0 {
                        worlds.push(self.write(writer, (last, generation, left), ManifestKind::Checkpoint)?);
                    }
                    return Ok(());
                }
            }
            worlds.push(world);
            Ok(())
        }

        fn write(
            &self,
            writer: usize,
            (last, generation, left): (u64, u64, u8),
            kind: ManifestKind,
        ) -> Result<World, Violation> {
            let mut world = self.clone();
            let next = last + 1;
            let stage = &mut world.writers[writer].stage;
            if self.store.contains_key(&next) {
                *stage = Stage::Stopped;
                return Ok(world);
            }
            *stage = match kind {
                ManifestKind::Release => Stage::Stopped,
                ManifestKind::Claim | ManifestKind::Checkpoint => Stage::Writing(next, generation, left - 1),
            };
            world.store.insert(next, (generation, ManifestFact { kind, predecessor: None }));
            world.publish(next, generation)?;
            Ok(world)
        }

        /// Decides on deletions; they are carried out one by one, whenever.
        fn retain(&self, writer: usize, last: u64, rules: Rules, worlds: &mut Vec<World>) {
            // It knows the manifests up to its own last one.
            let fact = |mut fact: ManifestFact| {
                if !rules.closing_claims_stay && fact.kind == ManifestKind::Claim {
                    fact.predecessor = Some(Predecessor::Released);
                }
                Some(fact)
            };
            let facts = self.store.range(..=last).map(|(key, (_, known))| (number(*key), fact(*known))).collect();
            let numbers: Vec<u64> = deletable(&facts, rules.keep).into_iter().map(ManifestNumber::get).collect();
            if self.writers[writer].deletions.is_empty() && !numbers.is_empty() {
                let mut world = self.clone();
                world.writers[writer].deletions = numbers;
                worlds.push(world);
            }
        }
    }

    /// Visits every world that can be reached; how many there are.
    fn explore(rules: Rules) -> Result<usize, Violation> {
        let mut seen: HashSet<World> = HashSet::from([World::new()]);
        let mut open: Vec<World> = vec![World::new()];
        while let Some(world) = open.pop() {
            for next in world.steps(rules)? {
                if seen.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
        Ok(seen.len())
    }

    const PROTOCOL: Rules = Rules { keep: 1, closing_claims_stay: true, claims_are_confirmed: true };

    #[test]
    fn i2_i3_hold_in_every_interleaving_with_retention() {
        for keep in [1, 2] {
            let num_worlds = explore(Rules { keep, ..PROTOCOL }).unwrap();
            assert!(num_worlds > 10_000, "the model is too small to show anything: {num_worlds}");
        }
    }

    #[test]
    fn without_the_claims_that_stay_a_sleeping_writer_takes_a_name_again() {
        assert!(explore(Rules { closing_claims_stay: false, ..PROTOCOL }).is_err());
    }

    #[test]
    fn without_the_listing_after_a_claim_a_sleeping_claim_is_taken_for_one_that_holds() {
        assert!(explore(Rules { claims_are_confirmed: false, ..PROTOCOL }).is_err());
    }
}

fn snapshot(at: i64, kind: StateKind, operators: &[(&str, &str)]) -> Snapshot {
    let state = |name: &str, fingerprint: &str| {
        let file = |table: StateTable| StateFile {
            table,
            path: format!("units/s/t/0/state/{at}-g1-x/{name}.{}", table.as_str()),
            bytes: 1,
            sha256: "0".repeat(64),
            rows: 1,
            batches: 1,
        };
        let files = vec![file(StateTable::Meta), file(StateTable::Slots), file(StateTable::Rows)];
        (name.to_owned(), OperatorState { fingerprint: fingerprint.to_owned(), keys: Vec::new(), files })
    };
    let operators = operators.iter().map(|(name, fingerprint)| state(name, fingerprint)).collect();
    Snapshot { offset: offset(at), watermark: watermark(at), seen: SeenPositions::default(), kind, operators }
}

fn empty(at: i64, operators: &[(&str, &str)]) -> Snapshot {
    let mut snapshot = snapshot(at, StateKind::Full, operators);
    snapshot.operators.values_mut().for_each(|operator| operator.files.clear());
    snapshot
}

fn wanted(operators: &[(&str, &str)]) -> Vec<WantedOperator> {
    let wanted = |(index, (name, fingerprint)): (usize, &(&str, &str))| WantedOperator {
        index,
        name: (*name).to_owned(),
        fingerprint: (*fingerprint).to_owned(),
        keys: Vec::new(),
    };
    operators.iter().enumerate().map(wanted).collect()
}

const OPERATORS: [(&str, &str); 2] = [("a.1", "f"), ("b.1", "g")];

/// Full at 10 and 40, deltas at 20, 30 and 50.
fn chain() -> Vec<Snapshot> {
    [
        (10, StateKind::Full),
        (20, StateKind::Delta),
        (30, StateKind::Delta),
        (40, StateKind::Full),
        (50, StateKind::Delta),
    ]
    .map(|(at, kind)| snapshot(at, kind, &OPERATORS))
    .to_vec()
}

fn offsets(state: &[Snapshot]) -> Vec<i64> {
    state.iter().map(|snapshot| snapshot.offset.get()).collect()
}

#[test]
fn recovery_starts_from_the_newest_snapshot_that_no_sink_is_behind() {
    for (smallest, made_of) in
        [(10, vec![10]), (19, vec![10]), (20, vec![10, 20]), (39, vec![10, 20, 30]), (40, vec![40]), (99, vec![40, 50])]
    {
        let StateDecision::Restore(restore) = choose_snapshot(&chain(), offset(smallest), &wanted(&OPERATORS)) else {
            panic!("{smallest}");
        };
        assert_eq!(offsets(&restore.state), made_of, "{smallest}");
        assert_eq!(
            (restore.offset.get(), restore.watermark),
            (*made_of.last().unwrap(), watermark(restore.offset.get()))
        );
        assert!(restore.loads.iter().all(|load| load.parts.len() == made_of.len()));
        assert_eq!(restore.loads.iter().map(|load| load.operator).collect::<Vec<_>>(), [0, 1]);
    }
}

#[test]
fn state_of_an_internal_topic_comes_with_what_was_seen_at_its_own_offset() {
    let seen = |at: i64| {
        let mut seen = SeenPositions::default();
        seen.advance("s/t", 0, SeenPosition(at + 5, 0));
        seen
    };
    // The place for a restart is at 12; the newest snapshot that no sink is behind is at 20, above it.
    let mut progress = progress(60, &[("a", sink(25, 25))]);
    progress.state = chain().into_iter().map(|one| Snapshot { seen: seen(one.offset.get()), ..one }).collect();
    progress.restart = Some(RestartPoint { offset: offset(12), watermark: watermark(12), seen: seen(12) });
    let newest = checkpoint_after(&first_claim(), progress.clone(), signature()).unwrap();
    let read = Manifest::from_bytes(&newest.to_bytes().unwrap(), "m", None, &unit(), newest.number).unwrap();
    assert_eq!(read, newest);
    let claim = claim_after(Some(&newest), &unit(), None, signature());
    assert_eq!((&claim.state, &claim.restart), (&progress.state, &progress.restart));
    let Recovery::Resume(resume) = recover(&claim, &["a".to_owned()]) else { panic!("it goes on") };
    // Without operators reading begins at the place for a restart.
    assert_eq!((resume.offset, &resume.seen, resume.smallest), (offset(12), &seen(12), offset(25)));
    assert_eq!(resume.restart, progress.restart);
    let StateDecision::Restore(restore) = choose_snapshot(&resume.state, resume.smallest, &wanted(&OPERATORS)) else {
        panic!("there is state at 20");
    };
    assert_eq!((restore.offset, restore.watermark, restore.seen), (offset(20), watermark(20), seen(20)));
    // What was seen does not go back, wherever a restart begins.
    progress.restart = Some(RestartPoint { offset: offset(20), watermark: watermark(20), seen: seen(11) });
    assert!(checkpoint_after(&claim, progress, signature()).unwrap_err().to_string().contains("goes back"));
}

#[test]
fn a_manifest_names_what_recovery_may_need_and_nothing_beyond_its_offset() {
    let needed = |smallest, at| offsets(needed_snapshots(&chain(), offset(smallest), offset(at)));
    assert_eq!(needed(10, 10), [10]);
    assert_eq!(needed(25, 35), [10, 20, 30]);
    assert_eq!(needed(35, 60), [10, 20, 30, 40, 50]);
    assert_eq!(needed(40, 45), [40]);
    assert_eq!(needed(60, 60), [40, 50]);
    assert_eq!(needed_snapshots(&[], offset(5), offset(5)), []);
    // Whatever the sinks do next, the manifest has what recovery from it chooses.
    for at in 10..60 {
        for smallest in 10..=at {
            let named = needed_snapshots(&chain(), offset(smallest), offset(at)).to_vec();
            let choice = |state: &[Snapshot]| choose_snapshot(state, offset(smallest), &wanted(&OPERATORS));
            assert_eq!(choice(&named), choice(&chain()), "{smallest} {at}");
        }
    }
}

#[test]
fn state_is_known_by_its_fingerprint() {
    let choose = |operators: &[(&str, &str)]| choose_snapshot(&chain(), offset(60), &wanted(operators));
    assert_eq!(choose(&[]), StateDecision::Stateless);
    assert_eq!(choose(&[("a.1", "f"), ("b.1", "changed")]), StateDecision::Missing(vec!["b.1".into()]));
    let StateDecision::Restore(restore) = choose(&[("renamed.1", "g")]) else { panic!() };
    assert_eq!(restore.dropped, ["a.1"]);
    assert!(restore.loads[0].parts.iter().all(|part| part.fingerprint == "g"));
    // An operator of the same state as another takes that of its own name.
    let twins = [snapshot(10, StateKind::Full, &[("a.1", "f"), ("b.1", "f")])];
    let StateDecision::Restore(restore) = choose_snapshot(&twins, offset(10), &wanted(&[("b.1", "f")])) else {
        panic!()
    };
    assert!(restore.loads[0].parts[0].files[0].path.contains("b.1"));
}

#[test]
fn before_the_first_row_a_new_operator_misses_nothing() {
    let state = [empty(10, &[("a.1", "f")])];
    let StateDecision::Restore(restore) = choose_snapshot(&state, offset(10), &wanted(&[("new.1", "n")])) else {
        panic!()
    };
    assert!(restore.loads.is_empty());
    assert_eq!(restore.offset, offset(10));
    // Without any snapshot at all it does: rows have gone by.
    let missing = StateDecision::Missing(vec!["new.1".into()]);
    assert_eq!(choose_snapshot(&[], offset(10), &wanted(&[("new.1", "n")])), missing);
    assert_eq!(choose_snapshot(&chain(), offset(9), &wanted(&[("new.1", "n")])), missing);
}

#[test]
fn files_go_when_a_manifest_no_longer_names_them() {
    let all = chain();
    assert_eq!(files_let_go(&all, &all), Vec::<String>::new());
    let gone = files_let_go(&all, &all[3..]);
    assert_eq!(gone.len(), 3 * 2 * 3);
    assert!(gone.iter().all(|path| !path.contains("/40-") && !path.contains("/50-")));
}

#[test]
fn a_claim_deletes_only_what_older_generations_left_and_nobody_named() {
    let third = Generation::FIRST.next().next();
    assert!(is_left_behind(Some(1), false, third) && is_left_behind(Some(2), false, third));
    assert!(!is_left_behind(Some(2), true, third));
    // Of ourselves, of one that took over from us, or not of ours at all.
    assert!(!is_left_behind(Some(3), false, third) && !is_left_behind(Some(4), false, third));
    assert!(!is_left_behind(None, false, third));
}

#[test]
fn a_claim_and_a_release_keep_the_snapshots() {
    let claim = first_claim();
    let state = chain();
    let with_state = Progress { state: state.clone(), ..progress(60, &[("a", sink(55, 5))]) };
    let checkpoint = checkpoint_after(&claim, with_state, signature()).unwrap();
    checkpoint.to_bytes().unwrap();
    assert_eq!(claim_after(Some(&checkpoint), &unit(), None, signature()).state, state);
    assert_eq!(release_after(&checkpoint, true, signature()).state, state);
    let Recovery::Resume(resume) = recover(&checkpoint, &["a".to_owned()]) else { panic!() };
    assert_eq!((resume.offset, resume.state), (offset(55), state));
}
