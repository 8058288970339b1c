//! Who may ask: anybody, the holder of a token, of client credentials, or of AWS's keys. Signatures are computed here by AWS's
//! description of Signature Version 4, over the request as it arrived.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, Method, Uri};
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};

/// Greatest difference of a signature's time to the server's. AWS has five minutes.
const SIGNATURE_LIFE: TimeDelta = TimeDelta::minutes(5);

/// Rule about who may ask.
#[derive(Debug, Clone)]
pub enum Access {
    Open,
    Token(String),
    OAuth2 {
        client_id: String,
        client_secret: String,
        /// Life of a token, as it is told and kept.
        life: Duration,
    },
    SigV4 {
        service: String,
        region: String,
        key_id: String,
        secret: String,
    },
}

/// Tokens that were given and are valid.
#[derive(Default)]
pub(super) struct Tokens {
    valid: Mutex<BTreeMap<String, Instant>>,
    given: AtomicU64,
}

impl Tokens {
    pub(super) fn give(&self, life: Duration) -> String {
        let number = self.given.fetch_add(1, Ordering::Relaxed);
        let token = format!("bearer-secret-{number}");
        self.lock().insert(token.clone(), Instant::now() + life);
        token
    }

    pub(super) fn expire(&self) {
        self.lock().clear();
    }

    pub(super) fn given(&self) -> u64 {
        self.given.load(Ordering::Relaxed)
    }

    fn is_valid(&self, token: &str) -> bool {
        self.lock().get(token).is_some_and(|end| Instant::now() < *end)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Instant>> {
        self.valid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Request as it arrived.
pub(super) struct Arrived<'a> {
    pub(super) method: &'a Method,
    pub(super) uri: &'a Uri,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
}

impl Access {
    /// Returns the status and the reason of a refusal.
    pub(super) fn check(
        &self,
        tokens: &Tokens,
        request: &Arrived<'_>,
        now: DateTime<Utc>,
    ) -> Result<(), (u16, String)> {
        let authorization =
            request.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let bearer = authorization.strip_prefix("Bearer ");
        match self {
            Access::Open => Ok(()),
            Access::Token(token) if bearer == Some(token) => Ok(()),
            // The text is quoted, as careless servers do.
            Access::Token(_) => Err((401, format!("the token {} is wrong", bearer.unwrap_or("none")))),
            Access::OAuth2 { .. } => match bearer {
                Some(token) if tokens.is_valid(token) => Ok(()),
                Some(token) => Err((419, format!("the token {token} has expired"))),
                None => Err((401, "there is no token".to_owned())),
            },
            Access::SigV4 { service, region, key_id, secret } => {
                let signer = Signer { service, region, key_id, secret };
                signature(request, authorization, &signer, now).map_err(|why| (403, why))
            }
        }
    }
}

struct Signer<'a> {
    service: &'a str,
    region: &'a str,
    key_id: &'a str,
    secret: &'a str,
}

fn signature(
    request: &Arrived<'_>,
    authorization: &str,
    signer: &Signer<'_>,
    now: DateTime<Utc>,
) -> Result<(), String> {
    let Signer { service, region, key_id, secret } = signer;
    let fields = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or("the request is not signed")?;
    let field = |name: &str| {
        let parts = fields.split(',').map(str::trim);
        parts.filter_map(|part| part.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let (credential, signed, told) = match (field("Credential"), field("SignedHeaders"), field("Signature")) {
        (Some(credential), Some(signed), Some(told)) => (credential, signed, told),
        _ => return Err("the authorization has no credential, headers or signature".to_owned()),
    };
    let header = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let time = header("x-amz-date");
    let signed_at = NaiveDateTime::parse_from_str(time, "%Y%m%dT%H%M%SZ").map_err(|_| "the request has no date")?;
    if (now - signed_at.and_utc()).abs() > SIGNATURE_LIFE {
        return Err(format!("Signature expired: {time} is now earlier or later than {}", now.format("%Y%m%dT%H%M%SZ")));
    }
    let day = time.get(..8).unwrap_or_default();
    let scope = format!("{day}/{region}/{service}/aws4_request");
    if credential != format!("{key_id}/{scope}") {
        return Err(format!("the request is signed for {credential}, not for {scope}"));
    }
    let hash = hex(&Sha256::digest(request.body));
    let told_hash = header("x-amz-content-sha256");
    if !told_hash.is_empty() && told_hash != hash {
        return Err("the body's hash differs".to_owned());
    }
    let names: Vec<&str> = signed.split(';').collect();
    if !names.contains(&"host") || !names.contains(&"x-amz-date") {
        return Err("host or date are not signed".to_owned());
    }
    let headers: String = names.iter().map(|name| format!("{name}:{}\n", header(name).trim())).collect();
    // Each segment of the path is encoded once more than it came.
    let path = request.uri.path().split('/').map(encoded).collect::<Vec<_>>().join("/");
    let mut query: Vec<&str> =
        request.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).collect();
    query.sort_unstable();
    let canonical = format!("{}\n{path}\n{}\n{headers}\n{signed}\n{hash}", request.method, query.join("&"));
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical.as_bytes())));
    let key = [day, region, service, "aws4_request"]
        .iter()
        .fold(format!("AWS4{secret}").into_bytes(), |key, part| hmac(&key, part.as_bytes()).to_vec());
    match hex(&hmac(&key, text.as_bytes())) == told {
        true => Ok(()),
        false => Err(format!("the signature does not match; the canonical request is {canonical:?}")),
    }
}

fn encoded(segment: &str) -> String {
    segment.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(byte)),
            byte => text.push_str(&format!("%{byte:02X}")),
        }
        text
    })
}

/// Computes HMAC (RFC 2104) with SHA-256, whose blocks have 64 bytes.
fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    match key.len() > block.len() {
        true => block[..32].copy_from_slice(&Sha256::digest(key)),
        false => block[..key.len()].copy_from_slice(key),
    }
    let padded = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        text.push_str(&format!("{byte:02x}"));
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyed_hash_is_that_of_the_standard() {
        // RFC 4231, test case 2.
        let expect = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex(&hmac(b"Jefe", b"what do ya want for nothing?")), expect);
    }
}
