//! Tokens: secrets of users, kept as hashes in a file.
//!
//! A secret has 256 random bits, so that one round of SHA-256 is enough: nobody can try them all.

use std::collections::BTreeSet;
use std::fmt::{Debug, Display, Formatter};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use gust_engine::error::QueryError;
use rand::TryRngCore;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::jwt::WebToken;

/// Beginning of each secret, by which people and scanners know it.
pub(crate) const PREFIX: &str = "gust_";

/// Random bytes of a secret.
const SECRET_BYTES: usize = 32;

/// Longest secret that is looked at.
const SECRET_TEXT_BYTES_MAX: usize = 256;

/// Most bytes of a file of tokens.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Person or program that sends requests. Two of one user are the same, by whichever token they are known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Principal {
    /// Name of the user; None on a server without users.
    pub(crate) user: Option<String>,
    /// Token by which he is known.
    pub(crate) credential: Option<Credential>,
}

/// Token by which a user is known.
#[derive(Debug, Clone)]
pub(crate) enum Credential {
    /// One of the file, by the hash of its secret.
    Token(Hash),
    /// One of an identity provider.
    Web(Arc<WebToken>),
}

impl Principal {
    /// Tells if a client may call the user by this name. A provider's users are called by their subject, too.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        let subject = match &self.credential {
            Some(Credential::Web(web)) => Some(web.subject.as_str()),
            Some(Credential::Token(_)) | None => None,
        };
        self.user.as_deref() == Some(name) || subject == Some(name)
    }
}

impl PartialEq for Principal {
    fn eq(&self, other: &Self) -> bool {
        self.user == other.user
    }
}

impl Eq for Principal {}

impl std::hash::Hash for Principal {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        std::hash::Hash::hash(&self.user, state);
    }
}

/// Tokens of a file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tokens {
    #[serde(rename = "token", default)]
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    user: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    sha256: Hash,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<DateTime<Utc>>,
}

/// Hash of a token's secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Hash([u8; 32]);

impl Hash {
    pub(crate) fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }
}

impl From<Hash> for String {
    fn from(Hash(bytes): Hash) -> Self {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl TryFrom<String> for Hash {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let expected = || "a hash of 64 hexadecimal digits is expected".to_owned();
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(expected());
        }
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| expected())?;
        }
        Ok(Self(bytes))
    }
}

/// Reason why a secret is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoUser {
    #[error("the token is not known")]
    Unknown,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not taken: {0}")]
    Refused(&'static str),
    #[error("the keys of the identity provider cannot be had")]
    NoKeys,
}

impl NoUser {
    /// Returns the next step of the client.
    pub(crate) fn next_step(self) -> &'static str {
        match self {
            Self::Unknown => "send a token of `gust token new`, or of the server's identity provider",
            Self::Expired => "get a new token",
            Self::Refused(_) => "get a token for this server from its identity provider",
            Self::NoKeys => "try again later; the server's log has the reason",
        }
    }
}

impl Tokens {
    /// Reads a file of tokens. A file that everybody can read is refused, and so is one without a token.
    ///
    /// # Errors
    /// [`gust_engine::error::ErrorKind::Setup`] if it cannot be read, or is none.
    pub(crate) fn read(path: &Path) -> Result<Self, QueryError> {
        let text = read_private(path)?;
        let failed = |why: String| QueryError::setup(format!("{}: {why}", path.display()));
        // The parser's message would quote the file.
        let tokens: Self = toml::from_str(&text).map_err(|error| failed(error.message().to_owned()))?;
        if tokens.tokens.is_empty() {
            return Err(failed("it has no token".to_owned()).with_hint("make one with `gust token new`"));
        }
        for (at, token) in tokens.tokens.iter().enumerate() {
            let wrong = match (is_name(&token.user), token.groups.iter().all(|group| is_name(group))) {
                (true, true) => continue,
                (false, _) => "the user",
                (true, false) => "a group",
            };
            let words = "has no name, or one with control characters, or with blanks or dashes at its beginning";
            return Err(failed(format!("{wrong} of token {} {words}", at + 1)));
        }
        Ok(tokens)
    }

    /// Returns the users of all tokens.
    pub(crate) fn users(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().map(|token| token.user.as_str())
    }

    /// Returns the groups of all tokens.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().flat_map(|token| &token.groups).map(String::as_str)
    }

    /// Returns the groups of a user: those of all his tokens that hold.
    pub(crate) fn groups_of(&self, user: &str, now: DateTime<Utc>) -> BTreeSet<String> {
        let holds = |token: &&Token| token.expires.is_none_or(|expires| expires > now);
        let of_user = self.tokens.iter().filter(|token| token.user == user).filter(holds);
        of_user.flat_map(|token| &token.groups).cloned().collect()
    }

    /// Returns those of these tokens that new ones have, too, with their ends: nothing is added, and what was taken out is gone.
    pub(crate) fn kept_in(&self, new: &Self) -> Self {
        let kept = |token: &Token| {
            let same = new.tokens.iter().find(|it| it.sha256 == token.sha256 && it.user == token.user)?;
            Some(Token { expires: same.expires, ..token.clone() })
        };
        Self { tokens: self.tokens.iter().filter_map(kept).collect() }
    }

    /// Returns the time for which a token still holds; None if it holds no more.
    pub(crate) fn holds_for(&self, Hash(hash): &Hash, now: DateTime<Utc>) -> Option<Duration> {
        let token = self.tokens.iter().find(|token| bool::from(token.sha256.0.ct_eq(hash)))?;
        match token.expires {
            None => Some(Duration::MAX),
            Some(expires) => (expires - now).to_std().ok().filter(|left| !left.is_zero()),
        }
    }

    /// Returns the user of a secret.
    pub(crate) fn principal(&self, secret: &str, now: DateTime<Utc>) -> Result<Principal, NoUser> {
        if secret.len() > SECRET_TEXT_BYTES_MAX {
            return Err(NoUser::Unknown);
        }
        self.principal_of(&Hash::of(secret), now)
    }

    /// Returns the user of a secret with this hash.
    pub(crate) fn principal_of(&self, Hash(hash): &Hash, now: DateTime<Utc>) -> Result<Principal, NoUser> {
        let is_it = |token: &&Token| bool::from(token.sha256.0.ct_eq(hash));
        let token = self.tokens.iter().find(is_it).ok_or(NoUser::Unknown)?;
        match token.expires {
            Some(expires) if expires <= now => Err(NoUser::Expired),
            _ => Ok(Principal { user: Some(token.user.clone()), credential: Some(Credential::Token(Hash(*hash))) }),
        }
    }
}

/// Tells if a user or a group may have this name. The names of the server's own beginning have two dashes.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.trim() == name && !name.contains(char::is_control) && !name.starts_with("--")
}

/// Reads a file that only its owner, and his group, can read.
pub(crate) fn read_private(path: &Path) -> Result<String, QueryError> {
    let failed = |why: String| QueryError::setup(format!("{}: {why}", path.display()));
    let unreadable = |error: std::io::Error| failed(error.to_string());
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode();
    if mode & 0o007 != 0 {
        let hint = format!("chmod o= {}", path.display());
        return Err(failed("everybody on this machine can read it".to_owned()).with_hint(hint));
    }
    let mut text = String::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(failed(format!("it is longer than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Token that was just made. Its display is what belongs into the file.
pub struct NewToken {
    secret: String,
    token: Token,
}

/// Leaves the secret out.
impl Debug for NewToken {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken").field("token", &self.token).finish_non_exhaustive()
    }
}

impl NewToken {
    /// Makes a token of a user. The secret is nowhere else.
    ///
    /// # Errors
    /// The system's error if it has no random numbers.
    pub fn new(user: String, groups: Vec<String>, expires: Option<DateTime<Utc>>) -> std::io::Result<Self> {
        let mut bytes = [0; SECRET_BYTES];
        OsRng.try_fill_bytes(&mut bytes).map_err(std::io::Error::other)?;
        let secret = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes));
        let sha256 = Hash::of(&secret);
        Ok(Self { secret, token: Token { user, groups, sha256, expires } })
    }

    /// Returns the secret, to be shown once.
    pub fn secret(&self) -> &str {
        &self.secret
    }
}

impl Display for NewToken {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let text = toml::to_string(&self.token).map_err(|_| std::fmt::Error)?;
        write!(f, "[[token]]\n{text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str) -> DateTime<Utc> {
        text.parse().expect("a moment")
    }

    fn written(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).expect("a mode");
        file
    }

    #[test]
    fn a_new_token_is_known_by_its_secret_until_it_expires() {
        let expires = Some(moment("2027-01-01T00:00:00Z"));
        let ada = NewToken::new("ada".to_owned(), vec!["analysts".to_owned()], expires).expect("a token");
        let bob = NewToken::new("bob".to_owned(), Vec::new(), None).expect("a token");
        assert_ne!(ada.secret(), bob.secret());
        let text = format!("{ada}\n{bob}");
        assert!(!text.contains(ada.secret()) && !format!("{ada:?}").contains(ada.secret()), "{text}");
        let tokens = Tokens::read(written(&text, 0o600).path()).expect("tokens");
        let user = |secret: &str, now: &str| tokens.principal(secret, moment(now)).map(|it| it.user.expect("a name"));
        assert_eq!(user(ada.secret(), "2026-12-31T23:59:59Z"), Ok("ada".to_owned()));
        assert_eq!(user(ada.secret(), "2027-01-01T00:00:00Z"), Err(NoUser::Expired));
        assert_eq!(user(bob.secret(), "2099-01-01T00:00:00Z"), Ok("bob".to_owned()));
        for unknown in ["", "gust_", &ada.secret()[1..], &"x".repeat(1 << 20)] {
            assert_eq!(user(unknown, "2026-12-31T00:00:00Z"), Err(NoUser::Unknown));
        }
        let hash = String::from(Hash::of(ada.secret()));
        assert_eq!(user(&hash, "2026-12-31T00:00:00Z"), Err(NoUser::Unknown), "a hash is no secret");
    }

    #[test]
    fn bad_files_are_refused_without_their_text() {
        for (text, mode, words) in [
            ("", 0o600, "it has no token"),
            ("[[token]]\nuser = 'a'\nsha256 = 'secret'", 0o600, "64 hexadecimal digits"),
            ("[[token]]\nuser = 'a'\nsecret = 'secret'", 0o600, "unknown field"),
            ("[[tokens]]\nuser = 'a'", 0o600, "unknown field"),
            ("secret", 0o600, "expected"),
            (&format!("[[token]]\nuser = ' '\nsha256 = '{}'", "0".repeat(64)), 0o600, "token 1 has no name"),
            (
                &format!("[[token]]\nuser = 'a'\ngroups = ['b ']\nsha256 = '{}'", "0".repeat(64)),
                0o600,
                "a group of token 1",
            ),
            ("", 0o604, "everybody on this machine can read it"),
            ("", 0o602, "everybody on this machine can read it"),
        ] {
            let error = Tokens::read(written(text, mode).path()).expect_err(text).to_string();
            assert!(error.contains(words) && !error.contains("'secret'"), "{text}: {error}");
        }
        assert!(Tokens::read(Path::new("missing.toml")).is_err());
        let long = "#".repeat(FILE_BYTES_MAX as usize + 1);
        let error = Tokens::read(written(&long, 0o600).path()).expect_err("too long").to_string();
        assert!(error.contains("longer than"), "{error}");
    }
}
