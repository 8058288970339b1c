//! Requests to answers.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Request, Response};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::access::Arrived;
use super::tables::FoundTable;
use super::{Access, Lending, Rules, State};
use crate::s3::{ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY};

const BODY_BYTES_MAX: usize = 16 << 20;

/// Answer before it is written.
struct Reply {
    status: u16,
    json: Value,
    headers: Vec<(&'static str, String)>,
}

impl Reply {
    fn ok(json: Value) -> Self {
        Self { status: 200, json, headers: Vec::new() }
    }

    fn error(status: u16, kind: &str, message: impl Into<String>) -> Self {
        let json = json!({"error": {"message": message.into(), "type": kind, "code": status}});
        Self { status, json, headers: Vec::new() }
    }
}

pub(super) async fn answer(state: Arc<State>, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY_BYTES_MAX).await.unwrap_or_default();
    let rules = state.rules().clone();
    tokio::time::sleep(rules.delay).await;
    let path_and_query = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let fault = {
        let mut rules = state.rules();
        let fault = rules.faults.iter_mut().find(|fault| fault.times > 0 && path_and_query.contains(&fault.path_part));
        fault.map(|fault| {
            fault.times -= 1;
            fault.clone()
        })
    };
    if let Some(fault) = fault {
        state.note(&parts.method, &parts.uri, fault.status);
        *state.fired.lock().unwrap_or_else(PoisonError::into_inner).entry(fault.status).or_default() += 1;
        let mut response = Response::builder().status(fault.status).header("content-type", "application/json");
        if let Some(seconds) = fault.retry_after {
            response = response.header("retry-after", seconds);
        }
        let authorization =
            parts.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let body = fault.body.replace("{authorization}", authorization);
        return response.body(Body::from(body)).expect("an answer");
    }
    let arrived = Arrived { method: &parts.method, uri: &parts.uri, headers: &parts.headers, body: &body };
    let reply = match parts.uri.path() == "/v1/oauth/tokens" {
        true => token(&state, &rules, &body),
        false => match rules.access.check(&state.tokens, &arrived, rules.now()) {
            Ok(()) => routed(&state, &rules, &parts, &body).await,
            // AWS refuses a signature before the catalog sees the request.
            Err((403, why)) => {
                let headers = vec![("x-amzn-errortype", "InvalidSignatureException".to_owned())];
                Reply { status: 403, json: json!({"message": why}), headers }
            }
            Err((status, why)) => Reply::error(status, "NotAuthorizedException", why),
        },
    };
    state.note(&parts.method, &parts.uri, reply.status);
    let mut response = Response::builder().status(reply.status).header("content-type", "application/json");
    response = response.header("date", rules.now().format("%a, %d %b %Y %H:%M:%S GMT").to_string());
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    let body = if [204, 304].contains(&reply.status) { Body::empty() } else { Body::from(reply.json.to_string()) };
    response.body(body).expect("an answer")
}

fn token(state: &State, rules: &Rules, body: &[u8]) -> Reply {
    let form: BTreeMap<String, String> = form_urlencoded::parse(body).into_owned().collect();
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let Access::OAuth2 { client_id, client_secret, life } = &rules.access else {
        return Reply { status: 400, json: json!({"error": "unsupported_grant_type"}), headers: Vec::new() };
    };
    let is_known = field("client_id") == client_id && field("client_secret") == client_secret;
    if field("grant_type") != "client_credentials" || !is_known {
        let json = json!({"error": "invalid_client", "error_description": format!("no client with {}", field("client_secret"))});
        return Reply { status: 401, json, headers: Vec::new() };
    }
    let token = state.tokens.give(*life);
    Reply::ok(json!({"access_token": token, "token_type": "bearer", "expires_in": life.as_secs_f64(),
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}))
}

async fn routed(state: &State, rules: &Rules, parts: &axum::http::request::Parts, body: &Bytes) -> Reply {
    let query: BTreeMap<String, String> =
        form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let path = parts.uri.path().strip_prefix("/v1/").unwrap_or_default();
    if path == "config" {
        return config(rules, &query);
    }
    let prefix = if rules.prefix.is_empty() { String::new() } else { format!("{}/", rules.prefix) };
    let Some(path) = path.strip_prefix(&prefix) else {
        return Reply { status: 404, json: json!("nothing is here"), headers: Vec::new() };
    };
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let levels = |text: &str| -> Vec<String> { decoded(text).split('\u{1f}').map(str::to_owned).collect() };
    let segments: Vec<&str> = path.split('/').collect();
    let json: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let request = TableRequest { state, rules, parts, json: &json };
    let done = match (parts.method.as_str(), segments.as_slice()) {
        ("GET", ["namespaces"]) => {
            let parent = query.get("parent").filter(|parent| !parent.is_empty());
            let parent: Vec<String> =
                parent.map(|p| p.split('\u{1f}').map(str::to_owned).collect()).unwrap_or_default();
            namespaces(state, rules, &query, &parent).await
        }
        ("POST", ["namespaces"]) => {
            let names = json["namespace"].as_array().into_iter().flatten();
            let namespace: Vec<String> = names.filter_map(|name| Some(name.as_str()?.to_owned())).collect();
            let reply = json!({"namespace": namespace, "properties": {}});
            state.tables.create_namespace(&namespace).await.map(|()| Reply::ok(reply))
        }
        (method @ ("GET" | "HEAD"), ["namespaces", namespace]) => {
            let namespace = levels(namespace);
            state.tables.has_namespace(&namespace).await.map(|is_there| match is_there {
                true if method == "HEAD" => Reply { status: 204, ..Reply::ok(Value::Null) },
                true => Reply::ok(json!({"namespace": namespace, "properties": {}})),
                false => no_namespace(&namespace),
            })
        }
        ("GET", ["namespaces", namespace, "tables"]) => tables(state, rules, &query, &levels(namespace)).await,
        ("POST", ["namespaces", namespace, "tables"]) => {
            let namespace = levels(namespace);
            match state.tables.has_namespace(&namespace).await {
                Ok(false) => Ok(no_namespace(&namespace)),
                _ => match state.tables.create(&namespace, &json).await {
                    Ok(table) => Ok(request.loaded(&table)),
                    Err(error) => Err(error),
                },
            }
        }
        (method, ["namespaces", namespace, "tables", name]) => {
            request.table(method, &levels(namespace), &decoded(name)).await
        }
        ("GET", ["namespaces", namespace, "tables", name, "credentials"]) => {
            request.credentials(&levels(namespace), &decoded(name)).await
        }
        _ => Ok(Reply::error(404, "NotFoundException", "there is no such route")),
    };
    done.unwrap_or_else(|error| Reply::error(400, "BadRequestException", format!("{error:#}")))
}

fn config(rules: &Rules, query: &BTreeMap<String, String>) -> Reply {
    match query.get("warehouse").map(String::as_str) {
        Some("wrong") => Reply::error(404, "NoSuchWarehouseException", "Warehouse wrong does not exist"),
        _ if rules.prefix.is_empty() => Reply::ok(json!({"defaults": {}, "overrides": {}})),
        _ => Reply::ok(json!({"defaults": {}, "overrides": {"prefix": rules.prefix}})),
    }
}

fn no_namespace(namespace: &[String]) -> Reply {
    Reply::error(404, "NoSuchNamespaceException", format!("Namespace does not exist: {}", namespace.join(".")))
}

/// Cuts a list to the page that is asked for. The token is the number of the first name.
fn page<T: Clone>(all: &[T], rules: &Rules, query: &BTreeMap<String, String>) -> (Vec<T>, Option<String>) {
    let Some(token) = query.get("pageToken") else { return (all.to_vec(), None) };
    let first: usize = token.parse().unwrap_or(0);
    let asked: usize = query.get("pageSize").and_then(|size| size.parse().ok()).unwrap_or(usize::MAX);
    let next = first.saturating_add(asked.min(rules.page_names)).min(all.len());
    let token = (next < all.len()).then(|| next.to_string());
    (all[first.min(next)..next].to_vec(), token)
}

async fn namespaces(
    state: &State,
    rules: &Rules,
    query: &BTreeMap<String, String>,
    parent: &[String],
) -> anyhow::Result<Reply> {
    if !parent.is_empty() && !state.tables.has_namespace(parent).await? {
        return Ok(no_namespace(parent));
    }
    let mut all = state.tables.namespaces().await?;
    all.retain(|levels| levels.len() == parent.len() + 1 && levels.starts_with(parent));
    let (names, token) = page(&all, rules, query);
    Ok(Reply::ok(json!({"namespaces": names, "next-page-token": token})))
}

async fn tables(
    state: &State,
    rules: &Rules,
    query: &BTreeMap<String, String>,
    namespace: &[String],
) -> anyhow::Result<Reply> {
    if !state.tables.has_namespace(namespace).await? {
        return Ok(no_namespace(namespace));
    }
    let (names, token) = page(&state.tables.tables(namespace).await?, rules, query);
    let names: Vec<Value> = names.into_iter().map(|name| json!({"namespace": namespace, "name": name})).collect();
    Ok(Reply::ok(json!({"identifiers": names, "next-page-token": token})))
}

struct TableRequest<'a> {
    state: &'a State,
    rules: &'a Rules,
    parts: &'a axum::http::request::Parts,
    json: &'a Value,
}

impl TableRequest<'_> {
    async fn table(&self, method: &str, namespace: &[String], name: &str) -> anyhow::Result<Reply> {
        let tables = &self.state.tables;
        let missing = || {
            Reply::error(404, "NoSuchTableException", format!("Table does not exist: {}.{name}", namespace.join(".")))
        };
        let no_content = || Reply { status: 204, ..Reply::ok(Value::Null) };
        match method {
            "GET" => Ok(match tables.table(namespace, name).await? {
                Some(table) => {
                    let known = self.parts.headers.get("if-none-match").and_then(|etag| etag.to_str().ok());
                    match known == Some(&etag(&table)) {
                        true => Reply { status: 304, ..Reply::ok(Value::Null) },
                        false => self.loaded(&table),
                    }
                }
                None => missing(),
            }),
            "HEAD" => Ok(tables.table(namespace, name).await?.map_or_else(missing, |_| no_content())),
            "POST" => Ok(match tables.commit(namespace, name, self.json).await? {
                Some(table) => self.loaded(&table),
                None => Reply::error(409, "CommitFailedException", "a requirement does not hold"),
            }),
            "DELETE" => Ok(if tables.drop_table(namespace, name).await? { no_content() } else { missing() }),
            _ => Ok(Reply::error(405, "BadRequestException", "there is no such verb")),
        }
    }

    async fn credentials(&self, namespace: &[String], name: &str) -> anyhow::Result<Reply> {
        let table = self.state.tables.table(namespace, name).await?;
        Ok(match (table, &self.rules.lends) {
            (Some(table), Some(lending)) => Reply::ok(json!({"storage-credentials": [lent(lending, &table)]})),
            _ => Reply::error(404, "NoSuchTableException", "there are no credentials of it"),
        })
    }

    fn loaded(&self, table: &FoundTable) -> Reply {
        let wants =
            self.parts.headers.get("x-iceberg-access-delegation").is_some_and(|how| how == "vended-credentials");
        let mut json =
            json!({"metadata-location": table.location, "metadata": table.metadata, "config": self.rules.table_config});
        if let (Some(lending), true) = (&self.rules.lends, wants) {
            json["storage-credentials"] = json!([lent(lending, table)]);
        }
        Reply { headers: vec![("etag", etag(table))], ..Reply::ok(json) }
    }
}

fn etag(table: &FoundTable) -> String {
    format!("\"{:08x}\"", crc32fast::hash(table.location.as_bytes()))
}

fn lent(lending: &Lending, table: &FoundTable) -> Value {
    let location = table.metadata["location"].as_str().unwrap_or_default();
    let prefix = lending.prefix.clone().unwrap_or_else(|| format!("{location}/"));
    let until = SystemTime::now() + lending.life;
    let key_id = lending.keys.lend(ACCESS_KEY_ID, location, until);
    let until_ms = until.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis();
    json!({"prefix": prefix, "config": {
        "s3.access-key-id": key_id, "s3.secret-access-key": SECRET_ACCESS_KEY, "s3.session-token": "lent-session-token",
        "s3.session-token-expires-at-ms": until_ms.to_string(), "client.region": REGION,
    }})
}
