//! Rows of a replay as one local file: Parquet or JSON lines. A file gets its name when it is complete and on disk; until then it
//! stands beside it under a name that readers leave out, and it goes when the replay fails.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::error::{Error, Result};
use crate::pipeline::settings::FileFormat;
use crate::sink::json_rows::JsonRows;

/// A file that is being written.
#[derive(Debug)]
pub(crate) struct OutputFile {
    rows: Rows,
    partial: PathBuf,
    target: PathBuf,
    is_finished: bool,
}

#[derive(Debug)]
enum Rows {
    Parquet(Box<ArrowWriter<File>>),
    JsonLines(BufWriter<File>, JsonRows),
    Closed,
}

impl OutputFile {
    /// Begins the file of a sink in `folder`, which is made if it is not there. A file of an earlier replay stays until this
    /// one is complete.
    pub(crate) fn create(folder: &Path, sink: &str, format: FileFormat, schema: SchemaRef) -> Result<OutputFile> {
        let extension = match format {
            FileFormat::Parquet => "parquet",
            FileFormat::JsonLines => "jsonl",
        };
        let target = folder.join(format!("{sink}.{extension}"));
        let partial = folder.join(format!(".{sink}.{extension}.partial"));
        fs::create_dir_all(folder).map_err(|error| io_error("make the folder", folder, error))?;
        let file = File::create(&partial).map_err(|error| io_error("create", &partial, error))?;
        let rows = match format {
            FileFormat::JsonLines => Rows::JsonLines(BufWriter::with_capacity(1 << 20, file), JsonRows::default()),
            FileFormat::Parquet => {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::default()))
                    .set_created_by("tidemill".to_owned())
                    .build();
                let writer = ArrowWriter::try_new(file, schema, Some(properties));
                Rows::Parquet(Box::new(writer.map_err(|error| parquet_error(&partial, error))?))
            }
        };
        Ok(OutputFile { rows, partial, target, is_finished: false })
    }

    /// Appends rows: visible columns only.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match &mut self.rows {
            Rows::Parquet(writer) => writer.write(batch).map_err(|error| parquet_error(&self.partial, error)),
            Rows::JsonLines(file, rows) => {
                rows.encode_columns(batch, batch.num_columns())?;
                for index in 0..rows.len() {
                    let written = file.write_all(rows.row(index)).and_then(|()| file.write_all(b"\n"));
                    written.map_err(|error| io_error("write", &self.partial, error))?;
                }
                Ok(())
            }
            Rows::Closed => Err(Error::internal("rows for a file that is complete")),
        }
    }

    /// Completes the file and gives it its name.
    pub(crate) fn finish(mut self) -> Result<PathBuf> {
        let failed = |error| io_error("write", &self.partial, error);
        let file = match std::mem::replace(&mut self.rows, Rows::Closed) {
            Rows::Parquet(writer) => writer.into_inner().map_err(|error| parquet_error(&self.partial, error))?,
            Rows::JsonLines(file, _) => file.into_inner().map_err(|error| failed(error.into_error()))?,
            Rows::Closed => return Err(Error::internal("a file was completed twice")),
        };
        file.sync_all().map_err(failed)?;
        fs::rename(&self.partial, &self.target).map_err(|error| io_error("name", &self.target, error))?;
        self.is_finished = true;
        Ok(self.target.clone())
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if !self.is_finished {
            // The error that ended the replay is the one to report.
            drop(fs::remove_file(&self.partial));
        }
    }
}

fn io_error(act: &str, path: &Path, error: std::io::Error) -> Error {
    Error::unavailable(format!("cannot {act} {}", path.display())).with_source(error)
}

fn parquet_error(path: &Path, error: parquet::errors::ParquetError) -> Error {
    Error::unavailable(format!("cannot write {} as Parquet", path.display())).with_source(error)
}
