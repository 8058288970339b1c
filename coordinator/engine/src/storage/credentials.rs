//! Credentials that functions are lent.

use std::collections::BTreeMap;

use gust_protocol::StoreAccess;

/// Credentials with which functions reach S3.
#[derive(Clone)]
pub enum StoreCredentials {
    /// The functions' own role. No credentials of the coordinator travel.
    Own,
    /// The coordinator's credentials as object_store's settings, for functions on its own machine. The map is empty if
    /// no store needs them.
    Lent(BTreeMap<String, String>),
}

impl std::fmt::Debug for StoreCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Own => "Own",
            Self::Lent(_) => "Lent(hidden)",
        })
    }
}

impl StoreCredentials {
    /// Keys of object_store's settings that are credentials.
    pub const KEYS: [&str; 3] = ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"];

    /// Returns a store as functions are told to reach it.
    pub fn apply(&self, access: &StoreAccess) -> StoreAccess {
        let mut access = access.clone();
        match self {
            Self::Own => access.options.retain(|key, _| !Self::KEYS.contains(&key.as_str())),
            Self::Lent(credentials) if access.url.starts_with("s3") => {
                for (key, value) in credentials {
                    access.options.entry(key.clone()).or_insert_with(|| value.clone());
                }
            }
            Self::Lent(_) => {}
        }
        access
    }
}
