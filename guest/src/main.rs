//! `plywood-guest`: process 1 of a utility VM.

fn main() {}
