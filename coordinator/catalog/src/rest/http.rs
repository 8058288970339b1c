//! Requests to a REST catalog: authorized, bounded, and sent again where that may help.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use reqwest::header::{DATE, ETAG, HeaderMap, RETRY_AFTER};
use reqwest::{Client, redirect};
use tokio::time::Instant;

use super::answer::{ErrorModel, body_of, excerpt};
use super::auth::{Authorizer, RestAuth, Sent};
use crate::error::{Error, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests that are sent again, beside those with a new token.
const RETRIES_MAX: u32 = 4;
/// Answers after which a request is sent again.
const BUSY: [u16; 5] = [429, 500, 502, 503, 504];
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause that a catalog may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Age of a call after which it is not sent again.
const CALL_MAX: Duration = Duration::from_secs(60);
const NO_SKEW: i64 = i64::MIN;
/// Most bytes of an answer: metadata of a table is in it.
const BODY_BYTES_MAX: usize = 256 << 20;
/// Most bytes of an answer that refuses: its beginning is shown.
const REFUSAL_BYTES_MAX: usize = 1 << 20;

/// Tries of one call, which are bounded in number and time.
pub(super) struct Tries {
    started: Instant,
    again: u32,
}

impl Tries {
    pub(super) fn begin() -> Self {
        Tries { started: Instant::now(), again: 0 }
    }

    /// Returns the pause before the next try, after an answer or after none. None if the call is not tried again.
    pub(super) fn pause(&mut self, answer: Option<&reqwest::Response>) -> Option<Duration> {
        let asked = answer.and_then(|answer| asked_pause(answer.headers()));
        let may_help = answer.is_none_or(|answer| BUSY.contains(&answer.status().as_u16()));
        let is_in_time = self.again < RETRIES_MAX && self.started.elapsed() < CALL_MAX;
        let pause = asked.unwrap_or(PAUSE_MIN * 2_u32.pow(self.again));
        let may_try = may_help && is_in_time && pause <= PAUSE_MAX;
        self.again += u32::from(may_try);
        may_try.then_some(pause)
    }
}

#[derive(Debug)]
pub(super) struct Http {
    catalog: String,
    client: Client,
    authorizer: Authorizer,
    /// Seconds by which the catalog's clock is ahead of ours; [`NO_SKEW`] before its first answer.
    skew_seconds: AtomicI64,
}

/// Answer with status 200, 204, 304 or 404.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
    pub(super) etag: Option<String>,
    sent: Sent,
}

impl Http {
    pub(super) fn new(catalog: &str, auth: RestAuth, base: &str) -> Result<Self> {
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            // A redirected request could carry its authorization elsewhere.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("gust/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::Setting { catalog: catalog.to_owned(), why: error.to_string() })?;
        let authorizer = Authorizer::new(catalog, auth, client.clone(), base)?;
        Ok(Http { catalog: catalog.to_owned(), client, authorizer, skew_seconds: AtomicI64::new(NO_SKEW) })
    }

    /// Sends a GET. `what` is what it is for, in messages.
    ///
    /// # Errors
    /// Unauthorized (401), forbidden (403), refused, unreachable, corrupt (too long).
    pub(super) async fn get(&self, url: &str, headers: &[(&'static str, &str)], what: &str) -> Result<Answer> {
        let (mut tries, mut renewed) = (Tries::begin(), false);
        loop {
            let mut request = self.client.get(url).header("accept", "application/json");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let mut request = request.build().map_err(|error| self.unusable(format!("cannot ask {url}: {error}")))?;
            let sent = self.authorizer.authorize(&mut request).await?;
            let response = match self.client.execute(request).await {
                Ok(response) => response,
                Err(error) => match tries.pause(None).filter(|_| !error.is_builder()) {
                    Some(pause) => {
                        tracing::debug!(catalog = self.catalog, %error, "a request to the catalog failed and is sent again");
                        tokio::time::sleep(pause).await;
                        continue;
                    }
                    None => return Err(Error::unreachable(url, error.without_url())),
                },
            };
            let status = response.status().as_u16();
            self.note_clock(response.headers());
            match status {
                200 | 204 | 304 | 404 => {
                    let etag = response.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
                    let bytes_max = if status == 404 { REFUSAL_BYTES_MAX } else { BODY_BYTES_MAX };
                    let body = body_of(response, bytes_max, url).await?;
                    return Ok(Answer { status, body, etag, sent });
                }
                401 | 419 if !renewed && self.authorizer.renews() => {
                    renewed = true;
                    self.authorizer.renew(sent.number).await?;
                }
                _ => match tries.pause(Some(&response)) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(self.refusal(status, url, what, &sent, response).await),
                },
            }
        }
    }

    /// Returns the seconds by which the catalog's clock is ahead of ours. None before its first answer.
    pub(super) fn skew_seconds(&self) -> Option<i64> {
        Some(self.skew_seconds.load(Ordering::Relaxed)).filter(|seconds| *seconds != NO_SKEW)
    }

    fn note_clock(&self, headers: &HeaderMap) {
        let date = headers.get(DATE).and_then(|date| DateTime::parse_from_rfc2822(date.to_str().ok()?).ok());
        if let Some(date) = date {
            self.skew_seconds.store((date.to_utc() - Utc::now()).num_seconds(), Ordering::Relaxed);
        }
    }

    fn unusable(&self, why: String) -> Error {
        Error::Setting { catalog: self.catalog.clone(), why }
    }

    /// Makes the error of an answer that is not there, 404.
    pub(super) fn refused(&self, url: &str, answer: &Answer) -> Error {
        let why = match ErrorModel::of(&answer.body) {
            Some(model) => excerpt(self.authorizer.redacted(model.message, &answer.sent).as_bytes()),
            None => "nothing there speaks Iceberg's REST protocol".to_owned(),
        };
        Error::Refused { location: url.to_owned(), status: answer.status, why }
    }

    async fn refusal(&self, status: u16, url: &str, what: &str, sent: &Sent, response: reqwest::Response) -> Error {
        let asked = asked_pause(response.headers());
        let body = body_of(response, REFUSAL_BYTES_MAX, url).await.unwrap_or_default();
        let model = ErrorModel::of(&body);
        let why = match &model {
            Some(model) if !model.message.is_empty() => model.message.clone(),
            _ => String::from_utf8_lossy(&body).into_owned(),
        };
        // A text that is cut first could keep a part of a secret.
        let mut why = excerpt(self.authorizer.redacted(why, sent).as_bytes());
        if why.is_empty() {
            why = "it gives no reason".to_owned();
        }
        if let Some(asked) = asked {
            why = format!("{why} (it asks to come back in {} s)", asked.as_secs());
        }
        match status {
            401 | 419 => Error::Unauthorized { catalog: self.catalog.clone(), why },
            403 => Error::Forbidden { catalog: self.catalog.clone(), what: what.to_owned(), why },
            400 if model.as_ref().is_some_and(ErrorModel::is_other_format) => not_iceberg(what),
            _ => Error::Refused { location: url.to_owned(), status, why },
        }
    }
}

/// Makes the error of a table in another format.
pub(super) fn not_iceberg(what: &str) -> Error {
    Error::Unsupported {
        table: what.trim_start_matches("table ").to_owned(),
        feature: "another format than Iceberg".to_owned(),
        next: "name its files instead: FROM 's3://BUCKET/FOLDER/'",
    }
}

/// Returns the pause that an answer asks for, in seconds. Dates are not understood.
fn asked_pause(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
