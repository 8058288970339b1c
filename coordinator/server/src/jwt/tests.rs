use std::time::Duration;

use gust_engine::config::{BudgetPeriod, JwtConfig};

use super::*;

fn config() -> JwtConfig {
    JwtConfig {
        issuer: "https://idp.example".to_owned(),
        audience: "gust".to_owned(),
        // Nobody listens there.
        jwks: "http://127.0.0.1:1/keys".to_owned(),
        algorithms: vec!["ES256".to_owned()],
        groups_claim: Some("groups".to_owned()),
    }
}

#[test]
fn settings_that_would_let_anybody_in_are_refused() {
    Provider::new(&config()).expect("settings");
    for (change, words) in [
        ((|it| it.algorithms = vec!["HS256".to_owned()]) as fn(&mut JwtConfig), "`HS256` is not taken"),
        (|it| it.algorithms = vec!["none".to_owned()], "`none` is not taken"),
        (|it| it.algorithms = Vec::new(), "none is listed"),
        (|it| it.issuer = " ".to_owned(), "server.jwt.issuer"),
        (|it| it.issuer = "https://idp.example#".to_owned(), "without `#`"),
        (|it| it.issuer = "--setup".to_owned(), "server.jwt.issuer"),
        (|it| it.audience = String::new(), "server.jwt.audience"),
        (|it| it.jwks = "http://idp.example/keys".to_owned(), "expected https://"),
        (|it| it.jwks = "ftp://127.0.0.1/keys".to_owned(), "expected https://"),
        (|it| it.jwks = "keys.json".to_owned(), "is no URL"),
        (|it| it.jwks = "https://ada:secret@idp.example/keys".to_owned(), "with a user"),
    ] {
        let mut changed = config();
        change(&mut changed);
        let refused = Provider::new(&changed).expect_err(words).to_string();
        assert!(refused.contains(words) && !refused.contains("secret"), "{words}: {refused}");
    }
}

#[test]
fn claims_are_names_or_the_token_is_refused() {
    let provider = Provider::new(&config()).expect("settings");
    let user = |claims: Value| {
        let principal = provider.user(claims.as_object().expect("claims"))?;
        let Some(Credential::Web(web)) = &principal.credential else { panic!("{principal:?}") };
        assert!(
            principal.is_called("ada") && principal.is_called("https://idp.example#ada") && !principal.is_called("")
        );
        Ok::<_, NoUser>((principal.user.clone().expect("a name"), web.groups.clone(), web.ends.timestamp()))
    };
    let claims = |more: Value| {
        let mut claims = serde_json::json!({ "iss": "https://idp.example", "sub": "ada", "exp": 1_000 });
        claims.as_object_mut().expect("claims").extend(more.as_object().expect("claims").clone());
        claims
    };
    let name = || "https://idp.example#ada".to_owned();
    for (groups, expect) in [
        (serde_json::json!({}), vec![]),
        (serde_json::json!({ "groups": null }), vec![]),
        (serde_json::json!({ "groups": "analysts" }), vec!["analysts"]),
        (serde_json::json!({ "groups": ["analysts", "b c"], "roles": ["admin"] }), vec!["analysts", "b c"]),
    ] {
        let expect = expect.into_iter().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(user(claims(groups)), Ok((name(), expect, 1_060)));
    }
    for (wrong, words) in [
        (serde_json::json!({ "groups": [1] }), "no texts"),
        (serde_json::json!({ "groups": { "a": 1 } }), "no list"),
        (serde_json::json!({ "groups": vec!["g"; GROUPS_MAX + 1] }), "too many"),
        (serde_json::json!({ "groups": ["a\nb"] }), "no name"),
        (serde_json::json!({ "sub": "" }), "subject"),
        (serde_json::json!({ "sub": 7 }), "subject"),
        (serde_json::json!({ "sub": "a\u{0}" }), "subject"),
        (serde_json::json!({ "sub": "x".repeat(NAME_BYTES_MAX + 1) }), "subject"),
        (serde_json::json!({ "iss": ["https://idp.example", "https://evil.example"] }), "another issuer"),
        (serde_json::json!({ "exp": "soon" }), "no end"),
        (serde_json::json!({ "_claim_names": { "groups": "src1" } }), "too many"),
        (serde_json::json!({ "hasgroups": true }), "too many"),
    ] {
        let refused = user(claims(wrong.clone())).expect_err("it is refused").to_string();
        assert!(refused.contains(words), "{wrong}: {refused}");
    }
    // Nobody gets out of a group's budget by a token without groups.
    let holder = BudgetHolder::Group("analysts".to_owned());
    let (period, limit) = (BudgetPeriod::Day, gust_engine::money::Money::MAX);
    let provider = provider.with_budgets(&[BudgetConfig { holder, period, limit }]);
    let refused = provider.user(claims(serde_json::json!({})).as_object().expect("claims")).expect_err("no groups");
    assert!(refused.to_string().contains("does not tell its groups"), "{refused}");
    provider.user(claims(serde_json::json!({ "groups": [] })).as_object().expect("claims")).expect("it tells them");
}

/// Keys of a provider that is down hold for a day.
#[tokio::test(start_paused = true)]
async fn keys_are_not_believed_for_ever() {
    let provider = Provider::new(&config()).expect("settings");
    let find = || provider.keys.find(Some("one"), Algorithm::ES256);
    assert!(matches!(find().await, Found::NoKeys), "none was ever told");
    // The fetch for it ends by itself. This one waits for it.
    assert!(provider.fetch().await.is_err());
    let point = "A".repeat(43);
    let key = |id: &str, more: Value| {
        let mut key = serde_json::json!({ "kty": "EC", "crv": "P-256", "x": point, "y": point, "kid": id });
        key.as_object_mut().expect("a key").extend(more.as_object().expect("members").clone());
        key
    };
    let unusable = [
        serde_json::json!({ "use": "enc" }),
        serde_json::json!({ "alg": "ES384" }),
        serde_json::json!({ "kty": "oct", "k": "AAAA" }),
    ];
    provider.keys.told(
        &[&[key("one", serde_json::json!({ "use": "sig" }))], &unusable.map(|more| key("two", more))[..]].concat(),
    );
    assert!(matches!(find().await, Found::Key(_)));
    assert!(matches!(provider.keys.find(None, Algorithm::ES256).await, Found::Key(_)), "there is one");
    for (id, algorithm) in
        [("two", Algorithm::ES256), ("one", Algorithm::RS256), ("one", Algorithm::HS256), ("three", Algorithm::ES256)]
    {
        assert!(matches!(provider.keys.find(Some(id), algorithm).await, Found::Unknown), "{id} {algorithm:?}");
    }
    // The provider is down, and its last keys hold.
    assert!(provider.fetch().await.is_err());
    assert!(matches!(find().await, Found::Key(_)));
    tokio::time::advance(Duration::from_secs(61)).await;
    assert!(matches!(provider.keys.find(Some("three"), Algorithm::ES256).await, Found::NoKeys), "it is asked in vain");
    assert!(matches!(find().await, Found::Key(_)));
    tokio::time::advance(Duration::from_secs(24 * 60 * 60 - 72)).await;
    assert!(matches!(find().await, Found::Key(_)));
    // The wait for the provider has taken some of the day, too.
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(matches!(find().await, Found::NoKeys));
}
