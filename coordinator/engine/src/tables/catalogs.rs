//! Configured Iceberg catalogs by name. Each is opened when it is first asked for, once a process.
//!
//! A user with grants sees through them: a catalog, a namespace or a table without a grant is not there, and nothing is asked about it.

use std::collections::BTreeMap;
use std::sync::Arc;

use gust_catalog::{Catalog, Error, NamesRoom, RestAuth, RestSettings, SecretPlace, SecretText};
use object_store::aws::AwsCredentialProvider;
use tokio::sync::Mutex;

use super::grants::TableGrants;
use crate::config::{
    CatalogConfig, Config, GlueConfig, RestAccess, RestConfig, S3TablesConfig, SecretSource, SqliteConfig,
};
use crate::storage::Stores;

/// Names by which AWS's services are signed for.
const GLUE: &str = "glue";
const S3_TABLES: &str = "s3tables";

/// Catalogs of a process, as one user sees them. Clones share those that are open.
#[derive(Debug, Clone)]
pub struct Catalogs {
    configured: Arc<Configured>,
    /// Grants of the user; None sees all.
    grants: Option<Arc<TableGrants>>,
}

#[derive(Debug)]
struct Configured {
    config: Arc<Config>,
    stores: Stores,
    open: Mutex<BTreeMap<String, Catalog>>,
}

impl Catalogs {
    pub fn new(config: &Arc<Config>, stores: &Stores) -> Self {
        let configured = Configured { config: Arc::clone(config), stores: stores.clone(), open: Mutex::default() };
        Self { configured: Arc::new(configured), grants: None }
    }

    /// Returns the same catalogs, as a user with these grants sees them.
    pub fn seen_by(&self, grants: Option<Arc<TableGrants>>) -> Self {
        Self { configured: Arc::clone(&self.configured), grants }
    }

    /// Returns the grants of the user; None for one who sees all.
    pub fn grants(&self) -> Option<&Arc<TableGrants>> {
        self.grants.as_ref()
    }

    /// Lists the names of all catalogs.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.configured.config.catalogs.keys().map(String::as_str).filter(move |name| self.shows(name))
    }

    pub fn has(&self, name: &str) -> bool {
        self.shows(name) && self.configured.config.catalogs.contains_key(name)
    }

    fn shows(&self, name: &str) -> bool {
        self.grants.as_ref().is_none_or(|grants| grants.show_catalog(name))
    }

    fn shows_namespace(&self, name: &str, namespace: &str) -> bool {
        self.grants.as_ref().is_none_or(|grants| grants.show_namespace(name, namespace))
    }

    /// Tells if the user may read a table of a catalog, or of the session's own place.
    pub fn gives(&self, name: &str, namespace: &str, table: &str) -> bool {
        self.grants.as_ref().is_none_or(|grants| grants.give(name, namespace, table))
    }

    /// Lists a catalog's namespaces within the room that is left.
    ///
    /// # Errors
    /// Those of opening and asking the catalog, and more names than there is room for.
    pub async fn namespaces_within(&self, name: &str, room: &NamesRoom) -> gust_catalog::Result<Vec<String>> {
        let mut namespaces = self.open(name).await?.namespaces_within(room).await?;
        namespaces.retain(|namespace| self.shows_namespace(name, namespace));
        Ok(namespaces)
    }

    /// Lists a catalog's namespaces as [`Catalog::first_namespaces`] does.
    ///
    /// # Errors
    /// Those of opening and asking the catalog.
    pub async fn first_namespaces(&self, name: &str) -> gust_catalog::Result<Vec<String>> {
        let mut namespaces = self.open(name).await?.first_namespaces().await?;
        namespaces.retain(|namespace| self.shows_namespace(name, namespace));
        Ok(namespaces)
    }

    /// Tells if a catalog has a namespace.
    ///
    /// # Errors
    /// Those of opening and asking the catalog.
    pub async fn has_namespace(&self, name: &str, namespace: &str) -> gust_catalog::Result<bool> {
        let catalog = self.open(name).await?;
        Ok(self.shows_namespace(name, namespace) && catalog.has_namespace(namespace).await?)
    }

    /// Lists the tables of a namespace.
    ///
    /// # Errors
    /// Those of opening and asking the catalog.
    pub async fn tables(&self, name: &str, namespace: &str) -> gust_catalog::Result<Vec<String>> {
        let catalog = self.open(name).await?;
        if !self.shows_namespace(name, namespace) {
            return Ok(Vec::new());
        }
        let mut tables = catalog.tables(namespace).await?;
        tables.retain(|table| self.gives(name, namespace, table));
        Ok(tables)
    }

    /// Lists the tables of a namespace within the room that is left.
    ///
    /// # Errors
    /// Those of opening and asking the catalog, and more names than there is room for.
    pub async fn tables_within(
        &self,
        name: &str,
        namespace: &str,
        room: &NamesRoom,
    ) -> gust_catalog::Result<Vec<String>> {
        let mut tables = self.open(name).await?.tables_within(namespace, room).await?;
        tables.retain(|table| self.gives(name, namespace, table));
        Ok(tables)
    }

    /// Returns a catalog, which is opened once. It shows all that it has: who lists it asks the methods above, and who loads a table asks
    /// [`Self::gives`].
    ///
    /// # Errors
    /// Not found, and those of opening it.
    pub async fn open(&self, name: &str) -> gust_catalog::Result<Catalog> {
        let Some(config) = self.configured.config.catalogs.get(name).filter(|_| self.shows(name)) else {
            return Err(Error::NotFound { what: format!("catalog {name}"), hint: None });
        };
        let mut open = self.configured.open.lock().await;
        if let Some(catalog) = open.get(name) {
            return Ok(catalog.clone());
        }
        let catalog = self.opened(name, config).await?;
        Ok(open.entry(name.to_owned()).or_insert(catalog).clone())
    }

    async fn opened(&self, name: &str, config: &CatalogConfig) -> gust_catalog::Result<Catalog> {
        let stores = self.configured.stores.for_catalog();
        let rest = |uri: String, warehouse: Option<String>, allow_http: bool, auth: RestAuth| {
            let (name, grants) = (name.to_owned(), self.configured.stores.grants().clone());
            Catalog::rest(RestSettings { name, uri, warehouse, allow_http, auth, grants }, stores.clone())
        };
        match config {
            CatalogConfig::Sqlite(SqliteConfig { path, warehouse }) => {
                Catalog::sqlite(path, name, warehouse, stores.clone()).await
            }
            CatalogConfig::Rest(RestConfig { uri, warehouse, allow_http, access }) => {
                let auth = match access {
                    RestAccess::None => RestAuth::None,
                    RestAccess::Token(token) => RestAuth::Token(secret(token)),
                    RestAccess::OAuth2 { client_id, client_secret, uri, scope } => RestAuth::OAuth2 {
                        client_id: client_id.clone(),
                        client_secret: secret(client_secret),
                        uri: uri.clone(),
                        scope: scope.clone(),
                    },
                    RestAccess::SigV4 { name, region } => self.signed(name, region),
                };
                rest(uri.clone(), warehouse.clone(), *allow_http, auth)
            }
            CatalogConfig::Glue(GlueConfig { region, account, uri, allow_http }) => {
                let uri = uri.clone().unwrap_or_else(|| format!("https://glue.{region}.amazonaws.com/iceberg"));
                rest(uri, account.clone(), *allow_http, self.signed(GLUE, region))
            }
            CatalogConfig::S3Tables(S3TablesConfig { bucket_arn, region, uri, allow_http }) => {
                let uri = uri.clone().unwrap_or_else(|| format!("https://s3tables.{region}.amazonaws.com/iceberg"));
                rest(uri, Some(bucket_arn.clone()), *allow_http, self.signed(S3_TABLES, region))
            }
        }
    }

    fn signed(&self, name: &str, region: &str) -> RestAuth {
        let keys: AwsCredentialProvider = self.configured.stores.aws_keys();
        RestAuth::SigV4 { name: name.to_owned(), region: region.to_owned(), keys }
    }
}

fn secret(source: &SecretSource) -> SecretPlace {
    match source {
        SecretSource::Value(value) => SecretPlace::Text(SecretText::new(value.reveal())),
        SecretSource::File(path) => SecretPlace::File(path.clone()),
    }
}
