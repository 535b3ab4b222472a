//! Whole-system tests of the `ronchi` binary and its library.

mod data_sets;
mod full_disk;
mod recording;
mod replay;
mod reprocess;
mod simulate;
mod system;
mod tidy;
