//! The text of `tidemill explain`: for people, and stable enough to be kept beside a pipeline as a golden file.

use std::fmt::Write as _;

use arrow::datatypes::SchemaRef;
use datafusion::physical_plan::displayable;

use super::compile::columns;
use super::graph::Stage;
use super::segment::Target;
use super::window_stage::WindowStage;
use crate::operator::over_window::OverWindow;
use crate::pipeline::settings::{Pipeline, Source, SourceConnector};
use crate::types::HIDDEN_COLUMNS;

/// Sources, stages and sinks in the order in which a record meets them.
pub(super) fn explain(pipeline: &Pipeline, sources: &[SchemaRef], stages: &[Stage]) -> String {
    let mut text = format!("pipeline {}\n", pipeline.name);
    for (source, schema) in pipeline.sources.iter().zip(sources) {
        line(&mut text, 0, &format!("source {} ({})", source.name, connector(source)));
        line(&mut text, 1, &format!("columns: {}", columns(schema)));
        if let Some(event_time) = &source.event_time {
            line(&mut text, 1, &format!("event time: {event_time}"));
        }
        if !source.partitioned_by.is_empty() {
            line(&mut text, 1, &format!("partitioned by: {}", source.partitioned_by.join(", ")));
        }
        for check in &source.checks {
            line(&mut text, 1, &format!("check: {}", check.sql.trim()));
        }
    }
    for (number, stage) in stages.iter().enumerate() {
        match stage {
            Stage::Segment(segment) => {
                let within = if segment.inlined.is_empty() {
                    String::new()
                } else {
                    format!(", with view {}", segment.inlined.join(", "))
                };
                line(&mut text, 0, &format!("stage {}: segment for {}{within}", number + 1, segment.part));
                line(&mut text, 1, &format!("columns: {}", columns(&segment.schema())));
                for row in displayable(segment.plan.as_ref()).indent(false).to_string().lines() {
                    line(&mut text, 1, &without_positions(row));
                }
                match (&segment.target, stages.get(number + 1)) {
                    (Target::Slot(slot), Some(Stage::Window(window))) if window.input == *slot => {
                        line(&mut text, 1, &format!("feeds operator {}", window.info.name));
                    }
                    (Target::Slot(_), _) => line(&mut text, 1, "computed once for all its readers"),
                    (Target::Sink(_), _) => {}
                }
            }
            Stage::Window(stage) => window(&mut text, number + 1, stage),
        }
    }
    if !stages.iter().any(|stage| matches!(stage, Stage::Window(_))) {
        line(&mut text, 0, "operators: none");
        line(&mut text, 0, "state per key: none");
    }
    text
}

/// Rows per key for which the size of state is told.
const ROWS_PER_KEY: [usize; 3] = [1, 10, 100];

fn window(text: &mut String, number: usize, stage: &WindowStage) {
    let info = &stage.info;
    line(text, 0, &format!("stage {number}: operator {} for {}", info.name, stage.part));
    line(text, 1, &format!("partition by: {}", info.keys.join(", ")));
    for (call, sql) in stage.spec.calls.iter().zip(&stage.texts) {
        line(text, 1, &format!("{}: {sql}", call.runs_on()));
    }
    let retained = if stage.arguments.is_empty() { "event time only".to_owned() } else { stage.arguments.join(", ") };
    line(text, 1, &format!("retained per row: {retained}"));
    if let Ok(operator) = OverWindow::new(&stage.spec) {
        let bytes = ROWS_PER_KEY.map(|rows| format!("{} bytes with {rows} rows", operator.bytes_per_key(rows)));
        line(text, 1, &format!("state per key: about {}", bytes.join(", ")));
    }
    line(text, 1, &format!("state fingerprint: {}", &info.fingerprint[..16.min(info.fingerprint.len())]));
}

/// A node's text without the hidden columns that every node passes on.
fn without_positions(node: &str) -> String {
    let (head, columns) = match node.split_once("expr=[") {
        Some((head, columns)) => (format!("{head}expr=["), columns),
        None => return node.to_owned(),
    };
    let first = format!(" as {}", HIDDEN_COLUMNS[0]);
    match columns.find(&first).and_then(|end| columns[..end].rfind(", ")) {
        Some(end) => format!("{head}{}]", &columns[..end]),
        None => node.to_owned(),
    }
}

fn line(text: &mut String, depth: usize, line: &str) {
    let written = writeln!(text, "{:1$}{line}", "", depth * 2);
    debug_assert!(written.is_ok(), "a String takes all text");
}

fn connector(source: &Source) -> String {
    if let Some(internal) = &source.internal {
        return format!("internal topic {} of {}", internal.topic, internal.upstream.join(", "));
    }
    let name = match source.connector {
        SourceConnector::Kafka(_) => "kafka",
        SourceConnector::Files(_) => "files",
        SourceConnector::Generator(_) => "generator",
    };
    name.to_owned()
}
