//! Cursors that keep the memory of their joins: nobody waits for ever for what a client does not read.

use std::io::Write;
use std::net::TcpStream;

use super::Served;
use super::postgres::{POSTGRES, hears, message, startup_of};
use crate::bad_input::{Place, wait_until};

/// Statements that begin a cross join, which holds 15.3 MiB until its last row is read.
const PAIRS: &str = "BEGIN; DECLARE c CURSOR FOR SELECT a.k, b.k AS l FROM t a, t b; FETCH 1 FROM c";

async fn place(settings: &str) -> Place {
    let place = Place::new(&format!("on = 'local'\n{settings}reach = ['data']\n"));
    place.parquet("data/a.parquet", "SELECT value AS k FROM generate_series(1, 2000000)").await;
    let setup = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'data/'";
    std::fs::write(place.path("setup.sql"), setup).expect("written");
    place
}

fn start(place: &Place) -> Served<'_> {
    Served::start(place, &[&POSTGRES[..], &["--setup", "setup.sql"]].concat())
}

fn connect(server: &Served<'_>) -> TcpStream {
    let mut socket = server.socket();
    socket.write_all(&startup_of("ada")).expect("sent");
    socket
}

fn ask(socket: &mut TcpStream, sql: &str) {
    socket.write_all(&message(b'Q', format!("{sql}\0").as_bytes())).expect("sent");
}

/// Each of four queries is sure of 4.5 of 36 MiB: two of the joins do not fit into the other half.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_portal_is_refused_the_memory_that_the_first_one_keeps() {
    let place = place("memory_bytes_max = '36MiB'\n[server]\nqueries_max = 4\n").await;
    let server = start(&place);
    let mut client = connect(&server);
    ask(&mut client, PAIRS);
    hears(&mut client, "FETCH 1");
    // Statements that need no such memory run beside it.
    ask(&mut client, "SELECT 'be' || 'side'");
    hears(&mut client, "beside");
    ask(&mut client, &PAIRS.replace("BEGIN; ", "").replace(" c", " d"));
    hears(&mut client, "C53300");
    ask(&mut client, "ROLLBACK");
    hears(&mut client, "ROLLBACK");
    ask(&mut client, PAIRS);
    hears(&mut client, "FETCH 1");
    drop(client);
    wait_until("nothing runs", || server.metric("gust_queries_running") == 0.0);
    server.is_well();
}

/// One place and 24 MiB. The second client has the place and waits for the memory, which the first one gives back when it has read on.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_goes_on_where_others_wait_for_its_memory() {
    let place = place("memory_bytes_max = '24MiB'\n[server]\nqueries_max = 1\n").await;
    let server = start(&place);
    let (mut first, mut second) = (connect(&server), connect(&server));
    ask(&mut first, PAIRS);
    hears(&mut first, "FETCH 1");
    wait_until("its place is free", || server.metric("gust_queries_running") == 0.0);
    ask(&mut second, PAIRS);
    let waits = || ["gust_queries_running", "gust_queries_waiting_for_memory"].map(|name| server.metric(name));
    wait_until("the second one has the place, and waits for memory", || waits() == [1.0, 1.0]);
    ask(&mut first, "FETCH 2 FROM c");
    hears(&mut first, "FETCH 2");
    // Another statement of it would wait for the place.
    ask(&mut first, "SELECT 1");
    hears(&mut first, "C53300");
    ask(&mut first, "ROLLBACK");
    hears(&mut first, "ROLLBACK");
    hears(&mut second, "FETCH 1");
    drop((first, second));
    wait_until("nothing runs", || server.metric("gust_queries_running") == 0.0);
    server.is_well();
}
