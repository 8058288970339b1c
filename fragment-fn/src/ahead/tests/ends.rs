//! Scans that end early, fail, or read files that have changed.

use futures::StreamExt;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_stream_leaves_nothing() {
    for let_through in 0..=UNITS {
        let table = Table::unbounded().await;
        let Reading { mut rows, ahead } = table.read(None);
        table.store.gate.add_permits(let_through);
        // The stream waits, or has rows.
        let _ = tokio::time::timeout(Duration::from_millis(5), rows.next()).await;
        let query = Arc::downgrade(&ahead.query);
        drop((rows, ahead));
        table.is_clean(&format!("after {let_through} answers")).await;
        soon(|| query.strong_count() == 0).await;
        assert_eq!(query.strong_count(), 0, "after {let_through} answers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_whose_streams_have_ended_lets_go() {
    let table = Table::unbounded().await;
    let Reading { rows, ahead } = table.read(None);
    assert_eq!(table.settled(UNITS).await, UNITS);
    drop(rows);
    table.is_clean("the plan is not over").await;
    drop(ahead);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_ahead_fails_no_reader() {
    let table = Table::unbounded().await;
    table.store.failing.store(UNITS, SeqCst);
    let reading = table.read(None);
    assert_eq!(table.settled(UNITS).await, UNITS);
    table.open();
    assert_eq!(sums(&collected(reading).await.expect("rows")), expected());
    let again: Vec<usize> = table.repeated().into_values().collect();
    assert_eq!(again, vec![2; UNITS], "one request more for each that failed");
    table.is_clean("after the rows").await;
    // A read that fails for its reader, too, is the reader's error.
    table.store.failing.store(1_000, SeqCst);
    collected(table.read(None)).await.expect_err("no request succeeds");
    table.is_clean("after an error").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_fails_only_who_reads_it() {
    let table = Table::unbounded().await;
    let last = &table.files[FILES - 1].object_meta.location;
    table.store.put(last, file(0).into()).await.expect("overwritten");
    table.open();
    let error = collected(table.read(None)).await.expect_err("it is not what was planned");
    assert_eq!(crate::classify(&error).kind, gust_protocol::FragmentErrorKind::FileChanged, "{error}");
    let Reading { mut rows, ahead } = table.read(None);
    rows.next().await.expect("a batch").expect("of an other file");
    drop((rows, ahead));
    table.is_clean("after a part of the rows").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_after_its_footer_fails_only_who_reads_it() {
    for reads_all in [true, false] {
        let table = Table::new(BOUNDS, Arc::new(UnboundedMemoryPool::default()), false).await;
        let Reading { mut rows, ahead } = table.read(None);
        assert_eq!(table.settled(FILES).await, FILES, "the ends of all files");
        table.store.gate.add_permits(FILES);
        assert_eq!(table.settled(UNITS).await, UNITS, "rows of all files");
        let last = &table.files[FILES - 1].object_meta.location;
        table.store.put(last, file(0).into()).await.expect("overwritten");
        table.open();
        if reads_all {
            let error = collected(Reading { rows, ahead }).await.expect_err("it is not what its footer says");
            assert_eq!(crate::classify(&error).kind, gust_protocol::FragmentErrorKind::FileChanged, "{error}");
        } else {
            rows.next().await.expect("a batch").expect("of an other file");
            drop((rows, ahead));
        }
        table.is_clean("after the rows").await;
    }
}
