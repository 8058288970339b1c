//! A file's text: its bytes, unpacked, without a byte order mark.
//!
//! `async_compression` is used and not DataFusion's `FileCompressionType`. In DataFusion 55.2 that reads the first member of a
//! bzip2, xz or zstd file, and leaves the others out unsaid (no report is known). Packers that work side by side write
//! several. `text::members_of_a_packed_file_are_all_read` tells when this can go.

use std::io;
use std::sync::Arc;

use async_compression::tokio::bufread::{BzDecoder, GzipDecoder, XzDecoder, ZstdDecoder};
use bytes::{Bytes, BytesMut};
use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::common::{DataFusionError, Result};
use fragment_fn::{FileFault, causes};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::{GetOptions, ObjectMeta, ObjectStore};
use tokio_util::io::{ReaderStream, StreamReader};

use super::fault::TextFault;

/// Bytes of an unpacked part.
const PART_BYTES: usize = 64 << 10;

/// Bytes at the beginning that tell what a file is.
const MARK_BYTES: usize = 4;

/// Bytes of a file as they come.
pub(super) type Parts = BoxStream<'static, Result<Bytes>>;

/// Way in which a file is packed by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Known(CompressionTypeVariant),
    /// One that is not read.
    Unknown,
}

/// Extensions of packed files.
const PACKED: &[(&str, Packing)] = &[
    ("gz", Packing::Known(CompressionTypeVariant::GZIP)),
    ("gzip", Packing::Known(CompressionTypeVariant::GZIP)),
    ("bz2", Packing::Known(CompressionTypeVariant::BZIP2)),
    ("xz", Packing::Known(CompressionTypeVariant::XZ)),
    ("zst", Packing::Known(CompressionTypeVariant::ZSTD)),
    ("zstd", Packing::Known(CompressionTypeVariant::ZSTD)),
    ("lz4", Packing::Unknown),
    ("snappy", Packing::Unknown),
    ("br", Packing::Unknown),
];

impl Packing {
    /// Finds the packing that an extension in lower case tells. None for one of files that are not packed.
    pub fn of_extension(extension: &str) -> Option<Self> {
        PACKED.iter().find(|(known, _)| *known == extension).map(|(_, packing)| *packing)
    }

    /// Returns the packing of a file by its name. A packing that is not known counts as none.
    pub(super) fn of_file(name: &str) -> CompressionTypeVariant {
        let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
        match extension.and_then(|extension| Self::of_extension(&extension)) {
            Some(Self::Known(packing)) => packing,
            _ => CompressionTypeVariant::UNCOMPRESSED,
        }
    }
}

/// Tells a file of JSON whose name says that each line is a value.
pub(super) fn is_of_lines(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [".jsonl", ".ndjson"].iter().any(|extension| name.ends_with(extension))
}

/// Opens a file as it was listed, unpacked.
///
/// # Errors
/// The store's, [`FileFault`] for another file than the listed one, [`TextFault`] for one that is no text. The parts have errors
/// of both kinds, too.
pub(super) async fn open(
    store: &Arc<dyn ObjectStore>,
    file: &ObjectMeta,
    packing: CompressionTypeVariant,
) -> Result<Parts> {
    let options = GetOptions { if_match: file.e_tag.clone(), ..GetOptions::default() };
    let found = store.get_opts(&file.location, options).await?;
    if found.meta.size != file.size {
        let reason = format!("it had {} bytes and has {}", file.size, found.meta.size);
        return Err(FileFault::Changed { file: file.location.to_string(), reason }.into());
    }
    let name = file.location.to_string();
    let parts = unpacked(found.into_stream(), packing, name.clone());
    without_mark(parts, &name).await
}

/// Unpacks the bytes of a store.
fn unpacked(
    packed: BoxStream<'static, object_store::Result<Bytes>>,
    packing: CompressionTypeVariant,
    file: String,
) -> Parts {
    let reader =
        |packed: BoxStream<'static, object_store::Result<Bytes>>| StreamReader::new(packed.map_err(io::Error::other));
    macro_rules! all_members {
        ($decoder:ident, $name:literal) => {{
            let mut decoder = $decoder::new(reader(packed));
            decoder.multiple_members(true);
            let parts = ReaderStream::with_capacity(decoder, PART_BYTES);
            parts.map_err(move |error| broken(&file, $name, error)).boxed()
        }};
    }
    match packing {
        CompressionTypeVariant::GZIP => all_members!(GzipDecoder, "gzip"),
        CompressionTypeVariant::BZIP2 => all_members!(BzDecoder, "bzip2"),
        CompressionTypeVariant::XZ => all_members!(XzDecoder, "xz"),
        CompressionTypeVariant::ZSTD => all_members!(ZstdDecoder, "zstd"),
        CompressionTypeVariant::UNCOMPRESSED => packed.map_err(DataFusionError::from).boxed(),
    }
}

/// Tells a store's error from one of the packing.
fn broken(file: &str, packing: &'static str, error: io::Error) -> DataFusionError {
    let is_of_store = causes(&error).any(|cause| cause.is::<object_store::Error>());
    match is_of_store {
        true => DataFusionError::External(Box::new(error)),
        false => TextFault::Packed { file: file.to_owned(), packing, reason: error.to_string() }.into(),
    }
}

/// Removes the mark that some programs put before UTF-8.
///
/// # Errors
/// [`TextFault`] for bytes that begin as no UTF-8 text does, and errors of the first parts.
pub(super) async fn without_mark(mut parts: Parts, file: &str) -> Result<Parts> {
    let mut first = BytesMut::new();
    while first.len() < MARK_BYTES
        && let Some(part) = parts.try_next().await?
    {
        first.extend_from_slice(&part);
    }
    let found = match &first[..] {
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => Some("UTF-16"),
        [0x1F, 0x8B, ..] => Some("packed by gzip"),
        [0x28, 0xB5, 0x2F, 0xFD, ..] => Some("packed by zstd"),
        [b'P', b'A', b'R', b'1', ..] => Some("Parquet"),
        _ => None,
    };
    if let Some(found) = found {
        return Err(TextFault::NoText { file: file.to_owned(), found }.into());
    }
    let mark: &[u8] = b"\xEF\xBB\xBF";
    let skipped = if first.starts_with(mark) { mark.len() } else { 0 };
    let first = first.freeze().slice(skipped..);
    Ok(stream::once(async { Ok(first) }).chain(parts).boxed())
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use fragment_fn::find;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use tokio::io::{AsyncRead, AsyncReadExt};

    use super::*;

    async fn listed(store: &Arc<dyn ObjectStore>, path: &Path) -> ObjectMeta {
        store.list(Some(path)).chain(store.list(None)).try_next().await.expect("listed").expect("a file")
    }

    async fn read(name: &str, bytes: &[u8], packing: CompressionTypeVariant) -> Result<Vec<u8>> {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let path = Path::from(name);
        store.put(&path, bytes.to_vec().into()).await?;
        let file = listed(&store, &path).await;
        let parts: Vec<Bytes> = open(&store, &file, packing).await?.try_collect().await?;
        Ok(parts.concat())
    }

    /// Packs each text as a member of its own.
    async fn packed(packing: CompressionTypeVariant, texts: &[&str]) -> Vec<u8> {
        use async_compression::tokio::bufread::{BzEncoder, GzipEncoder, XzEncoder, ZstdEncoder};
        let mut all = Vec::new();
        for text in texts {
            let bytes = text.as_bytes();
            let mut packer: Pin<Box<dyn AsyncRead>> = match packing {
                CompressionTypeVariant::GZIP => Box::pin(GzipEncoder::new(bytes)),
                CompressionTypeVariant::BZIP2 => Box::pin(BzEncoder::new(bytes)),
                CompressionTypeVariant::XZ => Box::pin(XzEncoder::new(bytes)),
                CompressionTypeVariant::ZSTD => Box::pin(ZstdEncoder::new(bytes)),
                CompressionTypeVariant::UNCOMPRESSED => Box::pin(bytes),
            };
            packer.read_to_end(&mut all).await.expect("packed");
        }
        all
    }

    #[tokio::test]
    async fn members_of_a_packed_file_are_all_read() {
        use CompressionTypeVariant::{BZIP2, GZIP, XZ, ZSTD};
        for packing in [GZIP, BZIP2, XZ, ZSTD] {
            let bytes = packed(packing, &["a,b\n1,2\n", "3,4\n"]).await;
            assert_eq!(read("t", &bytes, packing).await.expect("text"), b"a,b\n1,2\n3,4\n", "{packing:?}");
            // DataFusion's own way reads all members of gzip alone.
            let whole = stream::once(async { Ok(Bytes::from(bytes.clone())) }).boxed();
            let parts: Vec<Bytes> = datafusion_datasource::file_compression_type::FileCompressionType::from(packing)
                .convert_stream(whole)
                .expect("a stream")
                .try_collect()
                .await
                .expect("text");
            let expect: &[u8] = if packing == GZIP { b"a,b\n1,2\n3,4\n" } else { b"a,b\n1,2\n" };
            assert_eq!(parts.concat(), expect, "{packing:?}");
            for cut in [bytes.len() - 1, bytes.len() / 4] {
                let error = read("t", &bytes[..cut], packing).await.expect_err("cut off");
                let fault = find::<TextFault>(&error).expect("a fault of the file");
                assert!(matches!(fault, TextFault::Packed { file, .. } if file == "t"), "{packing:?}: {fault:?}");
            }
        }
    }

    #[tokio::test]
    async fn the_first_bytes_tell_what_is_no_text() {
        let plain = CompressionTypeVariant::UNCOMPRESSED;
        assert_eq!(read("t", b"\xEF\xBB\xBFa\n", plain).await.expect("text"), b"a\n");
        assert_eq!(read("t", b"\xEF\xBB", plain).await.expect("bytes"), b"\xEF\xBB");
        for (bytes, expect) in [
            (&b"\xFF\xFEa\0"[..], "UTF-16"),
            (b"\xFE\xFF\0a", "UTF-16"),
            (b"\x1F\x8B\x08\0", "gzip"),
            (b"PAR1....", "Parquet"),
        ] {
            let error = read("t", bytes, plain).await.expect_err("no text").to_string();
            assert!(error.contains("`t`") && error.contains(expect), "{error}");
        }
    }

    #[tokio::test]
    async fn a_file_that_has_changed_is_not_read() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let path = Path::from("t");
        store.put(&path, "a\n1\n".into()).await.expect("put");
        let mut file = listed(&store, &path).await;
        store.put(&path, "a\n2\n3\n".into()).await.expect("put");
        let plain = CompressionTypeVariant::UNCOMPRESSED;
        for _ in 0..2 {
            let error = open(&store, &file, plain).await.err().expect("another file");
            assert_eq!(fragment_fn::classify(&error).kind, gust_protocol::FragmentErrorKind::FileChanged, "{error}");
            file.e_tag = None;
        }
    }
}
