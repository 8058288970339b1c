//! Lists an object of each place in S3 that the configuration names for tables, as a query would.

use std::collections::BTreeSet;

use datafusion::common::DataFusionError;
use futures::StreamExt;
use object_store::path::Path;
use url::Url;

use crate::config::{CatalogConfig, Config};
use crate::error::QueryError;
use crate::fleet::Finding;
use crate::session::Session;

impl Session {
    /// Returns a finding of each place: warehouses, `server.reach` and `s3.anonymous_buckets`.
    pub(super) async fn examine_places(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for place in places(&self.config) {
            let listed = self.listed(&place).await;
            findings.push(Finding::new(format!("tables {place}"), listed));
        }
        findings
    }

    async fn listed(&self, place: &str) -> Result<String, QueryError> {
        let url = Url::parse(place).map_err(|error| QueryError::setup(format!("`{place}`: {error}")))?;
        let store = self.stores.open_own(&url)?;
        let prefix =
            Path::from_url_path(url.path()).map_err(|error| QueryError::setup(format!("`{place}`: {error}")))?;
        match store.list(Some(&prefix)).next().await {
            Some(Ok(object)) => Ok(format!("can be listed: {}", object.location)),
            None => Ok("can be listed, and is empty".to_owned()),
            Some(Err(error)) => Err(QueryError::from_engine(DataFusionError::ObjectStore(Box::new(error)))),
        }
    }
}

/// Returns the URLs of places in S3, each once.
fn places(config: &Config) -> BTreeSet<String> {
    let warehouses = config.catalogs.values().filter_map(|catalog| match catalog {
        CatalogConfig::Sqlite(sqlite) => Some(sqlite.warehouse.clone()),
        // A catalog that is a service names a warehouse that need not be a place. A table of it is read.
        CatalogConfig::Rest(_) | CatalogConfig::Glue(_) | CatalogConfig::S3Tables(_) => None,
    });
    let anonymous = config.s3.anonymous_buckets.iter().map(|bucket| format!("s3://{bucket}/"));
    let all = warehouses.chain(config.server.reach.iter().cloned()).chain(anonymous);
    all.filter(|place| place.starts_with("s3://") || place.starts_with("s3a://")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{S3Config, ServerConfig};

    #[test]
    fn places_are_those_that_the_configuration_names() {
        let config = Config {
            s3: S3Config { anonymous_buckets: vec!["open-data".to_owned()], ..S3Config::default() },
            server: ServerConfig {
                reach: vec!["s3://lake/a/".to_owned(), "/data".to_owned(), "s3://open-data/".to_owned()],
                ..ServerConfig::default()
            },
            ..Config::default()
        };
        assert_eq!(places(&config).into_iter().collect::<Vec<_>>(), ["s3://lake/a/", "s3://open-data/"]);
    }
}
