//! Files of state: an operator's tables as Arrow IPC files, written and read in pieces, so that never a whole snapshot is in
//! memory. A file is checked against the size and SHA-256 in its manifest before anything starts from it; a damaged one is
//! an error that names it. What the tables mean is the operator's business.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::MetadataVersion;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions};
use bytes::Bytes;
use futures::future::try_join_all;
use tokio::sync::mpsc::{Receiver, Sender};

use crate::checkpoint::layout::{parse_state_generation, state_file_name, state_folder};
use crate::checkpoint::manifest::{Manifest, OperatorState, Snapshot, StateFile, StateTable};
use crate::checkpoint::protocol::is_left_behind;
use crate::checkpoint::store::{Download, Folder, Upload};
use crate::error::{Error, Result};

/// Bytes before the first message of an Arrow file: `ARROW1` and two of padding, at the alignment that we write with. From
/// there on it is a stream, up to the batches that the manifest counts.
const HEADER_BYTES: usize = 8;

/// What a writer of a snapshot is sent, operator by operator.
#[derive(Debug)]
pub enum Part {
    /// An operator begins; the pieces that follow are its own.
    Operator {
        /// Its name.
        name: String,
        /// What its state depends on.
        fingerprint: String,
        /// Names of its key columns.
        keys: Vec<String>,
        /// Its `meta` table; `None` when it holds nothing of the unit.
        meta: Option<RecordBatch>,
    },
    /// Some keys of it: `slots` and their `rows`.
    Piece(RecordBatch, RecordBatch),
    /// That was all. Without it the snapshot is given up.
    End,
}

/// Writes the parts of one snapshot into `place`, a folder that nobody else writes to, below `folder`. `Ok(None)`: it was
/// given up. After an error or a drop midway, files may be there that no manifest names.
pub async fn write_snapshot(
    folder: Folder,
    place: String,
    mut parts: Receiver<Part>,
) -> Result<Option<BTreeMap<String, OperatorState>>> {
    let mut operators = BTreeMap::new();
    let mut current: Option<OperatorWriter> = None;
    loop {
        let part = parts.recv().await;
        match part {
            Some(Part::Piece(slots, rows)) => match &mut current {
                Some(writer) => writer.write(&slots, &rows).await?,
                None => return Err(Error::internal("a piece of state came before its operator")),
            },
            Some(Part::Operator { name, fingerprint, keys, meta }) => {
                finish(&mut current, &mut operators).await?;
                match meta {
                    Some(meta) => {
                        let state = OperatorState { fingerprint, keys, files: Vec::new() };
                        current = Some(OperatorWriter::new(&folder, &place, name, state, &meta).await?);
                    }
                    None => {
                        operators.insert(name, OperatorState { fingerprint, keys, files: Vec::new() });
                    }
                }
            }
            Some(Part::End) => {
                finish(&mut current, &mut operators).await?;
                return Ok(Some(operators));
            }
            None => {
                if let Some(writer) = current {
                    writer.abort().await?;
                }
                return Ok(None);
            }
        }
    }
}

async fn finish(current: &mut Option<OperatorWriter>, operators: &mut BTreeMap<String, OperatorState>) -> Result<()> {
    if let Some(writer) = current.take() {
        let (name, state) = writer.finish().await?;
        operators.insert(name, state);
    }
    Ok(())
}

struct OperatorWriter {
    folder: Folder,
    place: String,
    name: String,
    /// Its files so far: the `meta`.
    state: OperatorState,
    /// `slots` and `rows`; begun with the first piece, which has their columns.
    tables: Option<(TableWriter, TableWriter)>,
}

impl OperatorWriter {
    async fn new(
        folder: &Folder,
        place: &str,
        name: String,
        mut state: OperatorState,
        meta: &RecordBatch,
    ) -> Result<OperatorWriter> {
        let mut writer = TableWriter::new(folder, place, &name, StateTable::Meta, meta.schema_ref())?;
        writer.write(meta).await?;
        state.files.push(writer.finish().await?);
        Ok(OperatorWriter { folder: folder.clone(), place: place.to_owned(), name, state, tables: None })
    }

    async fn write(&mut self, slots: &RecordBatch, rows: &RecordBatch) -> Result<()> {
        let (to_slots, to_rows) = match &mut self.tables {
            Some(tables) => tables,
            empty => {
                let table = |table, batch: &RecordBatch| {
                    TableWriter::new(&self.folder, &self.place, &self.name, table, batch.schema_ref())
                };
                empty.insert((table(StateTable::Slots, slots)?, table(StateTable::Rows, rows)?))
            }
        };
        to_slots.write(slots).await?;
        to_rows.write(rows).await
    }

    async fn finish(mut self) -> Result<(String, OperatorState)> {
        if self.tables.is_none() {
            // Nothing changed since the snapshot before: the tables are there all the same, without rows.
            let nothing = RecordBatch::new_empty(SchemaRef::new(Schema::empty()));
            self.write(&nothing, &nothing).await?;
            if let Some((slots, rows)) = &mut self.tables {
                (slots.file.batches, rows.file.batches) = (0, 0);
            }
        }
        if let Some((slots, rows)) = self.tables {
            self.state.files.push(slots.finish().await?);
            self.state.files.push(rows.finish().await?);
        }
        Ok((self.name, self.state))
    }

    async fn abort(self) -> Result<()> {
        if let Some((slots, rows)) = self.tables {
            slots.upload.abort().await?;
            rows.upload.abort().await?;
        }
        Ok(())
    }
}

struct TableWriter {
    upload: Upload,
    writer: FileWriter<Vec<u8>>,
    file: StateFile,
}

impl TableWriter {
    fn new(folder: &Folder, place: &str, operator: &str, table: StateTable, schema: &Schema) -> Result<TableWriter> {
        let path = format!("{place}/{}", state_file_name(operator, table));
        let options = IpcWriteOptions::try_new(HEADER_BYTES, false, MetadataVersion::V5).map_err(encoding)?;
        Ok(TableWriter {
            upload: folder.upload(&path)?,
            writer: FileWriter::try_new_with_options(Vec::new(), schema, options).map_err(encoding)?,
            file: StateFile { table, path, bytes: 0, sha256: String::new(), rows: 0, batches: 0 },
        })
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.writer.write(batch).map_err(encoding)?;
        self.file.rows += batch.num_rows() as u64;
        self.file.batches += 1;
        self.upload.put(Bytes::from(std::mem::take(self.writer.get_mut()))).await
    }

    async fn finish(mut self) -> Result<StateFile> {
        self.writer.finish().map_err(encoding)?;
        self.upload.put(Bytes::from(std::mem::take(self.writer.get_mut()))).await?;
        let (bytes, sha256) = self.upload.finish().await?;
        Ok(StateFile { bytes, sha256, ..self.file })
    }
}

fn encoding(error: ArrowError) -> Error {
    Error::internal("state cannot be written as arrow").with_source(error)
}

/// What a reader of an operator's state sends.
#[derive(Debug)]
pub enum ReadPart {
    /// The `meta` table of a full state, or of a delta.
    Meta(RecordBatch),
    /// The next `slots` and their `rows`.
    Piece(RecordBatch, RecordBatch),
}

/// Checks that the files of `part` are those that its manifest names, and only then reads them and sends what is in them.
/// Ends early when nobody listens.
pub async fn read_state(folder: Folder, part: OperatorState, to: Sender<ReadPart>) -> Result<()> {
    let [meta, slots, rows] = part.files.as_slice() else { return Ok(()) };
    try_join_all(part.files.iter().map(|file| check_file(&folder, file))).await?;
    let mut meta = TableReader::open(&folder, meta).await?;
    if let Some(batch) = meta.next().await?
        && to.send(ReadPart::Meta(batch)).await.is_err()
    {
        return Ok(());
    }
    let (mut slots, mut rows) = (TableReader::open(&folder, slots).await?, TableReader::open(&folder, rows).await?);
    while let (Some(keys), Some(retained)) = (slots.next().await?, rows.next().await?) {
        if to.send(ReadPart::Piece(keys, retained)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Compares a file with the manifest, before anything of it is taken for arrow. It is read once more for that.
pub async fn check_file(folder: &Folder, file: &StateFile) -> Result<()> {
    let Some(bytes) = folder.size(&file.path).await? else {
        return Err(damaged(folder, file, "there is no such object"));
    };
    if bytes != file.bytes {
        return Err(damaged(folder, file, &format!("it has {bytes} bytes")));
    }
    let digest = folder.sha256(&file.path).await?.unwrap_or_default();
    let sha256: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    if sha256 != file.sha256 {
        return Err(damaged(folder, file, &format!("its sha256 is {sha256}")));
    }
    Ok(())
}

/// Reads one checked file batch by batch.
#[derive(Debug)]
pub struct TableReader {
    place: String,
    download: Download,
    decoder: StreamDecoder,
    /// Read and not yet decoded.
    rest: Buffer,
    /// Bytes of the header that are still to be passed over.
    header_left: usize,
    batches_left: u64,
}

impl TableReader {
    /// Opens a file; one that is not there is an error.
    pub async fn open(folder: &Folder, file: &StateFile) -> Result<TableReader> {
        let Some(download) = folder.download(&file.path).await? else {
            return Err(damaged(folder, file, "there is no such object"));
        };
        Ok(TableReader {
            place: folder.place(&file.path),
            download,
            decoder: StreamDecoder::new(),
            rest: Buffer::from(Bytes::new()),
            header_left: HEADER_BYTES,
            batches_left: file.batches,
        })
    }

    /// The next batch; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while self.batches_left > 0 {
            let batch = self.decoder.decode(&mut self.rest);
            if let Some(batch) = batch.map_err(|_| self.unreadable())? {
                self.batches_left -= 1;
                return Ok(Some(batch));
            }
            let Some(piece) = self.download.next().await? else { return Err(self.unreadable()) };
            let mut piece = Buffer::from(piece);
            let skipped = self.header_left.min(piece.len());
            piece.advance(skipped);
            self.header_left -= skipped;
            self.rest = piece;
        }
        Ok(None)
    }

    fn unreadable(&self) -> Error {
        Error::data(format!(
            "{}: the file of state is what its manifest says, and yet no arrow file: was it written by another engine?",
            self.place
        ))
    }
}

/// Deletes the files of state that writers before a claim, which holds, had not come to name.
pub async fn delete_left_behind(folder: &Folder, claim: &Manifest) -> Result<()> {
    let named: BTreeSet<&str> = claim.state.iter().flat_map(Snapshot::files).map(|file| file.path.as_str()).collect();
    for object in folder.list(&state_folder(&claim.unit)).await? {
        let written_by = parse_state_generation(&claim.unit, &object.name);
        if is_left_behind(written_by, named.contains(object.name.as_str()), claim.generation) {
            folder.delete(&object.name).await?;
        }
    }
    Ok(())
}

fn damaged(folder: &Folder, file: &StateFile, found: &str) -> Error {
    Error::data(format!(
        "{}: the file of state is damaged: expected {} bytes with sha256 {}, found that {found}; restore the object from a copy, \
         or rebuild all state from the log with `tidemill run --backfill log-all`, or start over with another checkpoint path",
        folder.place(&file.path),
        file.bytes,
        file.sha256
    ))
}

#[cfg(test)]
mod tests;
