//! `tidemill test`: the cases that stand beside pipeline files, in `*.test.yaml`. Writes nothing and connects to nothing but the
//! models that the cases need.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Environment, load, print};
use crate::decode::Reason;
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::CaseFile;
use crate::replay::{CaseOutcome, run_cases};

#[derive(Debug, clap::Args)]
pub(crate) struct TestArguments {
    /// Files of cases, or folders with files that end in .test.yaml.
    #[arg(default_value = ".", value_name = "FILE_OR_FOLDER")]
    paths: Vec<PathBuf>,
}

/// What files of cases are called.
const EXTENSIONS: [&str; 2] = [".test.yaml", ".test.yml"];

pub(crate) fn run(arguments: &TestArguments, environment: &Environment) -> Result<()> {
    let files = files(&arguments.paths)?;
    let (mut num_cases, mut num_failed) = (0, 0);
    let mut broken: Option<ErrorKind> = None;
    for file in &files {
        print(&file.display().to_string());
        match run_file(file, environment) {
            Ok(outcomes) => {
                num_cases += outcomes.len();
                num_failed += outcomes.iter().filter(|outcome| !outcome.failures.is_empty()).count();
                outcomes.iter().for_each(|outcome| print(&render(outcome)));
            }
            Err(error) => {
                broken = broken.or(Some(error.kind()));
                print(&format!("  cannot be run:\n{}", indented(&error.to_string(), "    ")));
            }
        }
    }
    let verdict = format!("{} cases in {} files, {num_failed} failed", num_cases, files.len());
    match broken {
        Some(kind) => Err(Error::new(kind, format!("{verdict}; some files cannot be run"))),
        None if num_failed > 0 => Err(Error::data(verdict)),
        None => {
            print(&verdict);
            Ok(())
        }
    }
}

fn run_file(file: &Path, environment: &Environment) -> Result<Vec<CaseOutcome>> {
    let reasons = Reason::ALL.map(Reason::as_str);
    let cases = CaseFile::load(file, &|name| environment.get(name).cloned(), &reasons)?;
    run_cases(&cases, &load(&cases.pipeline, environment)?, environment)
}

fn render(outcome: &CaseOutcome) -> String {
    if outcome.failures.is_empty() {
        return format!("  ok      {}", outcome.name);
    }
    let failures: Vec<String> = outcome.failures.iter().map(|failure| indented(failure, "          ")).collect();
    format!("  FAILED  {}\n{}", outcome.name, failures.join("\n"))
}

fn indented(text: &str, by: &str) -> String {
    text.lines().map(|line| format!("{by}{line}")).collect::<Vec<_>>().join("\n")
}

/// Files as they are named, and those of cases below folders, in the order of their names.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            walk(path, &mut found)?;
        } else if path.exists() {
            found.push(path.clone());
        } else {
            return Err(Error::invalid(format!("there is no file or folder {}", path.display())));
        }
    }
    if found.is_empty() {
        let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        return Err(Error::invalid(format!(
            "no cases below {}: expected files that end in {}",
            shown.join(", "),
            EXTENSIONS.join(" or ")
        )));
    }
    Ok(found)
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |error| Error::invalid(format!("the folder {} cannot be read", folder.display())).with_source(error);
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        entries.push(entry.map_err(failed)?.path());
    }
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Links are not followed: a circle of them would never end.
        if path.is_dir() && !path.is_symlink() && !name.starts_with('.') && name != "target" {
            walk(&path, found)?;
        } else if EXTENSIONS.iter().any(|extension| name.ends_with(extension)) {
            found.push(path);
        }
    }
    Ok(())
}
