//! The product, built beside the benchmarks.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// The `ronchi` binary of the same build. Errors: it has not been built.
pub fn ronchi() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().context("a folder of this program")?;
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let path = folder.join("ronchi");
    ensure!(path.exists(), "{} is missing: build it first with `cargo build --release`", path.display());
    Ok(path)
}
