//! Files of positions: Parquet rows of a data file's path and the position of a deleted row in it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::Result;
use datafusion::execution::memory_pool::MemoryReservation;
use futures::TryStreamExt;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::basic::Type as PhysicalType;
use parquet::file::statistics::Statistics;
use parquet::schema::types::SchemaDescriptor;
use roaring::RoaringTreemap;

use super::DamagedDeletes;

/// Field id of a data file's path, as the table's metadata spells it (Iceberg's reserved ids).
const FILE_PATH: i32 = i32::MAX - 101;

/// Field id of a row's position in the data file.
const POSITION: i32 = i32::MAX - 102;

/// Deleted positions by the data file's path. Paths without deleted rows are absent.
pub(super) type Positions = BTreeMap<String, Arc<RoaringTreemap>>;

/// Reads the positions of the data files `wanted`. `memory` grows with them.
///
/// # Errors
/// A [`DamagedDeletes`] where the file makes no sense, the reader's own errors, and the pool's.
pub(super) async fn read<R>(reader: R, wanted: &BTreeSet<String>, memory: &MemoryReservation) -> Result<Positions>
where
    R: AsyncFileReader + Unpin + Send + 'static,
{
    // An Arrow schema that the writer left in the file might make other types of the two columns.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchStreamBuilder::new_with_options(reader, options).await?;
    let schema = builder.parquet_schema();
    let path = leaf(schema, FILE_PATH, PhysicalType::BYTE_ARRAY)?;
    let position = leaf(schema, POSITION, PhysicalType::INT64)?;
    let mask = ProjectionMask::leaves(schema, [path, position]);
    let groups = builder.metadata().row_groups().iter().enumerate();
    let groups = groups.filter(|(_, group)| may_name(group.column(path).statistics(), wanted)).map(|(group, _)| group);
    let groups = groups.collect();
    let mut rows = builder.with_projection(mask).with_row_groups(groups).build()?;
    let mut found = Found::new(wanted, path < position);
    let mut held = 0;
    while let Some(batch) = rows.try_next().await? {
        found.add(&batch)?;
        let bytes = found.bytes();
        memory.try_grow(bytes.saturating_sub(held))?;
        held = held.max(bytes);
    }
    Ok(found.positions())
}

/// Returns the leaf with a field id.
///
/// # Errors
/// A [`DamagedDeletes`] where the file has none.
pub(super) fn leaf_of(schema: &SchemaDescriptor, id: i32) -> Result<usize> {
    let has_id = |leaf: &usize| {
        let column = schema.column(*leaf);
        let info = column.self_type().get_basic_info();
        info.has_id() && info.id() == id
    };
    let found = (0..schema.num_columns()).find(has_id);
    found.ok_or_else(|| DamagedDeletes(format!("it has no column with field id {id}")).into())
}

/// Returns the leaf of a column at the top, by its field id.
fn leaf(schema: &SchemaDescriptor, id: i32, wanted: PhysicalType) -> Result<usize> {
    let leaf = leaf_of(schema, id)?;
    let column = schema.column(leaf);
    if column.physical_type() != wanted || column.max_rep_level() > 0 || column.path().parts().len() > 1 {
        let found = column.physical_type();
        return Err(DamagedDeletes(format!("its column with field id {id} is {found:?}, not {wanted:?}")).into());
    }
    Ok(leaf)
}

/// Returns true where a row group may name one of the paths. An upper bound may be cut without being rounded up.
fn may_name(statistics: Option<&Statistics>, wanted: &BTreeSet<String>) -> bool {
    let bounds = statistics.filter(|statistics| !statistics.is_min_max_deprecated());
    let bounds = bounds.and_then(|statistics| Some((statistics.min_bytes_opt()?, statistics.max_bytes_opt()?)));
    match bounds {
        Some((lower, upper)) if lower <= upper => {
            wanted.iter().map(String::as_bytes).any(|path| lower <= path && (path <= upper || path.starts_with(upper)))
        }
        _ => true,
    }
}

/// Positions that were found so far.
struct Found<'a> {
    numbers: HashMap<&'a [u8], usize>,
    paths: Vec<&'a String>,
    deleted: Vec<RoaringTreemap>,
    /// True if the path is the first of the two columns.
    path_first: bool,
}

impl<'a> Found<'a> {
    fn new(wanted: &'a BTreeSet<String>, path_first: bool) -> Self {
        let paths: Vec<&String> = wanted.iter().collect();
        let numbers = paths.iter().enumerate().map(|(number, path)| (path.as_bytes(), number)).collect();
        let deleted = vec![RoaringTreemap::new(); paths.len()];
        Self { numbers, paths, deleted, path_first }
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let (path, position) = if self.path_first { (0, 1) } else { (1, 0) };
        // A path without the annotation of a text is read as bytes.
        let paths = cast(batch.column(path), &DataType::Binary)?;
        let paths = paths.as_binary::<i32>();
        let positions = batch.column(position).as_primitive::<Int64Type>();
        if paths.null_count() > 0 || positions.null_count() > 0 {
            return Err(DamagedDeletes("one of its rows has no path or no position".to_owned()).into());
        }
        // Rows are sorted by path: it is looked up once for each run.
        let mut run: Option<(&[u8], Option<usize>)> = None;
        for (path, position) in paths.iter().flatten().zip(positions.values()) {
            let number = match run {
                Some((last, number)) if last == path => number,
                _ => self.numbers.get(path).copied(),
            };
            run = Some((path, number));
            let Some(number) = number else { continue };
            let Ok(row) = u64::try_from(*position) else {
                let path = self.paths[number];
                return Err(DamagedDeletes(format!("it deletes row {position} of {path}")).into());
            };
            self.deleted[number].insert(row);
        }
        Ok(())
    }

    /// Estimates the memory of the positions.
    fn bytes(&self) -> usize {
        2 * self.deleted.iter().map(RoaringTreemap::serialized_size).sum::<usize>()
    }

    fn positions(self) -> Positions {
        let each = self.paths.into_iter().zip(self.deleted).filter(|(_, deleted)| !deleted.is_empty());
        each.map(|(path, deleted)| (path.clone(), Arc::new(deleted))).collect()
    }
}
