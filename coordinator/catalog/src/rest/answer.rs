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

impl ErrorModel {
    /// Reads the refusal of a body. None if it is not the protocol's.
    pub(super) fn of(body: &[u8]) -> Option<Self> {
        serde_json::from_slice::<ErrorAnswer>(body).ok().map(|answer| answer.error)
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

/// Reads a body of at most so many bytes.
pub(super) async fn body_of(mut response: Response, bytes_max: usize, location: &str) -> Result<Bytes> {
    let failed = |error: reqwest::Error| Error::unreachable(location, error.without_url());
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > bytes_max {
            return Err(Error::corrupt(location, format!("its answer has more than {bytes_max} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}
