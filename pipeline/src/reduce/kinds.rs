//! Kinds of reductions: one file each, with its parameters, what it needs of every frame, and what it makes of that.
//!
//! # How to add one
//! 1. A file in `kinds/`: a struct of parameters (`serde`, unknown keys refused) that implements [`Kind`]. `plan` asks
//!    [`Needs`] for sums over masks or patterns, and returns [`Output`]s that divide them.
//! 2. Its two lines below.
//!
//! Configuration, command line, kernels, merging, files and pictures need no change.

mod binned;
mod centre_of_mass;
mod counted;
mod dpc;
mod field;
mod fluctuation;
mod fourier;
mod histogram;
mod nodata;
mod parts;
mod patterns;
mod radial;
mod rms_radius;
mod saturated;
mod segments;
mod totals;

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::VirtualDetector;
use super::custom::{Custom, CustomKind, Own};
use super::error::PlanError;
use super::output::Output;
use super::spec::Needs;

/// Kinds of virtual detectors, which are no kinds of their own.
const DETECTORS: [&str; 11] =
    ["virtual", "disk", "ring", "disk_aa", "ring_aa", "rectangle", "rect", "sector", "polygon", "image", "npy"];

/// All kinds, in the order of the documentation.
const KINDS: [Registered; 20] = [
    Registered::of::<totals::Total>(),
    Registered::of::<centre_of_mass::CentreOfMass>(),
    Registered::of::<patterns::Sum>(),
    Registered::of::<patterns::Max>(),
    Registered::of::<patterns::Min>(),
    Registered::of::<patterns::Mean>(),
    Registered::of::<patterns::Variance>(),
    Registered::of::<patterns::Std>(),
    Registered::of::<patterns::NormalisedVariance>(),
    Registered::of::<radial::Radial>(),
    Registered::of::<fourier::Fourier>(),
    Registered::of::<segments::Segments>(),
    Registered::of::<dpc::Dpc>(),
    Registered::of::<fluctuation::Fluctuation>(),
    Registered::of::<rms_radius::RmsRadius>(),
    Registered::of::<saturated::Saturated>(),
    Registered::of::<nodata::NoData>(),
    Registered::of::<counted::Counted>(),
    Registered::of::<histogram::Histogram>(),
    Registered::of::<binned::Binned>(),
];

/// Kinds from outside: of the program, not of this library.
static CUSTOM: OnceLock<Vec<Registered>> = OnceLock::new();

/// All kinds: those from outside come last.
fn all() -> impl Iterator<Item = &'static Registered> {
    KINDS.iter().chain(CUSTOM.get().into_iter().flatten())
}

/// A kind of reduction; an instance holds its parameters.
pub(super) trait Kind: fmt::Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What it is called in configurations.
    const WORD: &'static str;
    /// What it computes, in half a line.
    const ABOUT: &'static str;

    /// Asks for what it needs; returns its results, called `name` or `name` and a suffix. Errors: parameters that do not
    /// fit the detector.
    fn plan(&self, name: &str, needs: &mut Needs<'_>) -> Result<Vec<Output>, PlanError>;
}

/// A [`Kind`] of which only the parameters are known at run time.
trait AnyKind: fmt::Debug + Send + Sync {
    fn word(&self) -> &'static str;
    fn parameters(&self) -> Value;
    fn plan_any(&self, name: &str, needs: &mut Needs<'_>) -> Result<Vec<Output>, PlanError>;
    fn as_any(&self) -> &dyn Any;
    fn is_like(&self, other: &dyn AnyKind) -> bool;
}

impl<K: Kind> AnyKind for K {
    fn word(&self) -> &'static str {
        K::WORD
    }

    fn parameters(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    fn plan_any(&self, name: &str, needs: &mut Needs<'_>) -> Result<Vec<Output>, PlanError> {
        self.plan(name, needs)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn is_like(&self, other: &dyn AnyKind) -> bool {
        other.as_any().downcast_ref::<K>() == Some(self)
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Registered {
    word: &'static str,
    about: &'static str,
    parse: fn(Value) -> Result<Arc<dyn AnyKind>, ParameterError>,
}

impl Registered {
    pub(super) const fn of<K: Kind>() -> Self {
        Self { word: K::WORD, about: K::ABOUT, parse: parse::<K> }
    }
}

fn parse<K: Kind>(parameters: Value) -> Result<Arc<dyn AnyKind>, ParameterError> {
    let kind: Result<K, _> = serde_path_to_error::deserialize(parameters);
    kind.map(|kind| Arc::new(kind) as Arc<dyn AnyKind>).map_err(|error| {
        let path = error.path().to_string();
        let key = (path != ".").then_some(path);
        ParameterError { key, message: error.into_inner().to_string() }
    })
}

/// Parameters that a kind of reduction does not have, or cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", key.as_ref().map_or_else(String::new, |key| format!("`{key}`: ")))]
pub struct ParameterError {
    /// The parameter, where one is at fault.
    pub key: Option<String>,
    /// What is wrong with it.
    pub message: String,
}

/// Kinds from outside that cannot be made known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// Two kinds of one name.
    #[error("two kinds of reductions are called `{word}`")]
    Taken {
        /// The name.
        word: &'static str,
    },
    /// Kinds are made known once.
    #[error("kinds of reductions are registered once, before anything else")]
    Again,
}

/// What a user asks to be computed from every frame; coordinates are detector pixels of the whole detector.
///
/// ```
/// use ronchi_pipeline::reduce::Reduction;
/// let parameters = serde_json::json!({ "bins": 64, "outer": 100.0 });
/// let profile = Reduction::parse("radial", None, parameters.as_object().cloned().unwrap_or_default())?;
/// assert_eq!((profile.name(), profile.kind()), ("radial", "radial"));
/// # Ok::<(), ronchi_pipeline::reduce::ParameterError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Reduction {
    name: String,
    kind: Arc<dyn AnyKind>,
}

impl PartialEq for Reduction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.kind.is_like(&*other.kind)
    }
}

impl Reduction {
    fn new(name: &str, kind: impl Kind) -> Self {
        Self { name: name.into(), kind: Arc::new(kind) }
    }

    /// A named virtual detector: one value per frame.
    pub fn virtual_detector(name: &str, detector: VirtualDetector) -> Self {
        Self::new(name, totals::Virtual(detector))
    }

    /// Total counts per frame; result `total`.
    pub fn total() -> Self {
        Self::new(totals::Total::WORD, totals::Total {})
    }

    /// Centre of mass `(y, x)` per frame; result `com`.
    pub fn centre_of_mass() -> Self {
        Self::new(centre_of_mass::CentreOfMass::WORD, centre_of_mass::CentreOfMass::default())
    }

    /// Sum over frames per detector pixel; result `sum`.
    pub fn sum() -> Self {
        Self::new(patterns::Sum::WORD, patterns::Sum {})
    }

    /// Maximum over frames per detector pixel; result `max`.
    pub fn max() -> Self {
        Self::new(patterns::Max::WORD, patterns::Max {})
    }

    /// A reduction of a lab's own, which need not be registered.
    pub fn custom(name: &str, kind: impl Custom) -> Self {
        Self::new(name, Own(kind))
    }

    /// Makes kinds from outside known to this process, once and before anything is parsed. Errors: a word that another
    /// kind has, or a second call.
    pub fn register(kinds: &[CustomKind]) -> Result<(), RegisterError> {
        let kinds: Vec<Registered> = kinds.iter().map(|&CustomKind(known)| known).collect();
        let mut words: Vec<_> = KINDS.iter().chain(&kinds).map(|known| known.word).chain(DETECTORS).collect();
        words.sort_unstable();
        if let Some(twice) = words.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(RegisterError::Taken { word: twice[0] });
        }
        CUSTOM.set(kinds).map_err(|_| RegisterError::Again)
    }

    /// A reduction of any kind but a virtual detector, called `name` or else as its kind. Errors: an unknown kind,
    /// parameters that the kind does not have or that are of the wrong type.
    pub fn parse(kind: &str, name: Option<&str>, parameters: Map<String, Value>) -> Result<Self, ParameterError> {
        let Some(known) = all().find(|known| known.word == kind) else {
            let words: Vec<_> = all().map(|known| format!("`{}`", known.word)).collect();
            let message = format!("unknown reduction `{kind}`, expected one of {}", words.join(", "));
            return Err(ParameterError { key: None, message });
        };
        Ok(Self { name: name.unwrap_or(kind).into(), kind: (known.parse)(Value::Object(parameters))? })
    }

    /// Every kind but virtual detectors, and what it computes.
    pub fn kinds() -> impl Iterator<Item = (&'static str, &'static str)> {
        all().map(|known| (known.word, known.about))
    }

    /// A reduction from `{"name", "kind", ...parameters}`, as [`Self::to_json`] writes it: also virtual detectors, whose kind
    /// is their shape. Errors: as [`Self::parse`].
    pub fn from_json(value: &Value) -> Result<Self, ParameterError> {
        let wrong = |key: &str, message: &str| ParameterError { key: Some(key.into()), message: message.into() };
        let Some(object) = value.as_object() else {
            return Err(ParameterError { key: None, message: "a reduction is an object with a kind".into() });
        };
        let mut parameters = object.clone();
        let name = match parameters.remove("name") {
            None => None,
            Some(Value::String(name)) => Some(name),
            Some(_) => return Err(wrong("name", "must be a text")),
        };
        let Some(kind) = object.get("kind").and_then(Value::as_str) else {
            return Err(wrong("kind", "missing, or not a text"));
        };
        if all().any(|known| known.word == kind) {
            parameters.remove("kind");
            return Self::parse(kind, name.as_deref(), parameters);
        }
        let detector: Result<VirtualDetector, _> = serde_json::from_value(Value::Object(parameters));
        let detector = detector.map_err(|error| ParameterError { key: None, message: error.to_string() })?;
        Ok(Self::virtual_detector(&name.ok_or_else(|| wrong("name", "missing"))?, detector))
    }

    /// Name, kind and parameters; of a mask image not its weights.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        object.insert("name".into(), self.name.clone().into());
        object.insert("kind".into(), self.kind().into());
        if let Value::Object(parameters) = self.parameters() {
            object.extend(parameters.into_iter().filter(|(key, value)| key != "weights" && !value.is_null()));
        }
        Value::Object(object)
    }

    /// Name of its result, or the first part of it where there are several.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its kind, `virtual` for a virtual detector.
    pub fn kind(&self) -> &'static str {
        self.kind.word()
    }

    /// Its parameters, as they are written in a configuration.
    pub fn parameters(&self) -> Value {
        self.kind.parameters()
    }

    /// The shape, of a virtual detector.
    pub fn detector(&self) -> Option<&VirtualDetector> {
        self.kind.as_any().downcast_ref().map(|totals::Virtual(detector)| detector)
    }

    pub(super) fn plan(&self, needs: &mut Needs<'_>) -> Result<Vec<Output>, PlanError> {
        self.kind.plan_any(&self.name, needs)
    }
}
