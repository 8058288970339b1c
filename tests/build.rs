//! Links the programs under test to fixed addresses. The suites start them thousands of times, and a loader moves 290,000 addresses each time: a program
//! that tells its version takes 13 ms of processor time, most of it for that, and a query on one row 45 ms (November 2026). The loader moves the programs
//! that users get.

use std::env;

const PROGRAMS: [&str; 4] = ["bootstrap_under_test", "faulty_bootstrap", "gust_peer", "gust_under_test"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Linkers of other systems have another name for it.
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        PROGRAMS.iter().for_each(|program| println!("cargo::rustc-link-arg-bin={program}=-no-pie"));
    }
}
