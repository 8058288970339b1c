//! A platform of functions that exists in virtual time only. It runs thousands of functions in seconds; one seed is one history.
//!
//! ```text
//!  world: a runtime with tokio's paused clock
//!    gust's own planner stage ─► RemoteFragmentExec ─► scheduler ─► SimInvoker ─► environments, pipes, faults
//!                                        ▲                                             │
//!                                        └── exchange::read ◄── in-memory store ◄── ResultWriter
//! ```
//!
//! Everything from the stage to the adopted rows is the project's own code. Only AWS's part is simulated. Parameters
//! come from a [`Platform`]. An attempt's fault is drawn from the seed and the attempt's name, so it does not depend
//! on the order in which tasks run. A query may have stages over stages: then functions send rows to functions, and join them. The project's own
//! leaf reads these rows, and DataFusion's operators run over them. A few rows may stand for gigabytes (`sizes`). Not simulated: operators over files (the rows of such a
//! fragment are known beforehand), the time of others than scans, and S3's request rates.

mod capped;
mod fault;
mod fragment_rows;
mod invoker;
mod parts;
mod pipe;
mod platform;
mod shortage;
mod sizes;
mod trial;
mod unchecked;
mod work;
mod world;

pub use capped::{CapSlowdown, CappedTrial, Enforcement, capped_trial, dollars, with_and_without};
pub use fault::{Fault, FaultPlan};
pub use fragment_rows::{FragmentRows, ScanStage, schema};
pub use invoker::{Overwritten, PlatformUsage, QueryUsage, SimInvoker};
pub use parts::PartsReading;
pub use pipe::Pipe;
pub use platform::{Platform, Quantiles};
pub use trial::{Adoption, PieceEvents, Trial, trial, trial_in_full};
pub use world::{Graph, GraphStep, QueryOutcome, SentShares, SimulatedQuery, World, WorldOutcome, run_virtually};
