//! The SQL functions over models as the planner gets them: with the models loaded, and every call of `score` held against
//! its model; or, for commands that touch nothing outside, by their signatures alone.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::Result as DataFusionResult;
use datafusion::common::not_impl_err;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use tidemill_udfs::functions::{Models, check_call, functions};

use crate::error::Error;
use crate::pipeline::settings::Pipeline;
use crate::plan::{self, Call, CallCheck, Functions, Plan, Refusal};

/// Functions that are evaluated once per row, however often their value is used.
fn once() -> Vec<String> {
    vec!["score".to_owned()]
}

/// Functions that no row can make fail: their models were read, and their arguments made numbers, before.
fn infallible() -> Vec<String> {
    ["score", "threshold", "model_version"].map(str::to_owned).to_vec()
}

/// The functions over loaded models.
pub(crate) fn loaded(models: &Arc<Models>) -> Functions {
    Functions {
        scalar: functions(models).into_iter().map(Arc::new).collect(),
        once: once(),
        infallible: infallible(),
        check_call: Some(Arc::new(LoadedCalls(Arc::clone(models)))),
    }
}

/// The functions by their signatures: enough to plan, not to run. Calls are held against the names of the pipeline's models.
#[must_use]
pub fn unloaded_functions(pipeline: &Pipeline) -> Functions {
    let names = pipeline.models.iter().map(|model| model.name.clone()).collect();
    let signature = |name: &'static str, arguments, returns| {
        Arc::new(ScalarUDF::new_from_impl(Unloaded::new(name, arguments, returns)))
    };
    Functions {
        scalar: vec![
            signature("score", Signature::variadic_any(Volatility::Volatile), DataType::Float64),
            signature("threshold", Signature::exact(vec![DataType::Utf8], Volatility::Volatile), DataType::Float64),
            signature("model_version", Signature::exact(vec![DataType::Utf8], Volatility::Volatile), DataType::Utf8),
        ],
        once: once(),
        infallible: infallible(),
        check_call: Some(Arc::new(NamedCalls(names))),
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
                format!("score('{model}', ...)"),
                error.to_string(),
                "give the model's features as columns of the same names, in its order; rename a column in the view before with AS",
            )
        })
    }
}

/// Holds calls against the names of models.
#[derive(Debug)]
struct NamedCalls(Vec<String>);

impl CallCheck for NamedCalls {
    fn check(&self, call: &Call) -> Result<(), Refusal> {
        let model = model_name(call)?;
        if self.0.iter().any(|name| name == model) {
            return Ok(());
        }
        let known = if self.0.is_empty() { "none".to_owned() } else { self.0.join(", ") };
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

impl Unloaded {
    fn new(name: &'static str, signature: Signature, returns: DataType) -> Unloaded {
        Unloaded { name, signature, returns }
    }
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

/// The plan of a pipeline whose models are not loaded: to judge and to explain, not to run.
pub fn plan_unloaded(pipeline: &Pipeline) -> Result<Plan, Error> {
    Plan::compile(pipeline, &unloaded_functions(pipeline)).map_err(plan::refused)
}
