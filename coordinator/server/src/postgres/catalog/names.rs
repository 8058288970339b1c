//! Names and columns that `pg_catalog` shows.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::common::Result;
use datafusion::datasource::TableType;
use datafusion_pg_catalog::pg_catalog::catalog_info::CatalogInfo;

/// Names as they were listed last. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Listing(Arc<RwLock<Listed>>);

#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) databases: Vec<String>,
    /// Database of the connection, the only one with schemas.
    pub(super) current: String,
    pub(super) schemas: BTreeMap<String, BTreeMap<String, Relation>>,
}

/// Table or view.
#[derive(Debug)]
pub(super) struct Relation {
    pub(super) kind: TableType,
    /// None if they were not loaded.
    pub(super) columns: Option<SchemaRef>,
}

impl Listing {
    pub(super) fn set(&self, listed: Listed) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = listed;
    }

    pub(super) fn set_columns(&self, schema: &str, table: &str, columns: SchemaRef) {
        let mut listed = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(relation) = listed.schemas.get_mut(schema).and_then(|tables| tables.get_mut(table)) {
            relation.columns = Some(columns);
        }
    }

    /// Returns the schemas and names of all tables, without those about tables.
    pub(super) fn names(&self) -> Vec<(String, String)> {
        self.read(|listed| {
            let schemas = listed.schemas.iter().filter(|(schema, _)| *schema != "information_schema");
            schemas.flat_map(|(schema, tables)| tables.keys().map(|table| (schema.clone(), table.clone()))).collect()
        })
    }

    fn read<T>(&self, read: impl FnOnce(&Listed) -> T) -> T {
        read(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn relation<T>(&self, names: [&str; 3], read: impl FnOnce(&Relation) -> T) -> Option<T> {
        let [catalog, schema, table] = names;
        self.read(|listed| {
            let is_current = listed.current == catalog;
            listed.schemas.get(schema).filter(|_| is_current)?.get(table).map(read)
        })
    }
}

#[async_trait]
impl CatalogInfo for Listing {
    async fn catalog_names(&self) -> Result<Vec<String>> {
        Ok(self.read(|listed| listed.databases.clone()))
    }

    async fn schema_names(&self, catalog: &str) -> Result<Option<Vec<String>>> {
        Ok(self.read(|listed| (listed.current == catalog).then(|| listed.schemas.keys().cloned().collect())))
    }

    async fn table_names(&self, catalog: &str, schema: &str) -> Result<Option<Vec<String>>> {
        Ok(self.read(|listed| {
            let tables = listed.schemas.get(schema).filter(|_| listed.current == catalog)?;
            Some(tables.keys().cloned().collect())
        }))
    }

    /// Returns no columns for a table that was not loaded.
    async fn table_schema(&self, catalog: &str, schema: &str, table: &str) -> Result<Option<SchemaRef>> {
        let none = || Arc::new(Schema::empty());
        Ok(self.relation([catalog, schema, table], |relation| relation.columns.clone().unwrap_or_else(none)))
    }

    async fn table_type(&self, catalog: &str, schema: &str, table: &str) -> Result<Option<TableType>> {
        Ok(self.relation([catalog, schema, table], |relation| relation.kind))
    }
}
