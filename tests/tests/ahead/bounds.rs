//! Memory that operators need, and the budget that queries share.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn operators_get_the_memory_that_they_need() {
    // Twice: without reading ahead the same memory suffices.
    for requests_max in [0, 64] {
        let config = Config {
            memory_bytes_max: 24 << 20,
            read_ahead_requests_max: requests_max,
            read_ahead_bytes_max: 24 << 20,
            ..local()
        };
        let lake = Lake::open(config).await;
        lake.slow(2.0, Faults::default());
        for number in [1, 3, 5, 9, 18] {
            lake.query(number).await;
        }
        let sql = "SELECT l_orderkey, l_comment FROM lineitem ORDER BY l_comment, l_orderkey, l_linenumber";
        let rows = |batches: &[RecordBatch]| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        let expected = plain(&lake.local, "SELECT l_orderkey FROM lineitem").await;
        assert_eq!(rows(&lake.read(sql).await.expect("rows").rows), rows(&expected));
        assert!(lake.session.engine().memory().peak_bytes() <= 24 << 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_side_by_side_share_the_budget() {
    for (requests_max, bytes_max) in [(4, 128 << 20), (64, 64 << 10)] {
        let config = Config { read_ahead_requests_max: requests_max, read_ahead_bytes_max: bytes_max, ..local() };
        let lake = Lake::open(config).await;
        lake.slow(2.0, Faults::default());
        let expected = plain(&lake.local, queries::query(3)).await;
        let answers = (0..8).map(|_| run(&lake.session, queries::query(3)));
        for answer in futures::future::join_all(answers).await {
            let (rows, _) = answer.expect("rows");
            compare(&expected, &rows, Rule::same_engine()).expect("the rows");
        }
        lake.is_clean("all have ended").await;
    }
}
