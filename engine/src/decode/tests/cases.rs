//! Every way in which a record can be bad, each alone and each in the middle of a batch of good ones.

use arrow::array::{Array, AsArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{
    Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType, UInt32Type,
};

use super::*;
use crate::decode::{Reason, Rejected};
use crate::types::HIDDEN_COLUMNS;

/// Stands in every payload of the table where a payload can hold it; must never be seen outside.
const CANARY: &str = "c4n4ry";

struct Case {
    name: &'static str,
    payload: Option<Vec<u8>>,
    reason: Reason,
    detail: Option<&'static str>,
}

fn case(name: &'static str, payload: impl Into<Vec<u8>>, reason: Reason) -> Case {
    Case { name, payload: Some(payload.into()), reason, detail: None }
}

fn member(column: &'static str, json: &str, reason: Reason) -> Case {
    let name = column;
    Case { name, payload: Some(with_member(column, json)), reason, detail: Some(column) }
}

/// Payloads that are bad as a whole.
fn payload_cases() -> Vec<Case> {
    let full = String::from_utf8(good(0)).unwrap();
    let mut framed = vec![0, 0, 0, 0, 7];
    framed.extend_from_slice(&good(0));
    let mut bad_utf8 = with_member("note", &format!("\"{CANARY}#\""));
    *bad_utf8.iter_mut().find(|byte| **byte == b'#').unwrap() = 0xFF;
    let mut bad_utf8_unknown = format!("{{\"{CANARY}\":\"#\",").into_bytes();
    bad_utf8_unknown.extend_from_slice(&good(0)[1..]);
    *bad_utf8_unknown.iter_mut().find(|byte| **byte == b'#').unwrap() = 0xC3;
    let huge = with_member("note", &format!("\"{}\"", CANARY.repeat(10_000_000 / CANARY.len())));
    let huge_detail: &'static str = format!("{} bytes, above max_record_bytes of 1048576", huge.len()).leak();
    let tombstone = Case { name: "tombstone", payload: None, reason: Reason::Tombstone, detail: None };
    let too_large = Case { name: "10 MB", payload: Some(huge), reason: Reason::TooLarge, detail: Some(huge_detail) };
    vec![
        tombstone,
        too_large,
        case("empty", "", Reason::EmptyPayload),
        case("white space", " \n\t\r ", Reason::EmptyPayload),
        case("framed", framed, Reason::SchemaRegistryFraming),
        case("bad utf-8", bad_utf8, Reason::InvalidUtf8),
        case("bad utf-8 in an unknown key", bad_utf8_unknown, Reason::InvalidUtf8),
        case("truncated at the end", &full[..full.len() - 1], Reason::TruncatedJson),
        case("truncated in a string", format!("{{\"note\":\"{CANARY}"), Reason::TruncatedJson),
        case("truncated in an escape", "{\"note\":\"\\u00", Reason::TruncatedJson),
        case("truncated in a number", "{\"user_id\":12", Reason::TruncatedJson),
        case("truncated in a literal", "{\"is_fraud\":tru", Reason::TruncatedJson),
        case("truncated after a key", "{\"user_id\"", Reason::TruncatedJson),
        case("truncated after a colon", "{\"user_id\":", Reason::TruncatedJson),
        case("truncated after a comma", "{\"user_id\":1,", Reason::TruncatedJson),
        case("open brace", "{", Reason::TruncatedJson),
        case("two objects", [good(0), good(1)].concat(), Reason::SeveralValues),
        case("two objects on two lines", [good(0), b"\n".to_vec(), good(0)].concat(), Reason::SeveralValues),
        case("object and number", [good(0), b" 1".to_vec()].concat(), Reason::SeveralValues),
        case("object and garbage", [good(0), CANARY.as_bytes().to_vec()].concat(), Reason::NotJson),
        case("a closing brace too many", [good(0), b"}".to_vec()].concat(), Reason::NotJson),
        case("a word", CANARY, Reason::NotJson),
        case("a byte order mark", [b"\xEF\xBB\xBF".to_vec(), good(0)].concat(), Reason::NotJson),
        case("no comma", "{\"user_id\":1 \"small\":2}", Reason::NotJson),
        case("comma at the end", "{\"user_id\":1,}", Reason::NotJson),
        case("two commas", "{\"user_id\":1,,\"small\":2}", Reason::NotJson),
        case("single quotes", format!("{{'{CANARY}':1}}"), Reason::NotJson),
        case("leading zero", "{\"user_id\":01}", Reason::NotJson),
        case("leading plus", "{\"user_id\":+1}", Reason::NotJson),
        case("bare point", "{\"amount\":.5}", Reason::NotJson),
        case("bare NaN in an unknown key", "{\"other\":NaN}", Reason::NotJson),
        case("control character", "{\"note\":\"a\nb\"}", Reason::NotJson),
        case("unknown escape", "{\"note\":\"\\x41\"}", Reason::NotJson),
        case("half a surrogate pair", "{\"note\":\"\\ud83d\"}", Reason::NotJson),
        case("nested garbage", format!("{{\"other\":{{\"a\":[1,{{\"{CANARY}\":[}}]}}}}"), Reason::NotJson),
        case("nested truncated", format!("{{\"other\":{{\"a\":[1,{{\"{CANARY}\":["), Reason::TruncatedJson),
        case("nesting bomb", format!("{{\"other\":{}", "[".repeat(1_000_000)), Reason::TruncatedJson),
        case("nesting bomb in front", "{\"a\":".repeat(200_000), Reason::TruncatedJson),
        case("a list", format!("[{{\"note\":\"{CANARY}\"}}]"), Reason::NotAnObject),
        case("a string", format!("\"{CANARY}\""), Reason::NotAnObject),
        case("a number", "42", Reason::NotAnObject),
        case("null", "null", Reason::NotAnObject),
    ]
}

/// Payloads with one bad member.
fn member_cases() -> Vec<Case> {
    let quoted = format!("\"{CANARY}\"");
    let object = format!("{{\"{CANARY}\":1}}");
    vec![
        member("id", "7", Reason::WrongType),
        member("id", "true", Reason::WrongType),
        member("id", &object, Reason::WrongType),
        member("id", "null", Reason::NullValue),
        member("note", "[]", Reason::WrongType),
        member("user_id", &quoted, Reason::WrongType),
        member("user_id", &object, Reason::WrongType),
        member("user_id", "true", Reason::WrongType),
        member("user_id", "null", Reason::NullValue),
        member("user_id", "1.7", Reason::FractionalNumber),
        member("user_id", "1.0", Reason::FractionalNumber),
        member("user_id", "1e3", Reason::FractionalNumber),
        member("user_id", "\"77\"", Reason::QuotedNumber),
        member("user_id", "\"7\\u0037\"", Reason::QuotedNumber),
        member("user_id", "\"NaN\"", Reason::NonFiniteNumber),
        member("user_id", "NaN", Reason::NonFiniteNumber),
        member("user_id", "9223372036854775808", Reason::NumberOverflow),
        member("user_id", "-99999999999999999999999999", Reason::NumberOverflow),
        member("small", "2147483648", Reason::NumberOverflow),
        member("small", "-2147483649", Reason::NumberOverflow),
        member("small", "0.5", Reason::FractionalNumber),
        member("amount", "1e999", Reason::NumberOverflow),
        member("amount", "-1e309", Reason::NumberOverflow),
        member("amount", "\"1.5\"", Reason::QuotedNumber),
        member("amount", "\"nan\"", Reason::NonFiniteNumber),
        member("amount", "NaN", Reason::NonFiniteNumber),
        member("amount", "Infinity", Reason::NonFiniteNumber),
        member("amount", "-Infinity", Reason::NonFiniteNumber),
        member("amount", "\"-inf\"", Reason::NonFiniteNumber),
        member("amount", "[1]", Reason::WrongType),
        member("ratio", "1e39", Reason::NumberOverflow),
    ]
}

/// Payloads with one bad member of another type, and those that break a rule of the row.
fn other_member_cases() -> Vec<Case> {
    let quoted = format!("\"{CANARY}\"");
    vec![
        member("price", "1.255", Reason::DecimalTooPrecise),
        member("price", "\"1.255\"", Reason::DecimalTooPrecise),
        member("price", "100000000", Reason::NumberOverflow),
        member("price", &quoted, Reason::WrongType),
        member("price", "\" 1.5\"", Reason::WrongType),
        member("price", "\"NaN\"", Reason::NonFiniteNumber),
        member("is_fraud", "1", Reason::WrongType),
        member("is_fraud", "\"true\"", Reason::WrongType),
        member("timestamp", "1704067200", Reason::WrongType),
        member("timestamp", &quoted, Reason::InvalidTimestamp),
        member("timestamp", "\"2024-01-01\"", Reason::InvalidTimestamp),
        member("timestamp", "null", Reason::NullEventTime),
        member("timestamp", "\"2024-01-01T01:00:00.000001Z\"", Reason::FutureEventTime),
        member("timestamp", "\"2099-01-01T00:00:00Z\"", Reason::FutureEventTime),
        member("seen_s", "1.5", Reason::FractionalNumber),
        member("seen_s", "\"2024-01-01T00:00:00Z\"", Reason::WrongType),
        member("seen_s", "\"1704067200\"", Reason::QuotedNumber),
        member("seen_s", "9223372036854775807", Reason::NumberOverflow),
        member("seen_ms", "253402300800000", Reason::NumberOverflow),
        Case { detail: Some(AmountChecks::TEXT), ..member("amount", "10000.5", Reason::FailedCheck) },
        Case {
            detail: Some("user_id"),
            ..case("absent", r#"{"id":"a","amount":1,"timestamp":"2024-01-01T00:00:00Z"}"#, Reason::MissingColumn)
        },
        Case { detail: Some("id"), ..case("no members", "{}", Reason::MissingColumn) },
        Case {
            detail: Some("timestamp"),
            ..case("no event time", r#"{"id":"a","user_id":1,"amount":1}"#, Reason::NullEventTime)
        },
        Case {
            detail: Some("user_id"),
            ..case("doubled key", format!(r#"{{"user_id":1,"note":"{CANARY}","user_id":1}}"#), Reason::DuplicateKey)
        },
        Case {
            detail: Some("user_id"),
            ..case("key doubled by an escape", r#"{"user_id":1,"user\u005fid":1}"#, Reason::DuplicateKey)
        },
    ]
}

fn all_cases() -> Vec<Case> {
    [payload_cases(), member_cases(), other_member_cases()].into_iter().flatten().collect()
}

fn expected(case: &Case, record: usize) -> Rejected {
    Rejected { record, reason: case.reason, detail: case.detail.map(str::to_owned) }
}

#[test]
fn a_bad_record_alone_is_rejected_with_its_reason() {
    for case in all_cases() {
        let decoded = decoder().decode(&block_of([case.payload.as_ref()]), &units()).unwrap();
        assert_eq!(decoded.rejected, [expected(&case, 0)], "{}", case.name);
        assert_eq!(decoded.batch.num_rows(), 0, "{}", case.name);
        assert_eq!((decoded.num_late, decoded.num_stale), (0, 0));
    }
}

#[test]
fn a_bad_record_in_the_middle_of_good_ones_changes_nothing_of_them() {
    for case in all_cases() {
        for middle in [0, 1, 4, 8] {
            let payloads = (0..9).map(|index| if index == middle { case.payload.clone() } else { Some(good(index)) });
            let block = block_of(payloads);
            let mut decoder = decoder();
            let decoded = decoder.decode(&block, &units()).unwrap();
            assert_eq!(decoded.rejected, [expected(&case, middle)], "{}", case.name);

            let mut alone = self::decoder();
            let rows = (0..9).filter(|index| *index != middle).map(|index| {
                let mut block = RecordBlock::default();
                push_record(&mut block, 0, i64::try_from(index).unwrap(), Some(&good(index)));
                let decoded = alone.decode(&block, &units()).unwrap();
                assert_eq!(decoded.rejected, [], "good({index})");
                decoded.batch
            });
            let rows: Vec<_> = rows.collect();
            assert_eq!(decoded.batch, concat_batches(&alone.schema(), &rows).unwrap(), "{}", case.name);
            assert_eq!(decoder.watermark(Assignment(0)), alone.watermark(Assignment(0)), "{}", case.name);
        }
    }
}

#[test]
fn all_bad_records_in_one_block_keep_their_reasons_and_the_good_ones_their_rows() {
    let cases = all_cases();
    let mut payloads = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        payloads.push(Some(good(index)));
        payloads.push(case.payload.clone());
    }
    let decoded = decoder().decode(&block_of(payloads), &units()).unwrap();
    let expected: Vec<_> = cases.iter().enumerate().map(|(index, case)| expected(case, 2 * index + 1)).collect();
    assert_eq!(decoded.rejected, expected);
    assert_eq!(decoded.batch.num_rows(), cases.len());
}

#[test]
fn nothing_of_a_record_is_in_its_reason_or_detail() {
    for case in all_cases() {
        let decoded = decoder().decode(&block_of([case.payload.as_ref()]), &units()).unwrap();
        let text = format!("{:?} {}", decoded.rejected, decoded.rejected[0].reason);
        assert!(!text.contains(CANARY), "{text}");
    }
}

#[test]
fn every_reason_has_a_case_and_a_name_of_its_own() {
    let cases = all_cases();
    for reason in Reason::ALL {
        // Decode knows no SQL: the driver gives this one.
        let is_found_later = matches!(reason, Reason::SqlError | Reason::ForeignRecord);
        assert!(is_found_later || cases.iter().any(|case| case.reason == reason), "{reason}");
        let is_snake_case =
            reason.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte == b'8');
        assert!(is_snake_case, "{reason}");
    }
    let names: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(names.len(), Reason::ALL.len());
}

#[test]
fn values_arrive_exactly() {
    let payload = br#"{"id":"\ud83d\ude00\n\"\\\/","user_id":-9223372036854775808,"amount":0.1,"timestamp":"2024-01-01T00:00:00.000001Z",
        "small":2147483647,"ratio":0.1,"price":-12345678.90,"is_fraud":true,"seen_s":-1,"seen_ms":1704067200123,"note":""}"#;
    let decoded = decode_all(&mut decoder(), &[payload]);
    assert_eq!(decoded.rejected, []);
    let batch = &decoded.batch;
    let column = |name: &str| batch.column_by_name(name).unwrap();
    assert_eq!(column("id").as_string::<i32>().value(0), "\u{1F600}\n\"\\/");
    assert_eq!(column("user_id").as_primitive::<Int64Type>().value(0), i64::MIN);
    assert_eq!(column("amount").as_primitive::<Float64Type>().value(0), 0.1);
    assert_eq!(column("small").as_primitive::<Int32Type>().value(0), i32::MAX);
    assert_eq!(column("ratio").as_primitive::<Float32Type>().value(0), 0.1);
    assert_eq!(column("price").as_primitive::<Decimal128Type>().value(0), -1_234_567_890);
    assert!(column("is_fraud").as_boolean().value(0));
    let micros = |name: &str| column(name).as_primitive::<TimestampMicrosecondType>().value(0);
    assert_eq!(micros("timestamp"), BROKER_MS * 1_000 + 1);
    assert_eq!(micros("seen_s"), -1_000_000);
    assert_eq!(micros("seen_ms"), 1_704_067_200_123_000);
    assert!(column("note").is_valid(0) && column("note").as_string::<i32>().value(0).is_empty());
}

#[test]
fn metadata_columns_say_where_a_row_comes_from() {
    let mut block = RecordBlock::default();
    push_record(&mut block, 2, 41, Some(&good(0)));
    push_record(&mut block, 2, 42, Some(&good(1)));
    block.timestamps_ms[1] = -1;
    let batch = decoder().decode(&block, &units()).unwrap().batch;
    let column = |name: &str| batch.column_by_name(name).unwrap();
    assert_eq!(column("m_topic").as_string::<i32>().value(0), "tx");
    assert_eq!(column("m_partition").as_primitive::<Int32Type>().values(), &[2, 2]);
    assert_eq!(column("m_offset").as_primitive::<Int64Type>().values(), &[41, 42]);
    let times = column("m_timestamp").as_primitive::<TimestampMicrosecondType>();
    assert_eq!(times.iter().collect::<Vec<_>>(), [Some(BROKER_MS * 1_000), None]);
    let keys = column("m_key").as_binary::<i32>();
    assert_eq!(keys.iter().collect::<Vec<_>>(), [Some(&b"key"[..]), None]);
    let headers = column("m_headers").as_list::<i32>();
    let second = headers.value(1);
    let second = second.as_struct();
    assert_eq!(second.column(0).as_string::<i32>().iter().collect::<Vec<_>>(), [Some("trace"), Some("empty")]);
    assert_eq!(second.column(1).as_binary::<i32>().iter().collect::<Vec<_>>(), [Some(&b"1"[..]), None]);
}

#[test]
fn the_hidden_columns_come_last_and_hold_the_position() {
    let mut block = RecordBlock::default();
    push_record(&mut block, 1, 10, Some(&good(0)));
    push_record(&mut block, 1, 12, Some(b"bad"));
    push_record(&mut block, 1, 15, Some(&good(3)));
    let mut decoder = decoder();
    let batch = decoder.decode(&block, &units()).unwrap().batch;
    assert_eq!(batch.schema(), decoder.schema());
    let names: Vec<_> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names[names.len() - 6..], HIDDEN_COLUMNS);
    let hidden = crate::types::Hidden::of(&batch).unwrap();
    assert_eq!(hidden.unit.values(), &[1, 1]);
    assert_eq!(hidden.offset.values(), &[10, 15]);
    assert_eq!(hidden.ordinal.values(), &[0, 0]);
    assert_eq!(hidden.broker_time.values(), &[BROKER_MS, BROKER_MS]);
    assert_eq!(hidden.unit.data_type(), &<UInt32Type as arrow::datatypes::ArrowPrimitiveType>::DATA_TYPE);
    let minute = 60_000_000;
    assert_eq!(hidden.event_time.values(), &[BROKER_MS * 1_000, BROKER_MS * 1_000 + 3 * minute]);
}

#[test]
fn a_key_is_found_whatever_its_order_or_escapes() {
    let mut decoder = decoder_of(vec![
        column("a", ColumnType::Int64, true),
        column("b", ColumnType::Int64, true),
        column("\"q\"", ColumnType::Int64, true),
    ]);
    let long = "k".repeat(100);
    let long_first = format!(r#"{{"{long}":0,"b":2,"a":1}}"#);
    let payloads = [
        r#"{"a":1,"b":2}"#,
        r#"{"b":2,"a":1}"#,
        r#"{"\u0061":1,"\u0062":2}"#,
        r#"{"\u0061":1,"\u0062":2}"#,
        r#"{"ab":0,"b":2,"a":1,"":0}"#,
        r#"{"a":1}"#,
        &long_first,
        &long_first,
        r#"{"\"q\"":3}"#,
        "{}",
    ];
    let decoded = decode_all(&mut decoder, &payloads);
    assert_eq!(decoded.rejected, []);
    let values = |column: usize| decoded.batch.column(column).as_primitive::<Int64Type>().iter().collect::<Vec<_>>();
    let one = Some(1);
    assert_eq!(values(0), [one, one, one, one, one, one, one, one, None, None]);
    let two = Some(2);
    assert_eq!(values(1), [two, two, two, two, two, None, two, two, None, None]);
    assert_eq!(values(2)[8], Some(3));
}

#[test]
fn a_key_that_is_not_predicted_is_read_as_it_stands() {
    let mut decoder = decoder_of(vec![column("a", ColumnType::Int64, true)]);
    let long = format!(r#"{{"{}":0,"a":1}}"#, "k".repeat(100));
    let decoded =
        decode_all(&mut decoder, &[long.as_str(), r#"{""":1,"a":1}"#, r#"{"a\\":1}"#, r#"{"a":1,"a":2}"#, &long]);
    let rejected: Vec<_> = decoded.rejected.iter().map(|rejected| (rejected.record, rejected.reason)).collect();
    assert_eq!(rejected, [(1, Reason::NotJson), (3, Reason::DuplicateKey)]);
    assert_eq!(
        decoded.batch.column(0).as_primitive::<Int64Type>().iter().collect::<Vec<_>>(),
        [Some(1), None, Some(1)]
    );
}

#[test]
fn a_source_whose_event_time_is_no_column_of_times_is_refused() {
    let mut source = source();
    source.event_time = Some("amount".to_owned());
    let error = Decoder::new(&source, Box::new(NoChecks)).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Invalid);
    assert!(error.message().contains("such columns are: timestamp, seen_s, seen_ms"), "{error}");
}
