//! From the file as written to settings that cannot be wrong: names, references, ranges, SQL files, and what parts demand of
//! each other. Every problem is collected with its place; nothing stops at the first. Reads the SQL files that are named.

mod kafka;
mod model;
mod monitoring;
mod output;
mod repartition;
mod source;
mod training;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::{CheckpointFile, DeliveryFile, PipelineFile};
use super::forms::Text;
use super::location;
use super::problem::{Problem, quoted};
use super::settings::{Backfill, Checkpoint, Delivery, Pipeline, Place, RunSettings, SqlText};
use super::text::{NameKind, TextForm, check_name};
use super::yaml::{Content, Document, Finding, Node, Spot, Style};
use kafka::Inherited;

/// The settings; they count only when no problem came with them.
pub(super) fn validate(file: &PipelineFile, document: &Document, path: &Path) -> (Pipeline, Vec<Problem>) {
    let shown_folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
    let folder = whole(&shown_folder);
    let mut validator = Validator { document, shown_folder, folder, problems: Vec::new() };
    let pipeline = validator.pipeline(file);
    (pipeline, validator.problems)
}

struct Validator<'a> {
    document: &'a Document,
    /// The pipeline file's folder, as the user named it; for messages.
    shown_folder: PathBuf,
    /// The same, whole.
    folder: PathBuf,
    problems: Vec<Problem>,
}

impl Validator<'_> {
    fn pipeline(&mut self, file: &PipelineFile) -> Pipeline {
        if let Err(help) = check_name(&file.pipeline, NameKind::Own) {
            self.refuse(&["pipeline"], format!("{} cannot name a pipeline", quoted(&file.pipeline)), help);
        }
        let sources =
            file.sources.0.iter().map(|(name, source)| self.source(name, source, &file.pipeline)).collect::<Vec<_>>();
        let inherited = Inherited::from_sources(&sources, self.document);
        let pipeline = Pipeline {
            name: file.pipeline.clone(),
            folder: self.folder.clone(),
            registry: self.registry(file.registry.as_deref()),
            models: self.models(&file.models),
            views: self.views(&file.views, &inherited),
            sinks: file.sinks.0.iter().map(|(name, sink)| self.sink(name, sink, &inherited)).collect(),
            dead_letter: file.dead_letter.as_ref().map(|dead_letter| self.dead_letter(dead_letter, &inherited)),
            checkpoint: file.checkpoint.as_ref().map(|checkpoint| self.checkpoint(checkpoint)),
            delivery: match file.delivery {
                DeliveryFile::AtLeastOnce => Delivery::AtLeastOnce,
                DeliveryFile::ExactlyOnce => Delivery::ExactlyOnce,
            },
            run: self.run(file),
            http: file.http.listen.0.0,
            drift: self.drift(&file.drift),
            labels: file.labels.as_ref().map(|labels| self.labels(labels)),
            training: file.training.as_ref().map(|training| self.training(training, file)),
            sources,
        };
        self.name_clashes();
        self.rejection_without_dead_letter(file);
        self.shared_groups(&pipeline);
        self.loops(&pipeline);
        self.repartitions(&pipeline);
        self.shared_folders(&pipeline);
        self.delivery(&pipeline);
        pipeline
    }

    /// A problem with the value at `path`; where nothing stands there, at the nearest key above it.
    fn refuse(&mut self, path: &[&str], message: impl Into<String>, help: impl Into<String>) {
        self.refuse_at(self.spot(path), message, help);
    }

    fn refuse_at(&mut self, spot: Spot, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(self.document.source.problem(Finding::new(spot, message, help.into())));
    }

    /// A problem with the name that ends `path`.
    fn refuse_key(&mut self, path: &[&str], message: impl Into<String>, help: impl Into<String>) {
        self.refuse_at(self.key_spot(path), message, help);
    }

    fn is_written(&self, path: &[&str]) -> bool {
        self.document.root.at(path).is_some()
    }

    fn spot(&self, path: &[&str]) -> Spot {
        match self.document.root.at(path) {
            Some(node) if matches!(node.content, Content::Scalar(_) | Content::Unusable) => node.spot,
            _ => self.key_spot(path),
        }
    }

    fn key_spot(&self, path: &[&str]) -> Spot {
        let Some((last, above)) = path.split_last() else { return Spot::START };
        let node = self.document.root.at(above);
        if let Some(entry) = node.and_then(|node| node.entry(last)) {
            return entry.key_spot;
        }
        match self.document.root.at(path) {
            Some(item) => item.spot,
            None => self.key_spot(above),
        }
    }

    /// Whether something stands here, other than `null`. Where the settings have nothing, it was refused for its form.
    fn is_unusable(&self, path: &[&str]) -> bool {
        match self.document.root.at(path).map(|node| &node.content) {
            Some(Content::Scalar(scalar)) => !scalar.is_null() || scalar.is_empty(),
            Some(_) => true,
            None => false,
        }
    }

    /// Where the usable texts of a list stand in it: others were refused for their form, and are not in the settings.
    fn indices(&self, path: &[&str]) -> Vec<String> {
        let Some(Content::List(items)) = self.document.root.at(path).map(|node| &node.content) else {
            return Vec::new();
        };
        let is_usable = |node: &Node| match &node.content {
            Content::Scalar(scalar) => !scalar.is_null() && !scalar.text.trim().is_empty(),
            Content::List(_) | Content::Mapping(_) | Content::Unusable => false,
        };
        items.iter().enumerate().filter(|(_, item)| is_usable(item)).map(|(index, _)| index.to_string()).collect()
    }

    /// The names in a mapping of the file, also of entries that could not be used.
    fn names(&self, path: &[&str]) -> Vec<String> {
        match self.document.root.at(path).map(|node| &node.content) {
            Some(Content::Mapping(entries)) => entries.iter().map(|entry| entry.key.clone()).collect(),
            _ => Vec::new(),
        }
    }

    fn location(&mut self, path: &[&str], text: &str) -> String {
        match location::resolve(text, &self.folder) {
            Ok(location) => location,
            Err((message, help)) => {
                self.refuse(path, message, help);
                String::new()
            }
        }
    }

    fn duration(&mut self, path: &[&str], value: Text<Duration>, min: Duration, max: Duration) -> Duration {
        if !(min..=max).contains(&value.0) {
            let message =
                format!("expected a duration from {} to {}, found `{}`", min.print(), max.print(), value.0.print());
            self.refuse(path, message, "choose one in between");
        }
        value.0
    }

    /// SQL that stands here, or in the file that is named here.
    fn sql(&mut self, path: &[&str], text: &str) -> SqlText {
        let trimmed = text.trim();
        if trimmed.ends_with(".sql") && !trimmed.contains('\n') {
            return self.sql_file(path, trimmed);
        }
        let place = self.sql_place(path);
        if !trimmed.contains(char::is_whitespace) {
            let message = format!("expected a SELECT or a file that ends in `.sql`, found {}", quoted(trimmed));
            self.refuse(path, message, "a file's path starts at the folder of this file, such as ../sql/features.sql");
        }
        SqlText { sql: text.to_string(), place }
    }

    fn sql_file(&mut self, path: &[&str], text: &str) -> SqlText {
        let shown = location::local(text, &self.shown_folder);
        let whole = location::local(text, &self.folder);
        let place = Place { file: shown.clone(), line: 1, column: 1 };
        let sql = match std::fs::read_to_string(&whole) {
            Ok(sql) => sql,
            Err(error) => {
                let message =
                    format!("cannot read the SQL file {}: {}", quoted(&shown.to_string_lossy()), reason(&error));
                let help = match error.kind() {
                    std::io::ErrorKind::NotFound => "paths start at the folder of this file",
                    std::io::ErrorKind::InvalidData => "save it as UTF-8",
                    _ => "the SQL files that are named must be readable",
                };
                self.refuse(path, message, help);
                return SqlText { sql: String::new(), place };
            }
        };
        if is_blank(&sql) {
            self.refuse(
                path,
                format!("the SQL file {} is empty", quoted(&shown.to_string_lossy())),
                "write a SELECT into it",
            );
        }
        SqlText { sql, place }
    }

    /// Where SQL in the pipeline file begins: behind its quote, if there is one.
    fn sql_place(&self, path: &[&str]) -> Place {
        let mut spot = self.spot(path);
        if let Some(Content::Scalar(scalar)) = self.document.root.at(path).map(|node| &node.content)
            && scalar.style == Style::Quoted
        {
            spot.column += 1;
        }
        self.document.source.place(spot)
    }

    fn table_name(&mut self, path: &[&str], kind: &str) {
        let name = path.last().copied().unwrap_or_default();
        if let Err(help) = check_name(name, NameKind::Table) {
            self.refuse_key(path, format!("{} cannot name a {kind}", quoted(name)), help);
        }
    }

    fn checkpoint(&mut self, checkpoint: &CheckpointFile) -> Checkpoint {
        let (interval, snapshots) = (&["checkpoint", "interval"], &["checkpoint", "snapshot_interval"]);
        Checkpoint {
            path: self.location(&["checkpoint", "path"], &checkpoint.path),
            interval: self.duration(
                interval,
                checkpoint.interval,
                Duration::from_millis(10),
                Duration::from_secs(3600),
            ),
            snapshot_interval: self.duration(
                snapshots,
                checkpoint.snapshot_interval,
                Duration::from_millis(10),
                Duration::from_secs(24 * 3600),
            ),
            retain: to_usize(checkpoint.retain),
            backfill: Backfill::default(),
        }
    }

    fn run(&mut self, file: &PipelineFile) -> RunSettings {
        let run = &file.run;
        RunSettings {
            workers: to_usize(run.workers),
            max_batch_rows: to_usize(run.max_batch_rows),
            max_wait: self.duration(&["run", "max_wait"], run.max_wait, Duration::ZERO, Duration::from_secs(60)),
            stop_timeout: self.duration(
                &["run", "stop_timeout"],
                run.stop_timeout,
                Duration::from_secs(1),
                Duration::from_secs(3600),
            ),
            max_state_bytes: run.max_state_bytes.as_ref().map(|bytes| bytes.0.0),
        }
    }

    /// Sources and views are tables of one namespace, and with the sinks they share the names of metrics and folders.
    fn name_clashes(&mut self) {
        let mut taken: Vec<(String, &str)> = Vec::new();
        for (section, kind) in [("sources", "source"), ("views", "view"), ("sinks", "sink")] {
            for name in self.names(&[section]) {
                if let Some((_, other)) = taken.iter().find(|(known, _)| *known == name) {
                    let message = format!("the {kind} {} has the name of a {other}", quoted(&name));
                    self.refuse_key(
                        &[section, &name],
                        message,
                        "sources, views and sinks have names of their own: rename one",
                    );
                }
                taken.push((name, kind));
            }
        }
    }

    fn rejection_without_dead_letter(&mut self, file: &PipelineFile) {
        if self.is_written(&["dead_letter"]) {
            return;
        }
        for (name, source) in &file.sources.0 {
            if source.max_rejection_rate.is_some() {
                self.refuse(
                    &["sources", name, "max_rejection_rate"],
                    "a rejection rate without `dead_letter`",
                    "without it the first rejected record stops the pipeline: add `dead_letter`, or remove this key",
                );
            }
        }
    }
}

/// The folder from the root on; of a file named without one, it is the one we are in.
fn whole(folder: &Path) -> PathBuf {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    location::local("", &folder)
}

/// Settings of counts are bounded by their schema.
fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn is_blank(sql: &str) -> bool {
    sql.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with("--"))
}

/// Why a file cannot be read, in words that are the same on every system.
pub(super) fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_string(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_string(),
        std::io::ErrorKind::IsADirectory => "it is a folder".to_string(),
        std::io::ErrorKind::InvalidData => "it is not UTF-8 text".to_string(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_file_is_whole_however_the_file_is_named() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(whole(Path::new("")), here);
        assert_eq!(whole(Path::new("x/../y")), here.join("y"));
        assert_eq!(whole(Path::new("/x/./y")), Path::new("/x/y"));
    }
}
