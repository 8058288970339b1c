//! Checks of each request before its route: it is for this server, and no web page of another origin sent it.
//!
//! A browser sends requests to loopback for any page that asks it to, and a page's own name may lead there (DNS rebinding).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{HOST, HeaderValue, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::HEALTH;
use super::problem::Problem;

/// Hosts by which the server may be called, in small letters.
#[derive(Debug)]
pub(crate) struct Hosts(BTreeSet<String>);

impl Hosts {
    /// Lists the names of a server that listens at an address, and the configured ones.
    pub(crate) fn of<'a>(address: SocketAddr, configured: impl IntoIterator<Item = &'a str>) -> Self {
        let written = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let mut hosts: BTreeSet<String> = configured.into_iter().map(str::to_ascii_lowercase).collect();
        if !address.ip().is_unspecified() {
            hosts.insert(written(address.ip()));
        }
        if address.ip().is_loopback() {
            hosts.extend(["localhost", "127.0.0.1", "[::1]"].map(str::to_owned));
        }
        Self(hosts)
    }

    /// Checks the request's host, and its origin if it has one.
    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let misdirected = |detail: String| {
            Problem::new(StatusCode::MISDIRECTED_REQUEST, "host", detail)
                .with_hint("call the server by its address, or have the name added to `hosts` under [server]")
        };
        let host = authority(uri, headers).ok_or_else(|| misdirected("the request names no host".to_owned()))?;
        if !self.0.contains(&host.host().to_ascii_lowercase()) {
            return Err(misdirected(format!("`{}` is not a name of this server", host.host())));
        }
        let foreign = || Problem::new(StatusCode::FORBIDDEN, "origin", "a page of another origin sent the request");
        let mut origins = headers.get_all(ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => Ok(()),
            (Some(origin), None) if is_same(origin, &host) => Ok(()),
            _ => Err(foreign()),
        }
    }
}

/// Returns the authority that the request names. HTTP/2 has it in the URI; both must agree.
fn authority(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    let mut values = headers.get_all(HOST).iter();
    let named = match (values.next(), values.next()) {
        (None, _) => None,
        (Some(host), None) => Some(host.to_str().ok()?.parse::<Authority>().ok()?),
        _ => return None,
    };
    let host = match (uri.authority(), named) {
        (Some(uri), Some(named)) if *uri != named => return None,
        (Some(uri), _) => uri.clone(),
        (None, named) => named?,
    };
    // An authority with a user is no host.
    (!host.as_str().contains('@')).then_some(host)
}

fn is_same(origin: &HeaderValue, host: &Authority) -> bool {
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    origin.is_some_and(|(scheme, of)| ["http", "https"].contains(&scheme) && of.eq_ignore_ascii_case(host.as_str()))
}

/// Refuses HTTP/1.0 where rows are answered: its bodies end with the connection, so that a cut result looks like a whole one.
fn tells_cut_bodies(request: &Request) -> Result<(), Problem> {
    if request.version() >= Version::HTTP_11 || request.uri().path() == HEALTH {
        return Ok(());
    }
    let detail = "a client of HTTP/1.0 cannot tell a cut result from a whole one";
    Err(Problem::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "version", detail)
        .with_hint("send HTTP/1.1 or HTTP/2; in nginx: proxy_http_version 1.1"))
}

/// Lets a request through that passes the checks.
pub(super) async fn guard(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    let checked = hosts.check(request.uri(), request.headers());
    let mut response = match checked.and_then(|()| tells_cut_bodies(&request)) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    // A browser does not take rows for a page.
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(listen: &str, uri: &str, headers: &[(&'static str, &str)]) -> u16 {
        let hosts = Hosts::of(listen.parse().expect("an address"), ["Gust.Example"]);
        let headers = headers.iter().map(|(name, value)| {
            (axum::http::HeaderName::from_static(name), HeaderValue::try_from(*value).expect("a value"))
        });
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value);
        }
        match hosts.check(&uri.parse().expect("a URI"), &map) {
            Ok(()) => 200,
            Err(problem) => problem.into_response().status().as_u16(),
        }
    }

    #[test]
    fn a_request_names_the_server_and_no_other_origin() {
        let local = "127.0.0.1:8123";
        for (host, expect) in [
            ("127.0.0.1:8123", 200),
            ("localhost:8123", 200),
            ("LOCALHOST", 200),
            ("[::1]:8123", 200),
            ("gust.example", 200),
            ("evil.example", 421),
            ("evil.example:8123", 421),
            ("127.0.0.1.evil.example", 421),
            ("localhost.evil.example:8123", 421),
            ("user@localhost", 421),
            ("evil.example@localhost", 421),
            ("", 421),
        ] {
            assert_eq!(check(local, "/v1/query", &[("host", host)]), expect, "{host}");
        }
        assert_eq!(check(local, "/v1/query", &[]), 421);
        assert_eq!(check(local, "/v1/query", &[("host", "localhost"), ("host", "evil.example")]), 421);
        assert_eq!(check(local, "http://evil.example/v1/query", &[("host", "localhost")]), 421);
        assert_eq!(check(local, "http://localhost:8123/v1/query", &[]), 200, "HTTP/2");
        assert_eq!(check("0.0.0.0:8123", "/", &[("host", "localhost")]), 421, "not on loopback");
        assert_eq!(check("0.0.0.0:8123", "/", &[("host", "gust.example:443")]), 200);
        assert_eq!(check("10.0.0.7:8123", "/", &[("host", "10.0.0.7:8123")]), 200);
        for (origin, expect) in [
            ("http://localhost:8123", 200),
            ("https://localhost:8123", 200),
            ("http://localhost:9999", 403),
            ("http://localhost", 403),
            ("http://evil.example", 403),
            ("ftp://localhost:8123", 403),
            ("null", 403),
            ("", 403),
        ] {
            let headers = [("host", "localhost:8123"), ("origin", origin)];
            assert_eq!(check(local, "/v1/query", &headers), expect, "{origin}");
        }
    }
}
