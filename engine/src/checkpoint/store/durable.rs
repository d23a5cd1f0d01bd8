//! A local file system as an object store whose writes are on the disk when they are acknowledged: `LocalFileSystem` calls
//! no fsync. Creation is a hard link, which the kernel does once per name; a rename is a rename. Reads, listings and
//! deletions pass through: a deletion that a power failure undoes is made again by whoever wanted it.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    disk: Disk,
}

impl DurableLocal {
    /// The whole file system: paths in it are absolute.
    #[must_use]
    pub fn new() -> DurableLocal {
        DurableLocal::with_disk(Disk::new(|file, _| file.sync_all()))
    }

    fn with_disk(disk: Disk) -> DurableLocal {
        DurableLocal { inner: Arc::new(LocalFileSystem::new()), disk }
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

/// A name beside `path` that listings leave out (`LocalFileSystem` skips `#` and digits) and that nobody else uses.
fn temporary(path: &FilePath) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("#{}", uuid::Uuid::new_v4().as_u128()));
    name.into()
}

/// Puts a file or a folder, open at this path, on the disk.
type SyncFile = dyn Fn(&File, &FilePath) -> io::Result<()> + Send + Sync;

/// What changes files, and knows how it is made durable.
#[derive(Clone)]
struct Disk {
    sync: Arc<SyncFile>,
    /// Folders whose names were put on the disk through this value. That a folder is there says nothing: who made it may have
    /// been killed before its fsync.
    durable_folders: Arc<Mutex<HashSet<PathBuf>>>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}

impl Disk {
    fn new(sync: impl Fn(&File, &FilePath) -> io::Result<()> + Send + Sync + 'static) -> Disk {
        Disk { sync: Arc::new(sync), durable_folders: Arc::default() }
    }

    fn try_sync(&self, path: &FilePath) -> io::Result<()> {
        File::open(path).and_then(|file| (self.sync)(&file, path))
    }

    fn sync(&self, path: &FilePath) -> Result<()> {
        self.try_sync(path).map_err(|error| generic("fsync", path, &error))
    }

    /// Makes `folder` and what is missing above it; each name is on the disk before the next.
    fn make_folders(&self, folder: &FilePath) -> Result<()> {
        let is_there = folder.is_dir();
        if is_there && self.lock().contains(folder) {
            return Ok(());
        }
        let Some(above) = folder.parent() else { return Ok(()) };
        self.make_folders(above)?;
        match fs::create_dir(folder) {
            Ok(()) => self.sync(above)?,
            Err(_) if is_there || folder.is_dir() => self.sync_above(above)?,
            Err(error) => return Err(generic("make folder", folder, &error)),
        }
        self.lock().insert(folder.to_owned());
        Ok(())
    }

    /// Puts the name of a folder that was there on the disk. Far above ours are folders that we may not open, or that cannot
    /// be synced, and in which no process of ours makes any.
    fn sync_above(&self, above: &FilePath) -> Result<()> {
        match self.try_sync(above) {
            Err(error)
                if !matches!(
                    error.kind(),
                    ErrorKind::PermissionDenied | ErrorKind::InvalidInput | ErrorKind::Unsupported
                ) =>
            {
                Err(generic("fsync", above, &error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.durable_folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_temporary(&self, path: &FilePath, payload: &PutPayload) -> Result<()> {
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
            for bytes in payload {
                file.write_all(bytes)?;
            }
            (self.sync)(&file, path)
        };
        write().map_err(|error| generic("write", path, &error))
    }

    fn put(&self, path: &FilePath, payload: &PutPayload, mode: &PutMode) -> Result<()> {
        let folder = parent(path);
        self.make_folders(folder)?;
        let staged = temporary(path);
        let result = self.write_temporary(&staged, payload).and_then(|()| match mode {
            PutMode::Create => fs::hard_link(&staged, path).map_err(|error| match error.kind() {
                ErrorKind::AlreadyExists => {
                    Error::AlreadyExists { path: path.display().to_string(), source: error.into() }
                }
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
            Ok(()) => self.sync(folder),
            // Whoever made it may not have come to its fsync: who learns that it exists may rely on it.
            Err(error @ Error::AlreadyExists { .. }) => self.sync(folder).and(Err(error)),
            Err(error) => Err(error),
        }
    }

    fn rename(&self, from: &FilePath, to: &FilePath) -> Result<()> {
        self.make_folders(parent(to))?;
        fs::rename(from, to).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::NotFound { path: from.display().to_string(), source: error.into() },
            _ => generic("rename", from, &error),
        })?;
        self.sync(parent(to))?;
        if parent(from) == parent(to) { Ok(()) } else { self.sync(parent(from)) }
    }
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
            let disk = self.disk.clone();
            blocking(move || disk.put(&path, &payload, &opts.mode)).await?;
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
            let (disk, folder) = (self.disk.clone(), parent(&path).to_owned());
            blocking(move || disk.make_folders(&folder)).await?;
            let inner = self.inner.put_multipart_opts(location, opts).await?;
            Ok(Box::new(DurableUpload { inner, disk: self.disk.clone(), path }) as Box<dyn MultipartUpload>)
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
            let disk = self.disk.clone();
            blocking(move || {
                let bytes = fs::read(&from).map_err(|error| match error.kind() {
                    ErrorKind::NotFound => Error::NotFound { path: from.display().to_string(), source: error.into() },
                    _ => generic("read", &from, &error),
                })?;
                disk.put(&to, &PutPayload::from(bytes), &mode)
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
            let disk = self.disk.clone();
            blocking(move || disk.rename(&from, &to)).await
        })
    }
}

/// An upload in parts that is on the disk when it is complete.
#[derive(Debug)]
struct DurableUpload {
    inner: Box<dyn MultipartUpload>,
    disk: Disk,
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
            let (disk, path) = (self.disk.clone(), self.path.clone());
            blocking(move || disk.sync(&path).and_then(|()| disk.sync(parent(&path)))).await?;
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

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt as _;

    use super::*;

    /// Which paths were put on the disk, and whether the object was visible then.
    #[derive(Clone, Default)]
    struct Synced(Arc<Mutex<Vec<(PathBuf, bool)>>>);

    impl Synced {
        fn store(&self, object: &FilePath) -> DurableLocal {
            let (log, object) = (self.clone(), object.to_owned());
            DurableLocal::with_disk(Disk::new(move |_, path| {
                log.0.lock().unwrap().push((path.to_owned(), object.exists()));
                Ok(())
            }))
        }

        fn take(&self) -> Vec<(PathBuf, bool)> {
            std::mem::take(&mut *self.0.lock().unwrap())
        }
    }

    fn create() -> PutOptions {
        PutOptions { mode: PutMode::Create, ..PutOptions::default() }
    }

    #[tokio::test]
    async fn a_file_is_on_the_disk_before_it_has_its_name_and_its_name_before_the_creation_returns() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a/b/x");
        let synced = Synced::default();
        let store = synced.store(&file);
        let path = Path::from_absolute_path(&file).unwrap();
        store.put_opts(&path, "1".into(), create()).await.unwrap();
        let [.., (above_a, _), (above_b, _), (staged, had_name), (holder, has_name)] = &synced.take()[..] else {
            panic!("too few were synced")
        };
        assert_eq!((above_a.as_path(), above_b.as_path()), (folder.path(), folder.path().join("a").as_path()));
        assert!(staged.to_str().unwrap().starts_with(&format!("{}#", file.display())), "{}", staged.display());
        assert_eq!((holder.as_path(), *had_name, *has_name), (file.parent().unwrap(), false, true));
        // Folders once; a file and its name each time, also when the name is taken.
        let second = Path::from_absolute_path(file.with_file_name("y")).unwrap();
        store.put_opts(&second, "1".into(), create()).await.unwrap();
        assert_eq!(synced.take().len(), 2);
        assert!(store.put_opts(&path, "1".into(), create()).await.is_err());
        assert_eq!(synced.take().last().unwrap().0, file.parent().unwrap());
    }

    #[tokio::test]
    async fn a_folder_that_somebody_made_without_an_fsync_is_put_on_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a/b/x");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let synced = Synced::default();
        synced.store(&file).put_opts(&Path::from_absolute_path(&file).unwrap(), "1".into(), create()).await.unwrap();
        let synced = synced.take();
        for above in [folder.path(), &folder.path().join("a")] {
            assert!(synced.iter().any(|(path, _)| path == above), "{synced:?}");
        }
    }

    #[tokio::test]
    async fn an_upload_in_parts_and_a_rename_are_on_the_disk_when_they_return() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a/x"), folder.path().join("b/x"));
        let synced = Synced::default();
        let store = synced.store(&from);
        let [from_path, to_path] = [&from, &to].map(|path| Path::from_absolute_path(path).unwrap());
        let mut upload = store.put_multipart(&from_path).await.unwrap();
        upload.put_part("1".into()).await.unwrap();
        synced.take();
        upload.complete().await.unwrap();
        assert_eq!(synced.take(), [(from.clone(), true), (from.parent().unwrap().to_owned(), true)]);
        store.rename(&from_path, &to_path).await.unwrap();
        let paths: Vec<PathBuf> = synced.take().into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths[paths.len() - 2..], [to.parent().unwrap(), from.parent().unwrap()]);
    }

    #[tokio::test]
    async fn what_cannot_be_put_on_the_disk_was_not_written() {
        for fails in ["a", "x"] {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("a/x");
            let store = DurableLocal::with_disk(Disk::new(move |_, path| {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                if name.split('#').next() == Some(fails) { Err(io::Error::other("the disk is gone")) } else { Ok(()) }
            }));
            let error = store.put_opts(&Path::from_absolute_path(&file).unwrap(), "1".into(), create()).await;
            assert!(error.unwrap_err().to_string().contains("the disk is gone"));
        }
    }
}
