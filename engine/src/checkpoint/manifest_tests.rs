//! Tests of the manifest: the golden file of each version, and what is refused.

use super::*;
use crate::error::ErrorKind;
use crate::types::{EventTime, OffsetRange};

const GOLDEN_V1: &str = include_str!("golden/manifest_v1.json");
const GOLDEN: &str = include_str!("golden/manifest_v2.json");

fn offset(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

fn watermark(micros: i64) -> Watermark {
    let mut watermark = Watermark::NONE;
    watermark.advance(EventTime::from_micros(micros));
    watermark
}

fn unit() -> StateUnit {
    StateUnit { source: "transactions".into(), topic: "cards".into(), partition: 3 }
}

fn snapshot(at: i64, kind: StateKind) -> Snapshot {
    let file = |table: StateTable, rows: u64| StateFile {
        table,
        path: format!("units/transactions/cards/3/state/{at:020}-g1-5f/features.1.{}.arrow", table.as_str()),
        bytes: 512 * rows,
        sha256: "ef".repeat(32),
        rows,
        batches: 1,
    };
    let files = vec![file(StateTable::Meta, 1), file(StateTable::Slots, 20), file(StateTable::Rows, 60)];
    Snapshot {
        seen: SeenPositions::default(),
        offset: offset(at),
        watermark: watermark(1_700_000_000_000_000 + at),
        kind,
        operators: BTreeMap::from([(
            "features.1".to_owned(),
            OperatorState { fingerprint: "12".repeat(32), keys: vec!["user_id".into()], files },
        )]),
    }
}

fn manifest() -> Manifest {
    let file = StagedFile {
        folder: "s3://lake/archive".into(),
        staged: "_staging/p/archive/transactions/cards/3/5f.parquet".into(),
        name: "transactions--cards--3--00000000000000000100-00000000000000000180.parquet".into(),
        bytes: 4096,
        rows: 80,
        range: OffsetRange::new(offset(100), offset(180)).unwrap(),
    };
    let archive = SinkProgress {
        position: offset(180),
        watermark: watermark(1_700_000_000_000_000),
        covered: None,
        files: vec![file],
    };
    let alerts = SinkProgress {
        position: offset(200),
        watermark: watermark(1_700_000_060_000_000),
        covered: None,
        files: Vec::new(),
    };
    Manifest {
        version: MANIFEST_VERSION,
        pipeline: "0e0f6a3e-0000-4000-8000-000000000001".into(),
        unit: unit(),
        number: ManifestNumber::new(7).unwrap(),
        generation: Generation::FIRST.next(),
        kind: ManifestKind::Checkpoint,
        predecessor: None,
        num_first_partitions: None,
        epoch: Some(Epoch::FIRST),
        offset: Some(offset(200)),
        watermark: watermark(1_700_000_060_000_000),
        sinks: BTreeMap::from([("alerts".to_owned(), alerts), ("archive".to_owned(), archive)]),
        restart: None,
        state: vec![snapshot(100, StateKind::Full), snapshot(150, StateKind::Delta)],
        models: BTreeMap::from([("fraud".to_owned(), ModelVersion { version: "3".into(), sha256: "ab".repeat(32) })]),
        schedule: Vec::new(),
        sql_fingerprint: "cd".repeat(32),
        written_at: "2026-01-02T03:04:05.678Z".into(),
        writer: WriterIdentity { host: "worker-1".into(), pid: 42, id: "0e0f6a3e-0000-4000-8000-000000000002".into() },
    }
}

fn read(text: &str) -> Result<Manifest> {
    Manifest::from_bytes(
        text.as_bytes(),
        "s3://c/x.json",
        Some("0e0f6a3e-0000-4000-8000-000000000001"),
        &unit(),
        ManifestNumber::new(7).unwrap(),
    )
}

fn refusal(text: &str) -> String {
    let error = read(text).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().starts_with("s3://c/x.json: "), "{error}");
    error.to_string()
}

#[test]
fn version_2_is_written_and_read_as_in_the_golden_file() {
    assert_eq!(std::str::from_utf8(&manifest().to_bytes().unwrap()).unwrap(), GOLDEN);
    assert_eq!(read(GOLDEN).unwrap(), manifest());
}

#[test]
fn version_1_is_read_as_one_without_state() {
    assert_eq!(read(GOLDEN_V1).unwrap(), Manifest { version: 1, state: Vec::new(), ..manifest() });
    assert!(refusal(&GOLDEN.replace("\"version\": 2", "\"version\": 1")).contains("version 1"));
}

#[test]
fn snapshots_that_do_not_fit_together_are_refused() {
    let with = |state: Vec<Snapshot>| Manifest { state, ..manifest() }.check();
    let (full, delta) = (snapshot(100, StateKind::Full), snapshot(150, StateKind::Delta));
    assert_eq!(with(vec![full.clone(), delta.clone()]), Ok(()));
    let mut other = delta.clone();
    other.operators.values_mut().for_each(|operator| operator.fingerprint = "other".into());
    assert!(with(vec![full.clone(), other]).unwrap_err().contains("operators of the one before"));
    assert!(with(vec![delta]).unwrap_err().contains("not a full one"));
    assert!(with(vec![full.clone(), full.clone()]).unwrap_err().contains("does not follow"));
    assert!(with(vec![snapshot(201, StateKind::Full)]).unwrap_err().contains("beyond the offset"));
    let mut outside = full.clone();
    outside.operators.values_mut().for_each(|operator| operator.files[1].path = "units/../state/x".into());
    assert!(with(vec![outside]).unwrap_err().contains("not a file of state"));
    let mut less = full;
    less.operators.values_mut().for_each(|operator| drop(operator.files.pop()));
    assert!(with(vec![less]).unwrap_err().contains("one of each table"));
}

#[test]
fn a_damaged_manifest_is_named_and_its_text_is_not_quoted() {
    let message = refusal(&GOLDEN[..200]);
    assert!(message.contains("damaged") && !message.contains("alerts"), "{message}");
    let message = refusal(&GOLDEN.replace("\"offset\": 200", "\"offset\": \"secret\""));
    assert!(message.contains("line") && !message.contains("secret"), "{message}");
    refusal("");
    refusal("{\"version\": 1}");
}

#[test]
fn a_newer_version_is_refused_as_such() {
    assert!(refusal("{\"version\": 3, \"anything\": []}").contains("found version 3"));
}

#[test]
fn a_manifest_under_another_name_or_of_another_pipeline_is_refused() {
    assert!(refusal(&GOLDEN.replace("\"number\": 7", "\"number\": 8")).contains("number 8"));
    assert!(refusal(&GOLDEN.replace("\"partition\": 3", "\"partition\": 4")).contains("transactions/cards/4"));
    assert!(refusal(&GOLDEN.replace("8000-000000000001", "8000-000000000009")).contains("belongs to"));
}

#[test]
fn progress_that_contradicts_itself_is_refused() {
    for (good, bad, problem) in [
        ("\"offset\": 200", "\"offset\": 199", "beyond the offset"),
        ("\"offset\": 200", "\"offset\": null", "has an offset"),
        ("\"position\": 180", "\"position\": 179", "beyond the position"),
        ("\"watermark_micros\": 1700000000000000", "\"watermark_micros\": 1700000060000001", "watermark lies beyond"),
        ("\"kind\": \"checkpoint\"", "\"kind\": \"claim\"", "who was before"),
        ("\"epoch\": 1", "\"epoch\": null", "an epoch"),
        ("\"kind\": \"full\"", "\"kind\": \"delta\"", "not a full one"),
        ("\"_staging/p", "\"../p", "not those of a staged file"),
        ("\"staged\": \"_staging", "\"staged\": \"staging", "not those of a staged file"),
        ("\"name\": \"transactions--", "\"name\": \"/transactions--", "not those of a staged file"),
    ] {
        assert!(GOLDEN.contains(good), "{good}");
        let message = refusal(&GOLDEN.replace(good, bad));
        assert!(message.contains(problem), "{message}");
    }
    // An unknown key may be a meaning that we would lose.
    refusal(&GOLDEN.replace("\"kind\": \"full\"", "\"kind\": \"full\", \"more\": 1"));
}

#[test]
fn a_restart_lies_at_or_below_every_position() {
    let mut internal = manifest();
    let mut seen = SeenPositions::default();
    seen.advance("outer/cards", 3, crate::types::SeenPosition(77, 1));
    let restart =
        |at| RestartPoint { offset: offset(at), watermark: watermark(1_700_000_000_000_000), seen: seen.clone() };
    internal.restart = Some(restart(180));
    let text = String::from_utf8(internal.to_bytes().unwrap().to_vec()).unwrap();
    assert_eq!(read(&text).unwrap(), internal);
    assert!(text.contains("\"outer/cards\": {"), "{text}");
    internal.restart = Some(restart(181));
    assert_eq!(internal.to_bytes().unwrap_err().kind(), ErrorKind::Internal);
    assert!(
        refusal(&text.replace("\"restart\": {\n    \"offset\": 180", "\"restart\": {\n    \"offset\": 181"))
            .contains("restart")
    );
}

#[test]
fn what_must_hold_is_checked_before_writing_too() {
    let wrong = Manifest { offset: Some(offset(10)), ..manifest() };
    assert_eq!(wrong.to_bytes().unwrap_err().kind(), ErrorKind::Internal);
}

#[test]
fn what_was_added_to_a_version_is_read_back_and_absent_in_older_manifests() {
    let mut newer = manifest();
    newer.num_first_partitions = Some(3);
    newer.sinks.get_mut("archive").unwrap().covered = Some(offset(180));
    let text = String::from_utf8(newer.to_bytes().unwrap().to_vec()).unwrap();
    assert!(text.contains("\"num_first_partitions\": 3") && text.contains("\"covered\": 180"), "{text}");
    assert_eq!(read(&text).unwrap(), newer);
    assert_eq!(read(GOLDEN).unwrap().sinks["archive"].covered, None);
    // Files reach at least to the end of the last one, and at most to the position.
    for covered in [179, 181] {
        newer.sinks.get_mut("archive").unwrap().covered = Some(offset(covered));
        assert_eq!(newer.to_bytes().unwrap_err().kind(), ErrorKind::Internal, "{covered}");
    }
}

#[test]
fn a_schedule_says_from_which_record_on_which_models_served() {
    let models = |version: &str| {
        let served = ServedModel {
            version: version.to_owned(),
            sha256: version.repeat(64),
            threshold: "0.7".to_owned(),
            run_id: None,
        };
        BTreeMap::from([("fraud".to_owned(), served)])
    };
    let serving = |from, version| Serving { from: offset(from), models: models(version) };
    let first = schedule_after(Vec::new(), offset(5), &models("a"));
    assert_eq!(first, [serving(5, "a")]);
    // The same models go on; others begin where they begin.
    assert_eq!(schedule_after(first.clone(), offset(9), &models("a")), first);
    let second = schedule_after(first.clone(), offset(9), &models("b"));
    assert_eq!(second, [serving(5, "a"), serving(9, "b")]);
    // What had served nothing, because a sink went back, is forgotten.
    assert_eq!(schedule_after(second.clone(), offset(9), &models("a")), first);
    assert_eq!(schedule_after(second, offset(7), &models("c")), [serving(5, "a"), serving(7, "c")]);
    assert_eq!(schedule_after(first, offset(5), &BTreeMap::new()), []);
}
