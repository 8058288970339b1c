//! A Lambda function that misbehaves on request: `faulty_bootstrap MODE MARK`. For tests only; see `gust_tests::invokers`.
//!
//! `function` runs behind the project's own adapter, `stock` behind lambda_runtime's, and `raw` speaks the Runtime API by hand.
//! `init-exit`, `init-error` and `init-hang` do not come up. `parent` has two functions of its own and waits to be killed.
//! `chaos-SEED` runs real fragments and fails at random (`gust_tests::chaos`). `parts-STAGE-FAULT` spoils rows on their way to other functions
//! (`gust_tests::lost_parts`). `once`, `once-crash`, `once-retry` and
//! `once-late` run one fragment and end, so that the process lives as long as its attempt. `once-crash` and `once-retry` spoil
//! each fragment's first attempt. `once-late` holds back all fragments but the first, by ten seconds.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fragment_fn::{Environment, EnvironmentSettings, handler};
use gust_engine::fleet::{Invoker, Processes};
use gust_protocol::{FragmentError, FragmentErrorKind, wire};
use gust_tests::chaos;
use gust_tests::invokers::{answer, echo_of, processes_config, request, wait_for};
use gust_tests::lost_parts::{self, Spoiling};
use gust_tests::s3::identity;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;

#[tokio::main]
#[expect(clippy::disallowed_methods, reason = "ending without a word is what it is asked for")]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, mode, mark] = arguments.as_slice() else { panic!("usage: faulty_bootstrap MODE MARK") };
    match mode.as_str() {
        "function" => {
            let ended = fragment_fn::bootstrap::serve(answer).await;
            eprintln!("{ended:?}");
        }
        "stock" => lambda_runtime::run(service_fn(stock)).await.expect("the runtime api stays"),
        "raw" => raw().await,
        "init-exit" => {
            eprintln!("asked to exit");
            std::process::exit(4);
        }
        "init-error" => {
            let body = br#"{"errorMessage":"asked to fail","errorType":"Test"}"#;
            call("POST", "/2018-06-01/runtime/init/error", body);
            std::future::pending().await
        }
        "init-hang" => std::future::pending().await,
        "once" | "once-crash" | "once-retry" | "once-late" => once(mode).await,
        "parent" => parent(Path::new(mark)).await,
        mode if mode.starts_with("parts-") => lost_parts(mode, mark.into()).await,
        _ => match mode.strip_prefix("chaos-").and_then(|seed| seed.parse().ok()) {
            Some(seed) => chaos(seed, mark.into()).await,
            None => panic!("unknown mode `{mode}`"),
        },
    }
}

/// Runs the project's own function with the faults of a seed.
async fn chaos(seed: u64, mark: PathBuf) {
    let settings = EnvironmentSettings { temp_folder: std::env::temp_dir(), ..EnvironmentSettings::default() };
    let environment = Arc::new(Environment::new(settings));
    let ended = fragment_fn::bootstrap::serve(move |payload, deadline| {
        let (environment, mark) = (Arc::clone(&environment), mark.clone());
        async move { chaos::answer(&environment, seed, &mark, payload, deadline).await }
    })
    .await;
    eprintln!("{ended:?}");
}

/// Runs the project's own function, which spoils rows in the exchange once.
async fn lost_parts(mode: &str, mark: PathBuf) {
    let spoiling: Spoiling = mode.parse().expect("a mode");
    let settings = EnvironmentSettings { temp_folder: std::env::temp_dir(), ..EnvironmentSettings::default() };
    let environment = Arc::new(Environment::new(settings));
    let ended = fragment_fn::bootstrap::serve(move |payload, deadline| {
        let (environment, mark) = (Arc::clone(&environment), mark.clone());
        async move { lost_parts::answer(&environment, spoiling, &mark, payload, deadline).await }
    })
    .await;
    eprintln!("{ended:?}");
}

/// Runs one fragment by the project's own handler. Its result goes through the exchange.
#[expect(clippy::disallowed_methods, reason = "its end is what is measured")]
async fn once(mode: &str) {
    let runtime = "/2018-06-01/runtime";
    let environment = Arc::new(Environment::new(EnvironmentSettings::default()));
    let (_, invocation, payload) = call("GET", &format!("{runtime}/invocation/next"), b"");
    let mut request = wire::decode_request(&identity::of_this_process(payload.into())).expect("a valid request");
    request.fragment.limits.inline_bytes_max = 0;
    let deadline = SystemTime::UNIX_EPOCH + Duration::from_millis(request.deadline_unix_ms);
    let payload = wire::encode_request(&request).expect("it was decoded");
    let mut answer = handler::handle(&environment, payload, deadline).await;
    match mode {
        "once-late" if request.fragment.id.index > 0 => tokio::time::sleep(Duration::from_secs(10)).await,
        "once-crash" if request.attempt == 0 => std::process::exit(3),
        "once-retry" if request.attempt == 0 => {
            let mut response = wire::decode_response(&answer).expect("the handler's own answer");
            response.outcome = Err(FragmentError::new(FragmentErrorKind::Storage, "asked to fail"));
            answer = wire::encode_response(&response).expect("a response is JSON");
        }
        _ => {}
    }
    let invocation = invocation.expect("an invocation has an id");
    call("POST", &format!("{runtime}/invocation/{invocation}/response"), &answer);
    std::process::exit(0);
}

async fn stock(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let payload = Bytes::from(event.payload.to_string());
    let answer = answer(payload, event.context.deadline()).await;
    Ok(serde_json::from_slice(&answer)?)
}

/// Makes every mistake that the Runtime API must refuse around each invocation. Panics where one is not refused.
async fn raw() {
    let runtime = "/2018-06-01/runtime";
    loop {
        let (status, id, payload) = call("GET", &format!("{runtime}/invocation/next"), b"");
        assert_eq!(status, 200);
        let id = id.expect("an invocation has an id");
        let answer = answer(payload.into(), SystemTime::now()).await;
        let response = format!("{runtime}/invocation/{id}/response");
        assert_eq!(call("POST", &format!("{runtime}/invocation/another/response"), &answer).0, 400);
        assert_eq!(call("POST", &format!("{runtime}/invocation/another/error"), b"{}").0, 400);
        assert_eq!(call("GET", "/../guessed/2018-06-01/runtime/invocation/next", b"").0, 403);
        assert_eq!(call("POST", &response, &answer).0, 202);
        assert_eq!(call("POST", &response, &answer).0, 400, "an invocation is answered once");
    }
}

/// Makes an HTTP/1.0 request and returns status, request id and body. A path that begins with `/../` replaces the base path.
fn call(method: &str, path: &str, body: &[u8]) -> (u16, Option<String>, Vec<u8>) {
    let base = std::env::var("AWS_LAMBDA_RUNTIME_API").expect("a child of the invoker");
    let (authority, token) = base.strip_prefix("http://").and_then(|base| base.split_once('/')).expect("a base url");
    let path = path.strip_prefix("/..").map_or_else(|| format!("/{token}{path}"), str::to_owned);
    let mut stream = TcpStream::connect(authority).expect("the runtime api listens");
    write!(stream, "{method} {path} HTTP/1.0\r\ncontent-length: {}\r\n\r\n", body.len())
        .expect("the runtime api reads");
    stream.write_all(body).expect("the runtime api reads");
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).expect("a status line");
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let mut id = None;
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).expect("a header");
        if let Some(value) = line.strip_prefix("lambda-runtime-aws-request-id: ") {
            id = Some(value.trim_end().to_owned());
        }
    }
    let mut body = Vec::new();
    reader.read_to_end(&mut body).expect("a body");
    (status, id, body)
}

/// Starts an idle function and a busy one. Prints the idle one's echo on stdout.
async fn parent(mark: &Path) {
    let program = std::env::current_exe().expect("its own path");
    let processes = Processes::start(processes_config(&program, "function", &mark.join("child"), 2)).await;
    let processes = processes.expect("a free port");
    let gate = mark.join("busy");
    let busy = processes.invoke(request(&format!("hang:{}", gate.display())));
    let idle = async {
        wait_for(|| gate.with_extension("entered").exists()).await;
        let invocation = processes.invoke(request("echo")).await;
        let echo = serde_json::to_string(&echo_of(&invocation)).expect("an echo is JSON");
        writeln!(std::io::stdout(), "{echo}").expect("the test reads");
    };
    tokio::join!(busy, idle);
}
