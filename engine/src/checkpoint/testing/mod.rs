//! A store that fails when told to, for tests: before or after an operation takes effect, for a while or for good, and with
//! other tasks let in between. It keeps nothing itself: a second one over the same store is the process that starts next.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rand::{Rng as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;

pub use object_store::ObjectStore as AnyStore;
pub use object_store::memory::InMemory;
pub use object_store::path::Path as StorePath;

/// What is done to a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A conditional creation.
    Create,
    /// Any other write, whole or in parts.
    Write,
    /// A read of an object or of its size.
    Read,
    /// A listing.
    List,
    /// A deletion.
    Delete,
    /// A copy; a rename is a copy and a deletion, as on S3.
    Copy,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It fails and has no effect.
    FailBefore,
    /// It has its effect, and the answer is lost.
    FailAfter,
    /// A creation says "exists" and has no effect, as a 409 or 412 under contention.
    Conflict,
    /// It takes this long.
    Delay(Duration),
    /// The process dies: no effect, and every later operation fails.
    CrashBefore,
    /// The process dies after the effect.
    CrashAfter,
}

type Script = Box<dyn FnMut(u64, Operation, &Path) -> Option<Fault> + Send>;

struct State {
    script: Script,
    jitter: Option<Xoshiro256PlusPlus>,
    num_operations: u64,
    has_crashed: bool,
    log: Vec<(Operation, String)>,
}

/// See the file's head.
#[derive(Clone)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    state: Arc<Mutex<State>>,
}

impl FaultStore {
    /// A view of `inner` that fails as `script` says: it is given the operation's number, from 0, and what it is.
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        script: impl FnMut(u64, Operation, &Path) -> Option<Fault> + Send + 'static,
    ) -> FaultStore {
        let state =
            State { script: Box::new(script), jitter: None, num_operations: 0, has_crashed: false, log: Vec::new() };
        FaultStore { inner, state: Arc::new(Mutex::new(state)) }
    }

    /// A view that never fails.
    #[must_use]
    pub fn faultless(inner: Arc<dyn ObjectStore>) -> FaultStore {
        FaultStore::new(inner, |_, _, _| None)
    }

    /// Lets other tasks in before and after each operation, as the seed says.
    #[must_use]
    pub fn with_jitter(self, seed: u64) -> FaultStore {
        self.lock().jitter = Some(Xoshiro256PlusPlus::seed_from_u64(seed));
        self
    }

    /// Number of operations so far.
    #[must_use]
    pub fn num_operations(&self) -> u64 {
        self.lock().num_operations
    }

    /// Whether a crash came.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        self.lock().has_crashed
    }

    /// All operations so far, and their objects.
    #[must_use]
    pub fn log(&self) -> Vec<(Operation, String)> {
        self.lock().log.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn let_others_in(&self) {
        let num_yields = self.lock().jitter.as_mut().map_or(0, |rng| rng.random_range(0..4));
        for _ in 0..num_yields {
            tokio::task::yield_now().await;
        }
    }

    /// Begins an operation; the fault that the caller has to act on.
    async fn enter(&self, operation: Operation, path: &Path) -> Result<Option<Fault>> {
        self.let_others_in().await;
        let fault = {
            let mut state = self.lock();
            if state.has_crashed {
                return Err(failed("the process is dead"));
            }
            let number = state.num_operations;
            state.num_operations += 1;
            state.log.push((operation, path.to_string()));
            let fault = (state.script)(number, operation, path);
            state.has_crashed = matches!(fault, Some(Fault::CrashBefore | Fault::CrashAfter));
            fault
        };
        match fault {
            Some(Fault::FailBefore) => Err(failed("connection refused")),
            Some(Fault::CrashBefore) => Err(failed("the process is dead")),
            Some(Fault::Conflict) if operation == Operation::Create => {
                Err(Error::AlreadyExists { path: path.to_string(), source: "409".into() })
            }
            Some(Fault::Delay(duration)) => {
                tokio::time::sleep(duration).await;
                Ok(None)
            }
            Some(fault @ (Fault::FailAfter | Fault::CrashAfter)) => Ok(Some(fault)),
            Some(Fault::Conflict) | None => Ok(None),
        }
    }

    async fn run<T>(
        &self,
        operation: Operation,
        path: &Path,
        effect: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let fault = self.enter(operation, path).await?;
        let result = effect.await;
        self.let_others_in().await;
        match fault {
            Some(_) => Err(failed("the answer was lost")),
            None => result,
        }
    }
}

fn failed(why: &'static str) -> Error {
    Error::Generic { store: "FaultStore", source: why.into() }
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultStore").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore({})", self.inner)
    }
}

impl ObjectStore for FaultStore {
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
        let operation = if opts.mode == PutMode::Create { Operation::Create } else { Operation::Write };
        Box::pin(async move { self.run(operation, location, self.inner.put_opts(location, payload, opts)).await })
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
        Box::pin(
            async move { self.run(Operation::Write, location, self.inner.put_multipart_opts(location, opts)).await },
        )
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
        Box::pin(async move { self.run(Operation::Read, location, self.inner.get_opts(location, options)).await })
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
        Box::pin(async move { self.run(Operation::Read, location, self.inner.get_ranges(location, ranges)).await })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .then(move |location| {
                let store = store.clone();
                async move {
                    let location = location?;
                    store.run(Operation::Delete, &location, store.inner.delete(&location)).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listing = async move {
            let place = prefix.clone().unwrap_or_default();
            let listing = store.inner.list(prefix.as_ref()).try_collect::<Vec<_>>();
            let objects = store.run(Operation::List, &place, listing).await?;
            Ok::<_, Error>(futures::stream::iter(objects.into_iter().map(Ok)))
        };
        futures::stream::once(listing).try_flatten().boxed()
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
        Box::pin(async move {
            let place = prefix.cloned().unwrap_or_default();
            self.run(Operation::List, &place, self.inner.list_with_delimiter(prefix)).await
        })
    }

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
        Box::pin(async move { self.run(Operation::Copy, from, self.inner.copy_opts(from, to, options)).await })
    }
}
