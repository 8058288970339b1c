//! HTTP client of a store that counts refusals. object_store tries refused requests again by itself and tells nobody.

use std::sync::Arc;

use async_trait::async_trait;
use object_store::client::{HttpClient, HttpError, HttpRequest, HttpResponse, HttpService};

use super::Pace;

/// Statuses that ask for fewer requests: S3's SlowDown, and Too Many Requests of stores like it.
const SLOW_DOWN: [u16; 2] = [503, 429];

/// Returns a client that notes refusals in a pace.
pub(crate) fn watched(client: HttpClient, pace: Arc<Pace>) -> HttpClient {
    HttpClient::new(WatchedHttp { client, pace })
}

#[derive(Debug)]
struct WatchedHttp {
    client: HttpClient,
    pace: Arc<Pace>,
}

#[async_trait]
impl HttpService for WatchedHttp {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.client.execute(request).await?;
        if SLOW_DOWN.contains(&response.status().as_u16()) {
            self.pace.note_slow_down();
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use object_store::client::HttpRequestBody;

    use super::*;

    /// Service that answers each request with one status.
    #[derive(Debug)]
    struct Answers(u16);

    #[async_trait]
    impl HttpService for Answers {
        async fn call(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
            let mut response = HttpResponse::new(String::new().into());
            *response.status_mut() = self.0.try_into().expect("a status");
            Ok(response)
        }
    }

    #[tokio::test]
    async fn only_refusals_for_haste_are_counted() {
        for (status, counted) in [(200, 0), (206, 0), (404, 0), (412, 0), (429, 1), (500, 0), (503, 1)] {
            let pace = Arc::<Pace>::default();
            let watched = WatchedHttp { client: HttpClient::new(Answers(status)), pace: Arc::clone(&pace) };
            let response = watched.call(HttpRequest::new(HttpRequestBody::empty())).await.expect("an answer");
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(pace.slow_downs(), counted, "{status}");
        }
    }
}
