//! Cases beside a pipeline, run: their records go through the real decoder, checks and SQL; what comes out is held against what
//! is expected. Only what a case asks for is planned, so a case on features needs no model. Connects to nothing but models.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use tokio::runtime::Handle;

use super::compare::compare;
use super::needed::{Output, with_outputs};
use super::tally::RejectedRecord;
use super::turn::Turns;
use super::visible_schema;
use crate::error::{Error, Result};
use crate::pipeline::settings::{Pipeline, Place, SqlText};
use crate::pipeline::{Case, CaseFile, CaseInput, ExpectedRows, Problem, Problems};
use crate::runtime::{self, tasks};
use crate::source::files::FileBlock;
use crate::types::{Assignment, RecordBlock, StateUnit, Units};

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseOutcome {
    /// Its name.
    pub name: String,
    /// What is not as expected; nothing when the case holds.
    pub failures: Vec<String>,
}

/// Runs the cases of a file on its pipeline.
///
/// # Errors
/// When a case cannot be run: a name that the pipeline does not have, SQL that cannot be planned, a model that is not there.
pub fn run_cases(file: &CaseFile, pipeline: &Pipeline, env: &BTreeMap<String, String>) -> Result<Vec<CaseOutcome>> {
    let mut pipeline = pipeline.clone();
    let mut problems = Vec::new();
    for (name, uri, place) in &file.models {
        match pipeline.models.iter_mut().find(|model| model.name == *name) {
            Some(model) => model.uri.clone_from(uri),
            None => {
                let known = pipeline.models.iter().map(|model| model.name.as_str());
                problems.push(unknown(place, "model", name, known));
            }
        }
    }
    for case in &file.cases {
        check_names(case, &pipeline, &mut problems);
    }
    if let Some(problems) = Problems::new(problems) {
        return Err(problems.into());
    }
    let io = tasks::io_runtime()?;
    let run = |case: &Case| {
        let failures = run_case(case, &pipeline, env, io.handle());
        let failures = failures.map_err(|error| error.context(format!("case `{}`", case.name)))?;
        Ok(CaseOutcome { name: case.name.clone(), failures })
    };
    file.cases.iter().map(run).collect()
}

fn unknown<'a>(place: &Place, what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Problem {
    let known: Vec<&str> = known.collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Problem::new(place.clone(), format!("the pipeline has no {what} named `{name}`"))
        .with_help(format!("there are: {known}"))
}

fn check_names(case: &Case, pipeline: &Pipeline, problems: &mut Vec<Problem>) {
    let sources = || pipeline.sources.iter().map(|source| source.name.as_str());
    for input in &case.inputs {
        if !sources().any(|source| source == input.source) {
            problems.push(unknown(&input.place, "source", &input.source, sources()));
        }
    }
    for expected in &case.expect {
        if select_of(pipeline, expected).is_none() {
            let tables = pipeline.sinks.iter().map(|sink| sink.name.as_str());
            let tables = tables.chain(pipeline.views.iter().map(|view| view.name.as_str())).chain(sources());
            problems.push(unknown(&expected.place, "sink, view or source", &expected.table, tables));
        }
    }
    for rejection in &case.rejected {
        let wanted = rejection.source.as_deref();
        let input = case.inputs.iter().find(|input| wanted.is_none_or(|wanted| wanted == input.source));
        let num_records = input.map_or(0, |input| input.records.len() as u64);
        if rejection.record > num_records {
            let message = format!("the case has no record {} of this source", rejection.record);
            let help = format!("its input has {num_records}, counted from 1");
            problems.push(Problem::new(rejection.place.clone(), message).with_help(help));
        }
    }
}

/// The SELECT whose rows are expected: that of a sink, or all columns of a view or source.
fn select_of(pipeline: &Pipeline, expected: &ExpectedRows) -> Option<SqlText> {
    let name = &expected.table;
    if let Some(sink) = pipeline.sinks.iter().find(|sink| sink.name == *name) {
        return Some(sink.select.clone());
    }
    let mut tables =
        pipeline.views.iter().map(|view| &view.name).chain(pipeline.sources.iter().map(|source| &source.name));
    tables.any(|table| table == name).then(|| all_columns(name, &expected.place))
}

/// All columns of a view or source, by its name.
pub(crate) fn all_columns(table: &str, place: &Place) -> SqlText {
    SqlText { sql: format!("SELECT * FROM \"{}\"", table.replace('"', "\"\"")), place: place.clone() }
}

/// What is not as expected.
fn run_case(case: &Case, pipeline: &Pipeline, env: &BTreeMap<String, String>, io: &Handle) -> Result<Vec<String>> {
    let output =
        |expected: &ExpectedRows| Some(Output { name: expected.table.clone(), select: select_of(pipeline, expected)? });
    let outputs = case.expect.iter().filter_map(output).collect();
    let sources: BTreeSet<String> = case.inputs.iter().map(|input| input.source.clone()).collect();
    let pipeline = with_outputs(pipeline, outputs, &sources);
    let (plan, _) = runtime::compile(&pipeline, env, io)?;
    let mut turns = Turns::new(&pipeline, &plan)?;
    let mut found: Vec<Vec<RecordBatch>> = vec![Vec::new(); case.expect.len()];
    let mut rejected = Vec::new();
    for (number, input) in (0..).zip(&case.inputs) {
        let Some(source) = pipeline.sources.iter().position(|source| source.name == input.source) else {
            return Err(Error::internal("an input lost its source"));
        };
        let (block, units) = block(input, Assignment(number));
        let turn = turns.take(source, FileBlock::Records(block), &units)?;
        for (all, batches) in found.iter_mut().zip(turn.outputs) {
            all.extend(batches);
        }
        rejected.extend(turn.rejected);
    }
    let mut failures = compare_rejections(case, &rejected);
    for (index, expected) in case.expect.iter().enumerate() {
        let rows = concat_batches(&visible_schema(&plan, index), &found[index]);
        let rows =
            rows.map_err(|error| Error::internal("rows of one output differ in their columns").with_source(error))?;
        failures.extend(compare(expected, &rows, case.is_unordered, case.tolerance));
    }
    Ok(failures)
}

/// The records of an input as one block of one partition, without keys and broker timestamps.
fn block(input: &CaseInput, assignment: Assignment) -> (RecordBlock, Units) {
    let mut block = RecordBlock::default();
    for (offset, payload) in (0..).zip(&input.records) {
        block.units.push(assignment.0);
        block.offsets.push(offset);
        block.timestamps_ms.push(-1);
        block.keys.push(None);
        block.values.push(payload.as_deref());
        block.headers.end_record();
    }
    let mut units = Units::default();
    units.insert(assignment, StateUnit { source: input.source.as_str().into(), topic: "case".into(), partition: 0 });
    (block, units)
}

fn compare_rejections(case: &Case, found: &[RejectedRecord]) -> Vec<String> {
    let number = |rejected: &RejectedRecord| u64::try_from(rejected.offset).unwrap_or_default() + 1;
    let only = case.inputs.first().map_or("", |input| input.source.as_str());
    let mut failures = Vec::new();
    let mut expected_ones = BTreeSet::new();
    for expected in &case.rejected {
        let source = expected.source.as_deref().unwrap_or(only);
        expected_ones.insert((source, expected.record));
        let place = &expected.place;
        let what =
            format!("{place}: record {} of {source}: expected to be rejected for {}", expected.record, expected.reason);
        let is_it =
            |rejected: &&RejectedRecord| *rejected.unit.source == *source && number(rejected) == expected.record;
        match found.iter().find(is_it) {
            None => failures.push(format!("{what}, but it was accepted")),
            Some(rejected) if rejected.reason.as_str() != expected.reason => {
                failures.push(format!("{what}, found {}", why(rejected)));
            }
            Some(_) => {}
        }
    }
    for rejected in found {
        let (source, record) = (&*rejected.unit.source, number(rejected));
        if !expected_ones.contains(&(source, record)) {
            failures.push(format!(
                "record {record} of {source}: expected to be accepted, but rejected for {}",
                why(rejected)
            ));
        }
    }
    failures
}

fn why(rejected: &RejectedRecord) -> String {
    let detail = rejected.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
    format!("{}{detail}", rejected.reason)
}
