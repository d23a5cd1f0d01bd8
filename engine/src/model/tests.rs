//! Models of all places: what is read, what is refused and why, and what a look can tell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::candidate::{Named, Raw, examine};
use super::follow::{Follower, Look};
use super::library::Identity;
use super::manifest::ModelManifest;
use super::package::{MANIFEST, ModelFiles, Package, SelfTest};
use super::registry::{Registry, RunRecord};
use super::*;
use crate::ErrorKind;
use crate::checkpoint::sha256_hex;
use crate::pipeline::settings::Pipeline;

const BINARY: &str = include_str!("../../../udfs/testdata/binary_31.txt");
const REGRESSION: &str = include_str!("../../../udfs/testdata/regression.txt");

fn place(uri: &str, threshold: Option<f64>) -> Place {
    let reload = Some(Duration::from_secs(30));
    Place { slot: "fraud".into(), champion: None, uri: uri.into(), threshold, reload }
}

fn path(path: PathBuf) -> String {
    path.to_str().unwrap().to_owned()
}

fn library_of(folder: &Path, env: BTreeMap<String, String>) -> Library {
    let text = "pipeline: p\nmodels: { fraud: { uri: \"models:/fraud@champion\" } }\nsources: { t: { connector: generator, columns: { id: string } } }\n\
                sinks: { out: { connector: console, select: SELECT id FROM t } }\n";
    let file = folder.join("p.yaml");
    std::fs::write(&file, text).unwrap();
    Library::open(&Pipeline::load(&file, &|_| None).unwrap(), &env).unwrap()
}

fn library(folder: &Path) -> Library {
    library_of(folder, BTreeMap::from([("TIDEMILL_REGISTRY".to_owned(), path(folder.join("registry")))]))
}

fn scores(text: &str, rows: &[Vec<f64>]) -> Vec<f64> {
    let model = tidemill_udfs::scorer::Model::parse(text).unwrap();
    let columns: Vec<Vec<f64>> = (0..4).map(|feature| rows.iter().map(|row| row[feature]).collect()).collect();
    let columns: Vec<tidemill_udfs::scorer::Column<'_>> =
        columns.iter().map(|column| column.as_slice().into()).collect();
    let mut scores = vec![0.0; rows.len()];
    model.score(&columns, &mut scores, &mut tidemill_udfs::scorer::Scratch::default());
    scores
}

/// A model directory as training writes it.
fn package(text: &str, threshold: f64) -> Package {
    let features: Vec<String> = (0..4).map(|feature| format!("f{feature}")).collect();
    let rows = vec![vec![1.0, 2.0, 3.0, 4.0], vec![f64::NAN, -1.0, 60.5, 1e9]];
    let test = SelfTest { features, scores: scores(text, &rows), rows };
    let files = ModelFiles { model_text: text, lightgbm_version: "4.6.0", self_test: &test, metadata: &[] };
    let mut package = Package::of_model(&files).unwrap();
    let manifest = ModelManifest { sha256: sha256_hex(text.as_bytes()), threshold, ..manifest::tests::manifest() };
    package.insert(MANIFEST, manifest.to_json().unwrap()).unwrap();
    package
}

fn refusal(package: Package) -> String {
    let error = examine(Raw::Package(package), Named::default(), &place("m", None)).unwrap_err();
    assert!(!error.kind().is_retryable(), "{error}");
    error.to_string()
}

#[tokio::test]
async fn a_missing_model_says_how_to_make_one() {
    let folder = tempfile::tempdir().unwrap();
    let error = library(folder.path()).look(&place("/no/such/model.txt", Some(0.7))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("tidemill train"), "{error}");
}

#[test]
fn a_file_that_is_no_model_is_refused() {
    assert_eq!(parse("hello", 0.5).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn the_threshold_is_the_models_own_unless_the_pipeline_file_fixes_one() {
    let of = |package: Package, threshold| {
        examine(Raw::Package(package), Named::default(), &place("m", threshold)).unwrap().model.threshold
    };
    assert_eq!(of(package(BINARY, 0.25), None), 0.25);
    assert_eq!(of(package(BINARY, 0.25), Some(0.9)), 0.9);
    assert!(refusal(package(BINARY, 1.5)).contains("from 0 to 1, found 1.5"));
}

#[test]
fn what_stands_beside_a_text_model_counts_when_it_is_about_it() {
    let beside = |text: &str| {
        let manifest = ModelManifest { sha256: sha256_hex(text.as_bytes()), ..manifest::tests::manifest() };
        Some(manifest.to_json().unwrap())
    };
    let of = |beside| {
        examine(Raw::Text { text: BINARY.into(), manifest: beside, profile: None }, Named::default(), &place("m", None))
    };
    assert_eq!(of(beside(BINARY)).unwrap().model.threshold, 0.25);
    for other in [beside(REGRESSION), Some("{}".to_owned()), None] {
        assert!(of(other).unwrap().model.threshold.is_nan(), "it has none, and SQL may not ask for it");
    }
}

#[test]
fn a_model_that_fails_its_self_test_or_is_not_that_of_its_manifest_is_refused() {
    let mut other = package(BINARY, 0.5);
    other.insert("model.lgb", REGRESSION).unwrap();
    let reason = refusal(other.clone());
    assert!(reason.contains("do not belong together"), "{reason}");
    other.files.remove(MANIFEST);
    let error = examine(Raw::Package(other), Named::default(), &place("m", Some(0.5))).unwrap_err();
    assert!(error.to_string().contains("fails its self-test: row 1 of 2"), "{error}");
    let renamed = BINARY.replacen("feature_names=f0", "feature_names=amount", 1);
    let mut package = package(BINARY, 0.5);
    package.insert("model.lgb", renamed).unwrap();
    package.files.remove(MANIFEST);
    let error = examine(Raw::Package(package), Named::default(), &place("m", Some(0.5))).unwrap_err();
    assert!(error.to_string().contains("other features than the model: expected amount, f1"), "{error}");
}

#[test]
fn a_score_that_differs_in_its_last_bit_fails_the_self_test() {
    let mut package = package(BINARY, 0.5);
    let mut test = package.self_test().unwrap().unwrap();
    test.scores[1] = f64::from_bits(test.scores[1].to_bits() ^ 1);
    package.insert("self_test.json", test.to_json()).unwrap();
    let reason = refusal(package);
    assert!(reason.contains("row 2 of 2"), "{reason}");
}

#[tokio::test]
async fn a_file_and_a_directory_are_read_and_their_replacement_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let library = library(folder.path());
    let (file, directory) = (folder.path().join("model.txt"), folder.path().join("model"));
    let write_file = |text: &str| std::fs::write(&file, text).unwrap();
    let write_directory = |text: &str| package(text, 0.5).write_folder(&directory).unwrap();
    for (uri, write) in [(&file, &write_file as &dyn Fn(&str)), (&directory, &write_directory)] {
        let place = place(uri.to_str().unwrap(), Some(0.5));
        write(BINARY);
        let (first, candidate) = library.load(&place).await.unwrap().unwrap();
        assert_eq!(candidate.model.version, sha256_hex(BINARY.as_bytes())[..VERSION_DIGITS]);
        assert_eq!(library.look(&place).await.unwrap().unwrap().identity, first);
        write(REGRESSION);
        let (second, candidate) = library.load(&place).await.unwrap().unwrap();
        assert_ne!(first, second);
        assert_eq!(candidate.model.sha256, sha256_hex(REGRESSION.as_bytes()));
        assert_eq!(&*candidate.text, REGRESSION);
    }
}

#[tokio::test]
async fn an_alias_is_followed_to_the_version_that_it_means_and_a_refused_one_is_not_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let library = library(folder.path());
    let registry = Registry::open(&path(folder.path().join("registry")), &|_| None).unwrap();
    let place = place("models:/fraud@champion", None);
    assert!(library.load(&place).await.unwrap().is_none());
    assert_eq!(library.absent(&place).await.kind(), ErrorKind::Invalid);
    for (text, threshold) in [(BINARY, 0.25), (REGRESSION, 0.5), (BINARY, 0.75)] {
        registry.register("fraud", &package(text, threshold), &RunRecord::default()).await.unwrap();
    }
    registry.set_alias("fraud", "champion", "1").await.unwrap();
    let (identity, candidate) = library.load(&place).await.unwrap().unwrap();
    assert_eq!(identity, Identity::Version("1".into()));
    assert_eq!((candidate.model.version.as_str(), candidate.model.threshold), ("1", 0.25));
    assert!(candidate.model.run_id.is_some());

    let mut follower = Follower::new(&library, &place, Some(identity), None).unwrap();
    assert!(matches!(follower.look().await.unwrap(), Look::Known));
    registry.set_alias("fraud", "champion", "2").await.unwrap();
    let Look::New(found) = follower.look().await.unwrap() else { panic!("version 2 is new") };
    assert_eq!(found.version(), Some("2"));
    follower.refuses(&found);
    assert!(matches!(follower.look().await.unwrap(), Look::Known));
    registry.set_alias("fraud", "champion", "3").await.unwrap();
    let Look::New(found) = follower.look().await.unwrap() else { panic!("version 3 is new") };
    follower.serves(&found);
    assert!(matches!(follower.look().await.unwrap(), Look::Known));
    registry.set_alias("fraud", "champion", "2").await.unwrap();
    assert!(matches!(follower.look().await.unwrap(), Look::New(_)), "the alias named another version meanwhile");
    registry.delete_alias("fraud", "champion").await.unwrap();
    assert!(matches!(follower.look().await.unwrap(), Look::Absent));
}

#[tokio::test]
async fn without_a_registry_a_reference_says_how_to_name_one() {
    let folder = tempfile::tempdir().unwrap();
    let library = library_of(folder.path(), BTreeMap::new());
    let error = library.look(&place("models:/fraud@champion", None)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("`registry:`"), "{error}");
}
