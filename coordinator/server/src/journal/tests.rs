use chrono::Utc;
use gust_engine::config::{Config, Target};
use gust_engine::resume::Inherited;
use gust_engine::session::{Engine, EngineOptions};

use super::*;

#[test]
fn a_request_comes_back_as_it_was() {
    let wishes = SessionWishes {
        catalog: Some("lake".to_owned()),
        schema: None,
        cap: Some(Money::from_nano_dollars(7)),
        timeout: Some(Duration::from_millis(1_500)),
        labels: Vec::new(),
        trace_parent: None,
        base: None,
    };
    let wishes = wishes.with_labels([("team".to_owned(), "ads".to_owned())]).expect("a label");
    let token = Credential::Token(Hash::of("gust_secret"));
    let web = WebToken { ends: Utc::now(), subject: "ada".to_owned(), groups: vec!["analysts".to_owned()] };
    for credential in [None, Some(token), Some(Credential::Web(Arc::new(web)))] {
        let user = credential.is_some().then(|| "ada".to_owned());
        let principal = Principal { user, credential };
        let is_linked = principal.user.is_some();
        let sql = "SELECT 1".to_owned();
        let asked = Asked { principal, sql, dry_run: false, is_linked, wishes: wishes.clone() };
        let key = Key { key: "once".to_owned(), hash: [3; 32] };
        let submitted = Submitted::of(&asked, Utc::now(), Some(&key), "here");
        let text = serde_json::to_string(&submitted).expect("JSON");
        assert!(!text.contains("gust_secret"), "{text}");
        let back: Submitted = serde_json::from_str(&text).expect("JSON");
        assert_eq!(back.key, Some(("once".to_owned(), [3; 32])));
        let back = back.asked().expect("a request");
        assert_eq!(format!("{back:?}"), format!("{asked:?}"));
    }
}

#[test]
fn texts_with_options_stay_on_the_server() {
    for (sql, expect) in [
        ("SELECT 'options' AS o FROM t", true),
        ("SELECT \"options\" FROM t", true),
        (
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'data/' OPTIONS ('aws.secret_access_key' 'x'); SELECT 1",
            false,
        ),
        ("COPY t TO 'x' options (format csv)", false),
        ("SELECT 'open", false),
    ] {
        assert_eq!(may_be_kept(sql), expect, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_claims_a_statement_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let exchange = Some(folder.path().display().to_string());
    let config = Config { on: Target::Local, exchange, ..Config::default() };
    let engine = Engine::open(config, EngineOptions::default()).expect("an engine");
    let keeping = Keeping::new(Journals::of(engine.exchange()), Duration::from_secs(5));
    let id = Uuid::now_v7().simple().to_string();
    let [one, other] = [(); 2].map(|()| keeping.encoded(What::Taken, 1));
    let append = |entry: Bytes| {
        let (journals, id) = (keeping.journals.clone(), id.clone());
        async move { journals.append(&id, 0, &entry).await.expect("a store") }
    };
    assert_eq!(append(one.clone()).await, Appended::Done);
    assert_eq!(append(one).await, Appended::Done, "its answer may have been lost");
    assert_eq!(append(other).await, Appended::Taken, "two claims of one server are two");
    let claim = keeping.claim(&id).expect("nobody has it");
    assert!(keeping.claim(&id).is_none(), "it is being taken");
    drop(claim);
    assert!(keeping.claim(&id).is_some(), "it is no more");
    engine.close().await;
}

/// The store has an entry, and the answer to its write did not come.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_without_an_answer_is_no_other_servers() {
    let folder = tempfile::tempdir().expect("a folder");
    let exchange = Some(folder.path().display().to_string());
    let config = Config { on: Target::Local, exchange, ..Config::default() };
    let engine = Engine::open(config, EngineOptions::default()).expect("an engine");
    let keeping = Keeping::new(Journals::of(engine.exchange()), Duration::from_secs(5));
    for (next, is_left) in [(0, false), (0, true), (1, false), (1, true)] {
        let id = Uuid::now_v7().simple().to_string();
        let unanswered = keeping.encoded(What::Beat, 0);
        let appended = keeping.journals.append(&id, next, &unanswered).await.expect("a store");
        assert_eq!(appended, Appended::Done);
        let writer = Writer {
            keeping: Arc::clone(&keeping),
            work: WorkLog::new(id.clone(), Inherited::of(&id, Vec::new())),
            position: Position { next, ..Position::default() },
            written: Instant::now(),
            failures: 1,
            unanswered: Some(unanswered),
            ended: None,
            held: Held::Ours,
        };
        let task = Some(tokio::spawn(async move { writer }));
        let mut keeper = Keeper { stop: CancellationToken::new(), task, writer: None };
        match is_left {
            true => keeper.leave().await,
            false => keeper.end().await,
        }
        assert!(!keeper.is_taken() && !keeper.is_unended(), "{next} {is_left}");
        let last = keeping.record(&id, next + 1).await.expect("a store").expect("an entry");
        assert_eq!(matches!(last.what, What::Ended), !is_left, "{next}");
        if is_left {
            continue;
        }
        // Nor did that to the end's.
        let mut writer = keeper.writer.take().expect("it has ended");
        writer.position.next -= 1;
        (writer.unanswered, writer.held) = (writer.ended.clone(), Held::Unended);
        keeper.writer = Some(writer);
        let stopping = CancellationToken::new();
        stopping.cancel();
        assert!(keeper.end_later(&stopping).await, "{next}");
        assert!(keeping.record(&id, next + 2).await.expect("a store").is_none(), "{next}: it ends once");
        assert!(!keeping.is_claimed(&id));
    }
    engine.close().await;
}

/// Its server tries on to write the end. Meanwhile nobody else of this server takes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_whose_end_is_tried_on_is_claimed() {
    let folder = tempfile::tempdir().expect("a folder");
    let exchange = Some(folder.path().display().to_string());
    let config = Config { on: Target::Local, exchange, ..Config::default() };
    let engine = Engine::open(config, EngineOptions::default()).expect("an engine");
    let keeping = Keeping::new(Journals::of(engine.exchange()), Duration::from_millis(500));
    let id = Uuid::now_v7().simple().to_string();
    let begun = keeping.encoded(What::Beat, 0);
    assert_eq!(keeping.journals.append(&id, 0, &begun).await.expect("a store"), Appended::Done);
    let (journal, hidden) = (folder.path().join("journals").join(&id), folder.path().join("hidden"));
    std::fs::rename(&journal, &hidden).expect("moved");
    std::fs::write(&journal, "no folder").expect("written");
    let writer = Writer {
        keeping: Arc::clone(&keeping),
        work: WorkLog::new(id.clone(), Inherited::of(&id, Vec::new())),
        position: Position { next: 1, ..Position::default() },
        written: Instant::now(),
        failures: 0,
        unanswered: None,
        ended: None,
        held: Held::Unended,
    };
    let (stop, stopping) = (CancellationToken::new(), CancellationToken::new());
    let mut keeper = Keeper { stop, task: None, writer: Some(writer) };
    let ending = tokio::spawn(async move { keeper.end_later(&stopping).await });
    while !keeping.is_claimed(&id) {
        assert!(!ending.is_finished(), "it has ended without a claim");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(keeping.claim(&id).is_none(), "a look at the journals does not take it");
    // One try fails.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!ending.is_finished() && keeping.is_claimed(&id), "it is tried on");
    std::fs::remove_file(&journal).expect("removed");
    std::fs::rename(&hidden, &journal).expect("moved");
    assert!(ending.await.expect("no panic"), "it is written");
    assert!(!keeping.is_claimed(&id), "and nobody has it any more");
    let last = keeping.record(&id, 1).await.expect("a store").expect("an entry");
    assert!(matches!(last.what, What::Ended), "{last:?}");
    engine.close().await;
}
