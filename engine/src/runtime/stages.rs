//! What a run in stages does before it starts: internal topics are there, and what is still to be read of them is ours. A first
//! stage that began to write behind records that the second refuses would leave a topic that nobody can read to its end.

use tokio::runtime::Handle;

use crate::checkpoint::Checkpoints;
use crate::decode::internal::{Stamp, refuse_foreign};
use crate::error::{Error, Result};
use crate::pipeline::settings::{InternalTopic, Pipeline, Source, SourceConnector};
use crate::sink::kafka::ensure_internal_topic;
use crate::source::kafka::peek;
use crate::types::StateUnit;

/// Makes the internal topics of `pipeline` that are not there, and looks at the others.
pub(crate) fn prepare(pipeline: &Pipeline, checkpoints: Option<&Checkpoints>, io: &Handle) -> Result<()> {
    for source in &pipeline.sources {
        let (Some(internal), SourceConnector::Kafka(_)) = (&source.internal, &source.connector) else { continue };
        let stamp = stamp(internal, checkpoints)?;
        let context = |error: Error| error.context(format!("internal topic {}", internal.topic));
        let num_partitions = ensure_internal_topic(internal, pipeline.run.stop_timeout).map_err(context)?;
        if let (Some(number), Some(checkpoints)) = (num_partitions, checkpoints) {
            look(pipeline, source, internal, number, (checkpoints, stamp), io).map_err(context)?;
        }
    }
    Ok(())
}

/// Makes the internal topics of `pipeline` that are not there.
pub(crate) fn make_topics(pipeline: &Pipeline) -> Result<()> {
    for internal in pipeline.sources.iter().filter_map(|source| source.internal.as_ref()) {
        ensure_internal_topic(internal, pipeline.run.stop_timeout)
            .map_err(|error| error.context(format!("internal topic {}", internal.topic)))?;
    }
    Ok(())
}

/// What tells the rows of an internal topic from everything else that may be in it.
pub(crate) fn stamp(internal: &InternalTopic, checkpoints: Option<&Checkpoints>) -> Result<Stamp> {
    let checkpoints = checkpoints.ok_or_else(|| {
        Error::invalid("stages go on from where their checkpoints say; add `checkpoint: { path: ... }` to the pipeline")
    })?;
    Ok(Stamp::new(checkpoints.pipeline_id(), &internal.columns, &internal.by, &internal.event_time))
}

/// Looks at the record of each partition that would be read next.
fn look(
    pipeline: &Pipeline,
    source: &Source,
    internal: &InternalTopic,
    num_partitions: u32,
    (checkpoints, stamp): (&Checkpoints, Stamp),
    io: &Handle,
) -> Result<()> {
    let SourceConnector::Kafka(settings) = &source.connector else { return Ok(()) };
    let unit =
        |partition| StateUnit { source: source.name.as_str().into(), topic: internal.topic.as_str().into(), partition };
    let mut positions = Vec::new();
    for partition in 0..i32::try_from(num_partitions).unwrap_or(i32::MAX) {
        positions.push((partition, io.block_on(checkpoints.restart_offset(&unit(partition)))?));
    }
    let found = peek(settings, &positions, internal.max_record_bytes, pipeline.run.stop_timeout)?;
    for (partition, offset, payload) in found {
        let payload = payload.as_deref().unwrap_or_default();
        refuse_foreign(&unit(partition), offset, payload, stamp, &internal.columns)?;
    }
    Ok(())
}
