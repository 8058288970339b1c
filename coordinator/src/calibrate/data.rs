//! Tables that a calibration reads.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use bytes::Bytes;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::demo::generate::{Layout, generate};
use crate::demo::table::TpchTable;

/// Files of `plain`. Each is read with one request; there are enough for a few functions.
pub(super) const PLAIN_FILES: usize = 4;
const COLUMNS: usize = 8;
/// Files of the compressed table.
const FILES: usize = 4;
const ROW_GROUP_ROWS: usize = 32 * 1024;
/// Scale factor of the compressed table: 600,000 rows of lineitem, about 17 MB.
const SCALE: f64 = 0.1;
/// Rows of each file of the dense table: so many that a core computes for far longer on them than on one row.
const DENSE_ROWS: usize = 1 << 20;
const DENSE_COLUMNS: usize = 4;

/// Place of the data: objects under one prefix, and files that only the coordinator reads.
pub(super) struct CalibrationData {
    pub store: Arc<dyn ObjectStore>,
    /// Key prefix inside the store.
    pub prefix: Key,
    /// URL of the prefix, with a slash at its end.
    pub url: String,
    /// Folder on the coordinator's machine.
    pub folder: PathBuf,
}

/// Reason why there is no data to measure with.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("the calibration's tables cannot be written to {place}: {error}")]
    Store { place: String, error: object_store::Error },
    #[error("the calibration's tables cannot be made: {0}")]
    Made(String),
}

impl DataError {
    /// Returns the next step.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Store { .. } => Some("check `exchange`, the credentials and the bucket's policy"),
            Self::Made(_) => None,
        }
    }
}

impl CalibrationData {
    /// Writes all tables.
    ///
    /// - `tiny`: `tiny_files` of one row;
    /// - `plain`: random integers, `plain_bytes`;
    /// - `dense`: a few kilobytes of very many rows, one file for each of a function's lanes;
    /// - `lineitem`, in the folder.
    pub async fn write(&self, tiny_files: usize, plain_bytes: u64, lanes: usize) -> Result<(), DataError> {
        for file in 0..tiny_files {
            self.put("tiny", file, plain_file(file as u64, 1).map_err(|e| DataError::Made(e.to_string()))?).await?;
        }
        let rows = plain_rows(plain_bytes);
        for file in 0..PLAIN_FILES {
            self.put("plain", file, plain_file(file as u64, rows).map_err(|e| DataError::Made(e.to_string()))?).await?;
        }
        let dense = dense_file().map_err(|e| DataError::Made(e.to_string()))?;
        for file in 0..lanes {
            self.put("dense", file, dense.clone()).await?;
        }
        let layout = Layout::bare(FILES, ROW_GROUP_ROWS);
        let made = generate(TpchTable::LineItem, SCALE, &self.folder, &layout, &|_| ControlFlow::Continue(()));
        made.map_err(|error| DataError::Made(error.to_string()))?;
        Ok(())
    }

    async fn put(&self, table: &str, file: usize, bytes: Bytes) -> Result<(), DataError> {
        let key = self.key(table, file);
        let put = self.store.put(&key, bytes.into()).await;
        put.map(drop).map_err(|error| DataError::Store { place: self.url.clone(), error })
    }

    fn key(&self, table: &str, file: usize) -> Key {
        self.prefix.parts().chain(Key::from(format!("{table}/{file:05}.parquet")).parts()).collect()
    }

    /// Returns the key of an object whose first bytes can be read again and again: a file of `plain`.
    pub fn one_file(&self) -> Key {
        self.key("plain", 0)
    }

    /// Returns the statements that make tables of the objects. `one` is a file of `tiny`, `piece` a file of `plain`.
    pub fn create(&self) -> Vec<String> {
        let tables = [
            ("tiny", "tiny/"),
            ("one", "tiny/00000.parquet"),
            ("plain", "plain/"),
            ("piece", "plain/00000.parquet"),
            ("dense", "dense/"),
        ];
        let create = |(name, place): (&str, &str)| {
            format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{}{place}'", self.url)
        };
        tables.map(create).into()
    }

    /// Returns the bytes of the values in a file of `plain`, as they lie in storage.
    pub fn piece_bytes(plain_bytes: u64) -> f64 {
        (plain_rows(plain_bytes) * COLUMNS * size_of::<i64>()) as f64
    }

    /// Returns the statement that makes a table of the files that only the coordinator reads.
    pub fn create_lineitem(&self) -> String {
        let folder = self.folder.display();
        format!("CREATE EXTERNAL TABLE lineitem STORED AS PARQUET LOCATION '{folder}/'")
    }

    pub async fn remove(&self) {
        use futures::TryStreamExt;
        let found: Result<Vec<_>, _> = self.store.list(Some(&self.prefix)).try_collect().await;
        for meta in found.unwrap_or_default() {
            if let Err(error) = self.store.delete(&meta.location).await {
                tracing::warn!(%error, "an object of the calibration stays");
            }
        }
    }
}

fn plain_rows(plain_bytes: u64) -> usize {
    (plain_bytes as usize / (PLAIN_FILES * COLUMNS * size_of::<i64>())).max(1)
}

/// Writes the same values over and over: next to nothing to read, and as much to compute as there are rows.
fn dense_file() -> Result<Bytes, ParquetError> {
    // There are two values, for a column of one value would be computed once.
    let values = || (0..DENSE_ROWS).map(|row| if row < DENSE_ROWS / 2 { 7 } else { 8 });
    let column = || Arc::new(Int64Array::from_iter_values(values())) as ArrayRef;
    file((0..DENSE_COLUMNS).map(|_| column()), WriterProperties::builder())
}

/// Writes columns `c0`, `c1` … in one row group.
fn file(columns: impl Iterator<Item = ArrayRef>, properties: WriterPropertiesBuilder) -> Result<Bytes, ParquetError> {
    let rows = RecordBatch::try_from_iter(columns.enumerate().map(|(index, column)| (format!("c{index}"), column)))?;
    let properties = properties.set_max_row_group_row_count(Some(rows.num_rows())).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties))?;
    writer.write(&rows)?;
    Ok(writer.into_inner()?.into())
}

/// Writes random integers, neither encoded nor compressed, so that only their reading takes time.
fn plain_file(seed: u64, rows: usize) -> Result<Bytes, ParquetError> {
    let mut random = SmallRng::seed_from_u64(seed);
    // The sums of 44 random bits and a sign do not overflow.
    let mut column = || {
        let values: Int64Array = (0..rows).map(|_| Some(random.random::<i64>() >> 19)).collect();
        Arc::new(values) as ArrayRef
    };
    let properties =
        WriterProperties::builder().set_compression(Compression::UNCOMPRESSED).set_dictionary_enabled(false);
    file((0..COLUMNS).map(|_| column()), properties)
}
