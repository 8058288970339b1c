//! From a physical plan to stages of fragments: pure passes, in this order.
//!
//! 1. [`passes::spread`]: before DataFusion's own rules, gives every scan as many partitions as the coordinator has, so that the
//!    rules put gathers, merges and partial aggregates where fragments will end.
//! 2. [`passes::cut`]: after them, finds each scan's maximal partition-local subtree.
//! 3. [`passes::units`]: takes the subtree's files apart into scan units, cut at row groups and weighed by projected bytes.
//! 4. [`passes::pack`]: packs the units, largest first, into fragments and lanes.
//!
//! Beside them, for local plans, too: [`rules::unsound`], after DataFusion's own rules, refuses operators that give wrong rows.
//! DataFusion's own rules are [`rules::filter_names::rules`]: stock, but for a guard and [`rules::order_check`].
//!
//! What comes out is a coordinator plan whose leaves are stages. Every intermediate plan still runs on one node. The passes do
//! no I/O; footers that were read anyway are looked up in a cache.

pub mod choose;
pub mod loads;
pub mod passes;
pub mod rules;
pub mod stage;

pub use stage::{Planned, Stage, plan_stages, plan_stages_after};
