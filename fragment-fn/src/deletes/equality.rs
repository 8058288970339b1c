//! Files of keys: rows of a data file that have one of the keys are deleted, where the file is older than the key.
//!
//! NULL equals NULL. Keys are compared as arrow's row format has them, in the table's types.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, BooleanArray, BooleanBufferBuilder, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, Schema};
use arrow::row::{Row, RowConverter, RowParser, Rows, SortField};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{Result, internal_err, not_impl_err, plan_err};
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::functions::core::get_field;
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::expressions::{col, lit};
use datafusion::physical_expr_adapter::PhysicalExprAdapterFactory;
use datafusion::physical_plan::PhysicalExpr;
use futures::TryStreamExt;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};

use super::key_stream::{BATCH_BYTES, BATCH_KEYS, KeyBatch, KeyStream, KeyWriter};
use super::positions::leaf_of;
use super::runs::HeldBytes;
use crate::columns::{FieldIdMatching, field_id};
use crate::struct_nulls::HandingDown;

/// Memory that a key takes beside its bytes, roughly.
const KEY_BYTES: usize = 64;

/// Column, or a struct's field, that is a part of a key.
#[derive(Debug, Clone)]
pub(super) struct KeyColumn {
    pub(super) id: i32,
    /// Column at the top. A struct has only the field on the way to the key.
    top: FieldRef,
    /// Names of the fields below, from the outside in.
    names: Vec<String>,
    pub(super) data_type: DataType,
}

impl KeyColumn {
    /// Finds a field by its id.
    ///
    /// # Errors
    /// A table without the field, and types that are no keys.
    pub(super) fn of(table: &Schema, id: i32) -> Result<Self> {
        let Some((top, names, data_type)) = table.fields().iter().find_map(|field| way(field, id)) else {
            return plan_err!("rows are deleted by field {id}, which the table does not have");
        };
        if data_type.is_nested() || data_type.is_floating() {
            return not_impl_err!("rows are deleted by `{}` of type {data_type}", top.name());
        }
        Ok(Self { id, top, names, data_type })
    }

    /// Makes the expression of the key in rows of `schema`, which has the column at the top.
    pub(super) fn expr(&self, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
        let column = col(self.top.name(), schema)?;
        if self.names.is_empty() {
            return Ok(column);
        }
        let arguments = std::iter::once(column).chain(self.names.iter().map(|name| lit(name.as_str()))).collect();
        let options = Arc::new(ConfigOptions::default());
        Ok(Arc::new(ScalarFunctionExpr::try_new(get_field(), arguments, schema, options)?))
    }

    /// Makes the expression of the key in rows of a delete file.
    fn expr_in_file(&self, file: &Arc<Schema>) -> Result<Arc<dyn PhysicalExpr>> {
        let table = Arc::new(Schema::new(vec![Arc::clone(&self.top)]));
        let matching = HandingDown(Arc::new(FieldIdMatching::default()));
        let adapter = matching.create(Arc::clone(&table), Arc::clone(file))?;
        adapter.rewrite(self.expr(&table)?)
    }
}

/// Finds the way from a column to the field `id`: the column with this field alone below it, names, and the type.
fn way(field: &FieldRef, id: i32) -> Option<(FieldRef, Vec<String>, DataType)> {
    let optional = |data_type| Arc::new(field.as_ref().clone().with_data_type(data_type).with_nullable(true));
    if field_id(field) == Some(id) {
        let data_type = field.data_type().clone();
        return Some((optional(data_type.clone()), Vec::new(), data_type));
    }
    let DataType::Struct(fields) = field.data_type() else { return None };
    let (below, mut names, data_type) = fields.iter().find_map(|below| way(below, id))?;
    names.insert(0, below.name().clone());
    Some((optional(DataType::Struct([below].into_iter().collect())), names, data_type))
}

/// Keys of the delete files of one group, and the largest sequence number of each.
pub(super) struct Keys {
    columns: Vec<KeyColumn>,
    converter: RowConverter,
    found: NewestOfKeys,
}

struct NewestOfKeys {
    newest: HashMap<Box<[u8]>, i64>,
    /// Sequence number that is no longer of use: no reader has an older data file.
    since: i64,
    memory: MemoryReservation,
}

impl Keys {
    /// Encodes the keys as [`KeyReader::add`] takes them, in their order. None where they would take more than `bytes_max` bytes. It
    /// computes for seconds where keys are many.
    ///
    /// # Errors
    /// The pool's.
    pub(super) fn encode(&self, bytes_max: usize) -> Result<Option<HeldBytes>> {
        let NewestOfKeys { newest, memory, .. } = &self.found;
        let (sorting, encoding) = (memory.new_empty(), memory.new_empty());
        sorting.try_grow(newest.len() * size_of::<(&[u8], i64)>())?;
        let mut keys: Vec<(&[u8], i64)> = newest.iter().map(|(key, newest)| (key.as_ref(), *newest)).collect();
        keys.sort_unstable();
        let (parser, mut writer) = (self.converter.parser(), KeyWriter::new(&self.columns)?);
        let mut left = keys.as_slice();
        while !left.is_empty() {
            let (batch, after) = left.split_at(batch_of(left));
            left = after;
            self.write(&parser, batch, &mut writer)?;
            if writer.bytes() > bytes_max {
                return Ok(None);
            }
            encoding.try_resize(writer.capacity_bytes())?;
        }
        drop((keys, sorting));
        let mut encoded = writer.finish()?;
        if encoded.len() > bytes_max {
            return Ok(None);
        }
        encoded.shrink_to_fit();
        encoding.try_resize(encoded.len())?;
        Ok(Some(HeldBytes::new(encoded.into(), encoding)))
    }

    fn write(&self, parser: &RowParser, keys: &[(&[u8], i64)], writer: &mut KeyWriter) -> Result<()> {
        let columns = self.converter.convert_rows(keys.iter().map(|(key, _)| parser.parse(key)))?;
        writer.write(KeyBatch { columns, newest: keys.iter().map(|(_, newest)| *newest).collect() })
    }
}

/// Returns the number of keys of the next batch: one at least, and otherwise at most [`BATCH_KEYS`] of [`BATCH_BYTES`] together.
fn batch_of(keys: &[(&[u8], i64)]) -> usize {
    let mut bytes = 0;
    let fits = |(key, _): &&(&[u8], i64)| {
        bytes += key.len();
        bytes <= BATCH_BYTES
    };
    keys.iter().take(BATCH_KEYS).take_while(fits).count().max(1)
}

/// Reader of keys: of several files side by side, each key once.
pub(super) struct KeyReader {
    columns: Vec<KeyColumn>,
    converter: RowConverter,
    found: Mutex<NewestOfKeys>,
}

impl KeyReader {
    /// Makes a reader of keys of these fields. `memory` grows with them. Keys that are not newer than `since` are not kept.
    pub(super) fn new(table: &Schema, ids: &[i32], since: i64, memory: MemoryReservation) -> Result<Self> {
        let columns: Vec<_> = ids.iter().map(|id| KeyColumn::of(table, *id)).collect::<Result<_>>()?;
        let fields = columns.iter().map(|column| SortField::new(column.data_type.clone())).collect();
        let found = Mutex::new(NewestOfKeys { newest: HashMap::new(), since, memory });
        Ok(Self { columns, converter: RowConverter::new(fields)?, found })
    }

    /// Adds the keys of a delete file.
    ///
    /// # Errors
    /// A [`super::DamagedDeletes`] where the file makes no sense, the reader's own errors, and the pool's.
    pub(super) async fn read<R>(&self, reader: R, sequence_number: i64) -> Result<()>
    where
        R: AsyncFileReader + Unpin + Send + 'static,
    {
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = ParquetRecordBatchStreamBuilder::new_with_options(reader, options).await?;
        let schema = builder.parquet_schema();
        let leaves: Vec<_> = self.columns.iter().map(|column| leaf_of(schema, column.id)).collect::<Result<_>>()?;
        let mask = ProjectionMask::leaves(schema, leaves);
        let mut rows = builder.with_projection(mask).build()?;
        let file = Arc::clone(rows.schema());
        let exprs: Vec<_> = self.columns.iter().map(|column| column.expr_in_file(&file)).collect::<Result<_>>()?;
        while let Some(batch) = rows.try_next().await? {
            let evaluated = |expr: &Arc<dyn PhysicalExpr>| expr.evaluate(&batch)?.into_array(batch.num_rows());
            let columns: Vec<ArrayRef> = exprs.iter().map(evaluated).collect::<Result<_>>()?;
            let rows = self.converter.convert_columns(&columns)?;
            self.found.lock().expect("no holder panics").add(&rows, std::iter::repeat(sequence_number))?;
            // Others on this thread have a turn.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Adds keys that the coordinator has read.
    ///
    /// # Errors
    /// A [`super::DamagedDeletes`] where they are not as they were written, and the pool's.
    pub(super) async fn add(&self, keys: KeyStream) -> Result<()> {
        for batch in keys.batches(&self.columns)? {
            let KeyBatch { columns, newest } = batch?;
            let rows = self.converter.convert_columns(&columns)?;
            self.found.lock().expect("no holder panics").add(&rows, newest.values().iter().copied())?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Keys {
        let Self { columns, converter, found } = self;
        Keys { columns, converter, found: found.into_inner().expect("no holder panics") }
    }
}

impl NewestOfKeys {
    /// Adds keys with their sequence numbers. Their memory is reserved before they are kept.
    fn add(&mut self, rows: &Rows, numbers: impl Iterator<Item = i64> + Clone) -> Result<()> {
        let bytes = |row: Row<'_>| row.data().len() + KEY_BYTES;
        let since = self.since;
        let of_use = || rows.iter().zip(numbers.clone()).filter(|(_, number)| *number > since);
        self.memory.try_grow(of_use().map(|(row, _)| bytes(row)).sum())?;
        let mut known = 0;
        for (row, sequence_number) in of_use() {
            if let Some(newest) = self.newest.get_mut(row.data()) {
                *newest = sequence_number.max(*newest);
                known += bytes(row);
            } else {
                self.newest.insert(row.data().into(), sequence_number);
            }
        }
        self.memory.shrink(known);
        Ok(())
    }
}

/// Keys of one data file: which of its rows are deleted.
pub(super) struct FileKeys {
    /// Keys, and the positions of their columns in a batch.
    groups: Vec<(Arc<Keys>, Vec<usize>)>,
    /// Sequence number of the data file.
    sequence_number: i64,
}

impl FileKeys {
    /// Makes the keys of a file. `places` has the positions of key columns in batches, by their ids.
    pub(super) fn new(groups: Vec<Arc<Keys>>, sequence_number: i64, places: &BTreeMap<i32, usize>) -> Result<Self> {
        let mut with_places = Vec::with_capacity(groups.len());
        for keys in groups {
            let columns: Option<Vec<usize>> =
                keys.columns.iter().map(|column| places.get(&column.id).copied()).collect();
            match columns {
                Some(columns) => with_places.push((keys, columns)),
                None => return internal_err!("the scan does not read all keys by which its rows are deleted"),
            }
        }
        Ok(Self { groups: with_places, sequence_number })
    }

    /// Tells which rows of a batch have no key of a deleted one. None where none has.
    ///
    /// # Errors
    /// Arrow's own.
    pub(super) fn left(&self, batch: &RecordBatch) -> Result<Option<BooleanArray>> {
        let mut kept = BooleanBufferBuilder::new(batch.num_rows());
        kept.append_n(batch.num_rows(), true);
        let mut all = true;
        for (keys, columns) in &self.groups {
            let columns: Vec<ArrayRef> = columns.iter().map(|column| Arc::clone(batch.column(*column))).collect();
            for (position, row) in keys.converter.convert_columns(&columns)?.iter().enumerate() {
                if keys.found.newest.get(row.data()).is_some_and(|newest| *newest > self.sequence_number) {
                    kept.set_bit(position, false);
                    all = false;
                }
            }
        }
        Ok((!all).then(|| BooleanArray::new(kept.finish(), None)))
    }
}
