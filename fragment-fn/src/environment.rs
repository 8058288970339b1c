//! State that one environment keeps between attempts: store clients, Parquet footers, and what all fragments of a stage read: plans,
//! and rows of joins. It never keeps results.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use datafusion::execution::cache::cache_manager::{CachedFileMetadataEntry, FileMetadataCache};
use datafusion::execution::cache::default_cache::DefaultCache;
use gust_protocol::{AheadBounds, StoreAccess};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpConnector, ReqwestConnector};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig, StaticCredentialProvider};
use url::Url;

use crate::ahead::ReadBudget;
use crate::hedging::Hedger;
use crate::metering::{Counters, CountingStore};
use crate::pace::{Pace, watched};
use crate::spread::{BUCKETS_MAX, Signers, SpreadStore};

/// Sizes and places of an environment's state.
#[derive(Debug, Clone)]
pub struct EnvironmentSettings {
    /// Parquet footers and page indexes kept between attempts, in bytes.
    pub metadata_cache_bytes_max: usize,
    /// Folder in which operators spill: `/tmp` on Lambda.
    pub temp_folder: PathBuf,
    /// Budget of what is read ahead. None for one of the environment's own.
    pub reading: Option<ReadBudget>,
}

impl Default for EnvironmentSettings {
    fn default() -> Self {
        Self { metadata_cache_bytes_max: 64 << 20, temp_folder: std::env::temp_dir(), reading: None }
    }
}

/// One function environment. Attempts share it, and none blocks another.
pub struct Environment {
    pub(crate) settings: EnvironmentSettings,
    pub(crate) footers: Arc<FileMetadataCache>,
    /// Budget of what attempts read ahead.
    pub(crate) reading: ReadBudget,
    clients: Mutex<BTreeMap<StoreAccess, StoreClient>>,
    connections: Connections,
    /// Last objects of stages that came through the exchange, the newest last: attempts of one stage follow each other.
    stage_objects: Mutex<Vec<StageObjectBytes>>,
    used: AtomicBool,
}

/// Most bytes of objects of stages that are kept, and the part of an attempt's memory pool that they may have: they are beside it.
const STAGE_OBJECTS_BYTES_MAX: usize = 64 << 20;
const STAGE_OBJECTS_SHARE: u64 = 16;

struct StageObjectBytes {
    path: String,
    crc32: u32,
    bytes: Bytes,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Client of a store, and its knowledge of how fast the store answers.
#[derive(Debug, Clone)]
pub struct StoreClient {
    pub store: Arc<dyn ObjectStore>,
    /// Buckets that the store is made of.
    buckets: Vec<Arc<dyn ObjectStore>>,
    /// Signers of URLs of its objects. None for a store that is read without a signature.
    signers: Option<Signers>,
    /// None where no read is sent twice.
    pub hedger: Option<Arc<Hedger>>,
}

impl StoreClient {
    /// Makes the client of a store that is one bucket.
    pub fn new(store: Arc<dyn ObjectStore>, hedger: Option<Arc<Hedger>>) -> Self {
        Self::of(vec![store], None, hedger)
    }

    fn of(buckets: Vec<Arc<dyn ObjectStore>>, signers: Option<Signers>, hedger: Option<Arc<Hedger>>) -> Self {
        Self { store: SpreadStore::of(buckets.clone()), buckets, signers, hedger }
    }

    /// Returns the store with counted requests. A listing is one of each bucket.
    pub fn counted(&self, counters: &Arc<Counters>) -> Arc<dyn ObjectStore> {
        let counted = |bucket: &Arc<dyn ObjectStore>| {
            Arc::new(CountingStore::new(Arc::clone(bucket), Arc::clone(counters))) as Arc<dyn ObjectStore>
        };
        SpreadStore::of(self.buckets.iter().map(counted).collect())
    }

    /// Returns the signers of URLs by which others may read the store's objects for a while. None for a store that is read without a
    /// signature, and for one that was made by hand. Signing sends no request.
    pub fn signers(&self) -> Option<&Signers> {
        self.signers.as_ref()
    }

    /// Returns the times and refusals that the client has seen. None for local files.
    pub fn pace(&self) -> Option<&Arc<Pace>> {
        self.hedger.as_deref().map(Hedger::pace)
    }
}

/// Store clients kept at once. Beyond it the cache starts anew.
const CLIENTS_MAX: usize = 64;

/// Pools of connections by the settings of their stores, without keys and buckets: keys that were lent come and go, and their
/// connections stay. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Connections(Arc<Mutex<BTreeMap<BTreeMap<String, String>, HttpClient>>>);

/// Settings that are credentials.
const KEYS: [&str; 3] = ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"];
/// Pools kept at once. Beyond it the cache starts anew.
const POOLS_MAX: usize = 64;

impl Connections {
    /// Returns the connections for stores with these settings.
    fn of(&self, access: &StoreAccess, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let mut settings = access.options.clone();
        settings.retain(|key, _| !KEYS.contains(&key.as_str()));
        let mut pools = self.0.lock().expect("no holder panics");
        if let Some(pool) = pools.get(&settings) {
            return Ok(pool.clone());
        }
        if pools.len() >= POOLS_MAX {
            pools.clear();
        }
        let pool = ReqwestConnector::default().connect(options)?;
        Ok(pools.entry(settings).or_insert(pool).clone())
    }
}

/// Connector of one store.
#[derive(Debug)]
struct StoreConnector {
    connections: Connections,
    access: StoreAccess,
    pace: Arc<Pace>,
}

impl HttpConnector for StoreConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(watched(self.connections.of(&self.access, options)?, Arc::clone(&self.pace)))
    }
}

impl Environment {
    pub fn new(settings: EnvironmentSettings) -> Self {
        let footers = Arc::new(DefaultCache::<Path, CachedFileMetadataEntry>::new(settings.metadata_cache_bytes_max));
        // Each attempt brings its own bounds.
        let unbounded = || ReadBudget::new(AheadBounds { requests_max: u32::MAX, bytes_max: u64::MAX });
        let reading = settings.reading.clone().unwrap_or_else(unbounded);
        Self {
            settings,
            footers,
            reading,
            clients: Mutex::default(),
            connections: Connections::default(),
            stage_objects: Mutex::default(),
            used: AtomicBool::new(false),
        }
    }

    /// Returns true once, for the first attempt.
    pub(crate) fn take_cold(&self) -> bool {
        !self.used.swap(true, Ordering::Relaxed)
    }

    /// Returns an object of a stage that was read before, if it came from `path` with this checksum.
    pub(crate) fn stage_object(&self, path: &str, crc32: u32) -> Option<Bytes> {
        let kept = self.stage_objects.lock().expect("no holder panics");
        kept.iter().find(|kept| kept.path == path && kept.crc32 == crc32).map(|kept| kept.bytes.clone())
    }

    /// Keeps an object of a stage for the next attempt, and fewer older ones, if it is short beside the attempt's memory pool.
    pub(crate) fn keep_stage_object(&self, path: &str, crc32: u32, bytes: Bytes, memory_bytes_max: u64) {
        let share = usize::try_from(memory_bytes_max / STAGE_OBJECTS_SHARE).unwrap_or(usize::MAX);
        let mut kept = self.stage_objects.lock().expect("no holder panics");
        kept.retain(|kept| kept.path != path);
        kept.push(StageObjectBytes { path: path.to_owned(), crc32, bytes });
        let mut room = STAGE_OBJECTS_BYTES_MAX.min(share);
        let fits = kept.iter().rev().take_while(|kept| {
            let fits = kept.bytes.len() <= room;
            room = room.saturating_sub(kept.bytes.len());
            fits
        });
        let gone = kept.len() - fits.count();
        kept.drain(..gone);
    }

    /// Returns the client of a store. It is made once an environment.
    pub(crate) fn client(&self, access: &StoreAccess) -> Result<StoreClient, String> {
        let mut clients = self.clients.lock().expect("no holder panics");
        if let Some(client) = clients.get(access) {
            return Ok(client.clone());
        }
        let client = connect_over(&self.connections, access, None)?;
        if clients.len() >= CLIENTS_MAX {
            clients.clear();
        }
        clients.insert(access.clone(), client.clone());
        Ok(client)
    }
}

// Retries between attempts are the scheduler's. A short bounded retry inside one attempt survives a reset, a 5xx, or a 503
// SlowDown. It waits 100 ms, then a random time up to twice the last, so that many functions do not come back at once. Five
// retries take 0.5 s at least, about 1 s mostly and 3.1 s at most. If S3 still refuses, the attempt fails as throttled,
// which frees its slot and leaves the next attempt to the scheduler.
const RETRIES_MAX: usize = 5;
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Age of a request after which no retry begins. It also bounds the age of the request's signature.
const RETRY_TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens a store: `file:///`, `s3://bucket/`, or `s3://bucket/folder//` for keys below an empty segment, which
/// [`object_store::path::Path`] cannot hold. A store of the last kind lists nothing. `s3://one,two/` is one store: each of its objects is in one
/// of these buckets, which share endpoint, region and keys.
///
/// For S3 the environment gives the region where `access` does not name it, and the credentials where `credentials` is None.
///
/// # Errors
/// A message that names the store and the wrong setting.
pub fn connect(access: &StoreAccess, credentials: Option<AwsCredentialProvider>) -> Result<StoreClient, String> {
    connect_over(&Connections::default(), access, credentials)
}

/// Opens a store as [`connect`] does, over connections that other stores use, too.
///
/// # Errors
/// Those of [`connect`].
pub fn connect_over(
    connections: &Connections,
    access: &StoreAccess,
    credentials: Option<AwsCredentialProvider>,
) -> Result<StoreClient, String> {
    let pace = Arc::<Pace>::default();
    let url = Url::parse(&access.url).map_err(|error| invalid(access, error))?;
    let (buckets, signers): (Vec<_>, _) = match url.scheme() {
        "file" => (vec![Arc::new(LocalFileSystem::new()) as Arc<dyn ObjectStore>], None),
        "s3" | "s3a" => {
            let clients = s3(connections, access, credentials.as_ref(), &pace, &url)?;
            let is_signed = !access.options.contains_key("aws_skip_signature");
            let buckets = clients.iter().map(|client| Arc::new(client.clone()) as Arc<dyn ObjectStore>).collect();
            (buckets, is_signed.then_some(Signers(clients)))
        }
        scheme => return Err(invalid(access, format!("scheme `{scheme}` is not supported, use file or s3"))),
    };
    Ok(StoreClient::of(buckets, signers, Hedger::for_store(&access.url, pace)))
}

/// Returns the buckets that a URL names.
fn buckets_of(named: &str) -> Result<Vec<&str>, String> {
    let buckets: Vec<&str> = named.split(',').collect();
    let is_twice = |(at, bucket): (usize, &&str)| buckets[..at].contains(bucket);
    match buckets.len() {
        _ if buckets.contains(&"") => Err("a bucket has no name: write s3://ONE,TWO/PREFIX".to_owned()),
        _ if buckets.iter().enumerate().any(is_twice) => Err("a bucket is named twice: name each once".to_owned()),
        count if count > BUCKETS_MAX => Err(format!("{count} buckets, at most {BUCKETS_MAX} make one store")),
        _ => Ok(buckets),
    }
}

fn invalid(access: &StoreAccess, reason: impl std::fmt::Display) -> String {
    format!("store `{}`: {reason}", access.url)
}

/// Opens the buckets that a URL names.
fn s3(
    connections: &Connections,
    access: &StoreAccess,
    credentials: Option<&AwsCredentialProvider>,
    pace: &Arc<Pace>,
    url: &Url,
) -> Result<Vec<AmazonS3>, String> {
    let buckets = url.host_str().ok_or_else(|| invalid(access, "no bucket in the URL"))?;
    let buckets = buckets_of(buckets).map_err(|reason| invalid(access, reason))?;
    buckets
        .into_iter()
        .map(|bucket| s3_bucket(connections, access, credentials.cloned(), pace, (url, bucket)))
        .collect()
}

fn s3_bucket(
    connections: &Connections,
    access: &StoreAccess,
    credentials: Option<AwsCredentialProvider>,
    pace: &Arc<Pace>,
    (url, bucket): (&Url, &str),
) -> Result<AmazonS3, String> {
    let retry = RetryConfig {
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_TIMEOUT,
        backoff: BackoffConfig { init_backoff: BACKOFF_MIN, max_backoff: BACKOFF_MAX, base: 2.0 },
    };
    let client = ClientOptions::new().with_connect_timeout(CONNECT_TIMEOUT);
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_client_options(client)
        .with_http_connector(StoreConnector {
            connections: connections.clone(),
            access: access.clone(),
            pace: Arc::clone(pace),
        })
        .with_retry(retry);
    for (key, value) in &access.options {
        let parsed = key.parse::<AmazonS3ConfigKey>();
        let known = parsed.map_err(|error| invalid(access, format!("setting `{key}`: {error}")))?;
        builder = builder.with_config(known, value);
    }
    if let Some(credentials) = credentials.or_else(|| own_keys(access)) {
        builder = builder.with_credentials(credentials);
    }
    if url.path().len() > 1 {
        let told = |key: AmazonS3ConfigKey| builder.get_config_value(&key);
        let endpoint = told(AmazonS3ConfigKey::S3Endpoint).or_else(|| told(AmazonS3ConfigKey::Endpoint));
        let is_hosted = told(AmazonS3ConfigKey::VirtualHostedStyleRequest).is_some_and(|told| told == "true");
        let region = told(AmazonS3ConfigKey::Region);
        let root = root_endpoint(endpoint, region, is_hosted, bucket, url.path());
        // The endpoint is then taken as it is, with the keys behind it.
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, root).with_virtual_hosted_style_request(true);
    }
    builder.build().map_err(|error| invalid(access, error))
}

/// Returns the keys that the way to a store names. A token of the environment is not theirs.
fn own_keys(access: &StoreAccess) -> Option<AwsCredentialProvider> {
    let option = |key: &str| access.options.get(key).cloned();
    Some(Arc::new(StaticCredentialProvider::new(AwsCredential {
        key_id: option("aws_access_key_id")?,
        secret_key: option("aws_secret_access_key")?,
        token: option("aws_session_token"),
    })))
}

/// Returns the URL before the keys of a store whose root has a path. The path ends with a slash, which stands before each key, too.
fn root_endpoint(
    endpoint: Option<String>,
    region: Option<String>,
    is_hosted: bool,
    bucket: &str,
    path: &str,
) -> String {
    let region = region.as_deref().unwrap_or("us-east-1");
    let of_bucket = match (endpoint, is_hosted) {
        (Some(endpoint), true) => endpoint.trim_end_matches('/').to_owned(),
        (Some(endpoint), false) => format!("{}/{bucket}", endpoint.trim_end_matches('/')),
        (None, true) => format!("https://{bucket}.s3.{region}.amazonaws.com"),
        (None, false) => format!("https://s3.{region}.amazonaws.com/{bucket}"),
    };
    format!("{of_bucket}{}", path.strip_suffix('/').unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_with_a_path_stands_before_its_keys() {
        let check = |endpoint: Option<&str>, is_hosted, path: &str, expect: &str| {
            let region = Some("eu-central-1".to_owned());
            let root = root_endpoint(endpoint.map(str::to_owned), region, is_hosted, "b", path);
            assert_eq!(format!("{root}/data/x"), expect);
        };
        check(None, false, "/t//", "https://s3.eu-central-1.amazonaws.com/b/t//data/x");
        check(None, true, "/t//", "https://b.s3.eu-central-1.amazonaws.com/t//data/x");
        check(Some("http://localhost:9000/"), false, "//", "http://localhost:9000/b//data/x");
        check(Some("http://b.localhost:9000"), true, "/t//u//", "http://b.localhost:9000/t//u//data/x");
    }

    #[test]
    fn several_buckets_are_one_store() {
        let opened = |url: &str| {
            let access = StoreAccess { url: url.to_owned(), options: BTreeMap::new() };
            connect(&access, None).map(|client| client.store.to_string())
        };
        let signed = |url: &str, options: &[(&str, &str)]| {
            let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let client = connect(&StoreAccess { url: url.to_owned(), options }, None).expect("a store");
            client.signers().map(|signers| signers.0.len())
        };
        assert_eq!((signed("s3://one,two/", &[]), signed("s3a://one/", &[])), (Some(2), Some(1)));
        assert_eq!((signed("file:///", &[]), signed("s3://one/", &[("aws_skip_signature", "true")])), (None, None));
        let store = opened("s3://one,two/").expect("two buckets");
        assert!(store.starts_with("spread(") && store.contains("one") && store.contains("two"), "{store}");
        let check = |url: &str, expect: &str| assert_eq!(opened(url), Err(format!("store `{url}`: {expect}")));
        check("s3://one,/", "a bucket has no name: write s3://ONE,TWO/PREFIX");
        check("s3://one,two,one/", "a bucket is named twice: name each once");
        let many: Vec<String> = (0..17).map(|number| format!("b{number}")).collect();
        check(&format!("s3://{}/", many.join(",")), "17 buckets, at most 16 make one store");
    }

    #[test]
    fn keys_of_a_store_come_with_their_own_token_or_none() {
        let keys = |pairs: &[(&str, &str)]| {
            let options = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let keys = own_keys(&StoreAccess { url: "s3://b/".to_owned(), options })?;
            let keys = futures::executor::block_on(keys.get_credential()).expect("keys");
            Some((keys.key_id.clone(), keys.token.clone()))
        };
        let (id, secret) = (("aws_access_key_id", "k"), ("aws_secret_access_key", "s"));
        assert_eq!(keys(&[id, secret]), Some(("k".to_owned(), None)));
        assert_eq!(keys(&[id, secret, ("aws_session_token", "t")]), Some(("k".to_owned(), Some("t".to_owned()))));
        assert_eq!(keys(&[id]), None);
        assert_eq!(keys(&[]), None);
    }

    #[test]
    fn stores_that_differ_in_their_keys_share_connections() {
        let connections = Connections::default();
        let pools_after = |options: &[(&str, &str)]| {
            let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let access = StoreAccess { url: "s3://id@b/".to_owned(), options };
            connect_over(&connections, &access, None).expect("a store");
            connections.0.lock().expect("no panic").len()
        };
        let (region, plain) = (("aws_region", "eu-central-1"), ("aws_allow_http", "true"));
        assert_eq!(pools_after(&[region, ("aws_access_key_id", "a"), ("aws_secret_access_key", "s")]), 1);
        assert_eq!(pools_after(&[region, ("aws_access_key_id", "b"), ("aws_secret_access_key", "t")]), 1);
        assert_eq!(pools_after(&[region, plain]), 2, "a pool that allows plain HTTP is another");
    }

    #[test]
    fn the_newest_objects_of_stages_are_kept() {
        let environment = Environment::new(EnvironmentSettings::default());
        let object = |mib: usize| Bytes::from(vec![0; mib << 20]);
        let kept = || ["a", "b", "c"].map(|path| environment.stage_object(path, 1).is_some());
        environment.keep_stage_object("a", 1, object(1), 1 << 30);
        environment.keep_stage_object("b", 1, object(2), 1 << 30);
        assert_eq!((kept(), environment.stage_object("a", 2)), ([true, true, false], None));
        environment.keep_stage_object("c", 1, object(62), 1 << 30);
        assert_eq!(kept(), [false, true, true]);
        environment.keep_stage_object("a", 1, object(1), 16 << 20);
        assert_eq!(kept(), [true, false, false], "an attempt with little memory keeps little");
        environment.keep_stage_object("b", 1, object(2), 16 << 20);
        assert_eq!(kept(), [false, false, false]);
    }

    #[test]
    fn only_a_root_with_a_path_has_an_endpoint_of_its_own() {
        let told = |url: &str| {
            let options = BTreeMap::from([("aws_endpoint".to_owned(), "http://localhost:9000".to_owned())]);
            let access = StoreAccess { url: url.to_owned(), options };
            format!("{:?}", connect(&access, None).expect("a store").store)
        };
        assert!(told("s3://b/t//").contains("\"http://localhost:9000/b/t/\""), "{}", told("s3://b/t//"));
        assert!(told("s3://b/").contains("\"http://localhost:9000/b\""), "{}", told("s3://b/"));
    }
}
