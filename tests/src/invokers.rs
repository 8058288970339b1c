//! A function that misbehaves on request, and the invokers that run it.
//!
//! The request's query id names the misbehaviour, so one function serves every case in every invoker:
//!
//! | query id | the function |
//! |---|---|
//! | `echo` | answers with its process id and temporary folder |
//! | `error:KIND` | answers with that fragment error |
//! | `size:BYTES` | answers with a response of that length |
//! | `misaddressed` | answers for another fragment |
//! | `garbage` | answers with JSON that is no response |
//! | `gate:PATH` | makes the file `PATH.entered`, waits for the file `PATH.open`, echoes |
//! | `hang:PATH` | makes the file `PATH.entered`, never answers |
//! | `panic`, `exit:CODE`, `kill` | does that (`kill` is SIGKILL to itself) |
//! | `memory:MIB` | holds that much memory, waits a second, echoes |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::FutureExt;
use gust_engine::attempt::Invocation;
use gust_engine::fleet::{InProcess, Invoker, Lambda, Processes, ProcessesConfig, describe};
use gust_protocol::version::{PROTOCOL_VERSION, fingerprint};
use gust_protocol::{
    AccessTable, AheadBounds, Base64, Fragment, FragmentError, FragmentErrorKind, FragmentId, FragmentLimits,
    FragmentResponse, FragmentResult, InvokeRequest, Output, PlanRef, StagePlan, StreamSummary, Usage, wire,
};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::localstack::{self, Setup};

/// Longest time that a test waits for something that must happen. It is far above the need: only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Facts that an echo tells about its function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    pub process_id: u32,
    pub temp_folder: PathBuf,
}

/// Answers as the request's query id says.
#[expect(clippy::disallowed_methods, reason = "ending without a word is what it is asked for")]
pub async fn answer(payload: Bytes, _deadline: SystemTime) -> Bytes {
    let request = wire::decode_request(&payload).expect("the suite sends valid requests");
    let query = request.fragment.id.query.as_str();
    eprintln!("fault fired: {query}");
    let (fault, argument) = query.split_once(':').unwrap_or((query, ""));
    match fault {
        "echo" => echo(&request),
        "error" => {
            let kind = serde_json::from_value(argument.into()).expect("a kind's name");
            respond(&request, Err(FragmentError::new(kind, format!("asked for {argument}"))))
        }
        "size" => sized(&request, argument.parse().expect("a length in bytes")),
        "misaddressed" => {
            let mut other = request;
            other.fragment.id.index += 1;
            echo(&other)
        }
        "garbage" => Bytes::from_static(b"{\"garbage\":true}"),
        "gate" => {
            touch(Path::new(&format!("{argument}.entered")));
            wait_for(|| Path::new(&format!("{argument}.open")).exists()).await;
            echo(&request)
        }
        "hang" => {
            touch(Path::new(&format!("{argument}.entered")));
            std::future::pending().await
        }
        "memory" => {
            let mebibytes: usize = argument.parse().expect("a size in MiB");
            // The memory is written, so that its pages are really there.
            let held = vec![1u8; mebibytes << 20];
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(held.iter().step_by(4096).all(|byte| *byte == 1));
            echo(&request)
        }
        "panic" => panic!("asked to panic"),
        "exit" => std::process::exit(argument.parse().expect("an exit code")),
        "kill" => {
            let this = std::process::id().to_string();
            let _ = std::process::Command::new("kill").args(["-KILL", &this]).status();
            std::future::pending().await
        }
        _ => panic!("unknown fault `{query}`"),
    }
}

fn echo(request: &InvokeRequest) -> Bytes {
    let echo = Echo { process_id: std::process::id(), temp_folder: std::env::temp_dir() };
    let bytes = serde_json::to_vec(&echo).expect("an echo is JSON");
    let part = StreamSummary { bytes: bytes.len() as u64, rows: request.fragment.id.index.into(), crc32: 0 };
    respond(request, Ok(FragmentResult::Inline { part, bytes: Base64(bytes.into()) }))
}

fn sized(request: &InvokeRequest, bytes: usize) -> Bytes {
    let with_message =
        |length: usize| respond(request, Err(FragmentError::new(FragmentErrorKind::Execution, "x".repeat(length))));
    let answer = with_message(bytes - with_message(0).len());
    assert_eq!(answer.len(), bytes);
    answer
}

fn respond(request: &InvokeRequest, outcome: Result<FragmentResult, FragmentError>) -> Bytes {
    let InvokeRequest { fragment, attempt, .. } = request;
    let response = FragmentResponse {
        version: PROTOCOL_VERSION,
        id: fragment.id.clone(),
        attempt: *attempt,
        outcome,
        usage: Usage::default(),
    };
    wire::encode_response(&response).expect("a response is JSON")
}

fn touch(path: &Path) {
    std::fs::write(path, "").expect("the test's folder is writable");
}

/// Returns the echo of a function's answer. Panics where there is none.
pub fn echo_of(invocation: &Invocation) -> Echo {
    let outcome = &invocation.outcome.as_ref().unwrap_or_else(|error| panic!("{error}: {invocation:?}")).outcome;
    let Ok(FragmentResult::Inline { bytes, .. }) = outcome else { panic!("{outcome:?}") };
    serde_json::from_slice(&bytes.0).expect("an echo is JSON")
}

/// Waits until `holds`. Panics after a minute.
pub async fn wait_for(holds: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "waited {} s in vain", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Returns a request for the function, due in a minute.
pub fn request(query: &str) -> InvokeRequest {
    let deadline = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970") + PATIENCE;
    InvokeRequest {
        version: PROTOCOL_VERSION,
        fingerprint: fingerprint().to_owned(),
        fragment: Fragment {
            id: FragmentId { query: query.to_owned(), stage: 1, index: 7 },
            inputs: Vec::new(),
            parts: Vec::new(),
            limits: FragmentLimits {
                memory_bytes_max: 1 << 20,
                temp_bytes_max: 1 << 20,
                bridge_bytes: 1 << 20,
                inline_bytes_max: 1 << 20,
                ahead: AheadBounds::default(),
                late_columns_percent_max: 0,
            },
        },
        attempt: 2,
        deadline_unix_ms: deadline.as_millis() as u64,
        access: AccessTable::default(),
        stage: StagePlan {
            plan: PlanRef::Inline(Base64::default()),
            leaves: Vec::new(),
            output: Output::Gather { access: 0, prefix: String::new() },
            options: BTreeMap::new(),
            scalars: Vec::new(),
            shared: Vec::new(),
        },
    }
}

/// Returns `request` with a deadline `left` from now.
pub fn due_in(mut request: InvokeRequest, left: Duration) -> InvokeRequest {
    let deadline = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970") + left;
    request.deadline_unix_ms = deadline.as_millis() as u64;
    request
}

/// Returns `request`, filled up to an exact length on the wire.
pub fn padded(mut request: InvokeRequest, bytes: usize) -> InvokeRequest {
    request.stage.options.insert("padding".to_owned(), String::new());
    let bare = wire::encode_request(&request).expect("a request is JSON").len();
    request.stage.options.insert("padding".to_owned(), "x".repeat(bytes - bare));
    request
}

/// Invoker under test, with the promises of its kind.
#[derive(Debug)]
pub struct Subject {
    pub invoker: Arc<dyn Invoker>,
    /// True where the invoker starts environments and reports their starts.
    pub starts: bool,
    /// Folder for gates. Its name marks the subject's processes.
    pub folder: TempDir,
}

impl Subject {
    /// Runs the function as tasks of the test.
    pub fn in_process(concurrency_max: usize) -> Self {
        let handler = Arc::new(|payload, deadline| answer(payload, deadline).boxed());
        let invoker = Arc::new(InProcess::with_handler(handler, concurrency_max));
        Self { invoker, starts: false, folder: TempDir::new().expect("a temporary folder") }
    }

    /// Runs `program MODE MARK` as child processes.
    pub async fn processes(program: &str, mode: &str, processes_max: usize) -> (Self, Arc<Processes>) {
        let folder = TempDir::new().expect("a temporary folder");
        let config = processes_config(program.as_ref(), mode, folder.path(), processes_max);
        let processes = Arc::new(Processes::start(config).await.expect("a free port"));
        (Self { invoker: Arc::clone(&processes) as Arc<dyn Invoker>, starts: true, folder }, processes)
    }

    /// Deploys `program MODE MARK` on Lambda, in LocalStack. Returns None where LocalStack cannot run here.
    pub async fn lambda(program: &str, mode: &str, concurrency_max: usize, setup: Setup) -> Option<Self> {
        let localstack = localstack::shared()?;
        let folder = TempDir::new().expect("a temporary folder");
        let mark = folder.path().to_str().expect("a plain path");
        let package = localstack::package_of(program, &[mode, mark]);
        let function = localstack.deploy("faulty", package, setup).await;
        let sdk = localstack.sdk().await;
        let deployments =
            describe(&sdk, &localstack.lambda(&[function]).functions, None).await.expect("it is deployed");
        let deployment = deployments.into_iter().next().expect("one size");
        let invoker = Arc::new(Lambda::new(&sdk, deployment.clones, concurrency_max));
        Some(Self { invoker, starts: true, folder })
    }

    /// Returns the path of a gate.
    pub fn gate(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn process_count(&self) -> usize {
        processes_marked(self.folder.path())
    }
}

pub fn processes_config(program: &Path, mode: &str, mark: &Path, processes_max: usize) -> ProcessesConfig {
    ProcessesConfig {
        program: program.to_owned(),
        args: vec![mode.into(), mark.into()],
        processes_max,
        memory_bytes: 512 << 20,
        cores: 1,
        temp_folder: std::env::temp_dir(),
        env: Vec::new(),
    }
}

/// Counts running processes whose last argument is `mark`.
pub fn processes_marked(mark: &Path) -> usize {
    let mut ending = mark.as_os_str().as_encoded_bytes().to_vec();
    ending.push(0);
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
    // A process may end meanwhile, and then has no command line.
    processes
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .filter(|line| line.ends_with(&ending))
        .count()
}
