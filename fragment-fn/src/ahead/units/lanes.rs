//! Streams of a scan.

/// Order in which the scan's streams open its files, by their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Lanes {
    /// So many streams take files from one queue.
    Shared { streams: usize, queue: Vec<u32> },
    /// Each stream has files of its own.
    Own(Vec<Vec<u32>>),
}

impl Lanes {
    pub(in super::super) fn streams(&self) -> usize {
        match self {
            Self::Shared { streams, .. } => *streams,
            Self::Own(lanes) => lanes.len(),
        }
    }

    pub(super) fn queues(&self) -> Vec<&[u32]> {
        match self {
            Self::Shared { queue, .. } => vec![queue.as_slice()],
            Self::Own(lanes) => lanes.iter().map(Vec::as_slice).collect(),
        }
    }

    /// Lists the files in the order in which streams of one speed open them.
    pub(super) fn in_turn(&self) -> Vec<u32> {
        let queues = self.queues();
        let longest = queues.iter().map(|queue| queue.len()).max().unwrap_or_default();
        (0..longest).flat_map(|turn| queues.iter().filter_map(move |queue| queue.get(turn))).copied().collect()
    }
}
