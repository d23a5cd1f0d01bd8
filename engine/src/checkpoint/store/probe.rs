//! The self-test of a store at start: does it create conditionally, once, under concurrency, and does a listing show at once
//! what was done? Without that no checkpoint is safe, so a store that fails is refused.

use bytes::Bytes;
use futures::future::join_all;
use object_store::{Error as StoreError, ObjectStore as _, PutMode, PutOptions, PutPayload};

use crate::checkpoint::layout::PROBE_FOLDER;
use crate::checkpoint::store::{Created, Folder, RetryPolicy, store_error};
use crate::error::{Error, Result};

const WRITERS: usize = 8;
const PROBE_BYTES_MAX: u64 = 1 << 10;

/// Checks what fencing rests on, in `.probe/` of the checkpoint's folder, and cleans up.
pub async fn check_conditional_create(folder: &Folder, retry: &RetryPolicy) -> Result<()> {
    let id = uuid::Uuid::new_v4();
    let single = format!("{PROBE_FOLDER}/{id}");
    let contended = format!("{PROBE_FOLDER}/{id}-contended");
    let result = check(folder, &single, &contended, retry).await;
    for name in [&single, &contended] {
        let deleted = folder.delete(name).await;
        // The first problem is the one to report.
        if result.is_ok() {
            deleted?;
        }
    }
    result?;
    let left = folder.list(PROBE_FOLDER).await?;
    if left.iter().any(|object| object.name == single || object.name == contended) {
        return Err(refused(folder, "a listing still shows an object that was deleted"));
    }
    Ok(())
}

async fn check(folder: &Folder, single: &str, contended: &str, retry: &RetryPolicy) -> Result<()> {
    match folder.create(single, &Bytes::from_static(b"first"), PROBE_BYTES_MAX, retry).await? {
        Created::Ours => {}
        Created::Taken(_) => return Err(refused(folder, "a name that nobody has used was said to be taken")),
    }
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match folder.store().put_opts(&folder.at(single)?, PutPayload::from_static(b"second"), options).await {
        Err(StoreError::AlreadyExists { .. }) => {}
        Ok(_) => return Err(refused(folder, "a second creation of the same object succeeded")),
        Err(error) => return Err(store_error("create a second time", &folder.place(single), error)),
    }
    match folder.read(single, PROBE_BYTES_MAX).await? {
        Some(bytes) if bytes == b"first".as_slice() => {}
        Some(_) => return Err(refused(folder, "a second creation changed the object")),
        None => return Err(refused(folder, "an object just created cannot be read")),
    }
    if !folder.list(PROBE_FOLDER).await?.iter().any(|object| object.name == single) {
        return Err(refused(folder, "a listing does not show an object just created"));
    }

    let texts: Vec<Bytes> = (0..WRITERS).map(|writer| Bytes::from(format!("writer {writer}"))).collect();
    let attempts = texts.iter().map(|text| folder.create(contended, text, PROBE_BYTES_MAX, retry));
    let mut winners = Vec::new();
    for (text, result) in texts.iter().zip(join_all(attempts).await) {
        if result? == Created::Ours {
            winners.push(text);
        }
    }
    let there = folder.read(contended, PROBE_BYTES_MAX).await?;
    match (winners.as_slice(), there) {
        ([winner], Some(there)) if **winner == there => Ok(()),
        (winners, _) => {
            let problem = format!(
                "of {WRITERS} creations of one object at the same time {} succeeded; expected exactly one",
                winners.len()
            );
            Err(refused(folder, &problem))
        }
    }
}

fn refused(folder: &Folder, problem: &str) -> Error {
    Error::invalid(format!(
        "{}: this store cannot keep checkpoints: {problem}; use a local folder, or an object store with conditional writes (`If-None-Match: *`) and consistent listings",
        folder.uri()
    ))
}
