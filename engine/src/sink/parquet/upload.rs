//! A closed file on its way to its staged name, in a task of its own.

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::checkpoint::{Folder, RetryPolicy};
use crate::error::{Error, Result};
use crate::sink::StagedFile;

/// An upload; dropped, it is given up.
#[derive(Debug)]
pub(super) struct Upload {
    staged: StagedFile,
    /// `None` when the file is durable.
    task: Option<JoinHandle<Result<()>>>,
}

impl Upload {
    pub(super) fn start(
        runtime: &Handle,
        folder: Folder,
        staged: StagedFile,
        bytes: Bytes,
        retry: RetryPolicy,
    ) -> Upload {
        let name = staged.staged.clone();
        let task = runtime.spawn(async move {
            let mut attempt = 1;
            loop {
                match folder.write(&name, bytes.clone()).await {
                    Ok(()) => return Ok(()),
                    Err(error) if error.kind().is_retryable() && attempt < retry.attempts_max => {
                        tokio::time::sleep(retry.wait(attempt)).await;
                        attempt += 1;
                    }
                    Err(error) => return Err(error),
                }
            }
        });
        Upload { staged, task: Some(task) }
    }

    pub(super) fn staged(&self) -> &StagedFile {
        &self.staged
    }

    /// Whether the file is durable. Does not wait.
    pub(super) fn poll(&mut self) -> Result<bool> {
        let Some(task) = &mut self.task else { return Ok(true) };
        match task.now_or_never() {
            None => Ok(false),
            Some(Ok(result)) => {
                self.task = None;
                result.map(|()| true)
            }
            Some(Err(error)) => {
                Err(Error::internal(format!("the upload of {} ended early", self.staged.staged)).with_source(error))
            }
        }
    }

    /// Bytes that are held until it is done.
    pub(super) fn pending_bytes(&self) -> usize {
        let is_pending = self.task.as_ref().is_some_and(|task| !task.is_finished());
        if is_pending { usize::try_from(self.staged.bytes).unwrap_or(usize::MAX) } else { 0 }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
