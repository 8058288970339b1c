//! Faults of CSV and JSON files, with the file, the row where it is known, and the next step.

use datafusion::common::DataFusionError;

/// A file that does not have the rows that its table needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextFault {
    #[error("file `{file}` cannot be unpacked as {packing}: {reason}")]
    Packed { file: String, packing: &'static str, reason: String },
    #[error("file `{file}` is {found}, and no UTF-8 text")]
    NoText { file: String, found: &'static str },
    /// The text has no rows of its format.
    #[error("file `{file}`: {reason}")]
    Shape { file: String, reason: String },
    #[error("file `{file}`, row {row}: {reason}")]
    Row { file: String, row: u64, reason: String },
    #[error("file `{file}` has more than {mib} MiB before its columns are known")]
    LongRows { file: String, mib: u64 },
    #[error("option `{option}` {reason}")]
    Option { option: String, reason: String, hint: &'static str },
}

impl TextFault {
    /// Returns the next step.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Packed { .. } => {
                "pack it again, or say how it is packed: OPTIONS ('format.compression' 'gzip'), or 'uncompressed'"
            }
            Self::NoText { .. } => "write it as UTF-8; a packed file has .gz, .zst, .bz2 or .xz at the end of its name",
            Self::Shape { .. } => "JSON is an object a line, or one array of objects; CSV has a line a row",
            Self::Row { .. } => {
                "declare the column in CREATE EXTERNAL TABLE with a type that all files fit in, or rewrite the odd file"
            }
            Self::LongRows { .. } => "declare the columns in CREATE EXTERNAL TABLE; check the delimiter and the quotes",
            Self::Option { hint, .. } => hint,
        }
    }
}

impl From<TextFault> for DataFusionError {
    fn from(fault: TextFault) -> Self {
        Self::External(Box::new(fault))
    }
}
