//! HTTP client of a store that counts refusals, and keeps what they quote from their reader. object_store tries refused
//! requests again by itself and tells nobody.

use std::sync::Arc;

use async_trait::async_trait;
use object_store::client::{HttpClient, HttpError, HttpRequest, HttpResponse, HttpService};

use super::Pace;
use super::refused::without_quotes;

/// Statuses that ask for fewer requests: S3's SlowDown, and Too Many Requests of stores like it.
const SLOW_DOWN: [u16; 2] = [503, 429];

/// Header of the session token. A refusal may quote it.
const TOKEN: &str = "x-amz-security-token";

/// Returns a client that notes refusals in a pace, and leaves in their bodies the code and the message.
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
        let token = request.headers().get(TOKEN).cloned();
        let response = self.client.execute(request).await?;
        if SLOW_DOWN.contains(&response.status().as_u16()) {
            self.pace.note_slow_down();
        }
        let token = token.as_ref().and_then(|token| token.to_str().ok());
        Ok(without_quotes(response, token).await)
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

    /// Service that quotes the token of each request as S3 does.
    #[derive(Debug)]
    struct Quotes;

    #[async_trait]
    impl HttpService for Quotes {
        async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
            let token = request.headers()[TOKEN].to_str().expect("a text");
            let body = format!("<Error><Message>no {token}</Message><Token-0>{token}</Token-0></Error>");
            let mut response = HttpResponse::new(body.into());
            *response.status_mut() = 400.try_into().expect("a status");
            Ok(response)
        }
    }

    #[tokio::test]
    async fn a_refusal_does_not_show_the_token_that_was_sent() {
        let watched = watched(HttpClient::new(Quotes), Arc::default());
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        request.headers_mut().insert(TOKEN, "tok3n".parse().expect("a header"));
        let body = watched.execute(request).await.expect("an answer").into_body().bytes().await.expect("a body");
        assert_eq!(body, "<Error><Message>no (hidden)</Message></Error>");
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
