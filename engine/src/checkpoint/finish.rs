//! Gives committed files their final names: after a publication, and again after a crash, from the manifest alone (I5: it
//! may be repeated). Needs a permit, which only a manifest in the store gives.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::checkpoint::protocol::{FileDecision, judge_file};
use crate::checkpoint::store::{Folder, Stores};
use crate::error::{Error, Result};
use crate::sink::StagedFile;

/// Files finished at the same time.
const FILES_AT_ONCE: usize = 4;

/// The right to make files visible. Had from a manifest that was published or read, or declared not to need one.
#[derive(Debug, Clone)]
pub struct CommitPermit(());

impl CommitPermit {
    /// Of a manifest that is in the store.
    pub(super) fn of_manifest() -> CommitPermit {
        CommitPermit(())
    }

    /// For a run without a checkpoint (`replay`, or a pipeline that has none): there is no manifest, and nothing is
    /// promised about what a second run writes.
    #[must_use]
    pub fn without_checkpoint() -> CommitPermit {
        CommitPermit(())
    }
}

/// Gives each file its final name. Files that have it are left alone; when it returns `Ok`, all have it.
pub async fn finish_files(stores: &Stores, files: &[StagedFile], permit: &CommitPermit) -> Result<()> {
    let CommitPermit(()) = permit;
    stream::iter(files.iter().map(|file| finish_file(stores, file))).buffer_unordered(FILES_AT_ONCE).try_collect().await
}

async fn finish_file(stores: &Stores, file: &StagedFile) -> Result<()> {
    let folder = stores.open(&file.folder)?;
    // Twice: another writer may finish the same file at the same time, and takes it away between our looks.
    for _ in 0..2 {
        let (named, staged) = (folder.size(&file.name).await?, folder.size(&file.staged).await?);
        match judge_file(file.bytes, staged, named) {
            FileDecision::Done => return Ok(()),
            FileDecision::Move => {
                if folder.rename(&file.staged, &file.name).await? {
                    return Ok(());
                }
            }
            FileDecision::Compare => return drop_copy(&folder, file).await,
            FileDecision::Foreign => return Err(foreign(&folder, file)),
            FileDecision::Lost if named.is_none() && staged.is_none() => {}
            FileDecision::Lost => {
                return Err(lost(&folder, file, "the staged file has another size than the manifest says"));
            }
        }
    }
    // The first look at the staged name may have come after another writer's rename, that at the final name before it.
    match judge_file(file.bytes, None, folder.size(&file.name).await?) {
        FileDecision::Done => Ok(()),
        FileDecision::Foreign => Err(foreign(&folder, file)),
        FileDecision::Move | FileDecision::Compare | FileDecision::Lost => Err(lost(&folder, file, "neither is there")),
    }
}

/// Both names are there: a copy that was not followed by its deletion, or a stranger of the same size.
async fn drop_copy(folder: &Folder, file: &StagedFile) -> Result<()> {
    let (named, staged) = (folder.sha256(&file.name).await?, folder.sha256(&file.staged).await?);
    match (named, staged) {
        (Some(named), Some(staged)) if named != staged => Err(foreign(folder, file)),
        (Some(_), _) => folder.delete(&file.staged).await,
        (None, _) => Err(lost(folder, file, "its final name has just been taken away")),
    }
}

fn foreign(folder: &Folder, file: &StagedFile) -> Error {
    Error::data(format!(
        "{}: expected this name to be free for the {} rows of offsets {}, found another file: does another pipeline write to this folder? the rows are in {}",
        folder.place(&file.name),
        file.rows,
        file.range,
        folder.place(&file.staged)
    ))
}

fn lost(folder: &Folder, file: &StagedFile, problem: &str) -> Error {
    Error::data(format!(
        "the file of offsets {} is committed and cannot be found: expected {} bytes at {} or {}; {problem}: was it moved or deleted? put it back at the first of the two",
        file.range,
        file.bytes,
        folder.place(&file.name),
        folder.place(&file.staged)
    ))
}
