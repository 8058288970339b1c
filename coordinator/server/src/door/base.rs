//! The engine of new sessions with the tables that each of them shows, and catalogs that are read anew.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use gust_engine::config::{CatalogConfig, Config};
use gust_engine::error::QueryError;
use gust_engine::session::{Engine, OWN_CATALOG, OWN_SCHEMA, OwnTables, Session, SessionOptions};
use gust_engine::storage::Reach;
use sha2::{Digest, Sha256};

use super::Door;
use crate::grants;

/// Name under which the history has the set-up statements of a server with users.
const SETUP: &str = "--setup";

/// Engine of new sessions, and the tables that each of them shows. The session that has made these is not kept: whether it is `Send` is proved
/// slowly, and anew for each call of Flight.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    pub(super) engine: Engine,
    pub(super) shown: OwnTables,
    /// Digest of what makes a statement mean the same on two servers.
    pub(crate) deployment: String,
}

/// Returns a digest of what makes a statement mean the same on two servers: catalogs and their places, places that may be read, the place
/// of bare names, the set-up, the grants, and the provider of users. A server without users is its machine's own, and so are its statements.
fn deployment(config: &Config, catalog: Option<&str>, setup: &[String], has_users: bool) -> String {
    let catalogs: Vec<_> = config.catalogs.iter().map(|(name, it)| (name, it.tables_in(), it.file())).collect();
    let issuer = config.server.jwt.as_ref().map(|jwt| &jwt.issuer);
    let machine = (!has_users).then(|| whoami::fallible::hostname().unwrap_or_default());
    let server = &config.server;
    let facts = format!("{:?}", (catalogs, &server.reach, &server.grants, catalog, setup, issuer, machine));
    BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(facts))
}

/// Returns the places that queries may read: those of the catalogs' tables, and those of the configuration.
pub(super) fn reach_of(catalogs: &BTreeMap<String, CatalogConfig>, more: &[String]) -> Result<Reach, QueryError> {
    let warehouses = catalogs.values().filter_map(CatalogConfig::tables_in);
    Reach::of(warehouses.chain(more.iter().map(String::as_str)))
}

/// Runs the set-up statements in a session of their own.
pub(super) async fn set_up(
    engine: &Engine,
    has_users: bool,
    catalog: Option<&str>,
    setup: &[String],
) -> Result<Base, QueryError> {
    // Users see the views that it makes. So it has no history but its own.
    let options = SessionOptions {
        principal: has_users.then(|| SETUP.to_owned()),
        own_history: has_users,
        ..SessionOptions::default()
    };
    let base = engine.session(options)?;
    look_up_in(&base, catalog).await?;
    for sql in setup {
        base.set_up(sql).await?;
    }
    grants::check_set_up(&base)?;
    let deployment = deployment(engine.config(), catalog, setup, has_users);
    Ok(Base { engine: engine.clone(), shown: base.own_tables(), deployment })
}

/// Looks bare names up in a catalog, or among the session's own tables. All catalogs are at hand.
pub(super) async fn look_up_in(session: &Session, catalog: Option<&str>) -> Result<(), QueryError> {
    session.use_schema(OWN_CATALOG, OWN_SCHEMA);
    match catalog {
        Some(catalog) => session.use_catalog(catalog).await,
        None => Ok(()),
    }
}

impl Door {
    /// Returns the engine of new sessions, and what it shows.
    pub(crate) fn base(&self) -> Base {
        self.base.borrow().clone()
    }

    /// Reads the catalogs anew, and runs the set-up statements over them. Tells if any has changed. Sessions that are open keep theirs. After an
    /// error all do.
    ///
    /// # Errors
    /// Those of reading, of grants whose places are there no more, of opening the catalog of bare names, and of the set-up statements.
    pub(crate) async fn reload_catalogs(
        &self,
        read: impl FnOnce() -> Result<BTreeMap<String, CatalogConfig>, QueryError>,
    ) -> Result<bool, QueryError> {
        // Two signals must not leave what the first has read.
        let _one_at_a_time = self.reloading.lock().await;
        let before = self.base();
        let (catalogs, config) = (read()?, before.engine.config());
        if catalogs == config.catalogs {
            return Ok(false);
        }
        let reach = reach_of(&catalogs, &config.server.reach)?;
        grants::check_places(&config.server.grants, &catalogs, &reach)?;
        let engine = before.engine.with_catalogs(catalogs, reach)?;
        let base = Box::pin(set_up(&engine, self.has_users(), self.catalog.as_deref(), &self.setup));
        let base = tokio::select! {
            base = base => base?,
            () = self.stopping.cancelled() => return Err(QueryError::interrupted()),
        };
        self.base.send_replace(base);
        if let Some(keeping) = &self.keeping {
            // Journals of other servers may be this one's now.
            keeping.look_soon();
        }
        Ok(true)
    }
}
