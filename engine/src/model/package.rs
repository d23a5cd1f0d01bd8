//! A model directory in memory: the files of one model version, by relative path. Written by us or by Python's
//! `mlflow.lightgbm`; what only Python can read (pickles, skops) is refused with what to log instead.

mod mlmodel;
mod self_test;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::model::MODEL_BYTES_MAX;
use crate::model::manifest::ModelManifest;

pub use crate::model::gate::GATE_FILE;
pub use crate::model::manifest::{MANIFEST_FILE as MANIFEST, MODEL_FILE as MODEL};
use mlmodel::MlModel;
pub use self_test::SelfTest;
pub use write::ModelFiles;
pub(crate) use write::RegisteredAs;

/// The file that says what the others are; MLflow's.
pub const MLMODEL: &str = "MLmodel";
/// Distributions of features and score on the training rows.
pub const REFERENCE_PROFILE: &str = "reference_profile.json";
/// Rows and the scores that they must get.
pub const SELF_TEST: &str = "self_test.json";
/// Rows as MLflow shows them.
pub const INPUT_EXAMPLE: &str = "input_example.json";
/// The same rows as a request to MLflow's scoring server.
pub const SERVING_INPUT_EXAMPLE: &str = "serving_input_example.json";
/// The views' SQL.
pub const FEATURES_SQL: &str = "features.sql";
/// The report for people.
pub const REPORT: &str = "report.html";
/// Folder of the report's pictures.
pub const PLOTS: &str = "plots/";

/// What serving reads, beside the model's text.
pub(crate) const SERVED_FILES: [&str; 4] = [MLMODEL, MANIFEST, SELF_TEST, REFERENCE_PROFILE];
/// Names that we may have written into a folder; those that a newer model does not have are deleted from it.
const OUR_FILES: [&str; 10] = [
    MODEL,
    MANIFEST,
    REFERENCE_PROFILE,
    SELF_TEST,
    INPUT_EXAMPLE,
    SERVING_INPUT_EXAMPLE,
    FEATURES_SQL,
    GATE_FILE,
    REPORT,
    MLMODEL,
];
const FILES_MAX: usize = 1000;

/// The files of one model version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Package {
    /// Relative path, with `/`, -> content.
    pub files: BTreeMap<String, Bytes>,
}

impl Package {
    /// Adds a file. The path is relative and stays inside.
    pub fn insert(&mut self, path: &str, content: impl Into<Bytes>) -> Result<()> {
        check_path(path)?;
        self.files.insert(path.to_owned(), content.into());
        Ok(())
    }

    /// Size of all files.
    #[must_use]
    pub fn num_bytes(&self) -> u64 {
        self.files.values().map(|content| content.len() as u64).sum()
    }

    /// A file's text; `None` when there is no such file.
    pub fn text(&self, path: &str) -> Result<Option<&str>> {
        let Some(content) = self.files.get(path) else { return Ok(None) };
        std::str::from_utf8(content).map(Some).map_err(|_| Error::data(format!("{path}: expected text (UTF-8)")))
    }

    /// The model manifest; `None` in a directory that was not written by us.
    pub fn manifest(&self) -> Result<Option<ModelManifest>> {
        let Some(text) = self.text(MANIFEST)? else { return Ok(None) };
        ModelManifest::parse(text).map(Some).map_err(|error| error.context(MANIFEST))
    }

    /// Where the model's text is: what `MLmodel` names, or else the one file with the name that we give it.
    pub fn model_path(&self) -> Result<String> {
        match self.text(MLMODEL)? {
            Some(text) => MlModel::parse(text)?.model_path(),
            None if self.files.contains_key(MODEL) => Ok(MODEL.to_owned()),
            None => Err(Error::invalid(format!(
                "this is no model directory: expected {MLMODEL} or {MODEL} in it, found {}",
                some_of(self.files.keys().map(String::as_str))
            ))),
        }
    }

    /// The model's text.
    pub fn model_text(&self) -> Result<&str> {
        let path = self.model_path()?;
        self.text(&path)?.ok_or_else(|| {
            Error::data(format!(
                "{MLMODEL} says that the model is {path}, which is not there; found {}",
                some_of(self.files.keys().map(String::as_str))
            ))
        })
    }

    /// Rows and the scores that they must get; `None` in a directory that was not written by us.
    pub fn self_test(&self) -> Result<Option<SelfTest>> {
        self.text(SELF_TEST)?.map(SelfTest::parse).transpose()
    }

    /// Report and pictures: what people want to see at the run, too.
    #[must_use]
    pub fn report_files(&self) -> BTreeMap<String, Bytes> {
        let is_report = |path: &str| path == REPORT || path.starts_with(PLOTS);
        self.files.iter().filter(|(path, _)| is_report(path)).map(|(path, file)| (path.clone(), file.clone())).collect()
    }

    /// Reads all files of a folder. Hidden ones, and links, are left out.
    pub fn read_folder(folder: &Path) -> Result<Package> {
        let mut package = Package::default();
        package.read_below(folder, "")?;
        if package.files.is_empty() {
            return Err(Error::invalid(format!("{}: expected a model directory, found no files", folder.display())));
        }
        Ok(package)
    }

    fn read_below(&mut self, folder: &Path, prefix: &str) -> Result<()> {
        let failed = |path: &Path, error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                Error::invalid(format!("{}: expected a model directory, found none", path.display()))
            }
            _ => Error::unavailable(format!("{} cannot be read", path.display())).with_source(error),
        };
        for entry in std::fs::read_dir(folder).map_err(|error| failed(folder, error))? {
            let entry = entry.map_err(|error| failed(folder, error))?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(|error| failed(folder, error))?);
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                return Err(Error::invalid(format!("{}: the name is not UTF-8", path.display())));
            };
            if name.starts_with('.') {
                continue;
            }
            let name = format!("{prefix}{name}");
            if kind.is_dir() {
                self.read_below(&path, &format!("{name}/"))?;
            } else if kind.is_file() {
                let size = entry.metadata().map_err(|error| failed(&path, error))?.len();
                self.check_room(&path.display().to_string(), size)?;
                let content = std::fs::read(&path).map_err(|error| failed(&path, error))?;
                self.insert(&name, content)?;
            }
        }
        Ok(())
    }

    /// Refuses what is too large, or too many, to be a model directory.
    pub(crate) fn check_room(&self, place: &str, bytes: u64) -> Result<()> {
        if self.num_bytes() + bytes > MODEL_BYTES_MAX || self.files.len() >= FILES_MAX {
            return Err(Error::invalid(format!(
                "{place}: a model directory has at most {FILES_MAX} files and {MODEL_BYTES_MAX} bytes; this one has more"
            )));
        }
        Ok(())
    }

    /// Writes all files, each under a temporary name first, the manifest last: until then its hash of the model tells a
    /// reader that they do not belong together. What an older model of ours left there goes; other files stay.
    pub fn write_folder(&self, folder: &Path) -> Result<()> {
        let last = |path: &str| (path == MANIFEST, path == MLMODEL);
        let mut files: Vec<(&String, &Bytes)> = self.files.iter().collect();
        files.sort_by_key(|(path, _)| last(path));
        for (path, content) in files {
            check_path(path)?;
            let path = folder.join(path);
            let failed = |error: std::io::Error| {
                Error::unavailable(format!("{} cannot be written", path.display())).with_source(error)
            };
            std::fs::create_dir_all(path.parent().unwrap_or(folder)).map_err(failed)?;
            let staged = path.with_file_name(format!(
                ".{}.new-{}",
                path.file_name().unwrap_or_default().to_string_lossy(),
                uuid::Uuid::new_v4().simple()
            ));
            std::fs::write(&staged, content).map_err(failed)?;
            std::fs::rename(&staged, &path).map_err(failed)?;
        }
        for name in OUR_FILES.iter().filter(|name| !self.files.contains_key(**name)) {
            let path = folder.join(name);
            if path.is_file() {
                std::fs::remove_file(&path).map_err(|error| {
                    Error::unavailable(format!("{} cannot be deleted", path.display())).with_source(error)
                })?;
            }
        }
        Ok(())
    }
}

/// Refuses paths that lead out of a model directory, or that a store could not keep.
pub(crate) fn check_path(path: &str) -> Result<()> {
    let is_plain = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && part.chars().all(|char| !char.is_control() && char != '\\')
    };
    if path.split('/').all(is_plain) {
        return Ok(());
    }
    Err(Error::invalid(format!("a file of a model directory: expected a relative path, found `{path}`")))
}

/// A few of many, for a message.
pub(crate) fn some_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 8;
    let names: Vec<&str> = names.collect();
    match names.len() {
        0 => "nothing".to_owned(),
        count if count > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), count - SHOWN),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests;
