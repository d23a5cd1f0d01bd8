//! A pipeline cut down to what some outputs need: views that they do not read, models that they do not call and sources that
//! they do not reach are left out, so that features can be computed before there is a model. Connects to nothing.

use std::collections::BTreeSet;

use tidemill_udfs::functions::challenger_name;

use crate::pipeline::settings::{Pipeline, Sink, SinkConnector, SqlText};
use crate::plan::mentions;

/// Rows that are asked of a pipeline in place of its sinks'.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    /// A name for messages.
    pub(crate) name: String,
    /// The SELECT.
    pub(crate) select: SqlText,
}

/// `pipeline` with `outputs` as its sinks, and what they need. Sources named in `kept` stay in any case.
pub(crate) fn with_outputs(pipeline: &Pipeline, outputs: Vec<Output>, kept: &BTreeSet<String>) -> Pipeline {
    let sinks = outputs.into_iter().map(|output| Sink {
        name: output.name,
        select: output.select,
        connector: SinkConnector::Console,
    });
    with_sinks(pipeline, sinks.collect(), kept)
}

/// As [`with_outputs`], with sinks of a connector of their own.
pub(super) fn with_sinks(pipeline: &Pipeline, sinks: Vec<Sink>, kept: &BTreeSet<String>) -> Pipeline {
    cut(Pipeline { sinks, ..pipeline.clone() }, kept)
}

/// `pipeline` with what its sinks need.
pub(crate) fn needed(pipeline: &Pipeline) -> Pipeline {
    cut(pipeline.clone(), &BTreeSet::new())
}

/// Whether a pipeline may have windows, for which the order of rows matters: whether a word of its SQL is OVER. Says yes when in
/// doubt, so a comment is enough.
pub(crate) fn may_have_windows(pipeline: &Pipeline) -> bool {
    let texts =
        pipeline.views.iter().map(|view| &view.query.sql).chain(pipeline.sinks.iter().map(|sink| &sink.select.sql));
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    texts.flat_map(|sql| sql.split(|c| !is_word(c))).any(|word| word.eq_ignore_ascii_case("over"))
}

fn cut(mut pipeline: Pipeline, kept: &BTreeSet<String>) -> Pipeline {
    let mut tables = kept.clone();
    let mut models = BTreeSet::new();
    let mut note = |sql: &str, tables: &mut BTreeSet<String>| match mentions(sql) {
        Some(found) => {
            tables.extend(found.tables);
            models.extend(found.first_arguments);
            true
        }
        None => false,
    };
    let mut is_known = true;
    for sink in &pipeline.sinks {
        is_known &= note(&sink.select.sql, &mut tables);
    }
    // A view is read only by later ones, so going back each is judged when all its readers are known.
    for view in pipeline.views.iter().rev() {
        if tables.contains(&view.name) {
            is_known &= note(&view.query.sql, &mut tables);
        }
    }
    if is_known {
        pipeline.views.retain(|view| tables.contains(&view.name));
        pipeline.sources.retain(|source| tables.contains(&source.name));
        for model in &mut pipeline.models {
            model.challenger.take_if(|_| !models.contains(&challenger_name(&model.name)));
        }
        pipeline.models.retain(|model| models.contains(&model.name) || model.challenger.is_some());
    }
    // Otherwise a text is no SELECT: the plan of the whole says what is wrong, with its place.
    pipeline
}
