use super::*;
use crate::model::load::OperatorLoad;

const GB: u64 = 1_000_000_000;

#[test]
fn fragments_stay_inside_the_burst_where_that_is_faster() {
    let lambda = TimeModel {
        function_pipe: Pipe::LAMBDA,
        core_bytes_per_second: 1e9,
        function_cores: 2.0,
        ..TimeModel::laptop(2)
    };
    #[track_caller]
    fn check(model: &TimeModel, wanted: u64, functions_max: usize, expect: u64) {
        assert_eq!(model.fragment_bytes(30 * GB, wanted, functions_max, 2), expect, "{wanted} {functions_max}");
    }
    let (small, burst, large) = (64 << 20, 150 << 20, 1 << 30);
    check(&lambda, large, 1000, burst);
    check(&lambda, small, 1000, burst);
    check(&TimeModel { fragment_overhead: Duration::ZERO, ..lambda }, small, 1000, small);
    check(&lambda, large, 20, large);
    check(&TimeModel::laptop(2), large, 1000, large);
    let short = Pipe { burst_bytes: 8 << 20, ..Pipe::LAMBDA };
    check(&TimeModel { function_pipe: short, ..lambda }, small, 1000, small);
}

#[test]
fn a_fragment_alone_takes_what_a_stage_of_one_takes() {
    for model in [TimeModel::laptop(2), TimeModel::lambda(2, 1.2)] {
        for (bytes, lanes) in [(0, 1), (10_000_000, 1), (GB, 1), (GB, 2)] {
            let stage = StageLoad::of_fragments(vec![FragmentLoad::of_bytes(bytes, lanes)]);
            let on = Machines { model: &model, functions_max: 1, shares_machine: false, warm: 1, lanes };
            let seconds = seconds_on_functions(&[&stage], None, &on) - model.fragment_overhead.as_secs_f64();
            let alone = model.fragment_time(bytes, lanes);
            let difference = (seconds - alone.as_secs_f64()).abs();
            assert!(difference < 1e-6, "{seconds} is not {alone:?}: {bytes} {lanes}");
            assert_eq!(expected_times(&[&stage], &on), [[alone]]);
        }
    }
}

#[test]
fn expected_times_grow_with_reads_and_neighbours() {
    let bytes = FragmentLoad::of_bytes(10_000_000, 1);
    let reads = Reads { footers: 2, footers_max: 2, row_groups: 3, runs: 6, runs_max: 6, ..bytes.reads };
    let waits = FragmentLoad { reads, reads_at_most: reads, ..bytes };
    let stage = StageLoad::of_fragments;
    let (model, two) = (TimeModel::lambda(2, 1.0), stage(vec![bytes, waits]));
    let on = Machines { model: &model, functions_max: 1000, shares_machine: false, warm: 1000, lanes: 1 };
    let times = expected_times(&[&two], &on);
    assert_eq!(times[0][0], model.fragment_time(10_000_000, 1));
    // Two ends of files and three row groups of two runs each, without the read that is part of the overhead.
    let latency = &model.read_latency;
    let waiting = 2.0 * latency.mean.as_secs_f64() + 3.0 * latency.of_last(2.0) - latency.mean.as_secs_f64();
    let more = times[0][1].as_secs_f64() - times[0][0].as_secs_f64();
    assert!((more - waiting).abs() < 1e-3, "{more} s more, {waiting} s of waiting");

    let here = TimeModel { machine_pipe_bytes_per_second: f64::INFINITY, ..TimeModel::laptop(2) };
    let shared = |fragments: usize| {
        let on = Machines { model: &here, functions_max: 8, shares_machine: true, warm: 8, lanes: 1 };
        expected_times(&[&stage(vec![bytes; fragments])], &on)[0][0]
    };
    assert_eq!(shared(1), shared(2), "a core for each");
    assert!(shared(4) > 3 * shared(2) / 2, "{:?} and {:?}", shared(4), shared(2));
}

#[test]
fn no_plan_is_faster_than_the_least() {
    let reads =
        |files| Reads { footers: files, row_groups: files, runs: files, bytes: files * 1000, ..Reads::default() };
    for model in [TimeModel::laptop(2), TimeModel::lambda(2, 1.2)] {
        for files in [1, 2, 100] {
            let load = LocalLoad { weight_bytes: 1000 * files, reads: reads(files), ..LocalLoad::default() };
            let each = FragmentLoad { reads: reads(1), reads_at_most: reads(1), ..FragmentLoad::of_bytes(1000, 1) };
            let stage = StageLoad::of_fragments(vec![each; files as usize]);
            let on = Machines { model: &model, functions_max: 1000, shares_machine: false, warm: 1000, lanes: 1 };
            let (least, seconds) = (seconds_least(&load, &model), seconds_on_functions(&[&stage], None, &on));
            assert!(least <= seconds, "{least} and {seconds} s for {files} files");
        }
    }
}

#[test]
fn operators_take_the_time_of_cores() {
    let model = TimeModel::laptop(4);
    // A core takes in 120 MB a second.
    for (bytes, one_core_bytes, expect) in
        [(0, 0, 0.0), (480_000_000, 0, 1.0), (0, 480_000_000, 4.0), (480_000_000, 480_000_000, 5.0)]
    {
        let operators = OperatorLoad { bytes, one_core_bytes };
        let seconds = seconds_here(&LocalLoad { operators, ..LocalLoad::default() }, &model);
        assert!((seconds - expect).abs() < 1e-9, "{seconds} s, not {expect}");
    }
    let on = Machines { model: &model, functions_max: 4, shares_machine: false, warm: 4, lanes: 1 };
    let seconds = |operator_bytes| {
        let fragment = FragmentLoad { operator_bytes, ..FragmentLoad::of_bytes(1_000_000, 1) };
        expected_times(&[&StageLoad::of_fragments(vec![fragment; 4])], &on)[0][0].as_secs_f64()
    };
    let more = seconds(120_000_000) - seconds(0);
    assert!((more - 1.0).abs() < 1e-3, "{more} s more");
}

#[test]
fn stages_over_the_rows_of_others_come_after_them() {
    let model = TimeModel { start: Duration::ZERO, ..TimeModel::laptop(4) };
    let on = Machines { model: &model, functions_max: 10, shares_machine: false, warm: 10, lanes: 1 };
    let scans = StageLoad::of_fragments(vec![FragmentLoad::of_bytes(GB, 1); 10]);
    let reading = StageLoad { reads_parts: true, ..scans.clone() };
    let attempt = expected_times(&[&scans], &on)[0][0] + model.attempt_overhead - model.stage_overhead;
    let fragments = 10.0 * model.fragment_overhead.as_secs_f64();
    for stages in 1..3 {
        let all: Vec<&StageLoad> = std::iter::once(&scans).chain(vec![&reading; stages]).collect();
        let more = seconds_on_functions(&all, None, &on) - seconds_on_functions(&all[1..], None, &on);
        let expect = attempt.as_secs_f64() + fragments;
        assert!((more - expect).abs() < 1e-3, "{more} s, not {expect}: {stages} stages");
    }
}
