//! Writes a TPC-H table as Parquet files.
//!
//! ```text
//!  slice 0 ─┐                 ┌─ l_shipdate_year=1992/part-00000.parquet
//!  slice 1 ─┤ worker threads ─┼─ l_shipdate_year=1993/part-00000.parquet
//!  slice 2 ─┘                 └─ …                       part-00001.parquet
//! ```
//!
//! A table is generated slice by slice of its key range, several slices at once, and each slice gives one file, or one
//! file a partition. Memory is bounded: a worker holds one batch and, for each file that it has open, one row group
//! in encoded form. The same scale and layout give the same rows in the same files every time.
//!
//! Files are zstd-compressed, level 1: a fifth smaller than with snappy and no slower to decode, measured on lineitem.
//! Readers of an object store wait for bytes.
//!
//! Non-goals: making a table of the files, and cleaning up after a run that was interrupted; see
//! [`tables`](super::tables).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use arrow::array::{AsArray, Int32Array, RecordBatch};
use arrow::compute::kernels::cmp::eq;
use arrow::compute::{DatePart, date_part, filter_record_batch};
use arrow::datatypes::{Int32Type, SchemaRef};
use datafusion::error::DataFusionError;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use thiserror::Error;

use super::metrics::{FileMetrics, file_metrics};
use super::table::TpchTable;

/// Most worker threads. More would hold more row groups for little gain: eight generate a gigabyte in seconds.
const WORKERS_MAX: usize = 8;
/// Rows of a demo file up to scale factor 1. Above it, the size and the number of files grow with the scale's square root.
const DEMO_FILE_ROWS: f64 = 200_000.0;
/// Rows of a row group. One of lineitem is about 5 MB, which is worth a request and small enough to cut by.
const DEMO_ROW_GROUP_ROWS: usize = 128 * 1024;
/// Years of ship dates: 1992 to 1998.
const SHIP_YEARS: f64 = 7.0;

/// Layout of a table's rows in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Slices of the key range. Each gives one file, or one file a partition. At least 1.
    pub slices: usize,
    /// Most rows of a row group. At least 1.
    pub row_group_rows: usize,
    /// Date column by whose year the rows are partitioned. Each year is a folder of its own.
    pub partition_by_year_of: Option<&'static str>,
}

impl Layout {
    /// Makes the demo's layout: a few files a table at scale factor 1, lineitem partitioned by the year of its ship date.
    pub fn demo(table: TpchTable, scale: f64) -> Self {
        let file_rows = DEMO_FILE_ROWS * scale.sqrt().max(1.0);
        let partition_by_year_of = (table == TpchTable::LineItem).then_some("l_shipdate");
        let slice_rows = if partition_by_year_of.is_some() { file_rows * SHIP_YEARS } else { file_rows };
        let slices = (table.rows_about(scale) as f64 / slice_rows).ceil() as usize;
        Self { slices: slices.max(2), row_group_rows: DEMO_ROW_GROUP_ROWS, partition_by_year_of }
    }

    /// Makes the layout of bare Parquet: `files` files in one folder.
    pub fn bare(files: usize, row_group_rows: usize) -> Self {
        Self { slices: files, row_group_rows, partition_by_year_of: None }
    }
}

/// A written file.
#[derive(Debug, Clone)]
pub struct GeneratedFile {
    pub path: PathBuf,
    pub size_bytes: u64,
    pub rows: u64,
    /// Year of all its rows, where the layout partitions by one.
    pub year: Option<i32>,
    pub metrics: FileMetrics,
}

/// Callback with the number of rows written since the last call. It breaks to stop the work.
pub type OnProgress<'a> = dyn Fn(u64) -> ControlFlow<()> + Sync + 'a;

/// Reason why a table was not written. The files written so far stay.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// The folder or a file could not be made or written: a full disk, a missing permission.
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    /// The rows could not be encoded.
    #[error("cannot encode {path}: {source}")]
    Encode { path: PathBuf, source: DataFusionError },
    /// `progress` stopped the work.
    #[error("stopped while writing {path}")]
    Stopped { path: PathBuf },
}

/// Writes `table` at `scale` into `folder`, which is made if need be, and returns its files in path order.
///
/// `progress` is called with the rows of each batch as it is written, from several threads, and may stop the work. The
/// call blocks until the work is done, and gives up at the first error.
///
/// # Errors
/// [`GenerateError`]. The folder then holds some of the files.
pub fn generate(
    table: TpchTable,
    scale: f64,
    folder: &Path,
    layout: &Layout,
    progress: &OnProgress<'_>,
) -> Result<Vec<GeneratedFile>, GenerateError> {
    let slices = if table.is_scaled() { layout.slices.max(1) } else { 1 };
    let workers = thread::available_parallelism().map_or(1, usize::from).min(slices).min(WORKERS_MAX);
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let results = Mutex::new(Vec::with_capacity(slices));
    fs::create_dir_all(folder).map_err(|source| GenerateError::Write { path: folder.to_owned(), source })?;
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let slice = next.fetch_add(1, Ordering::Relaxed);
                    if slice >= slices {
                        break;
                    }
                    let written = Slice { table, scale, slice, slices, folder, layout }.write(progress);
                    failed.fetch_or(written.is_err(), Ordering::Relaxed);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push(written);
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let slices: Vec<Vec<GeneratedFile>> = results.into_iter().collect::<Result<_, _>>()?;
    let mut files: Vec<GeneratedFile> = slices.into_iter().flatten().collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

struct Slice<'a> {
    table: TpchTable,
    scale: f64,
    slice: usize,
    slices: usize,
    folder: &'a Path,
    layout: &'a Layout,
}

impl Slice<'_> {
    fn write(&self, progress: &OnProgress<'_>) -> Result<Vec<GeneratedFile>, GenerateError> {
        let mut open: BTreeMap<Option<i32>, FileWriter> = BTreeMap::new();
        for batch in self.table.batches(self.scale, self.slice, self.slices) {
            let encode = |source: DataFusionError| GenerateError::Encode { path: self.folder.to_owned(), source };
            let batch = batch.map_err(|error| encode(error.into()))?;
            let parts = match self.layout.partition_by_year_of {
                Some(column) => split_by_year(&batch, column).map_err(encode)?,
                None => vec![(None, batch)],
            };
            for (year, part) in parts {
                let writer = match open.entry(year) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => entry.insert(self.create_file(year)?),
                };
                writer.write(&part)?;
                if progress(part.num_rows() as u64).is_break() {
                    return Err(GenerateError::Stopped { path: self.folder.to_owned() });
                }
            }
        }
        open.into_values().map(FileWriter::finish).collect()
    }

    fn create_file(&self, year: Option<i32>) -> Result<FileWriter, GenerateError> {
        let folder = match (year, self.layout.partition_by_year_of) {
            (Some(year), Some(column)) => self.folder.join(format!("{column}_year={year}")),
            _ => self.folder.to_owned(),
        };
        let path = folder.join(format!("part-{:05}.parquet", self.slice));
        let file = fs::create_dir_all(&folder).and_then(|()| File::create(&path));
        let file = file.map_err(|source| GenerateError::Write { path: path.clone(), source })?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(self.layout.row_group_rows.max(1)))
            .set_statistics_enabled(EnabledStatistics::Page)
            .build();
        let schema = self.table.schema();
        match ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties)) {
            Ok(writer) => Ok(FileWriter { path, year, schema, writer }),
            Err(error) => Err(GenerateError::Encode { path, source: error.into() }),
        }
    }
}

struct FileWriter {
    path: PathBuf,
    year: Option<i32>,
    schema: SchemaRef,
    writer: ArrowWriter<File>,
}

impl FileWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), GenerateError> {
        self.writer.write(batch).map_err(|error| write_error(&self.path, error))
    }

    fn finish(self) -> Result<GeneratedFile, GenerateError> {
        let Self { path, year, schema, mut writer } = self;
        let footer = writer.finish().map_err(|error| write_error(&path, error))?;
        let size_bytes = writer.bytes_written() as u64;
        let rows = footer.file_metadata().num_rows() as u64;
        match file_metrics(&footer, &schema) {
            Ok(metrics) => Ok(GeneratedFile { path, size_bytes, rows, year, metrics }),
            Err(source) => Err(GenerateError::Encode { path, source }),
        }
    }
}

/// Unwraps the file system's error from the writer's, because it tells the next step.
fn write_error(path: &Path, error: ParquetError) -> GenerateError {
    let path = path.to_owned();
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(source) => GenerateError::Write { path, source: *source },
            Err(source) => GenerateError::Encode { path, source: DataFusionError::External(source) },
        },
        error => GenerateError::Encode { path, source: error.into() },
    }
}

/// Splits the batch's rows by year, in year order. The column must be a date without nulls.
fn split_by_year(batch: &RecordBatch, column: &str) -> Result<Vec<(Option<i32>, RecordBatch)>, DataFusionError> {
    let index = batch.schema_ref().index_of(column)?;
    let years = date_part(batch.column(index), DatePart::Year)?;
    let years = years.as_primitive::<Int32Type>();
    let present: BTreeSet<i32> = years.values().iter().copied().collect();
    let part = |year| {
        let rows = eq(years, &Int32Array::new_scalar(year))?;
        Ok((Some(year), filter_record_batch(batch, &rows)?))
    };
    present.into_iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::Date32Array;
    use arrow::compute::concat_batches;
    use arrow::datatypes::{DataType, Date32Type};
    use datafusion::common::ScalarValue;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    const SCALE: f64 = 0.001;

    fn read(path: &Path) -> RecordBatch {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
        let schema = Arc::clone(reader.schema());
        let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
        concat_batches(&schema, &batches).unwrap()
    }

    #[test]
    fn each_row_lands_in_its_years_partition() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout { slices: 3, row_group_rows: 100, partition_by_year_of: Some("l_shipdate") };
        let told = AtomicUsize::new(0);
        let progress = |rows: u64| {
            told.fetch_add(rows as usize, Ordering::Relaxed);
            ControlFlow::Continue(())
        };
        let files = generate(TpchTable::LineItem, SCALE, folder.path(), &layout, &progress).unwrap();

        let expect: usize = TpchTable::LineItem.batches(SCALE, 0, 1).map(|batch| batch.unwrap().num_rows()).sum();
        assert_eq!(files.iter().map(|file| file.rows as usize).sum::<usize>(), expect);
        assert_eq!(told.into_inner(), expect);
        assert_eq!(files.len(), 7 * 3);
        for file in &files {
            let rows = read(&file.path);
            assert_eq!(rows.num_rows() as u64, file.rows);
            let dates = rows.column_by_name("l_shipdate").unwrap();
            let years = date_part(dates, DatePart::Year).unwrap();
            assert!(years.as_primitive::<Int32Type>().values().iter().all(|year| Some(*year) == file.year));
        }
    }

    #[test]
    fn metrics_say_what_the_file_holds() {
        let folder = tempfile::tempdir().unwrap();
        let files =
            generate(TpchTable::Orders, SCALE, folder.path(), &Layout::bare(2, 200), &|_| ControlFlow::Continue(()))
                .unwrap();
        assert_eq!(files.len(), 2);
        for file in files {
            assert_eq!(file.size_bytes, fs::metadata(&file.path).unwrap().len());
            let rows = read(&file.path);
            let groups = rows.num_rows().div_ceil(200);
            assert_eq!(file.metrics.split_offsets.len(), groups);
            assert_eq!(file.metrics.split_offsets[0], 4, "the first row group follows the magic bytes");
            assert!(file.metrics.split_offsets.is_sorted());

            let ids: Vec<i32> = file.metrics.columns.keys().copied().collect();
            assert_eq!(ids, (1..=9).collect::<Vec<_>>());
            let date = &file.metrics.columns[&5];
            let dates: &Date32Array = rows.column(4).as_primitive::<Date32Type>();
            assert_eq!(date.lower, Some(ScalarValue::Date32(dates.values().iter().min().copied())));
            assert_eq!(date.upper, Some(ScalarValue::Date32(dates.values().iter().max().copied())));
            let comment = &file.metrics.columns[&9];
            let comments = rows.column(8).as_string::<i32>();
            let (lower, upper) =
                (comment.lower.clone().unwrap().to_string(), comment.upper.clone().unwrap().to_string());
            assert!(comments.iter().flatten().all(|text| lower.as_str() <= text && text <= upper.as_str()));
            for column in file.metrics.columns.values() {
                assert_eq!((column.values, column.nulls), (file.rows, 0));
                assert!(column.size_bytes > 0 && column.size_bytes < file.size_bytes);
            }
        }
    }

    #[test]
    fn files_carry_field_ids_and_plain_strings() {
        let folder = tempfile::tempdir().unwrap();
        for table in TpchTable::ALL {
            let layout = Layout::bare(1, 1000);
            let files =
                generate(table, SCALE, &folder.path().join(table.name()), &layout, &|_| ControlFlow::Continue(()))
                    .unwrap();
            let schema = read(&files[0].path).schema();
            assert_eq!(schema, table.schema());
            assert!(schema.fields().iter().all(|field| field.data_type() != &DataType::Utf8View));
        }
    }

    #[test]
    fn progress_can_stop_the_work() {
        let folder = tempfile::tempdir().unwrap();
        let told = AtomicUsize::new(0);
        let stop = |_| {
            told.fetch_add(1, Ordering::Relaxed);
            ControlFlow::Break(())
        };
        let error = generate(TpchTable::Orders, SCALE, folder.path(), &Layout::bare(50, 10), &stop).unwrap_err();
        assert!(matches!(error, GenerateError::Stopped { .. }), "{error}");
        assert!(told.into_inner() <= WORKERS_MAX);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("region");
        fs::write(&taken, "a file where the folder should be").unwrap();
        let error = generate(TpchTable::Region, SCALE, &taken, &Layout::bare(1, 10), &|_| ControlFlow::Continue(()))
            .unwrap_err();
        assert!(matches!(&error, GenerateError::Write { path, .. } if *path == taken), "{error}");
    }
}
