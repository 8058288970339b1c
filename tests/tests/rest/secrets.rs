//! No secret shows: the program runs with all it may tell, and whatever it has told or left is looked through.

use std::process::{Command, Output, Stdio};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use fragment_fn::handler::handle;
use fragment_fn::{Environment, EnvironmentSettings};

use super::*;

/// Secrets of a run: of the catalog's client, of its tokens, of the lent credentials, and of the coordinator's own keys.
const SECRETS: [&str; 5] =
    ["client-secret", "bearer-secret-", "lent-session-token", "own-session-token", SECRET_ACCESS_KEY];

/// Texts that the program has told or left, each with its place.
type Told = Vec<(String, Vec<u8>)>;

impl Lake {
    /// Runs the program with everything that it may tell, and keeps all of it.
    fn gust(&self, arguments: &[&str], told: &mut Told) -> Output {
        let report = self.folder.path().join(format!("report-{}.json", told.len()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_gust_under_test"));
        command
            .args(["query", "-vv", "--report", "json", "--report-file"])
            .arg(&report)
            .args(arguments)
            .current_dir(self.folder.path())
            .env("GUST_LOG", "trace")
            .env("RUST_BACKTRACE", "1")
            .env("XDG_STATE_HOME", self.folder.path().join("state"))
            .env("GUST_PROCESS__PROGRAM", env!("CARGO_BIN_EXE_bootstrap_under_test"))
            .env("GUST_CATALOGS__LAKE__OAUTH2_CLIENT_SECRET", "client-secret")
            .env("GUST_S3__SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)
            .env("GUST_S3__SESSION_TOKEN", "own-session-token")
            .env("RUST_LOG", "trace")
            .stdin(Stdio::null());
        let output = command.output().expect("the program starts");
        told.push((format!("stdout of {arguments:?}"), output.stdout.clone()));
        told.push((format!("stderr of {arguments:?}"), output.stderr.clone()));
        told.push((format!("report of {arguments:?}"), std::fs::read(&report).unwrap_or_default()));
        output
    }
}

/// Reads all files below a folder.
fn files(folder: &Path, told: &mut Told) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("readable").path();
        match path.is_dir() {
            true => files(&path, told),
            false => told.push((path.display().to_string(), std::fs::read(&path).expect("readable"))),
        }
    }
}

fn contains(text: &[u8], word: &str) -> bool {
    String::from_utf8_lossy(text).contains(word)
}

/// Puts keys into the accesses of a request that have none. On Lambda those are of the function's role.
fn with_its_role(payload: &[u8]) -> Bytes {
    let mut request: serde_json::Value = serde_json::from_slice(payload).expect("a request");
    for access in request["access"].as_array_mut().expect("a list") {
        if access["options"]["aws_access_key_id"].is_null() {
            access["options"]["aws_access_key_id"] = access::cloud_key().into();
            access["options"]["aws_secret_access_key"] = SECRET_ACCESS_KEY.into();
        }
    }
    request.to_string().into()
}

/// Starts a service that answers as Lambda does: it knows one function, and runs it. Returns its endpoint.
async fn lambda() -> String {
    async fn any(State(environment): State<Arc<Environment>>, method: Method, uri: Uri, body: Bytes) -> Response {
        match (method, uri.path()) {
            (Method::POST, path) if path.ends_with("/invocations") => {
                handle(&environment, with_its_role(&body), far()).await.into_response()
            }
            (_, path) if path.ends_with("/aliases/live") => r#"{"Name":"live","FunctionVersion":"7"}"#.into_response(),
            (_, path) if path.contains("/functions/gust") => {
                r#"{"FunctionName":"gust","Version":"7","MemorySize":2048,"Timeout":60,"State":"Active",
                    "Architectures":["arm64"],"EphemeralStorage":{"Size":512}}"#
                    .into_response()
            }
            _ => r#"{"AccountLimit":{"ConcurrentExecutions":10}}"#.into_response(),
        }
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let environment = Arc::new(Environment::new(EnvironmentSettings::default()));
    let router = axum::Router::new().fallback(any).layer(DefaultBodyLimit::disable()).with_state(environment);
    tokio::spawn(async move { axum::serve(listener, router).await });
    endpoint
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_a_run_shows_anywhere() {
    let lake = Lake::new(oauth2(Duration::from_secs(600))).await;
    let lending = Lending { keys: lake.s3.lent().clone(), life: Duration::from_secs(600), prefix: None };
    let config = format!(
        "exchange = '{}'\n[catalogs.lake]\ntype = 'rest'\nuri = '{}'\nallow_http = true\noauth2_client_id = 'gust'\n\
         [catalogs.glue]\ntype = 'glue'\nregion = 'eu-central-1'\naccount = '012345678901'\nuri = '{}'\nallow_http = true\n\
         [lambda]\nregion = 'eu-central-1'\nendpoint = '{}'\nfunctions = ['gust:live']\n\
         [s3]\nendpoint = '{}'\nregion = '{}'\nallow_http = true\npath_style = true\naccess_key_id = '{}'\n",
        lake.s3.url("exchange"),
        lake.server.endpoint(),
        lake.server.endpoint(),
        lambda().await,
        lake.s3.endpoint(),
        gust_tests::s3::REGION,
        access::cloud_key(),
    );
    std::fs::write(lake.folder.path().join("gust.toml"), config).expect("written");
    // A plan that is too large for a request goes through the exchange. Few long names make it as large as many short ones, and are
    // traced in a tenth of the time.
    let names = (0..300).map(|number| format!("'none {number:01000}'")).collect::<Vec<_>>().join(", ");
    let join = format!(
        "SELECT a.id, b.name FROM lake.sales.orders a JOIN lake.sales.customers b ON a.id + 1000 = b.id
         WHERE a.name NOT IN ({names})"
    );
    std::fs::write(lake.folder.path().join("join.sql"), &join).expect("written");
    std::fs::write(
        lake.folder.path().join("explain.sql"),
        format!("EXPLAIN {join}; EXPLAIN COST {join}; EXPLAIN ANALYZE {join}"),
    )
    .expect("written");
    let others = "SHOW CATALOGS; SHOW TABLES IN lake.sales; DESCRIBE lake.sales.orders; SHOW ALL;
         SELECT * FROM lake.sales.\"orders$files\"; SELECT * FROM lake.sales.\"orders$properties\"";
    let mut told = Told::new();
    let lent = lake.s3.lent().count();
    for on in ["local", "processes", "lambda"] {
        lake.server.set(|rules| (rules.lends, rules.faults) = (Some(lending.clone()), Vec::new()));
        lake.s3.take_requests();
        for arguments in [["--file", "join.sql"], ["--file", "explain.sql"]] {
            let output = lake.gust(&[&["--on", on, "--functions", "2"], arguments.as_slice()].concat(), &mut told);
            let words = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && words.contains("TRACE"), "{on}: {arguments:?}: {words}");
        }
        let report =
            told.iter().find(|(place, _)| place.starts_with("report") && place.contains("join") && place.contains(on));
        let report: serde_json::Value = serde_json::from_slice(&report.expect("a report").1).expect("JSON");
        assert_eq!(report["fragments_adopted"].as_u64().unwrap_or(0) > 0, on != "local", "{report}");
        let keys = lake.s3.requests();
        let objects =
            keys.iter().filter(|request| request.key.starts_with("exchange/")).map(|request| request.key.clone());
        let objects = objects.collect::<Vec<_>>().join("\n");
        assert_eq!(!objects.is_empty(), on != "local", "{objects}");
        told.push(("names in the exchange".to_owned(), objects.into_bytes()));
        let output = lake.gust(&["--on", on, others], &mut told);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

        let sql = "SELECT sum(id) FROM lake.sales.orders WHERE name <> 'x'";
        // Keys that the store refuses, a catalog that quotes what it was sent, and one that does not speak the protocol.
        let ended = Lending { life: Duration::ZERO, ..lending.clone() };
        let elsewhere = Lending { prefix: Some("s3://gust-test/elsewhere/".to_owned()), ..lending.clone() };
        let quoting = Fault {
            body: "{\"error\": {\"message\": \"no, {authorization} of client-secret\"}}".to_owned(),
            ..Fault::new("/tables/orders", 403, 99)
        };
        let foreign =
            Fault { body: "{\"access_token\": \"{authorization}\"}".to_owned(), ..Fault::new("/v1/config", 200, 99) };
        let refused = lake.s3.lent().refused();
        for (lends, faults, expect) in [
            (ended, vec![], "ExpiredToken"),
            (elsewhere, vec![], "elsewhere"),
            (lending.clone(), vec![quoting], "(hidden)"),
            (lending.clone(), vec![foreign], "Iceberg's REST protocol"),
        ] {
            lake.server.set(|rules| (rules.lends, rules.faults) = (Some(lends), faults));
            let output = lake.gust(&["--on", on, "--functions", "2", sql], &mut told);
            let words = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && words.contains(expect), "{on}: {expect}: {words}");
        }
        assert!(lake.s3.lent().refused() > refused, "{on}: the store refused a key that had ended");
    }
    // Requests that are signed with a session token, and a catalog that quotes what it was signed for.
    for service in ["glue", "other"] {
        let (service, region) = (service.to_owned(), "eu-central-1".to_owned());
        let (key_id, secret) = (access::cloud_key(), SECRET_ACCESS_KEY.to_owned());
        let access = Access::SigV4 { service: service.clone(), region, key_id, secret };
        lake.server.set(|rules| (rules.access, rules.faults) = (access, Vec::new()));
        let output = lake.gust(&["--on", "local", "SELECT sum(id) FROM glue.sales.orders"], &mut told);
        assert_eq!(output.status.success(), service == "glue", "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(lake.s3.lent().count() > lent, "keys were lent");
    files(&lake.folder.path().join("state"), &mut told);
    assert!(told.iter().any(|(place, bytes)| place.ends_with("history.db") && contains(bytes, "lake.sales.orders")));
    let shown = told.iter().flat_map(|(place, bytes)| {
        let text = String::from_utf8_lossy(bytes);
        SECRETS.iter().filter(move |secret| text.contains(**secret)).map(move |secret| format!("{secret}: {place}"))
    });
    let shown: Vec<String> = shown.collect();
    assert!(shown.is_empty(), "{shown:#?}");
}
