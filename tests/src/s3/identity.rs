//! Who is asking: identities are access keys, and free. Whoever knows the secret may call itself anything that begins
//! with [`ACCESS_KEY_ID`].

use bytes::Bytes;
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};

use super::{ACCESS_KEY_ID, SECRET_ACCESS_KEY};

/// Who a coordinator is to the server.
pub const COORDINATOR: &str = "coordinator";
/// What the names of all functions begin with.
pub const FUNCTION: &str = "function";

/// The server's list of keys.
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

/// The access key of an identity.
pub fn access_key(name: &str) -> String {
    format!("{ACCESS_KEY_ID}-{name}")
}

/// A request's payload with the coordinator's access key turned into one of this process, as if its platform gave it a role
/// of its own: else all processes of an invoker would be one client to the server.
pub fn of_this_process(payload: Bytes) -> Bytes {
    let lent = access_key(COORDINATOR);
    match std::str::from_utf8(&payload) {
        Ok(text) if text.contains(&lent) => {
            text.replace(&lent, &access_key(&format!("{FUNCTION}-{}", std::process::id()))).into()
        }
        _ => payload,
    }
}
