//! A folder in memory, for tests elsewhere: stores are named only where files are read and written.

use std::sync::Arc;

use object_store::memory::InMemory;

use crate::checkpoint::Folder;

/// An empty folder.
pub(crate) fn folder_in_memory() -> Folder {
    Folder::new(Arc::new(InMemory::new()), "lake".into(), "memory://lake".into())
}
