//! A report of a small training: which files it has, that text is escaped, that nothing is loaded from elsewhere. Python parses the same
//! report and its pictures, see tests/python/check_report.py.

use std::collections::BTreeMap;

use super::*;
use crate::model::evaluation::{Categories, EvaluationSettings, Examples, evaluate};
use crate::model::gate::{Contender, GateRules, decide};
use crate::model::manifest::{MODEL_MANIFEST_VERSION, Part, Parts, Search, TrainingData, Versions};
use crate::types::ThresholdPolicy;

const DAY: i64 = 86_400_000_000;
const HOSTILE: &str = "<script>alert(\"1\")</script>&'";

fn manifest() -> ModelManifest {
    let part =
        |rows, positives, from: &str, until: &str| Part { rows, positives, from: from.into(), until: until.into() };
    ModelManifest {
        version: MODEL_MANIFEST_VERSION,
        model: "fraud".into(),
        run: Some(HOSTILE.into()),
        sha256: "5f".repeat(32),
        features: vec!["amount".into(), "seconds_since_last".into()],
        label: "is_fraud".into(),
        amount: Some("amount".into()),
        segments: vec!["channel".into()],
        threshold: 0.31,
        threshold_policy: ThresholdPolicy::PrecisionFloor { precision: 0.88 },
        seed: 42,
        parts: Parts {
            train: part(560_000, 7_800, "2026-01-01T00:00:00Z", "2026-02-05T00:00:00Z"),
            gap: part(110_000, 1_500, "2026-02-05T00:00:00Z", "2026-02-12T00:00:00Z"),
            validation: part(60_000, 800, "2026-02-12T00:00:00Z", "2026-02-16T00:00:00Z"),
            test: part(40_000, 560, "2026-02-16T00:00:00Z", "2026-03-02T00:00:00Z"),
        },
        sql_fingerprint: "ab12".repeat(8),
        data: vec![TrainingData {
            source: "transactions".into(),
            uri: "history/2026/".into(),
            order: "as served".into(),
            rows: 770_000,
            rejected: 12,
        }],
        versions: Versions { tidemill: "0.1.0".into(), lightgbm: "4.6.0".into() },
        parameters: BTreeMap::from([("num_leaves".into(), 31.into()), ("objective".into(), "binary".into())]),
        imbalance: "none".into(),
        search: Search { trials: 20, folds: 3, average_precision: Some(0.71), of_defaults: Some(0.70) },
        metrics: BTreeMap::new(),
        notes: vec!["rows without a label were left out: 120".into()],
    }
}

/// Rows like those of a fraud test: most of some kinds is found, noise is not.
struct Rows {
    labels: Vec<bool>,
    times: Vec<i64>,
    amounts: Vec<f64>,
    kinds: Categories,
    channels: Categories,
    candidate: Vec<f64>,
    champion: Vec<f64>,
}

fn rows() -> Rows {
    const KINDS: [&str; 5] =
        ["card_testing", "account_takeover", "merchant_collusion", "geographic_anomaly", "baseline_noise"];
    const EASE: [f64; 5] = [5.5, 3.5, 3.0, 0.6, -1.5];
    let mut seed = 1_u64;
    let mut uniform = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((seed >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    };
    let mut rows = Rows {
        labels: Vec::new(),
        times: Vec::new(),
        amounts: Vec::new(),
        kinds: Categories::default(),
        channels: Categories::default(),
        candidate: Vec::new(),
        champion: Vec::new(),
    };
    let (mut kinds, mut channels) = (Vec::new(), Vec::new());
    for row in 0..40_000_i64 {
        let kind = (uniform() < 0.014).then(|| (uniform() * 5.0) as usize);
        let ease = kind.map_or(0.0, |kind| EASE[kind]);
        let noise = (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
        let score = |shift: f64, noise: f64| 1.0 / (1.0 + (5.6 - 1.5 * ease - shift - 0.9 * noise).exp());
        let own = noise + 0.8 * (uniform() - 0.5);
        rows.labels.push(kind.is_some());
        rows.times.push(1_771_200_000_000_000 + row * 14 * DAY / 40_000);
        rows.amounts.push(20.0 + 400.0 * uniform() * uniform());
        rows.candidate.push(score(0.0, noise));
        rows.champion.push(score(-0.1 * ease, own));
        kinds.push(kind.map(|kind| KINDS[kind]));
        channels.push(["online", "card_present", "app", HOSTILE][(uniform() * uniform() * 4.0) as usize]);
    }
    rows.kinds = Categories::of(kinds);
    rows.channels = Categories::of(channels.into_iter().map(Some));
    rows
}

fn made() -> Report {
    let (rows, manifest) = (rows(), manifest());
    let settings = EvaluationSettings {
        alerts_per_day: Some(30),
        unfindable_kinds: vec!["baseline_noise".into()],
        ..EvaluationSettings::at(manifest.threshold)
    };
    let examples = Examples {
        scores: &rows.candidate,
        labels: &rows.labels,
        times: &rows.times,
        amounts: Some(&rows.amounts),
        kinds: Some(&rows.kinds),
        segments: vec![("channel", &rows.channels)],
    };
    let evaluation = evaluate(&examples, &settings).unwrap();
    let champion = evaluate(&Examples { scores: &rows.champion, ..examples.clone() }, &settings).unwrap();
    let contender = |version, scores| Contender {
        version,
        scores,
        threshold: manifest.threshold,
        features: &manifest.features,
        sha256: version,
    };
    let (new, old) = (contender("4", rows.candidate.as_slice()), contender("3", rows.champion.as_slice()));
    let gate = decide(&examples, &new, Some(&old), &GateRules::default()).unwrap();
    let importance: Vec<(String, f64)> = (0..30)
        .map(|at| (format!("user_merchants_over_so_many_days_{at}"), 1000.0 / f64::from(at + 1)))
        .chain([(HOSTILE.to_owned(), 900.0)])
        .collect();
    report(&ReportInput {
        manifest: &manifest,
        evaluation: &evaluation,
        champion: Some(("3", &champion)),
        gate: Some(&gate),
        importance: &importance,
    })
    .unwrap()
}

#[test]
fn a_report_has_a_page_and_each_picture_in_both_forms() {
    let report = made();
    let names: Vec<&str> = report.files.keys().map(String::as_str).collect();
    let pictures = [
        "calibration",
        "confusion_matrix",
        "feature_importance",
        "precision_recall",
        "score_distribution",
        "threshold_curve",
    ];
    let mut wanted: Vec<String> =
        pictures.iter().flat_map(|name| [format!("plots/{name}.png"), format!("plots/{name}.svg")]).collect();
    wanted.push("report.html".into());
    assert_eq!(names, wanted);
    let page = std::str::from_utf8(&report.files["report.html"]).unwrap();
    assert_eq!(page.matches("<svg ").count(), pictures.len());
    assert!(page.len() < 600_000, "{}", page.len());
    for (name, file) in report.files.iter().filter(|(name, _)| name.ends_with(".png")) {
        assert!((5_000..200_000).contains(&file.len()), "{name}: {}", file.len());
    }
}

#[test]
fn text_of_others_is_escaped_and_nothing_is_loaded() {
    let report = made();
    for name in ["report.html", "plots/feature_importance.svg"] {
        let text = std::str::from_utf8(&report.files[name]).unwrap();
        assert!(!text.contains("<script"), "{name}");
        assert!(text.contains("&lt;script&gt;"), "{name}");
    }
    let page = std::str::from_utf8(&report.files["report.html"]).unwrap();
    for word in ["src=", "href=", "url(", "@import", "javascript:"] {
        assert!(!page.contains(word), "{word}");
    }
}

#[test]
fn the_page_says_what_no_model_can_find() {
    let report = made();
    let page = std::str::from_utf8(&report.files["report.html"]).unwrap();
    assert!(page.contains("are noise by construction") && page.contains("baseline_noise"));
    assert!(page.contains("the most recall at a precision of 0.88 on validation"));
    assert!(page.contains(">not ok<") || page.contains(">passed<"));
}

#[test]
fn the_same_training_gives_the_same_files() {
    assert_eq!(made(), made());
}

#[test]
#[ignore = "writes into the folder that TIDEMILL_REPORT_FOLDER names, for tests/python/check_report.py"]
fn a_report_is_written_for_python_to_read() {
    let folder = std::env::var_os("TIDEMILL_REPORT_FOLDER").expect("TIDEMILL_REPORT_FOLDER names the folder");
    for (name, file) in made().files {
        let path = std::path::Path::new(&folder).join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, file).unwrap();
    }
}
