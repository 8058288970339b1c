//! Credentials that a catalog lends for the files of one table, and renews before they end.
//!
//! A grant is for the files whose locations begin with a prefix. Its id stands for it in the root of a store,
//! `s3://ID@bucket/`, so that no other table's reads find its client. The id says nothing and opens nothing by itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use lru::LruCache;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use uuid::Uuid;

use super::answer::StorageCredential;
use super::renewed::{Ends, Renewed};
use super::{Service, setting};
use crate::error::{Error, Result};
use crate::storage::{LentPrefix, as_s3, is_below};

const KEY_ID: &str = "s3.access-key-id";
const SECRET: &str = "s3.secret-access-key";
const TOKEN: &str = "s3.session-token";
const EXPIRES: &str = "s3.session-token-expires-at-ms";
const ENDPOINT: &str = "s3.endpoint";
const REGIONS: [&str; 2] = ["s3.region", "client.region"];
const PATH_STYLE: &str = "s3.path-style-access";
/// Settings of a store that are read. Others are not kept.
const STORE_SETTINGS: [&str; 4] = [ENDPOINT, REGIONS[0], REGIONS[1], PATH_STYLE];
/// Most credentials of one table.
const CREDENTIALS_MAX: usize = 1000;
/// Longest time before their end at which credentials are renewed: above a function's longest life.
const RENEW_BEFORE_MAX: Duration = Duration::from_secs(16 * 60);
/// Time after which credentials are renewed whose end the catalog does not tell. AWS's shortest session lives 15 minutes.
const RENEW_UNTOLD_AFTER: Duration = Duration::from_secs(10 * 60);
/// Pause after a renewal that failed. Credentials that are still good are used meanwhile, so that a catalog that is down stops nobody.
const RENEW_AGAIN_AFTER: Duration = Duration::from_secs(20);
/// Shortest time before their end at which credentials are still used where they cannot be renewed.
const USE_BEFORE_MIN: Duration = Duration::from_secs(1);
/// Grants that are kept. Those that were not asked for the longest go first.
const GRANTS_MAX: usize = 4096;

/// Returns the credentials of a table's answer. Those of its settings are for all files.
///
/// # Errors
/// Unsupported: a catalog that signs each request itself, and lends nothing.
pub(super) fn credentials(
    table: &str,
    config: BTreeMap<String, String>,
    lent: Option<Vec<StorageCredential>>,
) -> Result<Vec<StorageCredential>> {
    let is_read = |key: &str| [KEY_ID, SECRET, TOKEN, EXPIRES].contains(&key) || STORE_SETTINGS.contains(&key);
    let mut all = lent.unwrap_or_default();
    all.retain(|credential| credential.config.contains_key(KEY_ID));
    if all.len() > CREDENTIALS_MAX {
        let why = format!("it lends {} credentials; at most {CREDENTIALS_MAX} are kept", all.len());
        return Err(Error::corrupt(table, why));
    }
    // Settings of the store stand beside the credentials.
    let beside: BTreeMap<&String, &String> = config.iter().filter(|(key, _)| is_read(key.as_str())).collect();
    for credential in &mut all {
        credential.config.retain(|key, _| is_read(key));
        for (key, value) in &beside {
            credential.config.entry((*key).clone()).or_insert_with(|| (*value).clone());
        }
    }
    if all.is_empty() && config.contains_key(KEY_ID) {
        let config = beside.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        all.push(StorageCredential { prefix: "s3".to_owned(), config });
    }
    let signs =
        setting(&config, &["s3.remote-signing-enabled"]).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    match all.is_empty() && signs {
        true => Err(Error::Unsupported {
            table: table.to_owned(),
            feature: "a catalog that signs each request to the store itself (remote signing)".to_owned(),
            next: "let the catalog lend credentials (vended credentials) for the warehouse",
        }),
        false => Ok(all),
    }
}

/// Counts the bytes of credentials in memory, about.
pub(super) fn held_bytes(lent: &[StorageCredential]) -> usize {
    let settings = |config: &BTreeMap<String, String>| {
        config.iter().map(|(key, value)| 64 + key.len() + value.len()).sum::<usize>()
    };
    lent.iter().map(|credential| 64 + credential.prefix.len() + settings(&credential.config)).sum()
}

/// Returns true if the catalog told the end of all of these credentials.
pub(super) fn ends_are_told(lent: &[StorageCredential]) -> bool {
    lent.iter().all(|credential| end(&credential.config).is_some())
}

fn end(config: &BTreeMap<String, String>) -> Option<SystemTime> {
    let ms = config.get(EXPIRES)?.parse().ok()?;
    UNIX_EPOCH.checked_add(Duration::from_millis(ms))
}

/// Table whose credentials can be asked for again.
#[derive(Clone)]
pub(super) struct Lender {
    pub(super) service: Arc<Service>,
    pub(super) levels: Vec<String>,
    pub(super) name: String,
}

/// Credentials that catalogs have lent, by id. Clones share them.
#[derive(Clone, Default)]
pub struct Grants(Arc<Mutex<Kept>>);

struct Kept {
    grants: LruCache<String, Arc<Grant>>,
    /// Ids by catalog, table and prefix, so that a table that is loaded again keeps its clients.
    ids: BTreeMap<Place, String>,
}

impl Default for Kept {
    fn default() -> Self {
        Kept { grants: LruCache::unbounded(), ids: BTreeMap::new() }
    }
}

/// Files that a grant is for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    catalog: String,
    levels: Vec<String>,
    table: String,
    prefix: String,
    settings: StoreSettings,
}

impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grants(hidden)")
    }
}

/// Place of a store, as the catalog says it. None leaves it to the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreSettings {
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub path_style: Option<bool>,
}

/// Credentials for the files below a prefix, renewed when they are asked for shortly before their end.
pub struct Grant {
    id: String,
    place: Place,
    lender: Lender,
    keys: Renewed<Keys>,
}

#[derive(Clone)]
struct Keys {
    credential: Arc<AwsCredential>,
    renew_at: SystemTime,
    /// None where the catalog does not tell it.
    expires: Option<SystemTime>,
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("prefix", &self.place.prefix).finish_non_exhaustive()
    }
}

impl Grants {
    /// Returns the grant of a store's root.
    pub fn get(&self, id: &str) -> Option<Arc<Grant>> {
        self.lock().grants.get(id).cloned()
    }

    /// Tells if there is such a grant. That is no use of it.
    pub fn has(&self, id: &str) -> bool {
        self.lock().grants.contains(id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the credentials of a table. Returns the prefixes that they are for.
    pub(super) fn grant(&self, lender: Lender, lent: &[StorageCredential]) -> Vec<LentPrefix> {
        let mut kept = self.lock();
        let mut prefixes = Vec::with_capacity(lent.len());
        for credential in lent {
            let place = Place {
                catalog: lender.service.name.clone(),
                levels: lender.levels.clone(),
                table: lender.name.clone(),
                prefix: credential.prefix.clone(),
                settings: store_settings(&credential.config),
            };
            let Kept { grants, ids } = &mut *kept;
            let known = ids.get(&place).and_then(|id| grants.get(id)).cloned();
            let keys = Keys::of(&credential.config);
            let id = match known {
                Some(grant) => {
                    let expires = keys.expires;
                    grant.keys.replace_if(keys, |present| expires.is_none() || expires > present.expires);
                    grant.id.clone()
                }
                None => {
                    let id = Uuid::new_v4().simple().to_string();
                    let (place_of, keys) = (place.clone(), Renewed::new(Some(keys)));
                    let grant = Grant { id: id.clone(), place: place_of, lender: lender.clone(), keys };
                    kept.grants.push(id.clone(), Arc::new(grant));
                    kept.ids.insert(place, id.clone());
                    id
                }
            };
            prefixes.push(LentPrefix { prefix: credential.prefix.clone(), id });
        }
        while kept.grants.len() > GRANTS_MAX
            && let Some((_, grant)) = kept.grants.pop_lru()
        {
            kept.ids.remove(&grant.place);
        }
        prefixes
    }
}

fn store_settings(config: &BTreeMap<String, String>) -> StoreSettings {
    StoreSettings {
        endpoint: setting(config, &[ENDPOINT]).map(str::to_owned),
        region: setting(config, &REGIONS).map(str::to_owned),
        path_style: setting(config, &[PATH_STYLE]).map(|value| value.eq_ignore_ascii_case("true")),
    }
}

impl Keys {
    fn of(config: &BTreeMap<String, String>) -> Self {
        let text = |name: &str| config.get(name).cloned().unwrap_or_default();
        let credential =
            AwsCredential { key_id: text(KEY_ID), secret_key: text(SECRET), token: config.get(TOKEN).cloned() };
        let (now, expires) = (SystemTime::now(), end(config));
        let renew_at = expires.map_or(now + RENEW_UNTOLD_AFTER, |expires| {
            let life = expires.duration_since(now).unwrap_or_default();
            expires - RENEW_BEFORE_MAX.min(life / 2)
        });
        Keys { credential: Arc::new(credential), renew_at, expires }
    }
}

impl Ends for Keys {
    fn is_due(&self) -> bool {
        self.renew_at <= SystemTime::now()
    }

    fn is_usable(&self) -> bool {
        self.expires.is_none_or(|expires| SystemTime::now() + USE_BEFORE_MIN < expires)
    }

    fn go_on(&mut self) {
        let later = SystemTime::now() + RENEW_AGAIN_AFTER;
        self.renew_at = self.expires.map_or(later, |expires| later.min(expires - USE_BEFORE_MIN));
    }
}

impl Grant {
    /// Returns the place of the store, as the catalog says it.
    pub fn settings(&self) -> &StoreSettings {
        &self.place.settings
    }

    /// Returns credentials that are valid now, asked for anew where these end soon.
    ///
    /// # Errors
    /// Those of asking the catalog, once the present ones have ended.
    pub async fn current(&self) -> Result<Arc<AwsCredential>> {
        let failed = |error: &Error| tracing::warn!(table = self.lender.name, %error, "lent credentials could not be renewed yet");
        Ok(self.keys.get(|_| self.renewed(), failed).await?.credential)
    }

    async fn renewed(&self) -> Result<Keys> {
        let Lender { service, levels, name } = &self.lender;
        let lent = service.credentials(levels, name).await?;
        let own = &self.place.prefix;
        match covering(own, &lent) {
            Some(credential) => Ok(Keys::of(&credential.config)),
            None => Err(Error::NotLent {
                table: format!("{}.{name}", levels.join(".")),
                file: own.clone(),
                prefixes: lent.into_iter().map(|credential| credential.prefix).collect(),
            }),
        }
    }
}

/// Finds the credentials for all files below a prefix: its own, or those of the longest above it, where a catalog has changed its
/// prefixes.
fn covering<'a>(own: &str, lent: &'a [StorageCredential]) -> Option<&'a StorageCredential> {
    let covers = |other: &&StorageCredential| is_below(&as_s3(own), &as_s3(&other.prefix));
    let found = lent.iter().find(|credential| credential.prefix == own);
    found.or_else(|| lent.iter().filter(covers).max_by_key(|other| other.prefix.len()))
}

#[async_trait]
impl CredentialProvider for Grant {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let unauthenticated =
            |error| object_store::Error::Unauthenticated { path: self.place.prefix.clone(), source: Box::new(error) };
        self.current().await.map_err(unauthenticated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_credentials_cover_all_files_of_those_before() {
        let found = |own: &str, prefixes: &[&str]| {
            let lent = |prefix: &&str| StorageCredential { prefix: (*prefix).to_owned(), config: BTreeMap::new() };
            let lent: Vec<StorageCredential> = prefixes.iter().map(lent).collect();
            covering(own, &lent).map(|found| found.prefix.clone())
        };
        let same = |prefix: &str| Some(prefix.to_owned());
        assert_eq!(found("s3://b/t", &["s3://b", "s3://b/t"]), same("s3://b/t"));
        assert_eq!(found("s3://b/t/", &["s3", "s3://b", "s3a://b/t"]), same("s3a://b/t"));
        assert_eq!(found("s3://b/t2/", &["s3://b/t"]), None, "a name is whole");
        assert_eq!(found("s3://b/t", &["s3://b/t/data/"]), None, "it is for some of the files");
        assert_eq!(found("s3://b/t", &[]), None);
    }

    #[test]
    fn keys_are_renewed_before_their_end_and_where_it_is_not_told() {
        let now = SystemTime::now();
        let in_ms = |seconds: u64| {
            let end = now + Duration::from_secs(seconds);
            end.duration_since(UNIX_EPOCH).expect("after 1970").as_millis().to_string()
        };
        let keys = |end: Option<String>| {
            let end = end.map(|end| (EXPIRES.to_owned(), end));
            Keys::of(&[(KEY_ID.to_owned(), "k".to_owned())].into_iter().chain(end).collect())
        };
        // The end as the catalog tells it, and the seconds after which the keys are renewed.
        for (end, expect) in
            [(Some(in_ms(3600)), 3600 - 16 * 60), (Some(in_ms(60)), 30), (Some("soon".to_owned()), 600), (None, 600)]
        {
            let renewed_after = keys(end.clone()).renew_at.duration_since(now).expect("later").as_secs_f64();
            assert!((renewed_after - f64::from(expect)).abs() < 5.0, "{end:?}: {renewed_after} s");
        }
        let mut short = keys(Some(in_ms(10)));
        short.go_on();
        assert!(short.is_usable() && short.renew_at < now + Duration::from_secs(10), "before their end");
        let mut endless = keys(None);
        endless.go_on();
        assert!(endless.renew_at > now + Duration::from_secs(15));
    }
}
