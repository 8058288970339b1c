//! Behaviour that only Lambda can show: its own failures, throttles, and queries over deployed functions with tables in S3.

use std::sync::Arc;

use futures::future::join_all;
use gust::demo::queries;
use gust_engine::attempt::{Billing, InvokeErrorKind as Kind};
use gust_engine::config::{Config, InvokerKind, Prefer, Target};
use gust_engine::events::QueryEvent;
use gust_engine::fleet::{Invoker, Lambda, PinnedFunction};
use gust_engine::session::Session;
use gust_tests::compare::{Rule, compare};
use gust_tests::invokers::{Subject, echo_of, request, wait_for};
use gust_tests::localstack::{self, LocalStack, Setup};
use gust_tests::query::{assert_partly_remote, assert_remote, run, run_with_events};
use gust_tests::tpch;

use crate::tpch::judged;

const FAULTY: &str = env!("CARGO_BIN_EXE_faulty_bootstrap");
const FUNCTION: &str = env!("CARGO_BIN_EXE_bootstrap_under_test");

#[tokio::test(flavor = "multi_thread")]
async fn each_end_of_a_function_has_its_kind() {
    let setup = Setup { memory_mb: 256, ..Setup::default() };
    let Some(subject) = Subject::lambda(FAULTY, "function", 1, setup).await else { return };
    let cases = [
        ("exit:3", Kind::Crashed, "exit status 3"),
        ("kill", Kind::Crashed, "killed"),
        ("panic", Kind::Crashed, "exit status 101"),
        ("memory:400", Kind::OutOfMemory, "all of its 256 MB"),
    ];
    for (fault, kind, expect) in cases {
        let before = echo_of(&subject.invoker.invoke(request("echo")).await);
        let invocation = subject.invoker.invoke(request(fault)).await;
        let error = invocation.outcome.as_ref().expect_err(fault);
        assert_eq!(error.kind, kind, "{fault}: {invocation:?}");
        assert!(error.message.contains(expect), "{fault}: {error}");
        assert!(invocation.log_tail.contains(&format!("fault fired: {fault}")), "{invocation:?}");
        assert!(matches!(invocation.billing, Billing::Reported { memory_mb: 256, .. }), "{invocation:?}");
        let after = echo_of(&subject.invoker.invoke(request("echo")).await);
        assert_ne!(after.process_id, before.process_id, "a new process follows {fault}");
    }
    echo_of(&subject.invoker.invoke(request("memory:100")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_start_has_a_kind_of_its_own() {
    for mode in ["init-exit", "init-error"] {
        let Some(subject) = Subject::lambda(FAULTY, mode, 1, Setup::default()).await else { return };
        let invocation = subject.invoker.invoke(request("echo")).await;
        let error = invocation.outcome.as_ref().expect_err(mode);
        assert_eq!(error.kind, Kind::InitFailed, "{mode}: {invocation:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reserved_concurrency_throttles_and_nothing_is_charged() {
    let setup = Setup { concurrency: Some(3), ..Setup::default() };
    let Some(subject) = Subject::lambda(FAULTY, "function", 50, setup).await else { return };
    let gates = ["a", "b", "c"].map(|name| subject.gate(name));
    let busy = gates.iter().map(|gate| subject.invoker.invoke(request(&format!("gate:{}", gate.display()))));
    let meanwhile = async {
        wait_for(|| gates.iter().all(|gate| gate.with_extension("entered").exists())).await;
        let invocation = subject.invoker.invoke(request("echo")).await;
        let error = invocation.outcome.as_ref().expect_err("three run already");
        assert_eq!(error.kind, Kind::Throttled, "{invocation:?}");
        assert!(error.kind.is_retryable());
        let free = std::time::Duration::ZERO;
        assert_eq!(invocation.billing, Billing::Metered { duration: free, init: free });
        gates.iter().for_each(|gate| std::fs::write(gate.with_extension("open"), "").expect("writable"));
    };
    let (invocations, ()) = tokio::join!(join_all(busy), meanwhile);
    invocations.iter().for_each(|invocation| drop(echo_of(invocation)));
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_go_round_the_clones_and_a_missing_one_is_named() {
    let Some(localstack) = localstack::shared() else { return };
    let package = localstack::package_of(FAULTY, &["function", "clone"]);
    let mut clones = Vec::new();
    for _ in 0..2 {
        let deployed = localstack.deploy("clone", package.clone(), Setup::default()).await;
        let name = deployed.trim_end_matches(":live").to_owned();
        clones.push(PinnedFunction { name, version: "1".to_owned() });
    }
    clones.push(PinnedFunction { name: "absent".to_owned(), version: "1".to_owned() });
    let lambda = Lambda::new(&localstack.sdk().await, clones, 4);
    let mut processes = std::collections::BTreeSet::new();
    for round in 0..6 {
        let invocation = lambda.invoke(request("echo")).await;
        if round % 3 == 2 {
            let error = invocation.outcome.expect_err("not deployed");
            assert_eq!(error.kind, Kind::NotDeployed);
            let hint = error.hint.as_deref().unwrap_or_default();
            assert!(error.message.starts_with("function `absent`: ") && hint.starts_with("deploy it"), "{error:?}");
        } else {
            processes.insert(echo_of(&invocation).process_id);
        }
    }
    assert_eq!(processes.len(), 2, "each clone has an environment of its own");
}

/// Opens a session whose functions are deployed, with TPC-H tables in S3.
async fn tpch_session(
    localstack: &LocalStack,
    functions: &[String],
    functions_max: u32,
    prefer: Option<Prefer>,
) -> Session {
    let tables = tpch::tables(std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("TPC-H data");
    let bucket = localstack.bucket("lake").await;
    let exchange = localstack.bucket("exchange").await;
    let config = Config {
        on: Target::Lambda,
        invoker: InvokerKind::Lambda,
        functions_max,
        prefer,
        exchange: Some(format!("s3://{exchange}/results")),
        s3: localstack.s3(),
        lambda: localstack.lambda(functions),
        ..Config::default()
    };
    let session = Session::new(config).expect("a session");
    let setup = tables.upload(localstack.store(&bucket).as_ref(), &format!("s3://{bucket}")).await.expect("uploaded");
    for statement in &setup {
        run(&session, statement).await.expect("setup");
    }
    session
}

#[tokio::test(flavor = "multi_thread")]
async fn tpch_on_lambda_equals_local() {
    let Some(localstack) = localstack::shared() else { return };
    let zip = localstack::zip(&std::fs::read(FUNCTION).expect("built"), 0);
    let function = localstack.deploy("gust", zip, Setup::default()).await;
    let session = tpch_session(localstack, &[function], 4, None).await;
    for number in 1..=queries::COUNT {
        let what = format!("query {number} on Lambda");
        let (rows, report) = run(&session, queries::query(number)).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        let expected = judged(queries::query(number)).await;
        compare(expected, &rows, Rule::same_engine()).unwrap_or_else(|difference| panic!("{what}: {difference}"));
        if number == 17 { assert_partly_remote(&report, &what) } else { assert_remote(&report, &what) }
    }
    let checks = session.examine().await;
    assert!(checks.iter().all(|check| check.outcome.is_ok()), "{checks:#?}");
    let exchange = session.config().exchange.clone().expect("an exchange");
    session.close().await;
    assert_eq!(localstack.objects(&exchange).await, Vec::<String>::new(), "nothing is left in the exchange");
}

/// A function of half the memory has half the price of a second, and a small query hardly computes: money picks the smaller.
#[tokio::test(flavor = "multi_thread")]
async fn money_picks_the_smaller_of_two_sizes() {
    let Some(localstack) = localstack::shared() else { return };
    let package = localstack::package_of(FUNCTION, &[]);
    let mut functions = Vec::new();
    for memory_mb in [2048, 1024] {
        functions.push(localstack.deploy("sized", package.clone(), Setup { memory_mb, ..Setup::default() }).await);
    }
    for (prefer, expect) in [(None, 2048), (Some(Prefer::Cost), 1024)] {
        let session = tpch_session(localstack, &functions, 2, prefer).await;
        let (_, asked) = run(&session, &format!("EXPLAIN COST {}", queries::query(6))).await.expect("a quote");
        let quote = asked.quote.expect("a quote");
        assert_eq!(quote.forecasts[quote.picked].memory_mb, Some(expect), "{quote}");
        let (_, report, events) = run_with_events(&session, queries::query(6)).await.expect("rows");
        session.close().await;
        assert_remote(&report, "functions of one size");
        let billed: Vec<u32> = events.iter().filter_map(|stamped| memory_of(&stamped.event)).collect();
        assert!(!billed.is_empty() && billed.iter().all(|memory_mb| *memory_mb == expect), "{billed:?}");
    }
}

fn memory_of(event: &QueryEvent) -> Option<u32> {
    match event {
        QueryEvent::AttemptEnded { billing: Billing::Reported { memory_mb, .. }, .. } => Some(*memory_mb),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_is_named_by_the_doctor() {
    let Some(localstack) = localstack::shared() else { return };
    let exchange = Some("s3://gust-absent-bucket/results".to_owned());
    let config = Config { on: Target::InProcess, exchange, s3: localstack.s3(), ..Config::default() };
    let session = Session::new(config).expect("a session");
    let checks = session.examine().await;
    session.close().await;
    let ailing = |subject: &str| {
        let check = checks.iter().find(|check| check.subject == subject).expect(subject);
        check.outcome.as_ref().expect_err(subject)
    };
    let (bucket, exchange) = (ailing("bucket"), ailing("exchange"));
    assert!(bucket.message().ends_with("does not exist"), "{bucket}");
    assert!(bucket.hint().is_some_and(|hint| hint.starts_with("create it")), "{bucket}");
    assert!(exchange.hint().is_some_and(|hint| hint.starts_with("check `exchange`")), "{exchange}");
    assert!(ailing("function").message().starts_with("not tried"), "{checks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_names_the_clone_that_is_broken() {
    let Some(localstack) = localstack::shared() else { return };
    let good = localstack::package_of(FUNCTION, &[]);
    let broken = localstack::package_of(FAULTY, &["init-exit", "clone"]);
    let functions = [
        localstack.deploy("good", good, Setup::default()).await,
        localstack.deploy("broken", broken, Setup::default()).await,
    ];
    let exchange = localstack.bucket("exchange").await;
    let config = Config {
        on: Target::Lambda,
        exchange: Some(format!("s3://{exchange}/results")),
        s3: localstack.s3(),
        lambda: localstack.lambda(&functions),
        ..Config::default()
    };
    let session = Session::new(config).expect("a session");
    let checks = session.examine().await;
    session.close().await;
    let ailing: Vec<_> = checks.iter().filter(|check| check.outcome.is_err()).map(|check| &check.subject).collect();
    assert!(matches!(ailing.as_slice(), [what] if what.starts_with("broken-")), "{checks:#?}");
    assert!(checks.iter().any(|check| check.subject.starts_with("good-") && check.outcome.is_ok()), "{checks:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_function_answers_fifty_attempts_at_once() {
    let Some(subject) = Subject::lambda(FAULTY, "function", 50, Setup::default()).await else { return };
    let invoker = Arc::clone(&subject.invoker);
    let invocations = join_all((0..50).map(|_| invoker.invoke(request("echo")))).await;
    invocations.iter().for_each(|invocation| drop(echo_of(invocation)));
}
