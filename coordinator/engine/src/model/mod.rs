//! Time, money, requests and bytes that a query will take, here and on functions, and the decision by them. Data and pure functions.
//!
//! ```text
//!  loads (the planner's) ─┬─► attempts: seconds, requests ─┬─► decision, packing, expected times
//!  time model, fleet ─────┘                                └─► forecast: dollars ─► quote
//!  tariff ─────────────────────────────────────────────────────┘
//! ```

pub mod attempts;
mod bridge;
pub mod decision;
mod fleet;
pub mod forecast;
pub mod load;
pub mod measured;
mod quote;
mod time;
mod warm_state;

pub use attempts::Machines;
pub use bridge::{ReadPrices, bridge_bytes};
pub use decision::{Choice, Decision, PackedAs, Place, Reason, WallTimes};
pub use fleet::{
    EnvironmentRamp, FleetFacts, FunctionSize, PlatformTraits, ahead_bounds, ahead_bounds_here, reads_ahead,
};
pub use forecast::{Amounts, Forecast, Way};
pub use quote::Quote;
pub use time::{Latency, Pipe, TimeModel, Workload};
pub use warm_state::WarmState;
