//! Object stores by URL, opened when first asked for, all requests counted, late reads sent again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreRegistry;
use fragment_fn::connect;
use fragment_fn::hedging::{HedgedStore, Hedger};
use fragment_fn::metering::{Counters, CountingStore};
use gust_protocol::{StoreAccess, Usage};
use object_store::ObjectStore;
use object_store::aws::{AwsCredential, AwsCredentialProvider};
use url::{Position, Url};

use crate::config::S3Config;
use crate::storage::StoreCredentials;
use crate::storage::aws::ChainCredentials;

/// The coordinator's stores. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Stores {
    s3: S3Config,
    /// Where the configuration names no keys.
    credentials: Arc<ChainCredentials>,
    counters: Arc<Counters>,
    /// Of these, what somebody sends a bill for: requests to S3.
    billed: Arc<Counters>,
    open: Arc<Mutex<BTreeMap<String, Arc<dyn ObjectStore>>>>,
}

impl Stores {
    pub fn new(s3: S3Config) -> Self {
        Self { s3, credentials: Arc::default(), counters: Arc::default(), billed: Arc::default(), open: Arc::default() }
    }

    /// Everything that the coordinator itself has asked its stores for.
    pub fn usage(&self) -> Usage {
        usage(&self.counters)
    }

    /// What of it went to S3.
    pub fn billed_usage(&self) -> Usage {
        usage(&self.billed)
    }

    /// The credentials of the environment, for stores whose keys the configuration does not name.
    pub fn credentials(&self) -> &ChainCredentials {
        &self.credentials
    }

    /// How anyone reaches the store of `url`: this coordinator or a function.
    pub fn access(&self, url: &Url) -> Result<StoreAccess> {
        match url.scheme() {
            "file" => Ok(StoreAccess { url: "file:///".to_owned(), options: BTreeMap::new() }),
            "s3" | "s3a" => {
                let bucket = url.host_str().ok_or_else(|| plan_error(format!("`{url}` names no bucket")))?;
                Ok(StoreAccess { url: format!("{}://{bucket}/", url.scheme()), options: s3_options(&self.s3) })
            }
            scheme => Err(plan_error(format!(
                "`{url}`: scheme `{scheme}` is not supported\nhint: use a local path, file:// or s3://"
            ))),
        }
    }

    /// The store of `url`, opened once.
    pub fn open(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let access = self.access(url)?;
        let mut open = self.open.lock().expect("no holder panics");
        if let Some(store) = open.get(&access.url) {
            return Ok(Arc::clone(store));
        }
        let is_own = self.s3.access_key_id.is_none();
        let credentials = is_own.then(|| Arc::clone(&self.credentials) as AwsCredentialProvider);
        let store = connect(&access, credentials).map_err(plan_error)?;
        let store = self.decorated(store, &access.url);
        open.insert(access.url, Arc::clone(&store));
        Ok(store)
    }

    /// The credentials of now as object_store's settings, for functions on this machine; nothing where the configuration
    /// names keys (they travel with each store), where no store of S3 is in use, or where there are none: then functions use their own.
    pub async fn lendable(&self) -> BTreeMap<String, String> {
        let uses_s3 = self.open.lock().expect("no holder panics").keys().any(|url| url.starts_with("s3"));
        if !uses_s3 || self.s3.access_key_id.is_some() {
            return BTreeMap::new();
        }
        let current = match self.credentials.current().await {
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

    /// The order matters: a read that is sent again is counted twice.
    fn decorated(&self, mut store: Arc<dyn ObjectStore>, url: &str) -> Arc<dyn ObjectStore> {
        if url.starts_with("s3") {
            store = Arc::new(CountingStore::new(store, Arc::clone(&self.billed)));
        }
        let counted: Arc<dyn ObjectStore> = Arc::new(CountingStore::new(store, Arc::clone(&self.counters)));
        HedgedStore::wrap(counted, Hedger::for_store(url), &self.counters)
    }

    /// The same stores as the Iceberg catalog asks for them.
    pub fn for_catalog(&self) -> gust_catalog::Stores {
        let stores = self.clone();
        gust_catalog::Stores::new(move |url| stores.open(url).map_err(Into::into))
    }
}

fn usage(counters: &Counters) -> Usage {
    let (requests, bytes_read, bytes_written) = (counters.requests(), counters.bytes_read(), counters.bytes_written());
    Usage { requests, bytes_read, bytes_written, ..Usage::default() }
}

fn plan_error(message: String) -> DataFusionError {
    DataFusionError::Plan(message)
}

fn s3_options(s3: &S3Config) -> BTreeMap<String, String> {
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
    set("aws_access_key_id", s3.access_key_id.clone());
    set("aws_secret_access_key", s3.secret_access_key.as_ref().map(|secret| secret.reveal().to_owned()));
    options
}

impl ObjectStoreRegistry for Stores {
    /// A store that was put here by hand is counted and hedged like any other.
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        let url = url[..Position::BeforePath].to_owned() + "/";
        let decorated = self.decorated(store, &url);
        self.open.lock().expect("no holder panics").insert(url, decorated)
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        self.open(url)
    }
}
