//! The SQL functions as DataFusion calls them, and the registry behind them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, StringArray};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, TimeUnit};
use datafusion_common::config::ConfigOptions;
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, Volatility};

use super::*;
use crate::scorer::{Column, Model, Scratch};

const BINARY: &str = include_str!("../../testdata/binary_31.txt");
const REGRESSION: &str = include_str!("../../testdata/regression.txt");
const CLASSES: &str = include_str!("../../testdata/three_classes.txt");

fn loaded(text: &str, version: &str, threshold: f64) -> LoadedModel {
    LoadedModel {
        model: Model::parse(text).unwrap(),
        version: version.to_owned(),
        threshold,
        sha256: "00".to_owned(),
        run_id: None,
    }
}

fn models() -> Arc<Models> {
    let mut models = Models::new();
    models.insert("fraud", loaded(BINARY, "7", 0.7));
    models.insert("kinds", loaded(CLASSES, "1", 0.5));
    Arc::new(models)
}

fn function(models: &Arc<Models>, name: &str) -> ScalarUDF {
    functions(models).into_iter().find(|function| function.name() == name).unwrap()
}

fn name_value(name: &str) -> ColumnarValue {
    ColumnarValue::Scalar(ScalarValue::from(name))
}

/// Plans a call as DataFusion does: coercion, then the field of the result.
fn plan(function: &ScalarUDF, name: &str, features: &[DataType]) -> Result<FieldRef> {
    let types: Vec<DataType> = [DataType::Utf8].iter().chain(features).cloned().collect();
    let fields: Vec<FieldRef> = function
        .coerce_types(&types)?
        .into_iter()
        .map(|to| Arc::new(Field::new("argument", to, true)) as FieldRef)
        .collect();
    let name = ScalarValue::from(name);
    let mut scalars = vec![None; fields.len()];
    scalars[0] = Some(&name);
    function.return_field_from_args(ReturnFieldArgs { arg_fields: &fields, scalar_arguments: &scalars })
}

fn call(function: &ScalarUDF, args: Vec<ColumnarValue>, num_rows: usize) -> ColumnarValue {
    let ColumnarValue::Scalar(ScalarValue::Utf8(Some(name))) = &args[0] else { panic!("a name") };
    let return_field = plan(function, name, &vec![DataType::Float64; args.len() - 1]).unwrap();
    let args = ScalarFunctionArgs {
        arg_fields: args
            .iter()
            .map(|arg| Arc::new(Field::new("argument", arg.data_type(), true)) as FieldRef)
            .collect(),
        args,
        number_rows: num_rows,
        return_field: Arc::clone(&return_field),
        config_options: Arc::new(ConfigOptions::default()),
    };
    let value = function.invoke_with_args(args).unwrap();
    assert_eq!(&value.data_type(), return_field.data_type());
    value
}

fn features() -> Vec<ArrayRef> {
    (0..4)
        .map(|feature| {
            let values = (0..20).map(|row| (row % 7 != feature).then_some(f64::from(row * (feature + 1)) - 9.0));
            Arc::new(Float64Array::from_iter(values)) as ArrayRef
        })
        .collect()
}

fn expected(model: &Model, features: &[ArrayRef], rows: std::ops::Range<usize>) -> Vec<f64> {
    let columns: Vec<Vec<f64>> = features
        .iter()
        .map(|column| {
            let column = column.as_primitive::<Float64Type>();
            rows.clone().map(|row| if column.is_null(row) { f64::NAN } else { column.value(row) }).collect()
        })
        .collect();
    let columns: Vec<Column<'_>> = columns.iter().map(|column| column.as_slice().into()).collect();
    let mut scores = vec![0.0; rows.len() * model.num_outputs()];
    model.score(&columns, &mut scores, &mut Scratch::default());
    scores
}

#[test]
fn score_takes_nulls_slices_and_constants() {
    let models = models();
    let score = function(&models, "score");
    let model = Model::parse(BINARY).unwrap();
    let features = features();
    let args = |arrays: &[ArrayRef]| {
        std::iter::once(name_value("fraud")).chain(arrays.iter().cloned().map(ColumnarValue::Array)).collect::<Vec<_>>()
    };
    let scores = call(&score, args(&features), 20).into_array(20).unwrap();
    assert_eq!(scores.as_primitive::<Float64Type>().values(), expected(&model, &features, 0..20).as_slice());
    assert_eq!(scores.null_count(), 0);

    let slices: Vec<ArrayRef> = features.iter().map(|column| column.slice(5, 11)).collect();
    let scores = call(&score, args(&slices), 11).into_array(11).unwrap();
    assert_eq!(scores.as_primitive::<Float64Type>().values(), expected(&model, &features, 5..16).as_slice());

    let mut with_constant = args(&features);
    with_constant[2] = ColumnarValue::Scalar(ScalarValue::Float64(None));
    let scores = call(&score, with_constant, 20).into_array(20).unwrap();
    let mut nulls = features.clone();
    nulls[1] = Arc::new(Float64Array::from(vec![None; 20]));
    assert_eq!(scores.as_primitive::<Float64Type>().values(), expected(&model, &nulls, 0..20).as_slice());

    let empty: Vec<ArrayRef> = features.iter().map(|column| column.slice(0, 0)).collect();
    assert_eq!(call(&score, args(&empty), 0).into_array(0).unwrap().len(), 0);
}

#[test]
fn several_classes_give_a_list_per_row() {
    let models = models();
    let features = features();
    let args = std::iter::once(name_value("kinds")).chain(features.iter().cloned().map(ColumnarValue::Array)).collect();
    let lists = call(&function(&models, "score"), args, 20).into_array(20).unwrap();
    let scores = lists.as_fixed_size_list().values().as_primitive::<Float64Type>().clone();
    assert_eq!(scores.values(), expected(&Model::parse(CLASSES).unwrap(), &features, 0..20).as_slice());
    assert_eq!(lists.len(), 20);
}

#[track_caller]
fn assert_plan_refused(found: Result<FieldRef>, words: &[&str]) {
    let error = found.unwrap_err().to_string();
    for word in words {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
}

#[test]
fn wrong_calls_are_refused_when_planned() {
    let models = models();
    let score = function(&models, "score");
    let double = || DataType::Float64;
    assert!(
        plan(&score, "fraud", &[double(), DataType::Int64, DataType::Boolean, DataType::Decimal128(10, 2)]).is_ok()
    );
    assert!(plan(&score, "fraud", &[DataType::Null, DataType::Float32, DataType::UInt8, double()]).is_ok());
    assert_plan_refused(plan(&score, "fraud", &vec![double(); 3]), &["4 features", "f0, f1, f2, f3", "found 3"]);
    assert_plan_refused(plan(&score, "fraud", &[double(), DataType::Utf8, double(), double()]), &["feature 2", "Utf8"]);
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    assert_plan_refused(plan(&score, "fraud", &[double(), double(), double(), time]), &["feature 4", "Timestamp"]);
    assert_plan_refused(
        plan(&score, "frauds", &vec![double(); 4]),
        &["'frauds'", "did you mean 'fraud'", "fraud, kinds"],
    );
    assert_plan_refused(plan(&function(&models, "threshold"), "other", &[]), &["'other'", "fraud, kinds"]);
    assert_plan_refused(plan(&function(&models, "threshold"), "fraud", &[double()]), &["one argument"]);

    let name = Arc::new(Field::new("name", DataType::Utf8, true)) as FieldRef;
    let column = ReturnFieldArgs { arg_fields: &[name], scalar_arguments: &[None] };
    assert_plan_refused(score.return_field_from_args(column), &["string constant", "score('fraud')"]);
    assert!(score.coerce_types(&[]).unwrap_err().to_string().contains("no argument"));
    assert!(score.coerce_types(&[DataType::Int64]).unwrap_err().to_string().contains("name of a model"));
}

#[test]
fn thresholds_and_versions_swap_with_the_model() {
    let models = models();
    let value = |function_name: &str| {
        let value = call(&function(&models, function_name), vec![name_value("fraud")], 3);
        assert!(matches!(value, ColumnarValue::Scalar(_)));
        value.into_array(1).unwrap()
    };
    let slot = models.slot("fraud").unwrap();
    let held = slot.current();
    assert_eq!(value("threshold").as_primitive::<Float64Type>().value(0), 0.7);
    let old = slot.swap(Arc::new(loaded(REGRESSION, "8", 0.9))).unwrap();
    assert!(Arc::ptr_eq(&old, &held));
    assert_eq!(value("threshold").as_primitive::<Float64Type>().value(0), 0.9);
    assert_eq!(value("model_version").as_ref().as_string::<i32>(), &StringArray::from(vec!["8"]));
    assert_eq!(held.version, "7");
}

#[test]
fn a_challenger_that_is_not_there_answers_null_and_one_that_is_answers_for_itself() {
    let mut models = Models::new();
    models.insert("fraud", loaded(BINARY, "7", 0.7));
    models.insert_challenger("fraud", None).unwrap();
    let models = Arc::new(models);
    let (score, slot) = (function(&models, "score"), models.slot("fraud@challenger").unwrap());
    let features = features();
    let scores = |name: &str| {
        let args = std::iter::once(name_value(name)).chain(features.iter().cloned().map(ColumnarValue::Array));
        call(&score, args.collect(), 20).into_array(20).unwrap()
    };
    let null_count = |function_name: &str| {
        let function = function(&models, function_name);
        call(&function, vec![name_value("fraud@challenger")], 1).into_array(1).unwrap().null_count()
    };
    assert!(plan(&score, "fraud@challenger", &vec![DataType::Float64; 4]).unwrap().is_nullable());
    assert!(!plan(&score, "fraud", &vec![DataType::Float64; 4]).unwrap().is_nullable());
    assert_eq!(scores("fraud@challenger").null_count(), 20);
    assert_eq!(scores("fraud").null_count(), 0);
    assert_eq!((null_count("threshold"), null_count("model_version"), null_count("model_run_id")), (1, 1, 1));
    assert_eq!(models.slot("fraud").unwrap().take_agreement().rows(), 0);

    slot.swap(Arc::new(loaded(REGRESSION, "8", 0.2))).unwrap();
    assert_eq!((null_count("threshold"), null_count("model_version"), null_count("model_run_id")), (0, 0, 1));
    let (champions, challengers) = (scores("fraud"), scores("fraud@challenger"));
    let regression = Model::parse(REGRESSION).unwrap();
    let expected = expected(&regression, &features, 0..20);
    assert_eq!(challengers.as_primitive::<Float64Type>().values(), expected.as_slice());
    let agreement = models.slot("fraud").unwrap().take_agreement();
    let mut by_row = Agreement::default();
    by_row.add((champions.as_primitive::<Float64Type>().values(), 0.7), (&expected, 0.2));
    assert_eq!(agreement, by_row);
    assert_eq!(agreement.rows(), 20);
    assert_eq!(models.slot("fraud").unwrap().take_agreement().rows(), 0, "what was taken is not counted again");

    slot.retire();
    models.slot("fraud").unwrap().retire();
    assert_eq!(scores("fraud@challenger").null_count(), 20);
    assert_eq!(scores("fraud").null_count(), 0, "a champion's place is never empty");
}

#[test]
fn the_batch_that_a_challenger_scored_last_is_not_scored_again_and_another_one_is() {
    let mut models = Models::new();
    models.insert("fraud", loaded(BINARY, "7", 0.7));
    models.insert_challenger("fraud", Some(Arc::new(loaded(REGRESSION, "8", 0.2)))).unwrap();
    let models = Arc::new(models);
    let score = function(&models, "score");
    let features = features();
    let scores = |name: &str, columns: &[ArrayRef]| {
        let args = std::iter::once(name_value(name)).chain(columns.iter().cloned().map(ColumnarValue::Array));
        call(&score, args.collect(), columns[0].len()).into_array(columns[0].len()).unwrap()
    };
    scores("fraud", &features);
    let first = scores("fraud@challenger", &features);
    // The same numbers in other buffers, as a cast makes them.
    let copied: Vec<ArrayRef> = features
        .iter()
        .map(|column| Arc::new(column.as_primitive::<Float64Type>().iter().collect::<Float64Array>()) as ArrayRef)
        .collect();
    assert!(Arc::ptr_eq(&first, &scores("fraud@challenger", &features)));
    assert!(Arc::ptr_eq(&first, &scores("fraud@challenger", &copied)));
    let mut other = features.clone();
    other.swap(0, 1);
    let regression = Model::parse(REGRESSION).unwrap();
    let swapped = scores("fraud@challenger", &other);
    assert_eq!(swapped.as_primitive::<Float64Type>().values(), expected(&regression, &other, 0..20).as_slice());
    // Another model answers for itself, whatever was scored before.
    models.slot("fraud@challenger").unwrap().swap(Arc::new(loaded(BINARY, "9", 0.2))).unwrap();
    let binary = Model::parse(BINARY).unwrap();
    let answers = scores("fraud@challenger", &other);
    assert_eq!(answers.as_primitive::<Float64Type>().values(), expected(&binary, &other, 0..20).as_slice());
}

#[test]
fn workers_swap_their_models_by_themselves() {
    let mut models = Models::new();
    models.insert("fraud", loaded(BINARY, "7", 0.7));
    models.insert_challenger("fraud", None).unwrap();
    let (one, other) = (models.fork(), models.fork());
    one.slot("fraud").unwrap().swap(Arc::new(loaded(REGRESSION, "8", 0.9))).unwrap();
    one.slot("fraud@challenger").unwrap().swap(Arc::new(loaded(BINARY, "9", 0.5))).unwrap();
    assert_eq!(other.slot("fraud").unwrap().current().version, "7");
    assert!(other.slot("fraud@challenger").unwrap().serving().is_none());
    let challenger = one.slot("fraud").unwrap().challenger().unwrap();
    assert_eq!(challenger.serving().unwrap().version, "9", "a champion knows the challenger of its own worker");
}

#[test]
fn a_challenger_with_other_features_is_refused() {
    let mut models = Models::new();
    models.insert("fraud", loaded(BINARY, "7", 0.7));
    let renamed = BINARY.replacen("feature_names=f0", "feature_names=amount", 1);
    let error = models.insert_challenger("fraud", Some(Arc::new(loaded(&renamed, "8", 0.5)))).unwrap_err();
    assert!(error.to_string().contains("version 8"), "{error}");
    assert!(models.insert_challenger("other", None).is_err());
}

#[test]
fn a_successor_with_other_features_or_outputs_is_refused() {
    let models = models();
    let slot = models.slot("fraud").unwrap();
    let error = slot.swap(Arc::new(loaded(CLASSES, "9", 0.5))).unwrap_err();
    assert_eq!(error, SwapError::Outputs { version: "9".to_owned(), expected: 1, found: 3 });
    let renamed = BINARY.replacen("feature_names=f0", "feature_names=amount", 1);
    let error = slot.swap(Arc::new(loaded(&renamed, "10", 0.5))).unwrap_err().to_string();
    assert!(error.contains("version 10") && error.contains("f0, f1") && error.contains("amount, f1"), "{error}");
    assert_eq!(slot.current().version, "7");
}

/// Plans a call of `explain_score` whose second argument is a constant.
fn plan_with_number(function: &ScalarUDF, name: &str, number: i64, features: usize) -> Result<FieldRef> {
    let types: Vec<DataType> =
        [DataType::Utf8, DataType::Int64].into_iter().chain(vec![DataType::Float64; features]).collect();
    let fields: Vec<FieldRef> = function
        .coerce_types(&types)?
        .into_iter()
        .map(|to| Arc::new(Field::new("argument", to, true)) as FieldRef)
        .collect();
    let (name, number) = (ScalarValue::from(name), ScalarValue::Int64(Some(number)));
    let mut scalars = vec![None; fields.len()];
    (scalars[0], scalars[1]) = (Some(&name), Some(&number));
    function.return_field_from_args(ReturnFieldArgs { arg_fields: &fields, scalar_arguments: &scalars })
}

#[test]
fn wrong_calls_for_reasons_are_refused_when_planned() {
    let models = models();
    let explain = function(&models, EXPLAIN_SCORE);
    let doubles = |num: usize| vec![DataType::Float64; num];
    assert_eq!(*plan(&explain, "fraud", &doubles(4)).unwrap().data_type(), DataType::Utf8);
    assert!(plan(&explain, "fraud", &[DataType::Int32, DataType::Int32, DataType::Boolean, DataType::Null]).is_ok());
    assert!(plan(&explain, "fraud", &[]).is_ok(), "the planner gives it the features of the score");
    assert!(
        matches!(plan(&explain, "kinds", &doubles(4)).unwrap().data_type(), DataType::FixedSizeList(item, 3) if *item.data_type() == DataType::Utf8)
    );
    assert_plan_refused(
        plan(&explain, "fraud", &doubles(3)),
        &["4 features", "f0, f1, f2, f3", "none of them", "found 3"],
    );
    assert_plan_refused(plan(&explain, "fraud", &[DataType::Utf8]), &["argument 2 of explain_score", "Utf8"]);
    assert_plan_refused(plan(&explain, "frauds", &[]), &["'frauds'", "did you mean 'fraud'"]);
    assert!(explain.coerce_types(&[]).unwrap_err().to_string().contains("no argument"));
    assert!(plan_with_number(&explain, "fraud", 3, 4).is_ok());
    assert!(plan_with_number(&explain, "fraud", 4, 0).is_ok());
    for number in [0, -1, 5] {
        assert_plan_refused(plan_with_number(&explain, "fraud", number, 4), &["number of reasons", "1 to 4"]);
    }
    assert_plan_refused(plan_with_number(&explain, "fraud", 2, 3), &["4 features", "found 3"]);
}

#[test]
fn reasons_come_through_the_function_as_from_the_arrays() {
    let models = models();
    let explain = function(&models, EXPLAIN_SCORE);
    let (features, model) = (features(), Model::parse(BINARY).unwrap());
    let args = || std::iter::once(name_value("fraud")).chain(features.iter().cloned().map(ColumnarValue::Array));
    let found = call(&explain, args().collect(), 20).into_array(20).unwrap();
    assert_eq!(&found, &explain_arrays(&model, &features, 20, REASONS).unwrap());

    let mut args: Vec<ColumnarValue> = args().collect();
    args.insert(1, ColumnarValue::Scalar(ScalarValue::Int64(Some(2))));
    let args = ScalarFunctionArgs {
        arg_fields: args
            .iter()
            .map(|arg| Arc::new(Field::new("argument", arg.data_type(), true)) as FieldRef)
            .collect(),
        args,
        number_rows: 20,
        return_field: plan_with_number(&explain, "fraud", 2, 4).unwrap(),
        config_options: Arc::new(ConfigOptions::default()),
    };
    let two = explain.invoke_with_args(args).unwrap().into_array(20).unwrap();
    assert_eq!(&two, &explain_arrays(&model, &features, 20, 2).unwrap());
    assert!(two != found);
    let nothing = ScalarFunctionArgs {
        args: vec![name_value("fraud")],
        arg_fields: vec![Arc::new(Field::new("argument", DataType::Utf8, true))],
        number_rows: 1,
        return_field: plan(&explain, "fraud", &[]).unwrap(),
        config_options: Arc::new(ConfigOptions::default()),
    };
    assert!(explain.invoke_with_args(nothing).unwrap_err().to_string().contains("4 features, found 0"));
}

#[test]
fn a_successor_without_reasons_is_refused_where_sql_asks_for_them() {
    let line = BINARY.lines().find(|line| line.starts_with("leaf_count=")).unwrap();
    let sizes = BINARY.lines().find(|line| line.starts_with("tree_sizes=")).unwrap();
    let without = BINARY.replacen(&format!("{sizes}\n"), "", 1).replacen(&format!("{line}\n"), "", 1);
    let models = models();
    let slot = models.slot("fraud").unwrap();
    slot.swap(Arc::new(loaded(&without, "8", 0.5))).unwrap();
    let explain = function(&models, EXPLAIN_SCORE);
    assert_plan_refused(plan(&explain, "fraud", &[]), &["cannot be explained", "leaf_count"]);
    slot.swap(Arc::new(loaded(BINARY, "9", 0.5))).unwrap();
    plan(&explain, "fraud", &[]).unwrap();
    let error = slot.swap(Arc::new(loaded(&without, "10", 0.5))).unwrap_err().to_string();
    assert!(error.contains("version 10") && error.contains("leaf_count"), "{error}");
    assert_eq!(slot.current().version, "9");
}

/// DataFusion's simplifier evaluates immutable and stable functions of constants while planning; a threshold in a plan would
/// outlive its model.
#[test]
fn no_function_is_evaluated_while_planning() {
    for function in functions(&models()) {
        assert_eq!(function.signature().volatility, Volatility::Volatile, "{}", function.name());
    }
}

#[test]
fn calls_are_checked_by_name_and_order() {
    let renamed = BINARY.replacen("feature_names=f0 f1 f2 f3", "feature_names=amount hour is_foreign velocity", 1);
    let model = Model::parse(&renamed).unwrap();
    let message = |arguments: &[&str]| check_call(&model, arguments).unwrap_err().to_string();
    assert_eq!(check_call(&model, &["amount", "hour", "is_foreign", "velocity"]), Ok(()));
    assert_eq!(
        message(&["amount", "hour", "velocity", "is_foreign"]),
        "feature 3: expected is_foreign, found velocity (velocity is feature 4); \
         feature 4: expected velocity, found is_foreign (is_foreign is feature 3)"
    );
    assert_eq!(
        message(&["amout", "hour", "is_foreign", "velocity"]),
        "feature 1: expected amount, found amout (did you mean amount?)"
    );
    assert_eq!(
        message(&["amount", "hour", "zip"]),
        "the model takes 4 features, the call gives 3; missing: is_foreign, velocity; not features of the model: zip"
    );
    let unnamed = BINARY.replacen("feature_names=f0 f1 f2 f3", "feature_names=Column_0 Column_1 Column_2 Column_3", 1);
    let unnamed = Model::parse(&unnamed).unwrap();
    let error = check_call(&unnamed, &["amount", "hour", "is_foreign", "velocity"]).unwrap_err().to_string();
    assert!(error.contains("trained without feature names"), "{error}");
}

#[test]
fn a_model_without_a_threshold_serves_as_long_as_no_sql_asks_for_one() {
    let mut models = Models::new();
    let slot = models.insert("fraud", loaded(BINARY, "7", f64::NAN));
    let models = Arc::new(models);
    plan(&function(&models, "model_version"), "fraud", &[]).unwrap();
    slot.swap(Arc::new(loaded(BINARY, "8", f64::NAN))).unwrap();
    assert_plan_refused(
        plan(&function(&models, "threshold"), "fraud", &[]),
        &["no threshold", "models.<name>.threshold"],
    );
    slot.swap(Arc::new(loaded(BINARY, "9", 0.5))).unwrap();
    plan(&function(&models, "threshold"), "fraud", &[]).unwrap();
    let refused = slot.swap(Arc::new(loaded(BINARY, "10", f64::NAN))).unwrap_err();
    assert_eq!(refused, SwapError::NoThreshold { version: "10".to_owned() });
    assert_eq!(slot.current().version, "9");
}
