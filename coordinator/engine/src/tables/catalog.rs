//! A configured Iceberg catalog as a catalog of the engine: its namespaces are schemas.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::TableType;
use gust_catalog::Catalog;

use super::broken::BrokenTable;
use super::iceberg::IcebergTable;

/// The tables of a catalog by namespace, as they were listed when it was opened; each is loaded when it is used.
#[derive(Debug)]
pub struct IcebergCatalog {
    schemas: BTreeMap<String, Arc<dyn SchemaProvider>>,
}

#[derive(Debug)]
struct Namespace {
    catalog: Catalog,
    name: String,
    tables: Vec<String>,
}

impl IcebergCatalog {
    pub async fn list(catalog: &Catalog) -> gust_catalog::Result<Self> {
        let mut schemas: BTreeMap<String, Arc<dyn SchemaProvider>> = BTreeMap::new();
        for name in catalog.namespaces().await? {
            let tables = catalog.tables(&name).await?;
            let namespace = Namespace { catalog: catalog.clone(), name: name.clone(), tables };
            schemas.insert(name, Arc::new(namespace));
        }
        Ok(Self { schemas })
    }

    /// With one more schema, unless a namespace has that name.
    pub fn with_schema(mut self, name: &str, schema: Arc<dyn SchemaProvider>) -> Self {
        self.schemas.entry(name.to_owned()).or_insert(schema);
        self
    }
}

impl CatalogProvider for IcebergCatalog {
    fn schema_names(&self) -> Vec<String> {
        self.schemas.keys().cloned().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        self.schemas.get(name).cloned()
    }
}

#[async_trait]
impl SchemaProvider for Namespace {
    fn table_names(&self) -> Vec<String> {
        self.tables.clone()
    }

    /// A table that cannot be loaded is there all the same, as a [`BrokenTable`].
    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if !self.table_exist(name) {
            return Ok(None);
        }
        Ok(Some(match self.catalog.load(&self.name, name).await {
            Ok(table) => Arc::new(IcebergTable::new(table)),
            Err(error) => Arc::new(BrokenTable::new(DataFusionError::External(Box::new(error)))),
        }))
    }

    /// Without loading it: who lists tables opens none.
    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        Ok(self.table_exist(name).then_some(TableType::Base))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.tables.iter().any(|table| table == name)
    }

    fn register_table(&self, name: String, _: Arc<dyn TableProvider>) -> Result<Option<Arc<dyn TableProvider>>> {
        let why = format!(
            "`{}.{name}` would be in an Iceberg catalog, which is only read\nhint: name it datafusion.public.{name}, for this session alone",
            self.name
        );
        Err(DataFusionError::Plan(why))
    }
}
