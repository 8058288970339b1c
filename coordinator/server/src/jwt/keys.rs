//! Keys of an identity provider: a JWKS (RFC 7517), fetched anew from time to time.
//!
//! A key that is not known is asked for once a minute at most, however many tokens name it. While the provider does not answer, the
//! keys of the last answer hold for a day, and then none. A token waits for an answer no longer than one fetch may take, whoever makes the
//! fetch, and a token whose key is known does not wait.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use reqwest::{Client, Url, redirect};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

/// Pause between two fetches, and after one that failed.
const REFRESH: Duration = Duration::from_secs(5 * 60);
const RETRY: Duration = Duration::from_secs(10);

/// Least pause between two fetches for keys that are not known.
const ASK_PAUSE: Duration = Duration::from_secs(60);

/// Longest time for which keys hold after they were fetched.
const STALE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest time of one fetch.
const FETCH_TIME_MAX: Duration = Duration::from_secs(5);

/// Most bytes of the provider's answer, and most keys in it.
const ANSWER_BYTES_MAX: usize = 1 << 20;
const KEYS_MAX: usize = 100;

/// Keys of a provider.
#[derive(Debug)]
pub(super) struct Keys {
    url: Url,
    client: Client,
    state: Mutex<State>,
    /// Held while keys are fetched.
    fetching: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct State {
    keys: Vec<Key>,
    /// Time of the last answer.
    fetched: Option<Instant>,
    /// Time of the last fetch for a key that was not known.
    asked: Option<Instant>,
    /// True if the last fetch failed, so that the log has it once.
    is_failing: bool,
}

#[derive(Debug, Clone)]
struct Key {
    id: Option<String>,
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

/// Result of a search for a key.
pub(super) enum Found {
    Key(DecodingKey),
    Unknown,
    /// The provider does not answer, and so the key may be one of its own.
    NoKeys,
}

#[derive(Deserialize)]
struct Answer {
    keys: Vec<Value>,
}

impl Key {
    /// Reads a key; None for one that signs nothing, or that is of another kind.
    fn read(value: &Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
        if jwk.common.public_key_use.as_ref().is_some_and(|it| *it != PublicKeyUse::Signature) {
            return None;
        }
        let algorithm = match jwk.common.key_algorithm {
            None => None,
            Some(named) => Some(Algorithm::try_from(named).ok()?),
        };
        let key = DecodingKey::from_jwk(&jwk).ok().filter(|key| key.family() != AlgorithmFamily::Hmac)?;
        Some(Self { id: jwk.common.key_id, algorithm, key })
    }

    fn verifies(&self, algorithm: Algorithm) -> bool {
        self.key.family() == algorithm.family() && self.algorithm.is_none_or(|only| only == algorithm)
    }
}

impl State {
    /// Returns the key with an id. A token without an id has the only key that its algorithm leaves.
    fn key(&self, id: Option<&str>, algorithm: Algorithm) -> Option<DecodingKey> {
        let is_it = |key: &&Key| (id.is_none() || key.id.as_deref() == id) && key.verifies(algorithm);
        let mut fit = self.keys.iter().filter(is_it);
        match (fit.next(), fit.next()) {
            (Some(only), None) => Some(only.key.clone()),
            _ => None,
        }
    }

    /// Tells if the keys are all that the provider has, as far as it was asked.
    fn is_told(&self) -> bool {
        self.has_fresh_keys() && !self.is_failing
    }

    fn has_fresh_keys(&self) -> bool {
        self.fetched.is_some_and(|fetched| fetched.elapsed() < STALE_MAX)
    }
}

#[cfg(test)]
impl Keys {
    /// Takes keys as if the provider had told them now.
    pub(super) fn told(&self, keys: &[Value]) {
        let mut state = self.state();
        state.keys = keys.iter().filter_map(Key::read).collect();
        (state.fetched, state.is_failing) = (Some(Instant::now()), false);
    }
}

impl Keys {
    /// Prepares for fetching from a URL.
    ///
    /// # Errors
    /// The reason why the URL cannot be used.
    pub(super) fn new(url: &str) -> Result<Self, String> {
        let url: Url = url.parse().map_err(|error| format!("it is no URL: {error}"))?;
        let host = url.host_str().unwrap_or_default();
        let is_here = host == "localhost"
            || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        match url.scheme() {
            "https" => {}
            "http" if is_here => {}
            _ => return Err("expected https://: a stranger on the way could change the keys".to_owned()),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a URL with a user is not taken".to_owned());
        }
        let client = match url.scheme() {
            "https" => Client::builder().https_only(true),
            // A proxy is not this machine.
            _ => Client::builder().no_proxy(),
        };
        let client = client
            .timeout(FETCH_TIME_MAX)
            // Another place may be anybody's.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("gust/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { url, client, state: Mutex::default(), fetching: Arc::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the URL without what may be a secret.
    pub(super) fn shown(&self) -> String {
        format!("{}{}", self.url.origin().ascii_serialization(), self.url.path())
    }

    /// Returns the key of a token. The provider is asked for one that is not known.
    pub(super) async fn find(self: &Arc<Self>, id: Option<&str>, algorithm: Algorithm) -> Found {
        if let Some(key) = self.known(id, algorithm) {
            return Found::Key(key);
        }
        let until = Instant::now() + FETCH_TIME_MAX;
        // Others that look for a new key at the same time wait for one answer.
        let mut is_in_time = false;
        if let Ok(held) = timeout_at(until, Arc::clone(&self.fetching).lock_owned()).await {
            is_in_time = true;
            if self.known(id, algorithm).is_none() && self.may_ask() {
                let keys = Arc::clone(self);
                // It is the only one for a minute, and so it does not end with its client.
                let fetching = tokio::spawn(async move {
                    let _held = held;
                    keys.fetch_alone().await.unwrap_or_else(|why| tracing::debug!(why, "a key is looked for in vain"));
                });
                is_in_time = timeout_at(until, fetching).await.is_ok();
            }
        }
        match self.known(id, algorithm) {
            Some(key) => Found::Key(key),
            None if is_in_time && self.state().is_told() => Found::Unknown,
            None => Found::NoKeys,
        }
    }

    fn known(&self, id: Option<&str>, algorithm: Algorithm) -> Option<DecodingKey> {
        let state = self.state();
        state.has_fresh_keys().then(|| state.key(id, algorithm))?
    }

    fn may_ask(&self) -> bool {
        let mut state = self.state();
        let may_ask = state.asked.is_none_or(|asked| asked.elapsed() >= ASK_PAUSE);
        if may_ask {
            state.asked = Some(Instant::now());
        }
        may_ask
    }

    /// Fetches the keys, one fetch after the other.
    ///
    /// # Errors
    /// The reason why they cannot be had. The earlier ones hold on.
    pub(super) async fn fetch(&self) -> Result<(), String> {
        let _one_at_a_time = self.fetching.lock().await;
        self.fetch_alone().await
    }

    /// Fetches the keys from time to time.
    pub(super) async fn refresh(&self) {
        loop {
            let pause = if self.state().is_failing { RETRY } else { REFRESH };
            tokio::time::sleep(pause).await;
            // It is logged where it begins and ends.
            drop(self.fetch().await);
        }
    }

    async fn fetch_alone(&self) -> Result<(), String> {
        let fetched = self.answer().await;
        let mut state = self.state();
        let was_failing = std::mem::replace(&mut state.is_failing, fetched.is_err());
        match &fetched {
            Ok(keys) => {
                (state.keys, state.fetched) = (keys.clone(), Some(Instant::now()));
                if was_failing {
                    tracing::info!(url = self.shown(), "the identity provider tells its keys again");
                }
            }
            Err(why) if !was_failing => {
                tracing::error!(url = self.shown(), why, "the keys of the identity provider cannot be had");
            }
            Err(_) => {}
        }
        match fetched?.len() {
            // It has taken all back, or has others than those that are known here.
            0 => Err("none of its keys is one of a signature that is known".to_owned()),
            _ => Ok(()),
        }
    }

    async fn answer(&self) -> Result<Vec<Key>, String> {
        let failed = |error: reqwest::Error| gust_engine::error::with_causes(&error.without_url());
        let mut response = self.client.get(self.url.clone()).send().await.map_err(failed)?;
        if !response.status().is_success() {
            return Err(format!("it answers {}", response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(format!("its answer has more than {ANSWER_BYTES_MAX} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        let Answer { keys } = serde_json::from_slice(&body).map_err(|error| format!("it answers no keys: {error}"))?;
        if keys.len() > KEYS_MAX {
            return Err(format!("it has more than {KEYS_MAX} keys"));
        }
        Ok(keys.iter().filter_map(Key::read).collect())
    }
}
