//! Journals of statements that outlive their coordinator: numbered entries in the exchange, each of which is created once.
//!
//! ```text
//!  journals/ID/000000 ─► 000001 ─► 000002 …
//! ```
//!
//! An entry is created only where there is none (If-None-Match on S3, a link on a disk). The coordinator that has written the last entry
//! owns the statement. Another that wants it creates the next entry, and one that finds its number taken has lost the statement. So there
//! is one owner, whatever the clocks say, and nobody who was stopped for a while writes into the journal of another.
//!
//! Entries are bytes here. Their meaning is the server's.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::{Path, PathPart};
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, Result};
use uuid::Uuid;

use super::Exchange;

/// Folder of all journals, below the exchange's prefix. No query has such an id.
const FOLDER: &str = "journals";

/// Bytes of an entry. A longer one is no coordinator's, and is not read.
pub const ENTRY_BYTES_MAX: u64 = 64 << 20;

/// Entries by which a store is tried.
const FIRST: &[u8] = b"first";
const SECOND: &[u8] = b"second";

/// Refusals of the condition alone that show that a store does not know it, after the first one.
const REFUSALS: usize = 2;

/// Journals of an exchange.
#[derive(Debug, Clone)]
pub struct Journals {
    store: Arc<dyn ObjectStore>,
    folder: Path,
}

/// Journal in a listing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JournalListed {
    /// Number of its last entry.
    pub last: u32,
    /// Bytes of all its entries.
    pub bytes: u64,
}

/// Outcome of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    Done,
    /// Another coordinator has written an entry of this number.
    Taken,
}

/// Entry that a key names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EntryKey {
    /// Id of the statement.
    pub id: String,
    pub number: u32,
}

impl Journals {
    pub fn of(exchange: &Exchange) -> Self {
        Self { store: Arc::clone(&exchange.store), folder: folder(&exchange.prefix) }
    }

    fn path(&self, id: &str, number: u32) -> Path {
        let name = format!("{number:06}");
        self.folder.parts().chain([PathPart::from(id), PathPart::from(name.as_str())]).collect()
    }

    /// Lists all journals.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(&self) -> Result<BTreeMap<String, JournalListed>> {
        let mut listing = self.store.list(Some(&self.folder));
        let mut found = BTreeMap::<String, JournalListed>::new();
        while let Some(object) = listing.try_next().await? {
            if let Some(EntryKey { id, number }) = entry_below(&self.folder, &object.location) {
                let listed = found.entry(id).or_default();
                listed.last = listed.last.max(number);
                listed.bytes += object.size;
            }
        }
        Ok(found)
    }

    /// Tells if the store creates an entry once. One that does not would give a statement two owners. It is tried in a journal of the id
    /// `id`, which stays where nothing may be deleted: the next try has the same.
    ///
    /// # Errors
    /// The store's, if it cannot be told.
    pub async fn creates_once(&self, id: &str) -> Result<bool> {
        let created = match self.append(id, 0, &Bytes::from_static(FIRST)).await {
            Ok(_) => self.append(id, 0, &Bytes::from_static(SECOND)).await.map(|appended| appended == Appended::Taken),
            Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => Ok(false),
            Err(error) => self.creates_after(id, error).await,
        };
        let removed = self.remove(id).await;
        match created {
            Ok(true) => removed.map(|()| true),
            told => told,
        }
    }

    /// Does the same where the first entry could not be created. Stores that do not know the condition refuse it in many ways (S3's answer is
    /// 501), so that no answer is understood. One that takes the entry without the condition, and twice not with it, does not know it.
    async fn creates_after(&self, id: &str, refused: Error) -> Result<bool> {
        let path = self.path(id, 0);
        for _ in 0..REFUSALS {
            if self.store.put(&path, Bytes::from_static(FIRST).into()).await.is_err() {
                return Err(refused);
            }
            // It may have been a fault of the moment.
            if let Ok(appended) = self.append(id, 0, &Bytes::from_static(SECOND)).await {
                return Ok(appended == Appended::Taken);
            }
        }
        Ok(false)
    }

    /// Reads an entry; None if there is none, or one of more than [`ENTRY_BYTES_MAX`].
    ///
    /// # Errors
    /// The store's.
    pub async fn read(&self, id: &str, number: u32) -> Result<Option<Bytes>> {
        match self.store.get(&self.path(id, number)).await {
            Ok(found) if found.meta.size > ENTRY_BYTES_MAX => Ok(None),
            Ok(found) => found.bytes().await.map(Some),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Adds an entry after the last one. The same bytes may be added again, because the answer to the first request may have been lost.
    ///
    /// # Errors
    /// The store's.
    pub async fn append(&self, id: &str, number: u32, entry: &Bytes) -> Result<Appended> {
        let path = self.path(id, number);
        match self.store.put_opts(&path, entry.clone().into(), PutMode::Create.into()).await {
            Ok(_) => Ok(Appended::Done),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                match self.read(id, number).await?.as_ref() == Some(entry) {
                    true => Ok(Appended::Done),
                    false => Ok(Appended::Taken),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a journal, its last entry at the end: until then nobody takes its number.
    ///
    /// # Errors
    /// The store's.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let folder: Path = self.folder.parts().chain([PathPart::from(id)]).collect();
        let mut paths: Vec<Path> = self.store.list(Some(&folder)).map_ok(|meta| meta.location).try_collect().await?;
        paths.sort();
        for path in paths {
            match self.store.delete(&path).await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn folder(prefix: &str) -> Path {
    Path::parse(prefix).unwrap_or_default().parts().chain([PathPart::from(FOLDER)]).collect()
}

/// Reads statement and number from the key of an entry. None where it is none.
pub(super) fn entry_at(prefix: &str, path: &Path) -> Option<EntryKey> {
    entry_below(&folder(prefix), path)
}

fn entry_below(folder: &Path, path: &Path) -> Option<EntryKey> {
    let parts: Vec<_> = path.prefix_match(folder)?.collect();
    let [id, name] = parts.as_slice() else { return None };
    let id = Uuid::try_parse(id.as_ref()).ok().filter(|uuid| uuid.simple().to_string() == id.as_ref())?;
    let number = name.as_ref().parse().ok().filter(|number: &u32| format!("{number:06}") == name.as_ref())?;
    Some(EntryKey { id: id.simple().to_string(), number })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::stream::BoxStream;
    use gust_protocol::StoreAccess;
    use object_store::local::LocalFileSystem;
    use object_store::memory::InMemory;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions, PutOptions,
        PutPayload, PutResult,
    };

    use super::*;

    fn journals(store: Arc<dyn ObjectStore>) -> Journals {
        let access = StoreAccess { url: "memory:///".into(), options: BTreeMap::new() };
        Journals::of(&Exchange { access, prefix: "x/y".into(), store })
    }

    #[tokio::test]
    async fn an_entry_is_written_once_by_one_coordinator() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = LocalFileSystem::new_with_prefix(folder.path()).expect("a folder");
        for store in [Arc::new(InMemory::new()) as Arc<dyn ObjectStore>, Arc::new(disk)] {
            let (journals, id) = (journals(store), Uuid::now_v7().simple().to_string());
            let (mine, other) = (Bytes::from_static(b"mine"), Bytes::from_static(b"other"));
            assert_eq!(journals.append(&id, 0, &mine).await.expect("a store"), Appended::Done);
            assert_eq!(journals.append(&id, 0, &mine).await.expect("a store"), Appended::Done, "sent again");
            assert_eq!(journals.append(&id, 0, &other).await.expect("a store"), Appended::Taken);
            assert_eq!(journals.append(&id, 1, &other).await.expect("a store"), Appended::Done);
            assert_eq!(journals.append(&id, 1, &mine).await.expect("a store"), Appended::Taken);
            let listed = JournalListed { last: 1, bytes: 9 };
            assert_eq!(journals.list().await.expect("a store"), BTreeMap::from([(id.clone(), listed)]));
            assert_eq!(journals.read(&id, 1).await.expect("a store"), Some(other));
            assert_eq!(journals.read(&id, 2).await.expect("a store"), None);
            journals.remove(&id).await.expect("a store");
            assert_eq!(journals.list().await.expect("a store"), BTreeMap::new());
        }
    }

    #[tokio::test]
    async fn an_entry_that_is_too_long_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = LocalFileSystem::new_with_prefix(folder.path()).expect("a folder");
        let (journals, id) = (journals(Arc::new(disk)), Uuid::now_v7().simple().to_string());
        let mine = Bytes::from_static(b"mine");
        assert_eq!(journals.append(&id, 0, &mine).await.expect("a store"), Appended::Done);
        let path = folder.path().join("x/y/journals").join(&id).join("000000");
        // Nothing is on the disk of it, and no machine has so much memory.
        std::fs::File::create(&path).and_then(|file| file.set_len(1 << 42)).expect("a file with a hole");
        assert_eq!(journals.read(&id, 0).await.expect("a store"), None);
        assert_eq!(journals.append(&id, 0, &mine).await.expect("a store"), Appended::Taken, "it is another's");
    }

    /// A store's way with the condition of a write.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Condition {
        Ignored,
        Refused,
        /// Nothing is written at all.
        Shut,
        /// The first write under the condition fails, and later ones do not.
        FailsOnce,
    }

    /// A store that is not as S3.
    #[derive(Debug)]
    struct Odd(InMemory, Condition, AtomicBool);

    impl std::fmt::Display for Odd {
        fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(to, "{:?}", self.1)
        }
    }

    impl Odd {
        fn store(condition: Condition) -> Arc<dyn ObjectStore> {
            Arc::new(Self(InMemory::new(), condition, AtomicBool::new(false)))
        }

        fn refused() -> Error {
            Error::Generic { store: "odd", source: "501".into() }
        }
    }

    #[async_trait::async_trait]
    impl ObjectStore for Odd {
        async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
            let is_conditional = options.mode == PutMode::Create;
            let options = match self.1 {
                Condition::Ignored => PutOptions { mode: PutMode::Overwrite, ..options },
                Condition::Shut => return Err(Self::refused()),
                Condition::Refused if is_conditional => return Err(Self::refused()),
                Condition::FailsOnce if is_conditional && !self.2.swap(true, Ordering::Relaxed) => {
                    return Err(Self::refused());
                }
                Condition::Refused | Condition::FailsOnce => options,
            };
            self.0.put_opts(at, payload, options).await
        }

        async fn put_multipart_opts(
            &self,
            at: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.0.put_multipart_opts(at, options).await
        }

        async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
            self.0.get_opts(at, options).await
        }

        fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.0.delete_stream(paths)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.0.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.0.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.0.copy_opts(from, to, options).await
        }
    }

    #[tokio::test]
    async fn a_store_that_does_not_create_once_is_found_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = LocalFileSystem::new_with_prefix(folder.path()).expect("a folder");
        let stores: [(Arc<dyn ObjectStore>, Option<bool>); 6] = [
            (Arc::new(InMemory::new()), Some(true)),
            (Arc::new(disk), Some(true)),
            (Odd::store(Condition::Ignored), Some(false)),
            (Odd::store(Condition::Refused), Some(false)),
            (Odd::store(Condition::FailsOnce), Some(true)),
            (Odd::store(Condition::Shut), None),
        ];
        for (store, expect) in stores {
            let (shown, journals) = (store.to_string(), journals(Arc::clone(&store)));
            for is_left in [false, true] {
                let id = Uuid::now_v7().simple().to_string();
                if is_left && expect.is_some() {
                    // An earlier try may have left it.
                    store.put(&journals.path(&id, 0), FIRST.into()).await.expect("a store");
                }
                assert_eq!(journals.creates_once(&id).await.ok(), expect, "{shown}");
                assert_eq!(journals.list().await.expect("a store"), BTreeMap::new(), "{shown}: nothing is left");
            }
        }
    }

    #[test]
    fn keys_of_others_are_no_entries() {
        let id = Uuid::now_v7().simple().to_string();
        #[track_caller]
        fn check(path: &str, expect: Option<u32>) {
            assert_eq!(entry_at("x", &Path::from(path)).map(|key| key.number), expect, "{path}");
        }
        check(&format!("x/journals/{id}/000007"), Some(7));
        check(&format!("x/journals/{id}/1000000"), Some(1_000_000));
        check(&format!("x/journals/{id}/7"), None);
        check(&format!("y/journals/{id}/000007"), None);
        check(&format!("x/journals/{id}/a/000007"), None);
        check("x/journals/someone/000007", None);
        check(&format!("x/{id}/000007"), None);
    }
}
