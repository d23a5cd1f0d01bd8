//! Labels of what a run serves: two sinks in memory, one for what was served and one for the labels, that all workers of the
//! process share. Rows that wait for their labels do not outlive the process, and labels find only what the same process served.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, Schema};

use crate::error::{Error, Result};
use crate::model::labels::{
    DELAY_BOUNDS_SECONDS, GroupFigures, LabelFigures, LabelJoin, LabelSettings, ServedRow, hash_of,
};
use crate::observe::labels::{DelayPage, DelayStatus, LabelsStatus, QualityStatus, set_gauges};
use crate::pipeline::settings::{LabelSide, Labels, Pipeline, Sink as SinkSettings, SinkConnector};
use crate::plan::Plan;
use crate::sink::{PrepareRequest, PreparedUnit, Sink};
use crate::types::{Assignment, Hidden, Offset, StateUnit, Units};

/// Names of the sinks in manifests, metrics and the status. No sink of a file can have a dot in its name.
const SERVED_SINK: &str = "labels.served";
const REPORTED_SINK: &str = "labels.reported";

/// What workers share.
#[derive(Debug)]
pub(crate) struct LabelBoard {
    join: Mutex<LabelJoin>,
    /// Only what was served at these event times counts.
    times: Range<i64>,
    pub(crate) delays: DelayPage,
}

/// The sinks of the two sides.
pub(crate) fn sinks(labels: &Labels) -> [SinkSettings; 2] {
    let sink = |name: &str, select: &crate::pipeline::settings::SqlText, side| SinkSettings {
        name: name.to_owned(),
        select: select.clone(),
        connector: SinkConnector::Labels(side),
    };
    [sink(SERVED_SINK, &labels.served, LabelSide::Served), sink(REPORTED_SINK, &labels.reported, LabelSide::Reported)]
}

/// The pipeline with the sinks of its labels behind its own.
pub(crate) fn with_label_sinks(pipeline: &Pipeline) -> Pipeline {
    let mut pipeline = pipeline.clone();
    if let Some(labels) = &pipeline.labels {
        pipeline.sinks.extend(sinks(labels));
    }
    pipeline
}

/// What a side's columns are: name, what is expected, whether it must be there.
fn expected(side: LabelSide) -> &'static [(&'static str, Kind, bool)] {
    match side {
        LabelSide::Served => &[
            ("id", Kind::Id, true),
            ("score", Kind::Number, true),
            ("alert", Kind::Boolean, true),
            ("model_version", Kind::Text, false),
            ("segment", Kind::Text, false),
        ],
        LabelSide::Reported => &[("id", Kind::Id, true), ("label", Kind::Label, true)],
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Id,
    Number,
    Boolean,
    Text,
    Label,
}

impl Kind {
    fn takes(self, data_type: &DataType) -> bool {
        let is_text = matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        match self {
            Kind::Id => is_text || data_type.is_integer(),
            Kind::Number => data_type.is_numeric(),
            Kind::Boolean => *data_type == DataType::Boolean,
            Kind::Text => is_text,
            Kind::Label => *data_type == DataType::Boolean || data_type.is_numeric(),
        }
    }

    fn in_words(self) -> &'static str {
        match self {
            Kind::Id => "text or a whole number",
            Kind::Number => "a number",
            Kind::Boolean => "a boolean",
            Kind::Text => "text",
            Kind::Label => "a boolean, or a number of which 1 is positive",
        }
    }
}

/// Holds the columns of a side against what it must have.
fn wrong_columns(side: LabelSide, schema: &Schema) -> Vec<String> {
    let name = match side {
        LabelSide::Served => "labels.served",
        LabelSide::Reported => "labels.reported",
    };
    let mut problems = Vec::new();
    for (column, kind, is_needed) in expected(side) {
        match schema.field_with_name(column) {
            Ok(field) if !kind.takes(field.data_type()) => problems.push(format!(
                "{name}: expected the column {column} to be {}, found {}",
                kind.in_words(),
                field.data_type()
            )),
            Ok(_) => {}
            Err(_) if *is_needed => {
                problems.push(format!("{name}: expected a column {column} ({}); name it with AS", kind.in_words()));
            }
            Err(_) => {}
        }
    }
    problems
}

/// Holds the label sinks of a planned pipeline against what they must have; all problems at once.
pub(crate) fn check_sinks(pipeline: &Pipeline, plan: &Plan) -> Result<()> {
    let mut problems = Vec::new();
    for (index, sink) in pipeline.sinks.iter().enumerate() {
        if let SinkConnector::Labels(side) = sink.connector {
            problems.extend(wrong_columns(side, &plan.sink_schema(index)));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::invalid(problems.join("\n"))) }
}

impl LabelBoard {
    pub(crate) fn new(labels: &Labels) -> LabelBoard {
        let keep_micros = i64::try_from(labels.keep.as_micros()).unwrap_or(i64::MAX);
        LabelBoard {
            join: Mutex::new(LabelJoin::new(LabelSettings { keep_micros, rows_max: labels.max_rows })),
            times: i64::MIN..i64::MAX,
            delays: DelayPage::default(),
        }
    }

    /// Counts only what was served at these event times, microseconds since 1970-01-01 UTC.
    pub(crate) fn within(mut self, times: Range<i64>) -> LabelBoard {
        self.times = times;
        self
    }

    /// A sink of one side. Each worker has its own.
    pub(crate) fn sink(self: &Arc<Self>, side: LabelSide) -> Box<dyn Sink> {
        Box::new(LabelSink { board: Arc::clone(self), side, preparing: None })
    }

    /// Takes rows of one side, with the hidden columns.
    pub(crate) fn write(&self, side: LabelSide, batch: &RecordBatch) -> Result<()> {
        let times = Hidden::of(batch)?.event_time.values();
        let ids = ids(batch)?;
        let mut join = self.join.lock().unwrap_or_else(PoisonError::into_inner);
        match side {
            LabelSide::Served => {
                let (scores, alerts) = (doubles(batch, "score")?, booleans(batch, "alert")?);
                let (versions, segments) = (texts(batch, "model_version")?, texts(batch, "segment")?);
                for (row, id) in ids.iter().enumerate() {
                    let Some(id) = id.filter(|_| self.times.contains(&times[row])) else { continue };
                    join.serve(ServedRow {
                        id,
                        time: times[row],
                        score: if scores.is_null(row) { f64::NAN } else { scores.value(row) },
                        alert: alerts.is_valid(row) && alerts.value(row),
                        version: text(versions.as_ref(), row),
                        segment: text(segments.as_ref(), row),
                    });
                }
            }
            LabelSide::Reported => {
                let labels = labels(batch)?;
                for (row, id) in ids.iter().enumerate() {
                    if let (Some(id), true) = (*id, labels.is_valid(row)) {
                        join.report(id, times[row], labels.value(row));
                    }
                }
            }
        }
        Ok(())
    }

    /// Sets the metrics, and gives what the status document says.
    pub(crate) fn report(&self) -> LabelsStatus {
        let figures = self.join.lock().unwrap_or_else(PoisonError::into_inner).figures();
        let status = status(&figures);
        set_gauges(&status);
        self.delays.set(&status.delays, figures.delay_seconds_sum);
        status
    }
}

fn status(figures: &LabelFigures) -> LabelsStatus {
    let bounds = DELAY_BOUNDS_SECONDS.iter().copied().map(Some).chain([None]);
    let delay = |(seconds_max, labels): (Option<f64>, &u64)| DelayStatus { seconds_max, labels: *labels };
    LabelsStatus {
        all: quality(&figures.all),
        groups: figures.groups.iter().map(quality).collect(),
        matched: figures.counts.matched,
        repeated: figures.counts.repeated,
        unmatched: figures.counts.unmatched,
        waiting: figures.waiting,
        crowded_out: figures.counts.crowded_out,
        delays: bounds.zip(&figures.delays).map(delay).collect(),
    }
}

fn quality(group: &GroupFigures) -> QualityStatus {
    QualityStatus {
        model_version: group.version.clone(),
        segment: group.segment.clone(),
        served: group.served,
        alerts: group.alerts,
        labelled: group.labelled,
        true_positives: group.true_positives,
        false_positives: group.false_positives,
        false_negatives: group.false_negatives,
        precision: group.precision,
        recall: group.recall,
        pr_auc: group.pr_auc,
    }
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| Error::internal(format!("rows for labels lost their column {name}")))
}

fn as_type(array: &ArrayRef, data_type: &DataType) -> Result<ArrayRef> {
    if array.data_type() == data_type {
        return Ok(Arc::clone(array));
    }
    cast(array, data_type).map_err(|error| Error::internal("a column for labels cannot be read").with_source(error))
}

/// Hashes; none for a null id, which nothing can be joined by.
fn ids(batch: &RecordBatch) -> Result<Vec<Option<u64>>> {
    let array = column(batch, "id")?;
    if array.data_type().is_integer() {
        // As text: an id may be a number on one side only.
        let numbers = as_type(array, &DataType::Int64)?;
        let mut digits = String::new();
        let hash = |number: Option<i64>| {
            use std::fmt::Write as _;
            digits.clear();
            write!(digits, "{}", number?).ok()?;
            Some(hash_of(digits.as_str()))
        };
        return Ok(numbers.as_primitive::<Int64Type>().iter().map(hash).collect());
    }
    let texts = as_type(array, &DataType::Utf8)?;
    Ok(texts.as_string::<i32>().iter().map(|id| id.map(hash_of)).collect())
}

fn doubles(batch: &RecordBatch, name: &str) -> Result<Float64Array> {
    Ok(as_type(column(batch, name)?, &DataType::Float64)?.as_primitive().clone())
}

fn booleans(batch: &RecordBatch, name: &str) -> Result<BooleanArray> {
    Ok(as_type(column(batch, name)?, &DataType::Boolean)?.as_boolean().clone())
}

fn labels(batch: &RecordBatch) -> Result<BooleanArray> {
    if column(batch, "label")?.data_type() == &DataType::Boolean {
        return booleans(batch, "label");
    }
    Ok(doubles(batch, "label")?.iter().map(|label| label.map(|label| label > 0.5)).collect())
}

fn texts(batch: &RecordBatch, name: &str) -> Result<Option<StringArray>> {
    let Some(array) = batch.column_by_name(name) else { return Ok(None) };
    Ok(Some(as_type(array, &DataType::Utf8)?.as_string::<i32>().clone()))
}

fn text(texts: Option<&StringArray>, row: usize) -> &str {
    texts.filter(|texts| texts.is_valid(row)).map_or("", |texts| texts.value(row))
}

/// One side, of one worker.
#[derive(Debug)]
struct LabelSink {
    board: Arc<LabelBoard>,
    side: LabelSide,
    preparing: Option<PrepareRequest>,
}

impl Sink for LabelSink {
    fn take_over(&mut self, _: Assignment, _: &StateUnit, _: Offset) {}

    fn write(&mut self, batch: &RecordBatch, _: &Units) -> Result<()> {
        self.board.write(self.side, batch)
    }

    fn begin_prepare(&mut self, request: PrepareRequest) -> Result<()> {
        match self.preparing.replace(request) {
            None => Ok(()),
            Some(_) => Err(Error::internal("the labels' sink was asked to prepare while it prepares")),
        }
    }

    fn poll_prepared(&mut self) -> Result<Option<Vec<PreparedUnit>>> {
        Ok(self.preparing.take().map(PrepareRequest::without_files))
    }

    /// What was served stays: it was served, whoever has its partition now.
    fn forget(&mut self, _: &[Assignment]) {}
}
