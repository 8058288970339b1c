//! Versions: a coordinator and a function have to agree on [`PROTOCOL_VERSION`] and on [`fingerprint`].

use std::sync::LazyLock;

use crate::functions;

/// Version of the wire. Every change of the wire raises it: until then the golden bytes in `testdata/` fail.
pub const PROTOCOL_VERSION: u32 = 7;

/// Returns the engine's version and the set of SQL functions that a plan may name: `datafusion-55.2.0/functions-1-1a2b3c4d`.
///
/// Two binaries with equal fingerprints decode each other's plans.
pub fn fingerprint() -> &'static str {
    static FINGERPRINT: LazyLock<String> = LazyLock::new(|| {
        let mut names: Vec<String> = Vec::new();
        names.extend(functions::scalar().iter().map(|f| format!("s:{}", f.name())));
        names.extend(functions::aggregate().iter().map(|f| format!("a:{}", f.name())));
        names.extend(functions::higher_order().iter().map(|f| format!("h:{}", f.name())));
        names.extend(functions::window().iter().map(|f| format!("w:{}", f.name())));
        names.sort_unstable();
        let names = crc32fast::hash(names.join(",").as_bytes());
        format!("datafusion-{}/functions-{}-{names:08x}", datafusion::DATAFUSION_VERSION, functions::SET_VERSION)
    });
    &FINGERPRINT
}
