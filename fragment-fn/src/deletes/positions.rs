//! Files of positions: Parquet rows of a data file's path and the position of a deleted row in it.

use std::collections::{HashMap, HashSet};
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

/// Deleted positions by the data file's path, None where they were let go. Paths without deleted rows are absent.
pub(super) type Positions = HashMap<Arc<str>, Option<Arc<Deleted>>>;

/// Deleted rows of a data file, and the memory that they take.
#[derive(Debug)]
pub(super) struct Deleted {
    pub(super) rows: RoaringTreemap,
    _memory: MemoryReservation,
}

impl Deleted {
    pub(super) fn new(rows: RoaringTreemap, memory: MemoryReservation) -> Self {
        Self { rows, _memory: memory }
    }

    /// Puts the positions of several delete files together. None where there are none.
    ///
    /// # Errors
    /// The pool's.
    pub(super) fn union(mut found: Vec<Arc<Self>>, pool: &MemoryReservation) -> Result<Option<Arc<Self>>> {
        let Some(first) = found.pop() else { return Ok(None) };
        if found.is_empty() {
            return Ok(Some(first));
        }
        let memory = pool.new_empty();
        memory.try_grow(found.iter().chain([&first]).map(|each| bytes(&each.rows)).sum())?;
        let mut rows = first.rows.clone();
        found.iter().for_each(|each| rows |= &each.rows);
        // Containers of another kind may take more than those of both.
        memory.try_grow(bytes(&rows).saturating_sub(memory.size()))?;
        memory.shrink(memory.size().saturating_sub(bytes(&rows)));
        Ok(Some(Arc::new(Self::new(rows, memory))))
    }
}

/// Estimates the memory of positions.
fn bytes(rows: &RoaringTreemap) -> usize {
    2 * rows.serialized_size()
}

/// Reads the positions of the data files whose paths are `wanted`. `pool` is that of their memory.
///
/// # Errors
/// A [`DamagedDeletes`] where the file makes no sense, the reader's own errors, and the pool's.
pub(super) async fn read<R>(reader: R, wanted: &HashSet<Arc<str>>, pool: &MemoryReservation) -> Result<Positions>
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
    let mut found = Found {
        wanted,
        numbers: HashMap::new(),
        deleted: Vec::new(),
        path_first: path < position,
        memory: pool.new_empty(),
    };
    while let Some(batch) = rows.try_next().await? {
        found.add(&batch)?;
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
fn may_name(statistics: Option<&Statistics>, wanted: &HashSet<Arc<str>>) -> bool {
    let bounds = statistics.filter(|statistics| !statistics.is_min_max_deprecated());
    let bounds = bounds.and_then(|statistics| Some((statistics.min_bytes_opt()?, statistics.max_bytes_opt()?)));
    match bounds {
        Some((lower, upper)) if lower <= upper => wanted
            .iter()
            .map(|path| path.as_bytes())
            .any(|path| lower <= path && (path <= upper || path.starts_with(upper))),
        _ => true,
    }
}

/// Positions that were found so far.
struct Found<'a> {
    wanted: &'a HashSet<Arc<str>>,
    /// Places in `deleted` of the paths that were found.
    numbers: HashMap<Arc<str>, usize>,
    deleted: Vec<(Arc<str>, RoaringTreemap)>,
    /// True if the path is the first of the two columns.
    path_first: bool,
    memory: MemoryReservation,
}

impl Found<'_> {
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
        let (paths, positions, mut begin) = (paths, positions.values(), 0);
        while begin < paths.len() {
            let path = paths.value(begin);
            let run = (begin..paths.len()).take_while(|row| paths.value(*row) == path).count();
            self.add_run(path, &positions[begin..begin + run])?;
            begin += run;
        }
        Ok(())
    }

    /// Adds positions of one data file.
    fn add_run(&mut self, path: &[u8], positions: &[i64]) -> Result<()> {
        let path = std::str::from_utf8(path).ok().and_then(|path| self.wanted.get(path));
        let Some(path) = path else { return Ok(()) };
        let number = *self.numbers.entry(Arc::clone(path)).or_insert_with(|| {
            self.deleted.push((Arc::clone(path), RoaringTreemap::new()));
            self.deleted.len() - 1
        });
        let rows = &mut self.deleted[number].1;
        let before = bytes(rows);
        for position in positions {
            let Ok(row) = u64::try_from(*position) else {
                return Err(DamagedDeletes(format!("it deletes row {position} of {path}")).into());
            };
            rows.insert(row);
        }
        self.memory.try_grow(bytes(rows).saturating_sub(before))
    }

    fn positions(self) -> Positions {
        let Self { deleted, memory, .. } = self;
        let each = deleted.into_iter().filter(|(_, rows)| !rows.is_empty());
        each.map(|(path, rows)| {
            let own = memory.split(bytes(&rows).min(memory.size()));
            (path, Some(Arc::new(Deleted::new(rows, own))))
        })
        .collect()
    }
}
