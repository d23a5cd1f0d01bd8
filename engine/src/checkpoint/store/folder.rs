//! One folder in a store: the few operations that protocol F and the sinks need, with errors that name the place.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use futures::stream::{self, BoxStream, StreamExt as _};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt as _, PutPayload, WriteMultipart};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use crate::checkpoint::store::store_error;
use crate::error::{Error, Result};

/// Payloads above this go up in parts, so that none takes longer than a request may.
const PART_BYTES: usize = 8 << 20;
const PARTS_AT_ONCE: usize = 2;

/// Objects are read in ranges of this: an object_store reads a local file's stream 8 KiB at a time, each on another thread,
/// which took ten times as long as what is done with the bytes.
const RANGE_BYTES: u64 = 4 << 20;
/// Ranges asked for ahead.
const RANGES_AT_ONCE: usize = 2;

/// A folder in a store.
#[derive(Debug, Clone)]
pub struct Folder {
    store: Arc<dyn ObjectStore>,
    path: Path,
    uri: String,
}

/// An object that is being written, piece by piece. In memory are the parts on their way, and no more. Dropped before
/// [`Upload::finish`] there is no object (S3 keeps the parts until its own rules delete them; [`Upload::abort`] does at once).
pub struct Upload {
    writer: BufWriter,
    hash: Sha256,
    bytes: u64,
    place: String,
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload").field("place", &self.place).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Upload {
    /// Adds to the object. Waits while too much is on its way.
    pub async fn put(&mut self, bytes: Bytes) -> Result<()> {
        self.hash.update(&bytes);
        self.bytes += bytes.len() as u64;
        self.writer.put(bytes).await.map_err(|error| store_error("write", &self.place, error))
    }

    /// Completes it: when this returns it is durable. Its size and SHA-256, in hexadecimal digits.
    pub async fn finish(mut self) -> Result<(u64, String)> {
        self.writer
            .shutdown()
            .await
            .map_err(|error| Error::unavailable(format!("cannot write {}", self.place)).with_source(error))?;
        Ok((self.bytes, self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// Gives it up.
    pub async fn abort(mut self) -> Result<()> {
        self.writer.abort().await.map_err(|error| store_error("give up", &self.place, error))
    }
}

/// An object that is being read, piece by piece.
pub struct Download {
    pieces: BoxStream<'static, object_store::Result<Bytes>>,
    place: String,
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Download").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Download {
    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        self.pieces.try_next().await.map_err(|error| store_error("read", &self.place, error))
    }
}

/// An object found by a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name below the folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

impl Folder {
    /// The folder at `path` in `store`, which people know as `uri`.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, path: Path, uri: String) -> Folder {
        Folder { store, path, uri }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Where in the store.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How people know it.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// An object's place, for messages.
    #[must_use]
    pub fn place(&self, name: &str) -> String {
        format!("{}/{name}", self.uri)
    }

    /// An object's path in the store.
    pub fn at(&self, name: &str) -> Result<Path> {
        let path = if self.path.is_root() { name.to_owned() } else { format!("{}/{name}", self.path) };
        Path::parse(path).map_err(|error| {
            Error::invalid(format!("{} is not a name for an object", self.place(name))).with_source(error)
        })
    }

    /// The object's bytes; `None` when there is none. One larger than `bytes_max` is not read.
    pub async fn read(&self, name: &str, bytes_max: u64) -> Result<Option<Bytes>> {
        let failed = |error| store_error("read", &self.place(name), error);
        let result = match self.store.get(&self.at(name)?).await {
            Ok(result) => result,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if result.meta.size > bytes_max {
            return Err(Error::data(format!(
                "{}: expected at most {bytes_max} bytes, found {}: this is not an object of ours",
                self.place(name),
                result.meta.size
            )));
        }
        result.bytes().await.map(Some).map_err(failed)
    }

    /// The object's size; `None` when there is none.
    pub async fn size(&self, name: &str) -> Result<Option<u64>> {
        match self.store.head(&self.at(name)?).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(store_error("look for", &self.place(name), error)),
        }
    }

    /// SHA-256 of the object's bytes; `None` when there is none. Reads it in pieces.
    pub async fn sha256(&self, name: &str) -> Result<Option<[u8; 32]>> {
        let Some(mut download) = self.download(name).await? else { return Ok(None) };
        let mut hash = Sha256::new();
        while let Some(piece) = download.next().await? {
            hash.update(&piece);
        }
        Ok(Some(hash.finalize().into()))
    }

    /// Writes an object, over what is there. When it returns, the object is durable.
    pub async fn write(&self, name: &str, bytes: Bytes) -> Result<()> {
        let failed = |error| store_error("write", &self.place(name), error);
        let path = self.at(name)?;
        if bytes.len() <= 2 * PART_BYTES {
            self.store.put(&path, PutPayload::from_bytes(bytes)).await.map_err(failed)?;
            return Ok(());
        }
        let upload = self.store.put_multipart(&path).await.map_err(failed)?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let mut rest = bytes;
        while !rest.is_empty() {
            upload.wait_for_capacity(PARTS_AT_ONCE).await.map_err(failed)?;
            upload.put(rest.split_to(PART_BYTES.min(rest.len())));
        }
        upload.finish().await.map_err(failed)?;
        Ok(())
    }

    /// Begins to write an object in pieces, over what is there.
    pub fn upload(&self, name: &str) -> Result<Upload> {
        let writer = BufWriter::with_capacity(Arc::clone(&self.store), self.at(name)?, PART_BYTES);
        let writer = writer.with_max_concurrency(PARTS_AT_ONCE);
        Ok(Upload { writer, hash: Sha256::new(), bytes: 0, place: self.place(name) })
    }

    /// Begins to read an object in pieces; `None` when there is none. It must not be written over meanwhile.
    pub async fn download(&self, name: &str) -> Result<Option<Download>> {
        let Some(size) = self.size(name).await? else { return Ok(None) };
        let (store, path) = (Arc::clone(&self.store), self.at(name)?);
        let ranges = (0..size.div_ceil(RANGE_BYTES)).map(move |at| {
            let (store, path) = (Arc::clone(&store), path.clone());
            let range = at * RANGE_BYTES..size.min((at + 1) * RANGE_BYTES);
            async move { store.get_range(&path, range).await }
        });
        let pieces = stream::iter(ranges).buffered(RANGES_AT_ONCE).boxed();
        Ok(Some(Download { pieces, place: self.place(name) }))
    }

    /// Deletes an object; that there is none is as good.
    pub async fn delete(&self, name: &str) -> Result<()> {
        match self.store.delete(&self.at(name)?).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(store_error("delete", &self.place(name), error)),
        }
    }

    /// Gives an object another name. `false` when it is not there. On S3 this is a copy and a deletion: after a failure
    /// both names may be there.
    pub async fn rename(&self, from: &str, to: &str) -> Result<bool> {
        match self.store.rename(&self.at(from)?, &self.at(to)?).await {
            Ok(()) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(store_error("rename", &self.place(from), error)),
        }
    }

    /// All objects in the folder `below`, at any depth, in the order of their names.
    pub async fn list(&self, below: &str) -> Result<Vec<Listed>> {
        let failed = |error| store_error("list", &self.place(below), error);
        let prefix = if below.is_empty() { self.path.clone() } else { self.at(below)? };
        let metas: Vec<_> = self.store.list(Some(&prefix)).try_collect().await.map_err(failed)?;
        let start = if self.path.is_root() { 0 } else { self.path.as_ref().len() + 1 };
        let name = |path: &Path| path.as_ref().get(start..).map(str::to_owned);
        let mut listed: Vec<Listed> = metas
            .into_iter()
            .filter_map(|meta| Some(Listed { name: name(&meta.location)?, bytes: meta.size }))
            .collect();
        listed.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }
}
