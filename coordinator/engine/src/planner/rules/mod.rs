//! DataFusion's physical rules as the coordinator has them: guarded, checked, and refused where they give wrong rows.

pub mod filter_names;
mod order_check;
pub mod unsound;
