//! What SQL does not reach: states that are damaged, sizes, and groups that are emitted in parts. The SQL itself is tested in the engine.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, Float64Array};
use arrow::datatypes::{DataType, Float64Type};
use datafusion_common::ScalarValue;
use datafusion_expr::{Accumulator, EmitTo, GroupsAccumulator};

use super::*;
use crate::exact::ExactSum;

fn values(values: &[f64]) -> Vec<ArrayRef> {
    vec![Arc::new(Float64Array::from(values.to_vec()))]
}

#[test]
fn all_six_are_there_under_stock_names_and_aliases() {
    let mut names: Vec<String> = aggregates()
        .iter()
        .flat_map(|function| [&[function.name().to_owned()][..], function.aliases()].concat())
        .collect();
    names.sort_unstable();
    let expected = [
        "avg",
        "mean",
        "stddev",
        "stddev_pop",
        "stddev_samp",
        "sum",
        "var",
        "var_pop",
        "var_population",
        "var_samp",
        "var_sample",
    ];
    assert_eq!(names, expected);
}

#[test]
fn equal_values_have_equal_states_in_any_order() {
    let state = |order: &[f64], removed: &[f64]| {
        let mut accumulator = ExactAccumulator::<CountedSum>::new(Statistic::Sum);
        accumulator.update_batch(&values(order)).unwrap();
        accumulator.update_batch(&values(removed)).unwrap();
        accumulator.retract_batch(&values(removed)).unwrap();
        accumulator.state().unwrap()
    };
    let expected = state(&[0.1, 1e16, -3.0], &[]);
    assert_eq!(state(&[-3.0, 0.1, 1e16], &[1e300, f64::NAN]), expected);
    assert_ne!(state(&[-3.0, 0.1, 1e16, 0.0], &[]), expected);
}

#[test]
fn a_damaged_state_is_an_error() {
    let damaged: Vec<ArrayRef> = vec![Arc::new(BinaryArray::from_iter_values([&[1, 2, 3]]))];
    for statistic in [Statistic::Sum, Statistic::Mean] {
        assert!(ExactAccumulator::<CountedSum>::new(statistic).merge_batch(&damaged).is_err());
        assert!(ExactGroups::<CountedSum>::new(statistic).merge_batch(&damaged, &[0], 1).is_err());
    }
    let error =
        ExactAccumulator::<ExactMoments>::new(Statistic::Variance { ddof: 1 }).merge_batch(&damaged).unwrap_err();
    assert!(error.to_string().contains("the bytes of an exact sum begin with"), "{error}");
    assert!(ExactAccumulator::<CountedSum>::new(Statistic::Sum).update_batch(&[]).is_err());
}

#[test]
fn groups_that_are_emitted_first_leave_the_others_as_they_are() {
    let mut groups = ExactGroups::<CountedSum>::new(Statistic::Sum);
    groups.update_batch(&values(&[1.0, 1e300, 3.0, 1e-300, f64::NAN]), &[0, 1, 2, 1, 4], None, 5).unwrap();
    let on_heap = ExactSum::from_bytes(&nan()).unwrap().heap_bytes();
    // The group of 1e300 and 1e-300, and that of NaN.
    assert_eq!((groups.size() - 2 * on_heap) % size_of::<CountedSum>(), 0);
    let first = groups.evaluate(EmitTo::First(2)).unwrap();
    assert_eq!(first.as_primitive::<Float64Type>().values()[..], [1.0, 1e300]);
    groups.update_batch(&values(&[5.0, 2.0]), &[0, 1], None, 3).unwrap();
    let rest = groups.state(EmitTo::All).unwrap();
    let mut merged = ExactGroups::<CountedSum>::new(Statistic::Mean);
    merged.merge_batch(&rest, &[0, 1, 2], 4).unwrap();
    let means = merged.evaluate(EmitTo::All).unwrap();
    let means = means.as_primitive::<Float64Type>();
    assert_eq!((means.value(0), means.value(1)), (4.0, 2.0));
    assert!(means.value(2).is_nan() && means.is_null(3));
    assert_eq!(groups.size(), 0);
}

fn nan() -> Vec<u8> {
    let mut sum = ExactSum::new();
    sum.add(f64::NAN);
    sum.to_bytes()
}

#[test]
fn distinct_values_leave_with_their_last_row() {
    let mut accumulator = DistinctAccumulator::<CountedSum>::new(Statistic::Mean);
    accumulator.update_batch(&values(&[1.0, 1.0, 4.0, f64::INFINITY, 0.0, -0.0, 0.0])).unwrap();
    accumulator.retract_batch(&values(&[1.0, f64::INFINITY, 0.0])).unwrap();
    assert_eq!(accumulator.evaluate().unwrap(), ScalarValue::Float64(Some(5.0 / 3.0)));
    accumulator.retract_batch(&values(&[0.0, 0.0])).unwrap();
    assert_eq!(accumulator.evaluate().unwrap(), ScalarValue::Float64(Some(2.5)));
    accumulator.retract_batch(&values(&[1.0])).unwrap();
    assert_eq!(accumulator.evaluate().unwrap(), ScalarValue::Float64(Some(4.0)));
    assert_eq!(accumulator.state().unwrap()[0].data_type(), distinct::state_type());
    assert_eq!(aggregates()[0].return_type(&[DataType::Float64]).unwrap(), DataType::Float64);
}
