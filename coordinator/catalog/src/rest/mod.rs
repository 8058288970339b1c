//! A catalog that speaks Iceberg's REST protocol.
//!
//! ```text
//!  RestCatalog ── http: retries, bounds ── auth: token, OAuth2, SigV4 ──▶ service
//!       │
//!       └── table answer ─▶ Table (metadata from the answer), and Grants: credentials for its files alone
//! ```
//!
//! The first question of a process asks `/v1/config` for the prefix and the namespaces' separator. Listings are read page
//! by page. A table that is loaded again is asked for with the ETag of its last answer. Non-goals: writes, views, and remote
//! signing, which is refused by name.

mod answer;
mod auth;
mod http;
mod lent;
mod loaded;
mod renewed;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::OnceCell;

use answer::{
    ConfigAnswer, CredentialsAnswer, ErrorModel, NamespacesAnswer, StorageCredential, TableAnswer, TablesAnswer,
};
pub use auth::{RestAuth, SecretPlace, SecretText};
use http::{Answer, Http, not_iceberg};
use lent::Lender;
pub use lent::{Grant, Grants, StoreSettings};
use loaded::{Loaded, LoadedTables};

use crate::error::{Error, Result};
use crate::room::NamesRoom;
use crate::storage::CatalogStores;
use crate::table::Table;

/// Characters that stand in a path as they are.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Names that are asked for in one page.
const PAGE_NAMES: usize = 1000;
/// Most pages of one listing.
const PAGES_MAX: usize = 100_000;
/// Requests of one listing that are under way at once.
const LISTINGS_AT_ONCE: usize = 16;
/// Separator of a namespace's levels in a path, unless the catalog says another.
const SEPARATOR: &str = "\u{1f}";

/// Settings of a REST catalog.
#[derive(Debug, Clone)]
pub struct RestSettings {
    /// Name of the catalog, for messages.
    pub name: String,
    /// Address, without `/v1`.
    pub uri: String,
    pub warehouse: Option<String>,
    /// Permission to send credentials unencrypted, and to be lent some.
    pub allow_http: bool,
    pub auth: RestAuth,
    /// Place of the credentials that the catalog lends for tables.
    pub grants: Grants,
}

/// Tables of a service. Clones share its connections, its token, and what it has said about itself.
#[derive(Clone)]
pub struct RestCatalog {
    service: Arc<Service>,
    stores: CatalogStores,
}

impl fmt::Debug for RestCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestCatalog").field("name", &self.service.name).field("uri", &self.service.base).finish()
    }
}

struct Service {
    name: String,
    base: String,
    warehouse: Option<String>,
    /// True where the catalog may lend credentials over this connection.
    may_lend: bool,
    http: Http,
    served: OnceCell<Served>,
    grants: Grants,
    loaded: LoadedTables,
    /// Stores of the process, which hold no query.
    stores: CatalogStores,
}

/// Answer of `/v1/config`.
#[derive(Debug)]
struct Served {
    /// Path before the namespaces, with a slash at its end where there is one.
    prefix: String,
    separator: String,
}

impl RestCatalog {
    /// # Errors
    /// Invalid: an address that is none, or credentials that would travel unencrypted.
    pub(crate) fn new(settings: RestSettings, stores: CatalogStores) -> Result<Self> {
        let RestSettings { name, uri, warehouse, allow_http, auth, grants } = settings;
        let base = uri.trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base).to_owned();
        let url = url::Url::parse(&base).ok().filter(url::Url::has_host);
        let has_more = |url: &url::Url| !url.username().is_empty() || url.password().is_some() || url.query().is_some();
        let token_url = match &auth {
            RestAuth::OAuth2 { uri: Some(uri), .. } => url::Url::parse(uri).ok(),
            _ => None,
        };
        let with_more = [("its address", &url), ("its token endpoint", &token_url)];
        if let Some((which, _)) = with_more.into_iter().find(|(_, url)| url.as_ref().is_some_and(has_more)) {
            // It is not quoted, for it may hold a secret.
            let why = format!("{which} has a user, a password or a query; credentials have keys of their own");
            return Err(Error::Setting { catalog: name, why });
        }
        let scheme = url.as_ref().map(url::Url::scheme);
        if !matches!(scheme, Some("http" | "https")) {
            let why = format!("{uri} is no http:// or https:// address");
            return Err(Error::Setting { catalog: name, why });
        }
        let is_plain = scheme == Some("http");
        let tokens_plain = token_url.is_some_and(|url| url.scheme() == "http");
        if (is_plain && !auth.is_none() || tokens_plain) && !allow_http {
            let why = format!("credentials would travel unencrypted to {uri}");
            return Err(Error::Setting { catalog: name, why });
        }
        let http = Http::new(&name, auth, &base)?;
        let service = Service {
            may_lend: !is_plain || allow_http,
            name,
            base,
            warehouse,
            http,
            served: OnceCell::new(),
            grants,
            loaded: LoadedTables::default(),
            stores: stores.clone(),
        };
        Ok(RestCatalog { service: Arc::new(service), stores })
    }

    pub(crate) fn name(&self) -> &str {
        &self.service.name
    }

    pub(crate) fn skew_seconds(&self) -> Option<i64> {
        self.service.http.skew_seconds()
    }

    pub(crate) fn with_stores(&self, stores: CatalogStores) -> Self {
        RestCatalog { service: Arc::clone(&self.service), stores }
    }

    /// Lists the namespaces at the top.
    pub(crate) async fn top_namespaces(&self) -> Result<Vec<String>> {
        let top = self.service.namespaces_in(&[], &NamesRoom::default()).await?;
        Ok(top.iter().map(|levels| levels.join(".")).collect())
    }

    /// Lists all namespaces, level by level.
    pub(crate) async fn namespaces(&self, room: &NamesRoom) -> Result<Vec<String>> {
        let mut level = self.service.namespaces_in(&[], room).await?;
        let mut found: Vec<String> = Vec::new();
        while !level.is_empty() {
            found.extend(level.iter().map(|levels| levels.join(".")));
            let below =
                stream::iter(level).map(|levels| async move { self.service.namespaces_in(&levels, room).await });
            let below: Vec<Vec<Vec<String>>> = below.buffered(LISTINGS_AT_ONCE).try_collect().await?;
            level = below.into_iter().flatten().collect();
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    pub(crate) async fn has_namespace(&self, namespace: &str) -> Result<bool> {
        for levels in spellings(namespace) {
            let url = self.service.namespace_url(&levels).await?;
            if self.service.http.get(&url, &[], &format!("namespace {namespace}")).await?.status != 404 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) async fn tables(&self, namespace: &str, room: &NamesRoom) -> Result<Vec<String>> {
        for levels in spellings(namespace) {
            if let Some(mut names) = self.service.tables_in(&levels, room).await? {
                names.sort();
                return Ok(names);
            }
        }
        Ok(Vec::new())
    }

    pub(crate) async fn load(&self, namespace: &str, name: &str) -> Result<Table> {
        for levels in spellings(namespace) {
            if let Some(Loaded { table, lent, .. }) = self.service.load(&levels, namespace, name).await? {
                let lender = Lender { service: Arc::clone(&self.service), levels, name: name.to_owned() };
                let stores = self.stores.lent(self.service.grants.grant(lender, &lent));
                return Ok(table.with_lent(stores));
            }
        }
        Err(Error::NotFound { what: format!("table {namespace}.{name}"), hint: None })
    }
}

/// Lists the namespaces that a dotted name may mean: nested ones, or one whose name has dots.
fn spellings(namespace: &str) -> Vec<Vec<String>> {
    let nested: Vec<String> = namespace.split('.').map(str::to_owned).collect();
    match nested.len() {
        1 => vec![nested],
        _ => vec![nested, vec![namespace.to_owned()]],
    }
}

impl Service {
    async fn served(&self) -> Result<&Served> {
        let ask = || async {
            let warehouse = self.warehouse.as_ref().map(|name| format!("?warehouse={}", encoded(name)));
            let url = format!("{}/v1/config{}", self.base, warehouse.unwrap_or_default());
            let answer = self.http.get(&url, &[], "its configuration").await?;
            if answer.status == 404 {
                return Err(self.http.refused(&url, &answer));
            }
            let ConfigAnswer { defaults, overrides } = parsed(&url, &answer)?;
            let told = |key: &str| overrides.get(key).or_else(|| defaults.get(key)).cloned().flatten();
            let prefix = told("prefix").map(|prefix| prefix.trim_matches('/').to_owned()).filter(|p| !p.is_empty());
            let separator = told("namespace-separator")
                .map(|separator| percent_encoding::percent_decode_str(&separator).decode_utf8_lossy().into_owned());
            Ok(Served {
                prefix: prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default(),
                separator: separator.unwrap_or_else(|| SEPARATOR.to_owned()),
            })
        };
        self.served.get_or_try_init(ask).await
    }

    fn wrong_pages(&self, why: &str) -> Error {
        Error::Refused { location: self.base.clone(), status: 200, why: why.to_owned() }
    }

    async fn namespaces_url(&self) -> Result<String> {
        Ok(format!("{}/v1/{}namespaces", self.base, self.served().await?.prefix))
    }

    async fn namespace_url(&self, levels: &[String]) -> Result<String> {
        let namespace = encoded(&levels.join(&self.served().await?.separator));
        Ok(format!("{}/{namespace}", self.namespaces_url().await?))
    }

    async fn table_url(&self, levels: &[String], name: &str) -> Result<String> {
        Ok(format!("{}/tables/{}", self.namespace_url(levels).await?, encoded(name)))
    }

    /// Lists the namespaces right below one. A catalog without nested namespaces has none.
    async fn namespaces_in(&self, parent: &[String], room: &NamesRoom) -> Result<Vec<Vec<String>>> {
        let url = self.namespaces_url().await?;
        let separator = &self.served().await?.separator;
        let parent_text = match parent {
            [] => String::new(),
            levels => format!("parent={}&", encoded(&levels.join(separator))),
        };
        let mut all = Vec::new();
        let mut pages = Pages::default();
        loop {
            let page = &pages.next;
            let asked = format!("{url}?{parent_text}pageToken={}&pageSize={PAGE_NAMES}", encoded(page));
            let answer = match self.http.get(&asked, &[], "its namespaces").await {
                Err(Error::Refused { status: 400 | 405 | 406 | 501, .. }) if !parent.is_empty() => return Ok(all),
                answer => answer?,
            };
            if answer.status == 404 {
                match parent {
                    [] => return Err(self.http.refused(&asked, &answer)),
                    _ => return Ok(all),
                }
            }
            let NamespacesAnswer { namespaces, next_page_token } = parsed(&asked, &answer)?;
            // A catalog that does not know `parent` lists those at the top again.
            let before = all.len();
            all.extend(
                namespaces.into_iter().filter(|levels| levels.len() == parent.len() + 1 && levels.starts_with(parent)),
            );
            room.take(all.len() - before)?;
            if !pages.turn(next_page_token).map_err(|why| self.wrong_pages(why))? {
                return Ok(all);
            }
        }
    }

    /// Lists the tables of a namespace. None if there is no such namespace.
    async fn tables_in(&self, levels: &[String], room: &NamesRoom) -> Result<Option<Vec<String>>> {
        let url = format!("{}/tables", self.namespace_url(levels).await?);
        let mut all = Vec::new();
        let mut pages = Pages::default();
        loop {
            let page = &pages.next;
            let asked = format!("{url}?pageToken={}&pageSize={PAGE_NAMES}", encoded(page));
            let answer = self.http.get(&asked, &[], &format!("the tables of {}", levels.join("."))).await?;
            if answer.status == 404 {
                return Ok(None);
            }
            let TablesAnswer { identifiers, next_page_token } = parsed(&asked, &answer)?;
            room.take(identifiers.len())?;
            all.extend(identifiers.into_iter().map(|identifier| identifier.name));
            if !pages.turn(next_page_token).map_err(|why| self.wrong_pages(why))? {
                return Ok(Some(all));
            }
        }
    }

    /// Loads a table. None if there is no such table.
    async fn load(&self, levels: &[String], namespace: &str, name: &str) -> Result<Option<Loaded>> {
        let url = self.table_url(levels, name).await?;
        let key = (levels.to_vec(), name.to_owned());
        let kept = self.loaded.get(&key);
        let mut headers = Vec::new();
        if self.may_lend {
            headers.push(("x-iceberg-access-delegation", "vended-credentials"));
        }
        if let Some(kept) = &kept {
            headers.push(("if-none-match", kept.etag.as_str()));
        }
        let full_name = format!("{namespace}.{name}");
        let answer = self.http.get_table(&url, &headers, &format!("table {full_name}")).await?;
        match answer.status {
            304 => return Ok(kept),
            404 => {
                let model = ErrorModel::of(&answer.body);
                return match model {
                    Some(model) if model.is_other_format() => Err(not_iceberg(&full_name)),
                    Some(_) => Ok(None),
                    None => Err(self.http.refused(&url, &answer)),
                };
            }
            _ => {}
        }
        let etag = answer.etag.clone().unwrap_or_default();
        let parse = {
            let (url, full_name, stores) = (url.clone(), full_name.clone(), self.stores.clone());
            move || {
                let TableAnswer { metadata_location, metadata, config, storage_credentials } = parsed(&url, &answer)?;
                let location = metadata_location.unwrap_or_else(|| url.clone());
                let table = Table::parse(&full_name, &location, metadata.get().as_bytes(), &stores)?;
                Ok((table, lent::credentials(&full_name, config, storage_credentials)?))
            }
        };
        let (table, lent) = self.stores.cache().decoding(&url, parse).await?;
        let loaded = Loaded { etag, table: table.register(namespace, name), lent: lent.into() };
        // An answer that is not changed brings no new credentials.
        if !loaded.etag.is_empty() && lent::ends_are_told(&loaded.lent) {
            self.loaded.keep(key, loaded.clone());
        }
        Ok(Some(loaded))
    }

    /// Asks for credentials of a table anew. A catalog without that question is asked for the table.
    async fn credentials(&self, levels: &[String], name: &str) -> Result<Vec<StorageCredential>> {
        let url = self.table_url(levels, name).await?;
        let full_name = format!("{}.{name}", levels.join("."));
        let what = format!("credentials of table {full_name}");
        let asked = format!("{url}/credentials");
        match self.http.get(&asked, &[], &what).await {
            Ok(answer) if answer.status == 200 => {
                let CredentialsAnswer { storage_credentials } = parsed(&asked, &answer)?;
                let lent = lent::credentials(&full_name, BTreeMap::new(), Some(storage_credentials))?;
                if !lent.is_empty() {
                    return Ok(lent);
                }
            }
            Ok(_) | Err(Error::Refused { status: 400 | 405 | 406 | 501, .. }) => {}
            Err(error) => return Err(error),
        }
        let answer = self.http.get_table(&url, &[("x-iceberg-access-delegation", "vended-credentials")], &what).await?;
        let TableAnswer { config, storage_credentials, .. } = parsed(&url, &answer)?;
        lent::credentials(&full_name, config, storage_credentials)
    }
}

/// Pages of a listing.
#[derive(Default)]
struct Pages {
    /// Token of the page to ask for. Empty for the first.
    next: String,
    seen: HashSet<String>,
}

impl Pages {
    /// Goes to the next page. False if there is none.
    ///
    /// # Errors
    /// The reason why a listing would never end.
    fn turn(&mut self, token: Option<String>) -> Result<bool, &'static str> {
        let Some(token) = token.filter(|token| !token.is_empty()) else { return Ok(false) };
        if self.seen.len() >= PAGES_MAX {
            return Err("its listing has too many pages");
        }
        if !self.seen.insert(token.clone()) {
            return Err("it gives the token of a page twice, so that its listing would never end");
        }
        self.next = token;
        Ok(true)
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

fn parsed<T: serde::de::DeserializeOwned>(url: &str, answer: &Answer) -> Result<T> {
    serde_json::from_slice(&answer.body).map_err(|error| {
        // A table's answer may hold credentials, so that it is not quoted.
        let why =
            format!("it is no answer of Iceberg's REST protocol (line {}, column {})", error.line(), error.column());
        Error::Refused { location: url.to_owned(), status: answer.status, why }
    })
}

/// Settings of a store in the protocol's words, by the first of the names that is given.
fn setting<'a>(config: &'a BTreeMap<String, String>, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| config.get(*name)).map(String::as_str).filter(|value| !value.is_empty())
}
