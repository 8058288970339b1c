//! DuckDB's rows of statements over folders of Parquet files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use gust::demo::queries;

use crate::compare::read_arrow_file;
use crate::python::{self, Run};
use crate::tpch::Tables;

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

/// Returns DuckDB's rows of all TPC-H queries, as [`answers`] does. The same tables are asked once for all tests of a program.
///
/// # Errors
/// Those of [`answers`].
pub fn tpch_answers(cache: &Path, tables: &Tables) -> anyhow::Result<Option<&'static [Vec<RecordBatch>]>> {
    type Rows = Option<&'static [Vec<RecordBatch>]>;
    static ASKED: Mutex<BTreeMap<PathBuf, Rows>> = Mutex::new(BTreeMap::new());
    // It is held while DuckDB is asked: another test waits for the same rows.
    let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(rows) = asked.get(tables.root()) {
        return Ok(*rows);
    }
    let statements: Vec<&str> = (1..=queries::COUNT).map(queries::query).collect();
    let rows = answers(cache, tables.root(), &statements)?;
    let rows: Rows = rows.map(|rows| &*rows.leak());
    asked.insert(tables.root().to_owned(), rows);
    Ok(rows)
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
