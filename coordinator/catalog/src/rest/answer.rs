//! Answers of a REST catalog, as JSON.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use reqwest::Response;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{Error, Result};

/// Most characters of a refusal that are shown.
const EXCERPT_CHARS_MAX: usize = 300;

#[derive(Debug, Deserialize)]
pub(super) struct ConfigAnswer {
    #[serde(default)]
    pub(super) defaults: BTreeMap<String, Option<String>>,
    #[serde(default)]
    pub(super) overrides: BTreeMap<String, Option<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct NamespacesAnswer {
    #[serde(default)]
    pub(super) namespaces: Vec<Vec<String>>,
    pub(super) next_page_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct TablesAnswer {
    #[serde(default)]
    pub(super) identifiers: Vec<Identifier>,
    pub(super) next_page_token: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Identifier {
    pub(super) name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct TableAnswer {
    pub(super) metadata_location: Option<String>,
    pub(super) metadata: Box<RawValue>,
    #[serde(default)]
    pub(super) config: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) storage_credentials: Option<Vec<StorageCredential>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct CredentialsAnswer {
    #[serde(default)]
    pub(super) storage_credentials: Vec<StorageCredential>,
}

/// Credentials for the files whose locations begin with `prefix`.
#[derive(Clone, Deserialize)]
pub(super) struct StorageCredential {
    pub(super) prefix: String,
    #[serde(default)]
    pub(super) config: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct ErrorAnswer {
    error: ErrorModel,
}

/// Refusal as the protocol has it.
#[derive(Debug, Deserialize)]
pub(super) struct ErrorModel {
    #[serde(default)]
    pub(super) message: String,
    #[serde(default, rename = "type")]
    pub(super) kind: String,
}

/// Refusal as AWS's services have it.
#[derive(Deserialize)]
struct AwsRefusal {
    #[serde(alias = "Message")]
    message: String,
    #[serde(rename = "__type", alias = "code")]
    kind: Option<String>,
}

impl ErrorModel {
    /// Reads the refusal of a body. None if it is not the protocol's.
    pub(super) fn of(body: &[u8]) -> Option<Self> {
        serde_json::from_slice::<ErrorAnswer>(body).ok().map(|answer| answer.error)
    }

    /// Reads the refusal of an AWS service, which may come before the catalog sees the request. `kind` is that of the
    /// answer's headers. None if the body is none.
    pub(super) fn of_aws(body: &[u8], kind: Option<String>) -> Option<Self> {
        let AwsRefusal { message, kind: own } = serde_json::from_slice(body).ok()?;
        Some(ErrorModel { message, kind: kind.or(own).unwrap_or_default() })
    }

    /// Tells if an AWS service refuses the keys or the signature, and not what they may do. It does so with status 403, too.
    pub(super) fn is_about_credentials(&self) -> bool {
        const KINDS: [&str; 6] = [
            "ExpiredToken",
            "Signature",
            "ClientTokenId",
            "UnrecognizedClient",
            "MissingAuthenticationToken",
            "RequestExpired",
        ];
        let message = self.message.to_lowercase();
        KINDS.iter().any(|kind| self.kind.contains(kind))
            || ["security token", "signature"].iter().any(|words| message.contains(words))
    }

    /// Tells if the table is there, in another format.
    pub(super) fn is_other_format(&self) -> bool {
        self.kind == "NoSuchIcebergTableException" || self.message.to_lowercase().contains("not an iceberg table")
    }
}

/// Returns the beginning of a text for a message, in one line.
pub(super) fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let mut words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((cut, _)) = words.char_indices().nth(EXCERPT_CHARS_MAX) {
        words.truncate(cut);
        words.push('…');
    }
    words
}

/// Body of an answer while it is read.
pub(super) struct Body<'a> {
    response: Response,
    location: &'a str,
    bytes_max: usize,
    read: BytesMut,
}

impl<'a> Body<'a> {
    pub(super) fn new(response: Response, bytes_max: usize, location: &'a str) -> Self {
        Body { response, location, bytes_max, read: BytesMut::new() }
    }

    /// Reads until the body is whole or has so many bytes. True if it is whole.
    ///
    /// # Errors
    /// Unreachable; corrupt: the body is longer than it may be.
    pub(super) async fn read_up_to(&mut self, bytes: usize) -> Result<bool> {
        let failed = |error: reqwest::Error| Error::unreachable(self.location, error.without_url());
        loop {
            let Some(chunk) = self.response.chunk().await.map_err(failed)? else { return Ok(true) };
            self.read.extend_from_slice(&chunk);
            if self.read.len() > self.bytes_max {
                let why = format!("its answer has more than {} bytes", self.bytes_max);
                return Err(Error::corrupt(self.location, why));
            }
            if self.read.len() >= bytes {
                return Ok(false);
            }
        }
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.read.freeze()
    }
}

/// Reads a body of at most so many bytes.
pub(super) async fn body_of(response: Response, bytes_max: usize, location: &str) -> Result<Bytes> {
    let mut body = Body::new(response, bytes_max, location);
    while !body.read_up_to(usize::MAX).await? {}
    Ok(body.into_bytes())
}
