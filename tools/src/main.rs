//! The `ronchi` program.

fn main() -> std::process::ExitCode {
    ronchi::main_with(&[])
}
