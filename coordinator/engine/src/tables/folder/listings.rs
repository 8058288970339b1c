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
//! An answer is kept until the plan starts. So a statement that is planned once more, after its functions failed or memory was
//! short, sees the files of that moment. Failures are not kept.
//!
//! Non-goals: listings of other statements, and those of the exchange.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use datafusion::catalog::Session;
use datafusion::execution::object_store::ObjectStoreUrl;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{GetOptions, ListResult, ObjectMeta, ObjectStore, Result};

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
}

impl Default for Listings {
    fn default() -> Self {
        let room = AtomicUsize::new(OBJECTS_MAX);
        Self { below: Answers::default(), folders: Answers::default(), files: Answers::default(), room }
    }
}

impl Listings {
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

    /// Returns the kept answer to a question, or else the answer of `ask`, which has as many objects as `count` says.
    async fn answer<T>(
        &self,
        slot: Arc<Slot<T>>,
        count: impl FnOnce(&T) -> usize,
        ask: impl Future<Output = Result<T>>,
    ) -> Result<Arc<T>> {
        let mut slot = slot.lock().await;
        match &*slot {
            Answer::Kept(answer) => return Ok(Arc::clone(answer)),
            Answer::TooLong => {
                drop(slot);
                return Ok(Arc::new(ask.await?));
            }
            Answer::Unknown => {}
        }
        let answer = Arc::new(ask.await?);
        *slot = match self.take_room(count(&answer)) {
            true => Answer::Kept(Arc::clone(&answer)),
            false => Answer::TooLong,
        };
        Ok(answer)
    }
}

/// Answers by their places.
#[derive(Debug)]
struct Answers<T>(Mutex<HashMap<Place, Arc<Slot<T>>>>);

/// Store and path of what is asked for.
type Place = (ObjectStoreUrl, Path);

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
    fn slot(&self, store: &ObjectStoreUrl, path: &Path) -> Arc<Slot<T>> {
        let mut slots = self.0.lock().expect("no holder panics");
        let slot = slots.entry((store.clone(), path.clone()));
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
    /// Returns size and version of an object; None if there is none.
    pub(super) async fn file(&self, path: &Path) -> Result<Option<ObjectMeta>> {
        let ask = async {
            // A plan has to ask only this: if it is a file, its size and its version.
            let head = GetOptions { head: true, ..GetOptions::default() };
            match self.store.get_opts(path, head).await {
                Ok(answer) => Ok(Some(answer.meta)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let slot = self.listings.files.slot(self.url, path);
        let answer = self.listings.answer(slot, |_| 1, ask).await?;
        Ok(Option::clone(&answer))
    }

    /// Lists one folder without those below it.
    pub(super) async fn folder(&self, path: &Path) -> Result<Arc<ListResult>> {
        let slot = self.listings.folders.slot(self.url, path);
        let count = |answer: &ListResult| answer.objects.len() + answer.common_prefixes.len();
        self.listings.answer(slot, count, self.store.list_with_delimiter(Some(path))).await
    }

    /// Lists everything below a folder. A listing that is too long to be kept goes on while its objects are taken.
    pub(super) async fn below(&self, path: &Path) -> Result<BoxStream<'static, Result<ObjectMeta>>> {
        let slot = self.listings.below.slot(self.url, path);
        let mut slot = slot.lock().await;
        match &*slot {
            Answer::Kept(objects) => return Ok(each(Arc::clone(objects))),
            Answer::TooLong => return Ok(self.store.list(Some(path))),
            Answer::Unknown => {}
        }
        let mut listing = self.store.list(Some(path));
        let mut objects = Vec::new();
        while let Some(object) = listing.try_next().await? {
            objects.push(object);
            if objects.len() > self.listings.room.load(Relaxed) {
                *slot = Answer::TooLong;
                return Ok(stream::iter(objects.into_iter().map(Ok)).chain(listing).boxed());
            }
        }
        let objects = Arc::new(objects);
        *slot = match self.listings.take_room(objects.len()) {
            true => Answer::Kept(Arc::clone(&objects)),
            false => Answer::TooLong,
        };
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
