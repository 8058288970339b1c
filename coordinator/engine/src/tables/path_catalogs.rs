//! Catalogs in which a name may have a version of an Iceberg table (see `sql/versions.rs`) or ask for facts about one
//! (`t$snapshots`, and Spark's `t.snapshots` and `namespace.t.snapshots`), and a name that is no table's may be a path.
//!
//! DataFusion's own list of this kind (`DynamicFileCatalog`, 55.2) does not hand down the question for a table's type: a
//! listing would load every table.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider, UrlTableFactory};
use datafusion::common::Result;
use datafusion::datasource::TableType;
use gust_catalog::Version;

use super::broken::BrokenTable;
use super::iceberg::IcebergTable;
use super::metadata_table::Facts;
use crate::error::QueryError;
use crate::sql::versions::version_of;

/// Catalogs, and the source of tables for paths.
#[derive(Debug)]
pub struct PathCatalogs {
    pub catalogs: Arc<dyn CatalogProviderList>,
    pub paths: Arc<dyn UrlTableFactory>,
    /// Catalog and schema of bare names.
    pub default: (String, String),
}

#[derive(Debug)]
struct PathCatalog {
    catalog: Arc<dyn CatalogProvider>,
    paths: Arc<dyn UrlTableFactory>,
    /// Schema of bare names, where this is their catalog.
    default: Option<String>,
}

#[derive(Debug)]
struct PathSchema {
    /// None for a name that is no schema's, but a table's.
    schema: Option<Arc<dyn SchemaProvider>>,
    /// Schema and name of the table that the schema may be, as Spark spells facts about a table.
    spark: Option<(Arc<dyn SchemaProvider>, String)>,
    paths: Arc<dyn UrlTableFactory>,
}

impl CatalogProviderList for PathCatalogs {
    fn register_catalog(&self, name: String, catalog: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        self.catalogs.register_catalog(name, catalog)
    }

    fn catalog_names(&self) -> Vec<String> {
        self.catalogs.catalog_names()
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        let catalog = self.catalogs.catalog(name)?;
        let default = (self.default.0 == name).then(|| self.default.1.clone());
        Some(Arc::new(PathCatalog { catalog, paths: Arc::clone(&self.paths), default }))
    }
}

impl CatalogProvider for PathCatalog {
    fn schema_names(&self) -> Vec<String> {
        self.catalog.schema_names()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let schema = self.catalog.schema(name);
        let (above, table) = match name.rsplit_once('.') {
            Some((above, table)) => (Some(above), table),
            None => (self.default.as_deref(), name),
        };
        let spark = above.and_then(|above| self.catalog.schema(above)).map(|above| (above, table.to_owned()));
        let spark = spark.filter(|(above, table)| schema.is_some() || above.table_exist(table));
        if schema.is_none() && spark.is_none() {
            return None;
        }
        Some(Arc::new(PathSchema { schema, spark, paths: Arc::clone(&self.paths) }))
    }

    fn register_schema(&self, name: &str, schema: Arc<dyn SchemaProvider>) -> Result<Option<Arc<dyn SchemaProvider>>> {
        self.catalog.register_schema(name, schema)
    }
}

/// Returns a table as it was at a version. A table that cannot be had is a [`BrokenTable`].
fn at(table: &Arc<dyn TableProvider>, name: &str, version: &Version) -> Arc<dyn TableProvider> {
    let pinned = match table.downcast_ref::<IcebergTable>() {
        Some(table) => table.at(version),
        None if table.downcast_ref::<BrokenTable>().is_some() => return Arc::clone(table),
        None => Err(QueryError::sql(format!("`{name}` is no Iceberg table, so that it has no versions"))
            .with_hint("leave the version out")
            .into()),
    };
    match pinned {
        Ok(table) => Arc::new(table),
        Err(error) => Arc::new(BrokenTable::new(error)),
    }
}

/// Returns a table of facts about a table. A table that cannot be had is a [`BrokenTable`].
fn about(table: Arc<dyn TableProvider>, name: &str, facts: Facts) -> Arc<dyn TableProvider> {
    let told = match table.downcast_ref::<IcebergTable>() {
        Some(table) => table.facts(facts),
        None if table.downcast_ref::<BrokenTable>().is_some() => return table,
        None => Err(QueryError::sql(format!("`{name}` is no Iceberg table, so that it has no metadata tables")).into()),
    };
    match told {
        Ok(table) => Arc::new(table),
        Err(error) => Arc::new(BrokenTable::new(error)),
    }
}

impl PathSchema {
    fn of_tables(&self) -> Result<&Arc<dyn SchemaProvider>> {
        self.schema.as_ref().ok_or_else(|| QueryError::sql("a table is no schema, and holds no tables").into())
    }
}

#[async_trait]
impl SchemaProvider for PathSchema {
    fn table_names(&self) -> Vec<String> {
        self.schema.as_ref().map(|schema| schema.table_names()).unwrap_or_default()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let (name, version) = version_of(name).map_or((name, None), |(name, version)| (name, Some(version)));
        if let Some(schema) = &self.schema
            && let Some(table) = schema.table(name).await?
        {
            return Ok(Some(version.map_or_else(|| Arc::clone(&table), |version| at(&table, name, &version))));
        }
        let of_mark = Facts::of(name).zip(self.schema.as_ref()).map(|((table, facts), schema)| (schema, table, facts));
        let of_spark = Facts::named(name).zip(self.spark.as_ref());
        let of_spark = of_spark.map(|(facts, (schema, table))| (schema, table.as_str(), facts));
        if let Some((schema, told_of, facts)) = of_mark.or(of_spark)
            && let Some(table) = schema.table(told_of).await?
        {
            if version.is_some() && !facts.are_of_a_snapshot() {
                let why = format!("`{name}` tells about the whole table, so that it has no versions");
                return Err(QueryError::sql(why).with_hint("leave the version out").into());
            }
            let table = version.map_or_else(|| Arc::clone(&table), |version| at(&table, told_of, &version));
            return Ok(Some(about(table, told_of, facts)));
        }
        match version {
            Some(_) => Ok(None),
            None => self.paths.try_new(name).await,
        }
    }

    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        match &self.schema {
            Some(schema) => schema.table_type(name).await,
            None => Ok(None),
        }
    }

    fn register_table(&self, name: String, table: Arc<dyn TableProvider>) -> Result<Option<Arc<dyn TableProvider>>> {
        self.of_tables()?.register_table(name, table)
    }

    fn deregister_table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        self.of_tables()?.deregister_table(name)
    }

    fn table_exist(&self, name: &str) -> bool {
        self.schema.as_ref().is_some_and(|schema| schema.table_exist(name))
    }
}
