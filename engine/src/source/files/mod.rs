//! Files as a source: Parquet and JSON lines, from a local folder or an object store. Each file is a partition (topic: its
//! path below the source's; partition 0), read in the order of names; an offset is a row or a line. What is listed at the
//! start is read to its end, and then the source ends: files that come later belong to the next run. Decodes nothing.

mod archive;
mod lines;
mod listing;
mod parquet;
mod reader;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::runtime::Handle;

use super::{AssignmentNumbers, PartitionProgress, Source, SourceEvent, StartAt, Waker};
use crate::checkpoint::store::store_error;
use crate::error::{Error, Result};
use crate::pipeline::settings::FileFormat;
use crate::types::{Assignment, Offset};

pub use archive::{ArchiveInOrder, ArchivedRows, StoredBlock, StoredRows};
pub use listing::{StoredFile, list_files};
pub use reader::{FileBlock, FileReader, FilesInOrder};

use reader::unit_of;

/// Blocks that wait for the driver.
const CHANNEL_BLOCKS: usize = 2;

/// Where files are, and which of them are this worker's.
#[derive(Debug, Clone)]
pub struct FilesLocation {
    /// Name of the source.
    pub source_name: String,
    /// The store, and the path in it.
    pub store: Arc<dyn ObjectStore>,
    /// A file or a folder.
    pub path: Path,
    /// Format of the files.
    pub format: FileFormat,
    /// Files are dealt out to workers in turn: number of this worker, from 0.
    pub worker: usize,
    /// Number of workers.
    pub num_workers: usize,
}

/// What the reading thread says.
#[expect(clippy::large_enum_variant, reason = "nearly all are blocks")]
enum Message {
    /// A file was opened, and has this many rows.
    Opened(Assignment, Option<i64>),
    /// A part of it.
    Block(Assignment, FileBlock),
    /// It is read to its end.
    Finished(Assignment),
    /// Reading is over.
    Failed(Error),
}

/// A file to be read.
struct Command {
    assignment: Assignment,
    file: StoredFile,
    start: Offset,
}

/// See the module.
#[derive(Debug)]
pub struct FilesSource {
    files: BTreeMap<Assignment, OwnFile>,
    /// Not yet given to the driver.
    assigned: Option<SourceEvent>,
    commands: Option<Sender<Command>>,
    messages: Option<Receiver<Message>>,
    finished: Receiver<()>,
    has_ended: bool,
}

#[derive(Debug)]
struct OwnFile {
    file: StoredFile,
    /// `None` before the start.
    position: Option<Offset>,
    end: Option<Offset>,
    is_finished: bool,
}

impl FilesSource {
    /// Lists the files and starts the thread that reads them; the first event gives out this worker's.
    pub fn new(
        location: FilesLocation,
        numbers: &AssignmentNumbers,
        runtime: Handle,
        waker: Waker,
    ) -> Result<FilesSource> {
        let FilesLocation { source_name, store, path, format, worker, num_workers } = location;
        let listed = runtime.block_on(list_files(store.as_ref(), &path, format));
        let listed = listed.map_err(|error| error.context(format_args!("source {source_name}")))?;
        let source: Arc<str> = source_name.as_str().into();
        let own = listed.into_iter().skip(worker).step_by(num_workers.max(1));
        let own: Vec<_> = own.map(|file| (numbers.next(), file)).collect();
        let units = own.iter().map(|(assignment, file)| (*assignment, unit_of(&source, file))).collect();
        // A file is started once.
        let (commands, command_receiver) = bounded(own.len().max(1));
        let files = own
            .into_iter()
            .map(|(assignment, file)| (assignment, OwnFile { file, position: None, end: None, is_finished: false }));
        let (message_sender, messages) = bounded(CHANNEL_BLOCKS);
        let (finished_sender, finished) = bounded(0);
        let thread =
            Reading { store, format, commands: command_receiver, messages: message_sender, waker: waker.clone() };
        std::thread::Builder::new()
            .name(format!("files-{source_name}"))
            .spawn(move || {
                thread.run(&runtime);
                drop(finished_sender);
            })
            .map_err(|error| {
                Error::unavailable(format!("source {source_name}: no thread could be started")).with_source(error)
            })?;
        waker.wake();
        Ok(FilesSource {
            files: files.collect(),
            assigned: Some(SourceEvent::Assigned(units)),
            commands: Some(commands),
            messages: Some(messages),
            finished,
            has_ended: false,
        })
    }

    /// Takes a message into account; the event that it is for the driver.
    fn take(&mut self, message: Message) -> Result<Option<SourceEvent>> {
        match message {
            Message::Opened(assignment, num_rows) => {
                if let Some(file) = self.files.get_mut(&assignment) {
                    file.end = num_rows.and_then(Offset::new);
                }
                Ok(None)
            }
            Message::Block(assignment, block) => {
                // What was read of a file that has been given back is thrown away.
                let Some(file) = self.files.get_mut(&assignment) else {
                    return Ok(None);
                };
                Ok(Some(match block {
                    FileBlock::Records(block) => {
                        file.position = block.offsets.last().map(|offset| Offset::after(*offset)).or(file.position);
                        SourceEvent::Records(block)
                    }
                    FileBlock::Rows(rows) => {
                        file.position = Offset::new(rows.first_offset + i64::try_from(rows.len()).unwrap_or_default());
                        SourceEvent::Rows(rows)
                    }
                }))
            }
            Message::Finished(assignment) => {
                if let Some(file) = self.files.get_mut(&assignment) {
                    file.is_finished = true;
                    file.end = file.position;
                }
                Ok(None)
            }
            Message::Failed(error) => Err(error),
        }
    }
}

impl Source for FilesSource {
    fn next_event(&mut self) -> Result<Option<SourceEvent>> {
        if let Some(event) = self.assigned.take() {
            return Ok(Some(event));
        }
        while let Some(messages) = &self.messages {
            match messages.try_recv() {
                Ok(message) => {
                    if let Some(event) = self.take(message)? {
                        return Ok(Some(event));
                    }
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(Error::internal("the thread that reads files is gone")),
            }
        }
        if !self.has_ended && self.files.values().all(|file| file.is_finished) {
            self.has_ended = true;
            return Ok(Some(SourceEvent::End));
        }
        Ok(None)
    }

    fn start(&mut self, starts: &[(Assignment, StartAt)]) -> Result<Vec<(Assignment, Offset)>> {
        let mut resolved = Vec::with_capacity(starts.len());
        for (assignment, start) in starts {
            let (Some(file), Some(commands)) = (self.files.get_mut(assignment), &self.commands) else {
                continue;
            };
            let start = match start {
                StartAt::Stored(offset) => *offset,
                StartAt::Configured | StartAt::Beginning => Offset::ZERO,
            };
            file.position = Some(start);
            let command = Command { assignment: *assignment, file: file.file.clone(), start };
            commands.send(command).map_err(|_| Error::internal("the thread that reads files is gone"))?;
            resolved.push((*assignment, start));
        }
        Ok(resolved)
    }

    fn release(&mut self, assignments: &[Assignment]) -> Result<()> {
        for assignment in assignments {
            self.files.remove(assignment);
        }
        Ok(())
    }

    fn report(&mut self, _positions: &[(Assignment, Offset)]) {}

    fn num_partitions(&self, _topic: &str) -> Option<u32> {
        None
    }

    fn progress(&self) -> Vec<PartitionProgress> {
        let started = self.files.iter().filter_map(|(assignment, file)| {
            let position = file.position?;
            Some(PartitionProgress { assignment: *assignment, position, delivered: position, end: file.end })
        });
        started.collect()
    }

    fn close(&mut self, timeout: Duration) -> Result<()> {
        // Without its channels the thread ends as soon as it has something to say or nothing to read.
        self.commands = None;
        self.messages = None;
        match self.finished.recv_timeout(timeout) {
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => {
                Err(Error::unavailable(format!("a file was still being read after {} ms", timeout.as_millis())))
            }
            Ok(()) | Err(crossbeam_channel::RecvTimeoutError::Disconnected) => Ok(()),
        }
    }
}

/// The thread that reads.
struct Reading {
    store: Arc<dyn ObjectStore>,
    format: FileFormat,
    commands: Receiver<Command>,
    messages: Sender<Message>,
    waker: Waker,
}

/// The source has gone.
struct Gone;

impl Reading {
    fn run(self, runtime: &Handle) {
        while let Ok(command) = self.commands.recv() {
            match self.read(runtime, command) {
                Ok(Ok(())) => {}
                Ok(Err(Gone)) => return,
                Err(error) => {
                    // Nobody is left to hear it where this fails.
                    drop(self.say(Message::Failed(error)));
                    return;
                }
            }
        }
    }

    fn read(&self, runtime: &Handle, command: Command) -> Result<Result<(), Gone>> {
        let Command { assignment, file, start } = command;
        let reader = FileReader::open(self.store.clone(), self.format, file, assignment, start);
        let mut reader = runtime.block_on(reader)?;
        if self.say(Message::Opened(assignment, reader.num_rows())).is_err() {
            return Ok(Err(Gone));
        }
        while let Some(block) = runtime.block_on(reader.next())? {
            if self.say(Message::Block(assignment, block)).is_err() {
                return Ok(Err(Gone));
            }
        }
        Ok(self.say(Message::Finished(assignment)))
    }

    fn say(&self, message: Message) -> Result<(), Gone> {
        self.messages.send(message).map_err(|_| Gone)?;
        self.waker.wake();
        Ok(())
    }
}

/// Names the file, never its content; a missing file or a refused access does not mend itself.
fn storage_error(error: object_store::Error, path: &Path) -> Error {
    match error {
        object_store::Error::NotFound { .. } => {
            Error::data(format!("file {path} is gone; put it back, or start again without it"))
        }
        // An answer may quote what was sent: `checkpoint` knows what of it may be shown.
        error => store_error("read", &format!("file {path}"), error),
    }
}

/// A stored position beyond the end of its file.
fn gone_back(topic: &str, start: Offset, found: i64) -> Error {
    Error::data(format!(
        "file {topic} was read up to {start} and now ends at {found}: it was replaced by a shorter one; put it back, give the new \
         one another name, or start with another checkpoint path"
    ))
}
