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
        let (first, second) = (Bytes::from_static(b"first"), Bytes::from_static(b"second"));
        let created = match self.append(id, 0, &first).await {
            Ok(_) => self.append(id, 0, &second).await,
            Err(error) => Err(error),
        };
        let removed = self.remove(id).await;
        match created {
            Ok(appended) => removed.map(|()| appended == Appended::Taken),
            Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads an entry; None if there is none.
    ///
    /// # Errors
    /// The store's.
    pub async fn read(&self, id: &str, number: u32) -> Result<Option<Bytes>> {
        match self.store.get(&self.path(id, number)).await {
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

    /// A store that writes whatever is there already.
    #[derive(Debug)]
    struct Overwriting(InMemory);

    impl std::fmt::Display for Overwriting {
        fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            to.write_str("overwriting")
        }
    }

    #[async_trait::async_trait]
    impl ObjectStore for Overwriting {
        async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
            self.0.put_opts(at, payload, PutOptions { mode: PutMode::Overwrite, ..options }).await
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
    async fn a_store_that_overwrites_is_found_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = LocalFileSystem::new_with_prefix(folder.path()).expect("a folder");
        let stores: [(Arc<dyn ObjectStore>, bool); 3] = [
            (Arc::new(InMemory::new()), true),
            (Arc::new(disk), true),
            (Arc::new(Overwriting(InMemory::new())), false),
        ];
        for (store, expect) in stores {
            let (shown, journals) = (store.to_string(), journals(store));
            let id = Uuid::now_v7().simple().to_string();
            // An earlier try may have left it.
            let left = journals.append(&id, 0, &Bytes::from_static(b"first")).await.expect("a store");
            assert_eq!(left, Appended::Done, "{shown}");
            assert_eq!(journals.creates_once(&id).await.expect("a store"), expect, "{shown}");
            assert_eq!(journals.list().await.expect("a store"), BTreeMap::new(), "{shown}: nothing is left");
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
