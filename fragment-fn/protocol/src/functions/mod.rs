//! SQL functions that a plan may name: DataFusion's, with ours in place of those that it gets wrong.
//!
//! ```text
//!  DataFusion's defaults ─► sum            checked: an overflow is an error        (sum.rs)
//!                           avg, stddev…   frames of floats without subtraction    (frames.rs)
//!                           min, max       by group: NaN is the greatest value     (extremes.rs)
//!                           repeat, range… bounded: no gigabytes from a number     (bounds.rs)
//!                           array_*        typed: the promised list type           (corrected.rs)
//!                        +  gust_*         calls of the coordinator's rewrites     (float_key, integers, merged_key, row_key)
//!                        +  gust_try_*     functions that are NULL where they fail (own/rows.rs)
//!                        +  json_extract … functions of Trino's                    (own)
//! ```
//!
//! Both sides have one set: the coordinator plans with it, a function decodes with it. Ours bear DataFusion's names, so that
//! an encoded plan finds them. [`SET_VERSION`] stands for their results, and is a part of the fingerprint.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, WindowUDF};

mod bounds;
mod corrected;
mod extremes;
mod float_key;
mod forwarding;
mod frames;
mod integers;
mod merged_key;
mod own;
mod row_key;
mod sum;

pub use bounds::CALL_RESULT_BYTES_MAX;
pub use float_key::{FloatKey, has_floats};
pub use integers::{IntegerChain, IntegerOp, OPERANDS_MAX};
pub use merged_key::MergedKey;
pub use row_key::RowKey;

/// Version of our functions' results. It is raised whenever one of ours computes something else under the same name.
pub const SET_VERSION: u32 = 7;

/// Lists all scalar functions. Each name stands once.
pub fn scalar() -> Vec<Arc<ScalarUDF>> {
    static SET: LazyLock<Vec<Arc<ScalarUDF>>> = LazyLock::new(|| {
        let scalars =
            SessionStateDefaults::default_scalar_functions().into_iter().map(corrected::correct).map(own::widened);
        let own = [
            ScalarUDF::from(FloatKey::default()),
            ScalarUDF::from(MergedKey::default()),
            ScalarUDF::from(IntegerChain::default()),
            ScalarUDF::from(RowKey::default()),
        ];
        scalars.chain(own.map(Arc::new)).chain(own::tried()).chain(own::scalar()).collect()
    });
    SET.clone()
}

/// Lists all functions of lambdas. Each name stands once.
pub fn higher_order() -> Vec<Arc<HigherOrderUDF>> {
    SessionStateDefaults::default_higher_order_functions().into_iter().chain(own::higher_order()).collect()
}

/// Lists all aggregate functions. Each name stands once.
pub fn aggregate() -> Vec<Arc<AggregateUDF>> {
    static SET: LazyLock<Vec<Arc<AggregateUDF>>> = LazyLock::new(|| {
        let correct = |function: Arc<AggregateUDF>| match function.name() {
            "sum" => Arc::new(AggregateUDF::from(sum::CheckedSum::default())),
            "min" => Arc::new(AggregateUDF::from(extremes::Extreme::min(function))),
            "max" => Arc::new(AggregateUDF::from(extremes::Extreme::max(function))),
            name if frames::is_corrected(name) => Arc::new(AggregateUDF::from(frames::Framed { stock: function })),
            _ => function,
        };
        SessionStateDefaults::default_aggregate_functions().into_iter().map(correct).chain(own::aggregate()).collect()
    });
    SET.clone()
}

pub fn window() -> Vec<Arc<WindowUDF>> {
    SessionStateDefaults::default_window_functions()
}

/// Lists the names of the functions that DataFusion does not have.
pub fn added() -> Vec<String> {
    let scalars = own::scalar().map(|function| function.name().to_owned());
    let aggregates = own::aggregate().map(|function| function.name().to_owned());
    let of_lambdas = own::higher_order().map(|function| function.name().to_owned());
    scalars.chain(aggregates).chain(of_lambdas).collect()
}

/// Tells if a function has a form that is NULL where it fails, under its name behind `gust_try_`.
pub fn is_tried(name: &str) -> bool {
    own::is_tried(name)
}

/// Returns this set's scalar function of a name or alias.
pub fn scalar_named(name: &str) -> Option<&'static Arc<ScalarUDF>> {
    static BY_NAME: LazyLock<HashMap<String, Arc<ScalarUDF>>> = LazyLock::new(|| {
        let all = scalar().into_iter();
        all.flat_map(|f| names(f.name(), f.aliases()).into_iter().map(move |name| (name, Arc::clone(&f)))).collect()
    });
    BY_NAME.get(name)
}

/// Returns this set's aggregate function of a name or alias.
pub fn aggregate_named(name: &str) -> Option<&'static Arc<AggregateUDF>> {
    static BY_NAME: LazyLock<HashMap<String, Arc<AggregateUDF>>> = LazyLock::new(|| {
        let all = aggregate().into_iter();
        all.flat_map(|f| names(f.name(), f.aliases()).into_iter().map(move |name| (name, Arc::clone(&f)))).collect()
    });
    BY_NAME.get(name)
}

fn names(name: &str, aliases: &[String]) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(aliases.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of ours has a test that says when DataFusion's own does the same. Then ours is taken out.
    #[test]
    fn ours_stand_in_for_datafusions_under_the_same_names() {
        let added: Vec<String> = own::scalar().map(|f| f.name().to_owned()).collect();
        let ours: Vec<String> = scalar()
            .iter()
            .map(|f| f.name().to_owned())
            .filter(|name| !name.starts_with("gust_") && !added.contains(name))
            .collect();
        let theirs: Vec<String> =
            SessionStateDefaults::default_scalar_functions().iter().map(|f| f.name().to_owned()).collect();
        assert_eq!(ours, theirs);
        // Names of DataFusion's own would be two functions of one name.
        assert!(added.iter().all(|name| !theirs.contains(name)), "{added:?}");
        let mut all: Vec<String> = scalar().iter().flat_map(|f| names(f.name(), f.aliases())).collect();
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count, "a name is two functions");
        for (name, own) in [
            ("sum", "CheckedSum"),
            ("avg", "Framed"),
            ("mean", "Framed"),
            ("stddev_samp", "Framed"),
            ("corr", "Framed"),
            ("min", "Extreme"),
            ("max", "Extreme"),
        ] {
            assert!(
                aggregate_named(name).is_some_and(|of| format!("{of:?}").contains(own)),
                "{name} is DataFusion's own"
            );
        }
        for name in ["repeat", "lpad", "rpad", "array_repeat", "range", "generate_series", "array_resize", "replace"] {
            let function = scalar_named(name).expect(name);
            assert!(format!("{function:?}").contains("Corrected"), "{name} is DataFusion's own");
        }
    }
}
