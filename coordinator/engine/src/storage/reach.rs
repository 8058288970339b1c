//! Reach: the places that the queries of a server may read.
//!
//! ```text
//!  key or file ─► canonical ─► below a private place? ─► below an allowed place? ─► the store
//!                                    └─► refused before the store is asked ◄─┘
//! ```
//!
//! Keys are compared name by name, as object_store has parsed them: it takes neither `..` nor an empty name. Files are compared after
//! their links were followed, at each call. Whoever may write into an allowed folder could change a link between that and the reading;
//! a server's SQL writes no files.

use std::fmt::{Display, Formatter};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use percent_encoding::percent_decode_str;

use crate::error::QueryError;

/// SQLSTATE code of PostgreSQL for a missing permission.
const NOT_ALLOWED: &str = "42501";

/// Next step after a refusal.
const HINT: &str = "use a table of a catalog, or have the place added to `reach` under [server]";

/// Places that queries may read. The default is every place, for a user's own process. Clones share it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach(Option<Arc<Places>>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Places {
    allowed: Vec<Root>,
    /// Places that stay unreadable inside an allowed one, such as the exchange.
    private: Vec<Root>,
}

/// Place with all that lies below it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Root {
    /// Bucket as `s3://bucket`, and the names of keys below it, among which a table's may be empty.
    Keys { bucket: String, names: Vec<String> },
    /// Folder or file of this machine, without links.
    Files(PathBuf),
}

/// Answer to a key of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Allowed,
    Private,
    Outside,
}

impl Root {
    /// Parses a URL or a path.
    fn parse(text: &str) -> std::result::Result<Self, QueryError> {
        let invalid = |reason: String| {
            QueryError::setup(format!("`{text}`: {reason}")).with_hint("write s3://BUCKET/PREFIX/ or file:///FOLDER/")
        };
        let Some((scheme, rest)) = scheme_of(text) else {
            let path = text.strip_prefix("file:").unwrap_or(text);
            let path = std::path::absolute(path).map_err(|error| invalid(error.to_string()))?;
            return Ok(Self::Files(without_links(&path)));
        };
        match scheme.as_str() {
            "file" => match rest.strip_prefix("localhost").unwrap_or(rest) {
                path if path.starts_with('/') => Ok(Self::Files(without_links(path.as_ref()))),
                _ => Err(invalid("a file URL begins with file:///".to_owned())),
            },
            "s3" | "s3a" | "s3n" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(invalid("it names no bucket".to_owned()));
                }
                let prefix = Path::parse(prefix).map_err(|error| invalid(error.to_string()))?;
                Ok(Self::Keys { bucket: format!("s3://{bucket}"), names: names_of(&prefix).collect() })
            }
            other => Err(invalid(format!("scheme `{other}` is not supported"))),
        }
    }

    fn holds(&self, place: &Self) -> bool {
        match (self, place) {
            (Self::Files(folder), Self::Files(path)) => path.starts_with(folder),
            (Self::Keys { bucket, names }, Self::Keys { bucket: of, names: key }) => {
                bucket == of && key.starts_with(names)
            }
            _ => false,
        }
    }
}

impl Reach {
    /// Makes a reach of these places alone. Each is a URL or a path.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Setup`] for a text that is no place.
    pub fn of<'a>(allowed: impl IntoIterator<Item = &'a str>) -> std::result::Result<Self, QueryError> {
        let allowed = allowed.into_iter().map(Root::parse).collect::<std::result::Result<_, _>>()?;
        Ok(Self(Some(Arc::new(Places { allowed, private: Vec::new() }))))
    }

    /// Takes places out. A reach of every place stays what it is: its user may read his own files.
    ///
    /// # Errors
    /// Those of [`Self::of`].
    pub fn without<'a>(self, places: impl IntoIterator<Item = &'a str>) -> std::result::Result<Self, QueryError> {
        let Some(listed) = &self.0 else { return Ok(self) };
        let more = places.into_iter().map(Root::parse).collect::<std::result::Result<Vec<_>, _>>()?;
        let private = listed.private.iter().cloned().chain(more).collect();
        Ok(Self(Some(Arc::new(Places { allowed: listed.allowed.clone(), private }))))
    }

    /// Tells if a place is one of these, or below one. Each place is a URL or a path.
    ///
    /// # Errors
    /// Those of [`Self::of`].
    pub fn holds(&self, place: &str) -> std::result::Result<bool, QueryError> {
        let place = Root::parse(place)?;
        Ok(self.0.as_ref().is_none_or(|places| places.allowed.iter().any(|root| root.holds(&place))))
    }

    pub fn is_everywhere(&self) -> bool {
        self.0.is_none()
    }

    /// Returns true if some file of this machine may be read. Else no name is looked up on its disk.
    pub fn has_files(&self) -> bool {
        self.0.as_ref().is_none_or(|places| places.allowed.iter().any(|root| matches!(root, Root::Files(_))))
    }

    /// Checks the text of a location before anything is asked about it.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Sql`] if it can only be a place of this machine, and none may be read.
    pub fn check_text(&self, text: &str) -> std::result::Result<(), QueryError> {
        match scheme_of(text) {
            Some((scheme, _)) if scheme != "file" => Ok(()),
            _ if self.has_files() => Ok(()),
            _ => Err(refused(text)),
        }
    }

    /// Checks a key, or a prefix of keys, of the store of a URL.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Sql`] if it may not be read.
    pub fn check(&self, store: &str, key: &Path) -> std::result::Result<(), QueryError> {
        match self.verdict(store, key) {
            Verdict::Allowed => Ok(()),
            Verdict::Private | Verdict::Outside => Err(refused(&format!("{store}{key}"))),
        }
    }

    /// Checks that something of the store of a URL may be read.
    ///
    /// # Errors
    /// Those of [`Self::check`].
    pub(super) fn check_store(&self, store: &str) -> std::result::Result<(), QueryError> {
        let Some(places) = &self.0 else { return Ok(()) };
        let root = root_of(store);
        let is_of = |allowed: &Root| match (allowed, &root) {
            (Root::Keys { bucket, .. }, Root::Keys { bucket: of, .. }) => bucket == of,
            (Root::Files(_), Root::Files(_)) => true,
            _ => false,
        };
        if places.allowed.iter().any(is_of) { Ok(()) } else { Err(refused(store)) }
    }

    fn verdict(&self, store: &str, key: &Path) -> Verdict {
        let Some(places) = &self.0 else { return Verdict::Allowed };
        let place = match root_of(store) {
            Root::Files(_) if !self.has_files() => return Verdict::Outside,
            Root::Files(_) => Root::Files(without_links(&PathBuf::from(format!("/{key}")))),
            Root::Keys { bucket, mut names } => {
                names.extend(names_of(key));
                Root::Keys { bucket, names }
            }
        };
        let holds = |roots: &[Root]| roots.iter().any(|root| root.holds(&place));
        match (holds(&places.private), holds(&places.allowed)) {
            (true, _) => Verdict::Private,
            (false, true) => Verdict::Allowed,
            (false, false) => Verdict::Outside,
        }
    }

    /// Returns a store of which queries see their reach alone.
    pub(super) fn wrap(&self, store: Arc<dyn ObjectStore>, url: &str) -> Arc<dyn ObjectStore> {
        if self.is_everywhere() {
            return store;
        }
        Arc::new(ReachedStore { inner: store, url: url.to_owned(), reach: self.clone() })
    }
}

/// Splits `S3://…` into `s3` and the rest. A path has None.
fn scheme_of(text: &str) -> Option<(String, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    is_scheme.then(|| (scheme.to_ascii_lowercase(), rest))
}

/// Returns the root of a store: `s3://bucket/`, or `s3://bucket/t//` where keys have an empty name (see [`gust_catalog::Location`]).
fn root_of(store: &str) -> Root {
    let (scheme, rest) = scheme_of(store).unwrap_or_default();
    if scheme == "file" {
        return Root::Files(PathBuf::from("/"));
    }
    let scheme = if matches!(scheme.as_str(), "s3a" | "s3n") { "s3".to_owned() } else { scheme };
    let (bucket, root) = rest.split_once('/').unwrap_or((rest, ""));
    // The id of lent credentials is no part of the place.
    let bucket = bucket.rsplit_once('@').map_or(bucket, |(_, bucket)| bucket);
    let decoded = |name: &str| percent_decode_str(name).decode_utf8_lossy().into_owned();
    let mut names: Vec<String> = root.split('/').map(decoded).collect();
    // The key stands behind the last slash.
    names.pop();
    Root::Keys { bucket: format!("{scheme}://{bucket}"), names }
}

fn names_of(key: &Path) -> impl Iterator<Item = String> + '_ {
    key.as_ref().split('/').filter(|name| !name.is_empty()).map(str::to_owned)
}

/// Follows the links of a path as far as it exists. The rest of its names stays.
fn without_links(path: &std::path::Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) {
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    path.to_owned()
}

fn refused(place: &str) -> QueryError {
    QueryError::sql(format!("`{place}` is outside of what this server reads"))
        .with_hint(HINT)
        .with_sqlstate(NOT_ALLOWED)
}

/// Store that refuses what is outside of a reach, before `inner` is asked. Queries write nothing through it.
#[derive(Debug)]
struct ReachedStore {
    inner: Arc<dyn ObjectStore>,
    /// URL of the store.
    url: String,
    reach: Reach,
}

impl ReachedStore {
    fn check(&self, key: &Path) -> Result<()> {
        self.reach.check(&self.url, key).map_err(as_store_error)
    }

    fn writes_nothing(&self, location: &Path) -> object_store::Error {
        let place = format!("{}{location}", self.url);
        as_store_error(QueryError::sql(format!("`{place}`: queries write nothing")).with_sqlstate(NOT_ALLOWED))
    }

    /// Leaves private objects out of a listing. A link that leads out of the reach fails it.
    fn seen(&self, prefix: &Path, key: &Path) -> Option<Result<()>> {
        match self.reach.verdict(&self.url, key) {
            Verdict::Allowed => Some(Ok(())),
            Verdict::Private => None,
            // The name beyond the link is not told.
            Verdict::Outside => {
                let place = format!("{}{prefix}", self.url);
                let why = format!("`{place}` has a link to a place outside of what this server reads");
                Some(Err(as_store_error(QueryError::sql(why).with_hint(HINT).with_sqlstate(NOT_ALLOWED))))
            }
        }
    }

    fn listed(
        &self,
        prefix: Option<&Path>,
        list: impl FnOnce(&dyn ObjectStore) -> BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned().unwrap_or_default();
        if let Err(error) = self.check(&prefix) {
            return stream::once(async { Err(error) }).boxed();
        }
        let seeing = Self { inner: Arc::clone(&self.inner), url: self.url.clone(), reach: self.reach.clone() };
        let seen = move |meta: Result<ObjectMeta>| match meta {
            Ok(meta) => seeing.seen(&prefix, &meta.location).map(|seen| seen.map(|()| meta)),
            Err(error) => Some(Err(error)),
        };
        list(&*self.inner).filter_map(move |meta| std::future::ready(seen(meta))).boxed()
    }
}

fn as_store_error(error: QueryError) -> object_store::Error {
    object_store::Error::Generic { store: "reach", source: Box::new(error) }
}

impl Display for ReachedStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "reached({})", self.inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for ReachedStore {
    async fn put_opts(&self, location: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(self.writes_nothing(location))
    }

    async fn put_multipart_opts(&self, location: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(self.writes_nothing(location))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.check(location)?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.check(location)?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let error = self.writes_nothing(&Path::default());
        async move {
            drop(locations);
            Err(error)
        }
        .into_stream()
        .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix, |inner| inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix, |inner| inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let below = prefix.cloned().unwrap_or_default();
        self.check(&below)?;
        let ListResult { objects, common_prefixes, .. } = self.inner.list_with_delimiter(prefix).await?;
        let objects = objects.into_iter().filter_map(|meta| Some(self.seen(&below, &meta.location)?.map(|()| meta)));
        let folders = common_prefixes.into_iter().filter_map(|key| Some(self.seen(&below, &key)?.map(|()| key)));
        let (objects, common_prefixes) = (objects.collect::<Result<_>>()?, folders.collect::<Result<_>>()?);
        Ok(ListResult { objects, common_prefixes })
    }

    async fn copy_opts(&self, _: &Path, to: &Path, _: CopyOptions) -> Result<()> {
        Err(self.writes_nothing(to))
    }

    async fn rename_opts(&self, _: &Path, to: &Path, _: RenameOptions) -> Result<()> {
        Err(self.writes_nothing(to))
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;
    use object_store::local::LocalFileSystem;
    use object_store::memory::InMemory;

    use super::*;

    fn reach(allowed: &[&str], private: &[&str]) -> Reach {
        let reach = Reach::of(allowed.iter().copied()).expect("places");
        reach.without(private.iter().copied()).expect("places")
    }

    #[test]
    fn a_key_is_read_below_an_allowed_place_and_outside_of_private_ones() {
        let reach = reach(&["s3://lake/warehouse", "s3a://open"], &["s3://lake/warehouse/exchange/"]);
        for (store, key, allowed) in [
            ("s3://lake/", "warehouse/t/a.parquet", true),
            ("s3://lake/", "warehouse", true),
            ("s3a://lake/", "warehouse/t", true),
            ("s3://id@lake/", "warehouse/t", true),
            ("s3://id@lake/", "other/t", false),
            ("S3://lake", "warehouse/t", true),
            ("s3://open/", "", true),
            ("s3://open/", "any/thing", true),
            ("s3://lake/", "", false),
            ("s3://lake/", "warehouse2/t", false),
            ("s3://lake/", "ware", false),
            ("s3://Lake/", "warehouse/t", false),
            ("s3://lake-other/", "warehouse/t", false),
            ("s3://lake/", "warehouse/exchange/q/0", false),
            ("s3://lake/", "warehouse/exchange", false),
            ("s3://lake/", "warehouse/exchanges/0", true),
            ("s3://lake/warehouse/t//", "a.parquet", true),
            ("s3://lake/warehouse//", "t", true),
            ("s3://lake//", "warehouse/t", false),
            ("s3://lake/secret//", "warehouse/t", false),
            ("s3://lake/warehouse/exchange//", "q", false),
            ("s3://lake/%77arehouse//", "q", true),
            ("file:///", "etc/passwd", false),
        ] {
            let checked = reach.check(store, &Path::parse(key).expect("a key"));
            assert_eq!(checked.is_ok(), allowed, "{store}{key}");
            if let Err(error) = checked {
                assert_eq!((error.sqlstate(), error.hint()), (NOT_ALLOWED, Some(HINT)));
            }
        }
        for bad in ["/etc/passwd", "~/x", "x.csv", "file:/etc", "FILE:///etc", "../x", "a b://c"] {
            reach.check_text(bad).expect_err(bad);
        }
        for good in ["s3://lake/x", "S3A://open/../x"] {
            reach.check_text(good).expect(good);
        }
        assert!(!reach.has_files() && Reach::default().has_files());
        Reach::default().check("file:///", &Path::from("etc/passwd")).expect("every place");
        for bad in ["gs://lake/", "s3://", "file://host/x"] {
            Reach::of([bad]).map(drop).expect_err(bad);
        }
    }

    #[tokio::test]
    async fn links_are_followed_before_a_file_is_compared() {
        let folder = tempfile::tempdir().expect("a folder");
        let [data, secret] = ["data", "secret"].map(|name| folder.path().join(name));
        for (path, file) in [(&data, "a"), (&secret, "b")] {
            std::fs::create_dir(path).expect("made");
            std::fs::write(path.join(file), file).expect("written");
        }
        let reach = reach(&[&format!("file://{}/", data.display())], &[data.join("private").to_str().expect("text")]);
        let store = reach.wrap(Arc::new(LocalFileSystem::new()), "file:///");
        let key = |path: PathBuf| Path::from_absolute_path(path).expect("a key");
        let refused = |error: object_store::Error| {
            assert!(fragment_fn::causes(&error).any(|cause| cause.downcast_ref::<QueryError>().is_some()), "{error}");
        };
        store.get(&key(data.join("a"))).await.map(drop).expect("it is allowed");
        refused(store.get(&key(secret.join("b"))).await.map(drop).expect_err("outside"));
        let nothing = store.get(&key(secret.join("nothing"))).await.map(drop);
        refused(nothing.expect_err("outside, whether it exists or not"));
        refused(store.put(&key(data.join("new")), "x".into()).await.expect_err("a write"));
        std::fs::create_dir(data.join("private")).expect("made");
        std::fs::write(data.join("private/c"), "c").expect("written");
        let listed = |prefix: PathBuf| store.list(Some(&key(prefix))).try_collect::<Vec<_>>();
        assert_eq!(listed(data.clone()).await.expect("it is allowed").len(), 1, "private files are left out");
        std::os::unix::fs::symlink(&secret, data.join("out")).expect("linked");
        refused(store.get(&key(data.join("out/b"))).await.map(drop).expect_err("a link out"));
        let error = listed(data).await.expect_err("a link out");
        assert!(!error.to_string().contains("out/b"), "{error}");
        refused(error);
    }

    #[tokio::test]
    async fn a_listing_shows_nothing_private() {
        let inner = Arc::new(InMemory::new());
        for key in ["w/t/a", "w/exchange/q/0"] {
            inner.put(&Path::from(key), "x".into()).await.expect("in memory");
        }
        let store = reach(&["s3://lake/w"], &["s3://lake/w/exchange"]).wrap(inner, "s3://lake/");
        let names: Vec<String> = store
            .list(Some(&Path::from("w")))
            .map_ok(|meta| meta.location.to_string())
            .try_collect()
            .await
            .expect("allowed");
        assert_eq!(names, ["w/t/a"]);
        let folders = store.list_with_delimiter(Some(&Path::from("w"))).await.expect("allowed").common_prefixes;
        assert_eq!(folders, [Path::from("w/t")]);
        store.list(None).try_collect::<Vec<_>>().await.expect_err("above the place");
    }
}
