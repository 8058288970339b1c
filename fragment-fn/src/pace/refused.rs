//! Body of a store's refusal, without what the store quotes.
//!
//! S3 answers a session token that has ended with the token itself (`<Token-0>`), and a wrong signature with the headers
//! that were signed. object_store puts the body into its error, and so it would reach messages, logs and records.

use futures::StreamExt;
use object_store::client::{HttpResponse, HttpResponseBody};

/// Bytes of a refusal that are read. S3's have a few hundred, and some thousands where they quote a request.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Bytes of a code or a message that are kept.
const FIELD_BYTES_MAX: usize = 1_000;

/// Returns a refusal with the code and the message of its body only, and other answers as they are. `token` is hidden
/// in the message, too.
pub(super) async fn without_quotes(response: HttpResponse, token: Option<&str>) -> HttpResponse {
    if !(response.status().is_client_error() || response.status().is_server_error()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let mut read = Vec::new();
    let mut pieces = body.bytes_stream();
    // The status says enough where the body breaks off.
    while let Some(Ok(piece)) = pieces.next().await {
        let room = BODY_BYTES_MAX - read.len();
        read.extend_from_slice(&piece[..piece.len().min(room)]);
        if read.len() == BODY_BYTES_MAX {
            break;
        }
    }
    parts.headers.remove("content-length");
    HttpResponse::from_parts(parts, HttpResponseBody::from(kept(&String::from_utf8_lossy(&read), token)))
}

fn kept(body: &str, token: Option<&str>) -> String {
    let field = |name: &str| {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let (_, rest) = body.split_once(&open)?;
        let (text, _) = rest.split_once(&close)?;
        let token = token.filter(|token| !token.is_empty());
        let mut text = token.map_or(text.to_owned(), |token| text.replace(token, "(hidden)"));
        text.truncate(text.floor_char_boundary(FIELD_BYTES_MAX));
        Some(format!("{open}{text}{close}"))
    };
    let fields: String = ["Code", "Message"].into_iter().filter_map(field).collect();
    if fields.is_empty() { fields } else { format!("<Error>{fields}</Error>") }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn told(status: u16, body: &str) -> String {
        let mut response = HttpResponse::new(body.to_owned().into());
        *response.status_mut() = status.try_into().expect("a status");
        let told = without_quotes(response, Some("tok3n")).await;
        assert_eq!(told.status().as_u16(), status);
        String::from_utf8(told.into_body().bytes().await.expect("a body").to_vec()).expect("UTF-8")
    }

    #[tokio::test]
    async fn a_refusal_keeps_its_code_and_its_message() {
        let ended = "<?xml version=\"1.0\"?>\n<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message>\
             <Token-0>tok3n</Token-0><RequestId>4442587FB7D0A2F9</RequestId></Error>";
        let kept = "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>";
        assert_eq!(told(400, ended).await, kept);
        assert_eq!(told(503, ended).await, kept);
        assert_eq!(told(200, ended).await, ended, "rows of a query");
        let quoted =
            "<Error><Code>X</Code><Message>no tok3n</Message><CanonicalRequest>tok3n</CanonicalRequest></Error>";
        assert_eq!(told(403, quoted).await, "<Error><Code>X</Code><Message>no (hidden)</Message></Error>");
        for other in ["", "<html>tok3n</html>", "{\"message\": \"tok3n\"}", "<Code>tok3n"] {
            assert_eq!(told(403, other).await, "", "{other}");
        }
        let long = format!("<Code>{}</Code>{}", "ü".repeat(BODY_BYTES_MAX / 4), "x".repeat(BODY_BYTES_MAX));
        assert_eq!(told(500, &long).await, format!("<Error><Code>{}</Code></Error>", "ü".repeat(FIELD_BYTES_MAX / 2)));
    }
}
