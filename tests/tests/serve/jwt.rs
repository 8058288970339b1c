//! Users of an identity provider: a small one on loopback, with keys that are made here.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::Utc;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};

use super::identity::{token, write_private};
use super::postgres::{failed, has_psql};
use super::{Answer as Answered, Served, pause};
use crate::bad_input::{ENDLESS, Place, check, fails, wait_until};

const ISSUER: &str = "https://idp.example";

fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

enum Pair {
    P256(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

/// Key of the provider, with its id.
struct Key {
    id: &'static str,
    pair: Pair,
}

impl Key {
    fn p256(id: &'static str) -> Self {
        let random = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, made.as_ref(), &random).expect("a key");
        Self { id, pair: Pair::P256(pair) }
    }

    fn ed(id: &'static str) -> Self {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        Self { id, pair: Pair::Ed(Ed25519KeyPair::from_pkcs8(made.as_ref()).expect("a key")) }
    }

    /// Makes a key with OpenSSL, because ring makes none of these. None where it is missing.
    fn rsa(id: &'static str) -> Option<Self> {
        let made = Command::new("openssl")
            .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-outform", "DER"])
            .output();
        let made = made.ok().filter(|output| output.status.success());
        assert!(made.is_some() || std::env::var("CI").is_err(), "CI does not skip: openssl is missing");
        let pair = RsaKeyPair::from_der(&made?.stdout).expect("a key");
        Some(Self { id, pair: Pair::Rsa(pair) })
    }

    fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::P256(_) => "ES256",
            Pair::Ed(_) => "EdDSA",
            Pair::Rsa(_) => "RS256",
        }
    }

    /// Returns the public key, as a provider tells it.
    fn public(&self) -> Value {
        let mut key = match &self.pair {
            Pair::P256(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "x": base64(x), "y": base64(y) })
            }
            Pair::Ed(pair) => json!({ "kty": "OKP", "crv": "Ed25519", "x": base64(pair.public_key()) }),
            Pair::Rsa(pair) => {
                let PublicKeyComponents { n, e } = PublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({ "kty": "RSA", "n": base64(n), "e": base64(e) })
            }
        };
        let more = json!({ "kid": self.id, "use": "sig", "alg": self.algorithm() });
        key.as_object_mut().expect("a key").extend(more.as_object().expect("members").clone());
        key
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::P256(pair) => pair.sign(&random, message).expect("a signature").as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).expect("a signature");
                signature
            }
        }
    }

    fn signed(&self, claims: &Value) -> String {
        self.signed_as(&json!({ "alg": self.algorithm(), "kid": self.id, "typ": "JWT" }), claims)
    }

    fn signed_as(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", base64(header.to_string()), base64(claims.to_string()));
        format!("{message}.{}", base64(self.signature(message.as_bytes())))
    }
}

/// Claims of a token of ada's that holds for an hour.
fn claims(more: Value) -> Value {
    let now = Utc::now().timestamp();
    let mut claims = json!({ "iss": ISSUER, "aud": "gust", "sub": "ada", "exp": now + 3_600, "groups": ["analysts"] });
    for (name, value) in more.as_object().expect("claims") {
        match value {
            Value::Null => claims.as_object_mut().expect("claims").remove(name),
            value => claims.as_object_mut().expect("claims").insert(name.clone(), value.clone()),
        };
    }
    claims
}

/// Answer of the provider.
enum Answer {
    Keys(Vec<Value>),
    Broken,
    Nothing,
    /// The keys, after more time than a fetch has.
    Late(Vec<Value>),
    /// The keys, a byte now and then.
    Dripping(Vec<Value>),
}

/// Pause before a late answer, longer than a fetch waits; and between the bytes of one that drips.
const LATE: Duration = Duration::from_secs(16);
const DRIP: Duration = Duration::from_millis(200);

/// Time that a fetch may take, and a token with a key that is not known. The machine may be busy.
const FETCH_MAX: Duration = Duration::from_secs(15);

/// Provider that tells its keys, and counts how often it was asked.
struct Idp {
    address: String,
    answer: Arc<Mutex<(Answer, usize)>>,
}

fn with_head(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len())
}

impl Idp {
    fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let answer = Arc::new(Mutex::new((answer, 0)));
        let told = Arc::clone(&answer);
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for connection in listener.incoming() {
                let mut connection = connection.expect("a connection");
                let _head = connection.read(&mut [0; 4096]).expect("a request");
                let mut told = told.lock().expect("no holder panics");
                told.1 += 1;
                let of_keys = |keys: &[Value]| json!({ "keys": keys }).to_string();
                let text = match &told.0 {
                    Answer::Keys(keys) => of_keys(keys),
                    Answer::Broken => "{".to_owned(),
                    Answer::Late(keys) => {
                        let text = of_keys(keys);
                        std::thread::spawn(move || {
                            pause(LATE);
                            // The client has gone.
                            let _sent = connection.write_all(with_head(&text).as_bytes());
                        });
                        continue;
                    }
                    Answer::Dripping(keys) => {
                        let text = of_keys(keys);
                        std::thread::spawn(move || {
                            for byte in with_head(&text).bytes() {
                                if connection.write_all(&[byte]).is_err() {
                                    return;
                                }
                                pause(DRIP);
                            }
                        });
                        continue;
                    }
                    Answer::Nothing => {
                        silent.push(connection);
                        continue;
                    }
                };
                connection.write_all(with_head(&text).as_bytes()).expect("sent");
            }
        });
        Self { address, answer }
    }

    fn tells(&self, answer: Answer) {
        self.answer.lock().expect("no holder panics").0 = answer;
    }

    fn asked(&self) -> usize {
        self.answer.lock().expect("no holder panics").1
    }

    /// Makes a folder with the settings of a server that takes the provider's tokens.
    fn place(&self, algorithms: &str, more: &str) -> Place {
        let settings =
            format!("issuer = '{ISSUER}'\naudience = 'gust'\ngroups_claim = 'groups'\nalgorithms = {algorithms}");
        let jwks = format!("jwks = 'http://{}/keys'", self.address);
        Place::new(&format!("on = 'local'\n{more}\n[server.jwt]\n{settings}\n{jwks}\n"))
    }
}

#[test]
fn a_token_of_the_provider_opens_every_door() {
    let key = Key::p256("one");
    let idp = Idp::start(Answer::Keys(vec![key.public()]));
    let budget = "[server]\ntokens = 'tokens.toml'\n[[server.budget]]\ngroup = 'analysts'\ndollars_per_month = 5";
    let place = idp.place("['ES256']", budget);
    let (secret, lines) = token(&place, &["ada"]);
    write_private(&place.path("tokens.toml"), &lines);
    let server = Served::start(&place, &["--postgres", "127.0.0.1:0"]);
    let ada = key.signed(&claims(json!({ "aud": ["others", "gust"], "nbf": Utc::now().timestamp() + 30 })));
    let of_history = "SELECT DISTINCT user_name FROM gust.queries ORDER BY user_name";
    assert_eq!(server.sql_of(&ada, "SELECT 1 AS one").json(), json!([{ "one": 1 }]));
    // Issuer and subject are the user. The file's ada is another one.
    assert_eq!(server.sql_of(&ada, of_history).json(), json!([{ "user_name": format!("{ISSUER}#ada") }]));
    assert_eq!(server.sql_of(&secret, "SELECT 1 AS one").json(), json!([{ "one": 1 }]));
    assert_eq!(server.sql_of(&secret, of_history).json(), json!([{ "user_name": "ada" }]));
    let submit = ["-H", "Content-Type: application/sql", "--data-binary", "SELECT 1 AS one"];
    let hers = server.ask(&ada, "/v1/statements", &submit).json()["href"].as_str().expect("a place").to_owned();
    assert_eq!((server.ask(&ada, &hers, &[]).status, server.ask(&secret, &hers, &[]).status), (200, 404));
    // Groups come with the token.
    let budgets = |secret: &str| server.ask(secret, "/v1/budgets", &[]).json()["budgets"].clone();
    assert_eq!(budgets(&ada)[0]["name"], "analysts");
    let others = key.signed(&claims(json!({ "sub": "bob", "groups": "others" })));
    assert_eq!((budgets(&others), budgets(&secret)), (json!([]), json!([])));
    // The token is a password, too, and is one over Flight.
    let basic = server.curl("/v1/query", &[&["-u", &format!("ada:{ada}")], &submit[..]].concat());
    assert_eq!(basic.json(), json!([{ "one": 1 }]));
    let mut flight = place.gust(&["query", "--server", &server.url, "--format", "csv", of_history]);
    let flight = flight.env("GUST_TOKEN", &ada).output().expect("it starts");
    check(&flight, 0, &[]);
    assert_eq!(String::from_utf8_lossy(&flight.stdout), format!("user_name\n{ISSUER}#ada\n"));
    if has_psql() {
        let psql =
            |secret: &str| server.psql(&["-w", "-c", of_history]).env("PGPASSWORD", secret).output().expect("psql");
        assert_eq!(String::from_utf8_lossy(&psql(&ada).stdout), format!("{ISSUER}#ada\n"));
        failed(&psql(&others), &["the token is not one of user `ada`"]);
        failed(&psql(&Key::p256("one").signed(&claims(json!({})))), &["its signature is wrong"]);
    }
    // Its statements end with it, after a minute of skew.
    let ending = key.signed(&claims(json!({ "exp": Utc::now().timestamp() - 56 })));
    let started = Instant::now();
    let ended = server.sql_of(&ending, ENDLESS);
    assert_eq!((ended.status, &ended.json()["code"]), (401, &json!("28000")), "{ended:?}");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    wait_until("it has expired", || server.sql_of(&ending, "SELECT 1").text().contains("the token has expired"));
}

#[test]
fn tokens_that_are_not_the_providers_are_refused() {
    let Some(rsa) = Key::rsa("rsa") else {
        eprintln!("skipped: openssl is missing");
        return;
    };
    let (p256, ed, stranger) = (Key::p256("p256"), Key::ed("ed"), Key::p256("p256"));
    let idp = Idp::start(Answer::Keys(vec![
        json!({ "kty": "oct", "k": base64("secret"), "kid": "shared" }),
        json!({ "kty": "new", "kid": "unknown kinds are passed over" }),
        p256.public(),
        ed.public(),
        rsa.public(),
    ]));
    let place = idp.place("['RS256', 'ES256']", "");
    let server = Served::start(&place, &[]);
    for key in [&rsa, &p256] {
        assert_eq!(server.sql_of(&key.signed(&claims(json!({}))), "SELECT 1 AS one").json(), json!([{ "one": 1 }]));
    }
    let hmac = |secret: &[u8], id: &str| {
        let header = json!({ "alg": "HS256", "kid": id });
        let message = format!("{}.{}", base64(header.to_string()), base64(claims(json!({})).to_string()));
        let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        format!("{message}.{}", base64(ring::hmac::sign(&secret, message.as_bytes())))
    };
    let Pair::Rsa(pair) = &rsa.pair else { panic!("it is one of RSA") };
    let now = Utc::now().timestamp();
    let good = p256.signed(&claims(json!({})));
    let (head, signature) = (good.split('.').next().expect("a head"), good.rsplit('.').next().expect("a signature"));
    let none = format!("{}.{}.", base64("{\"alg\":\"none\"}"), base64(claims(json!({})).to_string()));
    let of = |more: Value| p256.signed(&claims(more));
    for (name, token, words) in [
        ("alg none", none.clone(), "not known"),
        ("alg none with a signature", format!("{none}{signature}"), "not known"),
        ("HS256 with the public key", hmac(pair.public().as_ref(), "rsa"), "its algorithm"),
        ("HS256 with a shared key of the provider", hmac(b"secret", "shared"), "its algorithm"),
        ("an algorithm that is not listed", ed.signed(&claims(json!({}))), "its algorithm"),
        (
            "RS256 with a key of a curve",
            p256.signed_as(&json!({ "alg": "RS256", "kid": "p256" }), &claims(json!({}))),
            "does not have",
        ),
        ("another key of this id", stranger.signed(&claims(json!({}))), "its signature is wrong"),
        ("no such key", p256.signed_as(&json!({ "alg": "ES256", "kid": "p257" }), &claims(json!({}))), "does not have"),
        (
            "a key of its own",
            p256.signed_as(&json!({ "alg": "ES256", "kid": "mine", "jwk": stranger.public() }), &claims(json!({}))),
            "does not have",
        ),
        (
            "critical headers",
            p256.signed_as(
                &json!({ "alg": "ES256", "kid": "p256", "crit": ["b64"], "b64": false }),
                &claims(json!({})),
            ),
            "critical",
        ),
        (
            "other claims",
            format!("{head}.{}.{signature}", base64(claims(json!({ "sub": "root" })).to_string())),
            "its signature is wrong",
        ),
        ("another audience", of(json!({ "aud": "others" })), "another audience"),
        ("no audience", of(json!({ "aud": null })), "is missing"),
        ("another issuer", of(json!({ "iss": "https://idp.example/" })), "another issuer"),
        ("several issuers", of(json!({ "iss": [ISSUER, "https://evil.example"] })), "another issuer"),
        ("no subject", of(json!({ "sub": null })), "is missing"),
        ("no end", of(json!({ "exp": null })), "is missing"),
        ("an end that is no number", of(json!({ "exp": "never" })), "the token"),
        ("expired", of(json!({ "exp": now - 90 })), "expired"),
        ("not yet", of(json!({ "nbf": now + 300 })), "does not hold yet"),
        ("groups that are no list", of(json!({ "groups": { "analysts": true } })), "no list"),
        ("long", of(json!({ "groups": vec!["x".repeat(200); 100] })), "more than 8 KiB"),
        ("three words", "a.b.c".to_owned(), "not known"),
        ("one word", "secret".to_owned(), "not known"),
        ("a token of a file that is not there", "gust_secret".to_owned(), "not known"),
    ] {
        let answer = server.sql_of(&token, "SELECT 1");
        assert_eq!((answer.status, &answer.json()["kind"]), (401, &json!("token")), "{name}: {answer:?}");
        assert!(answer.text().contains(words), "{name}: {answer:?}");
        assert!(!answer.text().contains(signature) && !answer.text().contains("secret"), "{name}: {answer:?}");
    }
    // A token of 1 MB does not get through the head of a request.
    std::fs::write(place.path("head"), format!("Authorization: Bearer {}", "x".repeat(1 << 20))).expect("written");
    let head = format!("@{}", place.path("head").display());
    let long =
        server.curl("/v1/query", &["-H", &head, "-H", "Content-Type: application/sql", "--data-binary", "SELECT 1"]);
    assert!(long.status == 431 || long.code != 0, "{long:?}");
    assert_eq!(server.sql_of(&good, "SELECT 1 AS one").json(), json!([{ "one": 1 }]), "the next one is served");
    assert_eq!(idp.asked(), 2, "unknown keys are looked for once a minute");
}

#[test]
fn keys_change_and_a_provider_that_is_down_locks_nobody_out() {
    let (first, second) = (Key::p256("first"), Key::ed("second"));
    let idp = Idp::start(Answer::Keys(vec![first.public()]));
    let place = idp.place("['ES256', 'EdDSA']", "");
    let server = Served::start(&place, &[]);
    let status = |key: &Key| server.sql_of(&key.signed(&claims(json!({}))), "SELECT 1").status;
    assert_eq!((status(&first), status(&second), idp.asked()), (200, 401, 2));
    idp.tells(Answer::Broken);
    assert_eq!((status(&first), status(&second), idp.asked()), (200, 401, 2), "it was asked a moment ago");
    drop(server);
    // A new key is known at its first token, and the one that has gone is not any more.
    idp.tells(Answer::Keys(vec![first.public()]));
    let server = Served::start(&place, &[]);
    let status = |key: &Key| server.sql_of(&key.signed(&claims(json!({}))), "SELECT 1").status;
    idp.tells(Answer::Keys(vec![second.public()]));
    let asked = idp.asked();
    assert_eq!((status(&first), status(&second), status(&first), idp.asked()), (200, 200, 401, asked + 1));
    drop(server);

    let serve = ["serve", "--listen", "127.0.0.1:0", "--check"];
    let with_postgres = [&serve[..], &["--postgres", "127.0.0.1:0"]].concat();
    check(&place.gust(&with_postgres).output().expect("it starts"), 0, &["the server can start"]);
    for (answer, words) in [
        (Answer::Broken, "it answers no keys"),
        (Answer::Keys(Vec::new()), "none of its keys"),
        (Answer::Nothing, "timed out"),
    ] {
        idp.tells(answer);
        fails(&place, &serve, 2, &["server.jwt.jwks: http://127.0.0.1:", words]);
    }
    // A server starts without its provider, and hears of the keys later.
    let server = Served::start(&place, &[]);
    let status = |key: &Key| server.sql_of(&key.signed(&claims(json!({}))), "SELECT 1").status;
    // A good token is not refused, but has to wait.
    let early = server.sql_of(&second.signed(&claims(json!({}))), "SELECT 1");
    assert!(early.text().contains("the keys of the identity provider cannot be had"), "{early:?}");
    assert_eq!((early.status, early.header("www-authenticate")), (503, None), "{early:?}");
    assert!(early.header("retry-after").is_some(), "{early:?}");
    idp.tells(Answer::Keys(vec![second.public()]));
    wait_until("it is asked again", || status(&second) == 200);
    idp.tells(Answer::Nothing);
    assert_eq!(status(&second), 200, "its keys hold on");
}

/// Asks a server whose provider has become slow with a token of a new key, while others ask with a known one.
fn holds_nobody_up(slow: fn(Vec<Value>) -> Answer) {
    let (known, new) = (Key::p256("known"), Key::ed("new"));
    let idp = Idp::start(Answer::Keys(vec![known.public()]));
    let place = idp.place("['ES256', 'EdDSA']", "");
    let server = Served::start(&place, &[]);
    let ask = |key: &Key| {
        let began = Instant::now();
        (server.sql_of(&key.signed(&claims(json!({}))), "SELECT 1 AS one"), began.elapsed())
    };
    assert_eq!(ask(&known).0.status, 200);
    let asked = idp.asked();
    idp.tells(slow(vec![known.public(), new.public()]));
    let is_refused = |answer: &Answered| {
        assert!(answer.text().contains("the keys of the identity provider cannot be had"), "{answer:?}");
        assert!(answer.status == 503 && answer.header("retry-after").is_some(), "{answer:?}");
    };
    std::thread::scope(|scope| {
        let waiting = [(); 2].map(|()| scope.spawn(|| ask(&new)));
        wait_until("the provider is asked", || idp.asked() == asked + 1);
        // Tokens with a key that is known, and requests without one, do not wait for the provider.
        assert_eq!((ask(&known).0.status, server.curl("/v1/health", &[]).status), (200, 200));
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()), "the provider has answered");
        for waiting in waiting {
            let (answer, taken) = waiting.join().expect("an answer");
            is_refused(&answer);
            assert!(taken < FETCH_MAX, "{taken:?}");
        }
    });
    // It is not asked again at once. The earlier keys hold.
    let (answer, taken) = ask(&new);
    is_refused(&answer);
    assert!(taken < Duration::from_secs(3), "{taken:?}");
    assert_eq!((ask(&known).0.status, idp.asked()), (200, asked + 1));
    // The text of a good token, and of what the provider answers, is in no log.
    assert!(!server.said().contains("eyJ"), "{}", server.said());
}

#[test]
fn a_provider_that_is_slow_holds_nobody_up() {
    std::thread::scope(|scope| {
        scope.spawn(|| holds_nobody_up(Answer::Late));
        scope.spawn(|| holds_nobody_up(Answer::Dripping));
    });
}
