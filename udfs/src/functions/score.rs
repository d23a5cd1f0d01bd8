//! `score('fraud', f1, f2, ...)`: the score of a model, batch by batch.
//!
//! Booleans, integers, floats and decimals are features as they are, as doubles; null is a missing value. Anything else is
//! refused when the SQL is planned: no text is parsed and no category is invented here.
//!
//! Binary and regression models give a DOUBLE. A model of several classes gives all their scores, as a fixed-size list in the
//! order of the classes: `score(...)[2]` is the second class.
//!
//! Where a model has a challenger, its call scores the rows with both and notes how far they agree; a call of the challenger
//! on the same columns takes the scores from there.

use std::cell::RefCell;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float64Array, new_null_array};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion_common::{Result, exec_datafusion_err, exec_err, plan_err};
use datafusion_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::models::Scored;
use super::{LoadedModel, ModelSlot, Registry, is_string};
use crate::scorer::{Column, Model, Scratch, Validity};

thread_local! {
    /// One per thread, so that no batch pays for it.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Debug)]
pub(super) struct Score {
    registry: Registry,
    signature: Signature,
}

impl Score {
    pub(super) fn new(registry: Registry) -> Self {
        Self { registry, signature: Signature::user_defined(Volatility::Volatile) }
    }
}

impl PartialEq for Score {
    fn eq(&self, other: &Self) -> bool {
        self.registry == other.registry
    }
}

impl Eq for Score {}

impl Hash for Score {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.registry.hash(state);
    }
}

impl ScalarUDFImpl for Score {
    fn name(&self) -> &'static str {
        "score"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        exec_err!("the type of score depends on the model; it is asked for by return_field_from_args")
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let Some((name, features)) = arg_types.split_first() else {
            return plan_err!(
                "score takes the name of a model and its features, as in score('fraud', amount, ...); found no argument"
            );
        };
        if !is_string(name) {
            return plan_err!(
                "the first argument of score must be the name of a model as a string constant; found {name}"
            );
        }
        let mut types = vec![DataType::Utf8];
        for (at, feature) in features.iter().enumerate() {
            if !(feature.is_numeric() || matches!(feature, DataType::Boolean | DataType::Null)) {
                return plan_err!(
                    "feature {} of score is of type {feature}; expected a number or a boolean: turn it into one in SQL (CASE, CAST, extract), the same way as in training",
                    at + 1
                );
            }
            types.push(DataType::Float64);
        }
        Ok(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let slot = self.registry.slot("score", args.scalar_arguments.first().copied().flatten())?;
        let current = slot.current();
        let features = current.model.feature_names();
        let found = args.arg_fields.len() - 1;
        if found != features.len() {
            return plan_err!(
                "score takes the {} features of the model, in this order: {}; found {found}",
                features.len(),
                features.join(", ")
            );
        }
        Ok(Arc::new(Field::new("score", score_type(&current.model), slot.is_optional())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let slot = self.registry.slot_in_call("score", args.args.first())?;
        let num_rows = args.number_rows;
        let Some(loaded) = slot.serving() else {
            return Ok(ColumnarValue::Array(new_null_array(&score_type(&slot.current().model), num_rows)));
        };
        let columns: Vec<ArrayRef> =
            args.args[1..].iter().map(|argument| argument.to_array(num_rows)).collect::<Result<_>>()?;
        let scores = scored(slot, &loaded, &columns, num_rows)?;
        if let Some(place) = slot.challenger()
            && let Some(challenger) = place.serving()
        {
            let others = scored(place, &challenger, &columns, num_rows)?;
            note_agreement(slot, (&loaded, &scores), (&challenger, &others));
        }
        Ok(ColumnarValue::Array(scores))
    }
}

/// Models of several classes make no decision by one threshold, so nothing is noted of them.
fn note_agreement(slot: &ModelSlot, champion: (&LoadedModel, &ArrayRef), challenger: (&LoadedModel, &ArrayRef)) {
    let doubles = |scores: &ArrayRef| scores.as_primitive_opt::<Float64Type>().map(|scores| scores.values().clone());
    if let (Some(scores), Some(others)) = (doubles(champion.1), doubles(challenger.1)) {
        slot.agreement().add((&scores, champion.0.threshold), (&others, challenger.0.threshold));
    }
}

/// The scores of a batch; those of a challenger are computed once, however many calls ask for them.
fn scored(slot: &ModelSlot, model: &Arc<LoadedModel>, columns: &[ArrayRef], num_rows: usize) -> Result<ArrayRef> {
    if !slot.is_optional() {
        return score_arrays(&model.model, columns, num_rows);
    }
    let mut last = slot.last();
    if let Some(last) = last.as_ref()
        && Arc::ptr_eq(&last.model, model)
        && last.scores.len() == num_rows
        && are_same(&last.columns, columns)
    {
        return Ok(Arc::clone(&last.scores));
    }
    let scores = score_arrays(&model.model, columns, num_rows)?;
    *last = Some(Scored { model: Arc::clone(model), columns: columns.to_vec(), scores: Arc::clone(&scores) });
    Ok(scores)
}

/// Whether two calls have the same rows: the same buffers, or the same bits in them (a cast makes new ones).
fn are_same(some: &[ArrayRef], others: &[ArrayRef]) -> bool {
    let is_same = |(one, other): (&ArrayRef, &ArrayRef)| {
        one.to_data().ptr_eq(&other.to_data())
            || match (one.as_primitive_opt::<Float64Type>(), other.as_primitive_opt::<Float64Type>()) {
                (Some(one), Some(other)) => {
                    one.nulls() == other.nulls() && one.values().inner() == other.values().inner()
                }
                _ => false,
            }
    };
    some.len() == others.len() && some.iter().zip(others).all(is_same)
}

fn item() -> FieldRef {
    Arc::new(Field::new("item", DataType::Float64, false))
}

fn score_type(model: &Model) -> DataType {
    match model.num_outputs() {
        1 => DataType::Float64,
        classes => DataType::FixedSizeList(item(), classes as i32),
    }
}

/// Scores columns of doubles, one per feature in the model's order; nulls are missing values. The result is a
/// [`Float64Array`], or for several classes a [`FixedSizeListArray`] of doubles.
pub fn score_arrays(model: &Model, columns: &[ArrayRef], num_rows: usize) -> Result<ArrayRef> {
    let features = model.feature_names();
    if columns.len() != features.len() {
        return exec_err!("score takes {} features, found {}", features.len(), columns.len());
    }
    let mut views = Vec::with_capacity(columns.len());
    for (column, feature) in columns.iter().zip(features) {
        let doubles =
            column.as_primitive_opt::<Float64Type>().filter(|doubles| doubles.len() == num_rows).ok_or_else(|| {
                exec_datafusion_err!(
                    "feature {feature}: expected {num_rows} doubles, found {} of type {}",
                    column.len(),
                    column.data_type()
                )
            })?;
        views.push(view(doubles));
    }
    let mut scores = vec![0.0; num_rows * model.num_outputs()];
    SCRATCH.with_borrow_mut(|scratch| model.score(&views, &mut scores, scratch));
    let scores = Float64Array::from(scores);
    Ok(match model.num_outputs() {
        1 => Arc::new(scores),
        classes => Arc::new(FixedSizeListArray::try_new(item(), classes as i32, Arc::new(scores), None)?),
    })
}

fn view(doubles: &Float64Array) -> Column<'_> {
    let validity = doubles
        .nulls()
        .filter(|nulls| nulls.null_count() > 0)
        .map(|nulls| Validity { bits: nulls.validity(), offset: nulls.offset() });
    Column { values: doubles.values(), validity }
}
