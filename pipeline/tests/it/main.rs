//! Tests of the crate through its public face.

mod compressed;
mod conditions;
mod customs;
mod dectris;
mod golden;
mod masks;
mod model;
mod reductions;
mod run;
mod zip;
