//! The `ronchi` program as a library: wiring, commands and detector simulators, for the binary, tests and benchmarks; and
//! [`main_with`], for programs that add reductions of a lab's own.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod acquisitions;
mod asked;
mod catch_up;
mod cli;
mod condition_args;
pub mod demo;
mod descriptors;
pub mod export;
mod finisher;
mod live_ports;
pub mod ls;
mod output;
mod panics;
mod pictures;
mod process;
mod progress;
pub mod receiver;
pub mod record;
mod recorded;
mod recording;
mod reducers;
pub mod repair;
mod repeats;
pub mod reprocess;
pub mod serve;
pub mod simulate;
mod stop;
pub mod summary;
pub mod token;
pub mod verify;
pub mod watch;

pub use cli::main_with;
use ronchi_ingest::ReceiveError;
use ronchi_sinks::storage::StorageError;

/// Exit code of a command that could not do its work: 3 when another data set or writer has the place, else 2.
pub fn exit_code(error: &anyhow::Error) -> std::process::ExitCode {
    let is_taken = error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(StorageError::Exists { .. } | StorageError::InUse { .. }))
            || matches!(cause.downcast_ref(), Some(ReceiveError::Refused(refused)) if refused.is_taken)
    });
    std::process::ExitCode::from(if is_taken { 3 } else { 2 })
}

/// Sends log lines to standard error; `RONCHI_LOG` selects them (`info`, `ronchi_ingest=debug`, ...).
pub fn start_logging() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("RONCHI_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time();
    // It would tell by `eprintln!` that a line could not be written, which panics when standard error is gone.
    lines.log_internal_errors(false).init();
}
