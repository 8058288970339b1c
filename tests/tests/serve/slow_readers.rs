//! A reader that stops holds its query up, on each wire, and takes no memory for the rest of the rows.

use std::io::Read;
use std::time::Duration;

use gust_tests::slow_readers::{Ports, Wire, bytes_min, forget_peak, peak_resident_bytes, resident_bytes, statement};
use serde_json::json;

use super::postgres::{POSTGRES, has_psql};
use super::{Served, pause};
use crate::bad_input::{Place, wait_until};

/// Rows of a kilobyte.
const ROWS: u64 = 500_000;

/// Bytes that a server may take for one reader: half of what is promised.
const ABOVE_IDLE_MAX: u64 = 128 << 20;

#[test]
fn a_reader_that_stops_takes_no_memory() {
    if !has_psql() {
        return;
    }
    let place = Place::new("on = 'local'\n");
    let server = Served::start(&place, &POSTGRES);
    let process = server.child.id();
    let http = server.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let ports = Ports { http, postgres: server.postgres.expect("a port") };
    for wire in Wire::ALL {
        let name = wire.name();
        let client = |rows: u64| wire.client(place.gust(&[]), ports, &statement(rows));
        let few = client(10).output().expect("a client");
        assert!(few.status.success(), "{name}: {few:?}");
        let idle = resident_bytes(process).expect("Linux");
        forget_peak(process).expect("its own process");
        let mut reading = client(ROWS).spawn().expect("a client");
        let mut rows = reading.stdout.take().expect("its rows");
        let mut first = [0; 1 << 16];
        rows.read_exact(&mut first).expect("rows");
        wait_until("the query is held up", || {
            let before = server.processor_ticks();
            pause(Duration::from_millis(500));
            server.processor_ticks() - before < 5
        });
        let running = server.rows("SELECT count(*) AS n FROM gust.running WHERE statement LIKE '%generate_series(1, 500000)%' AND statement NOT LIKE '%gust.%'");
        assert_eq!(running, json!([{ "n": 1 }]), "{name}: its rows do not wait in memory");
        let above = peak_resident_bytes(process).expect("Linux").saturating_sub(idle);
        eprintln!("{name}: {} MiB above idle for a reader that has stopped", above >> 20);
        assert!(above < ABOVE_IDLE_MAX, "{name}: {} MiB", above >> 20);
        let rest = std::io::copy(&mut rows, &mut std::io::sink()).expect("rows");
        assert!(reading.wait().expect("its end").success(), "{name}");
        assert!(first.len() as u64 + rest >= bytes_min(ROWS), "{name}: {rest} bytes");
        let above = peak_resident_bytes(process).expect("Linux").saturating_sub(idle);
        assert!(above < ABOVE_IDLE_MAX, "{name}: {} MiB for one that reads on", above >> 20);
    }
    let whole = format!("SELECT count(*) AS n FROM gust.queries WHERE outcome = 'done' AND rows = {ROWS}");
    wait_until("each has all rows", || server.rows(&whole) == json!([{ "n": Wire::ALL.len() }]));
}
