use std::collections::BTreeMap;
use std::sync::Arc;

use super::answer::{StorageCredential, excerpt};
use super::auth::Authorizer;
use super::lent::credentials;
use super::*;

fn config(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn stores() -> CatalogStores {
    CatalogStores::new(|_| Err("no store is asked for".into()))
}

fn settings(uri: &str, allow_http: bool, auth: RestAuth) -> RestSettings {
    let (name, warehouse, grants) = ("lake".to_owned(), None, Grants::default());
    RestSettings { name, uri: uri.to_owned(), warehouse, allow_http, auth, grants }
}

#[test]
fn a_dotted_name_may_be_nested_or_one_name_with_dots() {
    assert_eq!(spellings("a"), [["a"]]);
    assert_eq!(spellings("a.b"), [vec!["a", "b"], vec!["a.b"]]);
}

#[test]
fn credentials_travel_unencrypted_only_where_that_is_allowed() {
    let secret = || SecretPlace::Text(SecretText::new("hunter2"));
    let oauth2 = |uri: Option<&str>| RestAuth::OAuth2 {
        client_id: None,
        client_secret: secret(),
        uri: uri.map(str::to_owned),
        scope: None,
    };
    let check = |uri: &str, allow_http, auth: RestAuth, expect: Option<&str>| {
        let made = RestCatalog::new(settings(uri, allow_http, auth), stores());
        assert_eq!(made.err().map(|error| error.to_string()).as_deref(), expect, "{uri}");
    };
    let plain = "catalog lake: credentials would travel unencrypted to ";
    check("http://c", false, RestAuth::None, None);
    check("http://c", true, RestAuth::Token(secret()), None);
    check("https://c", false, RestAuth::Token(secret()), None);
    check("http://c", false, RestAuth::Token(secret()), Some(&format!("{plain}http://c")));
    check("https://c", false, oauth2(Some("HTTP://t")), Some(&format!("{plain}https://c")));
    check("https://c", false, oauth2(Some("https://t")), None);
    let more = "catalog lake: its address has a user, a password or a query; credentials have keys of their own";
    check("https://u:hunter2@c", true, RestAuth::None, Some(more));
    check("https://c?token=hunter2", true, RestAuth::None, Some(more));
    let more = more.replace("address", "token endpoint");
    check("https://c", true, oauth2(Some("https://u:hunter2@t")), Some(&more));
    check("https://c", true, oauth2(Some("https://t?key=hunter2")), Some(&more));
    check("ftp://c", true, RestAuth::None, Some("catalog lake: ftp://c is no http:// or https:// address"));
}

#[test]
fn nothing_of_a_secret_shows() {
    let auth = RestAuth::OAuth2 {
        client_id: Some("me".to_owned()),
        client_secret: SecretPlace::Text(SecretText::new("hunter2")),
        uri: None,
        scope: None,
    };
    let settings = settings("https://c", false, auth);
    assert!(!format!("{settings:?}").contains("hunter2"));
    let catalog = RestCatalog::new(settings, stores()).expect("a catalog");
    assert!(!format!("{catalog:?} {:?}", catalog.service.http).contains("hunter2"));
}

#[tokio::test]
async fn what_a_request_had_is_hidden_though_it_was_renewed() {
    let auth = RestAuth::OAuth2 {
        client_id: None,
        client_secret: SecretPlace::Text(SecretText::new("hunter+2")),
        uri: None,
        scope: None,
    };
    let own = Authorizer::new("lake", auth, reqwest::Client::new(), "https://c").expect("an authorizer");
    let token = RestAuth::Token(SecretPlace::Text(SecretText::new("token-a")));
    let before = Authorizer::new("lake", token, reqwest::Client::new(), "https://c").expect("an authorizer");
    let mut request = reqwest::Request::new(reqwest::Method::GET, "https://c".parse().expect("a URL"));
    let sent = before.authorize(&mut request).await.expect("a token");
    let told = own.redacted("Bearer token-a; client_secret=hunter%2B2, hunter+2".to_owned(), &sent);
    assert_eq!(told, "Bearer (hidden); client_secret=(hidden), (hidden)");
}

#[test]
fn a_table_keeps_the_settings_that_are_read_of_so_many_credentials() {
    let many = |count: usize| {
        let one = |at: usize| StorageCredential {
            prefix: format!("s3://b/{at}/"),
            config: config(&[("s3.access-key-id", "k"), ("mine", "x")]),
        };
        Some((0..count).map(one).collect::<Vec<_>>())
    };
    let beside = || config(&[("s3.endpoint", "http://e"), ("other", "y")]);
    let kept = credentials("a.t", beside(), many(2)).expect("credentials");
    let expect = config(&[("s3.access-key-id", "k"), ("s3.endpoint", "http://e")]);
    assert!(kept.len() == 2 && kept.iter().all(|kept| kept.config == expect));
    assert_eq!(credentials("a.t", beside(), many(1000)).expect("credentials").len(), 1000);
    let refused = credentials("a.t", beside(), many(1001)).map(|kept| kept.len()).expect_err("too many");
    assert!(format!("{refused:?}").contains("1001 credentials; at most 1000"), "{refused:?}");
}

#[test]
fn the_longest_prefix_lends_the_credentials_of_a_file() {
    let lender = Lender {
        service: RestCatalog::new(settings("https://c", false, RestAuth::None), stores()).expect("a catalog").service,
        levels: vec!["a".to_owned()],
        name: "t".to_owned(),
    };
    let lent = |prefix: &str, key: &str| StorageCredential {
        prefix: prefix.to_owned(),
        config: config(&[("s3.access-key-id", key), ("s3.secret-access-key", "s")]),
    };
    let grants = Grants::default();
    let lent = [lent("s3://b/t/", "wide"), lent("s3a://b/t/data/", "narrow")];
    let prefixes = grants.grant(lender.clone(), &lent);
    let stores = stores().lent(prefixes.clone());
    let key_of = |file: &str| {
        let place = stores.place("a.t", file).map_err(|error| error.to_string())?;
        let grant = grants.get(place.store.username()).ok_or("no grant")?;
        assert_eq!(place.store.host_str(), Some("b"));
        Ok(futures::executor::block_on(grant.current()).expect("keys").key_id.clone())
    };
    assert_eq!(key_of("s3://b/t/metadata/m.json"), Ok("wide".to_owned()));
    assert_eq!(key_of("s3://b/t/data/x.parquet"), Ok("narrow".to_owned()));
    let refused = "table a.t: its catalog lends credentials for s3://b/t/, s3a://b/t/data/, not for s3://b/u/x";
    assert_eq!(key_of("s3://b/u/x"), Err(refused.to_owned()));
    let bucket = stores.lent(vec![crate::storage::LentPrefix { prefix: "s3://b".to_owned(), id: "x".to_owned() }]);
    assert!(bucket.place("a.t", "s3://b/t/x").is_ok() && bucket.place("a.t", "s3://b-archive/t/x").is_err());
    assert_eq!(stores.place("a.t", "file:///x").expect("a place").store.as_str(), "file:///");
    assert_eq!(grants.grant(lender, &lent), prefixes, "a table that is loaded again keeps its clients");
}

#[test]
fn settings_of_an_answer_are_credentials_for_all_files() {
    let keys = [("s3.access-key-id", "k"), ("s3.secret-access-key", "s"), ("s3.region", "eu-central-1")];
    let prefixes = |config, lent: Option<Vec<StorageCredential>>| {
        let told = credentials("a.t", config, lent).map_err(|error| error.to_string())?;
        let told = told.into_iter().map(|told| (told.prefix, told.config.get("s3.region").cloned()));
        Ok(told.collect::<Vec<_>>())
    };
    let region = Some("eu-central-1".to_owned());
    assert_eq!(prefixes(config(&[]), None), Ok(vec![]));
    assert_eq!(prefixes(config(&keys), None), Ok(vec![("s3".to_owned(), region.clone())]));
    let lent = StorageCredential { prefix: "s3://b/".to_owned(), config: config(&keys[..2]) };
    assert_eq!(prefixes(config(&keys[2..]), Some(vec![lent])), Ok(vec![("s3://b/".to_owned(), region)]));
    let signs =
        "table a.t has a catalog that signs each request to the store itself (remote signing), which is not supported";
    assert_eq!(prefixes(config(&[("s3.remote-signing-enabled", "true")]), None), Err::<Vec<_>, _>(signs.to_owned()));
}

#[test]
fn a_refusal_is_shown_in_one_short_line() {
    assert_eq!(excerpt(b"<html>\n  no</html>"), "<html> no</html>");
    assert_eq!(excerpt("ä".repeat(400).as_bytes()).chars().count(), 301);
}

#[test]
fn a_listing_that_would_never_end_is_an_error() {
    let text = |text: &str| Some(text.to_owned());
    let mut pages = Pages::default();
    assert_eq!((pages.turn(text("a")), pages.turn(text("b"))), (Ok(true), Ok(true)));
    assert_eq!(pages.next, "b");
    assert_eq!((pages.turn(None), pages.turn(text(""))), (Ok(false), Ok(false)));
    assert!(pages.turn(text("a")).is_err_and(|why| why.contains("twice")));
}

#[test]
fn clones_share_the_service() {
    let catalog = RestCatalog::new(settings("https://c/v1/", false, RestAuth::None), stores()).expect("a catalog");
    assert_eq!(catalog.service.base, "https://c");
    assert!(Arc::ptr_eq(&catalog.with_stores(stores()).service, &catalog.service));
}
