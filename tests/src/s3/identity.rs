//! Identities of clients: an identity is the access key that it signs with. A client that has the secret may use any key that
//! begins with [`ACCESS_KEY_ID`]. A key that was lent reads the objects below its prefix, until its end, and nothing else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::path::S3Path;
use s3s::{S3Result, s3_error};

use super::{ACCESS_KEY_ID, SECRET_ACCESS_KEY};

/// Name of the coordinator's identity.
pub const COORDINATOR: &str = "coordinator";
/// Prefix of the names of all functions' identities.
pub const FUNCTION: &str = "function";

/// Keys that the server accepts.
pub(super) struct Identities;

#[async_trait::async_trait]
impl S3Auth for Identities {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key.starts_with(ACCESS_KEY_ID) {
            Ok(SecretKey::from(SECRET_ACCESS_KEY))
        } else {
            Err(s3_error!(InvalidAccessKeyId))
        }
    }
}

/// Returns the access key of an identity.
pub fn access_key(name: &str) -> String {
    format!("{ACCESS_KEY_ID}-{name}")
}

/// Returns a request's payload with the coordinator's access key replaced by one of this process, as if its platform gave it a
/// role of its own. Without it the server would see all processes of an invoker as one client.
pub fn of_this_process(payload: Bytes) -> Bytes {
    let lent = access_key(COORDINATOR);
    match std::str::from_utf8(&payload) {
        Ok(text) if text.contains(&lent) => {
            text.replace(&lent, &access_key(&format!("{FUNCTION}-{}", std::process::id()))).into()
        }
        _ => payload,
    }
}

/// Keys that are lent. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Lent(Arc<Mutex<LentKeys>>);

#[derive(Debug, Default)]
struct LentKeys {
    keys: BTreeMap<String, LentKey>,
    refused: u64,
}

#[derive(Debug)]
struct LentKey {
    /// Location `s3://bucket/key` above the objects.
    location: String,
    until: SystemTime,
}

impl Lent {
    fn lock(&self) -> MutexGuard<'_, LentKeys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lends a new key for the objects below a location. Returns its id, which begins with `prefix`.
    pub fn lend(&self, prefix: &str, location: &str, until: SystemTime) -> String {
        let mut lent = self.lock();
        let id = format!("{prefix}-lent-{}", lent.keys.len());
        lent.keys.insert(id.clone(), LentKey { location: location.to_owned(), until });
        id
    }

    /// Returns how many keys were lent.
    pub fn count(&self) -> usize {
        self.lock().keys.len()
    }

    /// Returns how many requests were refused because their key was lent for others, or had ended.
    pub fn refused(&self) -> u64 {
        self.lock().refused
    }

    fn check(&self, key_id: &str, path: &S3Path) -> S3Result<()> {
        let mut lent = self.lock();
        let Some(key) = lent.keys.get(key_id) else { return Ok(()) };
        let is_below = match path {
            S3Path::Object { bucket, key: object } => {
                format!("s3://{bucket}/{object}").starts_with(&format!("{}/", key.location))
            }
            S3Path::Bucket { .. } | S3Path::Root => false,
        };
        let has_ended = key.until <= SystemTime::now();
        lent.refused += u64::from(has_ended || !is_below);
        match (has_ended, is_below) {
            (true, _) => Err(s3_error!(ExpiredToken, "The provided token has expired.")),
            (false, false) => Err(s3_error!(AccessDenied, "the key may not read this object")),
            (false, true) => Ok(()),
        }
    }
}

/// Rule about lent keys.
pub(super) struct LentOnly(pub(super) Lent);

#[async_trait::async_trait]
impl S3Access for LentOnly {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        match context.credentials() {
            Some(credentials) => self.0.check(&credentials.access_key, context.s3_path()),
            None => Err(s3_error!(AccessDenied, "the request is not signed")),
        }
    }
}
