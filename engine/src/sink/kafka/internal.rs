//! The topics between two stages of a pipeline: that there is one, of a kind that can be trusted, and the keys of its records.
//! Nothing is changed of a topic that is there.

use std::time::Duration;

use arrow::array::RecordBatch;

use super::admin::KafkaAdmin;
use super::key::Key;
use crate::error::{Error, Result};
use crate::pipeline::settings::InternalTopic;
use crate::source::kafka::{embedded, now};

/// Pause before a cluster that did not answer is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// Makes sure that an internal topic is there and keeps all records for a while; the number of partitions of one that was there.
/// Waits at most `timeout` for the cluster.
pub fn ensure_internal_topic(internal: &InternalTopic, timeout: Duration) -> Result<Option<u32>> {
    let began = now();
    loop {
        match ensure(internal) {
            Err(error) if error.kind().is_retryable() && began.elapsed() < timeout => {
                tracing::warn!(topic = internal.topic, %error, "the internal topic cannot be looked at; trying again");
                std::thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

fn ensure(internal: &InternalTopic) -> Result<Option<u32>> {
    let topic = &*internal.topic;
    let is_embedded = embedded::is_embedded(&internal.connection.bootstrap_servers);
    let admin = KafkaAdmin::open(&internal.connection)?;
    // Who asks an embedded cluster for a topic makes it, with a number of partitions that nobody wanted.
    let mut found = if is_embedded { None } else { admin.num_partitions(topic)? };
    if found.is_none() {
        let number = match internal.num_partitions {
            Some(number) => number,
            None => num_outer_partitions(internal)?,
        };
        let was_made = if is_embedded {
            embedded::make_topic(&internal.connection.bootstrap_servers, topic, number)?
        } else {
            make(&admin, internal, number)?
        };
        if was_made {
            tracing::info!(topic, partitions = number, "the internal topic was made");
            return Ok(None);
        }
        found = admin.num_partitions(topic)?;
    }
    if let (Some(wanted), Some(found)) = (internal.num_partitions, found)
        && wanted != found
    {
        return Err(Error::invalid(format!(
            "expected {wanted} partitions, as `partitions` says, found {found}; mend `partitions`, or name another topic"
        )));
    }
    if !is_embedded {
        refuse_compaction(&admin, topic)?;
    }
    Ok(found)
}

fn make(admin: &KafkaAdmin, internal: &InternalTopic, number: u32) -> Result<bool> {
    let retention = internal.retention.as_millis().to_string();
    let bytes = internal.max_record_bytes.to_string();
    let settings = [("cleanup.policy", "delete"), ("retention.ms", &*retention), ("max.message.bytes", &*bytes)];
    admin.create_replicated_topic(&internal.topic, number, &settings)
}

/// As many partitions as the topics have whose rows go in.
fn num_outer_partitions(internal: &InternalTopic) -> Result<u32> {
    let mut most = 0;
    for (connection, topic) in &internal.outer_topics {
        let number = KafkaAdmin::open(connection)?.num_partitions(topic)?.ok_or_else(|| {
            Error::invalid(format!(
                "it takes its number of partitions from the topic `{topic}`, which the kafka cluster does not have; create \
                 that topic, or write `partitions`"
            ))
        })?;
        most = most.max(number);
    }
    Ok(most.max(1))
}

/// A compacted topic forgets rows of keys that others came of.
fn refuse_compaction(admin: &KafkaAdmin, topic: &str) -> Result<()> {
    match admin.topic_setting(topic, "cleanup.policy") {
        Ok(policy) if policy.contains("compact") => Err(Error::invalid(format!(
            "expected `cleanup.policy` delete, found {policy}: a compacted topic forgets rows; set it to delete, or name \
             another topic under `repartition`"
        ))),
        Ok(_) => Ok(()),
        Err(error) if error.kind().is_retryable() => Err(error),
        Err(error) => {
            // Without the right to ask there is nothing to be known; reading and writing will show what is allowed.
            tracing::info!(topic, %error, "whether the internal topic is compacted is not known");
            Ok(())
        }
    }
}

/// The message keys of a batch: the values of the key's columns as the `key` of a Kafka sink has them, one after the other with
/// a zero byte between, and a null as one alone. Equal values have equal keys, which is all that partitions ask for.
pub(crate) struct Keys<'a> {
    columns: Vec<Key<'a>>,
    key: Vec<u8>,
}

impl<'a> Keys<'a> {
    pub(crate) fn of(batch: &'a RecordBatch, by: &[String]) -> Result<Keys<'a>> {
        let columns = by.iter().map(|column| Key::of(batch, column)).collect::<Result<Vec<_>>>()?;
        Ok(Keys { columns, key: Vec::new() })
    }

    pub(crate) fn bytes(&mut self, row: usize) -> &[u8] {
        self.key.clear();
        for (index, column) in self.columns.iter_mut().enumerate() {
            if index > 0 {
                self.key.push(0);
            }
            self.key.extend_from_slice(column.bytes(row).unwrap_or(&[0]));
        }
        &self.key
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BooleanArray, Int32Array, Int64Array, StringArray};
    use arrow::datatypes::{Field, FieldRef, Schema};

    use super::*;
    use crate::types::hidden_fields;

    #[test]
    fn keys_are_the_values_as_text_and_a_null_is_a_key_too() {
        let columns: [(&str, ArrayRef); 4] = [
            ("id", Arc::new(Int64Array::from(vec![Some(-7), Some(i64::MIN), None]))),
            ("small", Arc::new(Int32Array::from(vec![Some(-7), Some(0), Some(3)]))),
            ("name", Arc::new(StringArray::from(vec![Some("ü"), None, Some("")]))),
            ("flag", Arc::new(BooleanArray::from(vec![true, false, true]))),
        ];
        let fields = columns.iter().map(|(name, array)| Arc::new(Field::new(*name, array.data_type().clone(), true)));
        let fields: Vec<FieldRef> = fields.chain(hidden_fields().iter().cloned()).collect();
        let hidden = hidden_fields().iter().map(|field| arrow::array::new_null_array(field.data_type(), 3));
        let arrays: Vec<ArrayRef> = columns.iter().map(|(_, array)| array.clone()).chain(hidden).collect();
        let nullable: Vec<Field> = fields.iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(nullable)), arrays).unwrap();
        let keys = |by: &[&str]| {
            let by: Vec<String> = by.iter().map(|name| (*name).to_owned()).collect();
            let mut keys = Keys::of(&batch, &by).unwrap();
            (0..3).map(|row| keys.bytes(row).to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(keys(&["id"]), [b"-7".to_vec(), b"-9223372036854775808".to_vec(), vec![0]]);
        assert_eq!(keys(&["small"])[0], keys(&["id"])[0], "the width of a number makes no difference");
        assert_eq!(keys(&["name", "flag"]), ["ü\0true".as_bytes(), b"\0\0false", b"\0true"]);
    }
}
