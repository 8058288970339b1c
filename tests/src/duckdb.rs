//! DuckDB's rows of statements over folders of Parquet files.

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};

use crate::compare::read_arrow_file;
use crate::python::{self, Run};

/// Asks DuckDB. `tables` has a folder of Parquet files for each table. None where DuckDB is not to be had, which is told; with `CI=true` that is an error.
///
/// # Errors
/// DuckDB's own, and those of [`python::run`].
pub fn answers(cache: &Path, tables: &Path, statements: &[&str]) -> anyhow::Result<Option<Vec<Vec<RecordBatch>>>> {
    let folder = tempfile::tempdir_in(cache)?;
    let judged = folder.path().join("judged");
    let mut arguments = vec![tables.to_owned(), judged.clone()];
    for (number, statement) in statements.iter().enumerate() {
        let file = folder.path().join(format!("{number}.sql"));
        std::fs::write(&file, statement)?;
        arguments.push(file);
    }
    if let Run::Skipped { reason } = python::run(cache, "tpch_judge.py", &arguments)? {
        eprintln!("skipped: {reason}");
        return Ok(None);
    }
    let rows = (0..statements.len()).map(|number| read_arrow_file(&judged.join(format!("{number}.arrow"))));
    rows.collect::<anyhow::Result<_>>().map(Some)
}

/// Returns rows under the names of others' columns: engines name a column without a name each in its own way.
pub fn named_as(rows: &[RecordBatch], others: &[RecordBatch]) -> Vec<RecordBatch> {
    let Some(others) = others.first().map(RecordBatch::schema) else { return rows.to_vec() };
    let named = |batch: &RecordBatch| {
        let fields = batch.schema();
        let fields = fields.fields().iter().zip(others.fields());
        let fields: Vec<Field> = fields.map(|(own, other)| own.as_ref().clone().with_name(other.name())).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), batch.columns().to_vec()).expect("the same columns")
    };
    rows.iter().map(named).collect()
}
