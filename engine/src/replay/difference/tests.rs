//! Differences of Parquet files: bits, keys, order, rows and columns of one side.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Float64Array, StringArray};
use parquet::arrow::ArrowWriter;
use proptest::prelude::*;

use super::*;

fn write(path: &Path, batch: &RecordBatch) -> String {
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    path.to_str().unwrap().to_owned()
}

fn rows(keys: &[&str], values: &[Option<f64>]) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable([
        ("k", Arc::new(StringArray::from(keys.to_vec())) as ArrayRef, true),
        ("v", Arc::new(Float64Array::from(values.to_vec())), true),
    ])
    .unwrap()
}

fn compared(here: &RecordBatch, there: &RecordBatch, by: &[&str]) -> Difference {
    let folder = tempfile::tempdir().unwrap();
    let paths = [("a.parquet", here), ("b.parquet", there)].map(|(name, rows)| write(&folder.path().join(name), rows));
    let by: Vec<String> = by.iter().map(|name| (*name).to_owned()).collect();
    compare_files(&paths[0], &paths[1], &by, &BTreeMap::new()).unwrap()
}

#[test]
fn floats_are_the_same_when_their_bits_are() {
    let other_nan = f64::from_bits(f64::NAN.to_bits() | 1);
    let here = rows(&["a"; 5], &[Some(0.0), Some(f64::NAN), Some(f64::NAN), None, Some(0.1 + 0.2)]);
    let there = rows(&["a"; 5], &[Some(-0.0), Some(f64::NAN), Some(other_nan), None, Some(0.3)]);
    assert!(compared(&here, &here, &[]).is_none());
    let difference = compared(&here, &there, &[]);
    assert!(!difference.is_none());
    assert_eq!((difference.matched, difference.columns[0].differing, difference.columns[1].differing), (5, 0, 3));
    assert_eq!(
        difference.columns[1].first,
        [
            "row: 1: 0.0 here, -0.0 there",
            "row: 3: NaN here, NaN there, with other bits",
            "row: 5: 0.30000000000000004 here, 0.3 there"
        ]
    );
}

#[test]
fn rows_are_matched_by_key_and_those_of_one_side_are_told() {
    let here = rows(&["c", "a", "b", "a"], &[Some(3.0), Some(1.0), Some(2.0), Some(1.5)]);
    let there = rows(&["a", "a", "d", "c"], &[Some(1.0), Some(1.25), None, Some(3.0)]);
    let difference = compared(&here, &there, &["k"]);
    assert_eq!((difference.num_rows, difference.matched), ([4, 4], 3));
    assert_eq!(difference.only_rows, [["k: b"], ["k: d"]].map(|rows| rows.map(str::to_owned).to_vec()));
    assert_eq!(difference.columns[1].first, ["k: a: 1.5 here, 1.25 there"]);
    let text = difference.to_string();
    assert!(
        text.starts_with("4 rows here, 4 there; 3 on both sides, matched by k\n  only here: 1 rows\n    k: b"),
        "{text}"
    );
    assert!(text.contains("\n  v                 3            1\n    k: a: 1.5 here, 1.25 there"), "{text}");
}

#[test]
fn positions_match_rows_when_both_sides_have_them() {
    let here = RecordBatch::try_from_iter([
        ("_topic", Arc::new(StringArray::from(vec!["t", "t"])) as ArrayRef),
        ("_partition", Arc::new(Int64Array::from(vec![0, 1]))),
        ("_offset", Arc::new(Int64Array::from(vec![7, 5]))),
        ("_ordinal", Arc::new(Int64Array::from(vec![0, 0]))),
        ("v", Arc::new(Int64Array::from(vec![1, 2]))),
    ])
    .unwrap();
    let turned = arrow::compute::take_record_batch(&here, &Int64Array::from(vec![1, 0])).unwrap();
    let difference = compared(&here, &turned, &[]);
    assert_eq!(difference.by, ["_topic", "_partition", "_offset", "_ordinal"]);
    assert!(difference.is_none(), "{difference}");
    assert!(!compared(&here, &turned, &["_topic"]).is_none());
}

#[test]
fn columns_of_one_side_and_of_another_type_are_differences() {
    let here = rows(&["a"], &[Some(1.0)]);
    let there = RecordBatch::try_from_iter([
        ("k", Arc::new(arrow::array::StringViewArray::from(vec!["a"])) as ArrayRef),
        ("v", Arc::new(Int64Array::from(vec![1]))),
        ("w", Arc::new(Int64Array::from(vec![1]))),
    ])
    .unwrap();
    let difference = compared(&here, &there, &[]);
    assert_eq!(difference.only_columns, [Vec::new(), vec!["w".to_owned()]]);
    assert_eq!(difference.columns[0].types, None);
    assert_eq!(difference.columns[1].types, Some(["Float64".to_owned(), "Int64".to_owned()]));
    assert!(!difference.is_none());
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder.path().join("a.parquet"), &here);
    let error = compare_files(&path, &path, &["x".to_owned()], &BTreeMap::new()).unwrap_err();
    assert!(error.message().contains("`x`") && error.message().contains("k, v"), "{error}");
}

#[test]
fn rows_that_one_side_has_too_many_of_are_told_in_order_too() {
    let here = rows(&["a", "b", "c"], &[None, None, None]);
    let difference = compared(&here, &here.slice(0, 1), &[]);
    assert_eq!((difference.num_rows, difference.matched), ([3, 1], 1));
    assert_eq!(difference.only_rows, [vec!["row: 2".to_owned(), "row: 3".to_owned()], Vec::new()]);
    assert!(!compared(&here.slice(0, 0), &here, &["k"]).is_none());
    assert!(compared(&here.slice(0, 0), &here.slice(0, 0), &["k"]).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn by_key_the_order_and_the_cut_of_files_do_not_matter(values in proptest::collection::vec(any::<f64>(), 1..200), cut in 0..200_usize, changed in 0..200_usize) {
        let keys: Vec<String> = (0..values.len()).map(|number| format!("{}", number * 7919 % 1009)).collect();
        let batch = |values: &[f64]| {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            rows(&keys, &values.iter().map(|value| Some(*value)).collect::<Vec<_>>())
        };
        let folder = tempfile::tempdir().unwrap();
        let here = write(&folder.path().join("here.parquet"), &batch(&values));
        let mut others = values.clone();
        let changed = changed % values.len();
        others[changed] = f64::from_bits(others[changed].to_bits() ^ 1);
        let cut = cut % values.len();
        let there = folder.path().join("there");
        std::fs::create_dir(&there).unwrap();
        let other = batch(&others);
        write(&there.join("a.parquet"), &other.slice(cut, values.len() - cut));
        if cut > 0 {
            write(&there.join("b.parquet"), &other.slice(0, cut));
        }
        let difference = compare_files(&here, there.to_str().unwrap(), &["k".to_owned()], &BTreeMap::new()).unwrap();
        prop_assert_eq!((difference.matched as usize, difference.columns[0].differing, difference.columns[1].differing), (values.len(), 0, 1));
        let key = format!("k: {}:", keys[changed]);
        prop_assert!(difference.columns[1].first[0].starts_with(&key), "{:?}", difference.columns[1].first);
    }
}
