//! The model directory of a training: its files, and how they come under their name, all or none.

use std::fs;
use std::path::Path;

use super::Outcome;
use super::booster::LIGHTGBM_VERSION;
use super::features::FeatureQuery;
use super::rows::Rows;
use super::split::Split;
use crate::error::{Error, Result};
use crate::model::package::{FEATURES_SQL, MANIFEST, MLMODEL, ModelFiles, Package, REFERENCE_PROFILE, SelfTest};
use crate::model::profile::ProfileBuilder;
use crate::pipeline::settings::Pipeline;
use crate::replay::selecting;

/// Rows of the self-test: spread over the test rows, those with the highest scores, and the first with missing values.
const SPREAD_ROWS: usize = 12;
const HIGHEST_ROWS: usize = 4;
const INCOMPLETE_ROWS: usize = 2;

/// The files of a model version.
pub(super) fn package(
    pipeline: &Pipeline,
    query: &FeatureQuery,
    rows: &Rows,
    split: &Split,
    outcome: &Outcome,
) -> Result<Package> {
    let manifest = &outcome.manifest;
    let metadata = [
        ("threshold", serde_json::json!(manifest.threshold)),
        ("threshold_policy", serde_json::json!(manifest.threshold_policy.to_string())),
        ("sql_fingerprint", serde_json::json!(manifest.sql_fingerprint)),
    ];
    let mut package = Package::of_model(&ModelFiles {
        model_text: &outcome.text,
        lightgbm_version: LIGHTGBM_VERSION,
        self_test: &self_test(query, rows, split, &outcome.test_scores),
        metadata: &metadata,
    })?;
    package.insert(MANIFEST, format!("{}\n", manifest.to_json()?))?;
    package.insert(FEATURES_SQL, features_sql(pipeline, query))?;
    package.insert(REFERENCE_PROFILE, profile(query, rows, split, outcome)?)?;
    Ok(package)
}

fn self_test(query: &FeatureQuery, rows: &Rows, split: &Split, scores: &[f64]) -> SelfTest {
    let num_rows = split.test.len();
    let mut chosen: Vec<usize> =
        (0..SPREAD_ROWS.min(num_rows)).map(|at| at * num_rows / SPREAD_ROWS.min(num_rows)).collect();
    let mut highest: Vec<usize> = (0..num_rows).collect();
    highest.sort_unstable_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    chosen.extend(highest.into_iter().take(HIGHEST_ROWS));
    let is_incomplete = |row: &usize| rows.row(split.test.start + row).iter().any(|value| value.is_nan());
    chosen.extend((0..num_rows).filter(is_incomplete).take(INCOMPLETE_ROWS));
    chosen.sort_unstable();
    chosen.dedup();
    SelfTest {
        features: query.features.clone(),
        rows: chosen.iter().map(|row| rows.row(split.test.start + row).to_vec()).collect(),
        scores: chosen.iter().map(|row| scores[*row]).collect(),
    }
}

/// The views that the features need, in their order.
fn features_sql(pipeline: &Pipeline, query: &FeatureQuery) -> String {
    let views = selecting(pipeline, &query.select).views;
    let text = |view: &crate::pipeline::settings::View| format!("-- view {}\n{}\n", view.name, view.query.sql.trim());
    views.iter().map(text).collect::<Vec<_>>().join("\n")
}

/// Distributions of features and score on the rows that the model did not learn from: the newest, whose scores are as they will be.
fn profile(query: &FeatureQuery, rows: &Rows, split: &Split, outcome: &Outcome) -> Result<String> {
    let range = split.validation.start..split.test.end;
    let mut profile = ProfileBuilder::new(&rows.times[range.clone()], &[])?;
    for (index, feature) in query.features.iter().enumerate() {
        profile.feature(feature, rows.feature(index, range.clone()))?;
    }
    profile.score(outcome.validation_scores.iter().chain(&outcome.test_scores).copied())?;
    profile.finish()?.to_json()
}

/// Refuses a place that holds something else than a model.
pub fn check_output(output: &Path) -> Result<()> {
    let other = |what: &str| {
        Error::invalid(format!(
            "--output {}: expected a new folder, or that of an older model, found {what}; name another",
            output.display()
        ))
    };
    if output.is_file() {
        return Err(other("a file"));
    }
    let Ok(mut entries) = fs::read_dir(output) else { return Ok(()) };
    let is_model = output.join(MANIFEST).is_file() || output.join(MLMODEL).is_file();
    if entries.next().is_some() && !is_model { Err(other("a folder with other files")) } else { Ok(()) }
}

/// Writes a model directory beside its place, then puts it there: nobody sees a part of it.
pub fn write(package: &Package, output: &Path) -> Result<()> {
    check_output(output)?;
    let failed = |error: std::io::Error| {
        Error::unavailable(format!("the model directory {} cannot be written", output.display())).with_source(error)
    };
    let output = std::path::absolute(output).map_err(failed)?;
    let name = output.file_name().ok_or_else(|| Error::invalid("--output: expected the name of a folder"))?;
    let id = uuid::Uuid::new_v4().simple();
    let beside = |what: &str| output.with_file_name(format!(".{}.{what}-{id}", name.to_string_lossy()));
    let (partial, old) = (beside("partial"), beside("old"));
    let written = package.write_folder(&partial).and_then(|()| {
        if output.exists() {
            fs::rename(&output, &old).map_err(failed)?;
        }
        fs::rename(&partial, &output).map_err(failed)
    });
    if written.is_err() {
        // What was there stays; the parts of what could not be written go.
        drop(fs::remove_dir_all(&partial));
        if old.exists() && !output.exists() {
            fs::rename(&old, &output).map_err(failed)?;
        }
        return written;
    }
    drop(fs::remove_dir_all(&old));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(text: &str) -> Package {
        let mut package = Package::default();
        package.insert(MANIFEST, text.to_owned()).unwrap();
        package
    }

    #[test]
    fn a_new_model_takes_the_place_of_the_old_one_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("models").join("fraud");
        let mut first = package("1");
        first.insert("plots/a.svg", "x").unwrap();
        write(&first, &output).unwrap();
        write(&package("2"), &output).unwrap();
        assert_eq!(Package::read_folder(&output).unwrap(), package("2"));
        assert_eq!(fs::read_dir(folder.path().join("models")).unwrap().count(), 1, "something was left beside it");
    }

    #[test]
    fn what_is_no_model_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("diary"), "x").unwrap();
        for place in [folder.path().to_path_buf(), folder.path().join("diary")] {
            let error = write(&package("1"), &place).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Invalid, "{error}");
        }
        assert!(folder.path().join("diary").exists());
        check_output(&folder.path().join("new")).unwrap();
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_model() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("fraud");
        write(&package("1"), &output).unwrap();
        let mut bad = package("2");
        bad.files.insert("../outside".to_owned(), "x".into());
        write(&bad, &output).unwrap_err();
        assert_eq!(Package::read_folder(&output).unwrap(), package("1"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
