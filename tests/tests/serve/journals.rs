//! Journals of submitted statements: who goes on with a statement, what it has cost, and what is in the exchange.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use super::identity::{token, write_private};
use super::restart::{
    CAP, FILES, FRAGMENTS, JSON, TOO_FAST_MAX, begun, begun_unless_ended, begun_where, described, ended, entries,
    entries_in, expected, files, is_unended, kill_within, place, place_with, result, serve, submit, sums, sums_in,
};
use super::{Served, pause};
use crate::bad_input::{ENDLESS, Place, wait_until};

fn entry(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("an entry")).expect("JSON")
}

/// Changes the entries of the journal of a server that was killed.
fn edit(place: &Place, id: &str, change: impl Fn(usize, &mut Value)) {
    for (number, path) in entries(place, id).into_iter().enumerate() {
        let mut entry = entry(&path);
        change(number, &mut entry);
        std::fs::write(&path, serde_json::to_vec(&entry).expect("JSON")).expect("written");
    }
}

/// Makes each attempt that has ended one of many seconds.
fn dearer(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if let Some(Value::Object(billing)) = members.get_mut("billing") {
                billing.clear();
                billing.insert("bounded".to_owned(), json!({ "at_most": { "secs": 30, "nanos": 0 } }));
            }
            members.values_mut().for_each(dearer);
        }
        Value::Array(items) => items.iter_mut().for_each(dearer),
        _ => {}
    }
}

fn dollars(told: &Value) -> f64 {
    told["cost"]["dollars_at_most"].as_str().expect("dollars").parse().expect("a number")
}

/// Returns the number of attempts whose ends a journal has.
fn noted(place: &Place, id: &str) -> u64 {
    // An entry is gone where the statement has ended meanwhile.
    let entries = entries(place, id).into_iter().filter_map(|path| std::fs::read(path).ok());
    entries.map(|entry| ends(&serde_json::from_slice(&entry).expect("JSON"))).sum()
}

/// Returns the number of attempts whose ends an entry has.
pub(super) fn ends(entry: &Value) -> u64 {
    let attempts = entry["what"]["work"]["attempts"].as_array();
    attempts.into_iter().flatten().filter(|attempt| attempt["ended"].is_object()).count() as u64
}

/// Kills a server while it has a statement, once most of what has come is noted.
fn killed_at(place: &Place, after: u64) -> String {
    kill_within(place, &sums(), after, |id| noted(place, id) >= after * 4 / 5).0
}

/// Lets servers begin their journals later. A server that writes nothing for three times as long is taken for gone: one that a busy machine
/// holds up for less is not.
fn later_journals(place: &Place, after_seconds: &str) {
    let configured = std::fs::read_to_string(place.path("gust.toml")).expect("written before");
    let later = configured.replace("journal_after_seconds = 0.2", &format!("journal_after_seconds = {after_seconds}"));
    assert_ne!(later, configured);
    std::fs::write(place.path("gust.toml"), later).expect("written");
}

/// The first server's attempts alone are dearer than the cap.
#[tokio::test(flavor = "multi_thread")]
async fn a_cap_counts_what_earlier_servers_have_spent() {
    let place = place("").await;
    let id = killed_at(&place, FRAGMENTS / 4);
    edit(&place, &id, |_, entry| dearer(entry));
    let second = serve(&place);
    let told = ended(&second, &id);
    assert_eq!((&told["state"], &told["error"]["kind"]), (&json!("FAILED"), &json!("cap-reached")), "{told}");
    assert!(dollars(&told) > CAP, "what was spent is told: {told}");
    let recorded =
        second.rows(&format!("SELECT outcome, dollars_at_most > {CAP} AS dear FROM gust.queries WHERE id = '{id}'"));
    assert_eq!(recorded, json!([{ "outcome": "cap_reached", "dear": true }]));
    wait_until("nothing is left in the exchange", || files(&place.path("exchange")).is_empty());
    second.is_well();
}

/// A statement that ends its servers is not run again, and what it has cost is not lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_does_not_end_one_server_after_the_other() {
    let place = place("").await;
    let id = killed_at(&place, FRAGMENTS / 4);
    let noted_before = noted(&place, &id);
    edit(&place, &id, |_, entry| entry["deaths"] = json!(3));
    let second = serve(&place);
    let told = ended(&second, &id);
    assert_eq!((&told["state"], &told["error"]["kind"]), (&json!("FAILED"), &json!("resources")), "{told}");
    let words = told["error"]["detail"].as_str().expect("words");
    assert!(words.contains("4 servers have ended while the statement ran"), "{words}");
    assert!(dollars(&told) > 0.0 && told["report"]["attempts"].as_u64() >= Some(noted_before), "{told}");
    let recorded = second.rows(&format!("SELECT outcome, dollars > 0 AS paid FROM gust.queries WHERE id = '{id}'"));
    assert_eq!(recorded, json!([{ "outcome": "failed", "paid": true }]));
    wait_until("nothing is left in the exchange", || files(&place.path("exchange")).is_empty());
    second.is_well();
}

/// Two servers start when the first is gone, and see its statement at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_servers_takes_a_statement_over() {
    let place = place("").await;
    let expect = expected(&place, &sums());
    let (id, _) = kill_within(&place, &sums(), FRAGMENTS / 10, |id| !entries(&place, id).is_empty());
    let others = std::thread::scope(|scope| {
        let starting = [(); 2].map(|()| scope.spawn(|| serve(&place)));
        starting.map(|server| server.join().expect("it starts"))
    });
    let status = |server: &Served<'_>| server.curl(&format!("/v1/statements/{id}"), &[]);
    let state = |server: &Served<'_>| {
        Some(status(server)).filter(|told| told.status == 200).map(|told| told.json()["state"].clone())
    };
    wait_until("one of them has ended it", || others.iter().any(|server| state(server) == Some(json!("SUCCEEDED"))));
    wait_until("the other has not got it", || others.iter().filter(|server| status(server).status == 404).count() == 1);
    let owner = others.iter().find(|server| status(server).status == 200).expect("one of them");
    assert_eq!(result(owner, &id), expect);
    let recorded = owner.rows(&format!("SELECT outcome FROM gust.queries WHERE id = '{id}'"));
    assert_eq!(recorded, json!([{ "outcome": "done" }]), "one server records it");
    wait_until("nothing is left in the exchange", || files(&place.path("exchange")).is_empty());
    others.iter().for_each(Served::is_well);
}

/// A user may ask any server to end his statement.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_ends_by_another_server() {
    let place = place("").await;
    later_journals(&place, "0.5");
    let first = serve(&place);
    // It goes on for longer than a server takes to start.
    let (id, _) = begun(&first, &sums_in(3 * FRAGMENTS / FILES), FRAGMENTS / 10);
    let second = serve(&place);
    let path = format!("/v1/statements/{id}");
    wait_until("it is shown", || second.curl(&path, &[]).status == 200);
    assert_eq!(second.curl(&path, &[]).json()["state"], "QUEUED");
    // He asks three times at once. Each of them wants to write the same entry.
    std::thread::scope(|scope| {
        let asked = [(); 3].map(|()| scope.spawn(|| second.curl(&path, &["-X", "DELETE"]).json()));
        for told in asked.map(|asked| asked.join().expect("an answer")) {
            assert_eq!(told["state"], "CANCELLED", "{told}");
            assert!(dollars(&told) > 0.0, "{told}");
        }
    });
    wait_until("the first has given it up", || first.curl(&path, &[]).status == 404);
    let recorded = second.rows(&format!("SELECT outcome FROM gust.queries WHERE id = '{id}'"));
    assert_eq!(recorded, json!([{ "outcome": "cancelled" }]), "one server records it");
    wait_until("nothing is left in the exchange", || files(&place.path("exchange")).is_empty());
    first.is_well();
    second.is_well();
}

/// After a restart a statement is its user's alone, and his key finds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_was_taken_over_is_its_users() {
    let place = place_with("exchange", "", "tokens = 'tokens.toml'\n").await;
    let ((ada, of_ada), (bob, of_bob)) = (token(&place, &["ada"]), token(&place, &["bob"]));
    write_private(&place.path("tokens.toml"), &format!("{of_ada}\n{of_bob}"));
    let submit = |server: &Served<'_>, secret: &str| {
        let body = json!({ "sql": sums(), "wait_seconds": 0 }).to_string();
        let more = ["-H", JSON[1], "-H", "Idempotency-Key: once", "--data-binary", &body];
        server.ask(secret, "/v1/statements", &more).json()["id"].as_str().expect("an id").to_owned()
    };
    let mut first = serve(&place);
    let id = submit(&first, &ada);
    let path = format!("/v1/statements/{id}");
    wait_until("it has a journal with work", || entries(&place, &id).len() > 1);
    let journal: Vec<u8> =
        entries(&place, &id).iter().flat_map(|path| std::fs::read(path).expect("an entry")).collect();
    assert!(!String::from_utf8_lossy(&journal).contains(&ada), "the token is nowhere in it");
    first.signal("KILL");
    first.child.wait().expect("its end");
    let second = serve(&place);
    wait_until("it is shown", || second.ask(&ada, &path, &[]).status == 200);
    for (path, more) in [
        (path.clone(), &[][..]),
        (format!("{path}/result"), &[]),
        (format!("{path}/events"), &[]),
        (path.clone(), &["-X", "DELETE"]),
    ] {
        assert_eq!(second.ask(&bob, &path, more).status, 404, "{path} {more:?}");
    }
    let listed = second.ask(&bob, "/v1/statements", &[]).text();
    assert!(!listed.contains(&id), "{listed}");
    assert_eq!(submit(&second, &ada), id, "her key finds it");
    let other = submit(&second, &bob);
    assert_ne!(other, id, "his key is another");
    second.ask(&bob, &format!("/v1/statements/{other}"), &["-X", "DELETE"]);
    wait_until("it has ended", || second.ask(&ada, &path, &[]).json()["state"] == "SUCCEEDED");
    let recorded = second.sql_of(&ada, &format!("SELECT user_name, outcome FROM gust.queries WHERE id = '{id}'"));
    assert_eq!(recorded.json(), json!([{ "user_name": "ada", "outcome": "done" }]));
}

/// Journals that no server can go on with are removed or left alone, and none grows.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_journal_is_left_alone() {
    let place = place("").await;
    let id = killed_at(&place, FRAGMENTS / 4);
    let paths = entries(&place, &id);
    let (kept, folder) = (std::fs::read(&paths[0]).expect("an entry"), place.path("exchange/journals"));
    std::fs::remove_dir_all(folder.join(&id)).expect("removed");
    let written = |of: char, number: u32, what: Value| {
        let id = format!("{}{of}", &id[..31]);
        std::fs::create_dir_all(folder.join(&id)).expect("made");
        let mut entry: Value = serde_json::from_slice(&kept).expect("JSON");
        entry["what"] = if what.is_null() { entry["what"].clone() } else { what };
        std::fs::write(folder.join(&id).join(format!("{number:06}")), entry.to_string()).expect("written");
        id
    };
    // The rest was removed, and the beginning. The middle is missing. It is another deployment's. It is no journal.
    let ended = written('0', 7, json!("ended"));
    let headless = written('1', 7, json!("beat"));
    let holed = written('2', 0, Value::Null);
    written('2', 7, json!("beat"));
    let foreign = written('3', 0, Value::Null);
    edit(&place, &foreign, |_, entry| entry["what"]["begun"]["deployment"] = json!("another"));
    // A server looks as often as one that lives may be gone.
    let alive = written('5', 0, Value::Null);
    edit(&place, &alive, |_, entry| entry["lease"] = json!({ "secs": 8, "nanos": 0 }));
    let odd = written('4', 0, Value::Null);
    std::fs::write(folder.join(&odd).join("000000"), "no entry").expect("written");
    let server = serve(&place);
    server.has_said("a statement whose server is gone is not taken over here: its server had other catalogs");
    wait_until("the one that has ended is removed", || entries(&place, &ended).is_empty());
    wait_until("the one with a hole is claimed once", || entries(&place, &holed).len() == 3);
    pause(Duration::from_secs(3));
    let counts = [&headless, &holed, &foreign, &odd].map(|id| entries(&place, id).len());
    assert_eq!(counts, [1, 3, 1, 1], "none of them grows");
    let told: Vec<String> =
        server.said().lines().filter(|line| line.contains("is not taken over here")).map(str::to_owned).collect();
    assert!(told.len() == 1 && told[0].contains(&foreign), "it is told once, and by its id: {told:?}");
    for id in [&headless, &foreign, &odd] {
        assert_eq!(server.curl(&format!("/v1/statements/{id}"), &[]).status, 404, "{id}");
    }
    server.is_well();
}

/// Texts that may hold secrets, or that the history does not keep either, stay on the server.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_stay_out_of_the_exchange() {
    let place = place("").await;
    let with_options = format!(
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'data/' OPTIONS ('aws.secret_access_key' 'hunter2'); {}",
        sums()
    );
    let server = serve(&place);
    let secret = submit(&server, &with_options);
    let (plain, _) = begun(&server, &sums(), FRAGMENTS / 4);
    assert!(entries(&place, &secret).is_empty() && !entries(&place, &plain).is_empty(), "{secret} {plain}");
    drop(server);
    for (settings, of_server) in [("[history]\nstatement = 'hash'\n", ""), ("", "journal = false\n")] {
        let place = place_with("exchange", settings, of_server).await;
        let server = serve(&place);
        let (id, _) = begun_where(&server, &sums(), FRAGMENTS / 2, |_| true);
        assert!(entries(&place, &id).is_empty(), "no text leaves the server: {settings}{of_server}");
    }
}

/// The second server has the statement in its queue when it is stopped, with what the first one has spent on it. The third one ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_outlives_two_servers_and_is_recorded_once() {
    let place = place_with("exchange", "", "queries_max = 1\n").await;
    let expect = expected(&place, &sums());
    let id = killed_at(&place, FRAGMENTS / 4);
    // The second one has time to be busy before it takes the statement over.
    edit(&place, &id, |_, entry| entry["lease"] = json!({ "secs": 3, "nanos": 0 }));
    let second = serve(&place);
    let flags = ["-H", "Content-Type: application/sql", "--data-binary", ENDLESS];
    let mut client = second.command("/v1/query", &flags).stdout(Stdio::null()).spawn().expect("curl");
    let is_claim = |path: &PathBuf| std::fs::read_to_string(path).is_ok_and(|text| text.contains("\"taken\""));
    wait_until("it is taken over", || entries(&place, &id).iter().any(is_claim));
    let waits = described(&second, &id);
    assert_eq!((&waits["state"], &waits["position"]), (&json!("QUEUED"), &json!(0)), "{waits}");
    second.signal("STOP");
    let third = serve(&place);
    let told = ended(&third, &id);
    assert_eq!((&told["state"], &result(&third, &id)), (&json!("SUCCEEDED"), &expect), "{told}");
    let report = &told["report"];
    assert_eq!((&report["takeovers"], &report["fragments_adopted"]), (&json!(2), &json!(FRAGMENTS)), "{report}");
    assert!(report["fragments_reused"].as_u64() >= Some(FRAGMENTS / 5), "{report}");
    second.signal("CONT");
    wait_until("the second has given it up", || second.curl(&format!("/v1/statements/{id}"), &[]).status == 404);
    client.kill().expect("it waits");
    client.wait().expect("its end");
    let recorded = third.rows(&format!("SELECT outcome, dollars > 0 AS paid FROM gust.queries WHERE id = '{id}'"));
    assert_eq!(recorded, json!([{ "outcome": "done", "paid": true }]), "one server records it");
    assert_eq!(second.metric("gust_attempts_total"), 0.0, "and one server counts it");
    wait_until("nothing is left in the exchange", || files(&place.path("exchange")).is_empty());
    second.is_well();
    third.is_well();
}

/// Its rows were on the server's disk. Nobody runs it again, unless its user asks for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_has_ended_goes_with_its_server() {
    let place = place("").await;
    let body = json!({ "sql": sums(), "wait_seconds": 50 }).to_string();
    let once = [&JSON[..], &["-H", "Idempotency-Key: once", "--data-binary", &body]].concat();
    let submitted = |server: &Served<'_>| {
        let told = server.curl("/v1/statements", &once).json();
        assert_eq!(told["state"], "SUCCEEDED", "{told}");
        told["id"].as_str().expect("an id").to_owned()
    };
    let mut first = serve(&place);
    let id = submitted(&first);
    assert_eq!(submitted(&first), id, "its key finds it");
    wait_until("nothing is left in the exchange", || files(&place.path("exchange")).is_empty());
    first.signal("KILL");
    first.child.wait().expect("its end");
    let second = serve(&place);
    pause(Duration::from_secs(2));
    for path in ["", "/result", "/events"] {
        assert_eq!(second.curl(&format!("/v1/statements/{id}{path}"), &[]).status, 404, "{path}");
    }
    let recorded = second.rows("SELECT id, outcome FROM gust.queries WHERE statement LIKE 'SELECT sum(s)%'");
    assert_eq!(recorded, json!([{ "id": id, "outcome": "done" }]), "it did not run again");
    assert_ne!(submitted(&second), id, "its key runs it again");
}

/// Its catalog is gone, or its text is none to this version. What the first server has spent is told and recorded.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_cannot_begin_again_has_its_cost() {
    for (member, value, words) in [("catalog", "gone", "no catalog `gone`"), ("sql", "SELEC 1", "SELEC")] {
        let place = place("").await;
        let id = killed_at(&place, FRAGMENTS / 4);
        let noted_before = noted(&place, &id);
        edit(&place, &id, |number, entry| {
            if number == 0 {
                entry["what"]["begun"][member] = json!(value);
            }
        });
        let second = serve(&place);
        let told = ended(&second, &id);
        assert_eq!((&told["state"], &told["query_id"]), (&json!("FAILED"), &json!(id)), "{told}");
        assert!(told["error"]["detail"].as_str().is_some_and(|detail| detail.contains(words)), "{told}");
        assert!(dollars(&told) > 0.0 && told["report"]["attempts"].as_u64() >= Some(noted_before), "{told}");
        let recorded = second.rows(&format!("SELECT outcome, dollars > 0 AS paid FROM gust.queries WHERE id = '{id}'"));
        assert_eq!(recorded, json!([{ "outcome": "failed", "paid": true }]), "{member}");
        wait_until("nothing is left in the exchange", || files(&place.path("exchange")).is_empty());
        second.is_well();
    }
}

/// The exchange does not answer at the statement's end. Its server tries on, and nobody runs the statement again.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_cannot_be_written_is_written_later() {
    let place = place("").await;
    later_journals(&place, "1");
    // It takes longer than the second. What is left of it takes longer than to move a folder, and not as long as a lease.
    let sql = sums_in(3 * FRAGMENTS / FILES);
    let expect = expected(&place, &sql);
    let (first, second) = (serve(&place), serve(&place));
    let has_journal = |id: &str| !entries(&place, id).is_empty();
    let id = (0..TOO_FAST_MAX).find_map(|_| {
        let (id, _) = begun_unless_ended(&first, &sql, 3 * FRAGMENTS * 9 / 10, has_journal)?;
        is_hidden(&place, &id).then_some(id)
    });
    let id = id.expect("a statement whose journal is hidden before it ends");
    let (journal, hidden) = (place.path("exchange/journals").join(&id), place.path("hidden"));
    let told = ended(&first, &id);
    assert_eq!((&told["state"], &result(&first, &id)), (&json!("SUCCEEDED"), &expect), "{told}");
    first.has_said("the end of its journal cannot be written: it is tried on");
    std::fs::remove_file(&journal).expect("removed");
    std::fs::rename(&hidden, &journal).expect("moved");
    wait_until("nothing is left in the exchange", || files(&place.path("exchange")).is_empty());
    pause(Duration::from_secs(4));
    assert_eq!(second.curl(&format!("/v1/statements/{id}"), &[]).status, 404, "nobody has it");
    let recorded = first.rows(&format!("SELECT outcome FROM gust.queries WHERE id = '{id}'"));
    assert_eq!(recorded, json!([{ "outcome": "done" }]), "it is recorded once");
    first.is_well();
}

/// Puts a file in the place of a statement's journal. Returns false if the statement has ended before.
fn is_hidden(place: &Place, id: &str) -> bool {
    let (journal, hidden) = (place.path("exchange/journals").join(id), place.path("hidden"));
    if std::fs::rename(&journal, &hidden).is_err() {
        return false;
    }
    // A server that writes the end before the file is there makes the folder anew, and removes it.
    let is_hidden = std::fs::write(&journal, "no folder").is_ok();
    if is_hidden && is_unended(&entries_in(&hidden)) {
        return true;
    }
    if is_hidden {
        std::fs::remove_file(&journal).expect("removed");
    }
    std::fs::remove_dir_all(&hidden).expect("removed");
    false
}

/// Results of the file that was there do not mix with rows of the one that is.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_replaced_is_read_anew() {
    let place = place("").await;
    let before = expected(&place, &sums());
    let id = killed_at(&place, FRAGMENTS / 2);
    place.parquet("data/0.parquet", "SELECT value AS k FROM generate_series(100001, 120000)").await;
    let expect = expected(&place, &sums());
    assert_ne!(expect, before);
    let second = serve(&place);
    let told = ended(&second, &id);
    assert_eq!((&told["state"], &result(&second, &id)), (&json!("SUCCEEDED"), &expect), "{told}");
    let reused = told["report"]["fragments_reused"].as_u64().expect("a number");
    assert!((1..FRAGMENTS / 2).contains(&reused), "those of the other files: {reused}");
}
