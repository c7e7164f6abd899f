//! `cargo xtask demo`: a real image imported, mounted and run, every claim checked.

mod image;

use anyhow::Result;

use crate::packages::{self, Purpose};
use crate::workspace;

/// The demo image's reference.
const REFERENCE: &str = "plywood.example/demo:1";

pub(crate) fn demo() -> Result<()> {
    packages::set_up(Purpose::Demo)?;
    packages::require_root("demo", "the demo mounts images and runs containers, which takes root")?;
    let directory = workspace::target().join("demo");
    let image = image::build(&directory, REFERENCE)?;
    println!("{}", image.archive.display());
    println!("{}", image.large_digest);
    println!("{}", image::verify(&directory.join("check"))?);
    Ok(())
}
