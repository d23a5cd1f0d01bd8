//! Tests of the shell: a crash at every request to the store, lost answers, storms of conflicts, and two writers that race.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::*;
use crate::checkpoint::Resume;
use crate::checkpoint::RetryPolicy;
use crate::checkpoint::layout::state_folder;
use crate::checkpoint::manifest::SinkProgress;
use crate::checkpoint::testing::{Fault, FaultStore, Operation};
use crate::checkpoint::{OperatorState, Snapshot, StateFile, StateKind, StateTable, layout};
use crate::error::ErrorKind;
use crate::types::{Epoch, EventTime, OffsetRange, SeenPositions, Watermark};

const CHECKPOINTS: &str = "memory://checkpoints";
const LAKE: &str = "memory://lake";
const STEP: i64 = 10;

fn offset(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

fn watermark(micros: i64) -> Watermark {
    let mut watermark = Watermark::NONE;
    watermark.advance(EventTime::from_micros(micros));
    watermark
}

fn unit() -> StateUnit {
    StateUnit { source: "s".into(), topic: "a/b".into(), partition: 0 }
}

fn stores(store: impl ObjectStore) -> Stores {
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    let stores = Stores::new(|_| None);
    stores.register(CHECKPOINTS, Arc::clone(&store), Path::from("checkpoints"));
    stores.register(LAKE, store, Path::from("lake"));
    stores
}

fn settings(pipeline: &str) -> CheckpointSettings {
    CheckpointSettings {
        pipeline: pipeline.into(),
        path: CHECKPOINTS.into(),
        sinks: vec!["archive".into()],
        retain: 2,
        host: "here".into(),
        clock: Arc::new(|| SystemTime::UNIX_EPOCH),
        retry: RetryPolicy { attempts_max: 6, first_wait: Duration::ZERO, wait_max: Duration::ZERO },
    }
}

async fn open(store: impl ObjectStore) -> Result<Checkpoints> {
    Checkpoints::open(&stores(store), settings("p")).await
}

/// The content of the file of `[start, end)`: its offsets.
fn content(range: OffsetRange) -> String {
    (range.start.get()..range.end.get()).map(|offset| format!("{offset}\n")).collect()
}

async fn stage(checkpoints: &Checkpoints, range: OffsetRange) -> Result<StagedFile> {
    let text = content(range);
    let file = StagedFile {
        folder: LAKE.into(),
        staged: format!("_staging/{}", uuid::Uuid::new_v4()),
        name: format!("{:05}-{:05}", range.start.get(), range.end.get()),
        bytes: text.len() as u64,
        rows: text.lines().count() as u64,
        range,
    };
    checkpoints.stores().open(LAKE)?.write(&file.staged, Bytes::from(text)).await?;
    Ok(file)
}

fn progress(next: i64, files: Vec<StagedFile>) -> Progress {
    Progress {
        epoch: Epoch::FIRST,
        offset: offset(next),
        watermark: watermark(next),
        sinks: BTreeMap::from([(
            "archive".to_owned(),
            SinkProgress { position: offset(next), watermark: watermark(next), covered: None, files },
        )]),
        state: Vec::new(),
        restart: None,
        models: BTreeMap::new(),
        schedule: Vec::new(),
        sql_fingerprint: "f".into(),
    }
}

fn start_of(recovery: &Recovery) -> i64 {
    match recovery {
        Recovery::Fresh => 0,
        Recovery::Resume(Resume { offset, .. }) => offset.get(),
    }
}

/// Makes checkpoints of ten records each until `end`, as the driver would. `published` hears of each one.
async fn advance(
    checkpoints: &Checkpoints,
    writer: &mut UnitWriter,
    from: i64,
    end: i64,
    mut published: impl FnMut(i64),
) -> Result<()> {
    let mut next = from;
    while next < end {
        let range = OffsetRange::new(offset(next), offset(next + STEP)).unwrap();
        let file = stage(checkpoints, range).await?;
        next += STEP;
        let manifest = writer.publish(&progress(next, vec![file])).await?;
        published(next);
        writer.finish(&manifest).await?;
        writer.retain().await?;
    }
    Ok(())
}

/// What a reader of the lake sees: all lines, in the order of the files' names.
async fn visible(store: &Arc<InMemory>) -> String {
    let folder = stores(Arc::clone(store)).open(LAKE).unwrap();
    let mut text = String::new();
    for object in folder.list("").await.unwrap() {
        if !object.name.starts_with('_') {
            text.push_str(std::str::from_utf8(&folder.read(&object.name, 1 << 20).await.unwrap().unwrap()).unwrap());
        }
    }
    text
}

async fn manifests(store: &Arc<InMemory>) -> Vec<u64> {
    let folder = stores(Arc::clone(store)).open(CHECKPOINTS).unwrap();
    let listed = folder.list(&manifests_folder(&unit())).await.unwrap();
    listed.iter().map(|object| parse_manifest_name(object.name.rsplit('/').next().unwrap()).unwrap().get()).collect()
}

fn up_to(end: i64) -> String {
    content(OffsetRange::new(offset(0), offset(end)).unwrap())
}

/// A whole life: open, claim, three checkpoints, release.
async fn life(store: FaultStore, acknowledged: &Mutex<i64>) -> Result<()> {
    let checkpoints = open(store).await?;
    let (mut writer, recovery) = checkpoints.claim(&unit()).await?;
    advance(&checkpoints, &mut writer, start_of(&recovery), 3 * STEP, |next| *acknowledged.lock().unwrap() = next)
        .await?;
    writer.release().await
}

/// What must hold however the last life ended: what was acknowledged is there, nothing twice, nothing uncommitted.
async fn check_next_life(store: &Arc<InMemory>, acknowledged: i64, what: &str) {
    let checkpoints = open(Arc::clone(store)).await.unwrap();
    let (mut writer, recovery) = checkpoints.claim(&unit()).await.unwrap();
    let start = start_of(&recovery);
    assert!(start >= acknowledged, "{what}: starts at {start}, and {acknowledged} was acknowledged");
    assert_eq!(visible(store).await, up_to(start), "{what}: after the claim");
    advance(&checkpoints, &mut writer, start, 4 * STEP, |_| ()).await.unwrap();
    assert_eq!(visible(store).await, up_to(4 * STEP), "{what}: at the end");
    writer.release().await.unwrap();
}

async fn num_operations_of_a_life() -> u64 {
    let counting = FaultStore::faultless(Arc::new(InMemory::new()));
    life(counting.clone(), &Mutex::new(0)).await.unwrap();
    counting.num_operations()
}

#[tokio::test]
async fn i1_i5_a_crash_at_every_request_loses_and_doubles_nothing() {
    let num_operations = num_operations_of_a_life().await;
    assert!(num_operations > 40, "{num_operations}");
    for crash_at in 0..num_operations {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            let store = Arc::new(InMemory::new());
            let acknowledged = Mutex::new(0);
            let failing =
                FaultStore::new(Arc::clone(&store) as _, move |number, _, _| (number == crash_at).then_some(fault));
            let what = format!("{fault:?} at {crash_at}");
            let result = life(failing.clone(), &acknowledged).await;
            assert!(failing.has_crashed() && result.is_err(), "{what}");
            let acknowledged = *acknowledged.lock().unwrap();
            check_next_life(&store, acknowledged, &what).await;
        }
    }
}

#[tokio::test]
async fn i1_i5_two_crashes_in_a_row_lose_and_double_nothing() {
    let num_operations = num_operations_of_a_life().await;
    for first in (0..num_operations).step_by(3) {
        for second in (10..num_operations).step_by(4) {
            let store = Arc::new(InMemory::new());
            let acknowledged = Mutex::new(0);
            for crash_at in [first, second] {
                let fault = if (first + second) % 2 == 0 { Fault::CrashBefore } else { Fault::CrashAfter };
                let failing =
                    FaultStore::new(Arc::clone(&store) as _, move |number, _, _| (number == crash_at).then_some(fault));
                // The second life may end before its crash comes.
                drop(life(failing, &acknowledged).await);
            }
            let acknowledged = *acknowledged.lock().unwrap();
            check_next_life(&store, acknowledged, &format!("crashes at {first} and {second}")).await;
        }
    }
}

#[tokio::test]
async fn i2_a_creation_whose_answer_is_lost_is_known_as_ours() {
    for fault in [Fault::FailAfter, Fault::FailBefore, Fault::Conflict] {
        for times in [1, 5] {
            let store = Arc::new(InMemory::new());
            let mut last = (String::new(), 0);
            let failing = FaultStore::new(Arc::clone(&store) as _, move |_, operation, path| {
                if last.0 != path.as_ref() {
                    last = (path.to_string(), 0);
                }
                last.1 += 1;
                // The self-test's second creation is one that must fail.
                let is_ours = operation == Operation::Create && !path.as_ref().contains(".probe");
                (is_ours && last.1 <= times).then_some(fault)
            });
            let result = life(failing, &Mutex::new(0)).await;
            assert!(result.is_ok(), "{fault:?} {times} times: {result:?}");
            assert_eq!(visible(&store).await, up_to(3 * STEP));
            // Retention ran before the release, number 5.
            assert_eq!(manifests(&store).await, [3, 4, 5]);
        }
    }
}

#[tokio::test]
async fn a_transient_failure_of_any_request_leaves_everything_recoverable() {
    for fail_at in 0..num_operations_of_a_life().await {
        for fault in [Fault::FailBefore, Fault::FailAfter] {
            let store = Arc::new(InMemory::new());
            let acknowledged = Mutex::new(0);
            let failing =
                FaultStore::new(Arc::clone(&store) as _, move |number, _, _| (number == fail_at).then_some(fault));
            let what = format!("{fault:?} at {fail_at}");
            if let Err(error) = life(failing, &acknowledged).await {
                // In the self-test a lost answer looks like a store that breaks its promise.
                assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Invalid), "{what}: {error}");
            }
            let acknowledged = *acknowledged.lock().unwrap();
            check_next_life(&store, acknowledged, &what).await;
        }
    }
}

#[tokio::test]
async fn a_publication_of_unknown_result_takes_only_the_same_progress_again() {
    let store = Arc::new(InMemory::new());
    let is_down = Arc::new(Mutex::new(false));
    let switch = Arc::clone(&is_down);
    let failing = FaultStore::new(Arc::clone(&store) as _, move |_, operation, _| {
        (operation == Operation::Create && *switch.lock().unwrap()).then_some(Fault::FailAfter)
    });
    let checkpoints = open(failing).await.unwrap();
    let (mut writer, _) = checkpoints.claim(&unit()).await.unwrap();
    *is_down.lock().unwrap() = true;
    // The creation takes effect; the answers are lost, but the second one says that it exists, so it is known.
    assert!(writer.publish(&progress(10, vec![])).await.is_err());
    *is_down.lock().unwrap() = false;
    assert_eq!(writer.publish(&progress(20, vec![])).await.unwrap_err().kind(), ErrorKind::Internal);
    let published = writer.publish(&progress(10, vec![])).await.unwrap();
    assert_eq!(published.number().get(), 2);
    writer.finish(&published).await.unwrap();
    assert_eq!(writer.publish(&progress(20, vec![])).await.unwrap().number().get(), 3);
}

#[tokio::test]
async fn a_checkpoint_is_not_published_before_the_files_of_the_last_one_are_finished() {
    let store = Arc::new(InMemory::new());
    let checkpoints = open(Arc::clone(&store)).await.unwrap();
    let (mut writer, _) = checkpoints.claim(&unit()).await.unwrap();
    let file = stage(&checkpoints, OffsetRange::new(offset(0), offset(10)).unwrap()).await.unwrap();
    let published = writer.publish(&progress(10, vec![file])).await.unwrap();
    assert_eq!(writer.publish(&progress(20, vec![])).await.unwrap_err().kind(), ErrorKind::Internal);
    assert_eq!(visible(&store).await, "");
    writer.finish(&published).await.unwrap();
    // I5: as often as one likes.
    writer.finish(&published).await.unwrap();
    assert_eq!(visible(&store).await, up_to(10));
    drop(writer.publish(&progress(20, vec![])).await.unwrap());
}

#[tokio::test]
async fn a_release_hands_unfinished_files_to_the_next_writer() {
    let store = Arc::new(InMemory::new());
    let checkpoints = open(Arc::clone(&store)).await.unwrap();
    let (mut writer, _) = checkpoints.claim(&unit()).await.unwrap();
    let file = stage(&checkpoints, OffsetRange::new(offset(0), offset(10)).unwrap()).await.unwrap();
    let _published = writer.publish(&progress(10, vec![file])).await.unwrap();
    writer.release().await.unwrap();
    assert_eq!(visible(&store).await, "");
    let (_, recovery) = checkpoints.claim(&unit()).await.unwrap();
    assert_eq!((start_of(&recovery), visible(&store).await), (10, up_to(10)));
}

#[tokio::test]
async fn i3_an_older_generation_is_fenced_and_told_by_whom() {
    let store = Arc::new(InMemory::new());
    let (old, new) = (open(Arc::clone(&store)).await.unwrap(), open(Arc::clone(&store)).await.unwrap());
    let (mut zombie, _) = old.claim(&unit()).await.unwrap();
    drop(zombie.publish(&progress(10, vec![])).await.unwrap());
    let (mut writer, recovery) = new.claim(&unit()).await.unwrap();
    assert_eq!(start_of(&recovery), 10);
    let error = zombie.publish(&progress(20, vec![])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    for part in ["s/a/b/0", "generation 2", "generation 1", "on here", "00000000000000000003.json"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(zombie.release().await.unwrap_err().kind(), ErrorKind::Fenced);
    drop(writer.publish(&progress(20, vec![])).await.unwrap());
}

fn partition(partition: i32) -> StateUnit {
    StateUnit { partition, ..unit() }
}

#[tokio::test]
async fn a_partition_whose_first_claim_failed_is_not_taken_for_one_that_was_added() {
    let store = Arc::new(InMemory::new());
    let failing = FaultStore::new(Arc::clone(&store) as _, |_, operation, path| {
        let is_third = path.as_ref().contains(&manifests_folder(&partition(2)));
        (operation == Operation::Create && is_third).then_some(Fault::FailBefore)
    });
    let checkpoints = open(failing).await.unwrap();
    for number in [0, 1] {
        let (mut writer, _) = checkpoints.claim_of(&partition(number), Some(3)).await.unwrap();
        assert!(!checkpoints.is_added(&writer));
        drop(writer.publish(&progress(10, vec![])).await.unwrap());
    }
    assert!(checkpoints.claim_of(&partition(2), Some(3)).await.is_err());
    // It starts again, and is killed before the first checkpoint of its new partitions; meanwhile a fourth was added.
    for _ in 0..2 {
        let checkpoints = open(Arc::clone(&store)).await.unwrap();
        for (number, is_added) in [(0, false), (2, false), (3, true)] {
            let (writer, _) = checkpoints.claim_of(&partition(number), Some(4)).await.unwrap();
            assert_eq!(checkpoints.is_added(&writer), is_added, "partition {number}");
        }
    }
    // Of a topic whose number nobody knew at first, all that is new is taken for added.
    let other = |partition| StateUnit { topic: "other".into(), partition, ..unit() };
    drop(open(Arc::clone(&store)).await.unwrap().claim(&other(0)).await.unwrap());
    let checkpoints = open(store).await.unwrap();
    assert!(checkpoints.is_added(&checkpoints.claim_of(&other(1), Some(2)).await.unwrap().0));
}

#[tokio::test]
async fn i2_a_claim_that_slept_until_its_name_was_deleted_does_not_hold() {
    let store = Arc::new(InMemory::new());
    let awake = open(Arc::clone(&store)).await.unwrap();
    let mut is_first = true;
    let sleeper = FaultStore::new(Arc::clone(&store) as _, move |_, operation, path| {
        let is_claim = operation == Operation::Create && path.as_ref().contains("manifests");
        (is_claim && std::mem::take(&mut is_first)).then_some(Fault::Delay(Duration::from_millis(200)))
    });
    let sleeper = open(sleeper).await.unwrap();
    let (mut writer, _) = awake.claim(&unit()).await.unwrap();
    let unit = unit();
    let (claim, advanced) = tokio::join!(sleeper.claim(&unit), advance(&awake, &mut writer, 0, 5 * STEP, |_| ()));
    advanced.unwrap();
    let (claimed, recovery) = claim.unwrap();
    // It listed number 1, and made number 2 after that had been published and deleted; then it looked again.
    assert_eq!((claimed.number().get(), start_of(&recovery)), (7, 5 * STEP));
    assert_eq!(manifests(&store).await, [2, 5, 6, 7]);
    assert_eq!(writer.publish(&progress(6 * STEP, vec![])).await.unwrap_err().kind(), ErrorKind::Fenced);
}

#[tokio::test]
async fn units_do_not_fence_each_other() {
    let checkpoints = open(InMemory::new()).await.unwrap();
    let other = StateUnit { partition: 1, ..unit() };
    let (mut first, _) = checkpoints.claim(&unit()).await.unwrap();
    let (mut second, _) = checkpoints.claim(&other).await.unwrap();
    drop(first.publish(&progress(10, vec![])).await.unwrap());
    drop(second.publish(&progress(30, vec![])).await.unwrap());
    first.release().await.unwrap();
    drop(second.publish(&progress(40, vec![])).await.unwrap());
}

#[tokio::test]
async fn two_pipelines_on_one_path_are_refused() {
    let store = Arc::new(InMemory::new());
    let ours = open(Arc::clone(&store)).await.unwrap();
    let error = Checkpoints::open(&stores(Arc::clone(&store)), settings("other")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("`p`") && error.to_string().contains("`other`"), "{error}");
    assert_eq!(open(store).await.unwrap().pipeline_id(), ours.pipeline_id());
}

#[tokio::test]
async fn retention_keeps_what_it_says_over_many_lives() {
    let store = Arc::new(InMemory::new());
    let checkpoints = open(Arc::clone(&store)).await.unwrap();
    let mut next = 0;
    for _ in 0..3 {
        let (mut writer, _) = checkpoints.claim(&unit()).await.unwrap();
        advance(&checkpoints, &mut writer, next, next + 2 * STEP, |_| ()).await.unwrap();
        next += 2 * STEP;
        writer.release().await.unwrap();
    }
    // 1 claim, 2 and 3 checkpoints, 4 release, 5 claim, ...
    assert_eq!(manifests(&store).await, [10, 11, 12]);
    // Killed instead: the claims that follow stay, for good.
    for _ in 0..3 {
        let (mut writer, _) = checkpoints.claim(&unit()).await.unwrap();
        advance(&checkpoints, &mut writer, next, next + 2 * STEP, |_| ()).await.unwrap();
        next += 2 * STEP;
    }
    assert_eq!(manifests(&store).await, [16, 19, 20, 21]);
}

#[tokio::test]
async fn a_damaged_newest_manifest_stops_the_claim_by_name() {
    let store = Arc::new(InMemory::new());
    let checkpoints = open(Arc::clone(&store)).await.unwrap();
    let (mut writer, _) = checkpoints.claim(&unit()).await.unwrap();
    drop(writer.publish(&progress(10, vec![])).await.unwrap());
    let folder = stores(Arc::clone(&store)).open(CHECKPOINTS).unwrap();
    folder
        .write(&manifest_path(&unit(), writer.number()), Bytes::from_static(b"{\"version\": 1, \"pip"))
        .await
        .unwrap();
    let error = checkpoints.claim(&unit()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(
        error.to_string().contains("memory://checkpoints/units/s/a=2Fb/0/manifests/00000000000000000002.json"),
        "{error}"
    );
}

#[tokio::test]
async fn a_committed_file_that_is_nowhere_or_somebody_elses_is_an_error_that_names_it() {
    for is_foreign in [false, true] {
        let store = Arc::new(InMemory::new());
        let checkpoints = open(Arc::clone(&store)).await.unwrap();
        let (mut writer, _) = checkpoints.claim(&unit()).await.unwrap();
        let file = stage(&checkpoints, OffsetRange::new(offset(0), offset(10)).unwrap()).await.unwrap();
        let published = writer.publish(&progress(10, vec![file.clone()])).await.unwrap();
        let lake = checkpoints.stores().open(LAKE).unwrap();
        if is_foreign {
            // Of the same size, so that only its content tells.
            lake.write(&file.name, Bytes::from("x".repeat(file.bytes as usize))).await.unwrap();
        } else {
            lake.delete(&file.staged).await.unwrap();
        }
        for error in [writer.finish(&published).await.unwrap_err(), checkpoints.claim(&unit()).await.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Data);
            assert!(error.to_string().contains("memory://lake/00000-00010"), "{error}");
        }
    }
}

/// One writer of a race: claims, makes checkpoints, is fenced, claims again.
async fn contender(store: FaultStore, claimed: Arc<Mutex<Generation>>, published: Arc<Mutex<Vec<(u64, i64)>>>) {
    let Ok(checkpoints) = open(store).await else { return };
    for _ in 0..3 {
        let Ok((mut writer, recovery)) = checkpoints.claim(&unit()).await else { return };
        {
            let mut newest = claimed.lock().unwrap();
            *newest = (*newest).max(writer.generation());
        }
        let mut next = start_of(&recovery);
        for _ in 0..3 {
            let file = stage(&checkpoints, OffsetRange::new(offset(next), offset(next + STEP)).unwrap()).await.unwrap();
            let newest_before = *claimed.lock().unwrap();
            match writer.publish(&progress(next + STEP, vec![file])).await {
                Ok(manifest) => {
                    assert!(
                        writer.generation() >= newest_before,
                        "I3: an older generation published after a newer claim"
                    );
                    next += STEP;
                    published.lock().unwrap().push((manifest.number().get(), next));
                    writer.finish(&manifest).await.unwrap();
                    writer.retain().await.unwrap();
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn i2_i3_i5_writers_that_race_publish_each_number_once_and_lose_no_file() {
    let mut num_fenced = 0;
    for seed in 0..300 {
        let store = Arc::new(InMemory::new());
        let claimed = Arc::new(Mutex::new(Generation::FIRST));
        let published = Arc::new(Mutex::new(Vec::new()));
        let contenders = (0..3).map(|index| {
            let view = FaultStore::faultless(Arc::clone(&store) as _).with_jitter(seed * 3 + index);
            contender(view, Arc::clone(&claimed), Arc::clone(&published))
        });
        futures::future::join_all(contenders).await;
        let mut published = published.lock().unwrap().clone();
        num_fenced += 27 - published.len();
        let num_published = published.len();
        published.sort_unstable();
        published.dedup_by_key(|manifest| manifest.0);
        assert_eq!(published.len(), num_published, "seed {seed}: a number was published twice");
        // Offsets grow with numbers: every checkpoint went on where the one before ended.
        let offsets: Vec<i64> = published.iter().map(|manifest| manifest.1).collect();
        assert_eq!(offsets, (1..=num_published as i64).map(|count| count * STEP).collect::<Vec<_>>(), "seed {seed}");
        let checkpoints = open(Arc::clone(&store)).await.unwrap();
        let (_, recovery) = checkpoints.claim(&unit()).await.unwrap();
        assert_eq!(start_of(&recovery), *offsets.last().unwrap(), "seed {seed}");
        assert_eq!(visible(&store).await, up_to(start_of(&recovery)), "seed {seed}");
    }
    assert!(num_fenced > 100, "the races were none: {num_fenced}");
}

/// A snapshot with one file of each table, in the store.
async fn snapshot_at(checkpoints: &Checkpoints, writer: &UnitWriter, at: i64) -> Snapshot {
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let place = layout::snapshot_folder(&unit(), offset(at), writer.generation(), &unique);
    let mut files = Vec::new();
    for table in [StateTable::Meta, StateTable::Slots, StateTable::Rows] {
        let path = format!("{place}/{}", layout::state_file_name("a.1", table));
        checkpoints.folder().write(&path, Bytes::from_static(b"state")).await.unwrap();
        files.push(StateFile { table, path, bytes: 5, sha256: "0".repeat(64), rows: 1, batches: 1 });
    }
    let operators =
        BTreeMap::from([("a.1".to_owned(), OperatorState { fingerprint: "f".into(), keys: Vec::new(), files })]);
    Snapshot {
        offset: offset(at),
        watermark: watermark(at),
        seen: SeenPositions::default(),
        kind: StateKind::Full,
        operators,
    }
}

async fn state_files(checkpoints: &Checkpoints) -> Vec<String> {
    let listed = checkpoints.folder().list(&state_folder(&unit())).await.unwrap();
    listed.into_iter().map(|object| object.name).collect()
}

fn paths(state: &[Snapshot]) -> Vec<String> {
    let mut paths: Vec<String> = state.iter().flat_map(Snapshot::files).map(|file| file.path.clone()).collect();
    paths.sort();
    paths
}

#[tokio::test]
async fn files_of_state_live_as_long_as_a_manifest_names_them() {
    let store = Arc::new(InMemory::new());
    let checkpoints = open(Arc::clone(&store)).await.unwrap();
    let (mut writer, _) = checkpoints.claim(&unit()).await.unwrap();
    let first = snapshot_at(&checkpoints, &writer, 10).await;
    let second = snapshot_at(&checkpoints, &writer, 20).await;
    let both = vec![first, second.clone()];
    let with = |state: Vec<Snapshot>, next| Progress { state, ..progress(next, Vec::new()) };
    let published = writer.publish(&with(both.clone(), 20)).await.unwrap();
    writer.finish(&published).await.unwrap();
    writer.retain().await.unwrap();
    assert_eq!(state_files(&checkpoints).await, paths(&both));

    // The next manifest lets the first go, and only then it is deleted.
    let published = writer.publish(&with(vec![second.clone()], 30)).await.unwrap();
    assert_eq!(state_files(&checkpoints).await, paths(&both));
    writer.finish(&published).await.unwrap();
    writer.retain().await.unwrap();
    assert_eq!(state_files(&checkpoints).await, paths(std::slice::from_ref(&second)));

    // A snapshot that no manifest came to name goes with the next claim; what is named stays.
    let unnamed = snapshot_at(&checkpoints, &writer, 40).await;
    drop(writer);
    let (next, recovery) = checkpoints.claim(&unit()).await.unwrap();
    let Recovery::Resume(resume) = recovery else { panic!() };
    assert_eq!(resume.state, std::slice::from_ref(&second));
    assert_eq!(state_files(&checkpoints).await, paths(std::slice::from_ref(&second)));
    assert!(!paths(&[unnamed]).is_empty());

    // One of a writer that took over meanwhile is not ours to judge.
    let theirs = snapshot_at(&checkpoints, &next, 50).await;
    drop(next);
    let old = checkpoints.shared.read(&unit(), ManifestNumber::new(3).unwrap()).await.unwrap().unwrap();
    delete_left_behind(checkpoints.folder(), &old).await.unwrap();
    assert_eq!(state_files(&checkpoints).await, paths(&[second, theirs]));
}
