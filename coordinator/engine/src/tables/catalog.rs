//! A configured Iceberg catalog as a catalog of the engine: its namespaces are schemas.
//!
//! A name is looked up by loading that table alone: nothing is listed for it. A statement that lists names has its catalogs
//! listed before it is planned, because DataFusion asks for lists where nothing can be waited for. A listing loads no table.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::TableType;
use futures::future::{BoxFuture, ready};
use futures::{StreamExt, TryStreamExt, stream};
use gust_catalog::{Error, Location, NamesRoom};

use super::broken::BrokenTable;
use super::catalogs::Catalogs;
use super::iceberg::IcebergTable;
use super::pins::Pins;
use crate::error::QueryError;
use crate::storage::Stores;

/// Namespaces whose tables are asked for at once.
const LISTINGS_AT_ONCE: usize = 16;

/// Names of a catalog's tables by namespace.
pub type Listing = BTreeMap<String, Arc<[String]>>;

/// Lists a catalog's namespaces, and their tables where these are wanted, within the room that is left. No table is loaded.
///
/// # Errors
/// Those of opening and asking the catalog, and more names than there is room for.
pub async fn list(
    catalogs: &Catalogs,
    name: &str,
    with_tables: bool,
    room: &NamesRoom,
) -> gust_catalog::Result<Listing> {
    let namespaces = catalogs.namespaces_within(name, room).await?;
    let tables = |namespace: String| async move {
        let tables = if with_tables { catalogs.tables_within(name, &namespace, room).await? } else { Vec::new() };
        Ok::<(String, Arc<[String]>), Error>((namespace, tables.into()))
    };
    stream::iter(namespaces).map(tables).buffer_unordered(LISTINGS_AT_ONCE).try_collect().await
}

/// Lists the tables of one namespace, which is empty where it does not exist. No table is loaded.
///
/// # Errors
/// Those of opening and asking the catalog.
pub async fn list_one(catalogs: &Catalogs, name: &str, namespace: &str) -> gust_catalog::Result<Listing> {
    let tables = catalogs.tables(name, namespace).await?;
    Ok(if tables.is_empty() { Listing::new() } else { Listing::from([(namespace.to_owned(), tables.into())]) })
}

/// Tables of a catalog by namespace. It is opened when a table is used.
#[derive(Debug, Clone)]
pub struct IcebergCatalog {
    name: Arc<str>,
    catalogs: Catalogs,
    /// Stores of the query that asks. None are those of the process.
    stores: Option<Stores>,
    /// Names that the query has asked for. Empty unless it lists some.
    listing: Arc<Listing>,
    /// Snapshots that the query reads. None of a query that nobody may take over.
    pins: Option<Arc<Pins>>,
    /// Schemas that are not namespaces.
    others: BTreeMap<String, Arc<dyn SchemaProvider>>,
}

#[derive(Debug)]
struct Namespace {
    catalog: IcebergCatalog,
    name: String,
}

impl IcebergCatalog {
    pub fn new(catalogs: &Catalogs, name: &str) -> Self {
        Self {
            name: name.into(),
            catalogs: catalogs.clone(),
            stores: None,
            listing: Arc::default(),
            pins: None,
            others: BTreeMap::new(),
        }
    }

    /// Adds a schema. A namespace of that name is not seen.
    pub fn with_schema(mut self, name: &str, schema: Arc<dyn SchemaProvider>) -> Self {
        self.others.insert(name.to_owned(), schema);
        self
    }
}

impl CatalogProvider for IcebergCatalog {
    fn schema_names(&self) -> Vec<String> {
        let listed = self.listing.keys().filter(|name| !self.others.contains_key(*name));
        listed.chain(self.others.keys()).cloned().collect()
    }

    /// Returns any schema: only its tables tell if there is such a namespace.
    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        match self.others.get(name) {
            Some(schema) => Some(Arc::clone(schema)),
            None => Some(Arc::new(Namespace { catalog: self.clone(), name: name.to_owned() })),
        }
    }
}

/// Catalogs of a session for one of its queries: reads of table metadata are counted for that query.
#[derive(Debug)]
pub struct QueryCatalogs {
    of_session: Arc<dyn CatalogProviderList>,
    stores: Stores,
    pins: Option<Arc<Pins>>,
    /// Names that the query has asked for, by catalog.
    listings: Mutex<BTreeMap<String, Arc<Listing>>>,
}

impl QueryCatalogs {
    pub fn new(of_session: Arc<dyn CatalogProviderList>, stores: Stores, pins: Option<Arc<Pins>>) -> Self {
        Self { of_session, stores, pins, listings: Mutex::default() }
    }

    /// Shows these names of a catalog from now on.
    pub fn show(&self, catalog: &str, listing: Listing) {
        self.listings.lock().unwrap_or_else(PoisonError::into_inner).insert(catalog.to_owned(), Arc::new(listing));
    }

    /// Returns the names of a catalog that the query has asked for.
    pub fn listing(&self, catalog: &str) -> Option<Arc<Listing>> {
        self.listings.lock().unwrap_or_else(PoisonError::into_inner).get(catalog).cloned()
    }
}

impl CatalogProviderList for QueryCatalogs {
    fn register_catalog(&self, name: String, catalog: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        self.of_session.register_catalog(name, catalog)
    }

    /// Lists the session's own catalog, and those whose names the query has asked for.
    fn catalog_names(&self) -> Vec<String> {
        let is_iceberg = |name: &str| {
            self.of_session.catalog(name).is_some_and(|found| found.downcast_ref::<IcebergCatalog>().is_some())
        };
        let mut names = self.of_session.catalog_names();
        names.retain(|name| self.listing(name).is_some() || !is_iceberg(name));
        names
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        let found = self.of_session.catalog(name)?;
        let Some(iceberg) = found.downcast_ref::<IcebergCatalog>() else { return Some(found) };
        let listing = self.listing(name).unwrap_or_default();
        let (stores, pins) = (Some(self.stores.clone()), self.pins.clone());
        Some(Arc::new(IcebergCatalog { stores, listing, pins, ..iceberg.clone() }))
    }
}

impl Namespace {
    async fn load(&self, name: &str) -> gust_catalog::Result<gust_catalog::Table> {
        let IcebergCatalog { name: catalog, catalogs, stores, .. } = &self.catalog;
        let opened = catalogs.open(catalog).await?;
        match stores {
            Some(stores) => opened.with_stores(stores.for_catalog()).load(&self.name, name).await,
            None => opened.load(&self.name, name).await,
        }
    }

    /// Checks that the query may read where a table is. A catalog may bring a table's metadata in its answer, so that no store is asked.
    fn check(&self, table: &gust_catalog::Table) -> Result<()> {
        let Some(stores) = &self.catalog.stores else { return Ok(()) };
        let place = Location::parse(table.location()).map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok(stores.reach().check(place.store.as_str(), &place.path)?)
    }

    /// Returns a [`BrokenTable`] for a table that cannot be loaded. One that the user may not read is not there, and nobody is asked if it is.
    fn found<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Arc<dyn TableProvider>>>> {
        Box::pin(async move {
            let IcebergCatalog { name: catalog, catalogs, .. } = &self.catalog;
            if !catalogs.gives(catalog, &self.name, name) {
                return Ok(None);
            }
            let loaded = match self.load(name).await {
                // The names of the database's other catalogs are worth telling, unless grants hide some.
                Err(Error::NotFound { hint, .. }) if hint.is_none() || catalogs.grants().is_some() => return Ok(None),
                loaded => loaded.map_err(|error| DataFusionError::External(Box::new(error))),
            };
            let within = |table: gust_catalog::Table| self.check(&table).map(|()| table);
            let full_name = [&*self.catalog.name, &self.name, name].map(str::to_owned);
            let pinned = |table: IcebergTable| match &self.catalog.pins {
                Some(pins) => pins.pinned(&full_name.join("."), table),
                None => Ok(table),
            };
            Ok(Some(match loaded.and_then(within).and_then(IcebergTable::new).and_then(pinned) {
                Ok(table) => Arc::new(table.named(full_name)) as Arc<dyn TableProvider>,
                Err(error) => Arc::new(BrokenTable::new(error)),
            }))
        })
    }
}

/// Its async methods are written without `async_trait`, as [`super::boxed`] says.
impl SchemaProvider for Namespace {
    fn table_names(&self) -> Vec<String> {
        self.catalog.listing.get(&self.name).map(|tables| tables.to_vec()).unwrap_or_default()
    }

    fn table<'namespace, 'name, 'table>(
        &'namespace self,
        name: &'name str,
    ) -> BoxFuture<'table, Result<Option<Arc<dyn TableProvider>>>>
    where
        'namespace: 'table,
        'name: 'table,
        Self: 'table,
    {
        self.found(name)
    }

    /// Does not load the table, so that a listing of tables opens none.
    fn table_type<'namespace, 'name, 'kind>(
        &'namespace self,
        name: &'name str,
    ) -> BoxFuture<'kind, Result<Option<TableType>>>
    where
        'namespace: 'kind,
        'name: 'kind,
        Self: 'kind,
    {
        Box::pin(ready(Ok(self.table_exist(name).then_some(TableType::Base))))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.catalog.listing.get(&self.name).is_some_and(|tables| tables.iter().any(|table| table == name))
    }

    fn register_table(&self, name: String, _: Arc<dyn TableProvider>) -> Result<Option<Arc<dyn TableProvider>>> {
        let why = format!("`{}.{name}` would be in an Iceberg catalog, which is only read", self.name);
        let hint = format!("name it datafusion.public.{name}, for this session alone");
        Err(QueryError::sql(why).with_hint(hint).into())
    }
}
