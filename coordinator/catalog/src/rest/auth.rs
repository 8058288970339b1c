//! Authorization of requests: none, a bearer token, OAuth2 client credentials with renewal, or AWS's signature.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, SignableBody, SignableRequest, SigningParams, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use object_store::aws::AwsCredentialProvider;
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Client, Request};
use serde::Deserialize;
use tokio::time::Instant;
use url::{Url, form_urlencoded};

use super::answer::{body_of, excerpt};
use super::http::Tries;
use super::renewed::{Ends, Renewed};
use crate::error::{Error, Result};

/// Longest time before its end at which a token is renewed.
const RENEW_BEFORE_MAX: Duration = Duration::from_secs(60);
/// Most bytes of a token endpoint's answer.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Most bytes of a file that holds a secret.
const SECRET_BYTES_MAX: u64 = 64 << 10;
/// Age at which a token's file is read again: whoever runs the catalog replaces it before its token ends.
const FILE_READ_AFTER: Duration = Duration::from_secs(30);
/// Pause after a renewal that failed, while the token is still good.
const RENEW_AGAIN_AFTER: Duration = Duration::from_secs(20);

/// Text that never shows.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(String);

impl SecretText {
    pub fn new(text: impl Into<String>) -> Self {
        SecretText(text.into())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(hidden)")
    }
}

/// Authorization that a request has.
#[derive(Default)]
pub(super) struct Sent {
    /// Number of its token, for [`Authorizer::renew`].
    pub(super) number: u64,
    secrets: Vec<SecretText>,
}

/// Hides a secret in a text, as it is and as a form has it.
fn without(text: &str, secret: &SecretText) -> String {
    if secret.0.is_empty() {
        return text.to_owned();
    }
    let encoded: String = form_urlencoded::byte_serialize(secret.reveal().as_bytes()).collect();
    text.replace(secret.reveal(), "(hidden)").replace(&encoded, "(hidden)")
}

/// Place of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretPlace {
    Text(SecretText),
    /// File that has nothing else. It is read again from time to time, for it may be replaced.
    File(PathBuf),
}

impl SecretPlace {
    async fn read(&self, catalog: &str) -> Result<SecretText> {
        let path = match self {
            SecretPlace::Text(text) => return Ok(text.clone()),
            SecretPlace::File(path) => path,
        };
        let invalid = |why: String| {
            let why = format!("secret file {}: {why}", path.display());
            Error::Setting { catalog: catalog.to_owned(), why }
        };
        let length = tokio::fs::metadata(path).await.map_err(|error| invalid(error.to_string()))?.len();
        if length > SECRET_BYTES_MAX {
            return Err(invalid(format!("it has more than {SECRET_BYTES_MAX} bytes")));
        }
        let text = tokio::fs::read_to_string(path).await.map_err(|error| invalid(error.to_string()))?;
        match text.trim() {
            "" => Err(invalid("it is empty".to_owned())),
            text => Ok(SecretText::new(text)),
        }
    }
}

/// Way in which requests to a catalog are authorized.
#[derive(Debug, Clone)]
pub enum RestAuth {
    None,
    /// Bearer token.
    Token(SecretPlace),
    /// OAuth2 client credentials. Without `uri` the catalog's own token endpoint is asked.
    OAuth2 {
        client_id: Option<String>,
        client_secret: SecretPlace,
        uri: Option<String>,
        scope: Option<String>,
    },
    /// AWS's signature, for the service `name`.
    SigV4 {
        name: String,
        region: String,
        keys: AwsCredentialProvider,
    },
}

impl RestAuth {
    pub(super) fn is_none(&self) -> bool {
        matches!(self, RestAuth::None)
    }
}

/// Authorizes the requests of one catalog.
pub(super) struct Authorizer {
    catalog: String,
    auth: RestAuth,
    client: Client,
    token_url: Option<Url>,
    token: Renewed<Token>,
    /// Secret that was read from a file last.
    read: Mutex<Option<SecretText>>,
}

#[derive(Clone)]
struct Token {
    text: SecretText,
    /// Count of the tokens before it.
    number: u64,
    renew_at: Option<Instant>,
    ends_at: Option<Instant>,
}

impl Ends for Token {
    fn is_due(&self) -> bool {
        self.renew_at.is_some_and(|at| at <= Instant::now())
    }

    fn is_usable(&self) -> bool {
        self.ends_at.is_none_or(|at| Instant::now() < at)
    }

    fn go_on(&mut self) {
        let later = Instant::now() + RENEW_AGAIN_AFTER;
        self.renew_at = Some(self.ends_at.map_or(later, |end| later.min(end)));
    }
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorizer").field("catalog", &self.catalog).field("auth", &self.auth).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    expires_in: Option<f64>,
}

#[derive(Deserialize)]
struct TokenRefusal {
    error: String,
    error_description: Option<String>,
}

impl Authorizer {
    pub(super) fn new(catalog: &str, auth: RestAuth, client: Client, base: &str) -> Result<Self> {
        let token_url = match &auth {
            RestAuth::OAuth2 { uri, .. } => {
                let text = uri.clone().unwrap_or_else(|| format!("{base}/v1/oauth/tokens"));
                let url = Url::parse(&text);
                Some(url.map_err(|error| Error::Setting {
                    catalog: catalog.to_owned(),
                    why: format!("token endpoint {text}: {error}"),
                })?)
            }
            _ => None,
        };
        Ok(Authorizer {
            catalog: catalog.to_owned(),
            auth,
            client,
            token_url,
            token: Renewed::new(None),
            read: Mutex::default(),
        })
    }

    /// Tells if another token can be had in place of one that was refused.
    pub(super) fn renews(&self) -> bool {
        matches!(self.auth, RestAuth::OAuth2 { .. } | RestAuth::Token(SecretPlace::File(_)))
    }

    /// Tells if requests are signed as AWS checks them.
    pub(super) fn signs(&self) -> bool {
        matches!(self.auth, RestAuth::SigV4 { .. })
    }

    /// Puts the authorization into a request. Returns what it has put there.
    pub(super) async fn authorize(&self, request: &mut Request) -> Result<Sent> {
        match &self.auth {
            RestAuth::None => Ok(Sent::default()),
            RestAuth::Token(SecretPlace::Text(token)) => {
                self.bearer(request, token)?;
                Ok(Sent { number: 0, secrets: vec![token.clone()] })
            }
            RestAuth::Token(SecretPlace::File(_)) | RestAuth::OAuth2 { .. } => {
                let failed =
                    |error: &Error| tracing::warn!(catalog = self.catalog, %error, "a token could not be renewed yet");
                let Token { text, number, .. } = self.token.get(|before| self.next_token(before), failed).await?;
                self.bearer(request, &text)?;
                Ok(Sent { number, secrets: vec![text] })
            }
            RestAuth::SigV4 { name, region, keys } => {
                let secrets = self.sign(request, name, region, keys).await?;
                Ok(Sent { number: 0, secrets })
            }
        }
    }

    /// Fetches another token, unless the one with this number has been replaced already.
    pub(super) async fn renew(&self, refused: u64) -> Result<()> {
        self.token.renew_if(|token| token.number == refused, |before| self.next_token(before)).await
    }

    async fn next_token(&self, before: Option<Token>) -> Result<Token> {
        let number = before.map_or(0, |token| token.number + 1);
        match &self.auth {
            RestAuth::Token(place) => {
                let text = self.secret(place).await?;
                Ok(Token { text, number, renew_at: Some(Instant::now() + FILE_READ_AFTER), ends_at: None })
            }
            _ => self.fetch(number).await,
        }
    }

    /// Reads a secret.
    async fn secret(&self, place: &SecretPlace) -> Result<SecretText> {
        let text = place.read(&self.catalog).await?;
        if let SecretPlace::File(_) = place {
            *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.clone());
        }
        Ok(text)
    }

    /// Replaces secrets in the text of an answer: those that its request had, which may have been renewed since, and the present ones.
    pub(super) fn redacted(&self, text: String, sent: &Sent) -> String {
        let token = self.token.present().map(|token| token.text);
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let own = match &self.auth {
            RestAuth::OAuth2 { client_secret: SecretPlace::Text(secret), .. } => Some(secret.clone()),
            _ => None,
        };
        let secrets = sent.secrets.iter().cloned().chain(token).chain(read).chain(own);
        secrets.fold(text, |text, secret| without(&text, &secret))
    }

    fn unusable(&self, why: String) -> Error {
        Error::Setting { catalog: self.catalog.clone(), why }
    }

    fn bearer(&self, request: &mut Request, token: &SecretText) -> Result<()> {
        let value = HeaderValue::from_str(&format!("Bearer {}", token.reveal()));
        let mut value =
            value.map_err(|_| self.unusable("the token has characters that no header may have".to_owned()))?;
        value.set_sensitive(true);
        request.headers_mut().insert(reqwest::header::AUTHORIZATION, value);
        Ok(())
    }

    async fn fetch(&self, number: u64) -> Result<Token> {
        let (RestAuth::OAuth2 { client_id, client_secret, scope, .. }, Some(url)) = (&self.auth, &self.token_url)
        else {
            return Err(self.unusable("it has no token endpoint".to_owned()));
        };
        let client_secret = self.secret(client_secret).await?;
        let id = client_id.iter().map(|id| ("client_id", id.as_str()));
        let pairs = id.chain([
            ("grant_type", "client_credentials"),
            ("client_secret", client_secret.reveal()),
            ("scope", scope.as_deref().unwrap_or("catalog")),
        ]);
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        let mut tries = Tries::begin();
        let response = loop {
            let request = self.client.post(url.clone()).header("content-type", "application/x-www-form-urlencoded");
            let answer = request.body(form.clone()).send().await;
            match (tries.pause(answer.as_ref().ok()), answer) {
                (Some(pause), _) => tokio::time::sleep(pause).await,
                (None, Ok(response)) => break response,
                (None, Err(error)) => return Err(Error::unreachable(url.as_str(), error.without_url())),
            }
        };
        let status = response.status().as_u16();
        let body = body_of(response, ANSWER_BYTES_MAX, url.as_str()).await?;
        if status != 200 {
            let refusal = serde_json::from_slice::<TokenRefusal>(&body).ok();
            let why = refusal.map(|told| match told.error_description {
                Some(more) => format!("{}: {more}", told.error),
                None => told.error,
            });
            let why = why.unwrap_or_else(|| format!("status {status} of {url}: {}", String::from_utf8_lossy(&body)));
            let why = excerpt(without(&why, &client_secret).as_bytes());
            return Err(match status {
                400 | 401 | 403 => {
                    Error::Unauthorized { catalog: self.catalog.clone(), status: 401, why: format!("no token: {why}") }
                }
                _ => Error::Refused { location: url.to_string(), status, why },
            });
        }
        let told = serde_json::from_slice::<TokenAnswer>(&body).map_err(|_| {
            // The body may hold the token, so that it is not quoted.
            Error::Refused { location: url.to_string(), status, why: "its answer has no access_token".to_owned() }
        })?;
        let life = told.expires_in.filter(|seconds| *seconds > 0.0).and_then(|s| Duration::try_from_secs_f64(s).ok());
        let now = Instant::now();
        let renew_at = life.map(|life| now + life.saturating_sub(RENEW_BEFORE_MAX.min(life / 4)));
        let ends_at = life.map(|life| now + life);
        Ok(Token { text: SecretText::new(told.access_token), number, renew_at, ends_at })
    }

    /// Signs a request. Returns the secrets of its signature.
    async fn sign(
        &self,
        request: &mut Request,
        name: &str,
        region: &str,
        keys: &AwsCredentialProvider,
    ) -> Result<Vec<SecretText>> {
        let keys = keys.get_credential().await.map_err(|error| Error::unreachable(request.url().as_str(), error))?;
        let unsigned = |why: String| self.unusable(format!("cannot sign: {why}"));
        let identity = Credentials::new(&keys.key_id, &keys.secret_key, keys.token.clone(), None, "gust").into();
        let mut settings = SigningSettings::default();
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(name)
            .time(SystemTime::now())
            .settings(settings)
            .build()
            .map_err(|error| unsigned(error.to_string()))?;
        let parameters = SigningParams::V4(parameters);
        let body = request.body().and_then(reqwest::Body::as_bytes).unwrap_or_default();
        let headers = request.headers().iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let signable =
            SignableRequest::new(request.method().as_str(), request.url().as_str(), headers, SignableBody::Bytes(body));
        let signable = signable.map_err(|error| unsigned(error.to_string()))?;
        let (signed, _) = sign(signable, &parameters).map_err(|error| unsigned(error.to_string()))?.into_parts();
        let signed: Vec<(String, String)> =
            signed.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        for (name, value) in signed {
            let header = HeaderName::try_from(name).ok().zip(HeaderValue::try_from(value).ok());
            let (name, mut value) =
                header.ok_or_else(|| unsigned("a header has characters that none may have".into()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(name, value);
        }
        let secrets = [Some(&keys.secret_key), keys.token.as_ref()];
        Ok(secrets.into_iter().flatten().map(SecretText::new).collect())
    }
}
