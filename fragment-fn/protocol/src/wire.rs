//! Bytes for requests and responses: JSON (a Lambda payload must be JSON) with binary parts in base64.
//!
//! Decoding looks at version and fingerprint first, so that a mismatch is told as such and not as a parse error.

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::version::{PROTOCOL_VERSION, fingerprint};
use crate::{FragmentError, FragmentErrorKind, FragmentResponse, InvokeRequest};

/// Largest request and largest response of a synchronous Lambda invocation: 6 MB (AWS Lambda quotas).
pub const PAYLOAD_BYTES_MAX: usize = 6_291_556;

/// Room that a response needs around its inline rows: ids, usage, JSON punctuation.
const ENVELOPE_BYTES: usize = 4_096;

/// Most result bytes that fit a response once base64 has made them a third longer.
pub const INLINE_BYTES_MAX: u64 = ((PAYLOAD_BYTES_MAX - ENVELOPE_BYTES) / 4 * 3) as u64;

/// Binary data inside JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Base64(pub Bytes);

impl Serialize for Base64 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = BASE64_STANDARD.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes.into()))
    }
}

/// A message that could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("{0}")]
    Malformed(#[from] serde_json::Error),
    #[error(
        "version mismatch: the coordinator speaks protocol {theirs_version} with {theirs_fingerprint}, this function {PROTOCOL_VERSION} with {}\nhint: deploy the function of the coordinator's release", fingerprint()
    )]
    Version { theirs_version: u32, theirs_fingerprint: String },
    #[error("version mismatch: the function answered in protocol {theirs}, this coordinator speaks {PROTOCOL_VERSION}\nhint: deploy the function of the coordinator's release")]
    ResponseVersion { theirs: u32 },
}

impl From<WireError> for FragmentError {
    fn from(error: WireError) -> Self {
        let kind = match error {
            WireError::Malformed(_) => FragmentErrorKind::MalformedRequest,
            WireError::Version { .. } | WireError::ResponseVersion { .. } => FragmentErrorKind::VersionMismatch,
        };
        Self::new(kind, error.to_string())
    }
}

/// The part of a request that every version can read.
#[derive(Deserialize)]
struct Header {
    version: u32,
    fingerprint: String,
}

pub fn encode_request(request: &InvokeRequest) -> Result<Bytes, WireError> {
    Ok(serde_json::to_vec(request)?.into())
}

/// # Errors
/// [`WireError::Version`] before anything but version and fingerprint has been understood.
pub fn decode_request(payload: &[u8]) -> Result<InvokeRequest, WireError> {
    let header: Header = serde_json::from_slice(payload)?;
    if header.version != PROTOCOL_VERSION || header.fingerprint != fingerprint() {
        return Err(WireError::Version { theirs_version: header.version, theirs_fingerprint: header.fingerprint });
    }
    Ok(serde_json::from_slice(payload)?)
}

pub fn encode_response(response: &FragmentResponse) -> Result<Bytes, WireError> {
    Ok(serde_json::to_vec(response)?.into())
}

/// # Errors
/// [`WireError::ResponseVersion`] where the function answered in another protocol version.
pub fn decode_response(payload: &[u8]) -> Result<FragmentResponse, WireError> {
    #[derive(Deserialize)]
    struct ResponseHeader {
        version: u32,
    }
    let header: ResponseHeader = serde_json::from_slice(payload)?;
    if header.version != PROTOCOL_VERSION {
        return Err(WireError::ResponseVersion { theirs: header.version });
    }
    Ok(serde_json::from_slice(payload)?)
}
