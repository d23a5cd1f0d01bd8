//! Every metric: name, unit, labels, help, in one place. Handles are taken once; the data path only adds numbers.

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use tidemill_udfs::functions::{Agreement, DIFFERENCE_BOUNDS, LoadedModel};

use crate::observe::status::SourceCounts;
use crate::types::StateUnit;

/// Upper bounds of latency buckets, seconds.
pub const LATENCY_BUCKETS_SECONDS: [f64; 15] =
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];

/// Upper bounds of row-count buckets.
pub const ROWS_BUCKETS: [f64; 8] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0];

/// Name of a metric.
pub mod name {
    /// Records read from a source.
    pub const RECORDS_READ: &str = "tidemill_records_read_total";
    /// Bytes of keys and payloads read.
    pub const BYTES_READ: &str = "tidemill_bytes_read_total";
    /// Records that became rows.
    pub const RECORDS_DECODED: &str = "tidemill_records_decoded_total";
    /// Records rejected, by reason.
    pub const RECORDS_REJECTED: &str = "tidemill_records_rejected_total";
    /// Rows below W of their partition.
    pub const ROWS_LATE: &str = "tidemill_rows_late_total";
    /// Records of an internal topic that were in it before.
    pub const RECORDS_REPEATED: &str = "tidemill_records_repeated_total";
    /// Records whose message key belongs to another partition.
    pub const RECORDS_MISPLACED: &str = "tidemill_records_misplaced_total";
    /// Records skipped because they were gone from the log.
    pub const RECORDS_LOST: &str = "tidemill_records_lost_total";
    /// Records read again after a restart.
    pub const RECORDS_REPLAYED: &str = "tidemill_records_replayed_total";
    /// Rows given to a sink.
    pub const ROWS_OUT: &str = "tidemill_rows_out_total";
    /// Epochs.
    pub const EPOCHS: &str = "tidemill_epochs_total";
    /// Duration of an epoch.
    pub const EPOCH_DURATION: &str = "tidemill_epoch_duration_seconds";
    /// Records of an epoch.
    pub const EPOCH_ROWS: &str = "tidemill_epoch_rows";
    /// From the broker's timestamp to the row's emission.
    pub const LATENCY: &str = "tidemill_produce_to_emit_seconds";
    /// End offset less our position.
    pub const LAG: &str = "tidemill_source_lag_records";
    /// Next offset to read.
    pub const POSITION: &str = "tidemill_source_position";
    /// When the last checkpoint was published.
    pub const CHECKPOINT_TIME: &str = "tidemill_checkpoint_last_success_timestamp_seconds";
    /// Duration of a checkpoint, from its beginning to the last manifest.
    pub const CHECKPOINT_DURATION: &str = "tidemill_checkpoint_duration_seconds";
    /// Checkpoints that were published, and failed attempts to publish the manifest of a partition, by result.
    pub const CHECKPOINTS: &str = "tidemill_checkpoints_total";
    /// Snapshots of state that were stored, and those that were given up, by result.
    pub const SNAPSHOTS: &str = "tidemill_snapshots_total";
    /// Bytes of state stored in snapshots.
    pub const SNAPSHOT_BYTES: &str = "tidemill_snapshot_bytes_total";
    /// From a snapshot's beginning to its last file.
    pub const SNAPSHOT_DURATION: &str = "tidemill_snapshot_duration_seconds";
    /// Time that a worker spent on one piece of a snapshot.
    pub const SNAPSHOT_PIECE: &str = "tidemill_snapshot_piece_seconds";
    /// Bytes of state held by an operator on a worker.
    pub const STATE_BYTES: &str = "tidemill_state_bytes";
    /// Keys held by an operator on a worker.
    pub const STATE_KEYS: &str = "tidemill_state_keys";
    /// 1 for the model in use, 0 for those that were.
    pub const MODEL_INFO: &str = "tidemill_model_info";
    /// The served model's threshold.
    pub const MODEL_THRESHOLD: &str = "tidemill_model_threshold";
    /// Models that took another's place while running.
    pub const MODEL_SWAPS: &str = "tidemill_model_swaps_total";
    /// Models that were read and refused.
    pub const MODELS_REFUSED: &str = "tidemill_models_refused_total";
    /// Looks whether a place means another model, by result.
    pub const MODEL_CHECKS: &str = "tidemill_model_checks_total";
    /// When a look last succeeded.
    pub const MODEL_CHECK_TIME: &str = "tidemill_model_check_last_success_timestamp_seconds";
    /// Rows that champion and challenger scored, by who decided yes.
    pub const MODEL_AGREEMENT: &str = "tidemill_model_agreement_rows_total";
    /// Rows that champion and challenger scored, by the absolute difference of their scores, up to `le`: as the buckets of a
    /// histogram, filled by whole batches.
    pub const MODEL_DIFFERENCE: &str = "tidemill_model_score_difference_bucket";
    /// Partitions assigned.
    pub const UNITS: &str = "tidemill_state_units";
    /// Rebalances seen.
    pub const REBALANCES: &str = "tidemill_rebalances_total";
    /// 1, with the version.
    pub const BUILD_INFO: &str = "tidemill_build_info";
}

/// Says what each metric is, for `/metrics`.
pub fn describe() {
    describe_counter!(name::RECORDS_READ, Unit::Count, "records read from a source");
    describe_counter!(name::BYTES_READ, Unit::Bytes, "bytes of keys and payloads read from a source");
    describe_counter!(name::RECORDS_DECODED, Unit::Count, "records that became rows");
    describe_counter!(name::RECORDS_REJECTED, Unit::Count, "records rejected, by reason");
    describe_counter!(name::ROWS_LATE, Unit::Count, "rows whose event time lies below the greatest of their partition");
    describe_counter!(
        name::RECORDS_REPEATED,
        Unit::Count,
        "records of an internal topic that were written again after a crash, and left out"
    );
    describe_counter!(
        name::RECORDS_MISPLACED,
        Unit::Count,
        "records in another partition than the one that their message key belongs to by the source's partitioner"
    );
    describe_counter!(name::RECORDS_LOST, Unit::Count, "offsets skipped because they were gone from the log");
    describe_counter!(name::RECORDS_REPLAYED, Unit::Count, "records read again after a restart");
    describe_counter!(name::ROWS_OUT, Unit::Count, "rows given to a sink");
    describe_counter!(name::EPOCHS, Unit::Count, "epochs run");
    describe_histogram!(name::EPOCH_DURATION, Unit::Seconds, "duration of an epoch");
    describe_histogram!(name::EPOCH_ROWS, Unit::Count, "records of an epoch");
    describe_gauge!(name::LAG, Unit::Count, "records between our position and the end of the partition");
    describe_gauge!(name::POSITION, Unit::Count, "next offset to read");
    describe_gauge!(name::CHECKPOINT_TIME, Unit::Seconds, "when the last checkpoint was published, seconds since 1970");
    describe_histogram!(name::CHECKPOINT_DURATION, Unit::Seconds, "duration of a checkpoint");
    describe_counter!(
        name::CHECKPOINTS,
        Unit::Count,
        "checkpoints that were published, and failed attempts to publish a partition's manifest"
    );
    describe_counter!(
        name::SNAPSHOTS,
        Unit::Count,
        "snapshots of state that were stored, and those that were given up"
    );
    describe_counter!(name::SNAPSHOT_BYTES, Unit::Bytes, "bytes of state stored in snapshots");
    describe_histogram!(name::SNAPSHOT_DURATION, Unit::Seconds, "duration of a snapshot");
    describe_histogram!(name::SNAPSHOT_PIECE, Unit::Seconds, "time that a worker spent on one piece of a snapshot");
    describe_gauge!(name::STATE_BYTES, Unit::Bytes, "bytes of state held by an operator on a worker");
    describe_gauge!(name::STATE_KEYS, Unit::Count, "keys held by an operator on a worker");
    describe_gauge!(name::MODEL_INFO, Unit::Count, "1 for the model in use, 0 for those that were");
    describe_gauge!(name::MODEL_THRESHOLD, Unit::Count, "the score from which on the served model decides yes");
    describe_counter!(name::MODEL_SWAPS, Unit::Count, "models that took another's place while running");
    describe_counter!(name::MODELS_REFUSED, Unit::Count, "models that were read and refused; the one before serves on");
    describe_counter!(
        name::MODEL_CHECKS,
        Unit::Count,
        "looks whether a model's place means another model, by result: ok or failed"
    );
    describe_gauge!(
        name::MODEL_CHECK_TIME,
        Unit::Count,
        "when the place of a model was last looked at with success, seconds since 1970"
    );
    describe_counter!(
        name::MODEL_AGREEMENT,
        Unit::Count,
        "rows scored by champion and challenger, by who decided yes: both, neither, champion, challenger"
    );
    describe_counter!(
        name::MODEL_DIFFERENCE,
        Unit::Count,
        "rows scored by champion and challenger whose scores differ by at most le"
    );
    describe_gauge!(name::UNITS, Unit::Count, "state units held by a worker");
    describe_counter!(name::REBALANCES, Unit::Count, "rebalances seen by a worker");
    describe_gauge!(name::BUILD_INFO, Unit::Count, "1, labelled with the version");
    super::drift::describe();
    super::labels::describe();
    gauge!(name::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// Handles of one source on one worker.
#[derive(Clone)]
pub struct SourceMetrics {
    source: String,
    /// See [`name::RECORDS_READ`].
    pub read: Counter,
    /// See [`name::BYTES_READ`].
    pub bytes: Counter,
    /// See [`name::RECORDS_DECODED`].
    pub decoded: Counter,
    /// See [`name::ROWS_LATE`].
    pub late: Counter,
    /// See [`name::RECORDS_REPEATED`].
    pub repeated: Counter,
    /// See [`name::RECORDS_MISPLACED`].
    pub misplaced: Counter,
    /// See [`name::RECORDS_LOST`].
    pub lost: Counter,
    /// See [`name::RECORDS_REPLAYED`].
    pub replayed: Counter,
}

impl std::fmt::Debug for SourceMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceMetrics").field("source", &self.source).finish_non_exhaustive()
    }
}

impl SourceMetrics {
    /// Handles for a source.
    #[must_use]
    pub fn new(source: &str) -> SourceMetrics {
        let of = |metric: &'static str| counter!(metric, "source" => source.to_owned());
        SourceMetrics {
            source: source.to_owned(),
            read: of(name::RECORDS_READ),
            bytes: of(name::BYTES_READ),
            decoded: of(name::RECORDS_DECODED),
            late: of(name::ROWS_LATE),
            repeated: of(name::RECORDS_REPEATED),
            misplaced: of(name::RECORDS_MISPLACED),
            lost: of(name::RECORDS_LOST),
            replayed: of(name::RECORDS_REPLAYED),
        }
    }

    /// Counts records by outcome; the rejected ones come by [`SourceMetrics::rejected`].
    pub fn count(&self, counts: &SourceCounts) {
        self.read.increment(counts.read);
        self.decoded.increment(counts.decoded);
        self.repeated.increment(counts.repeated);
        self.late.increment(counts.late);
        self.misplaced.increment(counts.misplaced);
        self.replayed.increment(counts.replayed);
    }

    /// Counts rejected records of one reason. Rare, so the handle is looked up.
    pub fn rejected(&self, reason: &'static str, records: u64) {
        counter!(name::RECORDS_REJECTED, "source" => self.source.clone(), "reason" => reason).increment(records);
    }
}

/// Handles of one worker.
#[derive(Clone)]
pub struct WorkerMetrics {
    /// See [`name::EPOCHS`].
    pub epochs: Counter,
    /// See [`name::EPOCH_DURATION`].
    pub epoch_duration: Histogram,
    /// See [`name::EPOCH_ROWS`].
    pub epoch_rows: Histogram,
    /// See [`name::CHECKPOINT_TIME`].
    pub checkpoint_time: Gauge,
    /// See [`name::CHECKPOINT_DURATION`].
    pub checkpoint_duration: Histogram,
    /// See [`name::CHECKPOINTS`], result `ok`.
    pub checkpoints_ok: Counter,
    /// See [`name::CHECKPOINTS`], result `failed`.
    pub checkpoints_failed: Counter,
    /// See [`name::SNAPSHOTS`], result `ok`.
    pub snapshots_ok: Counter,
    /// See [`name::SNAPSHOTS`], result `failed`.
    pub snapshots_failed: Counter,
    /// See [`name::SNAPSHOT_BYTES`].
    pub snapshot_bytes: Counter,
    /// See [`name::SNAPSHOT_DURATION`].
    pub snapshot_duration: Histogram,
    /// See [`name::SNAPSHOT_PIECE`].
    pub snapshot_piece: Histogram,
    /// See [`name::UNITS`].
    pub units: Gauge,
    /// See [`name::REBALANCES`].
    pub rebalances: Counter,
}

impl std::fmt::Debug for WorkerMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerMetrics").finish_non_exhaustive()
    }
}

impl WorkerMetrics {
    /// Handles for a worker.
    #[must_use]
    pub fn new(worker: usize) -> WorkerMetrics {
        let worker = worker.to_string();
        WorkerMetrics {
            epochs: counter!(name::EPOCHS, "worker" => worker.clone()),
            epoch_duration: histogram!(name::EPOCH_DURATION, "worker" => worker.clone()),
            epoch_rows: histogram!(name::EPOCH_ROWS, "worker" => worker.clone()),
            checkpoint_time: gauge!(name::CHECKPOINT_TIME, "worker" => worker.clone()),
            checkpoint_duration: histogram!(name::CHECKPOINT_DURATION, "worker" => worker.clone()),
            checkpoints_ok: counter!(name::CHECKPOINTS, "worker" => worker.clone(), "result" => "ok"),
            checkpoints_failed: counter!(name::CHECKPOINTS, "worker" => worker.clone(), "result" => "failed"),
            snapshots_ok: counter!(name::SNAPSHOTS, "worker" => worker.clone(), "result" => "ok"),
            snapshots_failed: counter!(name::SNAPSHOTS, "worker" => worker.clone(), "result" => "failed"),
            snapshot_bytes: counter!(name::SNAPSHOT_BYTES, "worker" => worker.clone()),
            snapshot_duration: histogram!(name::SNAPSHOT_DURATION, "worker" => worker.clone()),
            snapshot_piece: histogram!(name::SNAPSHOT_PIECE, "worker" => worker.clone()),
            units: gauge!(name::UNITS, "worker" => worker.clone()),
            rebalances: counter!(name::REBALANCES, "worker" => worker),
        }
    }
}

/// Rows given to a sink.
pub fn rows_out(sink: &str) -> Counter {
    counter!(name::ROWS_OUT, "sink" => sink.to_owned())
}

/// The gauges of one partition: (lag, position).
pub fn partition_gauges(unit: &StateUnit) -> (Gauge, Gauge) {
    let labels = [
        ("source", unit.source.to_string()),
        ("topic", unit.topic.to_string()),
        ("partition", unit.partition.to_string()),
    ];
    (gauge!(name::LAG, &labels), gauge!(name::POSITION, &labels))
}

/// The gauges of an operator's state on a worker: (bytes, keys).
pub fn state_gauges(worker: usize, operator: &str) -> (Gauge, Gauge) {
    let labels = [("worker", worker.to_string()), ("operator", operator.to_owned())];
    (gauge!(name::STATE_BYTES, &labels), gauge!(name::STATE_KEYS, &labels))
}

/// Handles of one model.
#[derive(Clone)]
pub struct ModelMetrics {
    model: String,
    /// See [`name::MODEL_SWAPS`].
    pub swaps: Counter,
    /// See [`name::MODELS_REFUSED`].
    pub refused: Counter,
    /// See [`name::MODEL_CHECKS`], result `ok`.
    pub checks_ok: Counter,
    /// See [`name::MODEL_CHECKS`], result `failed`.
    pub checks_failed: Counter,
    /// See [`name::MODEL_CHECK_TIME`].
    pub check_time: Gauge,
}

impl std::fmt::Debug for ModelMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelMetrics").field("model", &self.model).finish_non_exhaustive()
    }
}

impl ModelMetrics {
    /// Handles for a model.
    #[must_use]
    pub fn new(model: &str) -> ModelMetrics {
        let checks =
            |result: &'static str| counter!(name::MODEL_CHECKS, "model" => model.to_owned(), "result" => result);
        ModelMetrics {
            model: model.to_owned(),
            swaps: counter!(name::MODEL_SWAPS, "model" => model.to_owned()),
            refused: counter!(name::MODELS_REFUSED, "model" => model.to_owned()),
            checks_ok: checks("ok"),
            checks_failed: checks("failed"),
            check_time: gauge!(name::MODEL_CHECK_TIME, "model" => model.to_owned()),
        }
    }

    /// Says which model serves (1), or does so no more (0).
    pub fn in_use(&self, model: &LoadedModel, value: f64) {
        let labels = [
            ("model", self.model.clone()),
            ("version", model.version.clone()),
            ("sha256", model.sha256.clone()),
            ("run_id", model.run_id.clone().unwrap_or_default()),
        ];
        gauge!(name::MODEL_INFO, &labels).set(value);
        if value > 0.0 {
            gauge!(name::MODEL_THRESHOLD, "model" => self.model.clone()).set(model.threshold);
        }
    }
}

/// Handles of a model and its challenger.
#[derive(Clone)]
pub struct AgreementMetrics {
    /// By who decided yes: both, neither, the champion, the challenger.
    rows: [Counter; 4],
    /// By upper bound, the last without one.
    differences: Vec<Counter>,
}

impl std::fmt::Debug for AgreementMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgreementMetrics").finish_non_exhaustive()
    }
}

impl AgreementMetrics {
    /// Handles for a champion.
    #[must_use]
    pub fn new(model: &str) -> AgreementMetrics {
        let rows = |yes: &'static str| counter!(name::MODEL_AGREEMENT, "model" => model.to_owned(), "yes" => yes);
        let bounds = DIFFERENCE_BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        let difference = |le: String| counter!(name::MODEL_DIFFERENCE, "model" => model.to_owned(), "le" => le);
        AgreementMetrics {
            rows: ["both", "neither", "champion", "challenger"].map(rows),
            differences: bounds.map(difference).collect(),
        }
    }

    /// Adds what was noted.
    pub fn add(&self, agreement: &Agreement) {
        let Agreement { both, neither, champion_only, challenger_only, differences } = agreement;
        for (counter, rows) in self.rows.iter().zip([both, neither, champion_only, challenger_only]) {
            counter.increment(*rows);
        }
        let mut up_to = 0;
        for (counter, rows) in self.differences.iter().zip(differences) {
            up_to += rows;
            counter.increment(up_to);
        }
    }
}
