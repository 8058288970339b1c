//! Keys of catalogs.

use super::*;

#[test]
fn each_type_of_catalog_has_its_keys() {
    let catalog = |text: &str, environment: &[(&str, &str)]| {
        load(&format!("[catalogs.lake]\n{text}"), environment)
            .map(|config| config.catalogs["lake"].clone())
            .map_err(told)
    };
    let rest = |allow_http, access| {
        let (uri, warehouse) = ("https://c".to_owned(), Some("w/x".to_owned()));
        Ok(CatalogConfig::Rest(RestConfig { uri, warehouse, allow_http, access }))
    };
    let base = "type = 'rest'\nuri = 'https://c'\nwarehouse = 'w/x'\n";
    let value = |text: &str| SecretSource::Value(Secret::new(text));
    assert_eq!(catalog(base, &[]), rest(false, RestAccess::None));
    let token = RestAccess::Token(value("12"));
    assert_eq!(
        catalog(&format!("{base}allow_http = true"), &[("GUST_CATALOGS__LAKE__TOKEN", "12")]),
        rest(true, token)
    );
    let file = RestAccess::Token(SecretSource::File("lake/t".into()));
    assert_eq!(catalog(&format!("{base}token_file = 't'"), &[]), rest(false, file));
    let oauth2 = RestAccess::OAuth2 {
        client_id: Some("me".to_owned()),
        client_secret: value("s"),
        uri: Some("https://t".to_owned()),
        scope: Some("x".to_owned()),
    };
    let text = "oauth2_client_id = 'me'\noauth2_client_secret = 's'\noauth2_uri = 'https://t'\noauth2_scope = 'x'";
    assert_eq!(catalog(&format!("{base}{text}"), &[]), rest(false, oauth2));
    let signed = RestAccess::SigV4 { name: "execute-api".to_owned(), region: "eu-west-1".to_owned() };
    assert_eq!(
        catalog(&format!("{base}sigv4_name = 'execute-api'\nsigv4_region = 'eu-west-1'"), &[]),
        rest(false, signed)
    );
    let (region, account) = ("eu-west-1".to_owned(), Some("012345678901".to_owned()));
    assert_eq!(
        catalog("type = 'glue'\nregion = 'eu-west-1'\naccount = '012345678901'", &[]),
        Ok(CatalogConfig::Glue(GlueConfig { region: region.clone(), account, uri: None, allow_http: false }))
    );
    let bucket_arn = "arn:aws:s3tables:eu-west-1:012345678901:bucket/lake".to_owned();
    assert_eq!(
        catalog(&format!("type = 's3tables'\nbucket_arn = '{bucket_arn}'"), &[]),
        Ok(CatalogConfig::S3Tables(S3TablesConfig { bucket_arn, region, uri: None, allow_http: false }))
    );
}

#[test]
fn a_catalog_that_is_set_wrongly_says_what_to_change() {
    let check = |text: &str, expect: &str| {
        let error = told(load(&format!("[catalogs.lake]\n{text}"), &[]).expect_err("a bad catalog"));
        assert_eq!(error, expect, "{text}");
    };
    let place = "in lake/gust.toml line";
    check(
        "type = 'sqlite'\npath = 'a'\nwarehouse = 'b'\nuri = 'https://c'",
        &format!(
            "`catalogs.lake.uri` {place} 5 is a key of catalogs of type rest and glue and s3tables, and this one is of type sqlite\n\
             hint: a catalog of type \"sqlite\" has the keys `path`, `warehouse`"
        ),
    );
    check(
        "type = 'glue'\nregion = 'r'\ntoken = 'hunter2'",
        &format!(
            "`catalogs.lake.token` {place} 4 is a key of catalogs of type rest, and this one is of type glue\n\
             hint: a catalog of type \"glue\" has the keys `region`, `account`, `uri`, `allow_http`"
        ),
    );
    check("uri = 'https://c'", &format!("missing key `catalogs.lake.type`; its table stands {place} 1"));
    check("type = 'rest'", &format!("missing key `catalogs.lake.uri`; its table stands {place} 1"));
    check("type = 'glue'", &format!("missing key `catalogs.lake.region`; its table stands {place} 1"));
    check("type = 's3tables'", &format!("missing key `catalogs.lake.bucket_arn`; its table stands {place} 1"));
    check(
        "type = 's3tables'\nbucket_arn = 'arn:aws:s3:::lake'",
        &format!(
            "invalid value [table] for `catalogs.lake` {place} 1: expected a `bucket_arn` such as arn:aws:s3tables:REGION:ACCOUNT:bucket/NAME"
        ),
    );
    let invalid = |expected: &str| format!("invalid value [table] for `catalogs.lake` {place} 1: expected {expected}");
    let rest = "type = 'rest'\nuri = 'https://c'\n";
    check(&format!("{rest}token = 'a'\ntoken_file = 'b'"), &invalid("one of `token` and `token_file`"));
    check(
        &format!("{rest}token = 'a'\nsigv4_name = 'b'\nsigv4_region = 'c'"),
        &invalid("one way to be authorized: a token, `oauth2_…` or `sigv4_…`"),
    );
    check(&format!("{rest}sigv4_name = 'b'"), &invalid("`sigv4_name` together with `sigv4_region`"));
    check(
        &format!("{rest}oauth2_client_id = 'b'"),
        &invalid("`oauth2_client_secret` or `oauth2_client_secret_file` beside `oauth2_…`"),
    );
    check(
        &format!("{rest}token = 12"),
        &format!("invalid value (hidden) for `catalogs.lake.token` {place} 4: expected a string"),
    );
    check(
        "type = 'rest'\nuri = 'c'",
        &format!("invalid value \"c\" for `catalogs.lake.uri` {place} 3: expected an http:// or https:// URL"),
    );
    let plain = |key: &str, line: u32| {
        format!(
            "`catalogs.lake.{key}` {place} {line} does not fit the other settings: credentials would travel unencrypted\n\
             hint: use https://, or set `allow_http = true` for the catalog if that is meant"
        )
    };
    check("type = 'rest'\nuri = 'http://c'\ntoken = 'a'", &plain("uri", 3));
    check(&format!("{rest}oauth2_client_secret = 'a'\noauth2_uri = 'http://t'"), &plain("oauth2_uri", 5));
    check("type = 'glue'\nregion = 'a'\nuri = 'http://c'", &plain("uri", 4));
    load("[catalogs.lake]\ntype = 'rest'\nuri = 'http://c'", &[]).expect("no credentials travel");
    load("[catalogs.lake]\ntype = 'rest'\nuri = 'http://c'\ntoken = 'a'\nallow_http = true", &[]).expect("allowed");
    check(
        "type = 'sqlite'\npath = 'a'\nwarehouse = 'gs://b'",
        &format!(
            "invalid value \"gs://b\" for `catalogs.lake.warehouse` {place} 4: expected a folder, or a URL that starts with file:// or s3://"
        ),
    );
}
