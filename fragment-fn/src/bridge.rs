//! The largest gap between ranges of one request: the bound of what planning chooses for readers.

/// Most bytes of a gap between ranges of one request.
///
/// Planning finds the gap that pays by time and prices, for the coordinator and for each size of functions. It is no larger than
/// this: the bytes of a gap lie in memory that no pool counts, until all ranges beside it are decoded.
pub const BRIDGE_BYTES_MAX: u64 = 1 << 20;
