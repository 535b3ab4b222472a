//! Whole-system tests of the `ronchi` binary and its library.

mod simulate;
mod system;
mod tidy;
