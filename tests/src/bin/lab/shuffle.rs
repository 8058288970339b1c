//! Rows from 200 functions to 200 others over the loopback S3: requests, bytes and dollars of their exchange, with and without functions that combine objects, beside
//! those of an object for each partition.
//!
//! Planner, stages, scheduler, functions and exchange are the project's own, and the server counts what they ask for. The functions run in this process, a few at a
//! time: on two cores 200 at once would wait for one another, and hedge reads that are not late. An exchange with an object for each partition does not exist, so
//! that its requests are computed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::util::display::array_value_to_string;
use bytes::Bytes;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::collect;
use fragment_fn::{Environment, EnvironmentSettings};
use gust_engine::config::{Config, JoinPlace, ShufflePlace, Target};
use gust_engine::events::{EventLog, QueryEvent, StampedEvent};
use gust_engine::exec::{QueryContext, RemoteFragmentExec};
use gust_engine::fleet::{Fleet, InProcess};
use gust_engine::planner::{Planner, PlannerSettings};
use gust_engine::report::Report;
use gust_engine::scheduler::{Clock, Scheduler, SchedulerSettings, SpeculationPolicy};
use gust_engine::session::Session;
use gust_tests::cloud;
use gust_tests::query::run_with_events;
use gust_tests::s3::shape::{Faults, RequestLimits};
use gust_tests::s3::{Operation, Request, S3Server, Shape};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use serde_json::json;

use super::tax::sibling;
use super::workload::{Prices, Shuffle};
use super::{Bound, Outcome};

/// Groups as many as there are rows: everything that is scanned goes to the second stage.
const QUERY: &str = "SELECT count(*), sum(k), max(m) FROM (SELECT k, max(p) AS m FROM t GROUP BY k)";

/// Folder of the exchange in the bucket.
const EXCHANGE: &str = "exchange";

pub async fn measure(shuffle: &Shuffle, prices: &Prices, limits: Option<RequestLimits>) -> anyhow::Result<Outcome> {
    let bench = Bench::new(shuffle, shuffle.producers).await?;
    let direct = Box::pin(bench.sample(shuffle.partitions, None, Combine::Never)).await?;
    let combined = Box::pin(bench.sample(shuffle.partitions, None, Combine::Always)).await?;
    let direct_shaped = Box::pin(bench.sample(shuffle.partitions, limits, Combine::Never)).await?;
    let combined_shaped = Box::pin(bench.sample(shuffle.partitions, limits, Combine::Always)).await?;
    drop(bench);
    // The producers of the same first files, with all rows in one region.
    let bench = Bench::new(shuffle, shuffle.producers_of_one).await?;
    let one = Box::pin(bench.sample(1, None, Combine::Never)).await?;
    let samples = Samples { direct, combined, direct_shaped, combined_shaped, one };
    Ok(outcome(shuffle, prices, limits, &samples))
}

/// Runs of the query.
#[derive(Serialize)]
struct Samples {
    direct: Sample,
    combined: Sample,
    direct_shaped: Sample,
    combined_shaped: Sample,
    one: Sample,
}

/// Use of functions that combine objects.
#[derive(Debug, Clone, Copy)]
enum Combine {
    Never,
    Always,
}

/// Server with a table, a file for each producer.
struct Bench<'a> {
    shuffle: &'a Shuffle,
    producers: u32,
    server: S3Server,
    /// Row that the query has.
    expect: String,
}

/// One run of the query.
#[derive(Serialize)]
struct Sample {
    seconds: f64,
    /// Seconds from the beginning of the second stage, which may combine objects.
    consumers_seconds: f64,
    producers: u64,
    /// Functions that make few objects of many; none without them.
    combiners: u64,
    consumers: u64,
    /// Requests for objects of the exchange, counted by the server.
    puts: u64,
    gets: u64,
    /// Requests that write long objects in parts. Each costs as much as a PUT.
    parts: u64,
    /// Objects of these.
    objects_in_parts: u64,
    others: u64,
    /// Part of the GETs that was sent a second time, because the first was late.
    hedged: u64,
    /// Requests that the server refused because there were too many.
    refused: u64,
    bytes_written: u64,
    bytes_read: u64,
    attempts: usize,
    attempts_failed: usize,
    is_right: bool,
    is_remote: bool,
}

impl<'a> Bench<'a> {
    async fn new(shuffle: &'a Shuffle, producers: u32) -> anyhow::Result<Self> {
        let server = S3Server::start()?;
        let store = server.store()?;
        let mut most = String::new();
        for file in 0..producers {
            let (bytes, longest) = file_of(shuffle, file)?;
            store.put(&Path::from(format!("t/{file:04}.parquet")), bytes.into()).await?;
            most = most.max(longest);
        }
        let rows = i64::from(producers) * shuffle.rows_per_file as i64;
        let expect = format!("{rows}|{}|{most}", rows * (rows - 1) / 2);
        Ok(Self { shuffle, producers, server, expect })
    }

    async fn sample(&self, partitions: u32, limits: Option<RequestLimits>, combine: Combine) -> anyhow::Result<Sample> {
        let config = Config {
            on: Target::InProcess,
            functions_max: self.shuffle.consumers.max(self.producers),
            shuffle: ShufflePlace::Hash,
            shuffle_partitions: Some(partitions),
            shuffle_reads_max: match combine {
                Combine::Never => u64::MAX,
                Combine::Always => 0,
            },
            join: JoinPlace::Local,
            exchange: Some(self.server.url(EXCHANGE)),
            ..Config::default()
        };
        let config = cloud::config(&self.server, config, &sibling("bootstrap_under_test")?);
        let session = Session::new(config.clone())?;
        let location = self.server.url("t/");
        run_with_events(&session, &format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{location}'")).await?;
        let (config, stores, folder) = (Arc::new(config), session.stores().clone(), tempfile::tempdir()?);
        let fleet = Arc::new(Fleet::new(&config, &stores, folder.path(), Vec::new())?);
        let settings = PlannerSettings::from(&*config);
        let planner =
            Planner { settings, fleet: Arc::clone(&fleet), stores: stores.clone(), leaf: &RemoteFragmentExec::leaf };
        let state = session.context().state();
        let logical = state.create_logical_plan(QUERY).await?;
        let planned = planner.plan(state, &logical).await?;
        let functions = planned.functions.ok_or_else(|| anyhow::anyhow!("nothing runs on functions"))?;
        let environment = Environment::new(EnvironmentSettings {
            temp_folder: folder.path().to_owned(),
            ..EnvironmentSettings::default()
        });
        let in_flight = self.shuffle.in_flight;
        let invoker = Arc::new(InProcess::new(Arc::new(environment), in_flight));
        // Without speculation each fragment is invoked once, however busy the machine is.
        let settings =
            SchedulerSettings { speculation: SpeculationPolicy::NEVER, ..SchedulerSettings::new(in_flight, 0) };
        let scheduler = Scheduler::new(invoker, Arc::default(), settings);
        let events = EventLog::start();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(600);
        let query = QueryContext {
            id: format!("{combine:?}-{}", if limits.is_some() { "shaped" } else { "lab" }).to_lowercase(),
            attempts: scheduler.query(events.clone(), Clock::start(), deadline, None),
            exchange: fleet.exchange().through(&stores)?,
            credentials: fleet.credentials(&stores).await,
            stores,
            limits: functions.packed.size.limits,
            options: Default::default(),
            work: None,
        };
        let task = TaskContext::from(&planned.state);
        let task_config = task.session_config().clone().with_extension(Arc::new(query));
        let shape = limits.map(|limits| Shape {
            seed: self.shuffle.seed,
            scale: 1.0,
            pipe: None,
            latency: None,
            limits: Some(limits),
            faults: Faults::default(),
        });
        self.server.set_shape(shape);
        self.server.take_requests();
        let started = Instant::now();
        let rows = collect(planned.plan, Arc::new(task.with_session_config(task_config))).await?;
        let seconds = started.elapsed().as_secs_f64();
        let sample = self.sampled(seconds, &rows, &events.snapshot(), &self.server.take_requests())?;
        session.close().await;
        Ok(sample)
    }

    fn sampled(
        &self,
        seconds: f64,
        rows: &[RecordBatch],
        events: &[StampedEvent],
        requests: &[Request],
    ) -> anyhow::Result<Sample> {
        let of_exchange: Vec<&Request> = requests.iter().filter(|request| request.key.starts_with(EXCHANGE)).collect();
        let of = |operation| of_exchange.iter().filter(move |request| request.operation == operation);
        let bytes = |operation| of(operation).map(|request| request.bytes.end - request.bytes.start).sum::<u64>();
        let count = |operation| of(operation).count() as u64;
        let (puts, gets) = (count(Operation::Put), count(Operation::Get));
        let objects_in_parts = count(Operation::CompleteMultipart);
        let parts = objects_in_parts + count(Operation::CreateMultipart) + count(Operation::UploadPart);
        let report = Report::from_events(events);
        let stages = events.iter().filter_map(|stamped| match stamped.event {
            QueryEvent::StageStarted { fragments, .. } => Some((stamped.at, u64::from(fragments))),
            _ => None,
        });
        let stages: Vec<(Duration, u64)> = stages.collect();
        let (producers, begun, combiners, consumers) = match stages[..] {
            [(_, producers), (begun, consumers)] => (producers, begun, 0, consumers),
            [(_, producers), (begun, combiners), (_, consumers)] => (producers, begun, combiners, consumers),
            _ => anyhow::bail!("{} stages instead of two or three", stages.len()),
        };
        let ended = events.last().map_or(begun, |last| last.at);
        let found: Vec<String> =
            rows.iter().filter(|batch| batch.num_rows() > 0).map(line).collect::<Result<_, _>>()?;
        Ok(Sample {
            seconds,
            consumers_seconds: ended.saturating_sub(begun).as_secs_f64(),
            producers,
            combiners,
            consumers,
            puts,
            gets,
            parts,
            objects_in_parts,
            others: of_exchange.len() as u64 - puts - gets - parts,
            hedged: report.by_stage.iter().skip(1).map(|stage| stage.storage.requests.hedged).sum(),
            refused: of_exchange.iter().filter(|request| request.refused == Some(503)).count() as u64,
            bytes_written: bytes(Operation::Put) + bytes(Operation::UploadPart),
            bytes_read: bytes(Operation::Get),
            attempts: report.attempts,
            attempts_failed: report.attempts_failed.values().sum(),
            is_right: found == [self.expect.clone()],
            is_remote: report.fragments_adopted == report.fragments && report.attempts == report.fragments,
        })
    }
}

/// Writes the first row of a batch.
fn line(batch: &RecordBatch) -> anyhow::Result<String> {
    let cells = batch.columns().iter().map(|column| array_value_to_string(column, 0)).collect::<Result<Vec<_>, _>>()?;
    Ok(cells.join("|"))
}

/// Makes a file of keys that no other file has, each with a random text. Returns its last text in their order, too.
fn file_of(shuffle: &Shuffle, file: u32) -> anyhow::Result<(Bytes, String)> {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut random = StdRng::seed_from_u64(shuffle.seed + u64::from(file));
    let mut text =
        || (0..shuffle.text_bytes).map(|_| char::from(SIGNS[random.random_range(0..64)])).collect::<String>();
    let texts: Vec<String> = (0..shuffle.rows_per_file).map(|_| text()).collect();
    let first = i64::from(file) * shuffle.rows_per_file as i64;
    let keys: Int64Array = (first..first + shuffle.rows_per_file as i64).map(Some).collect();
    let columns: [(&str, ArrayRef); 2] =
        [("k", Arc::new(keys)), ("p", Arc::new(StringArray::from_iter_values(&texts)))];
    let rows = RecordBatch::try_from_iter(columns)?;
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None)?;
    writer.write(&rows)?;
    Ok((writer.into_inner()?.into(), texts.into_iter().max().unwrap_or_default()))
}

fn outcome(shuffle: &Shuffle, prices: &Prices, limits: Option<RequestLimits>, samples: &Samples) -> Outcome {
    let Samples { direct, combined, direct_shaped, combined_shaped, one } = samples;
    let dollars = |sample: &Sample| price(prices, sample.puts + sample.parts, sample.gets);
    // An engine that writes an object a partition has a partition for each consumer.
    let objects = u64::from(shuffle.producers) * u64::from(shuffle.consumers);
    let (naive_requests, naive_dollars) = (2 * objects, price(prices, objects, objects));
    let requests = |sample: &Sample| sample.puts + sample.parts + sample.gets;
    let each = |sample: &Sample| sample.bytes_written as f64 / sample.producers as f64;
    let reads_max = limits.map_or(f64::INFINITY, |limits| limits.reads_per_second);
    let told = |name: &str, sample: &Sample| {
        format!(
            "{name}: {} requests, ${:.5}; {:.4} and {:.4} of those of an object a partition",
            requests(sample),
            dollars(sample),
            requests(sample) as f64 / naive_requests as f64,
            dollars(sample) / naive_dollars,
        )
    };
    let mut table = vec![
        format!(
            "{} rows with texts of {} bytes; {} functions at a time, in this process",
            u64::from(shuffle.producers) * shuffle.rows_per_file as u64,
            shuffle.text_bytes,
            shuffle.in_flight
        ),
        "exchange                     producers combiners consumers  PUTs parts    GETs hedged refused MB written  seconds after the first stage  GET/s"
            .to_owned(),
    ];
    let partitions = shuffle.partitions;
    table.extend([
        row(&format!("{partitions} partitions"), direct),
        row("the same, combined", combined),
        row(&format!("direct at {reads_max:.0} GET/s"), direct_shaped),
        row("combined at the same", combined_shaped),
        row("one partition", one),
        format!("an object a partition, computed: {objects} PUTs, {objects} GETs, ${naive_dollars:.4}"),
        told("direct", direct),
        told("combined", combined),
        format!("one partition's bytes a producer: {:.0}, ours {:.0}", each(one), each(direct)),
    ]);
    let bound = |what: &str, measured: f64, limits: super::workload::Limits, unit| Bound {
        what: what.to_owned(),
        measured,
        aim: limits.aim,
        worst: limits.worst,
        unit,
    };
    let bounds = vec![
        bound("bytes over those of one partition", each(direct) / each(one), shuffle.bytes, ""),
        bound(
            "requests, combined, over those of an object a partition",
            requests(combined) as f64 / naive_requests as f64,
            shuffle.requests,
            "",
        ),
        bound(
            "dollars, combined, over those of an object a partition",
            dollars(combined) / naive_dollars,
            shuffle.dollars,
            "",
        ),
        bound(
            "seconds, combined over direct, at the shaped rate",
            combined_shaped.seconds / direct_shaped.seconds,
            shuffle.seconds,
            "",
        ),
    ];
    let all = [direct, combined, direct_shaped, combined_shaped, one];
    let (without, with) = ([direct, direct_shaped, one], [combined, combined_shaped]);
    let validity = vec![
        ("rows are those of the files".to_owned(), all.iter().all(|sample| sample.is_right)),
        ("every fragment came from a function, in one attempt".to_owned(), all.iter().all(|sample| sample.is_remote)),
        (
            format!("{} functions send rows to {}", shuffle.producers, shuffle.consumers),
            all[..4].iter().all(|sample| {
                (sample.producers, sample.consumers) == (u64::from(shuffle.producers), u64::from(shuffle.consumers))
            }),
        ),
        ("objects are combined where that is asked for".to_owned(), with.iter().all(|sample| sample.combiners > 0)),
        (
            "objects are producers and combiners".to_owned(),
            all.iter().all(|sample| sample.puts + sample.objects_in_parts == sample.producers + sample.combiners),
        ),
        (
            // A second read may be given up before it is sent.
            "direct GETs are producers times consumers, beside those that were late or refused".to_owned(),
            without.iter().all(|sample| is_more(sample, sample.producers * sample.consumers, 0)),
        ),
        (
            // A run of a consumer's partitions may lie across the ends of combiners' runs.
            "combined GETs are producers times combiners and one a consumer, and one an end of a combiner's run at most"
                .to_owned(),
            with.iter().all(|sample| {
                is_more(sample, sample.producers * sample.combiners + sample.consumers, sample.combiners - 1)
            }),
        ),
        ("nothing else is asked of the exchange".to_owned(), all.iter().all(|sample| sample.others == 0)),
        (
            "each byte is read once, beside those that were late".to_owned(),
            all.iter().all(|sample| sample.hedged > 0 || sample.bytes_read == sample.bytes_written),
        ),
    ];
    let samples = json!({ "runs": samples, "naive_is_computed": { "puts": objects, "gets": objects } });
    Outcome { name: "shuffle", table, samples, bounds, validity }
}

fn price(prices: &Prices, puts: u64, gets: u64) -> f64 {
    (puts as f64 * prices.thousand_puts + gets as f64 * prices.thousand_gets) / 1e3
}

/// Tells if a run has as many GETs as expected, and at most `more` beside those that were late or refused.
fn is_more(sample: &Sample, expected: u64, more: u64) -> bool {
    let over = sample.gets.checked_sub(expected);
    over.is_some_and(|over| over <= sample.hedged + sample.refused + more)
}

fn row(name: &str, sample: &Sample) -> String {
    format!(
        "{name:<28} {:>9} {:>9} {:>9} {:>5} {:>5} {:>7} {:>6} {:>7} {:>9.1} {:>8.2} {:>21.2} {:>6.0}",
        sample.producers,
        sample.combiners,
        sample.consumers,
        sample.puts,
        sample.parts,
        sample.gets,
        sample.hedged,
        sample.refused,
        sample.bytes_written as f64 / 1e6,
        sample.seconds,
        sample.consumers_seconds,
        sample.gets as f64 / sample.consumers_seconds,
    )
}
