//! Wishes of a call for its session. They come in a header, as the members that a request of the HTTP API has beside its SQL.

use serde_json::Value;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use crate::door::SessionWishes;
use crate::http::{Problem, QueryRequest};

/// Name of the header. Its value is an object of JSON in ASCII.
const REQUEST: &str = "gust-request";

/// Wishes of a call.
#[derive(Debug, Clone, Default)]
pub(super) struct Wishes {
    pub(super) session: SessionWishes,
    /// True if statements are estimated instead of run.
    pub(super) dry_run: bool,
}

/// Reads the wishes of a call.
pub(super) fn wishes<T>(request: &Request<T>) -> Result<Wishes, Status> {
    of_header(request.metadata())
}

fn of_header(headers: &MetadataMap) -> Result<Wishes, Status> {
    let Some(value) = headers.get(REQUEST) else { return Ok(Wishes::default()) };
    let bad = |why: String| Status::invalid_argument(format!("header {REQUEST}: {why}"));
    let mut members: Value = serde_json::from_slice(value.as_bytes()).map_err(|error| bad(error.to_string()))?;
    let object = members.as_object_mut().ok_or_else(|| bad("it is no object".to_owned()))?;
    if object.insert("sql".to_owned(), "".into()).is_some() {
        return Err(bad("the SQL is in the call".to_owned()));
    }
    let mut request: QueryRequest = serde_json::from_value(members).map_err(|error| bad(error.to_string()))?;
    let of_problem = |problem: Problem| bad(problem.detail().to_owned());
    request.is_one_shot().map_err(of_problem)?;
    Ok(Wishes { session: request.wishes().map_err(of_problem)?, dry_run: request.dry_run })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;

    use super::*;

    fn read(value: &'static str) -> Result<Wishes, Status> {
        let mut headers = MetadataMap::new();
        headers.insert(REQUEST, value.parse().expect("ASCII"));
        of_header(&headers)
    }

    #[test]
    fn wishes_are_those_of_a_body_of_http() {
        let read_all = read(
            r#"{"catalog": "lake", "schema": "sales", "max_cost": "0.05", "timeout_seconds": 1.5, "labels": {"team": "\u00e9"}, "dry_run": true}"#,
        );
        let Wishes { session, dry_run } = read_all.expect("wishes");
        assert_eq!((session.catalog.as_deref(), session.schema.as_deref()), (Some("lake"), Some("sales")));
        assert_eq!(session.cap.map(gust_engine::money::Money::nano_dollars), Some(50_000_000));
        assert_eq!((session.timeout, dry_run), (Some(Duration::from_millis(1_500)), true));
        assert_eq!((session.labels[0].key.as_str(), session.labels[0].value.as_str()), ("team", "é"));
        for (value, words) in [
            ("", "EOF"),
            ("[]", "no object"),
            (r#"{"sql": "SELECT 1"}"#, "in the call"),
            (r#"{"max_csot": 1}"#, "unknown field"),
            (r#"{"timeout_seconds": -1}"#, "at most a day"),
            (r#"{"wait_seconds": 1}"#, "wait_seconds"),
            (r#"{"labels": {"a b": "c"}}"#, "labels"),
        ] {
            let refused = read(value).expect_err(value);
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert!(refused.message().contains(words), "{value}: {}", refused.message());
        }
        assert!(of_header(&MetadataMap::new()).is_ok_and(|wishes| !wishes.dry_run));
    }
}
