//! Names of a folder that are data, and their formats.
//!
//! Names that begin with `_` or `.` are left out, as Athena and Spark do, but `_x=1` is a partition folder. So are
//! copies that are not finished, and files without a byte. A folder's table leaves out files with the extension of
//! another kind, too: a table of Parquet does not read README.md. A file that is named in full is read, unless it has
//! no byte.

use crate::tables::text::Packing;

/// A format that tables can be stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FileKind {
    Parquet,
    Csv,
    Json,
    Arrow,
}

/// Extensions of files that are data of no format here, and that no writer gives to data.
const OTHER: &[&str] = &[
    "orc", "avro", "md", "markdown", "rst", "html", "htm", "pdf", "xml", "yml", "yaml", "toml", "ini", "sql", "py",
    "sh", "ipynb", "crc", "md5", "sha1", "sha256", "sig", "asc", "lock", "bak", "tmp", "swp", "zip", "tar", "tgz",
    "png", "jpg", "jpeg", "gif", "xlsx", "xls", "docx", "db", "sqlite", "duckdb",
];

/// Extensions of text that may be CSV or JSON and is never Parquet.
const TEXT: &[&str] = &["txt", "text", "log", "dat"];

impl FileKind {
    pub(super) const ALL: [Self; 4] = [Self::Parquet, Self::Csv, Self::Json, Self::Arrow];

    /// Returns the name that the engine's factories have for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Arrow => "arrow",
        }
    }

    /// Finds a format by the name of its factory.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(name))
    }

    /// Finds a format by the extension of a file, also of a compressed one.
    pub(super) fn of_file(file: &str) -> Option<Self> {
        match extension(file).text.as_str() {
            "parquet" | "parq" | "pq" => Some(Self::Parquet),
            "csv" | "tsv" => Some(Self::Csv),
            "json" | "ndjson" | "jsonl" => Some(Self::Json),
            "arrow" => Some(Self::Arrow),
            _ => None,
        }
    }

    /// Tells if a folder's file is read as this format.
    pub(super) fn reads(self, file: &str) -> bool {
        let Extension { text, .. } = extension(file);
        match Self::of_file(file) {
            Some(format) => format == self,
            None if TEXT.contains(&text.as_str()) => matches!(self, Self::Csv | Self::Json),
            None => !OTHER.contains(&text.as_str()),
        }
    }
}

/// Returns the way in which a file is packed by its name; None for one that is not.
pub(super) fn packing(file: &str) -> Option<Packing> {
    extension(file).packing
}

/// Tells a file whose values are divided by tabs, by its name.
pub(super) fn is_of_tabs(file: &str) -> bool {
    extension(file).text == "tsv"
}

/// Tells a file whose name says neither what it is nor that it may be Parquet.
pub(super) fn tells_nothing(file: &str) -> bool {
    let Extension { text, packing } = extension(file);
    packing.is_some() && text.is_empty() || TEXT.contains(&text.as_str())
}

/// A file's extension in lower case. That of a packed file is the unpacked file's.
struct Extension {
    text: String,
    packing: Option<Packing>,
}

fn extension(file: &str) -> Extension {
    let mut parts = file.rsplit('.').map(str::to_ascii_lowercase);
    let parts_count = file.split('.').count();
    let last = parts.next().filter(|_| parts_count > 1).unwrap_or_default();
    let Some(packing) = Packing::of_extension(&last) else { return Extension { text: last, packing: None } };
    let unpacked = parts.next().filter(|_| parts_count > 2).unwrap_or_default();
    Extension { text: unpacked, packing: Some(packing) }
}

/// Tells if a name is left out unless a pattern asks for it. Returns the character that it begins with then.
pub(super) fn hiding_character(name: &str) -> Option<char> {
    match name.chars().next() {
        Some('_') if !name.contains('=') => Some('_'),
        Some('.') => Some('.'),
        _ => None,
    }
}

/// Tells if a writer has not finished a file.
pub(super) fn is_unfinished(name: &str) -> bool {
    name.ends_with("._COPYING_")
}

#[cfg(test)]
mod tests {
    use datafusion::common::parsers::CompressionTypeVariant;

    use super::*;

    #[test]
    fn names_say_if_a_file_is_data() {
        for name in ["a.parquet", "a.PQ", "part-00000", "part-0.snappy.parquet", "x.c000", "a.b=c", "2024.01.01"] {
            assert!(FileKind::Parquet.reads(name), "{name}");
        }
        for name in ["README.md", "a.csv", "a.csv.gz", "a.json", ".a.parquet.crc", "notes.txt", "x.orc"] {
            assert!(!FileKind::Parquet.reads(name), "{name}");
        }
        assert!(FileKind::Csv.reads("a.txt") && FileKind::Csv.reads("a.csv.gz") && !FileKind::Csv.reads("a.parquet"));
        let gzip = Some(Packing::Known(CompressionTypeVariant::GZIP));
        assert_eq!(["a.csv.gz", "a.GZ", "gz"].map(packing), [gzip, gzip, None]);
        assert_eq!(["a.json.zst", "a.csv.lz4"].map(|name| packing(name).is_some()), [true, true]);
        assert_eq!(FileKind::of_file("a.TSV.bz2"), Some(FileKind::Csv));
        assert!(is_of_tabs("a.tsv.gz") && !is_of_tabs("a.csv"));
        assert!(tells_nothing("a.gz") && tells_nothing("x.log") && !tells_nothing("a.csv.gz") && !tells_nothing("a"));
        assert_eq!(["_SUCCESS", "_x=1", ".hidden", "a_b"].map(hiding_character), [Some('_'), None, Some('.'), None]);
    }
}
