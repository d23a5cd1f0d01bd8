//! Creation of an object under a name that nobody has: the one act on which fencing rests. A doubtful result is made
//! certain, or reported as `Unavailable`; then the caller may try the same bytes again under this name, and no others.

use std::time::Duration;

use bytes::Bytes;
use object_store::{Error as StoreError, ObjectStore as _, PutMode, PutOptions, PutPayload};

use crate::checkpoint::protocol::{CreateDecision, CreateOutcome, ReadOutcome, judge_create};
use crate::checkpoint::store::{Folder, store_error};
use crate::error::{Error, Result};

/// How often, and how fast, a doubtful creation is tried again.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Attempts in all; at least one.
    pub attempts_max: u32,
    /// Wait after the first; doubles each time.
    pub first_wait: Duration,
    /// Longest wait.
    pub wait_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy { attempts_max: 8, first_wait: Duration::from_millis(50), wait_max: Duration::from_secs(2) }
    }
}

impl RetryPolicy {
    /// The wait before attempt `attempt` (the second is 1).
    #[must_use]
    pub fn wait(&self, attempt: u32) -> Duration {
        self.first_wait.saturating_mul(1 << attempt.saturating_sub(1).min(20)).min(self.wait_max)
    }
}

/// How a creation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// The object holds our bytes.
    Ours,
    /// The object holds these.
    Taken(Bytes),
}

impl Folder {
    /// Creates `name` with `bytes`, unless something else has that name. An object there is read only up to `bytes_max`.
    pub async fn create(&self, name: &str, bytes: &Bytes, bytes_max: u64, retry: &RetryPolicy) -> Result<Created> {
        let attempts_max = retry.attempts_max.max(1);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (outcome, mut error) = self.try_create(name, bytes).await?;
            let mut decision = judge_create(outcome, None, attempts_max - attempt);
            let mut found = None;
            if decision == CreateDecision::Read {
                let read = match self.read(name, bytes_max).await {
                    Ok(None) => ReadOutcome::Absent,
                    Ok(Some(there)) if there == bytes => ReadOutcome::Same,
                    Ok(Some(there)) => {
                        found = Some(there);
                        ReadOutcome::Other
                    }
                    Err(problem) if problem.kind().is_retryable() => {
                        error = Some(problem);
                        ReadOutcome::Unknown
                    }
                    Err(problem) => return Err(problem),
                };
                decision = judge_create(outcome, Some(read), attempts_max - attempt);
            }
            match decision {
                CreateDecision::Ours => return Ok(Created::Ours),
                CreateDecision::Taken => return Ok(Created::Taken(found.unwrap_or_default())),
                CreateDecision::Again => tokio::time::sleep(retry.wait(attempt)).await,
                CreateDecision::GiveUp | CreateDecision::Read => {
                    return Err(error.unwrap_or_else(|| {
                        Error::unavailable(format!(
                            "cannot create {}: after {attempt} attempts the store still says that it exists, and that it does not",
                            self.place(name)
                        ))
                    }));
                }
            }
        }
    }

    async fn try_create(&self, name: &str, bytes: &Bytes) -> Result<(CreateOutcome, Option<Error>)> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let failed = |error| store_error("create", &self.place(name), error);
        Ok(match self.store().put_opts(&self.at(name)?, PutPayload::from_bytes(bytes.clone()), options).await {
            Ok(_) => (CreateOutcome::Created, None),
            Err(StoreError::AlreadyExists { .. }) => (CreateOutcome::Exists, None),
            Err(error) => {
                let error = failed(error);
                let outcome = if error.kind().is_retryable() { CreateOutcome::Unknown } else { CreateOutcome::Refused };
                (outcome, Some(error))
            }
        })
    }
}
