//! The folder registry in memory and on a disk: versions in order, races, aliases, tags, and failures half-way.

use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path;

use super::*;
use crate::ErrorKind;
use crate::model::reference::ModelReference;
use crate::model::registry::{GATE_PASSED, GATE_TAG, PROMOTED_AT_TAG, PROMOTED_FROM_TAG, Registry};

const MODEL: &str = include_str!("../../../../../udfs/testdata/one_leaf.txt");

/// A model directory; `text` tells one from the other.
fn package(text: &str) -> Package {
    let mut package = Package::default();
    package.insert("model.lgb", MODEL).unwrap();
    package.insert("features.sql", text.to_owned()).unwrap();
    package.insert("plots/a b=c.svg", "<svg/>").unwrap();
    package
}

fn record() -> RunRecord {
    RunRecord {
        experiment: "fraud".into(),
        started_ms: 1_000,
        ended_ms: 2_000,
        metrics: BTreeMap::from([("pr_auc".into(), 0.5), ("brier".into(), f64::NAN)]),
        version_tags: BTreeMap::from([("threshold".into(), "0.7".into())]),
        ..RunRecord::default()
    }
}

fn in_memory() -> Registry {
    let folder = Folder::new(Arc::new(InMemory::new()), Path::from("some/models"), "memory://models".into());
    Registry::Folder(FolderRegistry::new(folder))
}

fn on_disk(folder: &std::path::Path) -> Registry {
    Registry::open(folder.join("models").to_str().unwrap(), &|_| None).unwrap()
}

fn reference(text: &str) -> ModelReference {
    text.parse().unwrap()
}

async fn keeps_versions(registry: &Registry) {
    assert_eq!(registry.names().await.unwrap(), []);
    assert_eq!(registry.versions("fraud").await.unwrap(), []);
    let error = registry.resolve(&reference("models:/fraud@champion")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("has no model fraud; found nothing"), "{error}");

    let first = registry.register("fraud", &package("one"), &record()).await.unwrap();
    let second = registry.register("fraud", &package("two"), &record()).await.unwrap();
    assert_eq!((first.version.as_str(), second.version.as_str()), ("1", "2"));
    assert_eq!(first.created.timestamp_millis(), 2_000);
    assert_eq!(registry.resolve(&reference("models:/fraud/1")).await.unwrap(), first);
    let fetched = registry.fetch(&first, Fetch::All).await.unwrap();
    assert_eq!(fetched, package("one"));
    let served = registry.fetch(&second, Fetch::Serving).await.unwrap();
    assert_eq!((served.model_text().unwrap(), served.files.len()), (MODEL, 1));
    assert_eq!(registry.fetch(&second, Fetch::Only(&["none"])).await.unwrap(), Package::default());

    registry.set_alias("fraud", "champion", "2").await.unwrap();
    let champion = registry.resolve(&reference("models:/fraud@champion")).await.unwrap();
    assert_eq!((champion.version.as_str(), champion.aliases.as_slice()), ("2", &["champion".to_owned()][..]));
    let tags = |value: &str| BTreeMap::from([("gate".to_owned(), value.to_owned())]);
    registry.set_tags("fraud", "2", &tags("refused")).await.unwrap();
    registry.set_tags("fraud", "2", &tags("passed")).await.unwrap();
    let versions = registry.versions("fraud").await.unwrap();
    let seen: Vec<&str> = versions.iter().map(|version| version.version.as_str()).collect();
    assert_eq!(seen, ["2", "1"]);
    assert_eq!(versions[0].tags["gate"], "passed");
    assert_eq!(versions[0].tags["threshold"], "0.7");
    assert_eq!(registry.names().await.unwrap()[0].aliases, BTreeMap::from([("champion".into(), "2".into())]));

    registry.delete_alias("fraud", "champion").await.unwrap();
    registry.delete_alias("fraud", "champion").await.unwrap();
    for (text, hint) in [("models:/fraud@champion", "no version of fraud"), ("models:/fraud/9", "no version 9")] {
        let error = registry.resolve(&reference(text)).await.unwrap_err();
        assert!(error.to_string().contains(hint), "{error}");
    }
    assert_eq!(registry.set_alias("fraud", "champion", "9").await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(registry.set_tags("fraud", "9", &tags("x")).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn versions_aliases_and_tags_are_kept_in_memory() {
    keeps_versions(&in_memory()).await;
}

#[tokio::test]
async fn versions_aliases_and_tags_are_kept_on_a_disk() {
    let folder = tempfile::tempdir().unwrap();
    keeps_versions(&on_disk(folder.path())).await;
}

#[tokio::test]
async fn registrations_at_the_same_time_get_numbers_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    for registry in [&in_memory(), &on_disk(folder.path())] {
        let packages: Vec<Package> = (0..12).map(|number| package(&format!("model {number}"))).collect();
        let (name, record) = ("fraud", record());
        let attempts = packages.iter().map(|package| registry.register(name, package, &record));
        let made = futures::future::try_join_all(attempts).await.unwrap();
        let mut numbers: Vec<u32> = made.iter().map(|version| version.version.parse().unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=12).collect::<Vec<u32>>());
        for (version, package) in made.iter().zip(&packages) {
            assert_eq!(&registry.fetch(version, Fetch::All).await.unwrap(), package);
        }
    }
}

#[tokio::test]
async fn a_model_that_cannot_be_served_is_not_registered() {
    let registry = in_memory();
    let mut broken = package("one");
    broken.insert("model.lgb", "hello").unwrap();
    let mut other = package("one");
    let test = crate::model::package::SelfTest { features: vec!["x".into()], rows: Vec::new(), scores: Vec::new() };
    other.insert("self_test.json", test.to_json()).unwrap();
    for (package, hint) in [(broken, "cannot be served"), (other, "self-test"), (Package::default(), "model directory")]
    {
        let error = registry.register("fraud", &package, &record()).await.unwrap_err();
        assert!(error.to_string().contains(hint), "{error}");
    }
    assert_eq!(registry.names().await.unwrap(), []);
}

#[tokio::test]
async fn tags_set_at_the_same_time_are_all_kept() {
    let registry = in_memory();
    registry.register("fraud", &package("one"), &record()).await.unwrap();
    let all: Vec<BTreeMap<String, String>> =
        (0..8).map(|number| BTreeMap::from([(format!("tag {number}"), "x".to_owned())])).collect();
    futures::future::try_join_all(all.iter().map(|tags| registry.set_tags("fraud", "1", tags))).await.unwrap();
    // Eight, and the one of the registration.
    assert_eq!(registry.resolve(&reference("models:/fraud/1")).await.unwrap().tags.len(), 9);
}

#[tokio::test]
async fn a_file_that_was_changed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let registry = on_disk(folder.path());
    let version = registry.register("fraud", &package("one"), &record()).await.unwrap();
    let model = folder.path().join("models").join(&version.location).join("model.lgb");
    std::fs::write(&model, MODEL.replace('0', "1")).unwrap();
    let error = registry.fetch(&version, Fetch::Serving).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("fraud version 1"), "{error}");
    std::fs::remove_file(&model).unwrap();
    assert_eq!(registry.fetch(&version, Fetch::All).await.unwrap_err().kind(), ErrorKind::Data);
}

#[tokio::test]
async fn whatever_fails_in_a_registration_no_version_is_seen_half() {
    use crate::checkpoint::testing::{Fault, FaultStore};
    let open = |store: Arc<dyn object_store::ObjectStore>| {
        Registry::Folder(FolderRegistry::new(Folder::new(store, Path::from("models"), "memory://models".into())))
    };
    let mut num_without_version = 0;
    for fault in [Fault::FailBefore, Fault::FailAfter, Fault::CrashBefore, Fault::CrashAfter] {
        for at in 0..8 {
            let inner = Arc::new(InMemory::new());
            let faulty = FaultStore::new(inner.clone(), move |number, _, _| (number == at).then_some(fault));
            let made = open(Arc::new(faulty)).register("fraud", &package("one"), &record()).await;
            let after = open(inner);
            let versions = after.versions("fraud").await.unwrap();
            assert!(made.is_err() || versions.len() == 1, "{fault:?} at {at}");
            num_without_version += usize::from(versions.is_empty());
            for version in versions {
                assert_eq!(after.fetch(&version, Fetch::All).await.unwrap(), package("one"), "{fault:?} at {at}");
            }
        }
    }
    assert!(num_without_version > 5, "{num_without_version}");
}

#[tokio::test]
async fn promotion_needs_the_gate_and_knows_the_way_back() {
    let registry = in_memory();
    let now = chrono::DateTime::from_timestamp_millis(0).unwrap();
    for text in ["one", "two"] {
        registry.register("fraud", &package(text), &record()).await.unwrap();
    }
    let error = registry.promote("fraud", "champion", "1", now, false).await.unwrap_err();
    assert!(error.to_string().contains("--force"), "{error}");
    assert_eq!(registry.current("fraud", "champion").await.unwrap(), None);
    let refused = BTreeMap::from([(GATE_TAG.to_owned(), "refused: recall".to_owned())]);
    registry.set_tags("fraud", "1", &refused).await.unwrap();
    let error = registry.promote("fraud", "champion", "1", now, false).await.unwrap_err();
    assert!(error.to_string().contains("refused: recall"), "{error}");
    assert_eq!(registry.promote("fraud", "champion", "1", now, true).await.unwrap().before, None);
    let error = registry.rollback("fraud", "champion", now).await.unwrap_err();
    assert!(error.to_string().contains("no version is noted"), "{error}");

    let passed = BTreeMap::from([(GATE_TAG.to_owned(), GATE_PASSED.to_owned())]);
    registry.set_tags("fraud", "2", &passed).await.unwrap();
    let promotion = registry.promote("fraud", "champion", "2", now, false).await.unwrap();
    assert_eq!(promotion.before.as_deref(), Some("1"));
    // Once more changes nothing, and does not forget the way back.
    registry.promote("fraud", "champion", "2", now, false).await.unwrap();
    let champion = registry.current("fraud", "champion").await.unwrap().unwrap();
    assert_eq!(champion.tags[PROMOTED_FROM_TAG], "1");
    assert_eq!(champion.tags[PROMOTED_AT_TAG], "1970-01-01T00:00:00Z");
    let promotion = registry.rollback("fraud", "champion", now).await.unwrap();
    assert_eq!((promotion.version.as_str(), promotion.before.as_deref()), ("1", Some("2")));
    assert_eq!(registry.current("fraud", "champion").await.unwrap().unwrap().version, "1");
}
