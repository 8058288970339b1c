use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use futures::TryStreamExt;
use futures::future::join_all;
use object_store::memory::InMemory;
use object_store::{Error, Extensions, GetRange};

use super::*;

const KIB: u64 = 1 << 10;

/// Slowness of one read of the fake store: time to its answer, then to each piece of its body.
#[derive(Debug, Clone, Copy)]
struct Slowness {
    answer: Duration,
    piece: Duration,
    fails: bool,
}

const HEALTHY: Slowness = slowness(20, 1);

const fn slowness(answer_ms: u64, piece_ms: u64) -> Slowness {
    Slowness { answer: Duration::from_millis(answer_ms), piece: Duration::from_millis(piece_ms), fails: false }
}

/// One object, whose reads are as slow as a script says. It counts the reads under way and the reads that ended.
#[derive(Debug, Default)]
struct SlowStore {
    inner: InMemory,
    script: Mutex<VecDeque<Slowness>>,
    begun: AtomicU64,
    finished: Arc<AtomicU64>,
    under_way: Arc<AtomicUsize>,
    ranges: Mutex<Vec<Option<GetRange>>>,
    /// Reads that came with a mark.
    marked: AtomicU64,
}

/// Guard that a read holds until it ends or is dropped.
struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Display for SlowStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("slow")
    }
}

#[async_trait]
impl ObjectStore for SlowStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let Slowness { answer, piece, fails } =
            self.script.lock().expect("no holder panics").pop_front().unwrap_or(HEALTHY);
        self.begun.fetch_add(1, Relaxed);
        self.under_way.fetch_add(1, Relaxed);
        let under_way = UnderWay(Arc::clone(&self.under_way));
        self.ranges.lock().expect("no holder panics").push(options.range.clone());
        self.marked.fetch_add(u64::from(options.extensions.get::<Waited>().is_some()), Relaxed);
        tokio::time::sleep(answer).await;
        if fails {
            return Err(Error::Generic { store: "slow", source: "asked to fail".into() });
        }
        let mut result = self.inner.get_opts(location, options).await?;
        let GetResultPayload::Stream(stream) = result.payload else { unreachable!("it lies in memory") };
        let bytes = stream.try_collect::<Vec<_>>().await?.concat();
        let pieces: Vec<Bytes> = bytes.chunks(64 * KIB as usize).map(Bytes::copy_from_slice).collect();
        let finished = Arc::clone(&self.finished);
        let paced = futures::stream::iter(pieces).then(move |bytes| async move {
            tokio::time::sleep(piece).await;
            Ok(bytes)
        });
        let end = futures::stream::once(async move {
            finished.fetch_add(1, Relaxed);
            drop(under_way);
            Ok(Bytes::new())
        });
        result.payload = GetResultPayload::Stream(paced.chain(end).boxed());
        Ok(result)
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unreachable!("only read")
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        unreachable!("only read")
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        unreachable!("only read")
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        unreachable!("only read")
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unreachable!("only read")
    }
}

struct Bench {
    slow: Arc<SlowStore>,
    store: HedgedStore,
    counters: Arc<Counters>,
    object: Vec<u8>,
}

const OBJECT: &str = "t/object";

impl Bench {
    async fn new(script: impl IntoIterator<Item = Slowness>) -> Self {
        let slow = Arc::new(SlowStore { script: Mutex::new(script.into_iter().collect()), ..Default::default() });
        let object: Vec<u8> = (0..1024 * KIB).map(|index| (index % 251) as u8).collect();
        slow.inner.put(&Path::from(OBJECT), object.clone().into()).await.expect("in memory");
        let counters = Arc::<Counters>::default();
        let counted = Arc::new(crate::metering::CountingStore::new(Arc::clone(&slow) as _, Arc::clone(&counters)));
        let hedger = Arc::new(Hedger::new(ExpectedRead::default(), Arc::default()));
        let store = HedgedStore::new(counted, hedger, Arc::clone(&counters));
        Self { slow, store, counters, object }
    }

    /// Reads a range, checks its bytes, and returns the time in milliseconds.
    async fn read(&self, range: Range<u64>) -> u64 {
        self.read_with(range, Default::default()).await
    }

    async fn read_marked(&self, range: Range<u64>, mark: &Waited) -> u64 {
        self.read_with(range, mark.extensions()).await
    }

    async fn read_with(&self, range: Range<u64>, extensions: Extensions) -> u64 {
        let asked = Instant::now();
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), extensions, ..Default::default() };
        let answer = self.store.get_opts(&Path::from(OBJECT), options).await.expect("readable");
        let bytes = answer.bytes().await.expect("readable");
        assert_eq!(bytes, self.object[range.start as usize..range.end as usize]);
        asked.elapsed().as_millis() as u64
    }

    /// Returns reads begun, reads hedged, and reads that were dropped before their end.
    fn counts(&self) -> (u64, u64, u64) {
        let begun = self.slow.begun.load(Relaxed);
        assert_eq!(self.counters.requests().get, begun, "both reads are counted");
        assert_eq!(self.slow.under_way.load(Relaxed), 0, "a loser still reads");
        (begun, self.counters.requests().hedged, begun - self.slow.finished.load(Relaxed))
    }
}

#[tokio::test(start_paused = true)]
async fn a_healthy_read_is_sent_once() {
    let bench = Bench::new([]).await;
    assert_eq!(bench.read(0..100).await, 21);
    assert_eq!(bench.read(0..1024 * KIB).await, 36);
    assert_eq!(bench.counts(), (2, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_is_asked_for_again() {
    let bench = Bench::new([slowness(10_000, 1)]).await;
    // The answer is late after nine times 15 ms. A healthy read follows.
    assert_eq!(bench.read(0..100).await, 135 + 21);
    assert_eq!(bench.counts(), (2, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_late_first_answer_still_wins_over_a_later_second() {
    let bench = Bench::new([slowness(140, 1), slowness(5_000, 1)]).await;
    assert_eq!(bench.read(0..100).await, 141);
    assert_eq!(bench.counts(), (2, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_falls_silent_is_finished_by_a_second_read() {
    let bench = Bench::new([slowness(20, 10_000)]).await;
    assert_eq!(bench.read(0..1024 * KIB).await, 20 + 135 + 20 + 16);
    assert_eq!(bench.counts(), (2, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_body_slower_than_its_likes_is_finished_by_a_second_read() {
    let bench = Bench::new([HEALTHY, slowness(20, 60)]).await;
    bench.read(0..1024 * KIB).await;
    // The first body took 16 ms. The second is due after 9 × (15 ms + 16 ms) = 279 ms, when four of sixteen pieces are there.
    assert_eq!(bench.read(0..1024 * KIB).await, 279 + 20 + 12);
    assert_eq!(bench.counts(), (3, 1, 1));
    let ranges = bench.slow.ranges.lock().expect("no holder panics").split_off(1);
    assert_eq!(ranges, [0..1024 * KIB, 256 * KIB..1024 * KIB].map(|range| Some(GetRange::Bounded(range))));
}

/// Bytes that came are counted, whichever read they are of. A read that loses before its answer has brought none.
#[tokio::test(start_paused = true)]
async fn bytes_of_the_read_that_loses_count_as_far_as_they_came() {
    let bench = Bench::new([slowness(140, 1), slowness(20, 1)]).await;
    assert_eq!(bench.read(0..100).await, 141);
    assert_eq!((bench.counts(), bench.counters.bytes_read()), ((2, 1, 1), 100));
    // The second body is due after 279 ms, as above. While its last twelve pieces come, the first read brings two of them.
    let bench = Bench::new([HEALTHY, slowness(20, 60), slowness(20, 10)]).await;
    bench.read(0..1024 * KIB).await;
    assert_eq!(bench.read(0..1024 * KIB).await, 279 + 20 + 120);
    assert_eq!((bench.counts(), bench.counters.bytes_read()), ((3, 1, 1), (2 * 1024 + 2 * 64) * KIB));
}

#[tokio::test(start_paused = true)]
async fn a_failed_second_read_leaves_the_first() {
    let bench = Bench::new([slowness(300, 1), Slowness { fails: true, ..HEALTHY }]).await;
    assert_eq!(bench.read(0..100).await, 301);
    let both = Slowness { fails: true, ..slowness(300, 1) };
    let bench = Bench::new([both, both]).await;
    let error = bench.store.get(&Path::from(OBJECT)).await.expect_err("both fail");
    assert!(error.to_string().contains("asked to fail"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_its_time_is_not_the_stores_fault() {
    let bench = Bench::new([]).await;
    let mut stream = bench.store.get(&Path::from(OBJECT)).await.expect("readable").into_stream();
    while let Some(chunk) = stream.next().await {
        chunk.expect("readable");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(bench.counts(), (1, 0, 0));
}

/// A pipe ten times slower than expected does not make every read go out twice.
#[tokio::test(start_paused = true)]
async fn a_slow_pipe_is_learnt() {
    let bench = Bench::new((0..100).map(|_| slowness(20, 40))).await;
    for _ in 0..10 {
        bench.read(0..1024 * KIB).await;
    }
    assert_eq!(bench.counts(), (10, 0, 0));
}

/// 5 % of 10,000 reads are slow: ten times as many as the budget pays for.
#[tokio::test(start_paused = true)]
async fn the_budget_holds() {
    let reads = 10_000;
    let script = (0..2 * reads).map(|read| if read % 20 == 7 { slowness(1_000, 1) } else { HEALTHY });
    let bench = Bench::new(script).await;
    for _ in 0..reads {
        bench.read(0..100).await;
    }
    let (begun, hedged, _) = bench.counts();
    assert_eq!(begun, reads + hedged, "a hedge is one read more");
    let most = reads / READS_PER_HEDGE + HEDGES_AT_START;
    assert!(hedged <= most, "{hedged} hedges of {reads} reads, {most} allowed");
    assert!(hedged >= most - 1, "{hedged} hedges of {reads} reads, though there were reasons for more");
}

/// After much reading without trouble only a few reads are sent again at once.
#[tokio::test(start_paused = true)]
async fn savings_are_bounded() {
    let script = (0..4_000).map(|_| HEALTHY).chain((0..100).map(|_| slowness(1_000, 1)));
    let bench = Bench::new(script).await;
    for _ in 0..4_000 {
        bench.read(0..100).await;
    }
    for _ in 0..50 {
        bench.read(0..100).await;
    }
    let (_, hedged, _) = bench.counts();
    assert_eq!(hedged, HEDGES_SAVED_MAX);
}

/// A reader ahead of others marks its reads. The mark reaches the innermost store.
#[tokio::test(start_paused = true)]
async fn a_speculative_read_is_not_sent_twice() {
    for slow in [slowness(10_000, 1), slowness(20, 10_000)] {
        let bench = Bench::new([slow]).await;
        let took = bench.read_marked(0..128 * KIB, &Waited::default()).await;
        assert_eq!(u128::from(took), (slow.answer + 2 * slow.piece).as_millis());
        assert_eq!(bench.counts(), (1, 0, 0));
        assert_eq!(bench.slow.marked.load(Relaxed), 1, "extensions pass the store that counts");
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_that_somebody_begins_to_wait_for_is_late_at_once() {
    // The read is late after 135 ms of silence, and not before somebody has begun to wait. A healthy read follows.
    for (slow, begins_ms, late_ms) in [
        (slowness(10_000, 1), 50, 135),
        (slowness(10_000, 1), 135, 135),
        (slowness(10_000, 1), 500, 500),
        (slowness(20, 10_000), 50, 20 + 135),
        (slowness(20, 10_000), 500, 500),
    ] {
        let bench = Bench::new([slow]).await;
        let mark = Waited::default();
        let begins = async {
            tokio::time::sleep(Duration::from_millis(begins_ms)).await;
            mark.set();
            mark.set();
        };
        let (took, ()) = tokio::join!(bench.read_marked(0..100, &mark), begins);
        assert_eq!(took, late_ms + 20 + 1, "{slow:?}, waited for after {begins_ms} ms");
        assert_eq!(bench.counts(), (2, 1, 1));
    }
}

/// A body that a reader ahead has begun is as late as its likes let expect, from the request on.
#[tokio::test(start_paused = true)]
async fn a_slow_body_that_somebody_begins_to_wait_for_is_late_at_once() {
    let bench = Bench::new([HEALTHY, slowness(20, 60)]).await;
    bench.read(0..1024 * KIB).await;
    let mark = Waited::default();
    let begins = async {
        tokio::time::sleep(Duration::from_millis(510)).await;
        mark.set();
    };
    // Due after 279 ms. At 510 ms eight of sixteen pieces are there.
    let (took, ()) = tokio::join!(bench.read_marked(0..1024 * KIB, &mark), begins);
    assert_eq!(took, 510 + 20 + 8);
    assert_eq!(bench.counts(), (3, 1, 1));
}

/// Eight bodies in a slow pipe are silent in turns.
#[tokio::test(start_paused = true)]
async fn a_body_that_misses_its_turn_is_not_late() {
    for (piece_ms, hedged) in [(200, 0), (1_000, 1)] {
        let script = (0..16).map(|read| slowness(20, if read < 8 { 120 } else { piece_ms }));
        let bench = Bench::new(script).await;
        for _ in 0..2 {
            join_all((0..8).map(|_| bench.read(0..1024 * KIB))).await;
        }
        assert_eq!(bench.counts().1, hedged, "pieces each {piece_ms} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn sixty_four_readers_do_not_make_a_late_body_early_or_never_late() {
    let readers = 64;
    // Each body comes at its connection's rate: 80 ms. Then one of them takes twelve times as long.
    let script = (0..2 * readers).map(|read| if read == readers + 7 { slowness(20, 60) } else { slowness(20, 5) });
    let bench = Bench::new(script).await;
    let round = || join_all((0..readers).map(|_| bench.read(0..1024 * KIB)));
    assert_eq!(round().await, vec![100; readers]);
    let mut times = round().await;
    times.sort_unstable();
    // It is due after 9 × (15 ms + 80 ms), with thirteen of its sixteen pieces there.
    assert_eq!(times.pop(), Some(855 + 20 + 3));
    assert_eq!(times, vec![100; readers - 1]);
    assert_eq!(bench.counts(), (2 * readers as u64 + 1, 1, 1));

    // One body alone takes 16 ms. Then 64 share the pipe, so that each takes 64 times as long, and none is late.
    let script = [HEALTHY].into_iter().chain((0..readers).map(|_| slowness(20, 64)));
    let bench = Bench::new(script).await;
    bench.read(0..1024 * KIB).await;
    let times = join_all((0..readers).map(|_| bench.read(0..1024 * KIB))).await;
    assert_eq!(times, vec![20 + 16 * 64; readers]);
    assert_eq!(bench.counts(), (1 + readers as u64, 0, 0));
}
