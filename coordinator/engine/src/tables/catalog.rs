//! A configured Iceberg catalog as a catalog of the engine: its namespaces are schemas.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::TableType;
use gust_catalog::Catalog;

use super::broken::BrokenTable;
use super::iceberg::IcebergTable;
use crate::error::QueryError;
use crate::storage::Stores;

/// Tables of a catalog by namespace, as they were listed when it was opened. A table is loaded when it is used.
#[derive(Debug, Clone)]
pub struct IcebergCatalog {
    catalog: Catalog,
    namespaces: Arc<BTreeMap<String, Arc<[String]>>>,
    /// Schemas that are not namespaces.
    others: BTreeMap<String, Arc<dyn SchemaProvider>>,
}

#[derive(Debug)]
struct Namespace {
    catalog: Catalog,
    name: String,
    tables: Arc<[String]>,
}

impl IcebergCatalog {
    pub async fn list(catalog: &Catalog) -> gust_catalog::Result<Self> {
        let mut namespaces = BTreeMap::new();
        for name in catalog.namespaces().await? {
            let tables = catalog.tables(&name).await?;
            namespaces.insert(name, tables.into());
        }
        Ok(Self { catalog: catalog.clone(), namespaces: Arc::new(namespaces), others: BTreeMap::new() })
    }

    /// Adds a schema, unless a namespace has that name.
    pub fn with_schema(mut self, name: &str, schema: Arc<dyn SchemaProvider>) -> Self {
        if !self.namespaces.contains_key(name) {
            self.others.insert(name.to_owned(), schema);
        }
        self
    }
}

impl CatalogProvider for IcebergCatalog {
    fn schema_names(&self) -> Vec<String> {
        self.namespaces.keys().chain(self.others.keys()).cloned().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let Some(tables) = self.namespaces.get(name) else { return self.others.get(name).cloned() };
        let catalog = self.catalog.clone();
        Some(Arc::new(Namespace { catalog, name: name.to_owned(), tables: Arc::clone(tables) }))
    }
}

/// Catalogs of a session for one of its queries: reads of table metadata are counted for that query.
#[derive(Debug)]
pub struct QueryCatalogs {
    pub of_session: Arc<dyn CatalogProviderList>,
    pub stores: Stores,
}

impl CatalogProviderList for QueryCatalogs {
    fn register_catalog(&self, name: String, catalog: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        self.of_session.register_catalog(name, catalog)
    }

    fn catalog_names(&self) -> Vec<String> {
        self.of_session.catalog_names()
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        let found = self.of_session.catalog(name)?;
        let Some(iceberg) = found.downcast_ref::<IcebergCatalog>() else { return Some(found) };
        let catalog = iceberg.catalog.with_stores(self.stores.for_catalog());
        Some(Arc::new(IcebergCatalog { catalog, ..iceberg.clone() }))
    }
}

#[async_trait]
impl SchemaProvider for Namespace {
    fn table_names(&self) -> Vec<String> {
        self.tables.to_vec()
    }

    /// Returns a [`BrokenTable`] for a table that cannot be loaded.
    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if !self.table_exist(name) {
            return Ok(None);
        }
        let loaded = self.catalog.load(&self.name, name).await;
        let loaded = loaded.map_err(|error| DataFusionError::External(Box::new(error)));
        Ok(Some(match loaded.and_then(IcebergTable::new) {
            Ok(table) => Arc::new(table),
            Err(error) => Arc::new(BrokenTable::new(error)),
        }))
    }

    /// Does not load the table, so that a listing of tables opens none.
    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        Ok(self.table_exist(name).then_some(TableType::Base))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.tables.iter().any(|table| table == name)
    }

    fn register_table(&self, name: String, _: Arc<dyn TableProvider>) -> Result<Option<Arc<dyn TableProvider>>> {
        let why = format!("`{}.{name}` would be in an Iceberg catalog, which is only read", self.name);
        let hint = format!("name it datafusion.public.{name}, for this session alone");
        Err(QueryError::sql(why).with_hint(hint).into())
    }
}
