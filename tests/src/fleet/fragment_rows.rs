//! Rows of each fragment, known without running it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use gust_protocol::FragmentId;

/// Stage that reads files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanStage {
    pub stage: u32,
    pub fragments: u32,
}

/// Rows of fragments. A row is the fragment's index and a number drawn from its name.
#[derive(Debug, Clone, Copy)]
pub struct FragmentRows {
    pub seed: u64,
    /// Rows of a fragment, at most.
    pub rows_max: u64,
}

pub fn schema() -> SchemaRef {
    let column = |name| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![column("fragment"), column("value")]))
}

/// Returns a number that depends on nothing but the seed and the name.
pub(super) fn number(seed: u64, name: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, name).hash(&mut hasher);
    hasher.finish()
}

impl FragmentRows {
    /// Returns up to three batches. A result that ends after one of them is still a valid stream.
    pub fn batches(&self, id: &FragmentId) -> Vec<RecordBatch> {
        let rows = number(self.seed, (id, "rows")) % (self.rows_max + 1);
        let values: Vec<i64> = (0..rows).map(|row| number(self.seed, (id, row)) as i64).collect();
        let size = values.len().div_ceil(3).max(1);
        values.chunks(size).map(|values| batch(id, values)).collect()
    }

    /// Returns all rows of a query's scans, sorted.
    pub fn rows(&self, query: &str, scans: &[ScanStage]) -> Vec<(i64, i64)> {
        let ids = scans.iter().flat_map(|&ScanStage { stage, fragments }| {
            (0..fragments).map(move |index| FragmentId { query: query.to_owned(), stage, index })
        });
        sorted(ids.flat_map(|id| self.batches(&id)))
    }
}

/// Returns rows that a fragment with other rows does not have, in a stream that is as valid as any.
pub(super) fn wrong_batches(id: &FragmentId, right: &[RecordBatch]) -> Vec<RecordBatch> {
    [right, right, &[batch(id, &[-1])]].concat()
}

fn batch(id: &FragmentId, values: &[i64]) -> RecordBatch {
    let fragments = Int64Array::from_value(i64::from(id.index), values.len());
    let columns: Vec<Arc<dyn arrow::array::Array>> =
        vec![Arc::new(fragments), Arc::new(Int64Array::from(values.to_vec()))];
    RecordBatch::try_new(schema(), columns).expect("two columns of one length")
}

/// Returns the rows of batches, sorted.
pub(super) fn sorted(batches: impl IntoIterator<Item = RecordBatch>) -> Vec<(i64, i64)> {
    let column = |batch: &RecordBatch, index: usize| {
        let values = batch.column(index).as_any().downcast_ref::<Int64Array>().expect("integers");
        values.values().to_vec()
    };
    let pairs = batches.into_iter().flat_map(|batch| column(&batch, 0).into_iter().zip(column(&batch, 1)));
    let mut rows: Vec<(i64, i64)> = pairs.collect();
    rows.sort_unstable();
    rows
}
