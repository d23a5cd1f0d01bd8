//! A checkpoint as people read it: what is there, one manifest, the difference of two; as values and as text. Reads only.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat};

use crate::checkpoint::layout::{PIPELINE_FILE, UNITS_FOLDER, manifest_path, parse_manifest_path};
use crate::checkpoint::manifest::{
    MANIFEST_BYTES_MAX, Manifest, ManifestKind, ManifestNumber, PipelineFile, Predecessor, Snapshot, StateKind,
    StateTable,
};
use crate::checkpoint::store::{Folder, Stores};
use crate::error::{Error, Result};
use crate::types::{StateUnit, Watermark};

/// A checkpoint path, open for reading.
#[derive(Debug, Clone)]
pub struct Inspector {
    folder: Folder,
    pipeline: PipelineFile,
}

/// One state unit of a checkpoint.
#[derive(Debug)]
pub struct UnitSummary {
    /// The unit.
    pub unit: StateUnit,
    /// Its manifests, ascending.
    pub numbers: Vec<ManifestNumber>,
    /// The newest one, or why it cannot be read.
    pub newest: Result<Manifest>,
}

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What, as [`render_manifest`] names it.
    pub field: String,
    /// Before; `None` when it was not there.
    pub before: Option<String>,
    /// After; `None` when it is gone.
    pub after: Option<String>,
}

/// Reads `source/topic/partition`; topics may have slashes.
pub fn parse_unit(text: &str) -> Result<StateUnit> {
    let parse = || {
        let (source, rest) = text.split_once('/')?;
        let (topic, partition) = rest.rsplit_once('/')?;
        Some(StateUnit { source: source.into(), topic: topic.into(), partition: partition.parse().ok()? })
    };
    parse().ok_or_else(|| {
        Error::invalid(format!(
            "`{text}` is not a state unit: expected `source/topic/partition`, such as `transactions/cards/0`"
        ))
    })
}

impl Inspector {
    /// Opens the path, which must be a checkpoint's.
    pub async fn open(stores: &Stores, uri: &str) -> Result<Inspector> {
        let folder = stores.open(uri)?;
        let Some(bytes) = folder.read(PIPELINE_FILE, MANIFEST_BYTES_MAX).await? else {
            return Err(Error::invalid(format!(
                "{}: there is no checkpoint: expected an object {PIPELINE_FILE}; give the `path` of a pipeline's `checkpoint`",
                folder.uri()
            )));
        };
        let pipeline = PipelineFile::from_bytes(&bytes, &folder.place(PIPELINE_FILE))?;
        Ok(Inspector { folder, pipeline })
    }

    /// The folder, where files of state are.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Whose path it is.
    #[must_use]
    pub fn pipeline(&self) -> &PipelineFile {
        &self.pipeline
    }

    /// All state units.
    pub async fn list(&self) -> Result<Vec<UnitSummary>> {
        let mut units: BTreeMap<StateUnit, Vec<ManifestNumber>> = BTreeMap::new();
        for object in self.folder.list(UNITS_FOLDER).await? {
            if let Some((unit, number)) = parse_manifest_path(&object.name) {
                units.entry(unit).or_default().push(number);
            }
        }
        let mut summaries = Vec::with_capacity(units.len());
        for (unit, mut numbers) in units {
            numbers.sort_unstable();
            let newest = self.show(&unit, None).await;
            summaries.push(UnitSummary { unit, numbers, newest });
        }
        Ok(summaries)
    }

    /// One manifest; the newest when no number is given.
    pub async fn show(&self, unit: &StateUnit, number: Option<ManifestNumber>) -> Result<Manifest> {
        let number = match number {
            Some(number) => number,
            None => self.newest(unit).await?,
        };
        let name = manifest_path(unit, number);
        let place = self.folder.place(&name);
        let Some(bytes) = self.folder.read(&name, MANIFEST_BYTES_MAX).await? else {
            return Err(Error::invalid(format!(
                "{unit} has no manifest {number}: expected an object {place}; `checkpoint list` shows which there are"
            )));
        };
        Manifest::from_bytes(&bytes, &place, Some(&self.pipeline.id), unit, number)
    }

    async fn newest(&self, unit: &StateUnit) -> Result<ManifestNumber> {
        let folder = crate::checkpoint::layout::manifests_folder(unit);
        let listed = self.folder.list(&folder).await?;
        let newest =
            listed.iter().filter_map(|object| parse_manifest_path(&object.name)).map(|(_, number)| number).max();
        newest.ok_or_else(|| {
            Error::invalid(format!("the checkpoint has no state unit {unit}: `checkpoint list` shows which there are"))
        })
    }
}

/// All fields of a manifest as text, in order: (name, value).
#[must_use]
pub fn fields(manifest: &Manifest) -> Vec<(String, String)> {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".into());
    let mut fields: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: String| fields.push((name.to_owned(), value));
    add("unit", manifest.unit.to_string());
    add("number", manifest.number.to_string());
    add("kind", kind(manifest).to_owned());
    add("generation", manifest.generation.to_string());
    if let Some(number) = manifest.num_first_partitions {
        add("partitions at the first start", number.to_string());
    }
    add("epoch", or_none(manifest.epoch.map(|epoch| epoch.get().to_string())));
    add("offset", or_none(manifest.offset.map(|offset| offset.to_string())));
    add("watermark", watermark(manifest.watermark));
    for (name, sink) in &manifest.sinks {
        add(&format!("sink {name}: position"), sink.position.to_string());
        add(&format!("sink {name}: watermark"), watermark(sink.watermark));
        if let Some(covered) = sink.covered {
            add(&format!("sink {name}: files reach to"), covered.to_string());
        }
        for file in &sink.files {
            let text =
                format!("{} rows, {} bytes, offsets {}, staged as {}", file.rows, file.bytes, file.range, file.staged);
            add(&format!("sink {name}: file {}/{}", file.folder, file.name), text);
        }
    }
    for snapshot in &manifest.state {
        for (name, value) in snapshot_fields(snapshot) {
            add(&name, value);
        }
    }
    for (name, model) in &manifest.models {
        add(&format!("model {name}"), format!("{} (sha256 {})", model.version, model.sha256));
    }
    add(
        "sql fingerprint",
        if manifest.sql_fingerprint.is_empty() { "none".into() } else { manifest.sql_fingerprint.clone() },
    );
    add("written at", manifest.written_at.clone());
    add("written by", manifest.writer.to_string());
    fields
}

fn snapshot_fields(snapshot: &Snapshot) -> Vec<(String, String)> {
    let kind = match snapshot.kind {
        StateKind::Full => "full",
        StateKind::Delta => "delta",
    };
    let at = format!("state at {}", snapshot.offset);
    let bytes = snapshot.bytes();
    let mut fields = vec![(at.clone(), format!("{kind}, {bytes} bytes, watermark {}", watermark(snapshot.watermark)))];
    for (name, operator) in &snapshot.operators {
        let rows = |table| operator.file(table).map_or(0, |file| file.rows);
        let (keys, rows) = (rows(StateTable::Slots), rows(StateTable::Rows));
        let bytes: u64 = operator.files.iter().map(|file| file.bytes).sum();
        let text = format!("{keys} keys, {rows} rows, {bytes} bytes, fingerprint {}", operator.fingerprint);
        fields.push((format!("{at}: {name}"), text));
    }
    fields
}

fn kind(manifest: &Manifest) -> &'static str {
    match (manifest.kind, manifest.predecessor) {
        (ManifestKind::Checkpoint, _) => "checkpoint",
        (ManifestKind::Release, _) => "release",
        (ManifestKind::Claim, Some(Predecessor::Nobody)) => "claim (the first)",
        (ManifestKind::Claim, Some(Predecessor::Released)) => "claim (after a release)",
        (ManifestKind::Claim, Some(Predecessor::MayLive) | None) => "claim (the writer before did not release)",
    }
}

fn watermark(watermark: Watermark) -> String {
    let Some(time) = watermark.get() else { return "none".into() };
    match DateTime::from_timestamp_micros(time.as_micros()) {
        Some(time) => time.to_rfc3339_opts(SecondsFormat::Micros, true),
        None => format!("{} microseconds", time.as_micros()),
    }
}

/// The fields in which two manifests differ.
#[must_use]
pub fn diff(before: &Manifest, after: &Manifest) -> Vec<Difference> {
    let (before, after) = (fields(before), fields(after));
    let find = |fields: &[(String, String)], name: &str| {
        fields.iter().find(|field| field.0 == name).map(|field| field.1.clone())
    };
    let mut differences = Vec::new();
    for (field, value) in &before {
        let new = find(&after, field);
        if new.as_ref() != Some(value) {
            differences.push(Difference { field: field.clone(), before: Some(value.clone()), after: new });
        }
    }
    for (field, value) in &after {
        if find(&before, field).is_none() {
            differences.push(Difference { field: field.clone(), before: None, after: Some(value.clone()) });
        }
    }
    differences
}

/// A table of all units.
#[must_use]
pub fn render_list(pipeline: &PipelineFile, units: &[UnitSummary]) -> String {
    let mut rows = vec![
        ["unit", "manifests", "newest", "kind", "generation", "offset", "state at", "watermark", "written at"]
            .map(str::to_owned),
    ];
    let mut problems = String::new();
    for summary in units {
        let number = summary.numbers.last().map_or_else(String::new, ToString::to_string);
        let (unit, count) = (summary.unit.to_string(), summary.numbers.len().to_string());
        rows.push(match &summary.newest {
            Ok(newest) => [
                unit,
                count,
                number,
                kind(newest).split(' ').next().unwrap_or_default().to_owned(),
                newest.generation.to_string(),
                newest.offset.map_or_else(|| "none".into(), |offset| offset.to_string()),
                newest.state.last().map_or_else(|| "none".into(), |snapshot| snapshot.offset.to_string()),
                watermark(newest.watermark),
                newest.written_at.clone(),
            ],
            Err(error) => {
                problems.push_str(&format!("{error}\n"));
                let empty = String::new;
                [unit, count, number, "damaged".into(), empty(), empty(), empty(), empty(), empty()]
            }
        });
    }
    let width = units.len();
    format!(
        "pipeline {} ({width} state {})\n{}{problems}",
        pipeline.name,
        if width == 1 { "unit" } else { "units" },
        table(&rows)
    )
}

/// A manifest, field by field.
#[must_use]
pub fn render_manifest(manifest: &Manifest) -> String {
    table(&fields(manifest).into_iter().map(|(name, value)| [name, value]).collect::<Vec<_>>())
}

/// The difference of two manifests.
#[must_use]
pub fn render_diff(differences: &[Difference]) -> String {
    if differences.is_empty() {
        return "no difference\n".into();
    }
    let mut rows = vec![["field", "before", "after"].map(str::to_owned)];
    let absent = || "-".to_owned();
    rows.extend(differences.iter().map(|difference| {
        [
            difference.field.clone(),
            difference.before.clone().unwrap_or_else(absent),
            difference.after.clone().unwrap_or_else(absent),
        ]
    }));
    table(&rows)
}

fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: Vec<usize> =
        (0..N).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  ", width = *width));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
