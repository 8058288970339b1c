//! Object stores by URL. They are opened when first asked for, count all requests, and send late reads again. A query's view
//! of them refuses what its server does not let it read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::object_store::{ObjectStoreRegistry, ObjectStoreUrl};
use fragment_fn::hedging::{HedgedStore, Hedger};
use fragment_fn::metering::Counters;
use fragment_fn::{Connections, Pace, Signers, StoreClient, connect, connect_over};
use gust_catalog::{Grant, Grants, MetadataCache};
use gust_protocol::{StoreAccess, Usage};
use object_store::aws::{AwsCredential, AwsCredentialProvider};
use object_store::{ObjectStore, StaticCredentialProvider};
use url::{Position, Url};

use crate::config::{S3Config, Secret};
use crate::error::QueryError;
use crate::model::load::OwnUsage;
use crate::storage::aws::ChainCredentials;
use crate::storage::{Reach, StoreCredentials};

/// Stores of the coordinator: the process's, or one query's view of them. Cloning shares them.
///
/// ```text
///  query's view: reach ─► hedged ─► counted for the query, and so for the process ─┐
///  process's   :          hedged ─► counted for the process ───────────────────────┴─► one client a store
/// ```
#[derive(Debug, Clone)]
pub struct Stores(Arc<StoreView>);

#[derive(Debug)]
struct StoreView {
    settings: Arc<StoreSettings>,
    /// Stores of the process; None if these are the process's own.
    process: Option<Stores>,
    open: Arc<Mutex<BTreeMap<String, OpenStore>>>,
    /// Usage of stores that are closed, all of S3.
    closed: Arc<Mutex<Usage>>,
}

/// Settings and credentials for reaching stores, and what is known of their contents.
#[derive(Debug)]
struct StoreSettings {
    s3: S3Config,
    /// Places that queries may read.
    reach: Reach,
    /// Credentials for stores whose keys the configuration does not name.
    credentials: Arc<ChainCredentials>,
    /// Metadata of Iceberg tables, which all queries share.
    metadata: Arc<MetadataCache>,
    /// Credentials that catalogs have lent for tables.
    grants: Grants,
    /// Connections of the stores that these credentials open.
    lent_connections: Connections,
}

#[derive(Debug, Clone)]
struct OpenStore {
    /// Client that all views share, with the times of its reads.
    client: StoreClient,
    counters: Arc<Counters>,
    /// The client, counted and hedged.
    store: Arc<dyn ObjectStore>,
}

impl OpenStore {
    fn new(client: StoreClient, counters: Counters) -> Self {
        let counters = Arc::new(counters);
        // Counting stands inside hedging, so that a read that is sent again is counted twice.
        let counted = client.counted(&counters);
        let store = HedgedStore::wrap(counted, client.hedger.clone(), &counters);
        Self { client, counters, store }
    }

    fn add_to(&self, usage: &mut Usage) {
        usage.requests += self.counters.requests();
        usage.bytes_read += self.counters.bytes_read();
        usage.bytes_written += self.counters.bytes_written();
    }

    /// Returns the same client with counters of its own, which also add to these.
    fn counted_apart(&self) -> Self {
        Self::new(self.client.clone(), Counters::part_of(&self.counters))
    }
}

impl Stores {
    /// Makes stores that may all be read.
    pub fn new(s3: S3Config) -> Self {
        Self::within(s3, Reach::default(), Arc::default())
    }

    /// Makes stores of which queries read these places alone, with the place of what is kept of Iceberg's metadata.
    pub fn within(s3: S3Config, reach: Reach, metadata: Arc<MetadataCache>) -> Self {
        let settings = Arc::new(StoreSettings {
            s3,
            reach,
            credentials: Arc::default(),
            metadata,
            grants: Grants::default(),
            lent_connections: Connections::default(),
        });
        Self(Arc::new(StoreView { settings, process: None, open: Arc::default(), closed: Arc::default() }))
    }

    /// Returns the process's stores with other places that queries may read. They share clients, credentials and counters with these. What
    /// catalogs have told is not shared: the metadata of tables, and the credentials that they have lent, which a catalog of the same name
    /// may lend no more. A lent client that either closes is opened again when the other asks for it.
    #[must_use]
    pub fn with_reach(&self, reach: Reach) -> Self {
        let process = self.0.process.as_ref().unwrap_or(self);
        let StoreSettings { s3, credentials, metadata, lent_connections, .. } = &*process.0.settings;
        let settings = Arc::new(StoreSettings {
            s3: s3.clone(),
            reach,
            credentials: Arc::clone(credentials),
            metadata: Arc::new(metadata.emptied()),
            grants: Grants::default(),
            lent_connections: lent_connections.clone(),
        });
        let (open, closed) = (Arc::clone(&process.0.open), Arc::clone(&process.0.closed));
        Self(Arc::new(StoreView { settings, process: None, open, closed }))
    }

    /// Returns a query's view of the stores, counted from zero. The process's counters include the view's.
    #[must_use]
    pub fn for_query(&self) -> Self {
        let process = self.0.process.as_ref().unwrap_or(self).clone();
        Self(Arc::new(StoreView {
            settings: Arc::clone(&self.0.settings),
            process: Some(process),
            open: Arc::default(),
            closed: Arc::default(),
        }))
    }

    /// Returns all requests and bytes of these stores. The process's stores include the requests of queries.
    pub fn usage(&self) -> Usage {
        self.usage_of(|_| true)
    }

    /// Returns the requests and bytes that are billed: those to S3.
    pub fn billed_usage(&self) -> Usage {
        self.usage_of(is_billed)
    }

    /// Returns both at once.
    pub fn own_usage(&self) -> OwnUsage {
        // One pass: what is billed is never more than all.
        let closed = *self.0.closed.lock().expect("no holder panics");
        let mut usage = OwnUsage { all: closed, billed: closed };
        for (url, store) in self.lock().iter() {
            let mut of_store = Usage::default();
            store.add_to(&mut of_store);
            for sum in [Some(&mut usage.all), Some(&mut usage.billed).filter(|_| is_billed(url))].into_iter().flatten()
            {
                sum.requests += of_store.requests;
                sum.bytes_read += of_store.bytes_read;
                sum.bytes_written += of_store.bytes_written;
            }
        }
        usage
    }

    fn usage_of(&self, counts: impl Fn(&str) -> bool) -> Usage {
        let closed = self.0.closed.lock().expect("no holder panics");
        let mut usage = *closed;
        self.lock().iter().filter(|(url, _)| counts(url)).for_each(|(_, store)| store.add_to(&mut usage));
        usage
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, OpenStore>> {
        self.0.open.lock().expect("no holder panics")
    }

    /// Returns the credentials of the environment, for stores whose keys the configuration does not name.
    pub fn credentials(&self) -> &ChainCredentials {
        &self.0.settings.credentials
    }

    /// Returns the way to the store of `url`, for this coordinator or a function.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Sql`] for a URL without a bucket or with another scheme than `file`, `s3` and `s3a`.
    pub fn access(&self, url: &Url) -> Result<StoreAccess, QueryError> {
        match url.host_str() {
            Some(buckets) if buckets.contains(',') => Err(QueryError::sql(format!("`{url}` names several buckets"))
                .with_hint("only `exchange` may have several; read the files of each bucket by a path of its own")),
            _ => self.own_access(url),
        }
    }

    /// Returns the way to a store for the engine's own objects, which may have several buckets.
    ///
    /// # Errors
    /// Those of [`Self::access`], but that one.
    pub fn own_access(&self, url: &Url) -> Result<StoreAccess, QueryError> {
        match url.scheme() {
            "file" => Ok(StoreAccess { url: "file:///".to_owned(), options: BTreeMap::new() }),
            "s3" | "s3a" => {
                let bucket = url.host_str().ok_or_else(|| {
                    QueryError::sql(format!("`{url}` names no bucket")).with_hint("write s3://BUCKET/PREFIX")
                })?;
                let s3 = &self.0.settings.s3;
                if url.username().is_empty() {
                    return Ok(StoreAccess {
                        url: format!("{}://{bucket}/", url.scheme()),
                        options: s3_options(s3, bucket),
                    });
                }
                let lent = self.grant(url)?;
                Ok(StoreAccess {
                    url: format!("{}://{}@{bucket}/", url.scheme(), url.username()),
                    options: s3_options(&lent_settings(s3, lent.settings()), bucket),
                })
            }
            scheme => Err(QueryError::sql(format!("`{url}`: scheme `{scheme}` is not supported"))
                .with_hint("use a local path, file:// or s3://")),
        }
    }

    /// Returns the credentials that were lent for the store of `url`.
    fn grant(&self, url: &Url) -> Result<Arc<Grant>, QueryError> {
        self.0.settings.grants.get(url.username()).ok_or_else(|| {
            let bucket = url.host_str().unwrap_or_default();
            QueryError::sql(format!("nobody has lent credentials for a table in bucket `{bucket}`"))
                .with_hint("run the statement again")
        })
    }

    /// Returns a store as functions reach it: with the credentials that its table's catalog has lent, as they are now.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Sql`] if nothing is lent any more, and the catalog's if it lends nothing new.
    pub async fn with_lent_keys(&self, access: StoreAccess) -> Result<StoreAccess, DataFusionError> {
        let url = match Url::parse(&access.url) {
            Ok(url) if !url.username().is_empty() => url,
            _ => return Ok(access),
        };
        let keys = self.grant(&url)?.current().await.map_err(|error| DataFusionError::External(Box::new(error)))?;
        let AwsCredential { key_id, secret_key, token } = &*keys;
        let values = [Some(key_id), Some(secret_key), token.as_ref()];
        let pairs = StoreCredentials::KEYS.into_iter().zip(values);
        let pairs = pairs.filter_map(|(key, value)| Some((key.to_owned(), value?.clone())));
        let StoreAccess { url, mut options } = access;
        options.extend(pairs);
        Ok(StoreAccess { url, options })
    }

    /// Returns the place of the credentials that catalogs lend.
    pub fn grants(&self) -> &Grants {
        &self.0.settings.grants
    }

    /// Returns the source of the keys with which requests to AWS are signed: those of the configuration, else the environment's.
    pub fn aws_keys(&self) -> AwsCredentialProvider {
        let StoreSettings { s3, credentials, .. } = &*self.0.settings;
        match (&s3.access_key_id, &s3.secret_access_key) {
            (Some(key_id), Some(secret)) => Arc::new(StaticCredentialProvider::new(AwsCredential {
                key_id: key_id.clone(),
                secret_key: secret.reveal().to_owned(),
                token: None,
            })),
            _ => Arc::clone(credentials) as AwsCredentialProvider,
        }
    }

    /// Returns the signers of URLs by which others may read the engine's own objects in a store; None for one without signatures.
    ///
    /// # Errors
    /// Those of [`Self::open_own`].
    pub fn signers(&self, url: &Url) -> Result<Option<Signers>, QueryError> {
        Ok(self.opened(&self.own_access(url)?)?.client.signers().cloned())
    }

    /// Returns the way to the store with this root, of which `s3://bucket/t//` is one: see [`gust_catalog::Location`].
    ///
    /// # Errors
    /// Those of [`Self::access`].
    pub fn access_root(&self, root: &Url) -> Result<StoreAccess, QueryError> {
        let mut access = self.access(root)?;
        if root.scheme() != "file" {
            access.url += root.path().strip_prefix('/').unwrap_or_default();
        }
        Ok(access)
    }

    /// Returns the store with this root, opened once. A query's view refuses what is outside of its reach.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_root(&self, root: &Url) -> Result<Arc<dyn ObjectStore>, QueryError> {
        self.reached(&self.access_root(root)?)
    }

    fn reached(&self, access: &StoreAccess) -> Result<Arc<dyn ObjectStore>, QueryError> {
        if self.0.process.is_none() {
            return Ok(self.opened(access)?.store);
        }
        self.reach().check_store(&access.url)?;
        Ok(self.reach().wrap(self.opened(access)?.store, &access.url))
    }

    /// Returns the store of `url`, opened once. A query's view refuses what is outside of its reach.
    ///
    /// # Errors
    /// Those of [`Self::access`], and [`crate::error::ErrorKind::Sql`] for settings that make no client, or a store of which
    /// nothing may be read.
    pub fn open(&self, url: &Url) -> Result<Arc<dyn ObjectStore>, QueryError> {
        self.reached(&self.access(url)?)
    }

    /// Returns the store of `url` for the engine's own objects, which no query may name.
    ///
    /// # Errors
    /// Those of [`Self::access`], and [`crate::error::ErrorKind::Sql`] for settings that make no client.
    pub fn open_own(&self, url: &Url) -> Result<Arc<dyn ObjectStore>, QueryError> {
        Ok(self.opened(&self.own_access(url)?)?.store)
    }

    /// Returns the places that queries may read.
    pub fn reach(&self) -> &Reach {
        &self.0.settings.reach
    }

    /// Returns the times and refusals that the client of `url`'s store has seen, for all queries of the process. None for
    /// local files, and for a store that cannot be opened.
    pub fn pace(&self, url: &ObjectStoreUrl) -> Option<Arc<Pace>> {
        let access = self.access(url.as_ref()).ok()?;
        self.opened(&access).ok()?.client.pace().cloned()
    }

    fn opened(&self, access: &StoreAccess) -> Result<OpenStore, QueryError> {
        if let Some(opened) = self.lock().get(&access.url) {
            return Ok(opened.clone());
        }
        let opened = match &self.0.process {
            Some(process) => process.opened(access)?.counted_apart(),
            None => {
                let StoreSettings { s3, credentials, .. } = &*self.0.settings;
                let lent = Url::parse(&access.url).ok().filter(|url| !url.username().is_empty());
                let client = match lent {
                    Some(url) => {
                        self.close_unlent();
                        connect_over(&self.0.settings.lent_connections, access, Some(self.grant(&url)?))
                    }
                    None => {
                        let is_own = s3.access_key_id.is_none();
                        connect(access, is_own.then(|| Arc::clone(credentials) as AwsCredentialProvider))
                    }
                };
                OpenStore::new(client.map_err(QueryError::sql)?, Counters::default())
            }
        };
        // A task that opened the same store meanwhile has counted already.
        Ok(self.lock().entry(access.url.clone()).or_insert(opened).clone())
    }

    /// Closes the stores whose credentials are kept no longer. Their requests stay counted.
    fn close_unlent(&self) {
        let grants = &self.0.settings.grants;
        let mut closed = self.0.closed.lock().expect("no holder panics");
        self.lock().retain(|url, store| {
            let id = Url::parse(url).ok().map(|url| url.username().to_owned()).filter(|id| !id.is_empty());
            let is_kept = id.is_none_or(|id| grants.has(&id));
            if !is_kept {
                store.add_to(&mut closed);
            }
            is_kept
        });
    }

    /// Returns the current credentials as object_store's settings, for functions on this machine. The map is empty if
    /// the configuration names keys, because those travel with each store. It is empty, too, if no store of S3 is in
    /// use or there are no credentials. Functions then use their own.
    pub async fn credentials_to_lend(&self) -> BTreeMap<String, String> {
        let process = self.0.process.as_ref().unwrap_or(self);
        let uses_s3 = process.lock().keys().any(|url| url.starts_with("s3"));
        if !uses_s3 || self.0.settings.s3.access_key_id.is_some() {
            return BTreeMap::new();
        }
        let current = match self.credentials().current().await {
            Ok(current) => current,
            Err(error) => {
                tracing::debug!(%error, "functions are lent no credentials");
                return BTreeMap::new();
            }
        };
        let AwsCredential { key_id, secret_key, token } = &*current;
        let values = [Some(key_id), Some(secret_key), token.as_ref()];
        let pairs = StoreCredentials::KEYS.into_iter().zip(values);
        pairs.filter_map(|(key, value)| Some((key.to_owned(), value?.clone()))).collect()
    }

    /// Returns the same stores in the form that the Iceberg catalog asks for.
    pub fn for_catalog(&self) -> gust_catalog::CatalogStores {
        let stores = self.clone();
        let metadata = Arc::clone(&self.0.settings.metadata);
        gust_catalog::CatalogStores::new(move |root| stores.open_root(root).map_err(Into::into)).with_cache(metadata)
    }
}

/// Tells if requests to a store cost something.
fn is_billed(url: &str) -> bool {
    url.starts_with("s3")
}

/// Returns the settings of a store whose place a catalog has told, without keys.
fn lent_settings(s3: &S3Config, told: &gust_catalog::StoreSettings) -> S3Config {
    S3Config {
        endpoint: told.endpoint.clone().or_else(|| s3.endpoint.clone()),
        region: told.region.clone().or_else(|| s3.region.clone()),
        path_style: told.path_style.unwrap_or(s3.path_style),
        allow_http: s3.allow_http,
        access_key_id: None,
        secret_access_key: None,
        session_token: None,
        anonymous_buckets: Vec::new(),
    }
}

fn s3_options(s3: &S3Config, bucket: &str) -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    let mut set = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            options.insert(key.to_owned(), value);
        }
    };
    set("aws_endpoint", s3.endpoint.clone());
    set("aws_region", s3.region.clone());
    set("aws_allow_http", s3.allow_http.then(|| "true".to_owned()));
    set("aws_virtual_hosted_style_request", (!s3.path_style && s3.endpoint.is_none()).then(|| "true".to_owned()));
    if s3.anonymous_buckets.iter().any(|anonymous| anonymous == bucket) {
        set("aws_skip_signature", Some("true".to_owned()));
        return options;
    }
    let secret = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.reveal().to_owned());
    set("aws_access_key_id", s3.access_key_id.clone());
    set("aws_secret_access_key", secret(&s3.secret_access_key));
    set("aws_session_token", secret(&s3.session_token));
    options
}

impl ObjectStoreRegistry for Stores {
    /// Puts a store here by hand. It is counted and hedged like any other, and is the process's.
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        let key = url[..Position::BeforePath].to_owned() + "/";
        let opened = match &self.0.process {
            Some(process) => {
                process.register_store(url, store);
                process.lock().get(&key)?.counted_apart()
            }
            None => {
                let hedger = Hedger::for_store(&key, Arc::default());
                OpenStore::new(StoreClient::new(store, hedger), Counters::default())
            }
        };
        self.lock().insert(key, opened).map(|before| before.store)
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        Ok(self.open(url)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_store_is_refused_with_a_hint() {
        let stores = Stores::new(S3Config::default());
        for (url, message, hint) in [
            ("s3:///lake", "`s3:///lake` names no bucket", "write s3://BUCKET/PREFIX"),
            ("gs://lake/x", "`gs://lake/x`: scheme `gs` is not supported", "use a local path, file:// or s3://"),
            (
                "s3://one,two/x",
                "`s3://one,two/x` names several buckets",
                "only `exchange` may have several; read the files of each bucket by a path of its own",
            ),
        ] {
            let error = stores.access(&Url::parse(url).expect("a URL")).expect_err("no store");
            assert_eq!((error.message(), error.hint()), (message, Some(hint)));
        }
    }

    #[test]
    fn stores_with_another_reach_share_clients_and_nothing_that_catalogs_told() {
        let stores = Stores::new(S3Config::default());
        let other = stores.with_reach(Reach::of(["/usr"]).expect("a place"));
        stores.open_own(&Url::parse("file:///").expect("a URL")).expect("a store");
        assert_eq!(other.lock().keys().collect::<Vec<_>>(), ["file:///"]);
        assert!(!Arc::ptr_eq(&other.0.settings.metadata, &stores.0.settings.metadata));
        let may_read = |stores: &Stores, key: &str| {
            stores.for_query().reach().check("file:///", &object_store::path::Path::from(key)).is_ok()
        };
        assert!(may_read(&stores, "etc/passwd") && may_read(&other, "usr/bin"));
        assert!(!may_read(&other, "etc/passwd"), "a query's view has the reach of its process");
        // A third one is made from either.
        let third = other.with_reach(Reach::of(["/etc"]).expect("a place"));
        assert!(may_read(&third, "etc/passwd") && !may_read(&third, "usr/bin"));
    }

    #[test]
    fn keys_travel_to_all_buckets_but_anonymous_ones() {
        let s3 = S3Config {
            access_key_id: Some("id".to_owned()),
            secret_access_key: Some(Secret::new("key")),
            session_token: Some(Secret::new("token")),
            anonymous_buckets: vec!["public".to_owned()],
            ..S3Config::default()
        };
        let stores = Stores::new(s3);
        let check = |url: &str, expect: &[(&str, &str)]| {
            let access = stores.access(&Url::parse(url).expect("a URL")).expect("a store");
            let is_key = |key: &&String| StoreCredentials::KEYS.contains(&key.as_str()) || *key == "aws_skip_signature";
            let keys: Vec<_> = access.options.iter().filter(|(key, _)| is_key(key)).collect();
            let keys: Vec<_> = keys.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            assert_eq!(keys, expect, "{url}");
        };
        check(
            "s3://own/t/",
            &[("aws_access_key_id", "id"), ("aws_secret_access_key", "key"), ("aws_session_token", "token")],
        );
        check("s3://public/t/", &[("aws_skip_signature", "true")]);
    }

    #[test]
    fn a_root_with_an_empty_segment_is_a_store_of_its_own() {
        let stores = Stores::new(S3Config::default());
        let check = |root: &str, expect: &str| {
            let root = Url::parse(root).expect("a URL");
            assert_eq!(stores.access_root(&root).expect("a store").url, expect);
        };
        check("s3://lake/", "s3://lake/");
        check("s3://lake//", "s3://lake//");
        check("s3://lake/t//", "s3://lake/t//");
        check("file:///", "file:///");
    }

    #[test]
    fn all_views_of_a_store_share_its_pace() {
        let stores = Stores::new(S3Config::default());
        let pace = |stores: &Stores, url: &str| stores.pace(&ObjectStoreUrl::parse(url).expect("a store's URL"));
        let process = pace(&stores, "s3://lake").expect("a pace");
        for url in ["s3://lake", "s3://lake/"] {
            let query = pace(&stores.for_query(), url).expect("a pace");
            assert!(Arc::ptr_eq(&process, &query), "{url}");
        }
        let other = pace(&stores, "s3://other").expect("a pace");
        assert!(!Arc::ptr_eq(&process, &other));
        assert!(pace(&stores, "file:///").is_none());
        assert!(pace(&stores, "gs://lake").is_none());
    }
}
