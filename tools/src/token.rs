//! `ronchi token`: who may do what over HTTP.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::output::say_line;
use anyhow::Result;
use clap::{Args, Subcommand};
use ronchi_sinks::http::{Role, new_token};

/// Options of `ronchi token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token, add its hash to the file, and print it: it is kept nowhere else
    New {
        /// File of `[live.auth]`; made, with mode 0600, when it is not there
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        /// What its holder may do: read (see everything) or control (change it as well)
        #[arg(long, value_parser = role)]
        role: Role,
        /// Whose it is; appears where somebody else wants the control
        #[arg(long)]
        name: String,
    },
}

fn role(word: &str) -> Result<Role, String> {
    Role::parse(word).ok_or_else(|| "expected read or control".to_owned())
}

impl TokenArgs {
    /// Makes a token. To take one back, delete its line.
    pub fn run(self) -> Result<ExitCode> {
        let TokenCommand::New { file, role, name } = self.command;
        say_line!("{}", new_token(&file, role, &name)?);
        Ok(ExitCode::SUCCESS)
    }
}
