//! SQL functions over models: `score('fraud', f1, f2, ...)`, `explain_score('fraud')`, `threshold('fraud')`,
//! `model_version('fraud')` and `model_run_id('fraud')`. Of a challenger that is not there (`score('fraud@challenger', ...)`) all of
//! them are null.
//!
//! They know models by name, through a registry, so that a model can be replaced while the plan stays. All are volatile:
//! DataFusion evaluates functions of constants when it plans, stable ones too, and a threshold in a plan would outlive its model.

mod agreement;
mod call;
mod explain;
mod models;
mod score;
#[cfg(test)]
mod tests;

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::{Result, ScalarValue, plan_datafusion_err, plan_err};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

pub use agreement::{Agreement, DIFFERENCE_BOUNDS};
pub use call::{CallError, WrongArgument, check_call};
pub use explain::{EXPLAIN_SCORE, REASONS, explain_arrays};
pub use models::{
    CHALLENGER_SUFFIX, ChallengerError, LoadedModel, ModelSlot, Models, SwapError, UnknownModel, challenger_name,
};
pub use score::score_arrays;

/// The function that a model without a threshold has no answer for.
const THRESHOLD: &str = "threshold";

/// The functions, over the models of one worker. Register all of them.
pub fn functions(models: &Arc<Models>) -> Vec<ScalarUDF> {
    let registry = Registry(Arc::clone(models));
    vec![
        ScalarUDF::new_from_impl(score::Score::new(registry.clone())),
        ScalarUDF::new_from_impl(explain::ExplainScore::new(registry.clone())),
        ScalarUDF::new_from_impl(Property::new(THRESHOLD, DataType::Float64, registry.clone(), |model| {
            ScalarValue::Float64(Some(model.threshold))
        })),
        ScalarUDF::new_from_impl(Property::new("model_version", DataType::Utf8, registry.clone(), |model| {
            ScalarValue::Utf8(Some(model.version.clone()))
        })),
        ScalarUDF::new_from_impl(Property {
            // A model in a file of its own comes from no run that is known.
            is_nullable: true,
            ..Property::new("model_run_id", DataType::Utf8, registry, |model| ScalarValue::Utf8(model.run_id.clone()))
        }),
    ]
}

/// The models, compared by identity as DataFusion asks of what functions hold.
#[derive(Debug, Clone)]
struct Registry(Arc<Models>);

impl PartialEq for Registry {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Registry {}

impl Hash for Registry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl Registry {
    fn known(&self) -> String {
        self.0.names().collect::<Vec<_>>().join(", ")
    }

    /// The place of the model that a function's first argument names.
    fn slot(&self, function: &str, argument: Option<&ScalarValue>) -> Result<&Arc<ModelSlot>> {
        match argument.and_then(ScalarValue::try_as_str) {
            Some(Some(name)) => self.0.slot(name).map_err(|error| plan_datafusion_err!("{error}")),
            _ => plan_err!(
                "the first argument of {function} must be the name of a model as a string constant, as in {function}('{}'); models of this pipeline: {}",
                self.0.names().next().unwrap_or("fraud"),
                self.known()
            ),
        }
    }

    /// The same while rows are scored.
    fn slot_in_call(&self, function: &str, argument: Option<&ColumnarValue>) -> Result<&Arc<ModelSlot>> {
        match argument {
            Some(ColumnarValue::Scalar(name)) => self.slot(function, Some(name)),
            _ => self.slot(function, None),
        }
    }
}

fn is_string(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// A function of a model's name alone.
#[derive(Debug)]
struct Property {
    name: &'static str,
    data_type: DataType,
    is_nullable: bool,
    registry: Registry,
    value: fn(&LoadedModel) -> ScalarValue,
    signature: Signature,
}

impl Property {
    fn new(
        name: &'static str,
        data_type: DataType,
        registry: Registry,
        value: fn(&LoadedModel) -> ScalarValue,
    ) -> Self {
        Self {
            name,
            data_type,
            is_nullable: false,
            registry,
            value,
            signature: Signature::user_defined(Volatility::Volatile),
        }
    }
}

impl PartialEq for Property {
    fn eq(&self, other: &Self) -> bool {
        (self.name, &self.registry) == (other.name, &other.registry)
    }
}

impl Eq for Property {}

impl Hash for Property {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.name, &self.registry).hash(state);
    }
}

impl ScalarUDFImpl for Property {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(self.data_type.clone())
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        match arg_types {
            [name] if is_string(name) => Ok(vec![DataType::Utf8]),
            _ => plan_err!(
                "{} takes one argument, the name of a model as a string constant; found {arg_types:?}",
                self.name
            ),
        }
    }

    fn return_field_from_args(&self, args: datafusion_expr::ReturnFieldArgs<'_>) -> Result<arrow::datatypes::FieldRef> {
        // An unknown name stops the start, not the first row.
        let slot = self.registry.slot(self.name, args.scalar_arguments.first().copied().flatten())?;
        if self.name == THRESHOLD {
            slot.keep_threshold().map_err(|error| plan_datafusion_err!("{error}"))?;
        }
        let is_nullable = self.is_nullable || slot.is_optional();
        Ok(Arc::new(arrow::datatypes::Field::new(self.name, self.data_type.clone(), is_nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let slot = self.registry.slot_in_call(self.name, args.args.first())?;
        Ok(ColumnarValue::Scalar(match slot.serving() {
            Some(model) => (self.value)(&model),
            None => ScalarValue::try_new_null(&self.data_type)?,
        }))
    }
}
