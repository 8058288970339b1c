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
        // Credentials that a catalog has lent for a table stay the only ones.
        if is_lent(&access.url) {
            return access;
        }
        match self {
            Self::Own => access.options.retain(|key, _| !Self::KEYS.contains(&key.as_str())),
            // Keys of the configuration have no token: the environment's would not belong to them.
            Self::Lent(_) if access.options.contains_key(Self::KEYS[0]) => {}
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

/// Tells if a store's root is a grant's, `s3://ID@bucket/`.
fn is_lent(url: &str) -> bool {
    let authority = url.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
    authority.contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_two_sources_are_never_mixed() {
        let options = |keys: &[(&str, &str)]| -> BTreeMap<String, String> {
            keys.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let own = options(&[("aws_access_key_id", "e"), ("aws_secret_access_key", "es"), ("aws_session_token", "et")]);
        let configured = options(&[("aws_access_key_id", "c"), ("aws_secret_access_key", "cs")]);
        let check = |url: &str, given: &BTreeMap<String, String>, lent, expect: &BTreeMap<String, String>| {
            let credentials = if lent { StoreCredentials::Lent(own.clone()) } else { StoreCredentials::Own };
            let access = StoreAccess { url: url.to_owned(), options: given.clone() };
            assert_eq!(credentials.apply(&access).options, *expect, "{url}");
        };
        let none = options(&[]);
        check("s3://b/", &none, true, &own);
        check("s3://b/", &configured, true, &configured);
        check("s3://b/", &configured, false, &none);
        check("file:///", &none, true, &none);
        for lent in [true, false] {
            check("s3://id@b/", &configured, lent, &configured);
            check("s3://id@b/", &none, lent, &none);
        }
    }
}
