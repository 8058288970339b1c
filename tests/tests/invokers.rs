//! The conformance suite: the promises of every invoker, case by case, and those that only processes can show.
//!
//! A new invoker needs one line in [`conformance!`].

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use gust_engine::attempt::{Billing, Invocation, InvokeErrorKind};
use gust_engine::fleet::{Invoker, Processes};
use gust_protocol::wire::PAYLOAD_BYTES_MAX;
use gust_protocol::{FragmentErrorKind, FragmentResult};
use gust_tests::invokers::{Echo, Subject, due_in, echo_of, padded, processes_marked, request, wait_for};
use gust_tests::localstack::Setup;

const FUNCTION: &str = env!("CARGO_BIN_EXE_faulty_bootstrap");

/// Time for a function that will never answer.
const SOON: Duration = Duration::from_millis(500);

/// Time for a function that begins and never answers. A busy machine begins it late.
const BEGUN: Duration = Duration::from_secs(2);

/// Setup of functions that Lambda itself must stop. Its time-out is long enough for a busy machine.
const SHORT: Setup = Setup { memory_mb: 2048, timeout_seconds: 5, concurrency: None };

const FREE: Billing = Billing::Metered { duration: Duration::ZERO, init: Duration::ZERO };

/// Returns the billed time of an attempt, or its bound.
fn charged(invocation: &Invocation) -> Duration {
    match invocation.billing {
        Billing::Reported { duration, .. } => duration,
        Billing::Metered { duration, init } => duration + init,
        Billing::Bounded { at_most } => at_most,
    }
}

macro_rules! conformance {
    ($($invoker:ident($slots:ident) = $subject:expr;)*) => { $(
        mod $invoker {
            use super::*;
            conformance!(@cases |$slots| $subject;
                uses_a_warm_environment_again, hands_on_every_kind_of_failure, keeps_payload_limits,
                refuses_answers_that_are_no_responses, reports_a_panic_as_a_crash, stops_an_attempt_at_its_deadline,
                waits_until_the_deadline_only, survives_a_caller_that_leaves, answers_fifty_at_once,
                runs_as_many_as_allowed);
        }
    )* };
    (@cases |$slots:ident| $subject:expr; $($case:ident),*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let subject = async |$slots: usize| -> Option<Subject> { $subject };
            super::$case(subject).await;
        }
    )* };
}

conformance! {
    in_process(slots) = Some(Subject::in_process(slots));
    processes(slots) = Some(Subject::processes(FUNCTION, "function", slots).await.0);
    processes_of_any_lambda_function(slots) = Some(Subject::processes(FUNCTION, "stock", slots).await.0);
    lambda(slots) = Subject::lambda(FUNCTION, "function", slots, SHORT).await;
}

async fn uses_a_warm_environment_again(subject: impl AsyncFn(usize) -> Option<Subject>) {
    let Some(subject) = subject(1).await else { return };
    let first = subject.invoker.invoke(request("echo")).await;
    let second = subject.invoker.invoke(request("echo")).await;
    assert_eq!(echo_of(&first), echo_of(&second), "a warm environment is used again");
    assert_eq!((first.cold, second.cold), (Some(subject.starts), Some(false)));
    let init = |invocation: &Invocation| match invocation.billing {
        Billing::Metered { duration, init } => {
            assert!(duration > Duration::ZERO);
            init
        }
        Billing::Reported { duration, init, memory_mb } => {
            assert!(duration > Duration::ZERO && memory_mb == 2048);
            init
        }
        Billing::Bounded { .. } => panic!("{invocation:?}"),
    };
    assert_eq!(init(&first) > Duration::ZERO, subject.starts);
    assert_eq!(init(&second), Duration::ZERO);
    assert_eq!(first.log_tail, "");
}

async fn hands_on_every_kind_of_failure(subject: impl AsyncFn(usize) -> Option<Subject>) {
    let Some(subject) = subject(1).await else { return };
    let before = usable(&subject).await;
    for kind in FragmentErrorKind::ALL {
        let name = serde_json::to_value(kind).unwrap();
        let name = name.as_str().unwrap();
        let invocation = subject.invoker.invoke(request(&format!("error:{name}"))).await;
        let error = invocation.outcome.unwrap().outcome.unwrap_err();
        assert_eq!((error.kind, error.message), (kind, format!("asked for {name}")));
    }
    assert_eq!(before, usable(&subject).await, "a fragment's failure is not its environment's");
}

async fn keeps_payload_limits(subject: impl AsyncFn(usize) -> Option<Subject>) {
    let Some(subject) = subject(1).await else { return };
    let before = usable(&subject).await;
    echo_of(&subject.invoker.invoke(padded(request("echo"), PAYLOAD_BYTES_MAX)).await);
    let invocation = subject.invoker.invoke(padded(request("echo"), PAYLOAD_BYTES_MAX + 1)).await;
    assert_eq!(failure(&invocation), InvokeErrorKind::RequestTooLarge);
    assert!(told(&invocation).contains("6291557"), "{invocation:?}");
    assert_eq!((invocation.billing, invocation.cold), (FREE, None));

    let invocation = subject.invoker.invoke(request(&format!("size:{PAYLOAD_BYTES_MAX}"))).await;
    assert_eq!(invocation.outcome.unwrap().outcome.unwrap_err().kind, FragmentErrorKind::Execution);
    for excess in [1, PAYLOAD_BYTES_MAX] {
        let invocation = subject.invoker.invoke(request(&format!("size:{}", PAYLOAD_BYTES_MAX + excess))).await;
        assert_eq!(failure(&invocation), InvokeErrorKind::ResponseTooLarge);
    }
    assert_eq!(before, usable(&subject).await, "a refused response is no reason for a new environment");
}

async fn refuses_answers_that_are_no_responses(subject: impl AsyncFn(usize) -> Option<Subject>) {
    let Some(subject) = subject(1).await else { return };
    let check = async |fault: &str, expect: &str| {
        let invocation = subject.invoker.invoke(request(fault)).await;
        assert_eq!(failure(&invocation), InvokeErrorKind::Protocol);
        assert!(told(&invocation).contains(expect), "{invocation:?}");
    };
    check("garbage", "is not a response").await;
    check("misaddressed", "of fragment misaddressed/1/8").await;
    usable(&subject).await;
}

async fn reports_a_panic_as_a_crash(subject: impl AsyncFn(usize) -> Option<Subject>) {
    let Some(subject) = subject(1).await else { return };
    let invocation = subject.invoker.invoke(request("panic")).await;
    assert_eq!(failure(&invocation), InvokeErrorKind::Crashed);
    assert!(told(&invocation).contains("asked to panic"), "{invocation:?}");
    assert!(charged(&invocation) > Duration::ZERO);
    usable(&subject).await;
}

async fn stops_an_attempt_at_its_deadline(subject: impl AsyncFn(usize) -> Option<Subject>) {
    let Some(subject) = subject(1).await else { return };
    let before = usable(&subject).await;
    let gate = subject.gate("hang");
    let invocation = subject.invoker.invoke(due_in(request(&format!("hang:{}", gate.display())), BEGUN)).await;
    assert_eq!(failure(&invocation), InvokeErrorKind::TimedOut);
    assert!(gate.with_extension("entered").exists(), "the function had begun");
    assert!(charged(&invocation) >= BEGUN, "{invocation:?}");
    wait_for(|| subject.process_count() == 0).await;
    let after = usable(&subject).await;
    assert_eq!(before.process_id != after.process_id, subject.starts, "what hangs is replaced where it can be");

    let invocation = subject.invoker.invoke(due_in(request("echo"), Duration::ZERO)).await;
    assert_eq!(failure(&invocation), InvokeErrorKind::TimedOut);
    assert_eq!(invocation.billing, FREE);
}

async fn waits_until_the_deadline_only(subject: impl AsyncFn(usize) -> Option<Subject>) {
    let Some(subject) = subject(1).await else { return };
    let gate = subject.gate("busy");
    let busy = tokio::spawn({
        let (invoker, request) = (Arc::clone(&subject.invoker), request(&format!("gate:{}", gate.display())));
        async move { invoker.invoke(request).await }
    });
    wait_for(|| gate.with_extension("entered").exists()).await;
    let invocation = subject.invoker.invoke(due_in(request("echo"), SOON)).await;
    assert_eq!(failure(&invocation), InvokeErrorKind::TimedOut);
    assert!(told(&invocation).contains("waited for a free function"), "{invocation:?}");
    assert_eq!((invocation.billing, invocation.cold), (FREE, None));
    std::fs::write(gate.with_extension("open"), "").unwrap();
    echo_of(&busy.await.unwrap());
}

async fn survives_a_caller_that_leaves(subject: impl AsyncFn(usize) -> Option<Subject>) {
    let Some(subject) = subject(1).await else { return };
    let gate = subject.gate("left");
    let entered = gate.with_extension("entered");
    tokio::select! {
        invocation = subject.invoker.invoke(request(&format!("gate:{}", gate.display()))) => panic!("{invocation:?}"),
        () = wait_for(|| entered.exists()) => {}
    }
    let mut next = subject.invoker.invoke(request("echo")).boxed();
    for _ in 0..100 {
        tokio::task::yield_now().await;
        assert!((&mut next).now_or_never().is_none(), "the slot is taken until the attempt ends");
    }
    std::fs::write(gate.with_extension("open"), "").unwrap();
    let invocation = next.await;
    echo_of(&invocation);
    assert_eq!(invocation.cold, Some(false), "the attempt was left to end, not killed");
}

async fn answers_fifty_at_once(subject: impl AsyncFn(usize) -> Option<Subject>) {
    let Some(subject) = subject(4).await else { return };
    let invocations = join_all((0..50).map(|index| {
        let mut request = request("echo");
        request.fragment.id.index = index;
        request.attempt = index % 3;
        subject.invoker.invoke(request)
    }))
    .await;
    let mut functions = std::collections::BTreeSet::new();
    for (index, invocation) in (0..).zip(&invocations) {
        let response = invocation.outcome.as_ref().unwrap();
        assert_eq!((response.id.index, response.attempt), (index, index % 3));
        let Ok(FragmentResult::Inline { part, .. }) = &response.outcome else { panic!("{response:?}") };
        assert_eq!(part.rows, u64::from(index));
        functions.insert(echo_of(invocation).process_id);
    }
    let cold = invocations.iter().filter(|invocation| invocation.cold == Some(true)).count();
    assert_eq!(cold, if subject.starts { functions.len() } else { 0 });
    assert!(functions.len() <= 4);
}

async fn runs_as_many_as_allowed(subject: impl AsyncFn(usize) -> Option<Subject>) {
    let Some(subject) = subject(3).await else { return };
    let gates = ["a", "b", "c", "d"].map(|name| subject.gate(name));
    let entered = || gates.iter().filter(|gate| gate.with_extension("entered").exists()).count();
    let open = async {
        wait_for(|| entered() == 3).await;
        let open = gates.iter().map(|gate| std::fs::write(gate.with_extension("open"), ""));
        open.collect::<Result<(), _>>().unwrap();
    };
    let invoke = |gate: &std::path::PathBuf| subject.invoker.invoke(request(&format!("gate:{}", gate.display())));
    let (invocations, ()) = tokio::join!(join_all(gates.iter().map(invoke)), open);
    assert_eq!(entered(), 4);
    invocations.iter().for_each(|invocation| drop(echo_of(invocation)));
}

#[tokio::test]
async fn a_process_that_ends_is_reported_and_replaced() {
    let (subject, _) = Subject::processes(FUNCTION, "function", 1).await;
    for (fault, expect) in [("exit:3", "exit status: 3"), ("exit:0", "exit status: 0"), ("kill", "signal: 9")] {
        let before = usable(&subject).await;
        let invocation = subject.invoker.invoke(request(fault)).await;
        assert_eq!(failure(&invocation), InvokeErrorKind::Crashed);
        assert!(told(&invocation).contains(expect), "{invocation:?}");
        assert!(invocation.log_tail.ends_with(&format!("fault fired: {fault}")), "{invocation:?}");
        let invocation = subject.invoker.invoke(request("echo")).await;
        assert_ne!(echo_of(&invocation).process_id, before.process_id);
        assert_eq!(invocation.cold, Some(true));
        assert!(!before.temp_folder.exists(), "its folder goes with the process");
    }
    assert_eq!(subject.process_count(), 1);
}

#[tokio::test]
async fn an_idle_process_that_ends_fails_no_attempt() {
    let (subject, _) = Subject::processes(FUNCTION, "function", 1).await;
    let before = usable(&subject).await;
    assert!(Command::new("kill").args(["-KILL", &before.process_id.to_string()]).status().unwrap().success());
    // The process is gone, or a zombie without threads if its parent has not looked yet.
    let (state, threads) = ["stat", "task"].map(|file| format!("/proc/{}/{file}", before.process_id)).into();
    wait_for(|| {
        let ended = std::fs::read_to_string(&state).map_or(true, |state| state.contains(") Z "));
        ended && std::fs::read_dir(&threads).map_or(true, |threads| threads.count() <= 1)
    })
    .await;
    assert_ne!(usable(&subject).await.process_id, before.process_id);
}

#[tokio::test]
async fn a_process_that_does_not_start_is_reported() {
    let check = async |program: &str, mode: &str, left: Duration, expect: (InvokeErrorKind, &str), log_tail: &str| {
        let (subject, _) = Subject::processes(program, mode, 1).await;
        let invocation = subject.invoker.invoke(due_in(request("echo"), left)).await;
        assert_eq!(failure(&invocation), expect.0, "{invocation:?}");
        let message = invocation.outcome.unwrap_err().message;
        assert!(message.contains(expect.1), "{message}");
        assert_eq!(invocation.log_tail, log_tail);
        assert!(matches!(invocation.billing, Billing::Metered { duration: Duration::ZERO, .. }));
        assert_eq!(subject.process_count(), 0);
    };
    let (failed, late) = (InvokeErrorKind::InitFailed, InvokeErrorKind::TimedOut);
    let minute = Duration::from_secs(60);
    check("/no/such/program", "function", minute, (failed, "`/no/such/program`: No such file"), "").await;
    check(FUNCTION, "init-exit", minute, (failed, "exit status: 4"), "asked to exit").await;
    check(FUNCTION, "init-error", minute, (failed, "asked to fail"), "").await;
    check(FUNCTION, "init-hang", SOON, (late, "waited for a free function"), "").await;
}

#[tokio::test]
async fn the_runtime_api_refuses_what_aws_refuses() {
    let (subject, _) = Subject::processes(FUNCTION, "raw", 1).await;
    // The function makes the mistakes, and ends where one is not refused.
    let first = usable(&subject).await;
    assert_eq!(first, usable(&subject).await);
}

#[tokio::test]
async fn shutdown_leaves_nothing_behind() {
    let (subject, processes) = Subject::processes(FUNCTION, "function", 2).await;
    let gate = subject.gate("busy");
    let (busy, idle) = tokio::join!(subject.invoker.invoke(request(&format!("hang:{}", gate.display()))), async {
        wait_for(|| gate.with_extension("entered").exists()).await;
        let idle = usable(&subject).await;
        assert_eq!(subject.process_count(), 2);
        processes.shutdown().await;
        assert_eq!(subject.process_count(), 0);
        idle
    });
    assert_eq!(failure(&busy), InvokeErrorKind::Stopped);
    assert!(!idle.temp_folder.exists());
    let invocation = subject.invoker.invoke(request("echo")).await;
    assert_eq!(failure(&invocation), InvokeErrorKind::Stopped);
}

#[tokio::test]
async fn a_dropped_invoker_leaves_nothing_behind() {
    let (subject, processes) = Subject::processes(FUNCTION, "function", 2).await;
    let Subject { invoker, folder, .. } = subject;
    let gate = folder.path().join("busy");
    tokio::select! {
        invocation = invoker.invoke(request(&format!("hang:{}", gate.display()))) => panic!("{invocation:?}"),
        () = wait_for(|| gate.with_extension("entered").exists()) => {}
    }
    let idle = echo_of(&invoker.invoke(request("echo")).await);
    assert_eq!(processes_marked(folder.path()), 2);
    drop::<(Arc<dyn Invoker>, Arc<Processes>)>((invoker, processes));
    wait_for(|| processes_marked(folder.path()) == 0 && !idle.temp_folder.exists()).await;
}

#[tokio::test]
async fn a_killed_coordinator_leaves_no_process_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut parent = Command::new(FUNCTION);
    let mut parent = parent.arg("parent").arg(folder.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut idle = String::new();
    let stdout = parent.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut idle).unwrap();
    let idle: Echo = serde_json::from_str(&idle).unwrap();
    let children = folder.path().join("child");
    assert_eq!(processes_marked(&children), 2, "one idle, one busy");
    assert!(idle.temp_folder.exists());
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait_for(|| processes_marked(&children) == 0 && !idle.temp_folder.exists()).await;
}

/// Runs an echo, which shows that the invoker still works. Returns the echo.
async fn usable(subject: &Subject) -> Echo {
    echo_of(&subject.invoker.invoke(request("echo")).await)
}

fn failure(invocation: &Invocation) -> InvokeErrorKind {
    invocation.outcome.as_ref().expect_err("the fault fires").kind
}

/// Returns everything that the user would be told.
fn told(invocation: &Invocation) -> String {
    let message = invocation.outcome.as_ref().map_or_else(ToString::to_string, |_| String::new());
    format!("{message}\n{}", invocation.log_tail)
}
