//! `tidemill generate`: simulated card transactions to Kafka, Parquet or JSON lines; a range of time, or live for as long as
//! wanted.

use std::path::PathBuf;
use std::time::Duration;

use super::{Environment, print};
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::settings::KafkaConnection;
use crate::runtime::clock;
use crate::sink::kafka::{KafkaAdmin, KafkaWriter};
use crate::source::generator::{
    Fault, GenerateRequest, GeneratorError, GeneratorSettings, Kind, Simulator, Summary, write_jsonl, write_parquet,
};

/// Time between looks at the clock of a live stream.
const PACE: Duration = Duration::from_millis(1);
/// How long the cluster is waited for.
const CLUSTER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the last records are waited for.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("output").required(true))]
pub(crate) struct GenerateArguments {
    /// A file (`*.parquet`) or a new folder of Parquet files.
    #[arg(long, group = "output")]
    parquet: Option<PathBuf>,
    /// A new file of JSON lines, in order of arrival.
    #[arg(long, group = "output")]
    jsonl: Option<PathBuf>,
    /// A Kafka topic; created with 4 partitions if it is not there.
    #[arg(long, group = "output")]
    topic: Option<String>,
    /// Brokers of the topic: host:port,...
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS", default_value = "localhost:9092", requires = "topic")]
    brokers: String,
    /// To a topic: live, with event times of now, until stopped or --count is reached.
    #[arg(long, requires = "topic", conflicts_with_all = ["from", "to", "days"])]
    live: bool,
    /// To a topic: stop after so many records.
    #[arg(long, requires = "topic")]
    count: Option<u64>,
    /// Threads that make Parquet.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    #[command(flatten)]
    request: GenerateRequest,
}

pub(crate) fn run(arguments: &GenerateArguments, _: &Environment) -> Result<()> {
    let started = clock::now();
    let settings = arguments.request.settings().map_err(failed)?;
    let range = || arguments.request.range_ms(clock::wall_millis()).map_err(failed);
    let summary = match (&arguments.parquet, &arguments.jsonl, &arguments.topic) {
        (Some(path), _, _) => write_parquet(settings, range()?, path, arguments.threads).map_err(failed)?,
        (_, Some(path), _) => write_jsonl(settings, range()?, path).map_err(failed)?,
        (_, _, Some(topic)) => send(arguments, settings, topic)?,
        (None, None, None) => {
            return Err(Error::invalid("name an output: --parquet PATH, --jsonl PATH or --topic TOPIC"));
        }
    };
    print(&report(&summary, started.elapsed()));
    Ok(())
}

fn failed(error: GeneratorError) -> Error {
    let kind = match &error {
        GeneratorError::Settings(_) | GeneratorError::Range { .. } | GeneratorError::Occupied { .. } => {
            ErrorKind::Invalid
        }
        // A full disk, as a rule: it may have room later.
        GeneratorError::Io { .. } | GeneratorError::Parquet { .. } => ErrorKind::Unavailable,
        GeneratorError::Schema { .. } | GeneratorError::Arrow(_) => ErrorKind::Internal,
    };
    Error::new(kind, error.to_string())
}

fn report(summary: &Summary, took: Duration) -> String {
    let mut text = format!(
        "{} records, {} of them fraud ({:.2} %), {:.1} MB, {:.1} s, {:.0} records/s",
        summary.rows,
        summary.frauds(),
        100.0 * summary.frauds() as f64 / summary.rows.max(1) as f64,
        summary.bytes as f64 / 1e6,
        took.as_secs_f64(),
        summary.rows as f64 / took.as_secs_f64().max(1e-9),
    );
    for kind in Kind::ALL {
        let rows = summary.rows_by_kind[kind.index()];
        if let Some(name) = kind.name().filter(|_| rows > 0) {
            text.push_str(&format!("\n  {name}: {rows}"));
        }
    }
    let faults = &summary.faults;
    for (name, records) in [
        ("malformed", faults.malformed),
        ("late", faults.late),
        ("sent twice", faults.duplicate),
        ("out of order", faults.out_of_order),
        ("from the future", faults.future),
    ] {
        if records > 0 {
            text.push_str(&format!("\n  {name}: {records}"));
        }
    }
    text
}

/// A connection to brokers without more.
pub(super) fn plain_connection(brokers: &str) -> KafkaConnection {
    KafkaConnection {
        bootstrap_servers: brokers.to_owned(),
        security_protocol: None,
        sasl_mechanism: None,
        sasl_username: None,
        sasl_password: None,
        ssl_ca_location: None,
        ssl_certificate_location: None,
        ssl_key_location: None,
        options: std::collections::BTreeMap::new(),
    }
}

fn send(arguments: &GenerateArguments, settings: GeneratorSettings, topic: &str) -> Result<Summary> {
    let connection = plain_connection(&arguments.brokers);
    KafkaAdmin::open(&connection)?.create_topic(topic, 4, &[])?;
    let mut writer = KafkaWriter::open(&connection, topic, Duration::from_millis(5), CLUSTER_TIMEOUT)?;
    let simulator = Simulator::new(settings).map_err(failed)?;
    let count = arguments.count.unwrap_or(u64::MAX);
    let mut summary = Summary::default();
    if arguments.live {
        let mut feed = simulator.feed(clock::wall_millis());
        while summary.rows < count {
            let block = feed.events(clock::wall_millis()).map_err(failed)?;
            send_block(&mut writer, &block, count, &mut summary)?;
            writer.serve()?;
            std::thread::sleep(PACE);
        }
    } else {
        for block in
            simulator.records(arguments.request.range_ms(clock::wall_millis()).map_err(failed)?).map_err(failed)?
        {
            send_block(&mut writer, &block.map_err(failed)?, count, &mut summary)?;
            if summary.rows >= count {
                break;
            }
        }
    }
    writer.flush(FLUSH_TIMEOUT)?;
    Ok(summary)
}

fn send_block(
    writer: &mut KafkaWriter,
    block: &crate::source::generator::RecordBlock,
    count: u64,
    summary: &mut Summary,
) -> Result<()> {
    for record in block.iter() {
        if summary.rows >= count {
            break;
        }
        writer.write(Some(record.key), Some(record.value))?;
        summary.rows += 1;
        summary.rows_by_kind[record.kind.index()] += 1;
        summary.bytes += (record.key.len() + record.value.len()) as u64;
        match record.fault {
            None => {}
            Some(Fault::Malformed(_)) => summary.faults.malformed += 1,
            Some(Fault::Late) => summary.faults.late += 1,
            Some(Fault::Duplicate) => summary.faults.duplicate += 1,
            Some(Fault::OutOfOrder) => summary.faults.out_of_order += 1,
            Some(Fault::Future) => summary.faults.future += 1,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_says_whether_to_mend_the_command_or_to_try_again() {
        let path = PathBuf::from("/full/history.parquet");
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let cases = [
            (GeneratorError::Settings(vec!["users: expected more".to_owned()]), ErrorKind::Invalid),
            (GeneratorError::Range { from_ms: 2, to_ms: 1 }, ErrorKind::Invalid),
            (GeneratorError::Occupied { path: path.clone() }, ErrorKind::Invalid),
            (GeneratorError::Io { action: "write", path: path.clone(), source: full() }, ErrorKind::Unavailable),
            (
                GeneratorError::Parquet { path, source: parquet::errors::ParquetError::External(Box::new(full())) },
                ErrorKind::Unavailable,
            ),
        ];
        for (error, kind) in cases {
            let told = error.to_string();
            let error = failed(error);
            assert_eq!((error.kind(), error.message()), (kind, &*told));
        }
    }
}
