//! Identities of clients: an identity is the access key that it signs with. A client that has the secret may use any key that
//! begins with [`ACCESS_KEY_ID`].

use bytes::Bytes;
use s3s::auth::{S3Auth, SecretKey};
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
