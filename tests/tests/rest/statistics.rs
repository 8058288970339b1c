//! Counts of distinct values that others have left in a table's metadata, and the order of joins that follows from them.

use gust_engine::config::{Prefer, ShufflePlace};
use gust_engine::model::Way;
use gust_engine::model::measured::Measured;
use gust_tests::asks::lines;
use gust_tests::query::assert_partly_remote;
use gust_tests::s3::BUCKET;
use serde_json::{Value, json};

use super::*;
use crate::estimate::{calibrated, functions_pay, picked, quote};

impl Lake {
    /// Enters the first table once more, with these statistics in its metadata.
    async fn register_with(&self, name: &str, statistics: Value) {
        let store = self.s3.store().expect("a client");
        let key = |location: &str| Key::from(location.trim_start_matches(&format!("s3://{BUCKET}/")));
        let read = store.get(&key(&self.metadata)).await.expect("metadata").bytes().await.expect("its bytes");
        let mut metadata: Value = serde_json::from_slice(&read).expect("JSON");
        metadata["statistics"] = statistics;
        let location = self.metadata.replace(".metadata.json", &format!("-{name}.metadata.json"));
        store.put(&key(&location), metadata.to_string().into()).await.expect("put");
        self.server.register(&[(vec!["sales".to_owned()], name.to_owned(), location)]).await.expect("registered");
    }

    async fn snapshot(&self, session: &Session) -> i64 {
        let id = "SELECT snapshot_id FROM lake.sales.\"orders$snapshots\" ORDER BY committed_at DESC LIMIT 1";
        rows(session, id).await[0].parse().expect("a number")
    }
}

/// Describes a file of statistics that has the number of the first column's distinct values.
fn file(snapshot: i64, ndv: Value) -> Value {
    json!({"snapshot-id": snapshot, "statistics-path": "s3://nowhere/x.puffin", "file-size-in-bytes": 1, "file-footer-size-in-bytes": 1,
        "blob-metadata": [{"type": "apache-datasketches-theta-v1", "snapshot-id": snapshot, "sequence-number": 1,
            "fields": [1], "properties": {"ndv": ndv}}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_of_distinct_values_change_the_order_of_joins() {
    let lake = Lake::new(Rules::default()).await;
    let session = lake.session(Target::Local, "");
    let snapshot = lake.snapshot(&session).await;
    lake.register_with("counted", json!([file(snapshot, json!("3"))])).await;
    lake.register_with("unreadable", json!([file(snapshot, json!(3)), 7, {"snapshot-id": "x"}])).await;
    lake.register_with("foreign", json!([file(snapshot + 1, json!("3"))])).await;
    run(&session, "CREATE TABLE datafusion.public.few AS SELECT value AS id FROM generate_series(0, 4999)")
        .await
        .expect("made");
    // Of 300 rows on each side with three values, 30,000 come together: then the table of 5,000 rows is held, and not the join.
    for (table, holds_few) in [("orders", false), ("counted", true), ("unreadable", false), ("foreign", false)] {
        let sql = format!(
            "SELECT count(*) FROM lake.sales.{table} a JOIN lake.sales.{table} b ON a.id = b.id
             JOIN datafusion.public.few c ON c.id = b.id"
        );
        let explained = rows(&session, &format!("EXPLAIN {sql}")).await.join("\n");
        let at = |part: &str| explained.find(part).unwrap_or_else(|| panic!("{part} in {explained}"));
        assert_eq!(at("partition_sizes") < at(".parquet"), holds_few, "{table}: {explained}");
        assert_eq!(rows(&session, &sql).await, ["300"], "{table}");
    }
    session.close().await;
}

/// A network on which groups take long to the coordinator: functions group them, where somebody has counted them.
#[tokio::test(flavor = "multi_thread")]
async fn many_counted_groups_are_left_to_functions() {
    let lake = Lake::new(Rules::default()).await;
    let session = lake.session(Target::Local, "");
    let snapshot = lake.snapshot(&session).await;
    lake.register_with("many", json!([file(snapshot, json!("300"))])).await;
    lake.register_with("few", json!([file(snapshot, json!("2"))])).await;
    let folder = TempDir::new().expect("a temporary folder");
    // A kilobyte a second, and a tenth of a second for each round trip.
    let measured = Measured { pipe_bytes_per_second: 1e3, stage_seconds: 0.1, ..functions_pay() };
    let time_model = calibrated(&folder, 2, measured).time_model;
    let config = Config {
        on: Target::Processes,
        prefer: Some(Prefer::Latency),
        shuffle: ShufflePlace::Auto,
        shuffle_bytes_min: 1,
        time_model,
        ..session.config().clone()
    };
    session.close().await;
    let session = Session::new(config).expect("a session");
    for (table, way, shuffles) in [("many", Way::Stages, 1), ("few", Way::Scans, 0), ("orders", Way::Scans, 0)] {
        let sql =
            format!("SELECT count(*), max(n) FROM (SELECT id, count(*) AS n FROM lake.sales.{table} GROUP BY id)");
        let (_, quoted, _) = quote(&session, &sql).await;
        assert_eq!(picked(&quoted).way(), way, "{table}: {quoted:?}");
        let (rows, report) = run(&session, &sql).await.expect("rows");
        assert_eq!(lines(&rows, "NULL"), ["300|1"], "{table}");
        assert_partly_remote(&report, table);
        assert_eq!(report.shuffles, shuffles, "{table}: {report:?}");
    }
    session.close().await;
}
