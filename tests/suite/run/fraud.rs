//! The features of `sql/fraud_features.sql` over simulated transactions: pipeline files, what is sent to the topic, and what came
//! out, partition by partition and offset by offset. Archive, features and rejected records are Parquet, each row once.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::bench::{Bench, block_on};
use crate::harness::{Ended, Process, broker, unique};

/// Partitions of the topic.
pub(crate) const PARTITIONS: i32 = 4;

/// One pipeline over the bench's topic, with outputs and a checkpoint of its own.
pub(crate) struct Fraud<'a> {
    pub(crate) bench: &'a Bench,
    group: String,
    lake: String,
    checkpoint: String,
}

/// What a test varies in a pipeline file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Variant<'a> {
    pub(crate) workers: usize,
    pub(crate) until: &'a str,
    /// Further lines of the source.
    pub(crate) source: &'a str,
    /// What the sink `answers` selects.
    pub(crate) select: &'a str,
}

impl Default for Variant<'_> {
    fn default() -> Self {
        Variant { workers: 2, until: "now", source: "", select: "SELECT * FROM features" }
    }
}

impl<'a> Fraud<'a> {
    pub(crate) fn new(bench: &'a Bench, name: &str) -> Fraud<'a> {
        let group = unique(name);
        let lake = format!("{}/{group}", bench.lake);
        Fraud { bench, lake, checkpoint: format!("{}/{group}", bench.checkpoint), group }
    }

    /// Where the files of a sink are.
    pub(crate) fn place(&self, sink: &str) -> String {
        format!("{}/{sink}", self.lake)
    }

    /// Writes the pipeline file; its name.
    pub(crate) fn file(&self, variant: Variant<'_>) -> String {
        let sql = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("sql/fraud_features.sql");
        let Variant { workers, until, source, select } = variant;
        let text = format!(
            "pipeline: history\n\
             sources:\n  transactions:\n    connector: kafka\n    bootstrap_servers: \"{broker}\"\n    topic: {topic}\n    \
             group: {group}\n    until: {until}\n    options: {{ session.timeout.ms: 2000 }}\n    partitioned_by: [user_id]\n    \
             event_time: timestamp\n    columns:\n      transaction_id: string not null\n      user_id: bigint not null\n      \
             amount: double not null\n      currency: string not null\n      merchant: string\n      \
             timestamp: timestamp not null\n      location: string\n      is_fraud: int not null\n    \
             check: [amount between 0.01 and 10000, length(currency) = 3]\n{source}\
             views:\n  features: \"{sql}\"\n\
             sinks:\n  \
             archive: {{ connector: parquet, path: \"{archive}\", {files}, positions: true, select: SELECT * FROM transactions }}\n  \
             answers: {{ connector: parquet, path: \"{answers}\", {files}, positions: true, select: \"{select}\" }}\n\
             dead_letter: {{ connector: parquet, path: \"{rejected}\", {files} }}\n\
             checkpoint: {{ path: \"{checkpoint}\", interval: 300ms, snapshot_interval: 1s }}\n\
             delivery: exactly_once\nrun: {{ workers: {workers} }}\nhttp: {{ listen: \"off\" }}\n",
            broker = broker(),
            topic = self.bench.input,
            group = self.group,
            sql = sql.display(),
            files = "max_rows: 20000, max_age: 2s",
            archive = self.place("archive"),
            answers = self.place("answers"),
            rejected = self.place("rejected"),
            checkpoint = self.checkpoint,
        );
        let name = format!("{}.yaml", unique(&self.group));
        fs::write(self.bench.folder.path().join(&name), text).unwrap();
        name
    }

    pub(crate) fn start(&self, variant: Variant<'_>) -> Process {
        self.bench.start_with(&["run", &self.file(variant)])
    }

    /// Runs to the end of the topic.
    pub(crate) fn finish(&self, workers: usize) {
        let ended = self.start(Variant { workers, ..Variant::default() }).wait();
        assert_eq!(ended.code, Some(0), "{}", ended.log);
    }

    /// `tidemill COMMAND FILE` with further arguments.
    pub(crate) fn command(&self, command: &str, variant: Variant<'_>, more: &[&str]) -> Ended {
        let file = self.file(variant);
        self.bench.start_with(&[&[command, &file], more].concat()).wait()
    }

    /// Records that the manifests cover; 0 before the first.
    pub(crate) fn num_published(&self) -> i64 {
        let stored = self.bench.stored_at(&self.checkpoint).unwrap_or_default();
        stored.values().map(|(published, _)| published).sum()
    }

    /// Names of a sink's files, those that readers skip left out.
    pub(crate) fn names(&self, sink: &str) -> Vec<String> {
        let folder = self.bench.stores().open(&self.place(sink)).unwrap();
        let names = block_on(folder.list("")).unwrap().into_iter().map(|object| object.name);
        names.filter(|name| !name.split('/').any(|part| part.starts_with('_'))).collect()
    }

    /// Shows all rows of a sink, in some columns or (none named) in all, batch by batch.
    pub(crate) fn read(&self, sink: &str, columns: &[&str], mut visit: impl FnMut(&RecordBatch)) {
        let folder = self.bench.stores().open(&self.place(sink)).unwrap();
        for name in self.names(sink) {
            let bytes = block_on(folder.read(&name, u64::MAX)).unwrap().unwrap();
            let mut file = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
            if !columns.is_empty() {
                let mask = ProjectionMask::columns(file.parquet_schema(), columns.iter().copied());
                file = file.with_projection(mask);
            }
            file.build().unwrap().for_each(|batch| visit(&batch.unwrap()));
        }
    }

    /// The row of features of each (partition, offset), as text that tells all bits apart.
    pub(crate) fn answers(&self) -> BTreeMap<(i32, i64), String> {
        let options = FormatOptions::default().with_null("null");
        let mut rows = BTreeMap::new();
        self.read("answers", &[], |batch| {
            let partitions = batch["_partition"].as_primitive::<Int32Type>();
            let offsets = batch["_offset"].as_primitive::<Int64Type>();
            let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
            let columns: Vec<ArrayFormatter<'_>> = columns.map(Result::unwrap).collect();
            for row in 0..batch.num_rows() {
                let text: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
                let place = (partitions.value(row), offsets.value(row));
                assert!(rows.insert(place, text.join("|")).is_none(), "{place:?} is there twice");
            }
        });
        rows
    }
}

/// Sends simulated transactions to the bench's topic with `tidemill generate`; what it printed.
pub(crate) fn generate(bench: &Bench, arguments: &[&str]) -> String {
    let broker = broker();
    let to = ["generate", "--topic", &bench.input, "--brokers", &broker];
    let ended = bench.start_with(&[&to[..], arguments].concat()).wait();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    ended.stdout
}

/// A number that `tidemill generate` printed, by what stands before it.
pub(crate) fn printed(summary: &str, name: &str) -> i64 {
    let line = summary.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("no {name} in {summary}")).parse().unwrap()
}
