//! A local file system as an object store whose writes are on the disk when they are acknowledged: `LocalFileSystem` calls
//! no fsync. Creation is a hard link, which the kernel does once per name; a rename is a rename. Reads, listings and
//! deletions pass through: a deletion that a power failure undoes is made again by whoever wanted it.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, RenameTargetMode, Result, UploadPart,
};

const STORE: &str = "DurableLocal";

/// See the file's head.
#[derive(Debug, Clone)]
pub struct DurableLocal {
    inner: Arc<LocalFileSystem>,
}

impl DurableLocal {
    /// The whole file system: paths in it are absolute.
    #[must_use]
    pub fn new() -> DurableLocal {
        DurableLocal { inner: Arc::new(LocalFileSystem::new()) }
    }
}

impl Default for DurableLocal {
    fn default() -> Self {
        DurableLocal::new()
    }
}

impl fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STORE)
    }
}

fn generic(act: &str, path: &FilePath, source: &io::Error) -> Error {
    Error::Generic { store: STORE, source: format!("cannot {act} {}: {source}", path.display()).into() }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

fn parent(path: &FilePath) -> &FilePath {
    path.parent().unwrap_or(path)
}

fn sync_folder(folder: &FilePath) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| generic("fsync", folder, &error))
}

/// Makes `folder` and what is missing above it; each new name is on the disk before the next.
fn make_folders(folder: &FilePath) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        make_folders(above)?;
    }
    match fs::create_dir(folder) {
        Ok(()) => sync_folder(parent(folder)),
        // Another task made it; it may not have come to its fsync yet.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => sync_folder(parent(folder)),
        Err(error) => Err(generic("make folder", folder, &error)),
    }
}

/// A name beside `path` that listings leave out (`LocalFileSystem` skips `#` and digits) and that nobody else uses.
fn temporary(path: &FilePath) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("#{}", uuid::Uuid::new_v4().as_u128()));
    name.into()
}

fn write_temporary(path: &FilePath, payload: &PutPayload) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        for bytes in payload {
            file.write_all(bytes)?;
        }
        file.sync_all()
    };
    write().map_err(|error| generic("write", path, &error))
}

fn put(path: &FilePath, payload: &PutPayload, mode: &PutMode) -> Result<()> {
    let folder = parent(path);
    make_folders(folder)?;
    let staged = temporary(path);
    let result = write_temporary(&staged, payload).and_then(|()| match mode {
        PutMode::Create => fs::hard_link(&staged, path).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => Error::AlreadyExists { path: path.display().to_string(), source: error.into() },
            _ => generic("create", path, &error),
        }),
        PutMode::Overwrite => fs::rename(&staged, path).map_err(|error| generic("write", path, &error)),
        PutMode::Update(_) => {
            Err(Error::NotImplemented { operation: "update of an object".into(), implementer: STORE.into() })
        }
    });
    // After a rename it is gone; otherwise it is of no use, and left behind it would only take room.
    drop(fs::remove_file(&staged));
    match result {
        Ok(()) => sync_folder(folder),
        // Whoever made it may not have come to its fsync: who learns that it exists may rely on it.
        Err(error @ Error::AlreadyExists { .. }) => sync_folder(folder).and(Err(error)),
        Err(error) => Err(error),
    }
}

fn rename(from: &FilePath, to: &FilePath) -> Result<()> {
    make_folders(parent(to))?;
    fs::rename(from, to).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::NotFound { path: from.display().to_string(), source: error.into() },
        _ => generic("rename", from, &error),
    })?;
    sync_folder(parent(to))?;
    if parent(from) == parent(to) { Ok(()) } else { sync_folder(parent(from)) }
}

impl ObjectStore for DurableLocal {
    fn put_opts<'life0, 'life1, 'async_trait>(
        &'life0 self,
        location: &'life1 Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> BoxFuture<'async_trait, Result<PutResult>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let path = self.inner.path_to_filesystem(location)?;
            blocking(move || put(&path, &payload, &opts.mode)).await?;
            Ok(PutResult { e_tag: None, version: None })
        })
    }

    fn put_multipart_opts<'life0, 'life1, 'async_trait>(
        &'life0 self,
        location: &'life1 Path,
        opts: PutMultipartOptions,
    ) -> BoxFuture<'async_trait, Result<Box<dyn MultipartUpload>>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let path = self.inner.path_to_filesystem(location)?;
            let folder = parent(&path).to_owned();
            blocking(move || make_folders(&folder)).await?;
            let inner = self.inner.put_multipart_opts(location, opts).await?;
            Ok(Box::new(DurableUpload { inner, path }) as Box<dyn MultipartUpload>)
        })
    }

    fn get_opts<'life0, 'life1, 'async_trait>(
        &'life0 self,
        location: &'life1 Path,
        options: GetOptions,
    ) -> BoxFuture<'async_trait, Result<GetResult>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        self.inner.get_opts(location, options)
    }

    fn get_ranges<'life0, 'life1, 'life2, 'async_trait>(
        &'life0 self,
        location: &'life1 Path,
        ranges: &'life2 [Range<u64>],
    ) -> BoxFuture<'async_trait, Result<Vec<Bytes>>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        'life2: 'async_trait,
        Self: 'async_trait,
    {
        self.inner.get_ranges(location, ranges)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_delimiter<'life0, 'life1, 'async_trait>(
        &'life0 self,
        prefix: Option<&'life1 Path>,
    ) -> BoxFuture<'async_trait, Result<ListResult>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        self.inner.list_with_delimiter(prefix)
    }

    /// A copy is a new file (never a link, so that nobody changes two names at once), and durable.
    fn copy_opts<'life0, 'life1, 'life2, 'async_trait>(
        &'life0 self,
        from: &'life1 Path,
        to: &'life2 Path,
        options: CopyOptions,
    ) -> BoxFuture<'async_trait, Result<()>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        'life2: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let mode = match options.mode {
                CopyMode::Overwrite => PutMode::Overwrite,
                CopyMode::Create => PutMode::Create,
            };
            let (from, to) = (self.inner.path_to_filesystem(from)?, self.inner.path_to_filesystem(to)?);
            blocking(move || {
                let bytes = fs::read(&from).map_err(|error| match error.kind() {
                    ErrorKind::NotFound => Error::NotFound { path: from.display().to_string(), source: error.into() },
                    _ => generic("read", &from, &error),
                })?;
                put(&to, &PutPayload::from(bytes), &mode)
            })
            .await
        })
    }

    fn rename_opts<'life0, 'life1, 'life2, 'async_trait>(
        &'life0 self,
        from: &'life1 Path,
        to: &'life2 Path,
        options: RenameOptions,
    ) -> BoxFuture<'async_trait, Result<()>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        'life2: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            if options.target_mode == RenameTargetMode::Create {
                return Err(Error::NotImplemented { operation: "rename if absent".into(), implementer: STORE.into() });
            }
            let (from, to) = (self.inner.path_to_filesystem(from)?, self.inner.path_to_filesystem(to)?);
            blocking(move || rename(&from, &to)).await
        })
    }
}

/// An upload in parts that is on the disk when it is complete.
#[derive(Debug)]
struct DurableUpload {
    inner: Box<dyn MultipartUpload>,
    path: PathBuf,
}

impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    fn complete<'life0, 'async_trait>(&'life0 mut self) -> BoxFuture<'async_trait, Result<PutResult>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let result = self.inner.complete().await?;
            let path = self.path.clone();
            blocking(move || {
                File::open(&path).and_then(|file| file.sync_all()).map_err(|error| generic("fsync", &path, &error))?;
                sync_folder(parent(&path))
            })
            .await?;
            Ok(result)
        })
    }

    fn abort<'life0, 'async_trait>(&'life0 mut self) -> BoxFuture<'async_trait, Result<()>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        self.inner.abort()
    }
}
