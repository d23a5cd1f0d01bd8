//! What the tests of decode share: a source with every type, blocks of payloads, and checks without SQL.

mod cases;
mod properties;
mod repeated;
mod rows;
mod watermarks;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Float64Type;

use super::{Decoded, Decoder, NoChecks, RowChecks};
use crate::error::Result;
use crate::pipeline::settings::{
    Column, ColumnType, EpochUnit, FileFormat, FilesSource, MetadataColumn, MetadataKind, Place, Source,
    SourceConnector, SqlText,
};
use crate::types::{Assignment, RecordBlock, StateUnit, Units};

/// The broker's timestamp of the tests' records: 2024-01-01T00:00:00Z.
pub(super) const BROKER_MS: i64 = 1_704_067_200_000;

pub(super) fn column(name: &str, column_type: ColumnType, is_nullable: bool) -> Column {
    Column { name: name.to_owned(), column_type, is_nullable }
}

/// A source of the given columns, without metadata, checks or event time.
pub(super) fn source_of(columns: Vec<Column>) -> Source {
    Source {
        name: "transactions".to_owned(),
        connector: SourceConnector::Files(FilesSource { path: "unused".to_owned(), format: FileFormat::JsonLines }),
        columns,
        metadata: Vec::new(),
        checks: Vec::new(),
        event_time: None,
        partitioned_by: Vec::new(),
        max_future_skew: Duration::from_secs(3_600),
        max_lateness: Duration::from_secs(7_200),
        max_lookback: Duration::from_secs(90 * 86_400),
        max_record_bytes: 1 << 20,
        max_rejection_rate: None,
        rejection_window: 1_000,
        repartition: None,
        internal: None,
    }
}

/// One column of every type, an event time, all metadata and one check.
pub(super) fn source() -> Source {
    let mut source = source_of(vec![
        column("id", ColumnType::String, false),
        column("user_id", ColumnType::Int64, false),
        column("amount", ColumnType::Float64, false),
        column("timestamp", ColumnType::Timestamp, false),
        column("small", ColumnType::Int32, true),
        column("ratio", ColumnType::Float32, true),
        column("price", ColumnType::Decimal(10, 2), true),
        column("is_fraud", ColumnType::Boolean, true),
        column("seen_s", ColumnType::Epoch(EpochUnit::Seconds), true),
        column("seen_ms", ColumnType::Epoch(EpochUnit::Milliseconds), true),
        column("note", ColumnType::String, true),
    ]);
    let kinds = [
        ("m_topic", MetadataKind::Topic),
        ("m_partition", MetadataKind::Partition),
        ("m_offset", MetadataKind::Offset),
        ("m_timestamp", MetadataKind::Timestamp),
        ("m_key", MetadataKind::Key),
        ("m_headers", MetadataKind::Headers),
    ];
    source.metadata = kinds.into_iter().map(|(name, kind)| MetadataColumn { name: name.to_owned(), kind }).collect();
    source.event_time = Some("timestamp".to_owned());
    let place = Place { file: "pipeline.yaml".into(), line: 1, column: 1 };
    source.checks = vec![SqlText { sql: AmountChecks::TEXT.to_owned(), place }];
    source
}

/// Stands for SQL: `amount` at most 10000.
#[derive(Debug)]
pub(super) struct AmountChecks;

impl AmountChecks {
    pub(super) const TEXT: &str = "amount <= 10000";
}

impl RowChecks for AmountChecks {
    fn first_failing(&mut self, batch: &RecordBatch) -> Result<Vec<Option<usize>>> {
        let amounts = batch.column_by_name("amount").unwrap().as_primitive::<Float64Type>();
        Ok(amounts.iter().map(|amount| (amount > Some(10_000.0)).then_some(0)).collect())
    }

    fn text(&self, _check: usize) -> &str {
        Self::TEXT
    }
}

pub(super) fn decoder() -> Decoder {
    Decoder::new(&source(), Box::new(AmountChecks)).unwrap()
}

pub(super) fn decoder_of(columns: Vec<Column>) -> Decoder {
    Decoder::new(&source_of(columns), Box::new(NoChecks)).unwrap()
}

/// Assignments 0 to 3 are held: partitions 0 to 3 of one topic.
pub(super) fn units() -> Units {
    let mut units = Units::default();
    for number in 0..4 {
        let partition = i32::try_from(number).unwrap();
        units
            .insert(Assignment(number), StateUnit { source: "transactions".into(), topic: Arc::from("tx"), partition });
    }
    units
}

pub(super) fn push_record(block: &mut RecordBlock, unit: u32, offset: i64, payload: Option<&[u8]>) {
    block.units.push(unit);
    block.offsets.push(offset);
    block.timestamps_ms.push(BROKER_MS);
    block.keys.push((offset % 3 != 0).then_some(&b"key"[..]));
    block.values.push(payload);
    block.headers.push("trace", Some(b"1"));
    block.headers.push("empty", None);
    block.headers.end_record();
}

/// Payloads at offsets 0, 1, 2, ... of partition 0.
pub(super) fn block_of<P: AsRef<[u8]>>(payloads: impl IntoIterator<Item = Option<P>>) -> RecordBlock {
    let mut block = RecordBlock::default();
    for (offset, payload) in (0..).zip(payloads) {
        push_record(&mut block, 0, offset, payload.as_ref().map(AsRef::as_ref));
    }
    block
}

pub(super) fn decode_all<P: AsRef<[u8]>>(decoder: &mut Decoder, payloads: &[P]) -> Decoded {
    decoder.decode(&block_of(payloads.iter().map(Some)), &units()).unwrap()
}

/// A payload that is accepted; `index` is in every value.
pub(super) fn good(index: usize) -> Vec<u8> {
    let (user, minute) = (1_000 + index, index % 50);
    let text = match index % 3 {
        0 => format!(
            r#"{{"id":"tx-{index}","user_id":{user},"amount":{index}.25,"timestamp":"2024-01-01T00:{minute:02}:00Z","small":{index},"ratio":0.5,"price":{index}.01,"is_fraud":true,"seen_s":{index},"seen_ms":{index},"note":"caf\u00e9 {index}"}}"#
        ),
        1 => format!(
            r#" {{ "extra" : [ {{ "a" : [1, 2.5e3, null] }} ] , "timestamp" : "2023-12-31 23:{minute:02}:00+00:00", "amount" : 1e1, "user_id" : {user}, "id" : "tx {index}", "note" : null }} "#
        ),
        _ => format!(
            r#"{{"id":"","user_id":-{user},"amount":0,"timestamp":"2024-01-01T00:{minute:02}:00.123456789","price":"{index}.5","is_fraud":false}}"#
        ),
    };
    text.into_bytes()
}

/// `good(0)` with the value of one member replaced by `json`.
pub(super) fn with_member(name: &str, json: &str) -> Vec<u8> {
    let members = [
        ("id", "\"tx\""),
        ("user_id", "1"),
        ("amount", "2.5"),
        ("timestamp", "\"2024-01-01T00:00:00Z\""),
        ("small", "3"),
        ("ratio", "0.5"),
        ("price", "1.25"),
        ("is_fraud", "true"),
        ("seen_s", "1"),
        ("seen_ms", "1"),
        ("note", "\"n\""),
    ];
    assert!(members.iter().any(|(member, _)| *member == name), "{name} is a column");
    let members = members.map(|(member, value)| format!("\"{member}\":{}", if member == name { json } else { value }));
    format!("{{{}}}", members.join(",")).into_bytes()
}
