//! `own-reduction`: a `ronchi` that knows two more kinds of reductions, `peak` and `occupied`. See `docs/plugins.md`.
//!
//! Try it: `cargo run -p own-reduction -- reprocess SCAN.ronchi --reduce peak:above=100 --reduce occupied --out results`

mod occupied;
mod peak;

use ronchi_pipeline::reduce::CustomKind;

fn main() -> std::process::ExitCode {
    ronchi::main_with(&[CustomKind::of::<peak::Peak>(), CustomKind::of::<occupied::Occupied>()])
}
