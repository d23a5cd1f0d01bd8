//! The form of internal records: every type to the bit, what is broken or foreign, and what is never written.

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::*;

use super::*;
use crate::types::{Assignment, StateUnit, Units, hidden_fields};

const STAMP: Stamp = Stamp { pipeline: 7, columns: 9 };

fn units() -> Units {
    let mut units = Units::default();
    units.insert(Assignment(3), StateUnit { source: "s".into(), topic: "cards".into(), partition: 2 });
    units.insert(Assignment(4), StateUnit { source: "s".into(), topic: "more cards".into(), partition: 11 });
    units
}

fn with_positions(columns: Vec<(&str, ArrayRef)>, offsets: &[(u32, i64, u32)]) -> RecordBatch {
    let rows = offsets.len();
    let fields = columns.iter().map(|(name, array)| Arc::new(Field::new(*name, array.data_type().clone(), true)));
    let schema = Schema::new(fields.chain(hidden_fields().iter().cloned()).collect::<Vec<_>>());
    let hidden: [ArrayRef; 6] = [
        Arc::new(UInt32Array::from_iter_values(offsets.iter().map(|one| one.0))),
        Arc::new(Int64Array::from_iter_values(offsets.iter().map(|one| one.1))),
        Arc::new(UInt32Array::from_iter_values(offsets.iter().map(|one| one.2))),
        Arc::new(Int64Array::from(vec![0; rows])),
        Arc::new(Int64Array::from(vec![None; rows])),
        Arc::new(Int64Array::from(vec![-1; rows])),
    ];
    let arrays = columns.into_iter().map(|(_, array)| array).chain(hidden).collect();
    RecordBatch::try_new(Arc::new(schema), arrays).unwrap()
}

fn visible(batch: &RecordBatch) -> SchemaRef {
    let columns: Vec<usize> = (0..batch.num_columns() - 6).collect();
    Arc::new(batch.schema().project(&columns).unwrap())
}

fn float(bits: u64) -> f64 {
    f64::from_bits(bits)
}

/// Four rows of every type that a column may have, the third of them null.
fn every_type() -> Vec<(&'static str, ArrayRef)> {
    let doubles = [Some(float(0x7FF8_0000_0000_0BAD)), Some(-0.0), None, Some(f64::NEG_INFINITY)];
    let text = [Some("ü"), Some(""), None, Some("a much longer text than fits into a view")];
    let bytes = [Some(&b"\xff\x00"[..]), Some(b""), None, Some(b"0123456789abcdef")];
    let decimal = Decimal128Array::from(vec![Some(-123), Some(i128::from(i64::MAX) * 10), None, Some(0)]);
    let wide = Decimal256Array::from(vec![Some(i256::MINUS_ONE), Some(i256::from(7)), None, Some(i256::ZERO)]);
    let nanos = [Some(-1), Some(i64::MAX), None, Some(0)];
    vec![
        ("null", Arc::new(NullArray::new(4))),
        ("flag", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None, Some(true)]))),
        ("i8", Arc::new(Int8Array::from(vec![Some(-1), Some(i8::MIN), None, Some(3)]))),
        ("u16", Arc::new(UInt16Array::from(vec![Some(1), Some(u16::MAX), None, Some(3)]))),
        ("i32", Arc::new(Int32Array::from(vec![Some(-1), Some(i32::MAX), None, Some(3)]))),
        ("u64", Arc::new(UInt64Array::from(vec![Some(1), Some(u64::MAX), None, Some(3)]))),
        ("f32", Arc::new(Float32Array::from(vec![Some(1.5), Some(-0.0), None, Some(f32::NAN)])) as ArrayRef),
        ("f64", Arc::new(Float64Array::from(doubles.to_vec()))),
        ("decimal", Arc::new(decimal.with_precision_and_scale(30, 2).unwrap())),
        ("decimal256", Arc::new(wide.with_precision_and_scale(60, 4).unwrap())),
        ("date", Arc::new(Date32Array::from(vec![Some(-1), Some(19_000), None, Some(0)]))),
        ("timestamp", Arc::new(TimestampNanosecondArray::from(nanos.to_vec()).with_timezone("Europe/Berlin"))),
        ("duration", Arc::new(DurationMicrosecondArray::from(nanos.to_vec()))),
        (
            "interval",
            Arc::new(IntervalMonthDayNanoArray::from(vec![
                Some(IntervalMonthDayNano::new(1, -2, 3)),
                Some(IntervalMonthDayNano::new(0, 0, i64::MIN)),
                None,
                Some(IntervalMonthDayNano::new(0, 0, 0)),
            ])),
        ),
        ("text", Arc::new(StringArray::from(text.to_vec()))),
        ("large_text", Arc::new(LargeStringArray::from(text.to_vec()))),
        ("text_view", Arc::new(StringViewArray::from(text.to_vec()))),
        ("bytes", Arc::new(BinaryArray::from(bytes.to_vec()))),
        ("large_bytes", Arc::new(LargeBinaryArray::from(bytes.to_vec()))),
        ("bytes_view", Arc::new(BinaryViewArray::from(bytes.to_vec()))),
        (
            "uuid",
            Arc::new(
                FixedSizeBinaryArray::try_from_sparse_iter_with_size(
                    [Some([1_u8; 3]), Some([0; 3]), None, Some([255; 3])].into_iter(),
                    3,
                )
                .unwrap(),
            ),
        ),
    ]
}

const PLACES: [(u32, i64, u32); 4] = [(3, 10, 0), (3, 10, 1), (4, i64::MAX, 0), (3, 12, u32::MAX)];

/// Bits of the doubles: `==` does not tell them.
fn bits(array: &dyn Array) -> Vec<Option<u64>> {
    array.as_primitive::<Float64Type>().iter().map(|value| value.map(f64::to_bits)).collect()
}

#[test]
fn every_type_comes_back_bit_for_bit_with_its_position() {
    let batch = with_positions(every_type(), &PLACES);
    // Also of a piece, whose buffers do not begin with it.
    for (first, rows) in [(0, 4), (1, 3), (2, 1), (0, 0)] {
        let piece = batch.slice(first, rows);
        let mut encoder = RowEncoder::new(&visible(&piece), STAMP).unwrap();
        encoder.encode(&piece, &units()).unwrap();
        let decoder = RowDecoder::new(visible(&piece), STAMP).unwrap();
        let prefixes: Vec<Prefix<'_>> =
            (0..encoder.len()).map(|row| decoder.prefix(encoder.row(row)).unwrap()).collect();
        for (prefix, (unit, offset, ordinal)) in prefixes.iter().zip(&PLACES[first..]) {
            let unit = units().get(Assignment(*unit)).unwrap().clone();
            assert_eq!((prefix.topic, prefix.partition), (&*format!("s/{}", unit.topic), unit.partition));
            assert_eq!((prefix.offset, prefix.ordinal), (*offset, *ordinal));
        }
        let bodies: Vec<&[u8]> = prefixes.iter().map(|prefix| prefix.body).collect();
        let (columns, broken) = decoder.columns(&bodies).unwrap();
        assert_eq!(broken, Vec::<usize>::new());
        for ((name, _), (column, expected)) in every_type().iter().zip(columns.iter().zip(piece.columns())) {
            assert_eq!(column.data_type(), expected.data_type(), "{name}");
            let same = match *name {
                "f64" => bits(column) == bits(expected),
                "f32" => format!("{column:?}") == format!("{expected:?}"),
                _ => column == expected,
            };
            assert!(same, "{name}: {column:?} is not {expected:?}");
        }
    }
}

fn encoded() -> (RowDecoder, Vec<Vec<u8>>) {
    let amounts: ArrayRef = Arc::new(Float64Array::new(ScalarBuffer::from(vec![1.0, 2.0, 3.0]), None));
    let names: ArrayRef = Arc::new(StringArray::from(vec!["one", "two", "three"]));
    let batch = with_positions(vec![("amount", amounts), ("name", names)], &[(3, 1, 0), (3, 2, 0), (4, 1, 0)]);
    let mut encoder = RowEncoder::new(&visible(&batch), STAMP).unwrap();
    encoder.encode(&batch, &units()).unwrap();
    let rows = (0..3).map(|row| encoder.row(row).to_vec()).collect();
    (RowDecoder::new(visible(&batch), STAMP).unwrap(), rows)
}

#[test]
fn a_record_cut_short_at_any_byte_or_with_bytes_behind_is_told_and_harms_no_neighbour() {
    let (decoder, rows) = encoded();
    let mut damaged: Vec<Vec<u8>> = (0..rows[1].len()).map(|len| rows[1][..len].to_vec()).collect();
    damaged.push([&rows[1][..], b"x"].concat());
    for payload in damaged {
        let Ok(prefix) = decoder.prefix(&payload) else { continue };
        let bodies = [decoder.prefix(&rows[0]).unwrap().body, prefix.body, decoder.prefix(&rows[2]).unwrap().body];
        let (columns, broken) = decoder.columns(&bodies).unwrap();
        assert_eq!(broken, [1], "{} bytes", payload.len());
        assert_eq!(columns[0].as_primitive::<Float64Type>().value(2), 3.0);
        assert_eq!(columns[1].as_string::<i32>().value(2), "three");
    }
}

#[test]
fn text_that_is_none_spoils_its_own_row_alone() {
    let (decoder, mut rows) = encoded();
    let last = rows[0].len() - 1;
    rows[0][last] = 0xFF;
    let bodies: Vec<&[u8]> = rows.iter().map(|row| decoder.prefix(row).unwrap().body).collect();
    let (columns, broken) = decoder.columns(&bodies).unwrap();
    assert_eq!(broken, [0]);
    assert_eq!(columns[1].as_string::<i32>().value(1), "two");
}

#[test]
fn rows_that_are_not_in_the_order_of_their_positions_are_not_written() {
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    for (places, is_right) in [
        ([(3, 1, 0), (3, 1, 1)], true),
        ([(3, 5, 1), (4, 1, 0)], true),
        ([(3, 1, 1), (3, 1, 1)], false),
        ([(3, 2, 0), (3, 1, 9)], false),
    ] {
        let batch = with_positions(vec![("id", ids.clone())], &places);
        let mut encoder = RowEncoder::new(&visible(&batch), STAMP).unwrap();
        assert_eq!(encoder.encode(&batch, &units()).is_ok(), is_right, "{places:?}");
    }
}

#[test]
fn random_bytes_never_panic() {
    use rand::{Rng as _, SeedableRng as _};
    let mut random = rand_xoshiro::Xoshiro256PlusPlus::seed_from_u64(5);
    let (decoder, rows) = encoded();
    for _ in 0..5_000 {
        let mut row = rows[random.random_range(0..3)].clone();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..row.len());
            row[at] = random.random();
        }
        if let Ok(prefix) = decoder.prefix(&row) {
            decoder.columns(&[prefix.body]).unwrap();
        }
    }
}

#[test]
fn what_others_wrote_is_told_apart() {
    let (decoder, rows) = encoded();
    for foreign in [&b""[..], b"{\"a\": 1}", b"\xf5", &rows[0][..20]] {
        assert_eq!(decoder.prefix(foreign), Err(Foreign::NotOurs), "{foreign:?}");
    }
    let changed = |at: usize| {
        let mut row = rows[0].clone();
        row[at] ^= 0x40;
        row
    };
    assert_eq!(decoder.prefix(&changed(1)), Err(Foreign::Version(0x41)));
    assert_eq!(decoder.prefix(&changed(5)), Err(Foreign::Pipeline));
    assert_eq!(decoder.prefix(&changed(12)), Err(Foreign::Columns));
}

#[test]
fn the_stamp_changes_with_pipeline_columns_key_and_event_time() {
    let schema = |name: &str, data_type, nullable| Schema::new(vec![Field::new(name, data_type, nullable)]);
    let by = |name: &str| vec![name.to_owned()];
    let base = Stamp::new("p", &schema("a", DataType::Int64, true), &by("a"), "t");
    assert_eq!(base, Stamp::new("p", &schema("a", DataType::Int64, true), &by("a"), "t"));
    assert_ne!(base.pipeline, Stamp::new("q", &schema("a", DataType::Int64, true), &by("a"), "t").pipeline);
    for other in [
        Stamp::new("p", &schema("b", DataType::Int64, true), &by("a"), "t"),
        Stamp::new("p", &schema("a", DataType::Int32, true), &by("a"), "t"),
        Stamp::new("p", &schema("a", DataType::Int64, false), &by("a"), "t"),
        Stamp::new("p", &schema("a", DataType::Int64, true), &by("b"), "t"),
        Stamp::new("p", &schema("a", DataType::Int64, true), &by("a"), "u"),
    ] {
        assert_ne!(base.columns, other.columns);
    }
}

#[test]
fn lists_and_structs_have_no_internal_form() {
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int32, true)));
    let schema = Schema::new(vec![Field::new("a", DataType::Int64, true), Field::new("b", list, true)]);
    assert_eq!(unsupported(&schema).map(|field| field.name().as_str()), Some("b"));
    assert!(can_be_key(&DataType::UInt64) && can_be_key(&DataType::Utf8View) && !can_be_key(&DataType::Float64));
}
