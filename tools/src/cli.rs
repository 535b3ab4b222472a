//! The `ronchi` command: what its arguments are, and who does the work.

use std::process::ExitCode;

use crate::output::note_line;
use clap::{CommandFactory, Parser, Subcommand};
use ronchi_pipeline::reduce::{CustomKind, Reduction};
use ronchi_plugins::Plugin;

use crate::{demo, export, ls, record, repair, reprocess, serve, simulate, token, verify, watch};

/// Catch, record and reduce 4D-STEM frames as they arrive.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// See it work: a simulated detector, a recording and live images, nothing to configure
    Demo(demo::DemoArgs),
    /// Record one series (or a few) and print how it went
    Record(Box<record::RecordArgs>),
    /// Receive series after series, as a configuration file says
    Serve(serve::ServeArgs),
    /// Show a running receiver in the terminal
    Watch(watch::Watch),
    /// List the data sets of a directory
    Ls(ls::LsArgs),
    /// Check a data set: everything the format promises, nothing is changed
    Verify(verify::VerifyArgs),
    /// Finish a data set that a crash or damage left behind: what can be proved stays, the rest becomes gaps
    Repair(repair::RepairArgs),
    /// Write one file in another format: HDF5, EMD, Zarr, NumPy, raw, MIB; results as npy, TIFF, PNG
    Export(export::ExportArgs),
    /// Compute results again, or other ones, from recorded frames
    Reprocess(Box<reprocess::ReprocessArgs>),
    /// Pretend to be a detector
    Simulate(simulate::SimulateArgs),
    /// Make a token for the HTTP API
    Token(token::TokenArgs),
    /// Check a configuration file without starting anything
    CheckConfig(serve::CheckConfigArgs),
    /// Print shell completions
    Completions {
        /// The shell they are for
        shell: clap_complete::Shell,
    },
}

/// The whole program, with kinds of reductions that a lab has written beside those of ronchi: the `main` of a program of
/// the lab's own, which then does all that `ronchi` does. Call it once.
///
/// ```no_run
/// // `CustomKind::of::<Mine>()` goes between the brackets; `ronchi` itself has none.
/// let code: std::process::ExitCode = ronchi::main_with(&[]);
/// ```
pub fn main_with(kinds: &[CustomKind]) -> ExitCode {
    crate::start_logging();
    let kinds = [kinds, &[CustomKind::of::<Plugin>()]].concat();
    let result = Reduction::register(&kinds).map_err(Into::into).and_then(|()| run(Cli::parse().command));
    result.unwrap_or_else(|error| {
        note_line!("ronchi: {error:#}");
        crate::exit_code(&error)
    })
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(args) => args.run(),
        Command::Record(args) => args.run(),
        Command::Serve(args) => args.run(),
        Command::Watch(args) => args.run().map(|()| ExitCode::SUCCESS),
        Command::Ls(args) => args.run(),
        Command::Verify(args) => args.run(),
        Command::Repair(args) => args.run(),
        Command::Export(args) => args.run(),
        Command::Reprocess(args) => args.run(),
        Command::Simulate(args) => args.run().map(|()| ExitCode::SUCCESS),
        Command::Token(args) => args.run(),
        Command::CheckConfig(args) => args.run(),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "ronchi", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}
