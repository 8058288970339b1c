//! Writer of rows by partition, for the functions of another stage.
//!
//! ```text
//!  rows ─► hash or range of the key ─► rows of each partition ─► encoded chunks ─┬─► one after the other, in the order of partitions
//!                                               memory of the pool ──────────────┴─► a temporary file, where the pool is full
//! ```
//!
//! Regions follow one another, so that nothing is written before the last row has come. Until then encoded chunks wait: in memory of the pool, or in one temporary
//! file. Rows that are too few for a chunk have some memory of their own, so that a full pool does not make small chunks of them. Beside the pool it holds one batch, and
//! three multipart parts at the end.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::common::{DataFusionError, Result, exec_err, internal_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryReservation};
use datafusion::execution::{SpillFile, SpillWriter, TaskContext};
use datafusion::physical_expr::Partitioning;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::Time;
use datafusion::physical_plan::repartition::{BatchPartitioner, RepartitionExec};
use gust_protocol::exchange::{ExchangeError, ResultTarget, Upload, compact};
use gust_protocol::parts::{PARTITIONS_MAX, Regions, encode_messages};
use gust_protocol::{Base64, FragmentError, FragmentResult, ObjectRef, PartsPlace, StreamSummary};

use crate::classify::{classify, classify_write};

/// Least bytes of a partition's rows in memory that are encoded together.
const CHUNK_BYTES_MIN: usize = 64 << 10;

/// Least bytes of them where memory is short, and memory of each partition that others cannot have.
const CHUNK_BYTES_SHORT: usize = CHUNK_BYTES_MIN / 4;

/// Part of the pool that the memory of all partitions may be.
const FLOOR_DIVISOR: usize = 8;

/// A plan whose rows go to functions of another stage, by the hash of keys, or by ranges of one.
pub(crate) struct PartedPlan {
    /// Plan below the exchange.
    pub(crate) input: Arc<dyn ExecutionPlan>,
    partitioner: BatchPartitioner,
    partitions: usize,
}

impl PartedPlan {
    /// Takes the exchange off the top of a plan. It is not run: it says how the rows are parted.
    ///
    /// # Errors
    /// A plan without such an exchange, and a number of partitions that no exchange has.
    pub(crate) fn of(plan: &Arc<dyn ExecutionPlan>, partitions: u32) -> Result<Self> {
        let partitions = partitions as usize;
        let Some(exchange) = plan.downcast_ref::<RepartitionExec>() else {
            return internal_err!("rows by partition are asked for of {}", plan.name());
        };
        if !(1..=PARTITIONS_MAX).contains(&partitions) {
            return internal_err!("rows are parted into {partitions} partitions");
        }
        let partitioner = match exchange.partitioning() {
            Partitioning::Hash(keys, _) => {
                BatchPartitioner::new_hash_partitioner(keys.clone(), partitions, Time::new())?
            }
            Partitioning::Range(ranges) if ranges.partition_count() == partitions => {
                BatchPartitioner::new_range_partitioner(ranges, Time::new())
            }
            Partitioning::Range(ranges) => {
                let count = ranges.partition_count();
                return internal_err!("rows of {count} ranges are parted into {partitions} partitions");
            }
            other => return internal_err!("rows are parted by {other}, and not by a hash or by ranges"),
        };
        Ok(Self { input: Arc::clone(exchange.input()), partitioner, partitions })
    }
}

/// Rows of one partition.
#[derive(Default)]
struct Part {
    /// Rows that are too few to be encoded.
    pending: Vec<RecordBatch>,
    pending_bytes: usize,
    chunks: Vec<Chunk>,
    region: Region,
}

/// Summary of the chunks so far.
struct Region {
    bytes: u64,
    rows: u64,
    checksum: crc32fast::Hasher,
}

impl Default for Region {
    fn default() -> Self {
        Self { bytes: 0, rows: 0, checksum: crc32fast::Hasher::new() }
    }
}

/// Encoded rows, and their place.
enum Chunk {
    Memory(Bytes),
    File { offset: u64, bytes: usize },
}

/// The temporary file.
struct Spilled {
    file: Arc<dyn SpillFile>,
    writer: Box<dyn SpillWriter>,
    bytes: u64,
}

/// Writer of one attempt's rows.
pub(crate) struct PartsWriter {
    schema: SchemaRef,
    partitioner: BatchPartitioner,
    parts: Vec<Part>,
    /// Memory of pending rows that is not given away.
    floor: MemoryReservation,
    /// Memory of other pending rows, and of encoded chunks.
    held: MemoryReservation,
    /// Bytes of pending rows.
    pending_bytes: usize,
    /// Bytes of chunks in memory.
    chunk_bytes: usize,
    context: Arc<TaskContext>,
    spilled: Option<Spilled>,
    inline_bytes_max: u64,
    target: ResultTarget,
}

impl PartsWriter {
    pub(crate) fn new(
        plan: PartedPlan,
        context: &Arc<TaskContext>,
        inline_bytes_max: u64,
        target: ResultTarget,
    ) -> Self {
        let PartedPlan { input, partitioner, partitions } = plan;
        let pool = context.memory_pool();
        let held = MemoryConsumer::new("rows by partition").with_can_spill(true).register(pool);
        let floor = MemoryConsumer::new("rows by partition, too few").register(pool);
        let floor_bytes = match pool.memory_limit() {
            MemoryLimit::Finite(bytes) => (partitions * CHUNK_BYTES_SHORT).min(bytes / FLOOR_DIVISOR),
            MemoryLimit::Infinite | MemoryLimit::Unknown => 0,
        };
        // Without it chunks may be small.
        let _ = floor.try_grow(floor_bytes);
        Self {
            schema: input.schema(),
            partitioner,
            parts: std::iter::repeat_with(Part::default).take(partitions).collect(),
            floor,
            held,
            pending_bytes: 0,
            chunk_bytes: 0,
            context: Arc::clone(context),
            spilled: None,
            inline_bytes_max,
            target,
        }
    }

    /// Returns the bytes that were written to the temporary file.
    pub(crate) fn spilled_bytes(&self) -> u64 {
        self.spilled.as_ref().map_or(0, |spilled| spilled.bytes)
    }

    pub(crate) fn write(&mut self, batch: RecordBatch) -> Result<(), FragmentError> {
        self.part(batch).map_err(|error| classify(&error))
    }

    fn part(&mut self, batch: RecordBatch) -> Result<()> {
        let has_types = batch.num_columns() == self.schema.fields().len()
            && batch
                .columns()
                .iter()
                .zip(self.schema.fields())
                .all(|(column, field)| column.data_type() == field.data_type());
        if !has_types {
            return exec_err!("rows have the columns {}, the plan has {}", batch.schema(), self.schema);
        }
        for parted in self.partitioner.partition_iter(batch)? {
            let (partition, rows) = parted?;
            if rows.num_rows() == 0 {
                continue;
            }
            let rows = compact(&rows)?;
            let (part, bytes) = (&mut self.parts[partition], rows.get_array_memory_size());
            part.pending.push(rows);
            part.pending_bytes += bytes;
            self.pending_bytes += bytes;
            if part.pending_bytes >= CHUNK_BYTES_MIN {
                self.pending_bytes -= part.pending_bytes;
                self.chunk_bytes += part.encode(&self.schema)?;
            }
        }
        self.make_room()
    }

    /// Moves chunks to the temporary file until the rest fits memory.
    fn make_room(&mut self) -> Result<()> {
        if self.fits() {
            return Ok(());
        }
        self.spill()?;
        for least in [CHUNK_BYTES_SHORT, 1] {
            if self.fits() {
                return Ok(());
            }
            for part in self.parts.iter_mut().filter(|part| part.pending_bytes >= least) {
                self.pending_bytes -= part.pending_bytes;
                self.chunk_bytes += part.encode(&self.schema)?;
            }
            self.spill()?;
        }
        self.held.free();
        Ok(())
    }

    /// Returns true if there is memory for everything that is held.
    fn fits(&mut self) -> bool {
        let bytes = (self.pending_bytes + self.chunk_bytes).saturating_sub(self.floor.size());
        self.held.try_resize(bytes).is_ok()
    }

    /// Moves all chunks to the temporary file.
    fn spill(&mut self) -> Result<()> {
        let mut spilled = match self.spilled.take() {
            Some(spilled) => spilled,
            None => {
                let file = self.context.runtime_env().disk_manager.create_tmp_file("rows by partition")?;
                Spilled { writer: file.open_writer()?, file, bytes: 0 }
            }
        };
        for part in &mut self.parts {
            for chunk in &mut part.chunks {
                let Chunk::Memory(encoded) = chunk else { continue };
                spilled.writer.write_all(encoded)?;
                let (offset, bytes) = (spilled.bytes, encoded.len());
                *chunk = Chunk::File { offset, bytes };
                spilled.bytes += bytes as u64;
            }
        }
        self.spilled = Some(spilled);
        self.chunk_bytes = 0;
        Ok(())
    }

    /// Writes all regions. An object is complete when this returns.
    pub(crate) async fn finish(&mut self) -> Result<FragmentResult, FragmentError> {
        for part in &mut self.parts {
            part.encode(&self.schema).map_err(|error| classify(&error))?;
        }
        let parts = std::mem::take(&mut self.parts);
        let regions = Regions(parts.iter().map(Part::summary).collect());
        let (part, encoded) = (regions.whole(), regions.encode());
        let result = |place| FragmentResult::Parts { place, part, regions: encoded };
        let chunks: Vec<Chunk> = parts.into_iter().flat_map(|part| part.chunks).collect();
        let path = self.spilled.as_ref().and_then(|spilled| spilled.file.path());
        let file = path.map(File::open).transpose().map_err(|error| classify(&error.into()))?.map(Arc::new);
        if part.bytes <= self.inline_bytes_max {
            let mut bytes = Vec::with_capacity(usize::try_from(part.bytes).unwrap_or_default());
            for chunk in &chunks {
                bytes.extend_from_slice(&read(chunk, file.as_ref()).await.map_err(|error| classify(&error))?);
            }
            return Ok(result(PartsPlace::Inline(Base64(bytes.into()))));
        }
        let mut upload = Upload::new(&self.target);
        if let Err(error) = uploaded(&mut upload, &chunks, file.as_ref()).await {
            upload.abort().await;
            return Err(error);
        }
        upload.finish().await.map_err(|error| classify_write(&error))?;
        let (access, path) = (self.target.access, self.target.path.to_string());
        let object = ObjectRef { access, path, size_bytes: part.bytes, etag: None, footer_bytes: None };
        Ok(result(PartsPlace::Object(object)))
    }
}

/// Writes chunks in their order. `file` is the temporary file.
async fn uploaded(upload: &mut Upload, chunks: &[Chunk], file: Option<&Arc<File>>) -> Result<(), FragmentError> {
    for chunk in chunks {
        let bytes = read(chunk, file).await.map_err(|error| classify(&error))?;
        upload.put(bytes).await.map_err(|error| classify_write(&error))?;
    }
    Ok(())
}

/// Returns the bytes of a chunk.
async fn read(chunk: &Chunk, file: Option<&Arc<File>>) -> Result<Bytes> {
    let (offset, bytes) = match chunk {
        Chunk::Memory(encoded) => return Ok(encoded.clone()),
        Chunk::File { offset, bytes } => (*offset, *bytes),
    };
    let Some(file) = file.cloned() else { return internal_err!("the file of spilled rows is gone") };
    let reading = tokio::task::spawn_blocking(move || {
        let mut chunk = vec![0; bytes];
        file.read_exact_at(&mut chunk, offset)?;
        Ok::<_, std::io::Error>(chunk)
    });
    let chunk = reading.await.map_err(|error| DataFusionError::External(Box::new(error)))?;
    Ok(chunk?.into())
}

impl Part {
    /// Encodes the pending rows. Returns the bytes that they have then.
    fn encode(&mut self, schema: &SchemaRef) -> Result<usize> {
        self.pending_bytes = 0;
        let pending = std::mem::take(&mut self.pending);
        let Some(first) = pending.first() else { return Ok(0) };
        // Names of fields may differ from the schema's. Types do not.
        let rows = concat_batches(&first.schema(), &pending)?;
        let encoded: Bytes = encode_messages(schema, std::slice::from_ref(&rows)).map_err(external)?.into();
        self.region.bytes += encoded.len() as u64;
        self.region.rows += rows.num_rows() as u64;
        self.region.checksum.update(&encoded);
        let bytes = encoded.len();
        self.chunks.push(Chunk::Memory(encoded));
        Ok(bytes)
    }

    fn summary(&self) -> StreamSummary {
        let Region { bytes, rows, checksum } = &self.region;
        StreamSummary { bytes: *bytes, rows: *rows, crc32: checksum.clone().finalize() }
    }
}

fn external(error: ExchangeError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, StringArray};
    use arrow::compute::{SortOptions, concat, sort};
    use datafusion::common::ScalarValue;
    use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool};
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::physical_expr::expressions::col;
    use datafusion::physical_expr::{PhysicalSortExpr, RangePartitioning, SplitPoint};
    use datafusion::physical_plan::empty::EmptyExec;
    use object_store::memory::InMemory;
    use object_store::path::Path;

    use super::*;

    const PARTITIONS: usize = 8;

    fn batch(from: i64) -> RecordBatch {
        let keys: ArrayRef = Arc::new((from..from + 64).collect::<Int64Array>());
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((from..from + 64).map(|at| format!("{at:->99}"))));
        RecordBatch::try_from_iter([("k", keys), ("s", texts)]).expect("two columns")
    }

    /// Writes many small batches while others hold all but `left` bytes of a pool of 4 MiB.
    fn written(left: usize) -> PartsWriter {
        let pool: Arc<dyn MemoryPool> = Arc::new(FairSpillPool::new(4 << 20));
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::clone(&pool)).build_arc().expect("a runtime");
        let context = Arc::new(TaskContext::default().with_runtime(runtime));
        let schema = batch(0).schema();
        let keys = vec![col("k", &schema).expect("a column")];
        let partitioning = Partitioning::Hash(keys, PARTITIONS);
        let exchange = RepartitionExec::try_new(Arc::new(EmptyExec::new(schema)), partitioning).expect("an exchange");
        let plan: Arc<dyn ExecutionPlan> = Arc::new(exchange);
        let plan = PartedPlan::of(&plan, PARTITIONS as u32).expect("a hash");
        let store = Arc::new(InMemory::new());
        let target = ResultTarget { access: 0, store, path: Path::from("rows") };
        let mut writer = PartsWriter::new(plan, &context, u64::MAX, target);
        let others = MemoryConsumer::new("others").register(&pool);
        others.try_grow((4 << 20) - pool.reserved() - left).expect("room");
        (0..200).for_each(|at| writer.write(batch(at * 64)).expect("written"));
        drop(others);
        writer
    }

    #[tokio::test]
    async fn rows_wait_in_a_file_in_chunks_that_are_not_small() {
        let rows = async |mut writer: PartsWriter| {
            let FragmentResult::Parts { place: PartsPlace::Inline(bytes), part, .. } =
                writer.finish().await.expect("rows")
            else {
                panic!("not inline")
            };
            assert_eq!((bytes.0.len() as u64, crc32fast::hash(&bytes.0)), (part.bytes, part.crc32));
            part.rows
        };
        let chunks = |writer: &PartsWriter| writer.parts.iter().map(|part| part.chunks.len()).sum::<usize>();
        let plenty = written(2 << 20);
        assert_eq!(plenty.spilled_bytes(), 0);
        let chunks_of_plenty = chunks(&plenty);
        assert_eq!(rows(plenty).await, 200 * 64);
        let short = written(0);
        assert!(short.spilled_bytes() > 0);
        // The last rows of each partition are not encoded yet.
        let chunks_max = (chunks_of_plenty + PARTITIONS) * (CHUNK_BYTES_MIN / CHUNK_BYTES_SHORT);
        let chunks = chunks(&short);
        assert!(chunks <= chunks_max, "{chunks} chunks, {chunks_max} at most");
        assert_eq!(rows(short).await, 200 * 64);
    }

    /// Rows of each range are behind those of the ranges before it, as sorts have them: NULLs, NaN and zeros, too.
    #[test]
    fn ranges_part_rows_in_the_order_of_sorts() {
        let floats =
            [Some(1.5), None, Some(f64::NAN), Some(-0.0), Some(0.0), Some(-7.0), Some(f64::INFINITY), Some(1.0)];
        let floats: ArrayRef = Arc::new(Float64Array::from(floats.to_vec()));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![
            Some("b"),
            None,
            Some(""),
            Some("é"),
            Some("z"),
            Some("a"),
            Some("日"),
            Some("B"),
        ]));
        let rows =
            RecordBatch::try_from_iter_with_nullable([("f", floats, true), ("s", texts, true)]).expect("two columns");
        let schema = rows.schema();
        let text = |text: &str| ScalarValue::Utf8(Some(text.to_owned()));
        for (column, points) in [
            ("f", vec![ScalarValue::from(-1.0_f64), ScalarValue::from(0.0_f64), ScalarValue::from(1.5_f64)]),
            ("s", vec![text("B"), text("b"), text("é")]),
        ] {
            for (descending, nulls_first) in [(false, false), (false, true), (true, false), (true, true)] {
                let options = SortOptions { descending, nulls_first };
                let order = [PhysicalSortExpr::new(col(column, &schema).expect("a column"), options)].into();
                let mut points = points.clone();
                if descending {
                    points.reverse();
                }
                let points = points.into_iter().map(|point| SplitPoint::new(vec![point])).collect();
                let ranges = RangePartitioning::try_new(order, points).expect("ascending bounds");
                let empty = Arc::new(EmptyExec::new(Arc::clone(&schema)));
                let exchange = RepartitionExec::try_new(empty, Partitioning::Range(ranges)).expect("an exchange");
                let plan: Arc<dyn ExecutionPlan> = Arc::new(exchange);
                let mut parted = PartedPlan::of(&plan, 4).expect("ranges");
                assert!(PartedPlan::of(&plan, 5).is_err(), "another number than the plan's");
                let parts = parted.partitioner.partition_iter(rows.clone()).expect("parted");
                let mut parts: Vec<(usize, RecordBatch)> = parts.collect::<Result<_>>().expect("parted");
                parts.sort_by_key(|(partition, _)| *partition);
                let sorted = |keys: &ArrayRef| sort(keys, Some(options)).expect("sorted");
                let keys: Vec<ArrayRef> =
                    parts.iter().map(|(_, part)| sorted(part.column_by_name(column).expect("the key"))).collect();
                let keys: Vec<&dyn Array> = keys.iter().map(AsRef::as_ref).collect();
                let whole = sorted(rows.column_by_name(column).expect("the key"));
                assert_eq!(
                    format!("{:?}", concat(&keys).expect("one type")),
                    format!("{whole:?}"),
                    "{column} {options:?}"
                );
                assert_eq!(parts.len(), 4, "each range has rows: {column} {options:?}");
            }
        }
    }
}
