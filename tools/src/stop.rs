//! Stopping: the first signal drains, seals and ends; the second one ends at once.

use crate::output::note_line;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

/// A flag that SIGINT and SIGTERM set; a second signal ends the process with exit code 130.
pub(crate) fn on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let (flag, asked) = (Arc::clone(&stop), AtomicBool::new(false));
    ctrlc::set_handler(move || {
        flag.store(true, Ordering::SeqCst);
        if asked.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        note_line!("ronchi: stopping; once more to stop at once");
    })
    .context("install the signal handler")?;
    Ok(stop)
}
