use gust_protocol::{Requests, Usage};

use super::*;
use crate::events::{AttemptCause, AttemptOutcome, QueryEvent, StampedEvent};
use crate::model::Quote;
use crate::model::load::{FragmentLoad, Reads, Results, SharedRows};
use crate::model::{Latency, Pipe};
use crate::report::price;
use gust_protocol::FragmentId;

// Published prices of us-east-1, in dollars.
const GB_SECOND: f64 = 0.0000166667;
const INVOCATION: f64 = 0.20 / 1e6;
const GET: f64 = 0.0004 / 1e3;
const PUT: f64 = 0.005 / 1e3;
const GB_MONTH: f64 = 0.023;

fn tariff() -> Tariff {
    Tariff::of_tests()
}

fn model() -> TimeModel {
    TimeModel {
        stage_overhead: Duration::from_millis(100),
        fragment_overhead: Duration::from_millis(1),
        core_bytes_per_second: 100e6,
        pipe_bytes_per_second: 1e9,
        machine_pipe_bytes_per_second: 1e9,
        function_pipe: Pipe::steady(200e6),
        attempt_overhead: Duration::from_millis(100),
        read_latency: Latency { mean: Duration::from_millis(10), least: Duration::from_millis(10) },
        reads_ahead: 0,
        function_reads_ahead: 0,
        start: Duration::from_millis(500),
        cores: 4,
        function_cores: 1.0,
    }
}

fn planning() -> OwnUsage {
    let requests = Requests { get: 3, list: 1, ..Requests::default() };
    let all = Usage { requests, bytes_read: 1_000, ..Usage::default() };
    OwnUsage { all, billed: all }
}

const FRAGMENT: FragmentLoad =
    FragmentLoad { weight_bytes: 100_000_000, operator_bytes: 0, lanes: 1, reads: READS, reads_at_most: READS };

const READS: Reads = Reads {
    footers: 2,
    footers_max: 4,
    row_groups: 4,
    runs: 6,
    runs_max: 9,
    bytes: 120_000_000,
    guessed_files: 0,
    is_remote: true,
};

fn stage(fragments: usize) -> StageLoad {
    StageLoad {
        fragments: vec![FRAGMENT; fragments],
        results: Results { expected: Some(1_000_000), at_most: 50_000_000 },
        sends_parts: false,
        reads_parts: false,
        inline_bytes_max: 4_000_000,
        publishes_plan: false,
        digest: None,
        shared: SharedRows::default(),
        shared_at_most: SharedRows::default(),
        stages_before: 0,
    }
}

/// Forecasts `stages` on ten cold functions elsewhere, with changes.
fn forecast(stages: &[StageLoad], change: impl Fn(&mut TimeModel, &mut Tariff, &mut Machines<'_>)) -> Forecast {
    let (mut changed_model, mut changed_tariff) = (model(), tariff());
    let mut on = Machines { model: &model(), functions_max: 10, shares_machine: false, warm: 0, lanes: 1 };
    change(&mut changed_model, &mut changed_tariff, &mut on);
    let prices = Prices { tariff: &changed_tariff, planning: &planning() };
    on_functions(&stages.iter().collect::<Vec<_>>(), &Machines { model: &changed_model, ..on }, &prices)
}

#[track_caller]
fn check_dollars(amount: Money, expect: f64) {
    let dollars = amount.nano_dollars() as f64 / 1e9;
    // Each kind of spending is rounded to a nano-dollar once.
    assert!((dollars - expect).abs() < 5e-9, "{dollars} is not {expect}");
}

#[track_caller]
fn check_seconds(seconds: f64, expect: f64) {
    assert!((seconds - expect).abs() < 1e-9, "{seconds} is not {expect}");
}

#[test]
fn two_cold_functions() {
    let Forecast { place, functions, memory_mb, fragments, expected, upper, not_included, .. } =
        forecast(&[stage(2)], |_, _, _| {});
    assert_eq!((place, functions, memory_mb, fragments), (Place::Functions, 2, Some(2048), 2));
    assert_eq!(not_included, ["logs", "the coordinator's machine"]);
    // 100 ms, five more first bytes of 10 ms, then 120 MB at 200 MB/s and 100 MB at 100 MB/s; a start of 500 ms.
    check_seconds(expected.gb_seconds, 2.0 * (1.75 + 0.5) * 2.0);
    let reads = 2.0 * (2.0 + 6.0);
    check_dollars(expected.dollars, 9.0 * GB_SECOND + 2.0 * INVOCATION + (reads + 3.0) * GET + PUT);
    // And 2 ms on the coordinator, and a megabyte of results at 1 GB/s.
    check_seconds(expected.seconds, 1.75 + 0.5 + 0.002 + 0.001);
    assert_eq!((expected.requests, expected.bytes), (16 + 3 + 1, 240_001_000));

    // Twice the overhead, computing at half the rate, starts of two seconds.
    let each = 0.25 + 0.6 + 2.0;
    check_seconds(upper.gb_seconds, 2.0 * (each + 2.0) * 2.0);
    // Two reads a footer, one a column chunk; one of a hundred again, and one a function.
    let reads = 2 * (2 * 2 + 9) + 1 + 2;
    // Results of 25 MB each: three parts between a beginning and an end, read with one request; then cleaned up.
    let seconds = each + 2.0 + 0.002 + 0.05;
    check_seconds(upper.seconds, seconds);
    let stored = 50e6 / f64::from(1 << 30) * seconds / (30.0 * 86_400.0) * GB_MONTH;
    let gets = f64::from(reads) + 2.0 + 3.0;
    let puts = 2.0 * 5.0 + 1.0 + 1.0;
    check_dollars(upper.dollars, upper.gb_seconds * GB_SECOND + 2.0 * INVOCATION + gets * GET + puts * PUT + stored);
    assert_eq!((upper.requests, upper.bytes), (29 + 5 + 12, 290_001_000));
}

#[test]
fn many_share_slots_and_some_run_twice() {
    let Forecast { functions, fragments, expected, upper, .. } =
        forecast(&[stage(30), stage(10)], |_, _, on| on.warm = 10);
    assert_eq!((functions, fragments), (10, 40));
    // Four rounds; nothing has to start.
    check_seconds(expected.seconds, 4.0 * 1.75 + 0.04 + 0.002);
    check_seconds(expected.gb_seconds, 40.0 * 1.75 * 2.0);
    // Two of forty run twice, and ten start.
    check_seconds(upper.gb_seconds, (42.0 * 2.85 + 10.0 * 2.0) * 2.0);
    // Few see no second attempt.
    let few = forecast(&[stage(3)], |_, _, _| {});
    check_seconds(few.upper.gb_seconds, 3.0 * (2.85 + 2.0) * 2.0);
}

#[test]
fn one_machine_has_one_set_of_cores() {
    let shared = forecast(&[stage(8)], |_, _, on| (on.shares_machine, on.warm) = (true, 10));
    // Eight functions of one core on four, so each computes twice as long; 960 MB come through the machine's pipe at 1 GB/s.
    check_seconds(shared.expected.gb_seconds, 8.0 * 3.11 * 2.0);
    check_seconds(shared.expected.seconds, 3.11 + 0.008 + 0.001);
    // Its processes stay, so that nothing starts even at most; one of eight runs twice.
    check_seconds(shared.upper.gb_seconds, 9.0 * (0.25 + 0.96 + 4.0) * 2.0);
    let slow = forecast(&[stage(8)], |model, _, on| {
        (on.shares_machine, on.warm) = (true, 10);
        (model.pipe_bytes_per_second, model.machine_pipe_bytes_per_second) = (100e6, 100e6);
    });
    // Ten times as long through it.
    check_seconds(slow.expected.seconds, 0.15 + 9.6 + 2.0 + 0.008 + 0.01);
}

#[test]
fn lanes_use_the_cores_of_a_function() {
    let lanes = |lanes| {
        let mut load = stage(1);
        load.fragments[0].lanes = lanes;
        forecast(&[load], |model, _, on| (model.function_cores, on.warm, on.lanes) = (2.0, 10, 2)).expected.gb_seconds
            / 2.0
    };
    // One lane has one core and waits for six first bytes one after the other, two have two, wait for three, and read while the
    // other one computes.
    check_seconds(lanes(1), 0.15 + 0.6 + 1.0);
    check_seconds(lanes(2), 0.12 + 0.6 + 0.25);
}

#[test]
fn scans_that_read_ahead_wait_for_their_first_bytes_alone() {
    let seconds = |ahead, reads: Reads, pipe_bytes_per_second: f64| {
        let mut load = stage(1);
        load.fragments[0] = FragmentLoad { reads, reads_at_most: reads, ..load.fragments[0] };
        let forecast = forecast(&[load], |model, _, on| {
            (model.function_reads_ahead, model.function_pipe, on.warm) =
                (ahead, Pipe::steady(pipe_bytes_per_second), 10);
        });
        // Without a fragment's millisecond on the coordinator, and that of the result.
        forecast.expected.seconds - 0.002
    };
    // 10 ms for a footer, which are part of the overhead of 100, and 10 for the first row group. A quarter of what is read is not computed meanwhile.
    check_seconds(seconds(64, READS, 200e6), 0.1 + 0.01 + 1.0 + 0.6 / 4.0);
    // In turn: five more waits, and nothing is read while the one lane computes.
    check_seconds(seconds(0, READS, 200e6), 0.1 + 0.05 + 1.0 + 0.6);
    // A thousand answers of 10 ms by tens, and none is waited for alone.
    let many = Reads { footers: 0, row_groups: 1_000, runs: 1_000, ..READS };
    check_seconds(seconds(10, many, 1e12), 0.1 + 1.0 + 0.99 / 1_000.0);
    let slow = Reads { footers: 0, row_groups: 4_000, runs: 4_000, ..READS };
    check_seconds(seconds(10, slow, 1e12), 0.1 + 3.99 + 1.0 / 4_000.0);
    // Files of this machine answer at once, so that the overhead is without a read as well. They are not read ahead.
    for ahead in [0, 64] {
        check_seconds(seconds(ahead, Reads { is_remote: false, ..READS }, 200e6), 0.09 + 1.0 + 0.6);
    }
}

#[test]
fn the_last_of_many_answers_is_waited_for() {
    let varying = Latency { mean: Duration::from_millis(20), least: Duration::from_millis(10) };
    let reads = Reads { footers: 0, row_groups: 8, runs: 8, bytes: 0, ..READS };
    let model = TimeModel { read_latency: varying, reads_ahead: 64, ..model() };
    let prices = Prices { tariff: &tariff(), planning: &planning() };
    let seconds = |weight_bytes| {
        locally(&LocalLoad { weight_bytes, reads, ..LocalLoad::default() }, &model, &prices).expected.seconds
    };
    // Eight at a time: the first is there after 20 ms, the last after 10 + 10 × 2.72.
    let (first, last) = (varying.of_last(1.0), varying.of_last(8.0));
    check_seconds(seconds(0), last);
    // A second of computing hides all but the first.
    check_seconds(seconds(400_000_000), first + 1.0 + (last - first) / 8.0);
}

#[test]
fn bursts_are_for_the_first_fragments_and_come_back_in_pauses() {
    let pipe = Pipe { burst_bytes: 60_000_000, burst_bytes_per_second: f64::INFINITY, bytes_per_second: 200e6 };
    let mut load = stage(20);
    load.fragments.iter_mut().for_each(|fragment| fragment.weight_bytes = 0);
    let Forecast { expected, upper, .. } =
        forecast(&[load], |model, _, on| (model.function_pipe, on.warm) = (pipe, 10));
    // 60 of 120 MB are there, and 10 more come within 50 ms of waiting. Ten later ones find the bytes of 150 ms.
    check_seconds(expected.gb_seconds, 10.0 * (0.15 + 0.25 + 0.15 + 0.45) * 2.0);
    // No burst, twice the overhead, one of twenty again, and starts.
    check_seconds(upper.gb_seconds, (21.0 * (0.25 + 0.6) + 10.0 * 2.0) * 2.0);
}

#[test]
fn footers_that_are_likely_to_be_kept_may_not_be() {
    let mut load = stage(2);
    for fragment in &mut load.fragments {
        fragment.reads = Reads { footers: 0, footers_max: 0, ..READS };
    }
    let (kept, anew) = (forecast(&[load], |_, _, _| {}), forecast(&[stage(2)], |_, _, _| {}));
    assert_eq!(anew.expected.requests - kept.expected.requests, 2 * 2);
    assert_eq!(anew.upper, kept.upper);
}

#[test]
fn many_waits_deviate_less_than_one() {
    let varying = Latency { mean: Duration::from_millis(20), least: Duration::from_millis(10) };
    // Row groups have one and a half requests each; fewer than four fragments see no second attempt.
    let waiting = 2.0 * 0.02 + 4.0 * varying.of_last(1.5) - 0.02;
    for fragments in [1, 3] {
        let n = f64::from(fragments as u32);
        let Forecast { expected, upper, .. } =
            forecast(&[stage(fragments)], |model, _, on| (model.read_latency, on.warm) = (varying, 10));
        // Every begun millisecond is billed.
        let about =
            |seconds: f64, expect: f64| assert!((0.0..0.001).contains(&(seconds / 2.0 / n - expect)), "{seconds}");
        about(expected.gb_seconds, 0.1 + waiting + 1.6);
        about(upper.gb_seconds, 0.2 + waiting + 2.6 + 2.0 + 3.0 * 0.01 * (6.0 / n).sqrt());
    }
}

#[test]
fn unknown_results_are_expected_to_fit_and_may_not() {
    let mut load = stage(2);
    load.results.expected = None;
    load.publishes_plan = true;
    let Forecast { expected, upper, .. } = forecast(&[load], |_, _, on| on.warm = 10);
    // The plan is written once, read by each function, and removed at the end after a listing.
    assert_eq!((expected.requests, expected.bytes), (16 + 2 + 2 + 4, 240_001_000));
    assert_eq!(upper.requests, (26 + 2 + 1 + 2) + 2 + 10 + 2 + 4);
}

#[test]
fn a_digest_of_delete_files_is_read_once_before_the_fragments() {
    const FILES: u64 = 64;
    let plain = forecast(&[stage(2)], |_, _, _| {});
    let reads = Reads { footers: FILES, footers_max: FILES, bytes: 1_000_000, is_remote: true, ..Reads::default() };
    let digested =
        StageLoad { digest: Some(LocalLoad { weight_bytes: 1_000_000, reads, ..LocalLoad::default() }), ..stage(2) };
    let Forecast { expected, .. } = forecast(&[digested], |_, _, _| {});
    // 32 of them at a time, of 10 ms each.
    let more = expected.seconds - plain.expected.seconds;
    assert!((0.01..0.05).contains(&more), "{more} s");
    // The object is written, and removed after a listing.
    assert_eq!(expected.requests - plain.expected.requests, FILES + 2);
    assert_eq!(expected.bytes - plain.expected.bytes, 1_000_000);
    assert_eq!(expected.gb_seconds, plain.expected.gb_seconds);
}

#[test]
fn rows_for_joins_are_written_once_and_read_by_each_function() {
    let seconds = |loads: &[StageLoad]| forecast(loads, |_, _, on| on.warm = 10).expected.seconds;
    let (build, mut join) = (stage(1), stage(3));
    join.shared = SharedRows { objects: 1, bytes: 1_000_000 };
    join.shared_at_most = SharedRows { objects: 2, bytes: 9_000_000 };
    join.stages_before = 1;
    let with = forecast(&[build.clone(), join.clone()], |_, _, on| on.warm = 10);
    let without = forecast(&[build.clone(), stage(3)], |_, _, on| on.warm = 10);
    // A write, a listing, and a read by each of four functions.
    assert_eq!(with.expected.requests - without.expected.requests, 1 + 1 + 4);
    assert_eq!(with.expected.bytes - without.expected.bytes, 4_000_000);
    assert!(with.upper.requests >= without.upper.requests + 2 * 4, "{with:?}");
    let inline = StageLoad { shared: SharedRows::default(), ..join.clone() };
    assert!(seconds(&[build.clone(), join]) > seconds(&[build.clone(), inline.clone()]), "the rows take time");
    assert!(seconds(&[build.clone(), inline]) > seconds(&[build, stage(3)]), "a barrier takes time");
}

#[test]
fn settings_are_priced() {
    let told = forecast(&[stage(2)], |_, tariff, _| {
        tariff.coordinator_hour = Some("0.36".parse().expect("a price"));
        tariff.coordinator_outside = Some(true);
    });
    assert_eq!(told.not_included, ["logs"]);
    let more = told.expected.dollars.saturating_sub(forecast(&[stage(2)], |_, _, _| {}).expected.dollars);
    // A hundred microdollars a second, and 1,001,000 bytes for $0.09 a GB.
    check_dollars(more, 2.253 * 0.0001 + 1_001_000.0 / f64::from(1 << 30) * 0.09);
    let nobody_said = forecast(&[stage(2)], |_, tariff, _| tariff.coordinator_outside = None);
    assert_eq!(nobody_said.not_included, ["data transfer", "logs", "the coordinator's machine"]);
}

#[test]
fn a_local_run_has_requests_and_the_machine() {
    let load = LocalLoad { weight_bytes: 800_000_000, reads: READS, ..LocalLoad::default() };
    let (model, mut tariff, planning) = (model(), tariff(), planning());
    tariff.coordinator_hour = Some("0.36".parse().expect("a price"));
    let prices = Prices { tariff: &tariff, planning: &planning };
    let Forecast { place, functions, memory_mb, expected, upper, not_included, .. } = locally(&load, &model, &prices);
    assert_eq!((place, functions, memory_mb, not_included), (Place::Local, 0, None, vec![]));
    // 800 MB on four cores, which read a quarter of the time; files' ends are waited for, and then row groups by fours.
    check_seconds(expected.seconds, 2.0 + 0.03 + 0.02);
    check_dollars(expected.dollars, 11.0 * GET + PUT + 2.05 * 0.0001);
    assert_eq!((expected.requests, expected.bytes, expected.gb_seconds), (8 + 3 + 1, 120_001_000, 0.0));
    check_seconds(upper.seconds, 4.0 + 0.03 + 0.02);
    assert_eq!(upper.requests, 13 + 1 + 1 + 3 + 1);
}

/// Files of this machine are read and counted, and cost nothing.
#[test]
fn files_of_this_machine_are_not_billed() {
    let (model, tariff) = (model(), Tariff { coordinator_outside: Some(true), ..tariff() });
    let planning = OwnUsage { billed: Usage::default(), ..planning() };
    let prices = Prices { tariff: &tariff, planning: &planning };
    let here = Reads { is_remote: false, ..READS };
    let load = LocalLoad { weight_bytes: 800_000_000, reads: here, of_files: here, ..LocalLoad::default() };
    let of_here = locally(&load, &model, &prices);
    assert_eq!((of_here.expected.dollars, of_here.upper.dollars), (Money::ZERO, Money::ZERO));
    assert_eq!((of_here.expected.requests, of_here.expected.bytes), (8 + 3 + 1, 120_001_000));
    // Beside them, the reads of a bucket cost what they cost alone.
    let there = LocalLoad { weight_bytes: 800_000_000, reads: READS, ..LocalLoad::default() };
    let both = locally(&(load + there), &model, &prices);
    assert_eq!(both.expected.dollars, locally(&there, &model, &prices).expected.dollars);
    assert!(both.expected.dollars > Money::ZERO);
}

/// The forecast and the report are made of the same quantities.
#[test]
fn a_query_that_goes_as_expected_costs_what_was_expected() {
    let expected = forecast(&[stage(2)], |_, _, _| {}).expected;
    let mut events = Vec::new();
    let mut push = |event| events.push(StampedEvent { at: Duration::from_millis(2253), event });
    for index in 0..2 {
        let id = FragmentId { query: "q".to_owned(), stage: 0, index };
        push(QueryEvent::AttemptStarted {
            id: id.clone(),
            attempt: 0,
            cause: AttemptCause::First,
            time: Duration::ZERO,
        });
        let usage =
            Usage { requests: Requests { get: 8, ..Requests::default() }, bytes_read: 120_000_000, ..Usage::default() };
        let (duration, init) = (Duration::from_millis(1750), Duration::from_millis(500));
        push(QueryEvent::AttemptEnded {
            id: id.clone(),
            attempt: 0,
            outcome: AttemptOutcome::Done { usage, cold: Some(true) },
            billing: Billing::Metered { duration, init },
            wall: duration,
        });
        let (rows, result_bytes, inline, read) = (1, 500_000, true, Duration::ZERO);
        push(QueryEvent::FragmentAdopted { id, attempt: 0, rows, result_bytes, inline, read });
    }
    let OwnUsage { all: usage, billed } = planning();
    push(QueryEvent::CoordinatorRead { usage, billed });
    push(QueryEvent::Finished { rows: 1 });
    assert_eq!(price(&events, &tariff()).known, expected.dollars);
}

#[test]
fn nonsense_does_not_panic() {
    let nonsense = forecast(&[stage(2)], |model, _, _| {
        (model.core_bytes_per_second, model.pipe_bytes_per_second) = (0.0, 0.0);
        model.machine_pipe_bytes_per_second = 0.0;
    });
    assert!(nonsense.expected.dollars > Money::ZERO && nonsense.expected.seconds.is_infinite());
    let nothing = forecast(&[], |_, _, _| {});
    assert_eq!((nothing.functions, nothing.expected.gb_seconds), (0, 0.0));
}

#[test]
fn a_quote_has_each_forecast_once_and_says_what_is_missing() {
    let load = LocalLoad { weight_bytes: 800_000_000, reads: READS, ..LocalLoad::default() };
    let (model, tariff, planning) = (model(), tariff(), planning());
    let on = Machines { model: &model, functions_max: 8, shares_machine: false, warm: 8, lanes: 1 };
    let prices = Prices { tariff: &tariff, planning: &planning };
    let of = |fragments| on_functions(&[&stage(fragments)], &on, &prices);
    let (local, four, eight) = (locally(&load, &model, &prices), of(4), of(8));
    let forecasts = vec![eight.clone(), local.clone(), four.clone(), eight.clone()];
    let quote = Quote::new(forecasts, &eight, Some(&local), &tariff);
    assert_eq!(quote.forecasts, [local, four, eight]);
    assert_eq!((quote.picked, quote.runner_up), (2, Some(0)));
    let missing = vec!["not included: a scan".to_owned(), "no functions: a reason\nin two lines".to_owned()];
    let quote = Quote { missing, hint: Some("the next step".to_owned()), guessed_files: 3, ..quote };
    let text = quote.to_string();
    let expect = "\
estimate   nothing was run (as if on Lambda, us-east-1 on 2026-11-01, x86_64)
           picked 8 functions of 2048 MB: $0.0005001 and 1.759 s expected, $";
    assert!(text.starts_with(expect), "{text}");
    assert!(
        text.ends_with(
            " s at most
           not included: logs, the coordinator's machine
           not included: a scan
           no functions: a reason
           in two lines
           hint: the next step
           the sizes of the columns of 3 files are not known: they count as equally large"
        ),
        "{text}"
    );
    let Amounts { dollars: at_most, .. } = quote.forecasts[quote.picked].upper;
    let expected = quote.forecasts[quote.picked].expected.dollars;
    for (nano_dollars, words) in [
        (expected.nano_dollars() - 1, "           it would be stopped at its cap of $"),
        (expected.nano_dollars(), "           at its upper amounts it would be stopped at its cap of $"),
        (at_most.nano_dollars(), "           it keeps its cap of $"),
    ] {
        let text = quote.clone().under(Some(Money::from_nano_dollars(nano_dollars))).to_string();
        assert!(text.lines().any(|line| line.starts_with(words)), "{nano_dollars}: {text}");
    }
    assert_eq!(quote.clone().under(None), quote);
}
