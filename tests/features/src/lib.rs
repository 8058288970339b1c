//! Features of dependencies, so that each crate is tested as the whole workspace is built. Its manifest is all there is.
