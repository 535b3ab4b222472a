//! Tests of the crate through its public face.

mod compressed;
mod conditions;
mod customs;
mod dectris;
mod descan;
mod golden;
mod masks;
mod model;
mod nodata;
mod positions;
mod reductions;
mod run;
mod zip;
