//! The only place that starts tasks and threads. Each has a name; nothing is started and forgotten: whoever starts one holds
//! its handle.

use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{Error, Result};

/// Threads of the runtime for object stores and HTTP; rows never touch them.
const NUM_IO_THREADS: usize = 2;

/// The runtime for object stores and HTTP.
pub fn io_runtime() -> Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(NUM_IO_THREADS)
        .thread_name("tidemill-io")
        .enable_all()
        .build()
        .map_err(|error| Error::unavailable("the I/O runtime cannot start").with_source(error))
}

/// Starts a task on the I/O runtime.
#[expect(clippy::disallowed_methods, reason = "this is where tasks are started")]
pub fn spawn<T: Send + 'static>(
    handle: &Handle,
    task: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    let _entered = handle.enter();
    tokio::spawn(task)
}

/// Runs something that waits on a thread of the I/O runtime that is there for waiting.
pub fn spawn_blocking<T: Send + 'static>(
    handle: &Handle,
    work: impl FnOnce() -> T + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    handle.spawn_blocking(work)
}

/// Starts a named thread.
pub fn spawn_thread<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|error| Error::unavailable(format!("the thread {name} cannot start")).with_source(error))
}
