//! Refuses a Parquet sink with `positions: true` whose SELECT has a column that the option adds. Known only once the plan is
//! compiled, so it is asked wherever one is.

use crate::error::Result;
use crate::pipeline::settings::{Pipeline, SinkConnector};
use crate::pipeline::{Problem, Problems};
use crate::plan::Plan;
use crate::types::POSITION_COLUMNS;

/// Refuses sinks whose SELECT has a column that the option adds.
pub(crate) fn check(pipeline: &Pipeline, plan: &Plan) -> Result<()> {
    let mut problems = Vec::new();
    for (index, sink) in pipeline.sinks.iter().enumerate() {
        if !matches!(&sink.connector, SinkConnector::Parquet(parquet) if parquet.has_positions) {
            continue;
        }
        let schema = plan.sink_schema(index);
        for field in schema.fields() {
            if POSITION_COLUMNS.iter().any(|name| name.eq_ignore_ascii_case(field.name())) {
                let message = format!(
                    "sink {}: `positions: true` adds a column that the SELECT has already: {}",
                    sink.name,
                    field.name()
                );
                let help = format!(
                    "give it another name with AS, or leave `positions` out; the columns that are added: {}",
                    POSITION_COLUMNS.join(", ")
                );
                problems.push(Problem::new(sink.select.place.clone(), message).with_help(help));
            }
        }
    }
    Problems::new(problems).map_or(Ok(()), |problems| Err(problems.into()))
}
