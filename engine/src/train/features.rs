//! Which columns a model is trained on: exactly those that the pipeline's own SQL gives to `score`, in that order, so that
//! there is nothing to skew between training and serving.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::pipeline::settings::Pipeline;
use crate::plan::{Call, CallCheck, Refusal};
use crate::runtime::plan_untrained;

/// What to train on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureQuery {
    /// The features, in the order of the call.
    pub features: Vec<String>,
    /// Features, then the label, then the event time.
    pub select: String,
}

/// Remembers the calls that the planner meets.
#[derive(Debug, Default)]
struct Calls(Mutex<Vec<Call>>);

impl CallCheck for Calls {
    fn check(&self, call: &Call) -> std::result::Result<(), Refusal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(call.clone());
        Ok(())
    }
}

/// Finds the call of `score` for `model` and makes the query of its arguments. `view` is the view that has them; by default
/// the one before the view that scores.
pub fn feature_query(pipeline: &Pipeline, model: &str, label: &str, view: Option<&str>) -> Result<FeatureQuery> {
    let calls = Arc::new(Calls::default());
    plan_untrained(pipeline, &(Arc::clone(&calls) as Arc<dyn CallCheck>))?;
    let calls = calls.0.lock().unwrap_or_else(PoisonError::into_inner);
    let is_of_model = |call: &&Call| call.arguments.first().and_then(|first| first.literal.as_deref()) == Some(model);
    let Some(call) = calls.iter().filter(|call| call.function == "score").find(is_of_model) else {
        return Err(Error::invalid(format!(
            "no view or sink of pipeline {} calls score('{model}', ...)",
            pipeline.name
        )));
    };
    let features: Vec<String> = call.arguments[1..].iter().map(|argument| argument.name.clone()).collect();
    if let Some(leak) = features.iter().find(|feature| feature.as_str() == label) {
        return Err(Error::invalid(format!(
            "the label {leak} is an argument of score('{model}', ...); a model must not see it"
        )));
    }
    let view = match view {
        Some(view) => view.to_owned(),
        None => view_before_score(pipeline)?,
    };
    let event_time = pipeline
        .sources
        .iter()
        .find_map(|source| source.event_time.clone())
        .ok_or_else(|| Error::invalid("training splits by time, and no source declares `event_time`"))?;
    let columns: Vec<String> =
        features.iter().map(|feature| format!("CAST({} AS DOUBLE) AS {}", quoted(feature), quoted(feature))).collect();
    let select = format!(
        "SELECT {}, CAST({} AS DOUBLE) AS {}, {} FROM {view}",
        columns.join(", "),
        quoted(label),
        quoted("label of training"),
        quoted(&event_time)
    );
    Ok(FeatureQuery { features, select })
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn view_before_score(pipeline: &Pipeline) -> Result<String> {
    let scores = |sql: &str| sql.to_ascii_lowercase().replace(char::is_whitespace, "").contains("score(");
    let at = pipeline.views.iter().position(|view| scores(&view.query.sql)).unwrap_or(pipeline.views.len());
    match at.checked_sub(1) {
        Some(before) => Ok(pipeline.views[before].name.clone()),
        None => Err(Error::invalid(
            "no view stands before the one that scores; name the view with the features: --view NAME",
        )),
    }
}
