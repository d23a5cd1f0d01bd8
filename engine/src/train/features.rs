//! Which columns a model is trained on: exactly those that the pipeline's own SQL gives to `score`, in that order, so that
//! there is nothing to skew between training and serving. Refuses columns of other types, and what a model must not see.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::{DataType, SchemaRef, TimeUnit};

use super::leaks::{Forbidden, leaks};
use crate::error::{Error, Result};
use crate::pipeline::settings::{Pipeline, Training};
use crate::plan::{Call, CallCheck, Plan, Refusal, choices};
use crate::replay::selecting;
use crate::runtime::plan_untrained;

/// What to train on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureQuery {
    /// The features, in the order of the call.
    pub features: Vec<String>,
    /// The view that has them.
    pub view: String,
    /// The column that says what is positive.
    pub label: String,
    /// The column of money.
    pub amount: Option<String>,
    /// The column that says what kind of positive a row is.
    pub kind: Option<String>,
    /// Columns by whose values the model is judged apart.
    pub segments: Vec<String>,
    /// Features, the label, the event time; then amount, kind and segments, as far as they are named.
    pub select: String,
    /// Hash of the SQL that the features depend on.
    pub fingerprint: String,
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

/// The `training` section of a pipeline.
pub fn training_of(pipeline: &Pipeline) -> Result<&Training> {
    pipeline.training.as_ref().ok_or_else(|| {
        Error::invalid(format!(
            "pipeline {} has no section `training`, which says what is to be learnt; add it to the pipeline file: `training: {{ label: \
             is_fraud }}`",
            pipeline.name
        ))
    })
}

/// Finds the call of `score` for the model and makes the query of its arguments.
pub fn feature_query(pipeline: &Pipeline, training: &Training) -> Result<FeatureQuery> {
    let model = &training.model;
    let calls = Arc::new(Calls::default());
    let plan = plan_untrained(pipeline, &(Arc::clone(&calls) as Arc<dyn CallCheck>))?;
    let calls = std::mem::take(&mut *calls.0.lock().unwrap_or_else(PoisonError::into_inner));
    let is_of_model = |call: &&Call| call.arguments.first().and_then(|first| first.literal.as_deref()) == Some(model);
    let Some(call) = calls.iter().filter(|call| call.function == "score").find(is_of_model) else {
        return Err(Error::invalid(format!(
            "no view or sink of pipeline {} calls score('{model}', ...)",
            pipeline.name
        )));
    };
    let features: Vec<String> = call.arguments[1..].iter().map(|argument| argument.name.clone()).collect();
    check_names(&features)?;
    let view = match &training.view {
        Some(view) => view.clone(),
        None => view_before_score(pipeline)?,
    };
    let (columns, event_time) = columns_of(pipeline, training, &features, &view)?;
    let select = select(training, &features, &view, &event_time, &columns);
    let cut = selecting(pipeline, &select);
    let fingerprint = plan_untrained(&cut, &(Arc::new(Calls::default()) as Arc<dyn CallCheck>))?.fingerprint();
    refuse_leaks(&plan, training, &features, &view)?;
    Ok(FeatureQuery {
        features,
        view,
        label: training.label.clone(),
        amount: training.amount.clone(),
        kind: training.kind.clone(),
        segments: training.segments.clone(),
        select,
        fingerprint,
    })
}

/// LightGBM writes names into its model as they are, and cannot write all.
fn check_names(features: &[String]) -> Result<()> {
    if features.is_empty() {
        return Err(Error::invalid("score(...) has no features; write them behind the name of the model"));
    }
    for (index, feature) in features.iter().enumerate() {
        if feature.is_empty()
            || feature.contains(|c: char| c.is_whitespace() || c.is_control() || "\",:[]{}".contains(c))
        {
            return Err(Error::invalid(format!(
                "feature {} of score, `{feature}`, cannot be the name of a feature: compute it in the view before, and give it a name of \
                 letters, digits and _",
                index + 1
            )));
        }
        if features[..index].contains(feature) {
            return Err(Error::invalid(format!("the feature {feature} stands twice in score(...); leave one out")));
        }
    }
    Ok(())
}

/// What a column is for, its name, which type is expected, and whether a type is of that kind.
type Wanted<'a> = (&'static str, &'a String, &'static str, &'a dyn Fn(&DataType) -> bool);

/// The columns of the view, and which of them is the event time; refuses what is not among them, or of another type.
fn columns_of(
    pipeline: &Pipeline,
    training: &Training,
    features: &[String],
    view: &str,
) -> Result<(SchemaRef, String)> {
    let is_table =
        pipeline.views.iter().any(|one| one.name == view) || pipeline.sources.iter().any(|one| one.name == view);
    if !is_table {
        let names: Vec<String> = pipeline.views.iter().map(|view| view.name.clone()).collect();
        let help = choices("views", view, &names);
        return Err(Error::invalid(format!("`training.view`: there is no view {view}; {help}")));
    }
    let cut = selecting(pipeline, &format!("SELECT * FROM {}", quoted(view)));
    let plan = plan_untrained(&cut, &(Arc::new(Calls::default()) as Arc<dyn CallCheck>))?;
    let columns = plan.sink_schema(0);
    let event_time = cut.sources.iter().find_map(|source| source.event_time.clone()).ok_or_else(|| {
        Error::invalid("training splits by time, and no source of the features declares `event_time`")
    })?;
    let is_number = |data_type: &DataType| data_type.is_numeric() || *data_type == DataType::Boolean;
    let is_time = |data_type: &DataType| matches!(data_type, DataType::Timestamp(TimeUnit::Microsecond, _));
    let any = |_: &DataType| true;
    let number = "a number or a boolean";
    let mut wanted: Vec<Wanted<'_>> = vec![
        ("`training.label`", &training.label, number, &is_number),
        ("the event time", &event_time, "a timestamp", &is_time),
    ];
    wanted.extend(training.amount.iter().map(|amount| ("`training.amount`", amount, number, &is_number as _)));
    wanted.extend(training.kind.iter().map(|kind| ("`training.kind`", kind, "any", &any as _)));
    wanted.extend(training.segments.iter().map(|segment| ("`training.segments`", segment, "any", &any as _)));
    wanted.extend(features.iter().map(|feature| ("an argument of score", feature, number, &is_number as _)));
    for (what, name, expected, fits) in wanted {
        let Ok(field) = columns.field_with_name(name) else {
            let names: Vec<String> = columns.fields().iter().map(|field| field.name().clone()).collect();
            let names: Vec<String> =
                names.into_iter().filter(|name| !name.starts_with(crate::types::HIDDEN_PREFIX)).collect();
            let help = choices("its columns", name, &names);
            return Err(Error::invalid(format!("{what}: the view {view} has no column {name}; {help}")));
        };
        if !fits(field.data_type()) {
            return Err(Error::invalid(format!(
                "{what}: expected {expected}, found the column {name} of type {}; turn it into one in the view {view} (CASE, CAST)",
                field.data_type()
            )));
        }
    }
    Ok((columns, event_time))
}

fn select(training: &Training, features: &[String], view: &str, event_time: &str, columns: &SchemaRef) -> String {
    let number = |name: &String, alias: &str| format!("CAST({} AS DOUBLE) AS {}", quoted(name), quoted(alias));
    let mut selected: Vec<String> = features.iter().map(|feature| number(feature, feature)).collect();
    selected.push(number(&training.label, "label of training"));
    selected.push(format!("{} AS {}", quoted(event_time), quoted("time of training")));
    selected.extend(training.amount.iter().map(|amount| number(amount, "amount of training")));
    let text = |name: &String, alias: String| {
        let is_text = columns.field_with_name(name).is_ok_and(|field| *field.data_type() == DataType::Utf8);
        let value = if is_text { quoted(name) } else { format!("CAST({} AS VARCHAR)", quoted(name)) };
        format!("{value} AS {}", quoted(&alias))
    };
    selected.extend(training.kind.iter().map(|kind| text(kind, "kind of training".to_owned())));
    let segments = training.segments.iter().enumerate();
    selected.extend(segments.map(|(index, segment)| text(segment, format!("segment {index} of training"))));
    format!("SELECT {} FROM {}", selected.join(", "), quoted(view))
}

fn refuse_leaks(plan: &Plan, training: &Training, features: &[String], view: &str) -> Result<()> {
    let forbidden = Forbidden {
        label: &training.label,
        known_later: training.known_later.iter().chain(&training.kind).map(String::as_str).collect(),
        says_what_is_later: !training.known_later.is_empty(),
    };
    let found = leaks(&|table| plan.column_origins(table), view, features, &forbidden)?;
    if found.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "a model must not see what is not known when it scores:\n{}\nleave these features out of score('{}', ...)",
        found.join("\n"),
        training.model
    )))
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
            "no view stands before the one that scores; name the view with the features: `training.view`",
        )),
    }
}
