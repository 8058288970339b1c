//! Requests to a REST catalog: authorized, bounded, and sent again where that may help.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use reqwest::header::{DATE, ETAG, HeaderMap, RETRY_AFTER};
use reqwest::{Client, redirect};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::answer::{Body, ErrorModel, body_of, excerpt};
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
/// Header in which AWS's services tell the kind of a refusal.
const AWS_KIND: &str = "x-amzn-errortype";
const NO_SKEW: i64 = i64::MIN;
/// Most bytes of an answer, which is a page of names or shorter.
const BODY_BYTES_MAX: usize = 16 << 20;
/// Most bytes of an answer with the metadata of a table.
const TABLE_BYTES_MAX: usize = 256 << 20;
/// Answers longer than [`BODY_BYTES_MAX`] that are in memory at once. Others wait for them.
const LONG_BODIES_MAX: usize = 2;
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
    long_bodies: Arc<Semaphore>,
}

/// Answer with status 200, 204, 304 or 404.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
    pub(super) etag: Option<String>,
    sent: Sent,
    /// Slot of a long body, while it is in memory.
    _long: Option<OwnedSemaphorePermit>,
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
        Ok(Http {
            catalog: catalog.to_owned(),
            client,
            authorizer,
            skew_seconds: AtomicI64::new(NO_SKEW),
            long_bodies: Arc::new(Semaphore::new(LONG_BODIES_MAX)),
        })
    }

    /// Sends a GET. `what` is what it is for, in messages.
    ///
    /// # Errors
    /// Unauthorized (401), forbidden (403), refused, unreachable, corrupt (too long).
    pub(super) async fn get(&self, url: &str, headers: &[(&'static str, &str)], what: &str) -> Result<Answer> {
        self.get_at_most(BODY_BYTES_MAX, url, headers, what).await
    }

    /// Sends a GET as [`Self::get`] does, whose answer has the metadata of a table.
    ///
    /// # Errors
    /// Those of [`Self::get`].
    pub(super) async fn get_table(&self, url: &str, headers: &[(&'static str, &str)], what: &str) -> Result<Answer> {
        self.get_at_most(TABLE_BYTES_MAX, url, headers, what).await
    }

    async fn get_at_most(
        &self,
        bytes_max: usize,
        url: &str,
        headers: &[(&'static str, &str)],
        what: &str,
    ) -> Result<Answer> {
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
                    let bytes_max = if status == 404 { REFUSAL_BYTES_MAX } else { bytes_max };
                    let (body, _long) = self.body(response, bytes_max, url).await?;
                    return Ok(Answer { status, body, etag, sent, _long });
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

    /// Reads a body of at most so many bytes. A long one waits for a slot.
    async fn body(
        &self,
        response: reqwest::Response,
        bytes_max: usize,
        url: &str,
    ) -> Result<(Bytes, Option<OwnedSemaphorePermit>)> {
        let mut body = Body::new(response, bytes_max, url);
        if body.read_up_to(BODY_BYTES_MAX).await? {
            return Ok((body.into_bytes(), None));
        }
        let slot = Arc::clone(&self.long_bodies).acquire_owned().await.ok();
        body.read_up_to(bytes_max).await?;
        Ok((body.into_bytes(), slot))
    }

    /// Returns the seconds by which the catalog's clock is ahead of ours. None before its first answer.
    pub(super) fn skew_seconds(&self) -> Option<i64> {
        Some(self.skew_seconds.load(Ordering::Relaxed)).filter(|seconds| *seconds != NO_SKEW)
    }

    fn note_clock(&self, headers: &HeaderMap) {
        if let Some(date) = date(headers) {
            self.skew_seconds.store((date - Utc::now()).num_seconds(), Ordering::Relaxed);
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
        let kind = response.headers().get(AWS_KIND).and_then(|kind| kind.to_str().ok()).map(str::to_owned);
        let body = body_of(response, REFUSAL_BYTES_MAX, url).await.unwrap_or_default();
        let model = ErrorModel::of(&body).or_else(|| ErrorModel::of_aws(&body, kind));
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
            401 | 419 => Error::Unauthorized { catalog: self.catalog.clone(), status: 401, why },
            400 | 403 if self.authorizer.signs() && model.as_ref().is_some_and(ErrorModel::is_about_credentials) => {
                Error::Unauthorized { catalog: self.catalog.clone(), status, why }
            }
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

/// Returns the pause that an answer asks for: seconds, or a date, which counts from the answer's own.
fn asked_pause(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = DateTime::parse_from_rfc2822(text).ok()?.to_utc();
    let from = date(headers).unwrap_or_else(Utc::now);
    Some((until - from).to_std().unwrap_or_default())
}

fn date(headers: &HeaderMap) -> Option<DateTime<Utc>> {
    Some(DateTime::parse_from_rfc2822(headers.get(DATE)?.to_str().ok()?).ok()?.to_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_until_a_date() {
        let asked = |retry_after: &str, date: &str| {
            let headers = [(RETRY_AFTER, retry_after), (DATE, date)].into_iter().filter(|(_, text)| !text.is_empty());
            let headers = headers.map(|(name, text)| (name, text.parse().expect("a header"))).collect();
            asked_pause(&headers).map(|pause| pause.as_secs())
        };
        let date = "Sun, 29 Nov 2026 21:00:00 GMT";
        assert_eq!(asked("7", ""), Some(7));
        assert_eq!(asked("Sun, 29 Nov 2026 21:00:05 GMT", date), Some(5));
        assert_eq!(asked("Sun, 29 Nov 2026 20:00:00 GMT", date), Some(0), "it is over");
        assert_eq!(asked("Sat, 01 Jan 2000 00:00:00 GMT", ""), Some(0), "by our own clock");
        assert_eq!(asked("soon", date), None);
        assert_eq!(asked("", date), None);
    }
}
