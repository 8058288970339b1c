//! Where tables come from: stores by URL, bare Parquet through DataFusion's listing, Iceberg through `gust-catalog`.

pub mod catalog;
pub mod iceberg;
mod planned;
mod predicate;
pub mod probe;
pub mod pruning;
mod schema;
pub mod stores;
