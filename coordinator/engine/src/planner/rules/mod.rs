//! DataFusion's physical rules on the coordinator: guarded, checked, and refused where they give wrong rows.

pub mod file_names;
pub mod filter_names;
mod order_check;
pub mod unsound;
