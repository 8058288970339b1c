//! Traces that a collector gets, and collectors that are slow, down or none. The messages are read by the protocol's published types.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use super::Served;
use super::identity::with_users;
use crate::bad_input::{Place, check, fails, wait_until};

/// Answer of the collector.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Takes,
    Busy,
    Hangs,
}

/// Requests that a collector got.
#[derive(Debug, Default)]
struct Got {
    requests: usize,
    heads: Vec<String>,
    resource: Vec<KeyValue>,
    spans: Vec<Span>,
}

/// Collector on loopback. Each request has a connection of its own.
struct Collector {
    address: String,
    way: Arc<Mutex<Way>>,
    got: Arc<Mutex<Got>>,
}

/// Reads the head and the body of a request; None where there is none.
fn request(connection: &TcpStream) -> Option<(String, Vec<u8>)> {
    let mut reader = BufReader::new(connection);
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        head += &line.to_ascii_lowercase();
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

impl Collector {
    fn start(way: Way) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (way, got) = (Arc::new(Mutex::new(way)), Arc::new(Mutex::new(Got::default())));
        let (told, into) = (Arc::clone(&way), Arc::clone(&got));
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for connection in listener.incoming() {
                let mut connection = connection.expect("a connection");
                let Some((head, body)) = request(&connection) else { continue };
                let message = ExportTraceServiceRequest::decode(body.as_slice()).expect("a message");
                let way = *told.lock().expect("no holder panics");
                let mut got = into.lock().expect("no holder panics");
                got.requests += 1;
                let status = match way {
                    Way::Hangs => {
                        silent.push(connection);
                        continue;
                    }
                    Way::Busy => "503 Service Unavailable",
                    Way::Takes => {
                        got.heads.push(head);
                        for of_process in message.resource_spans {
                            got.resource = of_process.resource.expect("a resource").attributes;
                            got.spans.extend(of_process.scope_spans.into_iter().flat_map(|of| of.spans));
                        }
                        "200 OK"
                    }
                };
                drop(got);
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                connection.write_all(answer.as_bytes()).expect("sent");
            }
        });
        Self { address, way, got }
    }

    fn now(&self, way: Way) {
        *self.way.lock().expect("no holder panics") = way;
    }

    fn requests(&self) -> usize {
        self.got.lock().expect("no holder panics").requests
    }

    /// Returns the spans of a trace that have arrived, the statement's first.
    fn spans(&self, trace: &str) -> Vec<Span> {
        let got = self.got.lock().expect("no holder panics");
        got.spans.iter().filter(|span| hex(&span.trace_id) == trace).cloned().collect()
    }

    /// Waits for a trace.
    #[track_caller]
    fn trace(&self, trace: &str) -> Vec<Span> {
        wait_until("the trace is there", || !self.spans(trace).is_empty());
        self.spans(trace)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fact(facts: &[KeyValue], key: &str) -> Option<Value> {
    facts.iter().find(|fact| fact.key == key)?.value.clone()?.value
}

fn text(text: &str) -> Option<Value> {
    Some(Value::StringValue(text.to_owned()))
}

fn now_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_nanos()).expect("before 2554")
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_the_spans_of_statements() {
    let collector = Collector::start(Way::Takes);
    let configuration = format!(
        "on = 'processes'\n[server]\nreach = ['data']\ntokens = 'tokens.toml'\notlp = 'http://{}/'\n",
        collector.address
    );
    let (place, [ada]) = with_users(&configuration, [&["ada"]]);
    for file in ["a", "b"] {
        place.parquet(&format!("data/{file}.parquet"), "SELECT value AS k FROM generate_series(1, 5000)").await;
    }
    let setup = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'data/'";
    std::fs::write(place.path("setup.sql"), setup).expect("written");
    let mut server = Served::start(&place, &["--setup", "setup.sql"]);
    let sql = ["-H", "Content-Type: application/sql", "--data-binary"];
    let asked = |parent: &str, text: &str| {
        let answer = server.ask(&ada, "/v1/query", &[&sql[..], &[text, "-H", parent]].concat());
        answer.header("gust-query-id").expect("an id").to_owned()
    };
    // A client that does not sample its trace gets no spans.
    let unsampled = "1".repeat(32);
    asked(&format!("traceparent: 00-{unsampled}-b7ad6b7169203331-00"), "SELECT max(k) FROM t");
    let began = now_nanos();
    let id = asked(
        &format!("traceparent: 00-{TRACE}-b7ad6b7169203331-01"),
        "SELECT sum(k) AS secret FROM t WHERE k % 2 = 0",
    );
    let spans = collector.trace(TRACE);
    let ended = now_nanos();
    let named = |name: &str| spans.iter().filter(|span| span.name.starts_with(name)).collect::<Vec<_>>();
    let [statement] = named("statement")[..] else { panic!("{spans:?}") };
    assert_eq!((hex(&statement.parent_span_id).as_str(), statement.flags), ("b7ad6b7169203331", 0x301));
    assert_eq!(fact(&statement.attributes, "gust.query_id"), text(&id));
    assert_eq!(fact(&statement.attributes, "user.name"), text("ada"));
    assert_eq!(fact(&statement.attributes, "gust.outcome"), text("done"));
    let of_history = format!("SELECT dollars::double AS d, attempts, fragments FROM gust.queries WHERE id = '{id}'");
    let bill = server.ask(&ada, "/v1/query", &[&sql[..], &[of_history.as_str()]].concat());
    let bill = bill.json()[0].clone();
    let Some(Value::DoubleValue(dollars)) = fact(&statement.attributes, "gust.dollars") else {
        panic!("{statement:?}")
    };
    assert!(dollars > 0.0 && (dollars - bill["d"].as_f64().expect("dollars")).abs() < 1e-12, "{dollars}: {bill}");
    // Plan, stages and their attempts stand below one another.
    let (plan, stages, attempts) = (named("plan"), named("stage"), named("attempt"));
    assert!(plan.iter().chain(&stages).all(|span| span.parent_span_id == statement.span_id), "{spans:?}");
    assert_eq!((plan.len(), stages.len()), (1, 1), "{spans:?}");
    assert!(attempts.iter().all(|attempt| attempt.parent_span_id == stages[0].span_id), "{spans:?}");
    assert_eq!(Some(attempts.len() as u64), bill["attempts"].as_u64(), "{bill}");
    let done = attempts.iter().filter(|attempt| fact(&attempt.attributes, "gust.outcome") == text("done"));
    assert!(Some(done.count() as u64) >= bill["fragments"].as_u64() && !attempts.is_empty(), "{spans:?}");
    assert_eq!(fact(&plan[0].attributes, "gust.place"), text("functions"));
    for span in &spans {
        let [from, to] = [span.start_time_unix_nano, span.end_time_unix_nano];
        assert!(began <= from && from <= to && to <= ended, "{began} {ended}: {span:?}");
        assert!(statement.start_time_unix_nano <= from && to <= statement.end_time_unix_nano, "{span:?}");
        let same = spans.iter().filter(|other| other.span_id == span.span_id).count();
        assert!(same == 1 && span.span_id.len() == 8 && span.span_id != [0; 8], "{span:?}");
    }
    // Without a client's span the trace has the statement's id. An error is told by its kind, and has no text.
    let id = asked("traceparent: 00-nothing-of-this-kind-01", "SELECT 1 AS one");
    assert!(collector.trace(&id)[0].parent_span_id.is_empty());
    let failed = server.ask(&ada, "/v1/query", &[&sql[..], &["SELECT 1 / (k - 1) AS secret FROM t"]].concat());
    let id = failed.header("gust-query-id").expect("an id").to_owned();
    let spans = collector.trace(&id);
    assert_eq!(spans[0].status.as_ref().map(|status| status.code), Some(2), "{failed:?} {spans:?}");
    assert!(fact(&spans[0].attributes, "error.type").is_some(), "{spans:?}");
    // The same over Flight.
    let mut flight = place.gust(&["query", "--server", &server.url, "SELECT 2 AS two"]);
    check(&flight.env("GUST_TOKEN", &ada).output().expect("it starts"), 0, &[]);
    let statements = |spans: &[Span]| spans.iter().filter(|span| span.name == "statement").count();
    let told = || statements(&collector.got.lock().expect("no holder panics").spans);
    wait_until("Flight's statement is told", || told() >= 5);
    assert!(server.ask(&ada, "/metrics", &[]).text().contains("gust_traces_dropped_total 0\n"));
    {
        let got = collector.got.lock().expect("no holder panics");
        assert_eq!(fact(&got.resource, "service.name"), text("gust"));
        assert!(got.heads.iter().all(|head| head.starts_with("post /v1/traces http/1.1")), "{:?}", got.heads);
        assert!(got.heads.iter().all(|head| head.contains("content-type: application/x-protobuf")), "{:?}", got.heads);
        let all = format!("{:?}", got.spans);
        assert!(!all.contains("secret") && !all.contains("gust_"), "a text of a client's is told");
        assert!(got.spans.iter().all(|span| hex(&span.trace_id) != unsampled), "it was not to be told");
    }
    // Spans that were not sent when the server ends are sent then.
    let last = asked("accept: */*", "SELECT 3 AS three");
    server.signal("TERM");
    assert_eq!(server.ended(), Some(0));
    assert_eq!(collector.spans(&last)[0].name, "statement");
}

#[test]
fn a_collector_that_is_slow_or_down_holds_nobody_up() {
    let collector = Collector::start(Way::Busy);
    let place = Place::new(&format!("on = 'local'\n[server]\notlp = 'http://{}'\n", collector.address));
    let mut server = Served::start(&place, &[]);
    let began = Instant::now();
    server.is_well();
    server.is_well();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // It is tried again, then dropped and counted, and the log has it once.
    wait_until("two are dropped", || server.metric("gust_traces_dropped_total") == 2.0);
    server.is_well();
    wait_until("three are dropped", || server.metric("gust_traces_dropped_total") == 3.0);
    assert!(collector.requests() >= 4, "{}", collector.requests());
    assert_eq!(server.said().matches("does not take traces").count(), 1, "{}", server.said());
    collector.now(Way::Takes);
    server.is_well();
    wait_until("it takes them again", || server.metric("gust_traces_sent_total") == 1.0);
    assert_eq!(server.metric("gust_traces_dropped_total"), 3.0);
    // One that hangs holds up neither statements nor, for long, the server's end.
    collector.now(Way::Hangs);
    let (before, began) = (collector.requests(), Instant::now());
    for _ in 0..3 {
        server.is_well();
    }
    wait_until("it hangs", || collector.requests() > before);
    server.is_well();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let began = Instant::now();
    server.signal("TERM");
    assert_eq!(server.ended(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
}

#[test]
fn a_bad_collector_is_told_by_a_check() {
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    let with_check = [&serve[..], &["--check"]].concat();
    let collector = Collector::start(Way::Takes);
    let place = |address: &str| Place::new(&format!("on = 'local'\n[server]\notlp = '{address}'\n"));
    let good = place(&format!("http://{}", collector.address));
    check(&good.gust(&with_check).output().expect("it starts"), 0, &["the server can start"]);
    assert_eq!((collector.requests(), collector.got.lock().expect("no holder panics").spans.len()), (1, 0));
    collector.now(Way::Busy);
    fails(&good, &with_check, 2, &["server.otlp: http://127.0.0.1:", "/v1/traces: it answers 503"]);
    // Nobody listens there any more.
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let down = place(&format!("http://{free}"));
    fails(&down, &with_check, 2, &["server.otlp: http://127.0.0.1:", "hint: "]);
    // A server starts without its collector, and not with an address that is none.
    Served::start(&down, &[]).is_well();
    for (address, words) in [("localhost:4318", "expected http://"), ("http://ada:secret@localhost", "with a user")] {
        for flags in [&serve[..], &with_check[..]] {
            fails(&place(address), flags, 2, &["server.otlp: ", words]);
        }
    }
}
