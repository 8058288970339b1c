//! Users and TLS: tokens from a file, what each user sees, and files that are read anew.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use serde_json::json;

use super::bounds::is_closed;
use super::postgres::{hears, message, startup_of};
use super::{Answer, Served, pause};
use crate::bad_input::{Place, check, fails, wait_until};

/// Makes a token. Returns its secret and its lines.
pub(super) fn token(place: &Place, flags: &[&str]) -> (String, String) {
    let output = place.gust(&[&["token", "new", "--user"], flags].concat()).output().expect("it starts");
    check(&output, 0, &["gust_"]);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (text(output.stderr).trim().to_owned(), text(output.stdout))
}

pub(super) fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
}

/// A folder with users, and their secrets.
pub(super) fn with_users<const N: usize>(configuration: &str, users: [&[&str]; N]) -> (Place, [String; N]) {
    let place = Place::new(configuration);
    let tokens = users.map(|flags| token(&place, flags));
    let lines: Vec<&str> = tokens.iter().map(|(_, lines)| lines.as_str()).collect();
    write_private(&place.path("tokens.toml"), &lines.join("\n"));
    (place, tokens.map(|(secret, _)| secret))
}

impl Served<'_> {
    pub(super) fn ask(&self, secret: &str, path: &str, more: &[&str]) -> Answer {
        let bearer = format!("Authorization: Bearer {secret}");
        self.curl(path, &[&["-H", bearer.as_str()][..], more].concat())
    }

    pub(super) fn sql_of(&self, secret: &str, sql: &str) -> Answer {
        self.ask(secret, "/v1/query", &["-H", "Content-Type: application/sql", "--data-binary", sql])
    }
}

fn bearer(secret: &str) -> String {
    format!("Authorization: Bearer {secret}")
}

fn flags<'a>(authorization: &'a str, sql: &'a str) -> [&'a str; 6] {
    ["-H", "Content-Type: application/sql", "-H", authorization, "--data-binary", sql]
}

#[test]
fn a_request_needs_a_token_and_sees_its_users_own() {
    let place = Place::new("on = 'local'\n[server]\ntokens = 'tokens.toml'\n");
    let (ada, ada_lines) = token(&place, &["ada", "--groups", "analysts"]);
    let (bob, bob_lines) = token(&place, &["bob", "--expires", "1h"]);
    let (old, old_lines) = token(&place, &["eve", "--expires", "1ms"]);
    write_private(&place.path("tokens.toml"), &format!("{ada_lines}\n{bob_lines}\n{old_lines}"));
    let server = Served::start(&place, &[]);
    let ask = |authorization: &str, sql: &str| server.curl("/v1/query", &flags(authorization, sql));
    let own = "SELECT statement, user_name FROM gust.queries WHERE statement LIKE '%AS mark'";
    for (secret, name) in [(&ada, "ada"), (&bob, "bob")] {
        let sql = format!("SELECT '{name}' AS mark");
        assert_eq!(ask(&bearer(secret), &sql).json(), json!([{ "mark": name }]));
        let seen = json!([{ "statement": sql, "user_name": name }]);
        assert_eq!(ask(&bearer(secret), own).json(), seen, "{name} sees the statements of others");
    }
    // No user has the name of the set-up, whose statements its views show.
    let named_like_it = place.gust(&["token", "new", "--user=--setup"]).output().expect("it starts");
    check(&named_like_it, 2, &["no two dashes"]);
    // A statement of another's does not exist.
    let submitted = |secret: &str, path: &str, more: &[&str]| {
        let authorization = bearer(secret);
        server.curl(path, &[&["-H", authorization.as_str()][..], more].concat())
    };
    let submit = ["-H", "Content-Type: application/sql", "--data-binary", "SELECT 1 AS one"];
    let hers = submitted(&ada, "/v1/statements", &submit).json()["href"].as_str().expect("a place").to_owned();
    for path in [hers.clone(), format!("{hers}/result"), format!("{hers}/events"), format!("{hers}/trace")] {
        assert_eq!(submitted(&ada, &path, &[]).status, 200, "{path}");
        assert_eq!(submitted(&bob, &path, &[]).status, 404, "{path}");
    }
    assert_eq!(submitted(&bob, &hers, &["-X", "DELETE"]).status, 404);
    assert_eq!(submitted(&bob, "/v1/statements", &[]).json(), json!({ "statements": [] }));
    // As the password of a client that knows no other way.
    let basic =
        ["-u", &format!("anybody:{ada}"), "-H", "Content-Type: application/sql", "--data-binary", "SELECT 1 AS one"];
    assert_eq!(server.curl("/v1/query", &basic).json(), json!([{ "one": 1 }]));
    let long = bearer(&"x".repeat(30_000));
    for (authorization, words) in [
        ("X-Nothing: 1", "no token"),
        ("Authorization: Bearer ", "no token"),
        ("Authorization: Bearer gust_wrong", "not known"),
        (&bearer(&ada[..ada.len() - 1]), "not known"),
        (&bearer(&old), "expired"),
        (&long, "not known"),
        ("Authorization: Basic !!!", "no token"),
    ] {
        for path in ["/v1/query", "/v1/nothing", "/"] {
            let answer = server.curl(path, &flags(authorization, "SELECT 1"));
            assert_eq!((answer.status, &answer.json()["kind"]), (401, &json!("token")), "{authorization}: {answer:?}");
            assert!(answer.text().contains(words), "{words}: {answer:?}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"gust\""));
            assert!(!answer.text().contains("gust_"), "the secret shows: {answer:?}");
        }
    }
    assert_eq!(server.curl("/v1/health", &[]).json(), json!({ "status": "ok" }));

    // A token that is taken out of the file is refused after SIGHUP. A broken file changes nothing.
    write_private(&place.path("tokens.toml"), "broken");
    server.signal("HUP");
    pause(Duration::from_millis(300));
    assert_eq!(ask(&bearer(&ada), "SELECT 1").status, 200);
    write_private(&place.path("tokens.toml"), &bob_lines);
    server.signal("HUP");
    wait_until("the tokens were read anew", || ask(&bearer(&ada), "SELECT 1").status == 401);
    assert_eq!(ask(&bearer(&bob), "SELECT 1").status, 200);
}

/// The folder that everybody may read has the files as well.
#[test]
fn no_query_reads_the_servers_own_files() {
    let place = Place::new("on = 'local'\n[server]\ntokens = 'tokens.toml'\nreach = ['.']\n");
    let (secret, lines) = token(&place, &["ada"]);
    write_private(&place.path("tokens.toml"), &lines);
    std::fs::write(place.path("open.csv"), "word\nopen\n").expect("written");
    std::os::unix::fs::symlink("/etc/passwd", place.path("link.csv")).expect("linked");
    let server = Served::start(&place, &[]);
    let read = |file: &str| {
        let place = place.path(file).display().to_string();
        let sql = format!("CREATE EXTERNAL TABLE f STORED AS CSV LOCATION '{place}'; SELECT * FROM f");
        server.curl("/v1/query", &flags(&bearer(&secret), &sql))
    };
    assert_eq!(read("open.csv").json(), json!([{ "word": "open" }]));
    for file in ["tokens.toml", "gust.toml", "link.csv"] {
        let answer = read(file);
        assert_eq!((answer.status, &answer.json()["code"]), (403, &json!("42501")), "{file}: {answer:?}");
        assert!(!answer.text().contains("sha256") && !answer.text().contains("root:"), "{answer:?}");
    }
}

/// However much it says.
#[test]
fn no_secret_is_in_the_log() {
    let place = Place::new("on = 'local'\n[server]\ntokens = 'tokens.toml'\n");
    let (secret, lines) = token(&place, &["ada"]);
    write_private(&place.path("tokens.toml"), &lines);
    let server = Served::start(&place, &["-vv", "--postgres", "127.0.0.1:0"]);
    let wrong = format!("{}x", &secret[..secret.len() - 1]);
    for (secret, status) in [(&secret, 200), (&wrong, 401)] {
        assert_eq!(server.sql_of(secret, "SELECT 'mark' AS one").status, status);
        let basic =
            ["-u", &format!("ada:{secret}"), "-H", "Content-Type: application/sql", "--data-binary", "SELECT 1"];
        assert_eq!(server.curl("/v1/query", &basic).status, status);
        let mut socket = server.socket();
        let password = format!("{secret}\0");
        socket.write_all(&[startup_of("ada"), message(b'p', password.as_bytes())].concat()).expect("sent");
        hears(&mut socket, if status == 200 { "server_version" } else { "28P01" });
    }
    let options = "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 's3://bucket/t.csv' OPTIONS ('aws.secret_access_key' 'hunter2')";
    let refused = server.sql_of(&secret, options);
    assert!(refused.status >= 400 && !refused.text().contains("hunter2"), "{refused:?}");
    server.has_said("DEBUG");
    let said = server.said();
    for secret in [&secret[5..], &wrong[5..], "hunter2", &base64(&secret), &base64(&wrong)] {
        assert!(!said.contains(secret), "`{secret}` is in the log");
    }
}

fn base64(secret: &str) -> String {
    base64::prelude::BASE64_STANDARD.encode(format!("ada:{secret}"))
}

/// A client that begins TLS and does not go on has its time, as one that says nothing.
#[test]
fn half_of_a_handshake_holds_nobody_up() {
    let settings =
        "on = 'local'\n[server]\ntokens = 'tokens.toml'\ntls = { certificate = 'tls.pem', key = 'tls.key' }\n";
    let place = Place::new(settings);
    let (secret, lines) = token(&place, &["ada"]);
    write_private(&place.path("tokens.toml"), &lines);
    if !certificate(&place, "tls") {
        eprintln!("skipped: openssl is missing");
        return;
    }
    let server = Served::start(&place, &[]);
    let address = server.url.trim_start_matches("https://");
    // Nothing, the beginning of a record of TLS, and what is none.
    let beginnings = [&b""[..], b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"];
    let mut open = beginnings.map(|beginning| {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.write_all(beginning).expect("sent");
        stream
    });
    let authority = place.path("tls.pem").display().to_string();
    let (authorization, sql) = (bearer(&secret), "SELECT 1 AS one");
    let flags = [&["--cacert", authority.as_str()][..], &flags(&authorization, sql)].concat();
    assert_eq!(server.curl("/v1/query", &flags).json(), json!([{ "one": 1 }]));
    for stream in &mut open {
        is_closed(stream, Duration::from_secs(20));
    }
    assert_eq!(server.curl("/v1/query", &flags).json(), json!([{ "one": 1 }]));
}

/// Makes a certificate for localhost with OpenSSL. Returns false where it is not there.
pub(super) fn certificate(place: &Place, name: &str) -> bool {
    let (key, certificate) = (place.path(&format!("{name}.key")), place.path(&format!("{name}.pem")));
    let subject = format!("/CN={name}");
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", &subject, "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        // rustls takes no authority's certificate for a server's.
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output();
    let is_made = made.is_ok_and(|output| output.status.success());
    assert!(is_made || std::env::var("CI").is_err(), "CI does not skip: openssl is missing");
    if is_made {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    }
    is_made
}

/// Returns a certificate in PEM whose last day is long ago. Its signature is of no use then.
fn expired(pem: &[u8]) -> String {
    let pem = String::from_utf8_lossy(pem);
    let text: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let mut der = base64::prelude::BASE64_STANDARD.decode(text).expect("PEM");
    // Tag and length of a time with a year of two digits, and its last letter. The second one is that of the end.
    let is_time = |it: &[u8]| it.starts_with(b"\x17\x0d") && it.ends_with(b"Z");
    let times: Vec<usize> = der.windows(15).enumerate().filter(|(_, it)| is_time(it)).map(|(at, _)| at).collect();
    der[times[1] + 2..times[1] + 15].copy_from_slice(b"200101000000Z");
    let text = base64::prelude::BASE64_STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

#[test]
fn tls_comes_from_files_that_are_read_anew() {
    let settings =
        "on = 'local'\n[server]\ntokens = 'tokens.toml'\ntls = { certificate = 'tls.pem', key = 'tls.key' }\n";
    let place = Place::new(settings);
    let (secret, lines) = token(&place, &["ada"]);
    write_private(&place.path("tokens.toml"), &lines);
    if !certificate(&place, "tls") || !certificate(&place, "second") {
        eprintln!("skipped: openssl is missing");
        return;
    }
    let mut server = Served::start(&place, &[]);
    assert!(server.url.starts_with("https://127.0.0.1:"), "{}", server.url);
    let authority = |name: &str| place.path(&format!("{name}.pem")).display().to_string();
    let ask = |name: &str, version: &str| {
        let (authorization, authority) = (bearer(&secret), authority(name));
        let flags = [&["--cacert", &authority, version][..], &flags(&authorization, "SELECT 1 AS one")].concat();
        server.curl("/v1/query", &flags)
    };
    for version in ["--http1.1", "--http2"] {
        assert_eq!(ask("tls", version).json(), json!([{ "one": 1 }]), "{version}");
        assert_eq!(ask("second", version).code, 60, "it is not that certificate");
    }
    for kind in ["key", "pem"] {
        std::fs::rename(place.path(&format!("tls.{kind}")), place.path(&format!("first.{kind}"))).expect("moved");
        std::fs::copy(place.path(&format!("second.{kind}")), place.path(&format!("tls.{kind}"))).expect("copied");
    }
    server.signal("HUP");
    wait_until("the certificate was read anew", || ask("second", "--http2").code == 0);
    server.signal("TERM");
    assert_eq!(server.ended(), Some(0));

    // A certificate that has expired, a key of another one, one that everybody can read, and a file that is none.
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    let renewed = std::fs::read(place.path("tls.pem")).expect("a certificate");
    std::fs::write(place.path("tls.pem"), expired(&renewed)).expect("written");
    fails(&place, &serve, 2, &["tls.pem: the certificate has expired, on 2020-01-01", "hint: renew it"]);
    std::fs::write(place.path("tls.pem"), renewed).expect("written");
    std::fs::copy(place.path("first.key"), place.path("tls.key")).expect("copied");
    fails(&place, &serve, 2, &["tls.pem: it does not go with", "tls.key"]);
    std::fs::set_permissions(place.path("tls.key"), std::fs::Permissions::from_mode(0o644)).expect("a mode");
    fails(&place, &serve, 2, &["tls.key: everybody on this machine can read it", "hint: chmod o="]);
    write_private(&place.path("tls.key"), "none");
    fails(&place, &serve, 2, &["tls.key: no private key in PEM"]);
    write_private(&place.path("tls.pem"), "none");
    fails(&place, &serve, 2, &["tls.pem: it has no certificate in PEM"]);
}

#[test]
fn other_machines_are_let_in_with_tokens_and_tls_only() {
    let serve = |more: &[&'static str]| [&["serve", "--listen", "0.0.0.0:0"], more].concat();
    let place = Place::new("on = 'local'\n");
    fails(&place, &serve(&[]), 2, &["can be reached from other machines", "no users", "gust token new"]);
    fails(&place, &serve(&["--behind-tls-proxy"]), 2, &["no users"]);
    let place = Place::new("on = 'local'\n[server]\ntokens = 'tokens.toml'\n");
    fails(&place, &serve(&[]), 2, &["no TLS", "--behind-tls-proxy"]);
    fails(&place, &serve(&["--behind-tls-proxy"]), 2, &["tokens.toml"]);
    let (secret, lines) = token(&place, &["ada"]);
    write_private(&place.path("tokens.toml"), &lines);
    let mut server = Served::start(&place, &["--behind-tls-proxy"]);
    assert_eq!(server.curl("/v1/query", &flags(&bearer(&secret), "SELECT 1 AS one")).json(), json!([{ "one": 1 }]));
    server.signal("TERM");
    assert_eq!(server.ended(), Some(0));
    std::fs::set_permissions(place.path("tokens.toml"), std::fs::Permissions::from_mode(0o644)).expect("a mode");
    fails(&place, &serve(&["--behind-tls-proxy"]), 2, &["everybody on this machine can read it"]);
}
