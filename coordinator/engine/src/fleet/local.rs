//! Common parts of the platforms on the coordinator's own machine.

use fragment_fn::BRIDGE_BYTES_MAX;
use gust_protocol::FragmentLimits;
use gust_protocol::wire::INLINE_BYTES_MAX;

use crate::config::Config;
use crate::cost::Billed;
use crate::model::{FunctionSize, PlatformTraits, TimeModel, ahead_bounds};

pub(super) const TRAITS: PlatformTraits = PlatformTraits {
    name: "this machine",
    shares_machine: true,
    kept_for: None,
    lends_credentials: true,
    billed: Billed::AsIf,
};

pub(super) fn model(cores: usize, function_cores: f64) -> TimeModel {
    TimeModel { function_cores, ..TimeModel::laptop(cores) }
}

/// Returns the size of functions with `lanes` cores each, with the configuration's limits.
pub(super) fn size(config: &Config, kind: String, lanes: usize) -> FunctionSize {
    let memory_mb = u32::try_from(config.function_memory_bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX);
    let limits = FragmentLimits {
        memory_bytes_max: config.function_memory_bytes,
        temp_bytes_max: config.function_temp_bytes,
        inline_bytes_max: INLINE_BYTES_MAX,
        bridge_bytes: BRIDGE_BYTES_MAX,
        ahead: ahead_bounds(config.read_ahead(), memory_mb, lanes, config.function_memory_bytes),
        late_columns_percent_max: config.late_columns_percent_max,
    };
    let cores = lanes as f64;
    FunctionSize {
        kind,
        memory_mb,
        architecture: None,
        lanes,
        cores,
        limits,
        functions_max: config.functions_max as usize,
        is_one_environment: false,
        ramp: None,
        model: model(std::thread::available_parallelism().map_or(1, usize::from), cores),
    }
}
