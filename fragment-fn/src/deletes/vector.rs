//! Deletion vectors: blobs of format version 3 that hold the positions of one data file's deleted rows.
//!
//! ```text
//!  length of what is checked, 4 bytes BE │ magic │ 64-bit Roaring bitmap, portable format │ CRC-32 of magic and bitmap, 4 bytes BE
//! ```

use roaring::{RoaringBitmap, RoaringTreemap};

use crate::panics::catch_panic;

/// Longest vector, in bytes. It is read whole.
pub(super) const VECTOR_BYTES_MAX: u64 = 256 << 20;

/// First bytes of what the checksum covers.
const MAGIC: [u8; 4] = [0xd1, 0xd3, 0x39, 0x64];

/// Bytes around what the checksum covers.
const FRAME_BYTES: usize = 8;

/// Decodes a vector of a data file that has `rows` rows.
///
/// # Errors
/// A phrase about the vector, also where it has another number of positions than `cardinality`.
pub(super) fn decode(bytes: &[u8], rows: u64, cardinality: u64) -> Result<RoaringTreemap, String> {
    let too_short = || format!("it has {} bytes", bytes.len());
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(too_short)?;
    let (checked, crc) = rest.split_last_chunk::<4>().ok_or_else(too_short)?;
    let claimed = u32::from_be_bytes(*length);
    if claimed as usize != checked.len() {
        return Err(format!("it claims {claimed} bytes of {}", checked.len()));
    }
    let Some(bitmap) = checked.strip_prefix(&MAGIC) else { return Err("it does not begin as a vector".to_owned()) };
    if crc32fast::hash(checked) != u32::from_be_bytes(*crc) {
        return Err("its checksum is wrong".to_owned());
    }
    let deleted = catch_panic(|| treemap(bitmap, rows)).and_then(|decoded| decoded)?;
    if deleted.len() != cardinality {
        return Err(format!("it has {} positions, its manifest says {cardinality}", deleted.len()));
    }
    Ok(deleted)
}

/// Decodes the bitmap. It claims no more memory than its bytes need.
fn treemap(bytes: &[u8], rows: u64) -> Result<RoaringTreemap, String> {
    let ends = || "it ends within its bitmap".to_owned();
    let (count, mut rest) = bytes.split_first_chunk::<8>().ok_or_else(ends)?;
    let (count, most) = (u64::from_le_bytes(*count), (rows >> 32) + 1);
    if count > most {
        return Err(format!("it claims {count} bitmaps for {rows} rows"));
    }
    let mut bitmaps: Vec<(u32, RoaringBitmap)> = Vec::new();
    for _ in 0..count {
        let (key, bitmap) = rest.split_first_chunk::<4>().ok_or_else(ends)?;
        let key = u32::from_le_bytes(*key);
        if bitmaps.last().is_some_and(|(last, _)| *last >= key) {
            return Err("its bitmaps are out of order".to_owned());
        }
        rest = bitmap;
        let bitmap = RoaringBitmap::deserialize_from(&mut rest);
        bitmaps.push((key, bitmap.map_err(|error| format!("its bitmap is damaged: {error}"))?));
    }
    if !rest.is_empty() {
        return Err(format!("{} bytes follow its bitmap", rest.len()));
    }
    Ok(RoaringTreemap::from_bitmaps(bitmaps))
}

/// Encodes positions as a vector.
///
/// # Errors
/// A phrase, where the vector would be longer than a vector may be.
pub(super) fn encode(deleted: &RoaringTreemap) -> Result<Vec<u8>, String> {
    let bytes = deleted.serialized_size() + MAGIC.len();
    let fits = u32::try_from(bytes).ok().filter(|bytes| u64::from(*bytes) + FRAME_BYTES as u64 <= VECTOR_BYTES_MAX);
    let length = fits.ok_or_else(|| format!("a vector of {bytes} bytes is too long"))?;
    let mut encoded = Vec::with_capacity(bytes + FRAME_BYTES);
    encoded.extend(length.to_be_bytes());
    encoded.extend(MAGIC);
    deleted.serialize_into(&mut encoded).map_err(|error| error.to_string())?;
    let crc = crc32fast::hash(&encoded[4..]);
    encoded.extend(crc.to_be_bytes());
    Ok(encoded)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const ROWS: u64 = (1 << 33) + 10;

    fn positions() -> RoaringTreemap {
        // An array, a run, a bitmap, and a position above 2^32.
        let mut positions: RoaringTreemap = [3, 5, 1 << 33].into_iter().collect();
        positions.insert_range(70_000..90_000);
        positions.extend((200_000..300_000).step_by(3));
        positions
    }

    /// Makes a vector around `bitmap`, with its checksum.
    fn framed(bitmap: &[u8]) -> Vec<u8> {
        let checked = [&MAGIC, bitmap].concat();
        let (length, crc) = ((checked.len() as u32).to_be_bytes(), crc32fast::hash(&checked).to_be_bytes());
        [&length[..], &checked, &crc].concat()
    }

    #[test]
    fn a_vector_arrives_as_it_was() {
        for positions in [RoaringTreemap::new(), [0].into_iter().collect(), positions()] {
            let mut runs = positions.clone();
            runs.optimize();
            for encoded in [&positions, &runs].map(|positions| encode(positions).expect("short")) {
                let decoded = decode(&encoded, ROWS, positions.len()).expect("a vector");
                assert!(decoded == positions, "{} positions", positions.len());
            }
        }
    }

    #[test]
    fn bytes_of_another_writer_are_read() {
        // Positions 1, 3, 5, as the specification of the Puffin blob and the Roaring format say, by hand.
        let bitmap = [
            &1_u64.to_le_bytes()[..], // bitmaps
            &0_u32.to_le_bytes(),     // high half of the positions
            &12346_u32.to_le_bytes(), // cookie: no runs
            &1_u32.to_le_bytes(),     // containers
            &[0, 0, 2, 0],            // key, cardinality - 1
            &16_u32.to_le_bytes(),    // offset
            &[1, 0, 3, 0, 5, 0],
        ]
        .concat();
        let decoded = decode(&framed(&bitmap), 6, 3).expect("a vector");
        assert_eq!(decoded.into_iter().collect::<Vec<_>>(), [1, 3, 5]);
    }

    #[test]
    fn damage_is_named() {
        let good = encode(&positions()).expect("short");
        let cardinality = positions().len();
        let changed = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        };
        let two = |first: u32, second: u32| {
            let mut one = Vec::new();
            RoaringBitmap::from_iter([7]).serialize_into(&mut one).expect("into memory");
            let keys = [first, second].map(u32::to_le_bytes);
            framed(&[&2_u64.to_le_bytes()[..], &keys[0], &one, &keys[1], &one].concat())
        };
        let mut trailing = good[8..good.len() - 4].to_vec();
        trailing.push(0);
        let cases: [(&str, Vec<u8>, u64, &str); 12] = [
            ("nothing", Vec::new(), 0, "it has 0 bytes"),
            ("a length alone", vec![0, 0, 0, 4, 1], 0, "it has 5 bytes"),
            ("a length too large", changed(2), cardinality, "it claims"),
            ("cut at its end", good[..good.len() - 3].to_vec(), cardinality, "it claims"),
            ("another magic", changed(5), cardinality, "it does not begin as a vector"),
            ("a position", changed(good.len() - 9), cardinality, "its checksum is wrong"),
            ("a checksum", changed(good.len() - 1), cardinality, "its checksum is wrong"),
            ("another cardinality", good.clone(), cardinality + 1, "positions, its manifest says 53338"),
            ("no bitmap", framed(&[1, 0, 0]), 1, "it ends within its bitmap"),
            ("no second bitmap", framed(&1_u64.to_le_bytes()), 1, "it ends within its bitmap"),
            ("bitmaps out of order", two(1, 1), 2, "its bitmaps are out of order"),
            ("bytes behind", framed(&trailing), cardinality, "1 bytes follow its bitmap"),
        ];
        for (what, bytes, cardinality, expect) in cases {
            let error = decode(&bytes, ROWS, cardinality).expect_err(what);
            assert!(error.contains(expect), "{what}: {error}");
        }
        let error = decode(&two(0, 1), 10, 2).expect_err("too many bitmaps");
        assert_eq!(error, "it claims 2 bitmaps for 10 rows");
        // A count of containers that is far beyond the bytes.
        let claims =
            [&1_u64.to_le_bytes()[..], &0_u32.to_le_bytes(), &12346_u32.to_le_bytes(), &u32::MAX.to_le_bytes()];
        let error = decode(&framed(&claims.concat()), 10, 1).expect_err("too many containers");
        assert!(error.contains("its bitmap is damaged"), "{error}");
    }

    #[test]
    fn no_bytes_panic() {
        let mut random = StdRng::seed_from_u64(7);
        let good = encode(&positions()).expect("short");
        let bitmap = &good[8..good.len() - 4];
        for _ in 0..2_000 {
            let mut damaged = bitmap[..random.random_range(0..=bitmap.len())].to_vec();
            for _ in 0..random.random_range(0..4) {
                // Mostly its head, where the lengths are.
                let end = if random.random() { damaged.len() } else { damaged.len().min(64) };
                if end > 0 {
                    damaged[random.random_range(0..end)] = random.random();
                }
            }
            let _ = treemap(&damaged, ROWS);
        }
    }
}
