//! Answers of stores to the listings of one statement: its scans and its plans share them.
//!
//! ```text
//!  scan of t ──┐                   ┌─▶ kept
//!  scan of t ──┼─▶ Listings ─▶ slot ┤
//!  second plan ┘                   └─▶ store, one asker at a time
//! ```
//!
//! Equal questions have one answer. Scans of one table ask different ones where their filters rule out different folders, and may
//! then see a file or not. A listing of more than [`OBJECTS_MAX`] objects is not kept either.
//!
//! A query may plan by the answers of earlier statements ([`EarlierListings`]), until its own have come.
//!
//! An answer is kept until the plan starts. So a statement that is planned once more, after its functions failed or memory was
//! short, sees the files of that moment. Failures are not kept.
//!
//! Non-goals: listings of other statements, and those of the exchange.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use datafusion::catalog::Session;
use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::object_store::ObjectStoreUrl;
use futures::future::join_all;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{GetOptions, ListResult, ObjectMeta, ObjectStore, Result};
use tracing::Instrument;

use super::earlier::{EarlierListings, Place, Reply};

/// Objects of all answers that are kept at once. An object takes about 250 bytes.
const OBJECTS_MAX: usize = 100_000;

/// Answers that one statement shares.
#[derive(Debug)]
pub struct Listings {
    below: Answers<Vec<ObjectMeta>>,
    folders: Answers<ListResult>,
    files: Answers<Option<ObjectMeta>>,
    /// Objects that can still be kept.
    room: AtomicUsize,
    earlier: Arc<EarlierListings>,
    /// True while the answers of earlier statements may be used.
    hopes: AtomicBool,
    /// True while the statement's answers are kept for later ones: until one of an earlier statement has misled it.
    keeps: AtomicBool,
    /// Listings under way to questions that an earlier answer was used for. They end with true if theirs is the same.
    checks: Mutex<Vec<SpawnedTask<bool>>>,
}

impl Default for Listings {
    fn default() -> Self {
        Self::after(Arc::default())
    }
}

impl Listings {
    /// Makes the listings of a statement that knows those of others.
    pub fn after(earlier: Arc<EarlierListings>) -> Self {
        Self {
            below: Answers::default(),
            folders: Answers::default(),
            files: Answers::default(),
            room: AtomicUsize::new(OBJECTS_MAX),
            earlier,
            hopes: AtomicBool::new(false),
            keeps: AtomicBool::new(true),
            checks: Mutex::default(),
        }
    }

    /// Lets the answers of earlier statements be used, until [`Self::confirmed`] is called.
    pub fn hope(&self) {
        self.hopes.store(true, Relaxed);
    }

    /// Waits for the statement's own listings. Returns false where an earlier answer was used that is not the store's any more: what was
    /// planned by it must not be used.
    pub async fn confirmed(&self) -> bool {
        self.hopes.store(false, Relaxed);
        let checks = std::mem::take(&mut *self.checks.lock().expect("no holder panics"));
        let is_same = join_all(checks).await.into_iter().all(|check| check.unwrap_or(false));
        if !is_same {
            self.keeps.store(false, Relaxed);
        }
        is_same
    }

    /// Returns the listings of the statement that `state` plans. A state of no statement keeps nothing.
    pub fn of(state: &dyn Session) -> Arc<Self> {
        state.config().get_extension::<Self>().unwrap_or_default()
    }

    /// Forgets all answers.
    pub fn forget(&self) {
        self.below.clear();
        self.folders.clear();
        self.files.clear();
        self.room.store(OBJECTS_MAX, Relaxed);
    }

    /// Takes room for an answer. Returns false if it is too long to be kept.
    fn take_room(&self, objects: usize) -> bool {
        self.room.fetch_update(Relaxed, Relaxed, |room| room.checked_sub(objects)).is_ok()
    }

    /// Returns the kept answer to a question, or else the answer of `ask`.
    async fn answer<T: Reply>(
        &self,
        answers: &Answers<T>,
        place: Place,
        ask: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<Arc<T>> {
        let slot = answers.slot(&place);
        let mut slot = slot.lock().await;
        match &*slot {
            Answer::Kept(answer) => return Ok(Arc::clone(answer)),
            Answer::TooLong => {
                drop(slot);
                return Ok(Arc::new(ask.await?));
            }
            Answer::Unknown => {}
        }
        let answer = match self.hoped::<T>(&place) {
            Some(hoped) => {
                self.check(place, Arc::clone(&hoped), ask);
                hoped
            }
            None => {
                let answer = Arc::new(ask.await?);
                self.known(&place, &answer);
                answer
            }
        };
        *slot = self.kept(&answer);
        Ok(answer)
    }

    fn kept<T: Reply>(&self, answer: &Arc<T>) -> Answer<T> {
        if self.take_room(answer.objects()) { Answer::Kept(Arc::clone(answer)) } else { Answer::TooLong }
    }

    /// Returns the answer of an earlier statement, if it may be used.
    fn hoped<T: Reply>(&self, place: &Place) -> Option<Arc<T>> {
        if self.hopes.load(Relaxed) { self.earlier.get(place) } else { None }
    }

    /// Keeps an answer for later statements.
    fn known<T: Reply>(&self, place: &Place, answer: &Arc<T>) {
        if self.keeps.load(Relaxed) && place.0 != ObjectStoreUrl::local_filesystem() {
            self.earlier.keep(place, answer);
        }
    }

    /// Asks in a task of its own whether an answer is still the store's. One that is not is forgotten. `ask` may end early once it
    /// differs, so its answer is not kept in its place.
    fn check<T: Reply>(&self, place: Place, hoped: Arc<T>, ask: impl Future<Output = Result<T>> + Send + 'static) {
        let earlier = Arc::clone(&self.earlier);
        let check = async move {
            let is_same = ask.await.is_ok_and(|answer| answer.is_same(&hoped));
            if !is_same {
                earlier.forget::<T>(&place);
            }
            is_same
        };
        let check = SpawnedTask::spawn(check.in_current_span());
        self.checks.lock().expect("no holder panics").push(check);
    }
}

/// Answers by their places.
#[derive(Debug)]
struct Answers<T>(Mutex<HashMap<Place, Arc<Slot<T>>>>);

/// Place of one answer. It is locked while its store is asked, so that others wait for the answer.
type Slot<T> = tokio::sync::Mutex<Answer<T>>;

#[derive(Debug)]
enum Answer<T> {
    Unknown,
    Kept(Arc<T>),
    TooLong,
}

impl<T> Default for Answers<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Answers<T> {
    fn slot(&self, place: &Place) -> Arc<Slot<T>> {
        let mut slots = self.0.lock().expect("no holder panics");
        let slot = slots.entry(place.clone());
        Arc::clone(slot.or_insert_with(|| Arc::new(Slot::new(Answer::Unknown))))
    }

    fn clear(&self) {
        self.0.lock().expect("no holder panics").clear();
    }
}

/// A store as one statement lists it.
pub(super) struct ListedStore<'a> {
    pub(super) store: &'a Arc<dyn ObjectStore>,
    pub(super) url: &'a ObjectStoreUrl,
    pub(super) listings: Arc<Listings>,
}

impl ListedStore<'_> {
    fn place(&self, path: &Path) -> Place {
        (self.url.clone(), path.clone())
    }

    /// Returns size and version of an object; None if there is none.
    pub(super) async fn file(&self, path: &Path) -> Result<Option<ObjectMeta>> {
        let (store, place) = (Arc::clone(self.store), self.place(path));
        let path = path.clone();
        let ask = async move {
            // A plan has to ask only this: if it is a file, its size and its version.
            let head = GetOptions { head: true, ..GetOptions::default() };
            match store.get_opts(&path, head).await {
                Ok(answer) => Ok(Some(answer.meta)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let answer = self.listings.answer(&self.listings.files, place, ask).await?;
        Ok(Option::clone(&answer))
    }

    /// Lists one folder without those below it.
    pub(super) async fn folder(&self, path: &Path) -> Result<Arc<ListResult>> {
        let (store, place) = (Arc::clone(self.store), self.place(path));
        let path = path.clone();
        let ask = async move { store.list_with_delimiter(Some(&path)).await };
        self.listings.answer(&self.listings.folders, place, ask).await
    }

    /// Lists everything below a folder. A listing that is too long to be kept goes on while its objects are taken.
    pub(super) async fn below(&self, path: &Path) -> Result<BoxStream<'static, Result<ObjectMeta>>> {
        let place = self.place(path);
        let slot = self.listings.below.slot(&place);
        let mut slot = slot.lock().await;
        match &*slot {
            Answer::Kept(objects) => return Ok(each(Arc::clone(objects))),
            Answer::TooLong => return Ok(self.store.list(Some(path))),
            Answer::Unknown => {}
        }
        let mut listing = self.store.list(Some(path));
        if let Some(hoped) = self.listings.hoped::<Vec<ObjectMeta>>(&place) {
            // One more object is enough to see that there are more.
            let ask = listing.take(hoped.len() + 1).try_collect();
            self.listings.check(place, Arc::clone(&hoped), ask);
            *slot = self.listings.kept(&hoped);
            return Ok(each(hoped));
        }
        let mut objects = Vec::new();
        while let Some(object) = listing.try_next().await? {
            objects.push(object);
            if objects.len() > self.listings.room.load(Relaxed) {
                self.listings.earlier.forget::<Vec<ObjectMeta>>(&place);
                *slot = Answer::TooLong;
                return Ok(stream::iter(objects.into_iter().map(Ok)).chain(listing).boxed());
            }
        }
        let objects = Arc::new(objects);
        self.listings.known(&place, &objects);
        *slot = self.listings.kept(&objects);
        Ok(each(objects))
    }
}

fn each(objects: Arc<Vec<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
    stream::iter((0..objects.len()).map(move |index| Ok(objects[index].clone()))).boxed()
}

#[cfg(test)]
mod tests {
    use fragment_fn::metering::{Counters, CountingStore};
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    /// Makes a store with the files `t/a` and `t/b`, and its counters.
    async fn store() -> (Arc<dyn ObjectStore>, Arc<Counters>) {
        let (store, counters) = (Arc::new(InMemory::new()), Arc::<Counters>::default());
        for path in ["t/a", "t/b"] {
            store.put(&Path::from(path), "x".into()).await.expect("put");
        }
        (Arc::new(CountingStore::new(store, Arc::clone(&counters))), counters)
    }

    #[track_caller]
    fn check(counters: &Counters, lists: u64, heads: u64) {
        let requests = counters.requests();
        assert_eq!((requests.list, requests.head + requests.get), (lists, heads));
    }

    async fn names(store: &ListedStore<'_>, path: &str) -> Vec<String> {
        let below = store.below(&Path::from(path)).await.expect("listed");
        let objects: Vec<ObjectMeta> = below.try_collect().await.expect("listed");
        objects.into_iter().map(|object| object.location.to_string()).collect()
    }

    #[tokio::test]
    async fn a_question_is_asked_once_until_it_is_forgotten() {
        let (store, counters) = store().await;
        let url = ObjectStoreUrl::local_filesystem();
        let listed = ListedStore { store: &store, url: &url, listings: Arc::default() };
        let (first, second) = futures::join!(names(&listed, "t"), names(&listed, "t"));
        assert_eq!(
            (first, second),
            (vec!["t/a".to_owned(), "t/b".to_owned()], vec!["t/a".to_owned(), "t/b".to_owned()])
        );
        check(&counters, 1, 0);
        for _ in 0..2 {
            assert_eq!(listed.folder(&Path::from("t")).await.expect("listed").objects.len(), 2);
        }
        check(&counters, 2, 0);
        for _ in 0..2 {
            assert!(listed.file(&Path::from("t/a")).await.expect("asked").is_some());
            assert_eq!(listed.file(&Path::from("t/c")).await.expect("asked"), None);
        }
        check(&counters, 2, 2);
        store.put(&Path::from("t/c"), "x".into()).await.expect("put");
        assert_eq!(names(&listed, "t").await.len(), 2);
        listed.listings.forget();
        assert_eq!(names(&listed, "t").await.len(), 3);
        check(&counters, 3, 2);
    }

    #[tokio::test]
    async fn earlier_answers_hold_until_the_stores_own_have_come() {
        let (store, counters) = store().await;
        let url = ObjectStoreUrl::parse("s3://lake").expect("a URL");
        let earlier = Arc::<EarlierListings>::default();
        let statement = |hopes: bool| {
            let listings = Arc::new(Listings::after(Arc::clone(&earlier)));
            if hopes {
                listings.hope();
            }
            ListedStore { store: &store, url: &url, listings }
        };
        let seen = async |listed: &ListedStore<'_>| {
            let file = listed.file(&Path::from("t/c")).await.expect("asked");
            let folder = listed.folder(&Path::from("t")).await.expect("listed").objects.len();
            (names(listed, "t").await.len(), folder, file.is_some())
        };
        // The first statement has nothing to hope for.
        let first = statement(true);
        assert_eq!(seen(&first).await, (2, 2, false));
        assert!(first.listings.confirmed().await);
        check(&counters, 2, 1);
        let second = statement(true);
        assert_eq!(seen(&second).await, (2, 2, false));
        assert!(second.listings.confirmed().await, "nothing has changed");
        check(&counters, 4, 2);
        store.put(&Path::from("t/c"), "x".into()).await.expect("put");
        assert_eq!(seen(&statement(false)).await, (3, 3, true), "it hopes for nothing");
        store.delete(&Path::from("t/c")).await.expect("deleted");
        let third = statement(true);
        assert_eq!(seen(&third).await, (3, 3, true));
        assert!(!third.listings.confirmed().await, "a file is gone");
        third.listings.forget();
        assert_eq!(seen(&third).await, (2, 2, false));
        let fourth = statement(true);
        assert_eq!(seen(&fourth).await, (2, 2, false));
        assert!(fourth.listings.confirmed().await);
        store.put(&Path::from("t/b"), "y".into()).await.expect("put");
        let fifth = statement(true);
        seen(&fifth).await;
        assert!(!fifth.listings.confirmed().await, "a file is another one");
    }

    #[tokio::test]
    async fn an_answer_that_was_wrong_is_forgotten() {
        let (store, _) = store().await;
        let url = ObjectStoreUrl::parse("s3://lake").expect("a URL");
        let earlier = Arc::<EarlierListings>::default();
        let statement = || {
            let listings = Arc::new(Listings::after(Arc::clone(&earlier)));
            listings.hope();
            ListedStore { store: &store, url: &url, listings }
        };
        let place = (url.clone(), Path::from("t"));
        let kept = || earlier.get::<Vec<ObjectMeta>>(&place).map(|objects| objects.len());
        assert_eq!(names(&statement(), "t").await.len(), 2);
        assert_eq!(kept(), Some(2));
        for path in ["t/c", "t/d"] {
            store.put(&Path::from(path), "x".into()).await.expect("put");
        }
        let misled = statement();
        assert_eq!(names(&misled, "t").await.len(), 2);
        assert!(!misled.listings.confirmed().await, "there are more files");
        assert_eq!(kept(), None, "neither the old answer nor a part of the new one");
        misled.listings.forget();
        assert_eq!(names(&misled, "t").await.len(), 4);
        assert_eq!(kept(), None, "the folder changes, so the next statement does not hope");
        let next = statement();
        assert_eq!(names(&next, "t").await.len(), 4);
        assert!(next.listings.confirmed().await);
        assert_eq!(kept(), Some(4));
        let room = AtomicUsize::new(1);
        let short = Arc::new(Listings { room, ..Listings::after(Arc::clone(&earlier)) });
        let short = ListedStore { store: &store, url: &url, listings: short };
        assert_eq!(names(&short, "t").await.len(), 4);
        assert_eq!(kept(), None, "it is too long by now");
    }

    #[tokio::test]
    async fn a_long_answer_is_whole_and_not_kept() {
        let (store, counters) = store().await;
        let url = ObjectStoreUrl::local_filesystem();
        let listings = Arc::new(Listings { room: AtomicUsize::new(1), ..Listings::default() });
        let listed = ListedStore { store: &store, url: &url, listings };
        for lists in 1..3 {
            assert_eq!(names(&listed, "t").await, ["t/a", "t/b"]);
            assert_eq!(listed.folder(&Path::from("t")).await.expect("listed").objects.len(), 2);
            check(&counters, 2 * lists, 0);
        }
    }
}
