//! What may be learnt from: leaks by whatever path, columns that are not there or of another type, and the settings that tests share.

use std::time::Duration;

use super::*;
use crate::pipeline::settings::Boundary;

/// The defaults of the section, without a search.
pub(super) fn training() -> Training {
    Training {
        model: "fraud".into(),
        label: "is_fraud".into(),
        view: None,
        known_later: Vec::new(),
        amount: None,
        segments: Vec::new(),
        kind: None,
        unfindable_kinds: Vec::new(),
        alerts_per_day: None,
        from: None,
        until: None,
        label_delay: None,
        validation: Boundary::Share(0.15),
        test: Boundary::Share(0.2),
        folds: 3,
        trials: 0,
        time_budget: Duration::from_secs(600),
        seed: 42,
        rounds: 500,
        early_stopping: 50,
        parameters: TreeParameters::default(),
        imbalance: Imbalance::Nothing,
        threshold: ThresholdPolicy::FBeta { beta: 1.0 },
        gate: crate::pipeline::settings::Gate::default(),
    }
}

/// The query of a pipeline with some views, the last of which has the arguments of score; or why there is none.
fn query(views: &[(&str, &str)], training_keys: &str) -> Result<FeatureQuery> {
    let folder = tempfile::tempdir().unwrap();
    let views: String = views.iter().map(|(name, sql)| format!("  {name}: \"{sql}\"\n")).collect();
    let text = format!(
        "pipeline: p
sources:
  t:
    connector: files
    path: x
    format: parquet
    columns: {{ id: bigint not null, amount: double not null, name: string, is_fraud: int, reviewed: boolean, at: timestamp not null }}
    event_time: at
    partitioned_by: [id]
models: {{ fraud: {{ uri: m }} }}
views:
{views}sinks: {{ out: {{ connector: console, select: SELECT * FROM scored }} }}
training: {{ label: is_fraud, trials: 0{training_keys} }}
"
    );
    let path = folder.path().join("p.yaml");
    std::fs::write(&path, text).unwrap();
    let pipeline = Pipeline::load(&path, &|_| None).unwrap();
    feature_query(&pipeline, training_of(&pipeline).unwrap())
}

fn refused(views: &[(&str, &str)], training_keys: &str) -> String {
    let error = query(views, training_keys).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Invalid, "{error}");
    error.to_string()
}

const SCORED: (&str, &str) = ("scored", "SELECT *, score('fraud', amount, x) AS s FROM features");

#[test]
fn the_query_has_the_arguments_of_score_and_what_training_names() {
    let features = ("features", "SELECT id, amount, amount * 2 AS x, is_fraud, at, name FROM t");
    let found = query(&[features, SCORED], ", amount: amount, segments: [name, id], kind: name").unwrap();
    assert_eq!((found.features, found.view.as_str()), (vec!["amount".to_owned(), "x".to_owned()], "features"));
    assert!(
        found.select.contains(r#"CAST("id" AS VARCHAR) AS "segment 1 of training" FROM "features""#),
        "{}",
        found.select
    );
    let scored = ("scored", "SELECT s * 2 AS s FROM (SELECT score('fraud', amount, x) AS s FROM features)");
    let same = query(&[features, scored], ", amount: amount, segments: [name, id], kind: name").unwrap();
    assert_eq!(found.fingerprint, same.fingerprint, "what stands behind the features changes their fingerprint");
    let other = ("features", "SELECT id, amount, amount * 3 AS x, is_fraud, at, name FROM t");
    let other = query(&[other, SCORED], ", amount: amount, segments: [name, id], kind: name").unwrap();
    assert_ne!(found.fingerprint, other.fingerprint);
}

#[test]
fn the_label_is_refused_under_every_name_and_through_every_view() {
    let window = "OVER (PARTITION BY id ORDER BY at ROWS BETWEEN 3 PRECEDING AND 1 PRECEDING)";
    let direct = ("features", "SELECT amount, is_fraud AS x, is_fraud, at FROM t");
    let text = refused(&[direct, SCORED], "");
    assert!(text.contains("  x: features.x <- t.is_fraud (the label)") && !text.contains("amount:"), "{text}");

    let history = format!("SELECT id, amount, at, is_fraud, sum(is_fraud) {window} AS frauds FROM t");
    let features = ("features", "SELECT amount, coalesce(frauds, 0) * 2 AS x, is_fraud, at FROM history");
    let text = refused(&[("history", &history), features, SCORED], "");
    assert!(text.contains("x: features.x <- history.frauds <- t.is_fraud (the label)"), "{text}");

    // Which rows a window sees is what it says.
    let honest = ("honest", "SELECT id, amount, at, is_fraud FROM t WHERE is_fraud = 0");
    let counted = format!("SELECT amount, at, is_fraud, count(*) {window} AS x FROM honest");
    let text = refused(&[honest, ("features", &counted), SCORED], "");
    assert!(text.contains("x: features.x <- honest.") && text.contains("<- t.is_fraud"), "{text}");

    let case = ("features", "SELECT amount, CASE WHEN is_fraud = 1 THEN 2 ELSE 1 END AS x, is_fraud, at FROM t");
    assert!(refused(&[case, SCORED], "").contains("x: features.x <- t.is_fraud"));
}

#[test]
fn a_renamed_label_is_still_the_label() {
    let features = ("features", "SELECT amount, is_fraud + 1 AS x, is_fraud AS is_bad, at FROM t");
    let text = refused(&[features, SCORED], "").replace("label: is_fraud", "");
    assert!(text.contains("no column is_fraud"), "{text}");
    let both = ("features", "SELECT amount, cast(reviewed AS int) AS x, cast(reviewed AS int) AS is_fraud, at FROM t");
    let text = refused(&[both, SCORED], "");
    assert!(text.contains("x: features.x <- t.reviewed (the label)"), "{text}");
}

#[test]
fn a_label_of_several_columns_asks_which_of_them_are_known_later() {
    let features = (
        "features",
        "SELECT amount, amount * 2 AS x, CASE WHEN reviewed THEN 1 WHEN amount > 5000 THEN 1 ELSE 0 END AS is_fraud, at FROM t",
    );
    let text = refused(&[features, SCORED], "");
    assert!(text.contains("computed from t.amount, t.reviewed") && text.contains("known_later"), "{text}");
    query(&[features, SCORED], ", known_later: [reviewed]").unwrap();
}

#[test]
fn a_column_that_is_known_later_is_refused() {
    let features = ("features", "SELECT amount, cast(reviewed AS int) + 1 AS x, is_fraud, at FROM t");
    query(&[features, SCORED], "").unwrap();
    let text = refused(&[features, SCORED], ", known_later: [reviewed]");
    assert!(text.contains("x: features.x <- t.reviewed (known only later)"), "{text}");
    let kind = ("features", "SELECT amount, length(name) AS x, name, is_fraud, at FROM t");
    assert!(refused(&[kind, SCORED], ", kind: name").contains("known only later"));
}

#[test]
fn columns_that_are_missing_or_of_another_type_are_named() {
    let features = ("features", "SELECT amount, amount AS x, name AS is_fraud, at FROM t");
    let text = refused(&[features, SCORED], "");
    assert!(
        text.contains("`training.label`: expected a number or a boolean, found the column is_fraud of type Utf8"),
        "{text}"
    );
    let features = ("features", "SELECT amount, amount AS x, is_fraud, id FROM t");
    assert!(refused(&[features, SCORED], "").contains("the event time: the view features has no column at"));
    let features = ("features", "SELECT amount, amount AS x, is_fraud, at FROM t");
    let text = refused(&[features, SCORED], ", segments: [nam]");
    assert!(text.contains("`training.segments`: the view features has no column nam"), "{text}");
    assert!(refused(&[features, SCORED], ", view: feature").contains("did you mean `features`?"));
    let computed = ("scored", "SELECT score('fraud', amount, x * 2) AS s FROM features");
    assert!(refused(&[features, computed], "").contains("feature 2 of score"));
    let twice = ("scored", "SELECT score('fraud', x, x) AS s FROM features");
    assert!(refused(&[features, twice], "").contains("x stands twice"));
    let unscored = ("scored", "SELECT amount FROM features");
    assert!(refused(&[features, unscored], "").contains("calls score('fraud', ...)"));
}
