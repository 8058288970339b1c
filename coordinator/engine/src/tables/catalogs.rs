//! Configured Iceberg catalogs by name. Each is opened when it is first asked for, once a process.

use std::collections::BTreeMap;
use std::sync::Arc;

use gust_catalog::{Catalog, Error, RestAuth, RestSettings, SecretPlace, SecretText};
use object_store::aws::AwsCredentialProvider;
use tokio::sync::Mutex;

use crate::config::{
    CatalogConfig, Config, GlueConfig, RestAccess, RestConfig, S3TablesConfig, SecretSource, SqliteConfig,
};
use crate::storage::Stores;

/// Names by which AWS's services are signed for.
const GLUE: &str = "glue";
const S3_TABLES: &str = "s3tables";

/// Catalogs of a process. Clones share those that are open.
#[derive(Debug, Clone)]
pub struct Catalogs(Arc<Configured>);

#[derive(Debug)]
struct Configured {
    config: Arc<Config>,
    stores: Stores,
    open: Mutex<BTreeMap<String, Catalog>>,
}

impl Catalogs {
    pub fn new(config: &Arc<Config>, stores: &Stores) -> Self {
        Self(Arc::new(Configured { config: Arc::clone(config), stores: stores.clone(), open: Mutex::default() }))
    }

    /// Lists the names of all catalogs.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.config.catalogs.keys().map(String::as_str)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.config.catalogs.contains_key(name)
    }

    /// Returns a catalog, which is opened once.
    ///
    /// # Errors
    /// Not found, and those of opening it.
    pub async fn open(&self, name: &str) -> gust_catalog::Result<Catalog> {
        let Some(config) = self.0.config.catalogs.get(name) else {
            return Err(Error::NotFound { what: format!("catalog {name}"), hint: None });
        };
        let mut open = self.0.open.lock().await;
        if let Some(catalog) = open.get(name) {
            return Ok(catalog.clone());
        }
        let catalog = self.opened(name, config).await?;
        Ok(open.entry(name.to_owned()).or_insert(catalog).clone())
    }

    async fn opened(&self, name: &str, config: &CatalogConfig) -> gust_catalog::Result<Catalog> {
        let stores = self.0.stores.for_catalog();
        let rest = |uri: String, warehouse: Option<String>, allow_http: bool, auth: RestAuth| {
            let (name, grants) = (name.to_owned(), self.0.stores.grants().clone());
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
        let keys: AwsCredentialProvider = self.0.stores.aws_keys();
        RestAuth::SigV4 { name: name.to_owned(), region: region.to_owned(), keys }
    }
}

fn secret(source: &SecretSource) -> SecretPlace {
    match source {
        SecretSource::Value(value) => SecretPlace::Text(SecretText::new(value.reveal())),
        SecretSource::File(path) => SecretPlace::File(path.clone()),
    }
}
