//! Model directories: what we write can be read back, what Python wrote is understood, and what cannot be served says why.

use super::*;

/// As `mlflow.lightgbm.log_model(booster, ...)` of MLflow 3.17.2 writes it.
const OF_PYTHON: &str = "artifact_path: mlflow-artifacts:/2/models/m-1/artifacts
flavors:
  lightgbm:
    code: null
    data: model.lgb
    lgb_version: 4.7.0
    model_class: lightgbm.basic.Booster
    serialization_format: skops
  python_function:
    data: model.lgb
    env:
      conda: conda.yaml
      virtualenv: python_env.yaml
    loader_module: mlflow.lightgbm
signature:
  inputs: '[{\"type\": \"double\"}]'
  outputs: null
prompts: [a, {flavors: 1}]
";

fn of(files: &[(&str, &str)]) -> Package {
    let mut package = Package::default();
    for (path, content) in files {
        package.insert(path, (*content).to_owned()).unwrap();
    }
    package
}

fn self_test() -> SelfTest {
    SelfTest {
        features: vec!["amount".into(), "it's".into()],
        rows: vec![vec![0.1 + 0.2, f64::NAN], vec![f64::MIN_POSITIVE, f64::INFINITY]],
        scores: vec![0.012_345_678_901_234_567, 1.0 / 3.0],
    }
}

fn written() -> Package {
    let test = self_test();
    let metadata = [("threshold", serde_json::json!(0.7)), ("sql", serde_json::json!("a: 'b'"))];
    Package::of_model(&ModelFiles {
        model_text: "tree\n",
        lightgbm_version: "4.7.0",
        self_test: &test,
        metadata: &metadata,
    })
    .unwrap()
}

#[test]
fn a_booster_that_python_logged_is_found() {
    let package = of(&[(MLMODEL, OF_PYTHON), ("model.lgb", "tree\n")]);
    assert_eq!(package.model_text().unwrap(), "tree\n");
    assert_eq!(package.manifest().unwrap(), None);
    assert_eq!(package.self_test().unwrap(), None);
}

#[test]
fn a_classifier_is_refused_with_what_to_log_instead() {
    let skops = OF_PYTHON
        .replace("lightgbm.basic.Booster", "lightgbm.sklearn.LGBMClassifier")
        .replace("model.lgb", "model.skops");
    let pickle = OF_PYTHON.replace("    model_class: lightgbm.basic.Booster\n", "").replace("model.lgb", "model.pkl");
    for text in [&skops, &pickle] {
        let error = of(&[(MLMODEL, text), ("model.skops", "PK")]).model_text().unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Invalid);
        assert!(error.to_string().contains("clf.booster_"), "{error}");
    }
}

#[test]
fn other_models_and_broken_directories_are_refused() {
    let sklearn = OF_PYTHON.replace("  lightgbm:", "  sklearn:");
    let outside = OF_PYTHON.replace("data: model.lgb", "data: ../secret");
    for (files, hint) in [
        (vec![(MLMODEL, sklearn.as_str()), ("model.lgb", "")], "flavors sklearn, python_function"),
        (vec![(MLMODEL, outside.as_str())], "relative path"),
        (vec![(MLMODEL, OF_PYTHON), ("x.txt", "")], "found MLmodel, x.txt"),
        (vec![(MLMODEL, "- a\n")], "expected `flavors`"),
        (vec![(MLMODEL, "a: [")], "line"),
        (vec![("x.txt", "")], "expected MLmodel or model.lgb"),
    ] {
        let error = of(&files).model_text().unwrap_err();
        assert!(error.to_string().contains(hint), "{hint}: {error}");
    }
}

#[test]
fn the_self_test_keeps_every_bit() {
    let test = self_test();
    let read = SelfTest::parse(&test.to_json()).unwrap();
    let bits = |test: &SelfTest| -> Vec<u64> {
        test.rows.iter().flatten().chain(&test.scores).map(|number| number.to_bits()).collect()
    };
    assert_eq!(bits(&read), bits(&test));
    assert_eq!(read.features, test.features);
    for wrong in ["", "{}", r#"{"version":1,"features":["a"],"rows":[["1","2"]],"scores":["1"]}"#] {
        assert_eq!(SelfTest::parse(wrong).unwrap_err().kind(), crate::ErrorKind::Data);
    }
}

#[test]
fn what_we_write_names_its_model_also_after_registration() {
    let package = written();
    assert_eq!(package.model_path().unwrap(), MODEL);
    let registered = RegisteredAs { artifact_path: "a:/b", model_id: "m-1", run_id: "r'1", utc_time_created: "now" };
    let registered = package.registered_as(&registered).unwrap();
    assert_eq!(registered.model_path().unwrap(), MODEL);
    let text = registered.text(MLMODEL).unwrap().unwrap();
    assert!(text.ends_with(
        "artifact_path: 'a:/b'\nmodel_id: 'm-1'\nmodel_uuid: 'm-1'\nrun_id: 'r''1'\nutc_time_created: 'now'\n"
    ));
    // Once more: nothing twice.
    let again = RegisteredAs { artifact_path: "a:/b", model_id: "m-2", run_id: "r", utc_time_created: "now" };
    let again = registered.registered_as(&again).unwrap();
    assert_eq!(again.text(MLMODEL).unwrap().unwrap().matches("model_id").count(), 1);
}

#[test]
fn a_folder_holds_the_package_and_nothing_of_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let mut package = written();
    package.insert("plots/pr.svg", "<svg/>").unwrap();
    package.insert(FEATURES_SQL, "SELECT 1").unwrap();
    package.write_folder(&path).unwrap();
    assert_eq!(Package::read_folder(&path).unwrap(), package);
    std::fs::write(path.join("notes of a person"), "x").unwrap();
    package.files.remove(FEATURES_SQL);
    package.write_folder(&path).unwrap();
    let read = Package::read_folder(&path).unwrap();
    assert!(!read.files.contains_key(FEATURES_SQL) && read.files.contains_key("notes of a person"));
    for missing in [folder.path().join("none"), path.join(MODEL)] {
        assert_eq!(Package::read_folder(&missing).unwrap_err().kind(), crate::ErrorKind::Invalid);
    }
}

#[test]
fn paths_lead_nowhere_else() {
    for path in ["", "/a", "a//b", "../a", "a/../b", ".", "a\\b", "a\nb"] {
        assert!(Package::default().insert(path, "").is_err(), "{path}");
    }
}
