//! Random mixes of good, bad and mutated payloads: no panic, no neighbour hurt, no cut seen; and `arrow-json` as the oracle.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use proptest::prelude::*;

use super::*;
use crate::decode::{Reason, Rejected, table_schema};

type Record = (u32, Option<Vec<u8>>);

/// What a member's value is swapped for.
const TOKENS: [&str; 40] = [
    "1",
    "-1",
    "0",
    "1.5",
    "1e3",
    "1e999",
    "-0.0",
    "9223372036854775808",
    "2147483648",
    "\"77\"",
    "\"NaN\"",
    "NaN",
    "null",
    "true",
    "\"x\"",
    "\"\\u00e9\"",
    "[]",
    "{}",
    "[{\"a\":1}]",
    "\"2024-01-01T00:00:10Z\"",
    "\"2024-01-01t00:00:10z\"",
    "\"2023-12-31 23:59:59.123456789-01:30\"",
    "\"1969-12-31T23:59:59.9999999Z\"",
    "\"0000-01-01T00:00:00Z\"",
    "1E-3",
    "12345678.91",
    "0.1e-400",
    "123456789012345678901234567890",
    "1.7976931348623157e308",
    "5e-324",
    "3.4028236e38",
    "true false",
    "tru",
    "\"\\ud83d\\ude00\"",
    "\"1.25\"",
    "1.255",
    "1704067200",
    "\"",
    "}",
    "",
];

/// Members whose values are swapped.
const NAMES: [&str; 11] =
    ["id", "user_id", "amount", "timestamp", "small", "ratio", "price", "is_fraud", "seen_s", "seen_ms", "note"];

fn payload() -> impl Strategy<Value = Option<Vec<u8>>> {
    let good = (0_usize..60).prop_map(good);
    let swapped = (prop::sample::select(&NAMES[..]), prop::sample::select(&TOKENS[..]))
        .prop_map(|(name, token)| with_member(name, token));
    let mutated =
        (0_usize..60, any::<prop::sample::Index>(), any::<u8>(), 0..4_u8).prop_map(|(index, at, byte, how)| {
            let mut bytes = self::good(index);
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.truncate(at),
                2 => bytes.insert(at, byte),
                _ => {
                    bytes.remove(at);
                }
            }
            bytes
        });
    let jsonish = "[\\[\\]{}:,\"\\\\0-9a.eE+ -]{0,30}".prop_map(String::into_bytes);
    prop_oneof![
        4 => good.prop_map(Some),
        3 => swapped.prop_map(Some),
        3 => mutated.prop_map(Some),
        1 => jsonish.prop_map(Some),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Some),
        1 => Just(None),
    ]
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    prop::collection::vec((0_u32..5, payload()), 0..24)
}

fn block(records: &[Record], first: usize) -> RecordBlock {
    let mut block = RecordBlock::default();
    for (index, (unit, payload)) in records.iter().enumerate() {
        push_record(&mut block, *unit, i64::try_from(first + index).unwrap(), payload.as_deref());
    }
    block
}

/// Decodes `records` in pieces of the given sizes, the last one as often as needed.
fn decode_in_pieces(records: &[Record], sizes: &[usize]) -> (RecordBatch, Vec<Rejected>, usize, usize, Decoder) {
    let mut decoder = decoder();
    let (mut batches, mut rejected, mut num_late, mut num_stale) = (Vec::new(), Vec::new(), 0, 0);
    let (mut first, mut sizes) = (0, sizes.iter().copied().chain(std::iter::repeat(sizes[sizes.len() - 1])));
    while first < records.len() {
        let end = records.len().min(first + sizes.next().unwrap());
        let decoded = decoder.decode(&block(&records[first..end], first), &units()).unwrap();
        assert_eq!(decoded.batch.num_rows() + decoded.rejected.len() + decoded.num_stale, end - first, "I6");
        batches.push(decoded.batch);
        rejected.extend(decoded.rejected.into_iter().map(|r| Rejected { record: r.record + first, ..r }));
        num_late += decoded.num_late;
        num_stale += decoded.num_stale;
        first = end;
    }
    (concat_batches(&decoder.schema(), &batches).unwrap(), rejected, num_late, num_stale, decoder)
}

/// What `arrow-json` makes of one payload alone; `None` when it refuses it.
fn arrow_json(schema: &SchemaRef, payload: &[u8]) -> Option<RecordBatch> {
    let mut decoder = arrow::json::ReaderBuilder::new(schema.clone()).build_decoder().unwrap();
    let consumed = decoder.decode(payload).ok()?;
    if consumed != payload.len() || decoder.has_partial_record() || decoder.len() != 1 {
        return None;
    }
    decoder.flush().ok()?
}

fn declared_only() -> Source {
    Source { metadata: Vec::new(), checks: Vec::new(), ..source() }
}

proptest! {
    #[test]
    fn no_cut_of_the_input_is_seen_in_rows_reasons_or_w(records in records(), sizes in prop::collection::vec(1_usize..9, 1..5)) {
        let (whole, whole_rejected, whole_late, whole_stale, whole_decoder) = decode_in_pieces(&records, &[usize::MAX / 2]);
        for sizes in [&sizes[..], &[1]] {
            let (batch, rejected, late, stale, decoder) = decode_in_pieces(&records, sizes);
            prop_assert_eq!(&batch, &whole);
            prop_assert_eq!(&rejected, &whole_rejected);
            prop_assert_eq!((late, stale), (whole_late, whole_stale));
            for unit in 0..5 {
                prop_assert_eq!(decoder.watermark(Assignment(unit)), whole_decoder.watermark(Assignment(unit)));
            }
        }
    }

    #[test]
    fn a_record_fares_as_with_a_new_decoder(records in records()) {
        let (_, rejected, ..) = decode_in_pieces(&records, &[usize::MAX / 2]);
        for (index, (unit, payload)) in records.iter().enumerate() {
            let decoded = decoder().decode(&block(&[(*unit, payload.clone())], index), &units()).unwrap();
            let alone: Vec<_> = decoded.rejected.iter().map(|r| (r.reason, r.detail.clone())).collect();
            let together: Vec<_> =
                rejected.iter().filter(|r| r.record == index).map(|r| (r.reason, r.detail.clone())).collect();
            prop_assert_eq!(alone, together);
        }
    }

    #[test]
    fn what_is_accepted_arrow_json_reads_to_the_same_bits(payload in payload()) {
        let source = declared_only();
        let schema = table_schema(&source);
        let mut decoder = Decoder::new(&source, Box::new(NoChecks)).unwrap();
        let Some(payload) = payload else { return Ok(()) };
        let decoded = decode_all(&mut decoder, &[&payload]);
        let theirs = arrow_json(&schema, &payload);
        if decoded.batch.num_rows() == 1 {
            let theirs = theirs.expect("arrow-json accepts all that is accepted here");
            for (index, column) in source.columns.iter().enumerate() {
                // It takes every number of a timestamp column for microseconds.
                if !matches!(column.column_type, ColumnType::Epoch(_)) {
                    prop_assert_eq!(decoded.batch.column(index), theirs.column(index), "{}", column.name);
                }
            }
        } else if theirs.is_some() {
            // All that it accepts and we do not.
            let reason = decoded.rejected[0].reason;
            prop_assert!(matches!(
                reason,
                Reason::NotJson | Reason::DuplicateKey | Reason::FractionalNumber | Reason::QuotedNumber
                    | Reason::NonFiniteNumber | Reason::NumberOverflow | Reason::WrongType | Reason::DecimalTooPrecise
                    | Reason::InvalidTimestamp | Reason::FutureEventTime
            ), "{}", reason);
        }
    }

    #[test]
    fn what_is_accepted_serde_json_takes_for_one_object(payload in payload()) {
        let Some(payload) = payload else { return Ok(()) };
        let num_rows = decode_all(&mut decoder(), &[&payload]).batch.num_rows();
        let theirs = serde_json::from_slice::<serde_json::Value>(&payload);
        if num_rows == 1 {
            prop_assert!(theirs.is_ok_and(|value| value.is_object()));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let decoded = decode_all(&mut decoder(), &[bytes]);
        prop_assert_eq!(decoded.batch.num_rows() + decoded.rejected.len(), 1);
    }
}
