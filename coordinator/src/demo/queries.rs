//! The 22 TPC-H queries with the specification's validation parameters.
//!
//! Each file has one statement of standard SQL without a trailing semicolon. DataFusion and DuckDB both run all of them.

/// Number of queries. The first has number 1.
pub const COUNT: usize = QUERIES.len();

/// Returns the text of query `n`, counted from 1 as the specification does.
///
/// # Panics
/// Panics where `n` is not in `1..=COUNT`. The numbers are constants of the program; a user's are checked before.
pub fn query(n: usize) -> &'static str {
    assert!((1..=COUNT).contains(&n), "TPC-H has queries 1 to {COUNT}, not {n}");
    QUERIES[n - 1]
}

const QUERIES: [&str; 22] = [
    include_str!("queries/q01.sql"),
    include_str!("queries/q02.sql"),
    include_str!("queries/q03.sql"),
    include_str!("queries/q04.sql"),
    include_str!("queries/q05.sql"),
    include_str!("queries/q06.sql"),
    include_str!("queries/q07.sql"),
    include_str!("queries/q08.sql"),
    include_str!("queries/q09.sql"),
    include_str!("queries/q10.sql"),
    include_str!("queries/q11.sql"),
    include_str!("queries/q12.sql"),
    include_str!("queries/q13.sql"),
    include_str!("queries/q14.sql"),
    include_str!("queries/q15.sql"),
    include_str!("queries/q16.sql"),
    include_str!("queries/q17.sql"),
    include_str!("queries/q18.sql"),
    include_str!("queries/q19.sql"),
    include_str!("queries/q20.sql"),
    include_str!("queries/q21.sql"),
    include_str!("queries/q22.sql"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_holds_the_query_of_its_number() {
        for n in 1..=COUNT {
            assert!(query(n).starts_with(&format!("-- Q{n},")), "q{n:02}.sql begins with another query's title");
        }
    }
}
