//! The SQL functions over models as the planner gets them: with the models loaded, and every call of `score` held against
//! its model; or, for commands that connect to nothing, with the models that are in local files, and by their signatures for
//! the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::Result as DataFusionResult;
use datafusion::common::not_impl_err;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use tidemill_udfs::functions::{EXPLAIN_SCORE, Models, check_call, functions};

use super::repartition::staged;
use super::{labels, positions};
use crate::error::Error;
use crate::model::{self, Unread, places};
use crate::pipeline::settings::Pipeline;
use crate::plan::{self, Call, CallCheck, Functions, Plan, PlanProblem, Refusal};

/// Functions that are evaluated once per row, however often their value is used.
fn once() -> Vec<String> {
    vec!["score".to_owned(), EXPLAIN_SCORE.to_owned()]
}

/// Functions that no row can make fail: their models were read, and their arguments made numbers, before.
fn infallible() -> Vec<String> {
    ["score", EXPLAIN_SCORE, "threshold", "model_version", "model_run_id"].map(str::to_owned).to_vec()
}

/// The functions over loaded models.
pub(crate) fn loaded(models: &Arc<Models>) -> Functions {
    Functions {
        scalar: functions(models).into_iter().map(Arc::new).collect(),
        once: once(),
        infallible: infallible(),
        check_call: Some(Arc::new(LoadedCalls(Arc::clone(models)))),
        observer: None,
    }
}

/// Models of this many are tried as a number and as a list of numbers, in all combinations; of more, the others are numbers.
const UNREAD_TRIED: usize = 6;

/// The plan of a pipeline some of whose models were not read: to judge and to explain, not to run. Whether such a model gives
/// a number or a list of them is not known, so a pipeline is refused when it is wrong either way.
pub(crate) fn plan_unread(
    pipeline: &Pipeline,
    models: &Arc<Models>,
    unread: &[String],
    check_call: &Arc<dyn CallCheck>,
) -> Result<Plan, Error> {
    with_signatures(models, unread, check_call, |functions| Plan::compile(pipeline, functions))
}

fn with_signatures<T>(
    models: &Arc<Models>,
    unread: &[String],
    check_call: &Arc<dyn CallCheck>,
    plan: impl Fn(&Functions) -> Result<T, Vec<PlanProblem>>,
) -> Result<T, Error> {
    let compile = |lists: u32| -> Result<T, Vec<PlanProblem>> {
        let assumed = unread.iter().enumerate().map(|(index, name)| (name.clone(), lists >> index & 1 == 1)).collect();
        plan(&signatures(models, assumed, check_call))
    };
    compile(0).or_else(|problems| {
        let combinations = 1_u32 << unread.len().min(UNREAD_TRIED);
        (1..combinations).find_map(|lists| compile(lists).ok()).ok_or_else(|| plan::refused(problems))
    })
}

/// The functions by their signatures: enough to plan, not to run. `assumed`: the models that are not in `models`, and whether
/// they give lists.
fn signatures(models: &Arc<Models>, assumed: BTreeMap<String, bool>, check_call: &Arc<dyn CallCheck>) -> Functions {
    let of_name = |name: &'static str, returns| {
        let signature = Signature::exact(vec![DataType::Utf8], Volatility::Volatile);
        Arc::new(ScalarUDF::new_from_impl(Unloaded { name, signature, returns }))
    };
    let item = |name: &str| match name {
        "score" => Some(DataType::Float64),
        EXPLAIN_SCORE => Some(DataType::Utf8),
        _ => None,
    };
    let of_scores = functions(models).into_iter().filter_map(|loaded| {
        let (item, assumed) = (item(loaded.name())?, assumed.clone());
        Some(Arc::new(ScalarUDF::new_from_impl(UnloadedScore { loaded, item, assumed })))
    });
    Functions {
        scalar: of_scores
            .chain([
                of_name("threshold", DataType::Float64),
                of_name("model_version", DataType::Utf8),
                of_name("model_run_id", DataType::Utf8),
            ])
            .collect(),
        once: once(),
        infallible: infallible(),
        check_call: Some(Arc::clone(check_call)),
        observer: None,
    }
}

/// Holds calls against loaded models.
#[derive(Debug)]
struct LoadedCalls(Arc<Models>);

impl CallCheck for LoadedCalls {
    fn check(&self, call: &Call) -> Result<(), Refusal> {
        let model = model_name(call)?;
        let slot = self.0.slot(model).map_err(|error| unknown(&error.to_string()))?;
        let names: Vec<&str> = call.arguments[1..].iter().map(|argument| argument.name.as_str()).collect();
        check_call(&slot.current().model, &names).map_err(|error| {
            Refusal::new(
                format!("{}('{model}', ...)", call.function),
                error.to_string(),
                "give the model's features as columns of the same names, in its order; rename a column in the view before with AS",
            )
        })
    }
}

/// Holds calls against the models that were read, and against the names of the others.
#[derive(Debug)]
struct LocalCalls {
    models: Arc<Models>,
    unread: Vec<String>,
}

impl CallCheck for LocalCalls {
    fn check(&self, call: &Call) -> Result<(), Refusal> {
        let model = model_name(call)?;
        if self.unread.iter().any(|name| name == model) {
            return Ok(());
        }
        if self.models.slot(model).is_ok() {
            return LoadedCalls(Arc::clone(&self.models)).check(call);
        }
        let mut known: Vec<&str> = self.models.names().chain(self.unread.iter().map(String::as_str)).collect();
        known.sort_unstable();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(unknown(&format!("no model is named '{model}'; models of this pipeline: {known}")))
    }
}

fn unknown(reason: &str) -> Refusal {
    Refusal::new("score", reason, "add the model under `models:` in the pipeline file")
}

fn model_name(call: &Call) -> Result<&str, Refusal> {
    call.arguments.first().and_then(|first| first.literal.as_deref()).ok_or_else(|| {
        Refusal::new(
            "score",
            "its first argument is not the name of a model",
            "write the name as a string: score('fraud', ...)",
        )
    })
}

/// A function that can be planned and not run.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Unloaded {
    name: &'static str,
    signature: Signature,
    returns: DataType,
}

impl ScalarUDFImpl for Unloaded {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        not_impl_err!("{} was planned without its models", self.name)
    }
}

/// `score`, or the reasons of one, over the models that were read; of the others it is assumed whether they give one value or a
/// list of them.
#[derive(Debug, PartialEq, Eq, Hash)]
struct UnloadedScore {
    loaded: ScalarUDF,
    item: DataType,
    assumed: BTreeMap<String, bool>,
}

impl ScalarUDFImpl for UnloadedScore {
    fn name(&self) -> &str {
        self.loaded.name()
    }

    fn signature(&self) -> &Signature {
        self.loaded.signature()
    }

    fn return_type(&self, types: &[DataType]) -> DataFusionResult<DataType> {
        self.loaded.return_type(types)
    }

    fn coerce_types(&self, types: &[DataType]) -> DataFusionResult<Vec<DataType>> {
        self.loaded.inner().coerce_types(types)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        let name = arguments.scalar_arguments.first().copied().flatten().and_then(|name| name.try_as_str().flatten());
        let returns = match name.and_then(|name| self.assumed.get(name)) {
            None => return self.loaded.return_field_from_args(arguments),
            Some(false) => self.item.clone(),
            // How many classes there are makes no difference to a plan.
            Some(true) => DataType::FixedSizeList(Arc::new(Field::new("item", self.item.clone(), false)), 2),
        };
        Ok(Arc::new(Field::new(self.name(), returns, false)))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        not_impl_err!("{} was planned without its models", self.name())
    }
}

/// A plan that was made without connecting to anything, and what it was made without.
#[derive(Debug)]
pub struct UnloadedPlan {
    /// To judge and to explain, not to run.
    pub plan: Plan,
    /// Models whose calls were held against their names alone.
    pub unread: Vec<Unread>,
}

/// The plan of a pipeline as a run has it, with the models that are in files of this machine; connects to nothing.
pub fn plan_unloaded(pipeline: &Pipeline) -> Result<UnloadedPlan, Error> {
    let (models, unread) = model::load_local(&pipeline.models)?;
    let models = Arc::new(models);
    let names: Vec<String> = unread.iter().map(|unread| unread.model.clone()).collect();
    let check_call: Arc<dyn CallCheck> = Arc::new(LocalCalls { models: Arc::clone(&models), unread: names.clone() });
    let plan = with_signatures(&models, &names, &check_call, |functions| {
        Plan::compile(&staged(pipeline, functions)?, functions)
    })?;
    positions::check(pipeline, &plan)?;
    labels::check_sinks(&labels::with_label_sinks(pipeline), &plan)?;
    Ok(UnloadedPlan { plan, unread })
}

/// The plan of a pipeline as if no model could be read, with every call of `score` given to `check_call`: for training, which
/// makes the model that the pipeline names.
pub(crate) fn plan_untrained(pipeline: &Pipeline, check_call: &Arc<dyn CallCheck>) -> Result<Plan, Error> {
    let names: Vec<String> = places(&pipeline.models).into_iter().map(|place| place.slot).collect();
    plan_unread(pipeline, &Arc::default(), &names, check_call)
}

/// A pipeline in stages, as a run has it, without reading its models.
pub(crate) fn staged_untrained(pipeline: &Pipeline, check_call: &Arc<dyn CallCheck>) -> Result<Pipeline, Error> {
    let names: Vec<String> = pipeline.models.iter().map(|model| model.name.clone()).collect();
    with_signatures(&Arc::default(), &names, check_call, |functions| staged(pipeline, functions))
}
