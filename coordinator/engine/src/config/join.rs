//! Places of joins and sorts, and of the exchanges below them, in a query that uses functions.

use serde::{Deserialize, Serialize};

/// Place of the joins whose smaller side every function could have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JoinPlace {
    /// Functions, if the smaller side is expected to be small and the other one to be large.
    #[default]
    Auto,
    /// Functions, unless the smaller side is expected to be too large for them.
    Broadcast,
    /// The coordinator.
    Local,
}

/// Place of the joins of Iceberg tables whose files are parted by the same transforms of the joins' keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlignedPlace {
    /// Functions, each with the files of some partition values.
    Functions,
    /// The place of other joins.
    #[default]
    Local,
}

/// Place of operators that need all rows of a key: groups, joins of two large sides, windows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShufflePlace {
    /// Functions where statistics say that the coordinator would get many rows: both sides of a join are large, or groups are many.
    Auto,
    /// Functions, which get the rows of their keys from one another.
    Hash,
    /// The coordinator.
    #[default]
    Local,
}

/// Joins of two large sides whose build side is run before the other one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BuildFirst {
    /// Those that `shuffle = "auto"` has chosen by a guess, if functions read no more for the build side.
    #[default]
    Auto,
    /// All of them, wherever that is right.
    Always,
    /// None.
    Never,
}

/// Place of sorts without a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SortPlace {
    /// Functions where statistics say that the coordinator would get many rows.
    Auto,
    /// Functions sort what they have read, and the coordinator merges their rows.
    #[default]
    Local,
    /// Functions, each with a range of the first key.
    Ranges,
}
