//! Functions that `pg_proc` shows: those that SHOW FUNCTIONS lists, in the schema `public`.
//!
//! Each name is there once. Its arguments are written as its documentation names them, because most functions take several types.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use arrow::array::{ArrayRef, AsArray, Int32Array, RecordBatch, StringArray, UInt32Array, new_null_array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, Int32Type};
use async_trait::async_trait;
use datafusion::catalog::{MemTable, SchemaProvider, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use datafusion_pg_catalog::pg_catalog::PgCatalogSchemaProvider;
use gust_engine::error::QueryError;
use gust_engine::session::{OWN_CATALOG, Session};

use super::PG_CATALOG;
use super::names::Listing;
use super::roles::OwnRole;
use crate::listing::{rows, texts};

/// Name of the table.
pub(super) const PG_PROC: &str = "pg_proc";

/// Number of the first function. Tables have smaller ones.
const FIRST_NUMBER: i32 = 1_000_000_000;

/// Columns in which all functions are alike. Others are not known.
const ALIKE: [&str; 9] = [
    "proowner",
    "prolang",
    "procost",
    "prorows",
    "prosecdef",
    "proleakproof",
    "proretset",
    "provolatile",
    "proparallel",
];

/// Functions as they were listed. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Routines(Arc<RwLock<Option<Listed>>>);

#[derive(Debug)]
struct Listed {
    table: Arc<dyn TableProvider>,
    arguments: HashMap<i32, String>,
}

/// Tables of PostgreSQL, of which `pg_proc` is our own.
#[derive(Debug)]
pub(super) struct PgTables {
    pub(super) others: PgCatalogSchemaProvider<Listing, OwnRole>,
    pub(super) routines: Routines,
}

#[async_trait]
impl SchemaProvider for PgTables {
    fn table_names(&self) -> Vec<String> {
        self.others.table_names()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        match self.routines.table().filter(|_| name.eq_ignore_ascii_case(PG_PROC)) {
            Some(own) => Ok(Some(own)),
            None => self.others.table(name).await,
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        self.others.table_exist(name)
    }
}

impl Routines {
    fn table(&self) -> Option<Arc<dyn TableProvider>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|listed| Arc::clone(&listed.table))
    }

    /// Lists the functions, if they are not listed. Functions that read and write PostgreSQL's types stay: clients look for them.
    ///
    /// # Errors
    /// Those of listing.
    pub(super) async fn list(&self, session: &Session) -> Result<(), QueryError> {
        if self.table().is_some() {
            return Ok(());
        }
        let own = |table: &str| format!("{OWN_CATALOG}.{PG_CATALOG}.{table}");
        let (proc, types, schemas) = (own(PG_PROC), own("pg_type"), own("pg_namespace"));
        let of_types = ["typinput", "typoutput", "typreceive", "typsend"]
            .map(|column| format!("proname IN (SELECT {column} FROM {types})"))
            .join(" OR ");
        let mut batches = rows(session, &format!("SELECT * FROM {proc} WHERE {of_types}")).await?;
        let public = rows(session, &format!("SELECT oid FROM {schemas} WHERE nspname = 'public'")).await?;
        let public = public.first().filter(|batch| batch.num_rows() > 0);
        let public = public.map_or(0, |batch| batch.column(0).as_primitive::<Int32Type>().value(0));
        let mut arguments = HashMap::new();
        let template = batches.iter().find(|batch| batch.num_rows() > 0).map(|batch| batch.slice(0, 1));
        if let Some(template) = &template {
            for listed in rows(session, "SHOW FUNCTIONS").await? {
                let first = FIRST_NUMBER + i32::try_from(arguments.len()).unwrap_or_default();
                let numbers = Int32Array::from_iter_values((first..).take(listed.num_rows()));
                let of_each = texts(&listed, 2).into_iter().map(|call| between_brackets(&call).to_owned());
                arguments.extend(numbers.values().iter().copied().zip(of_each));
                batches.push(
                    like(template, &listed, numbers, public).map_err(|error| QueryError::from_engine(error.into()))?,
                );
            }
        }
        let Some(schema) = batches.first().map(RecordBatch::schema) else { return Ok(()) };
        let table = MemTable::try_new(schema, vec![batches]).map_err(QueryError::from_engine)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Listed { table: Arc::new(table), arguments });
        Ok(())
    }

    /// Makes the function that tells the arguments of a function by its number.
    pub(super) fn arguments_udf(&self) -> ScalarUDF {
        let routines = self.clone();
        let told = move |given: &[ColumnarValue]| {
            let numbers = ColumnarValue::values_to_arrays(given)?;
            let listed = routines.0.read().unwrap_or_else(PoisonError::into_inner);
            let of = |number: Option<i32>| listed.as_ref()?.arguments.get(&number?).map(String::as_str);
            let texts: StringArray = numbers[0].as_primitive::<Int32Type>().iter().map(of).collect();
            Ok(ColumnarValue::Array(Arc::new(texts)))
        };
        let types = vec![DataType::Int32];
        create_udf("pg_get_function_arguments", types, DataType::Utf8, Volatility::Stable, Arc::new(told))
    }
}

/// Returns the arguments of a call in words.
fn between_brackets(call: &str) -> &str {
    let within = call.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')'));
    within.map_or("", |(arguments, _)| arguments)
}

/// Makes rows of `pg_proc` of functions that SHOW FUNCTIONS lists. Some columns are as in the template.
fn like(
    template: &RecordBatch,
    listed: &RecordBatch,
    numbers: Int32Array,
    namespace: i32,
) -> Result<RecordBatch, arrow::error::ArrowError> {
    let rows = listed.num_rows();
    let kind = |kind: String| match kind.as_str() {
        "aggregate" => "a",
        "window" => "w",
        _ => "f",
    };
    let kinds: StringArray = texts(listed, 1).into_iter().map(|of| Some(kind(of))).collect();
    let of_each: [(&str, ArrayRef); 4] = [
        ("oid", Arc::new(numbers)),
        ("proname", Arc::new(StringArray::from(texts(listed, 0)))),
        ("pronamespace", Arc::new(Int32Array::from(vec![namespace; rows]))),
        ("prokind", Arc::new(kinds)),
    ];
    let alike = take_record_batch(template, &UInt32Array::from(vec![0; rows]))?;
    let schema = alike.schema();
    let columns = schema.fields().iter().zip(alike.columns()).map(|(field, column)| {
        let own = of_each.iter().find(|(name, _)| *name == field.name());
        match own {
            Some((_, own)) => cast(own, field.data_type()),
            None if field.is_nullable() && !ALIKE.contains(&field.name().as_str()) => {
                Ok(new_null_array(field.data_type(), rows))
            }
            None => Ok(Arc::clone(column)),
        }
    });
    let columns = columns.collect::<Result<_, _>>()?;
    RecordBatch::try_new(schema, columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_what_a_call_has_between_its_brackets() {
        for (call, expect) in [
            ("regexp_like(str, regexp[, flags])", "str, regexp[, flags]"),
            ("now()", ""),
            ("", ""),
            ("f((a), b)", "(a), b"),
            ("date_trunc", ""),
        ] {
            assert_eq!(between_brackets(call), expect, "{call}");
        }
    }
}
