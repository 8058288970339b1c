//! Words and figures about reading ahead: in the report and in EXPLAIN, against the requests that the server saw.

use super::*;

/// Without reading ahead each row group is waited for. A function has one lane, the coordinator two.
#[tokio::test(flavor = "multi_thread")]
async fn the_report_says_for_how_long_compute_waited() {
    for on in [Target::Local, Target::Processes] {
        let (mut waits, mut shares) = (Vec::new(), Vec::new());
        for read_ahead_requests_max in [0, 64] {
            let lake = Lake::open(Config { on, functions_max: 1, read_ahead_requests_max, ..local() }).await;
            run(&lake.session, "SET datafusion.execution.target_partitions = 2").await.expect("set");
            lake.slow(80.0, Faults::default());
            let Answer { report, requests, .. } = lake.query(6).await;
            let what = format!("{on:?}, {read_ahead_requests_max} requests ahead: {report}");
            let (waited, lanes_seconds) = match &report.by_stage[..] {
                [] => (report.coordinator.waited_seconds, 2.0 * report.seconds.finish),
                [stage] => (stage.storage.waited_seconds, stage.execute_seconds),
                more => panic!("{} stages", more.len()),
            };
            assert_eq!(report.by_stage.is_empty(), on == Target::Local, "{what}");
            assert!(waited <= lanes_seconds, "{what}");
            let reads = lake.row_reads(&requests, TpchTable::LineItem).len();
            assert!(read_ahead_requests_max > 0 || waited >= 0.08 * reads as f64, "{reads} reads, {what}");
            assert!(report.to_string().contains(&format!("waited {waited:.3} s for bytes, over all lanes")), "{what}");
            waits.push(waited);
            shares.push(waited / lanes_seconds);
            lake.session.close().await;
        }
        assert!(waits[1] < waits[0] / 2.0 && shares[1] < shares[0], "{on:?}: {waits:?} s, {shares:?} of the time");
    }
}

/// Bytes that the server sent are those that readers took, gaps, and what nobody took. Answers that were under way when their
/// requests were aborted may be among them.
#[tokio::test(flavor = "multi_thread")]
async fn unused_bytes_are_those_the_server_sent_for_nothing() {
    let lake = Lake::open(local()).await;
    lake.slow(5.0, Faults::default());
    run(&lake.session, "SET datafusion.execution.target_partitions = 2").await.expect("set");
    let limit = "SELECT * FROM lineitem LIMIT 10";
    let top_k = "SELECT l_orderkey, l_comment FROM lineitem ORDER BY l_orderkey, l_linenumber LIMIT 3";
    let without_rows = "SELECT count(*) FROM (SELECT * FROM region WHERE r_name = 'ATLANTIS') r \
                        JOIN nation ON n_regionkey = r_regionkey JOIN customer ON c_nationkey = n_nationkey";
    for sql in [limit, top_k, without_rows, queries::query(1), queries::query(3), queries::query(6)] {
        let Answer { usage, requests, report, .. } = lake.read(sql).await.expect("rows");
        assert_eq!(report.coordinator.ahead, usage, "{sql}");
        let sent = TpchTable::ALL.map(|table| bytes(&lake.row_reads(&requests, table))).into_iter().sum::<u64>();
        let seen = usage.taken_bytes + usage.missed_bytes + usage.gap_bytes + usage.unused_bytes();
        let hedged = report.coordinator.requests.hedged * (1 << 20);
        assert!(sent <= seen + usage.aborted_bytes + hedged, "{sql}: {sent} bytes, {usage:?}");
        // A reader that has its rows gives up the row group that it waits for.
        assert!(sql == limit || sent >= seen, "{sql}: {sent} bytes, {usage:?}");
        let of_no_row = usage.unused_limit_bytes + usage.aborted_bytes;
        assert!(sql != without_rows || of_no_row > 0, "{sql}: {usage:?}");
        assert_eq!((usage.unused_cancelled_bytes, usage.unused_given_back_bytes), (0, 0), "{sql}: {usage:?}");
        assert!(usage.bytes == 0 || usage.peak_bytes > 0, "{sql}: {usage:?}");
    }
    // A statement that is given up counts what was under way. No read has come by then.
    lake.slow(300.0, Faults::default());
    let statement = lake.session.parse(queries::query(1)).expect("SQL").pop().expect("a statement");
    let mut running = lake.session.run(statement).await.expect("started");
    let _ = tokio::time::timeout(Duration::from_millis(20), running.next()).await;
    let usage = Report::from_events(&running.finish().await.snapshot()).coordinator.ahead;
    assert!(usage.aborted_bytes + usage.unused_cancelled_bytes > 0, "{usage:?}");
    assert_eq!((usage.unused_pruned_bytes, usage.unused_limit_bytes), (0, 0), "{usage:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_how_scans_are_read() {
    let bounds = "ahead: 64 requests and 128 MiB at a time at most; gaps up to 1 MiB are read along";
    let all = "reading      lineitem: all, at once";
    let sum = "SELECT sum(l_quantity) FROM lineitem";
    let join = "SELECT count(*) FROM nation JOIN customer ON c_nationkey = n_nationkey";
    let (local, remote) = (Config { memory_bytes_max: 2 << 30, ..local() }, Target::InProcess);
    let off = Config { read_ahead_requests_max: 0, ..local.clone() };
    for (config, sql, expect) in [
        (&local, sum, vec![all, bounds]),
        (&local, join, vec!["reading      nation: all, at once", "reading      customer: all, when polled", bounds]),
        (&local, "SELECT * FROM lineitem LIMIT 10", vec!["reading      lineitem: enough for 10 rows, at once", bounds]),
        (
            &local,
            "SELECT o_orderkey FROM orders ORDER BY o_totalprice LIMIT 3",
            vec!["reading      orders: more as it goes, at once", bounds],
        ),
        (&off, sum, vec!["reading      lineitem: on demand (reading ahead is off)"]),
        (&Config { on: remote, functions_max: 3, ..local.clone() }, sum, vec![all, "ahead: "]),
    ] {
        let lake = Lake::open(config.clone()).await;
        let explained = lake.session.explain(lake.session.parse(sql).expect("SQL").remove(0)).await.expect("a plan");
        let is_said = |line: &&str| line.starts_with("reading ") || line.trim_start().starts_with("ahead: ");
        let said: Vec<&str> = explained.lines().filter(is_said).map(str::trim_start).collect();
        assert_eq!(said.len(), expect.len(), "{sql}:\n{explained}");
        for (said, expect) in said.iter().zip(expect) {
            assert!(said.starts_with(expect), "{sql}: {said}");
        }
        lake.session.close().await;
    }
}
