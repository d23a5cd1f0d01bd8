//! A model that was read, and what is held against it before it may serve: its text, the model manifest's hash, its
//! threshold, and the self-test that came with it. Pure; whether it answers the running SQL's question the slot says.

use std::sync::Arc;

use tidemill_udfs::functions::{LoadedModel, ModelSlot};
use tidemill_udfs::scorer::{self, Column, Scratch};

use super::place::Place;
use super::profile::ReferenceProfile;
use super::{VERSION_DIGITS, package::Package, package::REFERENCE_PROFILE};
use crate::checkpoint::sha256_hex;
use crate::error::{Error, Result};
use crate::model::manifest::ModelManifest;
use crate::model::package::SelfTest;

/// A model as it was read.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, on its way to be examined")]
pub(crate) enum Raw {
    /// The text of a model in a file of its own, and what stands beside it.
    Text {
        /// The model.
        text: String,
        /// The JSON file of the same name, if there is one.
        manifest: Option<String>,
        /// The reference profile.
        profile: Option<ReferenceProfile>,
    },
    /// A model directory.
    Package(Package),
}

/// Who a model is, where a registry says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Named {
    /// Its version; the beginning of its hash, without.
    pub(crate) version: Option<String>,
    /// The run that made it.
    pub(crate) run_id: Option<String>,
}

/// A model that passed, with its text.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) model: Arc<LoadedModel>,
    pub(crate) text: Arc<str>,
    /// What it was trained on, where that is known.
    pub(crate) profile: Option<ReferenceProfile>,
}

/// Parses and checks what was read.
pub(crate) fn examine(raw: Raw, named: Named, place: &Place) -> Result<Candidate> {
    let (text, manifest, self_test, profile) = match raw {
        // What stands beside it may be anything; it counts when it says that it is about this model.
        Raw::Text { text, manifest, profile } => {
            let manifest = manifest.and_then(|manifest| ModelManifest::parse(&manifest).ok());
            let manifest = manifest.filter(|manifest| manifest.sha256 == sha256_hex(text.as_bytes()));
            (text, manifest, None, profile)
        }
        Raw::Package(package) => {
            (package.model_text()?.to_owned(), package.manifest()?, package.self_test()?, profile_of(&package)?)
        }
    };
    let own = manifest.as_ref().map(|manifest| manifest.threshold);
    // Whether it needs one, the SQL says.
    let threshold = place.threshold.or(own).unwrap_or(f64::NAN);
    if !(threshold.is_nan() || (0.0..=1.0).contains(&threshold)) {
        return Err(Error::data(format!(
            "its threshold: expected a number from 0 to 1, found {threshold}; set `models.{}.threshold`, or train the model again",
            place.champion.as_ref().unwrap_or(&place.slot)
        )));
    }
    let mut model = parse(&text, threshold)?;
    if let Some(manifest) = &manifest {
        check_hash(&model, &manifest.sha256)?;
    }
    if let Some(self_test) = &self_test {
        run_self_test(&model, self_test)?;
    }
    if let Some(version) = named.version {
        model.version = version;
    }
    model.run_id = named.run_id;
    let profile = profile.filter(|profile| is_of(profile, &model, place));
    Ok(Candidate { model: Arc::new(model), text: text.into(), profile })
}

fn profile_of(package: &Package) -> Result<Option<ReferenceProfile>> {
    let Some(bytes) = package.files.get(REFERENCE_PROFILE) else { return Ok(None) };
    ReferenceProfile::from_json(&super::text(bytes.to_vec())?).map(Some)
}

/// Whether a profile is of the model's features. A model without one is served all the same.
fn is_of(profile: &ReferenceProfile, model: &LoadedModel, place: &Place) -> bool {
    let is_of = profile.features.iter().map(|feature| &feature.name).eq(model.model.feature_names());
    if !is_of {
        tracing::warn!(
            model = place.slot,
            "{REFERENCE_PROFILE} has other features than the model; drift is not watched"
        );
    }
    is_of
}

/// A model from its text.
pub fn parse(text: &str, threshold: f64) -> Result<LoadedModel> {
    let model =
        scorer::Model::parse(text).map_err(|error| Error::invalid(format!("this model cannot be served: {error}")))?;
    let sha256 = sha256_hex(text.as_bytes());
    let version = sha256[..VERSION_DIGITS].to_owned();
    Ok(LoadedModel { model, version, threshold, sha256, run_id: None })
}

fn check_hash(model: &LoadedModel, expected: &str) -> Result<()> {
    if model.sha256 == expected {
        return Ok(());
    }
    Err(Error::data(format!(
        "its files do not belong together: the model has SHA-256 {}, tidemill.json is of the model with {expected}",
        model.sha256
    )))
}

/// Scores the rows that came with a model, which must give the scores that came with it, to the bit.
fn run_self_test(model: &LoadedModel, test: &SelfTest) -> Result<()> {
    let features = model.model.feature_names();
    if features != test.features {
        return Err(Error::data(format!(
            "its self-test has other features than the model: expected {}, found {}",
            features.join(", "),
            test.features.join(", ")
        )));
    }
    if model.model.num_outputs() != 1 {
        return Err(Error::data(format!(
            "its self-test has one score a row, the model gives {}",
            model.model.num_outputs()
        )));
    }
    let columns: Vec<Vec<f64>> =
        (0..features.len()).map(|feature| test.rows.iter().map(|row| row[feature]).collect()).collect();
    let columns: Vec<Column<'_>> = columns.iter().map(|column| column.as_slice().into()).collect();
    let mut scores = vec![0.0; test.rows.len()];
    model.model.score(&columns, &mut scores, &mut Scratch::default());
    let differs = |(found, expected): &(&f64, &f64)| found.to_bits() != expected.to_bits();
    match scores.iter().zip(&test.scores).enumerate().find(|(_, pair)| differs(pair)) {
        None => Ok(()),
        Some((row, (found, expected))) => Err(Error::data(format!(
            "it fails its self-test: row {} of {} gets {found:?}, and was to get {expected:?}",
            row + 1,
            scores.len()
        ))),
    }
}

/// Whether a model can serve in a slot of the running pipeline.
pub(crate) fn fits(slot: &ModelSlot, candidate: &Candidate) -> Result<()> {
    slot.check(&candidate.model).map_err(|error| Error::invalid(error.to_string()))
}
