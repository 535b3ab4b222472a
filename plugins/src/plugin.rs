//! `Plugin`: a reduction that a file computes.

use std::fmt;

use ronchi_pipeline::SigShape;
use ronchi_pipeline::reduce::{ConditionFile, Custom, Description, Over, TileFrame};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::host::Instance;
use crate::limits::{Fuel, Limits, MemoryMib};
use crate::module::Module;

/// Kind `plugin`: its file (`path`), its limits (`fuel`, `memory_mib`), and parameters, which are the plug-in's own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plugin {
    #[serde(rename = "path")]
    module: Module,
    #[serde(default)]
    fuel: Fuel,
    #[serde(default)]
    memory_mib: MemoryMib,
    #[serde(flatten)]
    parameters: Map<String, Value>,
    #[serde(skip)]
    state: State,
}

/// Why a call has failed.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(not(feature = "wasm"), expect(dead_code, reason = "without a host there are no calls"))]
pub(crate) enum Failure {
    /// The plug-in says so.
    Refused(String),
    /// It did what it must not do.
    Fault(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Refused(why) | Self::Fault(why)) = self;
        f.write_str(why)
    }
}

/// What a copy knows.
#[derive(Debug, Default)]
enum State {
    /// It was asked nothing.
    #[default]
    New,
    /// It has been described for this detector; the instance comes with the first call.
    Described(SigShape, Option<Box<Instance>>),
    /// It has failed when it was to describe itself.
    Faulty(String),
}

/// Copies have the same file and parameters, and an instance of their own.
impl Clone for State {
    fn clone(&self) -> Self {
        match self {
            Self::New => Self::New,
            Self::Described(detector, _) => Self::Described(*detector, None),
            Self::Faulty(why) => Self::Faulty(why.clone()),
        }
    }
}

/// The same file, limits and parameters.
impl PartialEq for Plugin {
    fn eq(&self, other: &Self) -> bool {
        (&self.module, self.limits(), &self.parameters) == (&other.module, other.limits(), &other.parameters)
    }
}

impl Plugin {
    fn limits(&self) -> Limits {
        (self.fuel, self.memory_mib)
    }

    fn start(&self, detector: SigShape) -> Result<(Instance, Description), Failure> {
        let parameters = Value::Object(self.parameters.clone()).to_string();
        self.module.compiled.start(self.limits(), detector, &parameters)
    }

    fn instance(&mut self) -> Result<&mut Instance, String> {
        if let &State::Described(detector, None) = &self.state {
            let (instance, _) = self.start(detector).map_err(|failure| failure.to_string())?;
            self.state = State::Described(detector, Some(Box::new(instance)));
        }
        match &mut self.state {
            State::Described(_, Some(instance)) => Ok(instance),
            State::Faulty(why) => Err(why.clone()),
            State::New | State::Described(_, None) => Err("it was never described".into()),
        }
    }
}

impl Custom for Plugin {
    const WORD: &'static str = "plugin";
    const ABOUT: &'static str = "whatever a plug-in in WebAssembly computes";

    fn describe(&mut self, detector: SigShape) -> Result<Description, String> {
        match self.start(detector) {
            Ok((_, description)) => {
                self.state = State::Described(detector, None);
                Ok(description)
            }
            Err(Failure::Refused(why)) => Err(why),
            Err(Failure::Fault(why)) => {
                self.state = State::Faulty(format!("describing: {why}"));
                Ok(Description { over: Over::Scan, axes: vec![], unit: "".into(), empty: vec![f64::NAN] })
            }
        }
    }

    fn file(&self) -> Option<ConditionFile> {
        Some(self.module.file())
    }

    fn reduce(&mut self, frame: &TileFrame<'_>, partial: &mut [f64]) -> Result<(), String> {
        let reduced = self.instance()?.reduce(frame, partial);
        taken(reduced, partial)
    }

    fn merge(&mut self, partial: &mut [f64], other: &[f64]) -> Result<(), String> {
        let merged = self.instance()?.merge(partial, other);
        taken(merged, partial)
    }

    fn finish(&mut self, partial: &[f64], result: &mut [f64]) -> Result<(), String> {
        let finished = self.instance()?.finish(partial);
        taken(finished, result)
    }
}

/// Takes the numbers that came back, if there are as many as there must be.
fn taken(numbers: Result<Vec<f64>, Failure>, into: &mut [f64]) -> Result<(), String> {
    let numbers = numbers.map_err(|failure| failure.to_string())?;
    if numbers.len() != into.len() {
        return Err(format!("{} numbers came back, must be {}", numbers.len(), into.len()));
    }
    into.copy_from_slice(&numbers);
    Ok(())
}
