//! Journals in other stores than a disk: S3 that is well, S3 with faults, and stores that create nothing once.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use gust_tests::s3::identity::{COORDINATOR, access_key};
use gust_tests::s3::shape::{Befallen, Faults};
use gust_tests::s3::{Conditions, Operation, REGION, Request, S3Server, SECRET_ACCESS_KEY, Shape};
use object_store::ObjectStoreExt;
use object_store::path::Path as Key;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::task;

use super::Served;
use super::journals::ends;
use super::restart::{
    FRAGMENTS, TOO_FAST_MAX, begun_unless_ended, begun_where, ended, expected, place_with, result, serve, submit, sums,
};
use crate::bad_input::{Place, check, fails, wait_until};

/// Status of a write under a condition that does not hold.
const NOT_SO: u16 = 412;

/// Makes a place whose exchange is in the store.
async fn place(store: &S3Server) -> Place {
    let settings = format!(
        "[s3]\nendpoint = '{}'\nallow_http = true\npath_style = true\nregion = '{REGION}'\naccess_key_id = '{}'\n\
         secret_access_key = '{SECRET_ACCESS_KEY}'\n",
        store.endpoint(),
        access_key(COORDINATOR)
    );
    place_with(&store.url("x"), "", &settings).await
}

/// Lists the keys of a folder.
fn keys(store: &S3Server, folder: &str) -> Vec<String> {
    let (client, folder) = (store.store().expect("a client"), Key::from(folder));
    let listed = client.list(Some(&folder)).map_ok(|meta| meta.location.to_string()).try_collect();
    task::block_in_place(|| Handle::current().block_on(listed)).expect("listed")
}

/// Returns the entries of a statement's journal, by their numbers. One is gone where the statement has ended meanwhile.
fn entries(store: &S3Server, id: &str) -> Vec<Value> {
    let client = store.store().expect("a client");
    let read = async |key: String| client.get(&Key::from(key)).await.ok()?.bytes().await.ok();
    let read = |key| task::block_in_place(|| Handle::current().block_on(read(key)));
    let mut keys = keys(store, &format!("x/journals/{id}"));
    keys.sort();
    keys.into_iter().filter_map(read).map(|entry| serde_json::from_slice(&entry).expect("JSON")).collect()
}

/// Kills the server of a statement whose journal has work. None if the statement has ended before.
fn killed(store: &S3Server, place: &Place, faults: Option<Faults>) -> Option<String> {
    let mut first = serve(place);
    // A server whose first try at the store fails has journals a second later. The test's own client has no faults.
    if let Some(faults) = faults {
        let servers = Befallen { identity: access_key(COORDINATOR), key: String::new() };
        store.set_shape_for(servers, Shape { seed: 1, scale: 1.0, pipe: None, latency: None, limits: None, faults });
    }
    // An entry whose write fails is written later, so that those that are there say what the next server can know.
    let has_work = |id: &str| entries(store, id).iter().map(ends).sum::<u64>() >= FRAGMENTS / 4;
    let (id, _) = begun_unless_ended(&first, &sums(), 0, has_work)?;
    first.signal("KILL");
    first.child.wait().expect("its end");
    entries(store, &id).last().is_some_and(|last| last["what"] != "ended").then_some(id)
}

/// Kills a server, and lets the next one end its statement.
async fn outlives(store: &S3Server, faults: Option<Faults>) {
    let place = place(store).await;
    let expect = expected(&place, &sums());
    let id = (0..TOO_FAST_MAX).find_map(|_| killed(store, &place, faults));
    let id = id.expect("a statement whose server is killed before it ends");
    let second = serve(&place);
    // The store's faults may keep it from being shown at once.
    wait_until("it is shown", || second.curl(&format!("/v1/statements/{id}"), &[]).status == 200);
    let told = ended(&second, &id);
    assert_eq!((&told["state"], &result(&second, &id)), (&json!("SUCCEEDED"), &expect), "{told}");
    let report = &told["report"];
    assert_eq!(report["takeovers"], 1, "{report}");
    assert!(report["fragments_reused"].as_u64() >= Some(FRAGMENTS / 5), "{report}");
    wait_until("nothing is left in the exchange", || keys(store, "x").is_empty());
    second.is_well();
}

/// Counts the writes of a probe, of which one is refused.
fn is_probe(request: &&Request) -> bool {
    request.operation == Operation::Put && request.key.starts_with("x/journals/") && request.refused == Some(NOT_SO)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_outlives_its_server_on_s3() {
    let store = S3Server::start().expect("a server");
    outlives(&store, None).await;
    let refused = store.requests().iter().filter(is_probe).count();
    assert!(refused >= 2, "each server has tried if the store creates once: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_outlives_its_server_on_s3_with_faults() {
    let store = S3Server::start().expect("a server");
    let faults = Faults { slow_down: 0.1, internal_error: 0.05, reset: 0.1, ..Faults::default() };
    outlives(&store, Some(faults)).await;
    let fired: BTreeMap<_, _> = store.fired();
    assert_eq!(fired.len(), 3, "each kind of fault has fired: {fired:?}");
}

/// Two servers would own one statement there.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_create_once_has_no_journals() {
    for conditions in [Conditions::Ignored, Conditions::Refused] {
        let store = S3Server::start().expect("a server");
        store.set_conditions(conditions);
        let place = place(&store).await;
        let server = serve(&place);
        server.has_said("does not create an object once (If-None-Match): submitted statements end with this server");
        let of_journals =
            |request: &&Request| request.operation == Operation::Put && request.key.starts_with("x/journals/");
        let tried = store.requests().iter().filter(of_journals).count();
        let (id, _) = begun_where(&server, &sums(), FRAGMENTS / 2, |_| true);
        assert_eq!(keys(&store, "x/journals"), Vec::<String>::new());
        assert_eq!(ended(&server, &id)["state"], "SUCCEEDED");
        // A store that does not answer is tried again after a second.
        let puts = store.requests().iter().filter(of_journals).count();
        assert!(tried > 0 && puts == tried, "{conditions:?}: it is not tried again: {tried} {puts}");
        server.is_well();
        drop(server);
        let ill =
            ["the exchange does not create an object once (If-None-Match)", "set `journal = false` under [server]"];
        check(&place.gust(&CHECK).output().expect("it starts"), 2, &ill);
        let told = examined(&place);
        assert!(told.contains("ok   journals        the exchange does not create an object once"), "{told}");
        unwanted(&place);
        assert_eq!(keys(&store, "x"), Vec::<String>::new(), "nothing is left");
    }
}

const CHECK: [&str; 4] = ["serve", "--listen", "127.0.0.1:0", "--check"];

/// Returns the doctor's findings, of which none is a fault.
fn examined(place: &Place) -> String {
    let told = place.gust(&["doctor", "--on", "local"]).output().expect("it starts");
    check(&told, 0, &[]);
    String::from_utf8(told.stdout).expect("text")
}

/// Nobody asks for journals that are turned off.
fn unwanted(place: &Place) {
    let configured = std::fs::read_to_string(place.path("gust.toml")).expect("written before");
    assert!(configured.contains("[server]\n"), "{configured}");
    let without = configured.replace("[server]\n", "[server]\njournal = false\n");
    std::fs::write(place.path("gust.toml"), without).expect("written");
    check(&place.gust(&CHECK).output().expect("it starts"), 0, &["the server can start"]);
    assert!(!examined(place).contains("journals"), "{}", examined(place));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_creates_once_is_well() {
    let store = S3Server::start().expect("a server");
    let place = place(&store).await;
    check(&place.gust(&CHECK).output().expect("it starts"), 0, &["the server can start"]);
    assert!(store.requests().iter().any(|request| is_probe(&request)), "it was tried");
    let told = examined(&place);
    assert!(told.contains("creates an object once: submitted statements outlive their server"), "{told}");
    assert_eq!(keys(&store, "x"), Vec::<String>::new(), "nothing is left");
    let configured = std::fs::read_to_string(place.path("gust.toml")).expect("written before");
    std::fs::write(place.path("gust.toml"), configured.replace(SECRET_ACCESS_KEY, "wrong")).expect("written");
    fails(&place, &CHECK, 2, &["s3://gust-test/x", "check `exchange`, the credentials"]);
}

/// A server that may not write there, or not now, is a server all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_written_has_no_journals() {
    let store = S3Server::start().expect("a server");
    let place = place(&store).await;
    let configured = std::fs::read_to_string(place.path("gust.toml")).expect("written before");
    std::fs::write(place.path("gust.toml"), configured.replace(SECRET_ACCESS_KEY, "wrong")).expect("written");
    let server = Served::start(&place, &["--on", "local"]);
    server.has_said("submitted statements end with this server until the exchange can be written");
    assert_eq!(ended(&server, &submit(&server, "SELECT count(*) AS n FROM 'data/'"))["state"], "SUCCEEDED");
    assert_eq!(keys(&store, "x"), Vec::<String>::new());
    server.is_well();
}
