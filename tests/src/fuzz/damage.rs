//! Ways in which a file is damaged.

use rand::Rng;
use rand::rngs::StdRng;

/// Damage of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Damage {
    /// One to eight bits flip, anywhere.
    Bits,
    /// One to eight bits of the pages flip.
    DataBits,
    /// One to four bits of the footer, or of the page index before it, flip.
    FooterBits,
    /// One to four bytes of the footer become extreme ones.
    FooterBytes,
    /// A byte or two at the start of a column chunk change, where the first page's header is.
    PageHeader,
    /// The file ends early.
    Truncated,
    /// The footer's length field is another.
    FooterLength,
    /// A stretch is another file's, from the same place.
    Spliced,
    /// A stretch is filled with one byte.
    Filled,
    /// Bytes are taken out, so that everything behind them moves.
    Cut,
}

impl Damage {
    pub const ALL: [Self; 10] = [
        Self::Bits,
        Self::DataBits,
        Self::FooterBits,
        Self::FooterBytes,
        Self::PageHeader,
        Self::Truncated,
        Self::FooterLength,
        Self::Spliced,
        Self::Filled,
        Self::Cut,
    ];
}

/// Bytes at the ends of ranges, or with the bit that continues a varint.
const EXTREMES: [u8; 6] = [0x00, 0x01, 0x7f, 0x80, 0xfe, 0xff];

/// Returns the damage and a damaged copy that differs from `file`.
pub fn damage(random: &mut StdRng, file: &[u8], other: &[u8]) -> (Damage, Vec<u8>) {
    loop {
        // The kind is drawn again, too: a splice of the file with itself never changes it.
        let kind = Damage::ALL[random.random_range(0..Damage::ALL.len())];
        let damaged = damaged(kind, random, file, other);
        if damaged != file {
            return (kind, damaged);
        }
    }
}

fn damaged(kind: Damage, random: &mut StdRng, file: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = file.to_vec();
    let size = bytes.len();
    let footer = size - 8 - footer_length(file);
    match kind {
        Damage::Bits => flip(random, &mut bytes, 8),
        Damage::DataBits => {
            let starts = page_starts(file);
            let end = starts.iter().max().copied().unwrap_or(size);
            flip(random, &mut bytes[4..end.max(5)], 8);
        }
        Damage::FooterBits => flip(random, &mut bytes[footer.saturating_sub(200)..], 4),
        Damage::FooterBytes => {
            for _ in 0..random.random_range(1..=4) {
                bytes[random.random_range(footer..size)] = EXTREMES[random.random_range(0..EXTREMES.len())];
            }
        }
        Damage::PageHeader => {
            let starts = page_starts(file);
            let start = starts[random.random_range(0..starts.len())];
            for _ in 0..random.random_range(1..=2) {
                let place = (start + random.random_range(0..48)).min(size - 1);
                bytes[place] = if random.random() { random.random() } else { EXTREMES[random.random_range(0..6)] };
            }
        }
        Damage::Truncated => bytes.truncate(random.random_range(0..size)),
        Damage::FooterLength => {
            let length = if random.random() { random.random() } else { random.random_range(0..2 * size as u32) };
            bytes[size - 8..size - 4].copy_from_slice(&length.to_le_bytes());
        }
        Damage::Spliced => {
            let (start, end) = stretch(random, size.min(other.len()));
            bytes[start..end].copy_from_slice(&other[start..end]);
        }
        Damage::Filled => {
            let (start, end) = stretch(random, size);
            bytes[start..end].fill(EXTREMES[random.random_range(0..EXTREMES.len())]);
        }
        Damage::Cut => {
            let (start, end) = stretch(random, size);
            bytes.drain(start..end);
        }
    }
    bytes
}

fn flip(random: &mut StdRng, bytes: &mut [u8], most: usize) {
    for _ in 0..random.random_range(1..=most) {
        let place = random.random_range(0..bytes.len());
        bytes[place] ^= 1 << random.random_range(0..8);
    }
}

fn stretch(random: &mut StdRng, size: usize) -> (usize, usize) {
    let start = random.random_range(0..size);
    let end = (start + random.random_range(1..=64)).min(size);
    (start, end)
}

fn footer_length(file: &[u8]) -> usize {
    let (_, tail) = file.split_at(file.len() - 8);
    u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]) as usize
}

/// Returns the offsets at which pages and bloom filters begin, or 4, the end of the magic, where no footer tells them.
fn page_starts(file: &[u8]) -> Vec<usize> {
    if !file.ends_with(b"PAR1") {
        return vec![4];
    }
    let footer = crate::parquet_files::footer(file);
    let chunks = footer.row_groups().iter().flat_map(|group| group.columns());
    let starts: Vec<usize> = chunks
        .flat_map(|chunk| [Some(chunk.data_page_offset()), chunk.dictionary_page_offset(), chunk.bloom_filter_offset()])
        .flatten()
        .map(|offset| offset as usize)
        .collect();
    if starts.is_empty() { vec![4] } else { starts }
}
