//! In place of the host, where it is not built in: there are no plug-ins, so nothing is asked of one.

use ronchi_pipeline::SigShape;
use ronchi_pipeline::reduce::{Description, TileFrame};

use crate::limits::Limits;
use crate::plugin::Failure;

#[derive(Debug, Clone)]
pub(crate) enum Compiled {}

#[derive(Debug)]
pub(crate) enum Instance {}

impl Compiled {
    pub(crate) fn new(_bytes: &[u8]) -> Result<Self, String> {
        Err("this program was built without plug-ins: build it with `cargo build --release --features plugins`".into())
    }

    pub(crate) fn start(&self, _: Limits, _: SigShape, _: &str) -> Result<(Instance, Description), Failure> {
        match *self {}
    }
}

impl Instance {
    pub(crate) fn reduce(&mut self, _: &TileFrame<'_>, _: &[f64]) -> Result<Vec<f64>, Failure> {
        match *self {}
    }

    pub(crate) fn merge(&mut self, _: &[f64], _: &[f64]) -> Result<Vec<f64>, Failure> {
        match *self {}
    }

    pub(crate) fn finish(&mut self, _: &[f64]) -> Result<Vec<f64>, Failure> {
        match *self {}
    }
}
