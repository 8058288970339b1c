//! Identity of each request, found before any route is.
//!
//! A secret comes as `Authorization: Bearer`, or as the password of `Basic` for clients that know no other way. Only the
//! health of the server, and the words of its API, are told to everybody.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::OPEN;
use super::held::holding;
use super::problem::Problem;
use crate::connections::LetIn;
use crate::door::Door;
use crate::tokens::{NoUser, Principal};

/// Base64 of which some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Returns the secret of a request.
pub(crate) fn secret(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, given) = value.to_str().ok()?.split_once(' ')?;
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Some(given.trim().to_owned()),
        "basic" => {
            let decoded = String::from_utf8(BASE64.decode(given.trim()).ok()?).ok()?;
            decoded.split_once(':').map(|(_, password)| password.to_owned())
        }
        _ => None,
    }
}

/// Returns the user of a request.
async fn principal(door: &Door, headers: &HeaderMap) -> Result<Principal, Problem> {
    if !door.has_users() {
        return Ok(Principal::default());
    }
    let refused = |detail: &str, hint: &str| Problem::new(StatusCode::UNAUTHORIZED, "token", detail).with_hint(hint);
    let Some(secret) = secret(headers) else {
        return Err(refused("the request has no token", "send `Authorization: Bearer TOKEN`"));
    };
    door.principal(&secret).await.map_err(|why| match why {
        // A client would throw a good token away.
        NoUser::NoKeys => Problem::missing_now("keys", why.to_string()),
        NoUser::Unknown | NoUser::Expired | NoUser::Refused(_) => refused(&why.to_string(), why.next_step()),
    })
}

/// Gives each request its user, or refuses it.
pub(super) async fn authenticate(State(door): State<Arc<Door>>, mut request: Request, next: Next) -> Response {
    if OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    match principal(&door, request.headers()).await {
        Ok(principal) => {
            let under_way = request.extensions().get::<LetIn>().map(LetIn::begin);
            request.extensions_mut().insert(principal);
            // It is under way until its last byte is sent.
            holding(next.run(request).await, under_way)
        }
        Err(problem) => {
            let mut response = problem.into_response();
            if response.status() == StatusCode::UNAUTHORIZED {
                let challenge = HeaderValue::from_static("Bearer realm=\"gust\"");
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_comes_as_a_bearer_or_as_a_password() {
        for (values, expect) in [
            (vec!["Bearer gust_abc"], Some("gust_abc")),
            (vec!["bearer  gust_abc "], Some("gust_abc")),
            (vec!["Basic YWRhOmd1c3RfYWJj"], Some("gust_abc")),
            (vec!["Basic YWRhOmd1c3RfYWI="], Some("gust_ab")),
            (vec!["Basic YWRhOmd1c3RfYWI"], Some("gust_ab")),
            (vec!["Basic YWRh"], None),
            (vec!["Basic !!!"], None),
            (vec!["Basic"], None),
            (vec!["gust_abc"], None),
            (vec!["Digest gust_abc"], None),
            (vec!["Bearer a", "Bearer b"], None),
            (vec![], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append(AUTHORIZATION, HeaderValue::from_static(value));
            }
            assert_eq!(secret(&headers).as_deref(), expect, "{values:?}");
        }
    }
}
