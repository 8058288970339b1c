//! Writer of rows by partition, for the functions of another stage.
//!
//! ```text
//!  rows ─► hash of the keys ─► rows of each partition ─► encoded chunks ─┬─► one after the other, in the order of partitions
//!                                        memory of the pool ─────────────┴─► a temporary file, where the pool is full
//! ```
//!
//! Regions follow one another, so that nothing is written before the last row has come. Until then encoded chunks wait: in memory of the pool, or in one temporary
//! file. Beside the pool it holds one batch, and three multipart parts at the end.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::common::{DataFusionError, Result, exec_err, internal_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
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

/// A plan whose rows go to functions of another stage, by the hash of keys.
pub(crate) struct HashedPlan {
    /// Plan below the exchange.
    pub(crate) input: Arc<dyn ExecutionPlan>,
    partitioner: BatchPartitioner,
    partitions: usize,
}

impl HashedPlan {
    /// Takes the exchange off the top of a plan. It is not run: it says how the rows are parted.
    ///
    /// # Errors
    /// A plan without such an exchange, and a number of partitions that no exchange has.
    pub(crate) fn of(plan: &Arc<dyn ExecutionPlan>, partitions: u32) -> Result<Self> {
        let partitions = partitions as usize;
        let Some(exchange) = plan.downcast_ref::<RepartitionExec>() else {
            return internal_err!("rows by partition are asked for of {}", plan.name());
        };
        let Partitioning::Hash(keys, _) = exchange.partitioning() else {
            return internal_err!("rows are parted by {}, not by a hash", exchange.partitioning());
        };
        if !(1..=PARTITIONS_MAX).contains(&partitions) {
            return internal_err!("rows are parted into {partitions} partitions");
        }
        let partitioner = BatchPartitioner::new_hash_partitioner(keys.clone(), partitions, Time::new())?;
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
    /// Memory of pending rows and of encoded chunks.
    held: MemoryReservation,
    /// Bytes that `held` should have.
    bytes: usize,
    context: Arc<TaskContext>,
    spilled: Option<Spilled>,
    inline_bytes_max: u64,
    target: ResultTarget,
}

impl PartsWriter {
    pub(crate) fn new(
        plan: HashedPlan,
        context: &Arc<TaskContext>,
        inline_bytes_max: u64,
        target: ResultTarget,
    ) -> Self {
        let HashedPlan { input, partitioner, partitions } = plan;
        let held = MemoryConsumer::new("rows by partition").with_can_spill(true).register(context.memory_pool());
        Self {
            schema: input.schema(),
            partitioner,
            parts: std::iter::repeat_with(Part::default).take(partitions).collect(),
            held,
            bytes: 0,
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
            self.bytes += bytes;
            if part.pending_bytes >= CHUNK_BYTES_MIN {
                self.bytes = self.bytes - part.pending_bytes + part.encode(&self.schema)?;
            }
        }
        if self.held.try_resize(self.bytes).is_err() {
            self.spill()?;
        }
        Ok(())
    }

    /// Encodes what is pending, and moves all chunks to the temporary file.
    fn spill(&mut self) -> Result<()> {
        let mut spilled = match self.spilled.take() {
            Some(spilled) => spilled,
            None => {
                let file = self.context.runtime_env().disk_manager.create_tmp_file("rows by partition")?;
                Spilled { writer: file.open_writer()?, file, bytes: 0 }
            }
        };
        for part in &mut self.parts {
            part.encode(&self.schema)?;
            for chunk in &mut part.chunks {
                let Chunk::Memory(encoded) = chunk else { continue };
                spilled.writer.write_all(encoded)?;
                let (offset, bytes) = (spilled.bytes, encoded.len());
                *chunk = Chunk::File { offset, bytes };
                spilled.bytes += bytes as u64;
            }
        }
        self.spilled = Some(spilled);
        self.bytes = 0;
        self.held.free();
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
        let file = self.spilled.as_ref().and_then(|spilled| spilled.file.path()).map(Path::to_owned);
        if part.bytes <= self.inline_bytes_max {
            let mut bytes = Vec::with_capacity(usize::try_from(part.bytes).unwrap_or_default());
            for chunk in &chunks {
                bytes.extend_from_slice(&read(chunk, file.as_deref()).await.map_err(|error| classify(&error))?);
            }
            return Ok(result(PartsPlace::Inline(Base64(bytes.into()))));
        }
        let mut upload = Upload::new(&self.target);
        if let Err(error) = uploaded(&mut upload, &chunks, file.as_deref()).await {
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
async fn uploaded(upload: &mut Upload, chunks: &[Chunk], file: Option<&Path>) -> Result<(), FragmentError> {
    for chunk in chunks {
        let bytes = read(chunk, file).await.map_err(|error| classify(&error))?;
        upload.put(bytes).await.map_err(|error| classify_write(&error))?;
    }
    Ok(())
}

/// Returns the bytes of a chunk.
async fn read(chunk: &Chunk, file: Option<&Path>) -> Result<Bytes> {
    let (offset, bytes) = match chunk {
        Chunk::Memory(encoded) => return Ok(encoded.clone()),
        Chunk::File { offset, bytes } => (*offset, *bytes),
    };
    let Some(file) = file.map(Path::to_owned) else { return internal_err!("the file of spilled rows is gone") };
    let reading = tokio::task::spawn_blocking(move || {
        let mut chunk = vec![0; bytes];
        File::open(file)?.read_exact_at(&mut chunk, offset)?;
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
