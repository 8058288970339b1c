//! Versions: a coordinator and a function have to agree on [`PROTOCOL_VERSION`] and on [`fingerprint`].

use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, BinaryArray, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array, Decimal256Array,
    DictionaryArray, Float64Array, Int32Array, Int64Array, IntervalMonthDayNanoArray, LargeStringArray, ListArray,
    NullArray, StringArray, StringViewArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    UInt8Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, IntervalMonthDayNano, i256};
use datafusion::common::hash_utils::create_hashes;
use datafusion::physical_plan::repartition::REPARTITION_RANDOM_STATE;

use crate::functions;

/// Version of the wire. Every change of the wire raises it: until then the golden bytes in `testdata/` fail.
pub const PROTOCOL_VERSION: u32 = 12;

/// Returns the engine's version, the set of SQL functions that a plan may name, and a checksum of hashes:
/// `datafusion-55.2.0/functions-1-1a2b3c4d/hashes-5e6f7a8b`.
///
/// Two binaries with equal fingerprints decode each other's plans, and send equal keys to the same partition.
pub fn fingerprint() -> &'static str {
    static FINGERPRINT: LazyLock<String> = LazyLock::new(|| {
        let mut names: Vec<String> = Vec::new();
        names.extend(functions::scalar().iter().map(|f| format!("s:{}", f.name())));
        names.extend(functions::aggregate().iter().map(|f| format!("a:{}", f.name())));
        names.extend(functions::higher_order().iter().map(|f| format!("h:{}", f.name())));
        names.extend(functions::window().iter().map(|f| format!("w:{}", f.name())));
        names.sort_unstable();
        let names = crc32fast::hash(names.join(",").as_bytes());
        let (engine, set, hashes) = (datafusion::DATAFUSION_VERSION, functions::SET_VERSION, hashes());
        format!("datafusion-{engine}/functions-{set}-{names:08x}/hashes-{hashes:08x}")
    });
    &FINGERPRINT
}

/// Returns a checksum of the hashes that exchanges between functions give to values of each family of types.
///
/// The library that hashes promises no stable hashes, and a lock file may bring another version of it. Two functions that hash one key to two partitions
/// would lose rows of joins, and make two groups of one.
fn hashes() -> u32 {
    let texts = ["", "short", "a text of more than twelve bytes"];
    let dictionary: DictionaryArray<Int32Type> = texts.into_iter().collect();
    let decimals = Decimal128Array::from(vec![Some(-1), Some(12_345), None]);
    let numbers: ArrayRef = Arc::new(UInt64Array::from(vec![Some(0), Some(u64::MAX), None]));
    let lists = [Some(vec![Some(1), None]), Some(Vec::new()), None];
    let interval = IntervalMonthDayNano::new(1, -2, 3);
    let columns: [ArrayRef; 21] = [
        Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(42), None])),
        Arc::new(Int32Array::from(vec![Some(0), Some(-7), None])),
        Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN])),
        Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
        Arc::new(Date32Array::from(vec![Some(-1), Some(20_000), None])),
        Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), Some(1 << 50), None])),
        Arc::new(decimals),
        Arc::new(StringArray::from_iter_values(texts)),
        Arc::new(StringViewArray::from_iter_values(texts)),
        Arc::new(BinaryArray::from_iter_values(texts)),
        Arc::new(dictionary),
        Arc::clone(&numbers),
        Arc::new(UInt8Array::from(vec![Some(0), Some(u8::MAX), None])),
        Arc::new(LargeStringArray::from_iter_values(texts)),
        Arc::new(BinaryViewArray::from_iter_values(texts)),
        Arc::new(Decimal256Array::from(vec![Some(i256::MINUS_ONE), Some(i256::from_i128(12_345)), None])),
        Arc::new(Time64MicrosecondArray::from(vec![Some(0), Some(86_399_999_999), None])),
        Arc::new(IntervalMonthDayNanoArray::from(vec![Some(interval), Some(IntervalMonthDayNano::ZERO), None])),
        Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists)),
        Arc::new(StructArray::from(vec![(Arc::new(Field::new("n", DataType::UInt64, true)), numbers)])),
        Arc::new(NullArray::new(texts.len())),
    ];
    let state = REPARTITION_RANDOM_STATE.random_state();
    let mut checksum = crc32fast::Hasher::new();
    let mut add = |keys: &[ArrayRef]| {
        let mut hashes = vec![0; texts.len()];
        // A type that cannot be hashed would be the same on both sides.
        let _ = create_hashes(keys, state, &mut hashes);
        hashes.iter().for_each(|hash| checksum.update(&hash.to_le_bytes()));
    };
    columns.iter().for_each(|column| add(std::slice::from_ref(column)));
    // Keys of several columns are combined.
    add(&columns);
    checksum.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other hashes than those of the last release are no fault. They have to be known: functions and coordinators of both do not fit each other.
    #[test]
    fn hashes_are_those_of_the_golden_vector() {
        assert_eq!(format!("{:08x}", hashes()), "794b170b", "another version of the library hashes otherwise");
    }
}
