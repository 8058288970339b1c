//! Answers of Lambda instead of a result, from a server that gives just that answer: each has its outcome, next step and bill.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use gust_engine::attempt::{Billing, Invocation, InvokeErrorKind as Kind};
use gust_engine::config::{S3Config, Secret};
use gust_engine::fleet::{Invoker, Lambda, PinnedFunction};
use gust_tests::invokers::{due_in, request};
use tempfile::TempDir;

/// Answer of the service: status, error code, function error, log, body.
#[derive(Debug, Clone, Copy, Default)]
struct Answer {
    status: u16,
    code: Option<&'static str>,
    function_error: Option<&'static str>,
    log: &'static str,
    body: &'static str,
}

const REFUSED: &str = r#"{"Message":"asked to refuse","message":"asked to refuse"}"#;

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        use base64::prelude::{BASE64_STANDARD, Engine};
        let mut response = (StatusCode::from_u16(self.status).expect("a status"), self.body).into_response();
        let log = BASE64_STANDARD.encode(self.log);
        let headers = [
            ("x-amzn-errortype", self.code),
            ("x-amz-function-error", self.function_error),
            ("x-amz-log-result", (!log.is_empty()).then_some(log.as_str())),
        ];
        for (name, value) in headers.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            response.headers_mut().insert(name, value.parse().expect("a header"));
        }
        response
    }
}

/// Starts a service that answers every invocation alike, knows one function and a quota of 10. Returns its endpoint.
async fn service(answer: Answer) -> String {
    async fn any(State(answer): State<Answer>, method: Method, uri: Uri, _: Bytes) -> Response {
        match uri.path() {
            "/2016-08-19/account-settings/" | "/2016-08-19/account-settings" => {
                r#"{"AccountLimit":{"ConcurrentExecutions":10}}"#.into_response()
            }
            path if method == Method::GET && answer.status == 200 && path.ends_with("/aliases/live") => {
                r#"{"Name":"live","FunctionVersion":"7"}"#.into_response()
            }
            path if method == Method::GET && answer.status == 200 && path.contains("/functions/gust") => {
                r#"{"FunctionName":"gust","Version":"7","MemorySize":2048,"Timeout":60,"State":"Active",
                    "Architectures":["arm64"],"EphemeralStorage":{"Size":512}}"#
                    .into_response()
            }
            _ => answer.into_response(),
        }
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let router = Router::new().fallback(any).with_state(answer);
    tokio::spawn(async move { axum::serve(listener, router).await });
    endpoint
}

async fn invoke(endpoint: &str, request: gust_protocol::InvokeRequest) -> Invocation {
    let keys = S3Config {
        access_key_id: Some("key".to_owned()),
        secret_access_key: Some(Secret::new("secret")),
        ..S3Config::default()
    };
    let sdk = gust_engine::storage::aws::sdk_config(&keys, Some("eu-central-1"), Some(endpoint)).await;
    let clones = vec![PinnedFunction { name: "gust".to_owned(), version: "7".to_owned() }];
    Lambda::new(&sdk, clones, 4).invoke(request).await
}

const fn refusal(status: u16, code: &'static str) -> Answer {
    Answer { status, code: Some(code), function_error: None, log: "", body: REFUSED }
}

const fn failure(body: &'static str, log: &'static str) -> Answer {
    Answer { status: 200, code: None, function_error: Some("Unhandled"), log, body }
}

const REPORT: &str =
    "REPORT RequestId: x\tDuration: 41.20 ms\tBilled Duration: 42 ms\tMemory Size: 128 MB\tMax Memory Used: 128 MB\t\n";
const INIT: &str = "INIT_REPORT Init Duration: 10.00 ms\tPhase: init\tStatus: error\tError Type: Runtime.ExitError\nREPORT RequestId: x\tDuration: 41.20 ms\tBilled Duration: 42 ms\tMemory Size: 128 MB\tMax Memory Used: 16 MB\t\n";

/// Charge of an attempt: nothing, the log's time, the time seen from outside, or at most the time until the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Charge {
    Nothing,
    Reported,
    Metered,
    Bounded,
}

fn charge(billing: Billing) -> Charge {
    match billing {
        Billing::Metered { duration: Duration::ZERO, init: Duration::ZERO } => Charge::Nothing,
        Billing::Metered { .. } => Charge::Metered,
        Billing::Reported { duration, memory_mb: 128, .. } if duration == Duration::from_millis(42) => Charge::Reported,
        Billing::Reported { .. } => panic!("not what the log says: {billing:?}"),
        Billing::Bounded { at_most } => {
            assert!(at_most > Duration::from_secs(50), "a minute was left: {at_most:?}");
            Charge::Bounded
        }
    }
}

/// Words of an error, in the field that has them.
#[derive(Debug, Clone, Copy)]
enum Words {
    Message(&'static str),
    Hint(&'static str),
}

use Words::{Hint, Message};

#[tokio::test]
async fn every_answer_has_its_kind_and_its_bill() {
    let timed_out = r#"{"errorType":"Sandbox.Timedout","errorMessage":"2026-11-20T08:30:12Z x Task timed out after 60.00 seconds"}"#;
    let killed = r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: x Error: Runtime exited with error: signal: killed"}"#;
    let exited = r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: x Error: Runtime exited with error: exit status 3"}"#;
    let too_large = r#"{"errorType":"Function.ResponseSizeTooLarge","errorMessage":"Response payload size exceeded"}"#;
    let cases = [
        (refusal(403, "ExpiredTokenException"), Kind::AccessDenied, Hint("gust doctor"), Charge::Nothing),
        (refusal(403, "AccessDeniedException"), Kind::AccessDenied, Hint("lambda:InvokeFunction"), Charge::Nothing),
        (refusal(400, "UnrecognizedClientException"), Kind::AccessDenied, Hint("credentials"), Charge::Nothing),
        (refusal(404, "ResourceNotFoundException"), Kind::NotDeployed, Hint("terraform"), Charge::Nothing),
        (refusal(413, "RequestTooLargeException"), Kind::RequestTooLarge, Message("asked to refuse"), Charge::Nothing),
        (refusal(429, "TooManyRequestsException"), Kind::Throttled, Message("asked to refuse"), Charge::Nothing),
        (refusal(409, "ResourceConflictException"), Kind::Unavailable, Message("asked to refuse"), Charge::Nothing),
        (refusal(500, "ServiceException"), Kind::Unavailable, Message("asked to refuse"), Charge::Bounded),
        (refusal(502, "EFSIOException"), Kind::Unavailable, Message("asked to refuse"), Charge::Bounded),
        (refusal(400, "InvalidRequestContentException"), Kind::Protocol, Message("asked to refuse"), Charge::Nothing),
        (failure(timed_out, REPORT), Kind::TimedOut, Message("deadline"), Charge::Reported),
        (failure(timed_out, REPORT), Kind::TimedOut, Hint("raise timeout_seconds"), Charge::Reported),
        (failure(killed, REPORT), Kind::OutOfMemory, Message("all of its 128 MB"), Charge::Reported),
        (failure(killed, REPORT), Kind::OutOfMemory, Hint("a function with more memory"), Charge::Reported),
        (failure(killed, INIT), Kind::InitFailed, Message("did not start"), Charge::Reported),
        (failure(killed, ""), Kind::Crashed, Message("signal: killed"), Charge::Metered),
        (failure(exited, REPORT), Kind::Crashed, Message("exit status 3"), Charge::Reported),
        (failure(too_large, REPORT), Kind::ResponseTooLarge, Message("larger than"), Charge::Reported),
        (failure("not even JSON", ""), Kind::Crashed, Message("ended while it ran"), Charge::Metered),
        (
            Answer { status: 200, body: "{}", log: REPORT, ..Answer::default() },
            Kind::Protocol,
            Message("not a response"),
            Charge::Reported,
        ),
    ];
    for (answer, kind, expect, expected_charge) in cases {
        let invocation = invoke(&service(answer).await, request("echo")).await;
        let error = invocation.outcome.as_ref().expect_err("a refusal");
        assert_eq!(error.kind, kind, "{answer:?}: {error}");
        let has = match expect {
            Message(words) => error.message.contains(words),
            Hint(words) => error.hint.as_ref().is_some_and(|hint| hint.contains(words)),
        };
        assert!(has, "no {expect:?} in {error:?}");
        assert_eq!(charge(invocation.billing), expected_charge, "{answer:?}");
    }
}

#[tokio::test]
async fn a_service_that_is_gone_or_silent_is_unavailable_or_late() {
    let gone = invoke("http://127.0.0.1:9", request("echo")).await;
    assert_eq!(gone.outcome.expect_err("nobody listens").kind, Kind::Unavailable);
    assert_eq!(charge(gone.billing), Charge::Nothing, "nothing was sent");

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let reset = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("the invoker calls");
        let mut seen = [0; 64];
        tokio::io::AsyncReadExt::read_exact(&mut socket, &mut seen).await.expect("a request");
    });
    let cut = invoke(&endpoint, request("echo")).await;
    reset.await.expect("it was asked");
    assert_eq!(cut.outcome.expect_err("cut off").kind, Kind::Unavailable);
    assert_eq!(charge(cut.billing), Charge::Bounded, "it may have run");

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    // It is sent by then, and nothing is billed for one that is not.
    let silent = invoke(&endpoint, due_in(request("echo"), Duration::from_secs(1))).await;
    assert_eq!(silent.outcome.expect_err("no answer").kind, Kind::TimedOut);
    assert!(matches!(silent.billing, Billing::Bounded { at_most } if at_most >= Duration::from_secs(1)));
    drop(listener);
}

/// Runs the program with a configuration and no AWS account around it.
fn gust(folder: &Path, configuration: &str, arguments: &[&str]) -> Output {
    std::fs::write(folder.join("gust.toml"), configuration).expect("writable");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gust_under_test"));
    gust_tests::localstack::without_aws(&mut command);
    command.env("HOME", folder).env_remove("XDG_STATE_HOME");
    command.env("AWS_EC2_METADATA_DISABLED", "true").env_remove("GUST_LOG");
    command.current_dir(folder).args(arguments).stdin(Stdio::null()).output().expect("gust")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_part_of_a_lambda_setup_is_named() {
    let folder = TempDir::new().expect("a temporary folder");
    let missing = service(refusal(404, "ResourceNotFoundException")).await;
    let expired = service(refusal(403, "ExpiredTokenException")).await;
    let known = service(Answer { status: 200, ..Answer::default() }).await;
    let exchange = "exchange = 's3://exchange/results'\n";
    let keys = |endpoint: &str| {
        format!(
            "{exchange}[s3]\nallow_http = true\naccess_key_id = 'a'\nsecret_access_key = 'b'\n[lambda]\nregion = 'eu-central-1'\nendpoint = '{endpoint}'\nfunctions = ['gust:live']"
        )
    };
    let in_region = "[lambda]\nregion = 'eu-central-1'\nfunctions = ['gust:live']";
    let elsewhere =
        "[lambda]\nregion = 'eu-west-1'\nfunctions = ['arn:aws:lambda:eu-central-1:123456789012:function:gust:live']";
    let other_size = format!("{}\nmemory_mb = 512", keys(&known));
    let cases = [
        (
            exchange.to_owned(),
            3,
            "no function is configured for Lambda",
            "put what `terraform output -raw gust_toml` prints",
        ),
        (in_region.to_owned(), 2, "functions on Lambda need an exchange in S3", "set exchange ="),
        (
            format!("{exchange}[lambda]\nfunctions = ['gust:live']"),
            3,
            "no AWS region is set for Lambda",
            "set lambda.region",
        ),
        (
            format!("{exchange}{elsewhere}"),
            3,
            "is in eu-central-1, but Lambda is asked in eu-west-1",
            "set lambda.region to eu-central-1",
        ),
        (format!("{exchange}{in_region}"), 3, "no AWS credentials", "set AWS_PROFILE"),
        (
            keys(&missing),
            3,
            "function `gust:live`: ResourceNotFoundException: asked to refuse",
            "deploy it (`terraform -chdir=infra apply`)",
        ),
        (keys(&expired), 3, "function `gust:live`: ExpiredTokenException: asked to refuse", "check the credentials"),
        (other_size, 3, "no function of 512 MB is configured", "lambda.memory_mb must be one of 2048"),
        (
            keys(&known),
            3,
            "functions on Lambda cannot read this machine's files; put the table into S3",
            "use --on local",
        ),
    ];
    std::fs::create_dir(folder.path().join("t")).expect("made");
    let table = folder.path().join("t/a.parquet");
    plain_parquet(&table).await;
    for (configuration, code, expect, next) in cases {
        let output =
            gust(folder.path(), &configuration, &["query", "--on", "lambda", "SELECT sum(x) FROM 't/a.parquet'"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let (message, hint) = stderr.split_once("\nhint: ").unwrap_or((stderr.as_ref(), ""));
        assert!(
            message.ends_with(expect) || message.contains(&format!("{expect}: ")),
            "`{expect}` is not in: {stderr}"
        );
        assert!(hint.starts_with(next), "`{next}` is no hint in: {stderr}");
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(output.stdout.is_empty());
    }

    // A query that may go on without functions says why, and what to do.
    let decided = "local: functions cannot be used: function `gust:live`: ResourceNotFoundException: asked to refuse\n           hint: deploy it";
    let allowed = ["query", "--on", "lambda", "--allow-fallback", "SELECT sum(x) FROM 't/a.parquet'"];
    let output = gust(folder.path(), &keys(&missing), &allowed);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains(decided), "{stderr}");

    let configuration = format!("invoker = 'lambda'\n{}", keys(&missing));
    let output = gust(folder.path(), &configuration, &["query", "SELECT sum(x) FROM 't/a.parquet'"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains(decided), "{stderr}");
    let output =
        gust(folder.path(), &configuration, &["query", "--report", "json", "SELECT sum(x) FROM 't/a.parquet'"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stderr).expect("a report");
    let decision = &report["decision"];
    assert_eq!(decision["reason"]["unavailable"], "function `gust:live`: ResourceNotFoundException: asked to refuse");
    assert!(decision["hint"].as_str().is_some_and(|hint| hint.starts_with("deploy it")), "{decision}");

    let output = gust(folder.path(), &keys(&known), &["doctor", "--on", "lambda"]);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        stdout.contains("ok   functions       1 of 2048 MB, 512 MB temporary, 60 s, arm64: gust:7"),
        "{stdout}{stderr}"
    );
    assert!(stdout.contains("ok   quota           10 functions at once, of which a query uses up to 4"), "{stdout}");
    let few = format!("functions_max = 64\n{}", keys(&known));
    let output = gust(folder.path(), &few, &["doctor", "--on", "lambda"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        stdout.contains("FAIL quota           the account may run 10 functions at once, functions_max is 64"),
        "{stdout}"
    );
    assert!(stdout.contains("\n                     hint: ask AWS for more"), "{stdout}");
    assert_eq!(output.status.code(), Some(3));
}

async fn plain_parquet(path: &Path) {
    let copy = format!("COPY (SELECT 1 AS x) TO '{}' STORED AS PARQUET", path.display());
    gust_tests::query::plain(&[], &copy).await;
}
