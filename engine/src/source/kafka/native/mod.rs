//! The consumer as librdkafka offers it: batches from its one queue, rebalances told and answered later. The only unsafe
//! code of the Kafka parts, with `messages`; it knows pointers and lifetimes, and no meaning: positions, policies and pace are decided above.
//!
//! What holds here:
//! - A [`Consumer`] outlives everything that points into it: it owns the client and the queue; messages belong to a [`Messages`]
//!   that is emptied before the consumer goes (both live on the reader's thread).
//! - Every message taken from the queue is destroyed exactly once, by its [`Messages`].
//! - The callbacks run on the thread that consumes, or closes, and get the [`Callbacks`] that the client keeps alive.
//! - librdkafka's handle is thread-safe, so a shared reference may be used from the driver's thread (wake, watermarks, commit).

#![expect(unsafe_code, reason = "batches and rebalance callbacks exist in librdkafka's C API only")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka_sys as sys;
use rdkafka_sys::rd_kafka_resp_err_t as RespErr;
use rdkafka_sys::types::{RDKafka, RDKafkaQueue, RDKafkaTopicPartitionList, RDKafkaType};

use super::connection::log_line;

mod messages;

pub(super) use self::messages::{Message, Messages};

/// A partition and a position in it, as librdkafka speaks of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    /// A position, a time or one of librdkafka's logical offsets, depending on the call.
    pub(super) offset: i64,
    /// What the call says of this partition alone.
    pub(super) error: Option<RDKafkaErrorCode>,
}

impl Entry {
    pub(super) fn new(topic: &Arc<str>, partition: i32, offset: i64) -> Entry {
        Entry { topic: topic.clone(), partition, offset, error: None }
    }
}

/// A subscription is to a topic.
const ANY_PARTITION: i32 = -1;
/// Logical positions for [`Consumer::list_offsets`].
pub(super) const OLDEST: i64 = sys::RD_KAFKA_OFFSET_BEGINNING as i64;
/// See [`OLDEST`].
pub(super) const NEWEST: i64 = sys::RD_KAFKA_OFFSET_END as i64;

/// What the group protocol wants; answered by [`Consumer::accept`] or [`Consumer::unassign`].
#[derive(Debug)]
pub(super) enum Rebalance {
    Assigned(Vec<Entry>),
    Revoked(Vec<Entry>),
    Lost(Vec<Entry>),
}

/// Something that librdkafka wants known about the client as a whole.
#[derive(Debug)]
pub(super) struct ClientError {
    pub(super) code: RDKafkaErrorCode,
    pub(super) reason: String,
}

/// What the callbacks leave for the reader.
#[derive(Debug, Default)]
pub(super) struct Callbacks {
    rebalances: Mutex<Vec<Rebalance>>,
    errors: Mutex<Vec<ClientError>>,
    /// Held by whoever ends a wait: once it is true, none may be ended. librdkafka's close waits on the same queue, and would
    /// return before its end, never to be finished.
    is_closing: Mutex<bool>,
}

impl Callbacks {
    fn is_closing(&self) -> MutexGuard<'_, bool> {
        self.is_closing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Callbacks {}

fn taken<T>(queue: &Mutex<Vec<T>>) -> Vec<T> {
    std::mem::take(&mut *queue.lock().unwrap_or_else(PoisonError::into_inner))
}

fn put<T>(queue: &Mutex<Vec<T>>, value: T) {
    queue.lock().unwrap_or_else(PoisonError::into_inner).push(value);
}

unsafe extern "C" fn on_rebalance(
    client: *mut RDKafka,
    error: RespErr,
    partitions: *mut RDKafkaTopicPartitionList,
    opaque: *mut c_void,
) {
    // SAFETY: `opaque` is the context that `Client::new` installed, alive as long as the client that calls us.
    let callbacks = unsafe { &*opaque.cast::<Callbacks>() };
    if *callbacks.is_closing() {
        // Nobody answers any more: give everything back, otherwise the close would wait for ever.
        // SAFETY: `client` is the live client that calls us; null means "no partition".
        unsafe { sys::rd_kafka_assign(client, ptr::null()) };
        return;
    }
    // SAFETY: the list is librdkafka's and alive during the call; we copy it.
    let entries = unsafe { read_entries(partitions) };
    let rebalance = match error {
        RespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Rebalance::Assigned(entries),
        // SAFETY: `client` is live.
        _ if unsafe { sys::rd_kafka_assignment_lost(client) } != 0 => Rebalance::Lost(entries),
        _ => Rebalance::Revoked(entries),
    };
    put(&callbacks.rebalances, rebalance);
    // SAFETY: `client` is live.
    unsafe { end_waiting(client, callbacks) };
}

unsafe extern "C" fn on_error(client: *mut RDKafka, error: c_int, reason: *const c_char, opaque: *mut c_void) {
    // SAFETY: as in `on_rebalance`.
    let callbacks = unsafe { &*opaque.cast::<Callbacks>() };
    // SAFETY: a C string that lives during the call.
    let reason = unsafe { text(reason) };
    let code = RespErr::try_from(error).map_or(RDKafkaErrorCode::Unknown, RDKafkaErrorCode::from);
    put(&callbacks.errors, ClientError { code, reason });
    // SAFETY: `client` is live.
    unsafe { end_waiting(client, callbacks) };
}

/// Ends the call that serves us, so that the reader hears of it at once: serving a callback alone does not.
///
/// # Safety
/// `client` is a live consumer.
unsafe fn end_waiting(client: *mut RDKafka, callbacks: &Callbacks) {
    let is_closing = callbacks.is_closing();
    if *is_closing {
        return;
    }
    // SAFETY: the caller's promise; the reference to the queue is given back at once.
    unsafe {
        let queue = sys::rd_kafka_queue_get_consumer(client);
        if !queue.is_null() {
            sys::rd_kafka_queue_yield(queue);
            sys::rd_kafka_queue_destroy(queue);
        }
    }
}

unsafe extern "C" fn on_log(_client: *const RDKafka, level: c_int, facility: *const c_char, line: *const c_char) {
    // SAFETY: both strings live during the call.
    let (facility, line) = unsafe { (text(facility), text(line)) };
    log_line(level, &facility, &line);
}

/// # Safety
/// `string` is null or a C string.
unsafe fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}

/// # Safety
/// `list` is null or a valid list.
unsafe fn read_entries(list: *const RDKafkaTopicPartitionList) -> Vec<Entry> {
    // SAFETY: the caller's promise; `elems` has `cnt` entries.
    let elements = unsafe {
        match list.as_ref() {
            Some(list) if list.cnt > 0 => std::slice::from_raw_parts(list.elems, list.cnt as usize),
            _ => &[],
        }
    };
    elements
        .iter()
        .map(|element| Entry {
            // SAFETY: every element has a topic name.
            topic: unsafe { text(element.topic) }.into(),
            partition: element.partition,
            offset: element.offset,
            error: (element.err != RespErr::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| element.err.into()),
        })
        .collect()
}

/// librdkafka's list of partitions, owned.
struct List(NonNull<RDKafkaTopicPartitionList>);

impl List {
    fn of(entries: &[Entry]) -> KafkaResult<List> {
        // SAFETY: plain constructor; it aborts rather than returning null.
        let list = unsafe { sys::rd_kafka_topic_partition_list_new(entries.len() as c_int) };
        let list = List(NonNull::new(list).ok_or(KafkaError::Global(RDKafkaErrorCode::Fail))?);
        for entry in entries {
            let topic = CString::new(&*entry.topic)?;
            // SAFETY: list and string are alive; the element returned belongs to the list and is written at once.
            unsafe {
                let element = sys::rd_kafka_topic_partition_list_add(list.0.as_ptr(), topic.as_ptr(), entry.partition);
                (*element).offset = entry.offset;
            }
        }
        Ok(list)
    }

    fn entries(&self) -> Vec<Entry> {
        // SAFETY: the list is ours and valid.
        unsafe { read_entries(self.0.as_ptr()) }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: ours, destroyed once.
        unsafe { sys::rd_kafka_topic_partition_list_destroy(self.0.as_ptr()) };
    }
}

fn checked(error: RespErr) -> KafkaResult<()> {
    match error {
        RespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        error => Err(KafkaError::Global(error.into())),
    }
}

/// # Safety
/// `error` is null or an error object that nobody else destroys.
unsafe fn checked_object(error: *mut sys::rd_kafka_error_t) -> KafkaResult<()> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    let code = unsafe { sys::rd_kafka_error_code(error) };
    // SAFETY: as above; not used afterwards.
    unsafe { sys::rd_kafka_error_destroy(error) };
    Err(KafkaError::Global(code.into()))
}

fn millis(duration: Duration) -> c_int {
    c_int::try_from(duration.as_millis()).unwrap_or(c_int::MAX)
}

/// A consumer of a group, or one that assigns its partitions itself.
pub(super) struct Consumer {
    queue: NonNull<RDKafkaQueue>,
    client: Client<Callbacks>,
}

// SAFETY: librdkafka's client and queues may be used from any thread at the same time; everything else is `Callbacks`, which is Sync.
unsafe impl Send for Consumer {}
// SAFETY: as above.
unsafe impl Sync for Consumer {}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").finish_non_exhaustive()
    }
}

impl Consumer {
    /// Creates the client. Does not wait for a broker.
    pub(super) fn open(config: &ClientConfig) -> KafkaResult<Consumer> {
        let native = config.create_native_config()?;
        // SAFETY: the configuration is ours until `Client::new` takes it; the callbacks are plain functions that expect the
        // `Callbacks` that `Client::new` installs as opaque.
        unsafe {
            sys::rd_kafka_conf_set_rebalance_cb(native.ptr(), Some(on_rebalance));
            sys::rd_kafka_conf_set_error_cb(native.ptr(), Some(on_error));
            sys::rd_kafka_conf_set_log_cb(native.ptr(), Some(on_log));
        }
        let client = Client::new(config, native, RDKafkaType::RD_KAFKA_CONSUMER, Callbacks::default())?;
        // SAFETY: the client is live. The main queue (logs, errors) is served by whoever serves the consumer's queue.
        let queue = unsafe {
            checked(sys::rd_kafka_poll_set_consumer(client.native_ptr()))?;
            sys::rd_kafka_queue_get_consumer(client.native_ptr())
        };
        let queue = NonNull::new(queue).ok_or(KafkaError::Global(RDKafkaErrorCode::UnknownGroup))?;
        Ok(Consumer { queue, client })
    }

    /// The client, for metadata.
    pub(super) fn client(&self) -> &Client<Callbacks> {
        &self.client
    }

    fn ptr(&self) -> *mut RDKafka {
        self.client.native_ptr()
    }

    /// Joins the group.
    pub(super) fn subscribe(&self, topics: &[Arc<str>]) -> KafkaResult<()> {
        let entries: Vec<Entry> = topics.iter().map(|topic| Entry::new(topic, ANY_PARTITION, 0)).collect();
        let list = List::of(&entries)?;
        // SAFETY: client and list are live; the list is copied.
        checked(unsafe { sys::rd_kafka_subscribe(self.ptr(), list.0.as_ptr()) })
    }

    /// What the group protocol asked since the last call.
    pub(super) fn rebalances(&self) -> Vec<Rebalance> {
        taken(&self.client.context().rebalances)
    }

    /// What went wrong with the client since the last call.
    pub(super) fn errors(&self) -> Vec<ClientError> {
        taken(&self.client.context().errors)
    }

    /// Fetches `max` messages at most. Waits until the first is there, a callback was served, [`Consumer::wake`] was called or
    /// `timeout` is over; then takes what is there without waiting. (One call with the whole array would wait for a full one.)
    pub(super) fn consume(&self, messages: &mut Messages, max: usize, timeout: Duration) {
        let room = max.min(messages.room().len());
        let mut taken = 0;
        for (until, timeout) in [(1.min(room), timeout), (room, Duration::ZERO)] {
            // SAFETY: queue and client are live; `array` has room for `until - taken` pointers from `taken` on, and librdkafka
            // writes no more than it returns.
            let count = unsafe {
                let array = messages.room().as_mut_ptr().add(taken);
                sys::rd_kafka_consume_batch_queue(self.queue.as_ptr(), millis(timeout), array, until - taken)
            };
            taken += usize::try_from(count).unwrap_or(0);
        }
        // SAFETY: librdkafka has written that many messages, which are ours now.
        unsafe { messages.set_filled(taken) };
    }

    /// Ends a [`Consumer::consume`] that waits, or the next one.
    pub(super) fn wake(&self) {
        let is_closing = self.client.context().is_closing();
        if *is_closing {
            return;
        }
        // SAFETY: the queue is live.
        unsafe { sys::rd_kafka_queue_yield(self.queue.as_ptr()) };
    }

    /// Begins to fetch partitions, each at its offset. With no entry: says that an assignment was heard.
    pub(super) fn assign(&self, entries: &[Entry]) -> KafkaResult<()> {
        let list = List::of(entries)?;
        // SAFETY: client and list are live; the list is copied; the error object is ours.
        unsafe { checked_object(sys::rd_kafka_incremental_assign(self.ptr(), list.0.as_ptr())) }
    }

    /// Ends fetching partitions. All must be assigned. While librdkafka waits for the answer to a revocation, this is the
    /// answer, whichever partitions it names: so it is called for releases, and else with care.
    pub(super) fn unassign(&self, entries: &[Entry]) -> KafkaResult<()> {
        let list = List::of(entries)?;
        // SAFETY: as in `assign`.
        unsafe { checked_object(sys::rd_kafka_incremental_unassign(self.ptr(), list.0.as_ptr())) }
    }

    /// Leaves partitions alone for a while: nothing of them comes, what was fetched ahead is fetched again afterwards. The
    /// group hears nothing of it. (An unassign would do as much, and answer a revocation that is on its way to us.)
    pub(super) fn pause(&self, entries: &[Entry]) -> KafkaResult<()> {
        let list = List::of(entries)?;
        // SAFETY: client and list are live.
        checked(unsafe { sys::rd_kafka_pause_partitions(self.ptr(), list.0.as_ptr()) })
    }

    /// Ends a pause.
    pub(super) fn resume(&self, entries: &[Entry]) -> KafkaResult<()> {
        let list = List::of(entries)?;
        // SAFETY: client and list are live.
        checked(unsafe { sys::rd_kafka_resume_partitions(self.ptr(), list.0.as_ptr()) })
    }

    /// Goes on at another offset, soon.
    pub(super) fn seek(&self, entry: Entry) -> KafkaResult<()> {
        let list = List::of(&[entry])?;
        // SAFETY: client and list are live; the error object is ours.
        unsafe { checked_object(sys::rd_kafka_seek_partitions(self.ptr(), list.0.as_ptr(), 0)) }
    }

    /// Whether the group has already given our partitions to somebody else.
    pub(super) fn has_lost_its_assignment(&self) -> bool {
        // SAFETY: the client is live.
        unsafe { sys::rd_kafka_assignment_lost(self.ptr()) != 0 }
    }

    /// Asks the brokers for positions: each entry's offset is a time in milliseconds, [`OLDEST`] or [`NEWEST`] (under
    /// `read_committed` the end of what may be read), and is replaced by the position.
    pub(super) fn list_offsets(&self, entries: &[Entry], timeout: Duration) -> KafkaResult<Vec<Entry>> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let list = List::of(entries)?;
        // SAFETY: client and list are live.
        checked(unsafe { sys::rd_kafka_offsets_for_times(self.ptr(), list.0.as_ptr(), millis(timeout)) })?;
        Ok(list.entries())
    }

    /// Where the next message would come from, which is past control records that were skipped. Local.
    pub(super) fn position(&self, topic: &Arc<str>, partition: i32) -> Option<i64> {
        let list = List::of(&[Entry::new(topic, partition, 0)]).ok()?;
        // SAFETY: client and list are live.
        checked(unsafe { sys::rd_kafka_position(self.ptr(), list.0.as_ptr()) }).ok()?;
        list.entries().first().map(|entry| entry.offset).filter(|offset| *offset >= 0)
    }

    /// The end offset as last heard with a fetch. Local.
    pub(super) fn last_heard_end(&self, topic: &str, partition: i32) -> Option<i64> {
        let topic = CString::new(topic).ok()?;
        let (mut low, mut high) = (-1, -1);
        // SAFETY: client and string are live; both numbers are written or left.
        let error = unsafe {
            sys::rd_kafka_get_watermark_offsets(self.ptr(), topic.as_ptr(), partition, &raw mut low, &raw mut high)
        };
        checked(error).ok()?;
        (high >= 0).then_some(high)
    }

    /// The group's committed positions of `entries`; negative where there is none.
    pub(super) fn committed(&self, entries: &[Entry], timeout: Duration) -> KafkaResult<Vec<Entry>> {
        let list = List::of(entries)?;
        // SAFETY: client and list are live.
        checked(unsafe { sys::rd_kafka_committed(self.ptr(), list.0.as_ptr(), millis(timeout)) })?;
        Ok(list.entries())
    }

    /// Commits positions to the group, without waiting for the answer.
    pub(super) fn commit_soon(&self, entries: &[Entry]) -> KafkaResult<()> {
        let list = List::of(entries)?;
        // SAFETY: client and list are live; the list is copied.
        checked(unsafe { sys::rd_kafka_commit(self.ptr(), list.0.as_ptr(), 1) })
    }

    /// Leaves the group and stops fetching. Waits for it. Revocations heard before must have been answered;
    /// those that come now are answered by giving everything back.
    pub(super) fn close(&self) -> KafkaResult<()> {
        *self.client.context().is_closing() = true;
        // SAFETY: the client is live; callbacks run inside this call and see `is_closing`.
        checked(unsafe { sys::rd_kafka_consumer_close(self.ptr()) })
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        *self.client.context().is_closing() = true;
        // SAFETY: our reference to the queue, given back once, before the client goes (fields are dropped after this).
        unsafe { sys::rd_kafka_queue_destroy(self.queue.as_ptr()) };
    }
}

/// How long a new group of a mock cluster waits for members; nothing for any other client.
pub(super) fn set_group_delay<C: ClientContext>(client: &Client<C>, millis: i32) {
    // SAFETY: the client is live, and owns the mock cluster, if it has one.
    unsafe {
        let cluster = sys::rd_kafka_handle_mock_cluster(client.native_ptr());
        if !cluster.is_null() {
            sys::rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, millis);
        }
    }
}
