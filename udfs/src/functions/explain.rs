//! `explain_score('fraud', f1, f2, ...)`: why a row has its score, as JSON text.
//!
//! `[{"feature":"user_activity_1h","value":7.0,"contribution":1.93}, ...]`: the features that moved the raw score furthest from
//! the model's expected raw score (its log-odds, for a binary model), the furthest first and among equals in the model's order;
//! at most [`REASONS`], or as many as an integer constant after the model's name says, fewer where fewer moved it. A positive
//! contribution raised the score. Values are as served; missing ones, and what JSON has no number for, are null. Numbers are the
//! shortest that read back the same. A model of several classes gives a list of such texts, in the order of the classes.
//!
//! Without features (`explain_score('fraud')`), the planner gives the call those of `score('fraud', ...)` over the same row; a call that
//! still has none when rows come is refused.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float64Array, StringArray, StringBuilder, new_null_array,
};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type};
use datafusion_common::{Result, ScalarValue, exec_datafusion_err, exec_err, plan_datafusion_err, plan_err};
use datafusion_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::{Registry, is_string};
use crate::scorer::{ExplainScratch, Explainer, Model};

/// How many features are told when a call does not say it.
pub const REASONS: usize = 5;

/// The function's name in SQL.
pub const EXPLAIN_SCORE: &str = "explain_score";

thread_local! {
    /// One per thread, so that no row pays for it.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    explain: ExplainScratch,
    row: Vec<f64>,
    contributions: Vec<f64>,
    order: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct ExplainScore {
    registry: Registry,
    signature: Signature,
}

impl ExplainScore {
    pub(super) fn new(registry: Registry) -> Self {
        Self { registry, signature: Signature::user_defined(Volatility::Volatile) }
    }
}

impl PartialEq for ExplainScore {
    fn eq(&self, other: &Self) -> bool {
        self.registry == other.registry
    }
}

impl Eq for ExplainScore {}

impl Hash for ExplainScore {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.registry.hash(state);
    }
}

impl ScalarUDFImpl for ExplainScore {
    fn name(&self) -> &'static str {
        EXPLAIN_SCORE
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        exec_err!("the type of {EXPLAIN_SCORE} depends on the model; it is asked for by return_field_from_args")
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let Some((name, others)) = arg_types.split_first() else {
            return plan_err!(
                "{EXPLAIN_SCORE} takes the name of a model, as in {EXPLAIN_SCORE}('fraud'); found no argument"
            );
        };
        if !is_string(name) {
            return plan_err!(
                "the first argument of {EXPLAIN_SCORE} must be the name of a model as a string constant; found {name}"
            );
        }
        let mut types = vec![DataType::Utf8];
        for (at, data_type) in others.iter().enumerate() {
            if !(data_type.is_numeric() || matches!(data_type, DataType::Boolean | DataType::Null)) {
                return plan_err!(
                    "argument {} of {EXPLAIN_SCORE} is of type {data_type}; expected a feature, as a number or a boolean",
                    at + 2
                );
            }
            // It may be the number of reasons, which must stay the constant that it is.
            let may_be_number = at == 0 && data_type.is_integer() && *data_type != DataType::UInt64;
            types.push(if may_be_number { DataType::Int64 } else { DataType::Float64 });
        }
        Ok(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let slot = self.registry.slot(EXPLAIN_SCORE, args.scalar_arguments.first().copied().flatten())?;
        let loaded = slot.current();
        loaded.model.explainer().map_err(|error| plan_datafusion_err!("{EXPLAIN_SCORE}: {error}"))?;
        slot.keep_explained();
        let features = loaded.model.feature_names();
        let number = args.scalar_arguments.get(1).copied().flatten().and_then(number_of_reasons);
        if let Some(number) = number
            && usize::try_from(number).ok().is_none_or(|number| !(1..=features.len()).contains(&number))
        {
            return plan_err!(
                "the second argument of {EXPLAIN_SCORE}, where it is a constant, is the number of reasons: expected 1 to {}, found {number}",
                features.len()
            );
        }
        let found = args.arg_fields.len() - 1 - usize::from(number.is_some());
        if found != 0 && found != features.len() {
            return plan_err!(
                "{EXPLAIN_SCORE} takes the {} features of the model, in this order: {}; or none of them, for those of score over the same row; found {found}",
                features.len(),
                features.join(", ")
            );
        }
        Ok(Arc::new(Field::new(EXPLAIN_SCORE, reasons_type(&loaded.model), slot.is_optional())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let slot = self.registry.slot_in_call(EXPLAIN_SCORE, args.args.first())?;
        // A challenger that is not there has no reasons.
        let Some(loaded) = slot.serving() else {
            return Ok(ColumnarValue::Array(new_null_array(&reasons_type(&slot.current().model), args.number_rows)));
        };
        let number = match args.args.get(1) {
            Some(ColumnarValue::Scalar(scalar)) => number_of_reasons(scalar),
            _ => None,
        };
        let features = &args.args[1 + usize::from(number.is_some())..];
        let num_reasons = number.and_then(|number| usize::try_from(number).ok()).unwrap_or(REASONS);
        let columns: Vec<ArrayRef> =
            features.iter().map(|argument| argument.to_array(args.number_rows)).collect::<Result<_>>()?;
        Ok(ColumnarValue::Array(explain_arrays(&loaded.model, &columns, args.number_rows, num_reasons)?))
    }
}

/// The number that an argument is, if it is one for the number of reasons.
fn number_of_reasons(argument: &ScalarValue) -> Option<i64> {
    match argument {
        ScalarValue::Int64(number) => *number,
        _ => None,
    }
}

fn item() -> FieldRef {
    Arc::new(Field::new("item", DataType::Utf8, false))
}

fn reasons_type(model: &Model) -> DataType {
    match model.num_outputs() {
        1 => DataType::Utf8,
        classes => DataType::FixedSizeList(item(), classes as i32),
    }
}

/// The reasons of rows, from columns of numbers, one per feature in the model's order; nulls are missing values.
pub fn explain_arrays(model: &Model, columns: &[ArrayRef], num_rows: usize, num_reasons: usize) -> Result<ArrayRef> {
    let explainer = model.explainer().map_err(|error| exec_datafusion_err!("{EXPLAIN_SCORE}: {error}"))?;
    let names = model.feature_names();
    if columns.len() != names.len() {
        return exec_err!("{EXPLAIN_SCORE} takes {} features, found {}", names.len(), columns.len());
    }
    let doubles = columns.iter().zip(names).map(|(column, name)| doubles(column, name, num_rows));
    let columns = doubles.collect::<Result<Vec<_>>>()?;
    let texts = SCRATCH.with_borrow_mut(|scratch| texts(explainer, names, &columns, num_rows, num_reasons, scratch))?;
    Ok(match model.num_outputs() {
        1 => Arc::new(texts),
        classes => Arc::new(FixedSizeListArray::try_new(item(), classes as i32, Arc::new(texts), None)?),
    })
}

fn doubles(column: &ArrayRef, name: &str, num_rows: usize) -> Result<Float64Array> {
    let found = match column.as_primitive_opt::<Int64Type>() {
        Some(integers) => Some(integers.unary::<_, Float64Type>(|integer| integer as f64)),
        None => column.as_primitive_opt::<Float64Type>().cloned(),
    };
    found.filter(|doubles| doubles.len() == num_rows).ok_or_else(|| {
        exec_datafusion_err!(
            "feature {name}: expected {num_rows} doubles, found {} of type {}",
            column.len(),
            column.data_type()
        )
    })
}

fn texts(
    explainer: &Explainer,
    names: &[String],
    columns: &[Float64Array],
    num_rows: usize,
    num_reasons: usize,
    scratch: &mut Scratch,
) -> Result<StringArray> {
    let Scratch { explain, row, contributions, order } = scratch;
    let num_texts = num_rows * (explainer.num_contributions() / (names.len() + 1));
    let mut texts = StringBuilder::with_capacity(num_texts, num_texts * num_reasons * 80);
    contributions.resize(explainer.num_contributions(), 0.0);
    for at in 0..num_rows {
        row.clear();
        row.extend(columns.iter().map(|column| if column.is_null(at) { f64::NAN } else { column.value(at) }));
        explainer.contributions(row, contributions, explain);
        for contributions in contributions.chunks_exact(names.len() + 1) {
            let contributions = &contributions[..names.len()];
            greatest(contributions, num_reasons, order);
            write_reasons(&mut texts, names, row, contributions, order)
                .map_err(|_| exec_datafusion_err!("{EXPLAIN_SCORE}: the text cannot be written"))?;
            texts.append_value("");
        }
    }
    Ok(texts.finish())
}

/// The features that contribute most, the most first, among equals in their order; none that contributes nothing.
fn greatest(contributions: &[f64], num: usize, order: &mut Vec<usize>) {
    order.clear();
    order.extend((0..contributions.len()).filter(|feature| contributions[*feature] != 0.0));
    order.sort_unstable_by(|first, second| {
        contributions[*second].abs().total_cmp(&contributions[*first].abs()).then(first.cmp(second))
    });
    order.truncate(num);
}

fn write_reasons(
    to: &mut StringBuilder,
    names: &[String],
    row: &[f64],
    contributions: &[f64],
    order: &[usize],
) -> std::fmt::Result {
    to.write_char('[')?;
    for (at, feature) in order.iter().enumerate() {
        to.write_str(if at == 0 { "{\"feature\":\"" } else { ",{\"feature\":\"" })?;
        write_escaped(to, &names[*feature])?;
        to.write_str("\",\"value\":")?;
        write_number(to, row[*feature])?;
        to.write_str(",\"contribution\":")?;
        write_number(to, contributions[*feature])?;
        to.write_char('}')?;
    }
    to.write_char(']')
}

fn write_number(to: &mut StringBuilder, number: f64) -> std::fmt::Result {
    // The shortest digits that read back the same; JSON has neither NaN nor infinities.
    if number.is_finite() { write!(to, "{number:?}") } else { to.write_str("null") }
}

fn write_escaped(to: &mut StringBuilder, text: &str) -> std::fmt::Result {
    for character in text.chars() {
        match character {
            '"' | '\\' => write!(to, "\\{character}")?,
            control if control < ' ' => write!(to, "\\u{:04x}", u32::from(control))?,
            other => to.write_char(other)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BINARY: &str = include_str!("../../testdata/binary_31.txt");
    const CLASSES: &str = include_str!("../../testdata/three_classes.txt");

    fn columns(rows: &[[Option<f64>; 4]]) -> Vec<ArrayRef> {
        let column = |feature: usize| Float64Array::from_iter(rows.iter().map(|row| row[feature]));
        (0..4).map(|feature| Arc::new(column(feature)) as ArrayRef).collect()
    }

    /// The reasons of one row, from the scorer's own numbers.
    fn expected(model: &Model, class: usize, row: [Option<f64>; 4], num: usize) -> serde_free::Reasons {
        let explainer = model.explainer().unwrap();
        let mut contributions = vec![0.0; explainer.num_contributions()];
        let values = row.map(|value| value.unwrap_or(f64::NAN));
        explainer.contributions(&values, &mut contributions, &mut ExplainScratch::default());
        let of_class = &contributions[class * 5..][..4];
        let mut reasons: Vec<(String, Option<f64>, f64)> =
            (0..4).map(|feature| (format!("f{feature}"), row[feature], of_class[feature])).collect();
        reasons.retain(|reason| reason.2 != 0.0);
        reasons.sort_by(|first, second| second.2.abs().total_cmp(&first.2.abs()));
        reasons.truncate(num);
        reasons
    }

    /// Reads the text without a JSON library, which this crate does not have.
    mod serde_free {
        pub(super) type Reasons = Vec<(String, Option<f64>, f64)>;

        pub(super) fn read(text: &str) -> Reasons {
            let inner = text.strip_prefix('[').unwrap().strip_suffix(']').unwrap();
            let objects = inner.split("},").filter(|object| !object.is_empty());
            objects
                .map(|object| {
                    let object = object.trim_end_matches('}').strip_prefix("{\"feature\":\"").unwrap();
                    let (name, rest) = object.split_once("\",\"value\":").unwrap();
                    let (value, contribution) = rest.split_once(",\"contribution\":").unwrap();
                    let value = (value != "null").then(|| value.parse().unwrap());
                    (name.to_owned(), value, contribution.parse().unwrap())
                })
                .collect()
        }
    }

    const ROWS: [[Option<f64>; 4]; 4] = [
        [Some(40.5), Some(-1.0), Some(3.0), Some(9.0)],
        [None, Some(0.5), Some(0.0), None],
        [Some(1e300), Some(0.1), Some(-0.0), Some(1e-7)],
        [Some(2.0), None, None, Some(100.0)],
    ];

    #[test]
    fn reasons_are_the_greatest_contributions_with_the_values_served() {
        let model = Model::parse(BINARY).unwrap();
        for num in 1..=5 {
            let texts = explain_arrays(&model, &columns(&ROWS), ROWS.len(), num).unwrap();
            for (row, text) in ROWS.into_iter().zip(texts.as_string::<i32>()) {
                assert_eq!(serde_free::read(text.unwrap()), expected(&model, 0, row, num));
            }
        }
    }

    #[test]
    fn a_model_of_several_classes_gives_a_text_for_each() {
        let model = Model::parse(CLASSES).unwrap();
        let lists = explain_arrays(&model, &columns(&ROWS), ROWS.len(), 3).unwrap();
        let texts = lists.as_fixed_size_list().values().as_string::<i32>().clone();
        assert_eq!((lists.len(), texts.len()), (4, 12));
        for (at, text) in texts.iter().enumerate() {
            assert_eq!(serde_free::read(text.unwrap()), expected(&model, at % 3, ROWS[at / 3], 3));
        }
    }

    #[test]
    fn ties_stand_in_the_order_of_the_features_and_zeros_are_no_reasons() {
        let mut order = Vec::new();
        greatest(&[0.5, -2.0, 0.0, 2.0, -0.5, -0.0], 6, &mut order);
        assert_eq!(order, [1, 3, 0, 4]);
        greatest(&[0.5, -2.0, 0.0, 2.0, -0.5], 3, &mut order);
        assert_eq!(order, [1, 3, 0]);
    }

    #[test]
    fn numbers_are_the_shortest_and_what_json_lacks_is_null() {
        let mut text = StringBuilder::new();
        for number in [7.0, 0.1, -0.0, 1e300, 1e-7, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.0 / 3.0] {
            write_number(&mut text, number).unwrap();
            text.append_value("");
        }
        write_escaped(&mut text, "a\"b\\c\nd\u{e9}").unwrap();
        text.append_value("");
        let texts = text.finish();
        let texts: Vec<&str> = texts.iter().flatten().collect();
        let numbers = ["7.0", "0.1", "-0.0", "1e300", "1e-7", "null", "null", "null", "0.3333333333333333"];
        assert_eq!(texts[..9], numbers);
        assert_eq!(texts[9], "a\\\"b\\\\c\\u000ad\u{e9}");
    }

    #[test]
    fn columns_of_whole_numbers_are_explained_as_doubles() {
        let model = Model::parse(BINARY).unwrap();
        let doubles = columns(&[[Some(40.0), Some(-1.0), Some(3.0), None]]);
        let mut integers = doubles.clone();
        integers[0] = Arc::new(arrow::array::Int64Array::from(vec![40]));
        let texts = |columns: &[ArrayRef]| explain_arrays(&model, columns, 1, 4).unwrap();
        assert_eq!(texts(&integers).as_ref(), texts(&doubles).as_ref());
        assert!(explain_arrays(&model, &doubles[..3], 1, 4).is_err());
        assert!(explain_arrays(&model, &doubles, 2, 4).is_err());
    }
}
