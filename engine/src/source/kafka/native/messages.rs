//! Messages of librdkafka: taken in batches, copied into blocks, destroyed exactly once. The other half of the unsafe code.

use std::ffi::{CStr, c_void};
use std::ptr;

use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;
use rdkafka_sys::rd_kafka_resp_err_t as RespErr;
use rdkafka_sys::types::RDKafkaMessage;

use super::{checked, text};
use crate::types::{BytesColumn, RecordBlock};

/// Messages taken from the queue, read one after the other.
pub(in crate::source::kafka) struct Messages {
    array: Vec<*mut RDKafkaMessage>,
    next: usize,
    filled: usize,
}

// SAFETY: a message belongs to no thread; only `&mut Messages` takes and destroys it.
unsafe impl Send for Messages {}

impl std::fmt::Debug for Messages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Messages").field("next", &self.next).field("filled", &self.filled).finish_non_exhaustive()
    }
}

impl Messages {
    /// Room for `capacity` messages.
    pub(in crate::source::kafka) fn new(capacity: usize) -> Messages {
        Messages { array: vec![ptr::null_mut(); capacity], next: 0, filled: 0 }
    }

    /// Whether all were read.
    pub(in crate::source::kafka) fn is_empty(&self) -> bool {
        self.next == self.filled
    }

    /// Number of the messages not yet read, and bytes of their values: those with which `bytes` are reached, at most.
    pub(in crate::source::kafka) fn size(&self, bytes: usize) -> (usize, usize) {
        let mut size = (0, 0);
        for message in &self.array[self.next..self.filled] {
            // SAFETY: as in `current`.
            size = (size.0 + 1, size.1 + unsafe { (**message).len });
            if size.1 >= bytes {
                break;
            }
        }
        size
    }

    /// The message to be read.
    pub(in crate::source::kafka) fn current(&self) -> Option<Message<'_>> {
        // SAFETY: the pointers from `next` to `filled` are messages that librdkafka gave us and that were not destroyed; the
        // borrow of `self` keeps `advance` away.
        (!self.is_empty()).then(|| Message(unsafe { &*self.array[self.next] }))
    }

    /// Destroys the current message and goes on to the next.
    pub(in crate::source::kafka) fn advance(&mut self) {
        if !self.is_empty() {
            // SAFETY: not destroyed before, and never read again: `next` passes it.
            unsafe { sys::rd_kafka_message_destroy(self.array[self.next]) };
            self.next += 1;
        }
    }

    /// Destroys what was not read, and gives all places to be written.
    pub(super) fn room(&mut self) -> &mut [*mut RDKafkaMessage] {
        while !self.is_empty() {
            self.advance();
        }
        self.next = 0;
        self.filled = 0;
        &mut self.array
    }

    /// Takes over the messages that were written to the first `filled` places.
    ///
    /// # Safety
    /// They are live messages that nobody else destroys.
    pub(super) unsafe fn set_filled(&mut self, filled: usize) {
        self.filled = filled.min(self.array.len());
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.room();
    }
}

/// A message, or an error about a partition in its place.
#[derive(Debug, Clone, Copy)]
pub(in crate::source::kafka) struct Message<'a>(&'a RDKafkaMessage);

impl Message<'_> {
    /// The error in the place of a message.
    pub(in crate::source::kafka) fn error(&self) -> Option<RDKafkaErrorCode> {
        (self.0.err != RespErr::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| self.0.err.into())
    }

    /// The same number for the same topic, as long as one of its partitions is assigned; 0 when the message has no topic.
    pub(in crate::source::kafka) fn topic_number(&self) -> usize {
        self.0.rkt.addr()
    }

    /// The topic's name; empty when an error concerns none.
    pub(in crate::source::kafka) fn topic(&self) -> &str {
        if self.0.rkt.is_null() {
            return "";
        }
        // SAFETY: the message holds its topic, which holds its name.
        let name = unsafe { CStr::from_ptr(sys::rd_kafka_topic_name(self.0.rkt)) };
        name.to_str().unwrap_or_default()
    }

    pub(in crate::source::kafka) fn partition(&self) -> i32 {
        self.0.partition
    }

    /// The record's own offset.
    pub(in crate::source::kafka) fn offset(&self) -> i64 {
        self.0.offset
    }

    /// What an error says. (Of a record it would be its content: never asked for.)
    pub(in crate::source::kafka) fn error_text(&self) -> String {
        // SAFETY: the message is live; for an error this is its text.
        unsafe { text(sys::rd_kafka_message_errstr(self.0)) }
    }

    /// Bytes of key and value.
    pub(in crate::source::kafka) fn num_bytes(&self) -> usize {
        self.0.len + self.0.key_len
    }

    /// Copies the record to the end of `block`.
    pub(in crate::source::kafka) fn append_to(&self, block: &mut RecordBlock, unit: u32) {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is live; `kind` is written.
        let timestamp = unsafe { sys::rd_kafka_message_timestamp(self.0, &raw mut kind) };
        let has_timestamp = kind != sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        block.units.push(unit);
        block.offsets.push(self.0.offset);
        block.timestamps_ms.push(if has_timestamp { timestamp } else { -1 });
        push(&mut block.keys, self.0.key, self.0.key_len);
        push(&mut block.values, self.0.payload, self.0.len);
        self.append_headers(block);
        block.headers.end_record();
    }

    fn append_headers(&self, block: &mut RecordBlock) {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is live and keeps its headers.
        if checked(unsafe { sys::rd_kafka_message_headers(self.0, &raw mut headers) }).is_err() {
            return;
        }
        let mut index = 0;
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        // SAFETY: all three are written when there is a header at `index`.
        while checked(unsafe {
            sys::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut size)
        })
        .is_ok()
        {
            // SAFETY: the header belongs to the message: `name` is a C string, `value` null or `size` bytes.
            let (name, value) = unsafe { (CStr::from_ptr(name), bytes(value, size)) };
            block.headers.push(&name.to_string_lossy(), value);
            index += 1;
        }
    }
}

fn push(column: &mut BytesColumn, start: *const c_void, len: usize) {
    // SAFETY: key and payload of a live message: null, or `len` bytes.
    column.push(unsafe { bytes(start, len) });
}

/// # Safety
/// `start` is null or points to `len` bytes that outlive the use of the slice.
unsafe fn bytes<'a>(start: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller's promise.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast::<u8>(), len) })
}
