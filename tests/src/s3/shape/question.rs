//! The question that a request asks, read off its head before anything is done about it.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::extract::Request as HttpRequest;
use axum::http::{Method, header};
use object_store::path::Path;

use crate::s3::requests::{Arrived, bucket_of};
use crate::s3::{BUCKET, Operation};

/// Head of a request, as the shaping sees it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RequestHead {
    pub(super) operation: Operation,
    pub(super) bucket: String,
    /// Key of the object, or prefix of the listing.
    pub(super) key: String,
    /// Access key that the request claims to be signed with.
    pub(super) identity: String,
    /// Length of the request's own body.
    pub(super) body_bytes: u64,
    /// Hash that is equal for requests that ask for the same.
    pub(super) hash: u64,
    pub(super) arrived: Arrived,
}

impl RequestHead {
    pub(super) fn of(request: &HttpRequest) -> Self {
        let header = |name: header::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
        let query = request.uri().query().unwrap_or_default();
        let parameters: Vec<(String, String)> =
            url::form_urlencoded::parse(query.as_bytes()).map(|(name, value)| (name.into(), value.into())).collect();
        let parameter =
            |name: &str| parameters.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
        let path = request.uri().path().trim_start_matches('/');
        let bucket = bucket_of(path).to_owned();
        let path = path.strip_prefix(bucket.as_str()).unwrap_or(path).trim_start_matches('/');
        let key = Path::from_url_path(path).map_or_else(|_| path.to_owned(), |key| key.to_string());
        let operation = match *request.method() {
            Method::HEAD => Operation::Head,
            Method::PUT if parameter("partNumber").is_some() => Operation::UploadPart,
            Method::PUT if request.headers().contains_key("x-amz-copy-source") => Operation::Copy,
            Method::PUT => Operation::Put,
            Method::POST if parameter("delete").is_some() => Operation::DeleteMany,
            Method::POST if parameter("uploads").is_some() => Operation::CreateMultipart,
            Method::POST => Operation::CompleteMultipart,
            Method::DELETE if parameter("uploadId").is_some() => Operation::AbortMultipart,
            Method::DELETE => Operation::Delete,
            _ if key.is_empty() => Operation::List,
            _ => Operation::Get,
        };
        let key = if operation == Operation::List { parameter("prefix").unwrap_or_default().to_owned() } else { key };
        let signed = header(header::AUTHORIZATION).and_then(|value| value.split("Credential=").nth(1));
        let credential = signed.or_else(|| parameter("X-Amz-Credential")).unwrap_or_default();
        let identity = credential.split('/').next().unwrap_or_default().to_owned();
        let body_bytes = header(header::CONTENT_LENGTH).and_then(|length| length.parse().ok()).unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        (operation, &key, header(header::RANGE)).hash(&mut hasher);
        // The first bucket's requests have the fates that they had when it was the only one.
        if bucket != BUCKET {
            bucket.hash(&mut hasher);
        }
        let arrived = Arrived::of(request.extensions());
        Self { operation, bucket, key, identity, body_bytes, hash: hasher.finish(), arrived }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    #[track_caller]
    fn check(method: &str, uri: &str, headers: &[(&str, &str)], expect: (Operation, &str, &str, u64)) {
        let mut request = axum::http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let RequestHead { operation, key, identity, body_bytes, .. } =
            RequestHead::of(&request.body(Body::empty()).unwrap());
        assert_eq!((operation, key.as_str(), identity.as_str(), body_bytes), expect, "{method} {uri}");
    }

    #[test]
    fn verb_key_and_identity_are_read_off_the_head() {
        let signed = ("authorization", "AWS4-HMAC-SHA256 Credential=me/20260101/us-east-1/s3/aws4_request, Signed");
        check("GET", "/gust-test/a/b", &[signed], (Operation::Get, "a/b", "me", 0));
        check("GET", "/gust-test/a?X-Amz-Credential=me%2F2026%2Fx", &[], (Operation::Get, "a", "me", 0));
        check("GET", "/gust-test?list-type=2&prefix=t%2Fx", &[signed], (Operation::List, "t/x", "me", 0));
        check("HEAD", "/gust-test/a", &[], (Operation::Head, "a", "", 0));
        check("PUT", "/gust-test/a", &[("content-length", "12")], (Operation::Put, "a", "", 12));
        check("PUT", "/gust-test/a", &[("x-amz-copy-source", "/b")], (Operation::Copy, "a", "", 0));
        check("PUT", "/gust-test/a?partNumber=1&uploadId=u", &[], (Operation::UploadPart, "a", "", 0));
        check("POST", "/gust-test/a?uploads", &[], (Operation::CreateMultipart, "a", "", 0));
        check("POST", "/gust-test/a?uploadId=u", &[], (Operation::CompleteMultipart, "a", "", 0));
        check("DELETE", "/gust-test/a?uploadId=u", &[], (Operation::AbortMultipart, "a", "", 0));
        check("DELETE", "/gust-test/a", &[], (Operation::Delete, "a", "", 0));
        check("POST", "/gust-test?delete", &[], (Operation::DeleteMany, "", "", 0));
    }
}
