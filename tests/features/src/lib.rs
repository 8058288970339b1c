//! Features of dependencies, so that each crate is tested as the whole workspace is built. The manifest is the whole crate.
