//! The host of plug-ins: compiles components and calls them within bounds.
//!
//! # Limits
//! Instructions are counted (`fuel`) and not timed: reducers run at idle priority, and a busy machine must not end a result.
//! What the receiver waits for, `describe` at the beginning of a series and `merge` under the board's lock, has a tenth.

mod room;

use std::sync::OnceLock;

use ronchi_pipeline::SigShape;
use ronchi_pipeline::reduce::{Description, Over, TileFrame};
use wasmparser::{BinaryReaderError, Parser, Payload};
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, Module, Store, Trap};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::limits::Limits;
use crate::plugin::Failure;
use room::Room;

#[allow(missing_docs, unreachable_pub, reason = "generated from plugins/wit")]
mod wit {
    wasmtime::component::bindgen!({ path: "wit", world: "plugin" });
}

/// First bytes of a module as compilers of most languages write it, not yet a component.
const CORE_MODULE: &[u8] = b"\0asm\x01\0\0\0";
/// Longest reason that is told.
const REASON_CHARS_MAX: usize = 400;
/// What `describe` and `merge` have of `fuel`.
const BRIEF: u64 = 10;

/// A plug-in, ready to make instances.
#[derive(Clone)]
pub(crate) struct Compiled(wit::PluginPre<Room>);

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compiled")
    }
}

/// One for the process: its settings are those of all plug-ins.
fn engine() -> Result<&'static Engine, String> {
    static ENGINE: OnceLock<Result<Engine, String>> = OnceLock::new();
    let make = || {
        let mut config = Config::new();
        // Relaxed: the same bits on every machine.
        config.consume_fuel(true).relaxed_simd_deterministic(true).wasm_backtrace_max_frames(None);
        Engine::new(&config).map_err(|error| format!("plug-ins cannot run here: {error:#}"))
    };
    ENGINE.get_or_init(make).as_ref().map_err(Clone::clone)
}

impl Compiled {
    /// Compiles a component, or a module with the functions that one would have. Errors: it is neither, it imports something,
    /// or its functions are others than those of the world.
    pub(crate) fn new(bytes: &[u8]) -> Result<Self, String> {
        let engine = engine()?;
        let no_plugin = |why: String| format!("is no plug-in: {}", brief(&why));
        let encoded =
            if bytes.starts_with(CORE_MODULE) { Some(component(engine, bytes).map_err(no_plugin)?) } else { None };
        let component = Component::from_binary(engine, encoded.as_deref().unwrap_or(bytes));
        let ready = component.and_then(|component| {
            let ready = Linker::new(engine).instantiate_pre(&component)?;
            wit::PluginPre::new(ready)
        });
        ready.map(Self).map_err(|error| no_plugin(format!("{error:#}")))
    }

    /// Makes an instance and has it describe itself.
    pub(crate) fn start(
        &self,
        (fuel, memory): Limits,
        detector: SigShape,
        parameters: &str,
    ) -> Result<(Instance, Description), Failure> {
        let mut store = Store::new(self.0.engine(), Room::of(memory.into()));
        store.limiter(|room| room);
        let fuel = u64::from(fuel);
        let calls = store.set_fuel(fuel / BRIEF).and_then(|()| self.0.instantiate(&mut store));
        let mut instance = Instance { calls: calls.map_err(|error| fault(&error, fuel / BRIEF))?, store, fuel };
        let detector = wit::Detector { height: detector.height, width: detector.width };
        let described = instance.call(fuel / BRIEF, |calls, store| calls.call_describe(store, detector, parameters))?;
        let description = Description::from(described);
        description.check().map_err(Failure::Fault)?;
        Ok((instance, description))
    }
}

/// A core module as a component of our world. What it says of itself in sections of its own is not read: the encoder trusts
/// such sections, and panics where they are cut off.
fn component(engine: &Engine, module: &[u8]) -> Result<Vec<u8>, String> {
    Module::validate(engine, module).map_err(|error| format!("{error:#}"))?;
    let encode = || {
        let mut module = without_custom_sections(module)?;
        let mut known = Resolve::default();
        let package = known.push_source("reduction.wit", include_str!("../wit/reduction.wit"))?;
        let world = known.select_world(&[package], Some("plugin"))?;
        embed_component_metadata(&mut module, &known, world, StringEncoding::UTF8)?;
        ComponentEncoder::default().module(&module)?.encode()
    };
    encode().map_err(|error| format!("{error:#}"))
}

fn without_custom_sections(module: &[u8]) -> Result<Vec<u8>, BinaryReaderError> {
    let mut kept = CORE_MODULE.to_vec();
    let mut end = kept.len();
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload?;
        let Some((_, content)) = payload.as_section() else { continue };
        if !matches!(payload, Payload::CustomSection(_)) {
            kept.extend_from_slice(&module[end..content.end]);
        }
        end = content.end;
    }
    Ok(kept)
}

/// An instance of a plug-in: memory of its own, one call at a time.
pub(crate) struct Instance {
    store: Store<Room>,
    calls: wit::Plugin,
    fuel: u64,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Instance")
    }
}

impl Instance {
    /// Adds a frame to a partial.
    pub(crate) fn reduce(&mut self, frame: &TileFrame<'_>, partial: &[f64]) -> Result<Vec<f64>, Failure> {
        let &TileFrame { index, region, pixels } = frame;
        let frame = wit::Frame { index, y: region.y, x: region.x, height: region.height, width: region.width };
        self.call(self.fuel, |calls, store| calls.call_reduce(store, frame, pixels, partial))
    }

    /// Adds two partials.
    pub(crate) fn merge(&mut self, partial: &[f64], other: &[f64]) -> Result<Vec<f64>, Failure> {
        self.call(self.fuel / BRIEF, |calls, store| calls.call_merge(store, partial, other))
    }

    /// Makes the numbers of the result.
    pub(crate) fn finish(&mut self, partial: &[f64]) -> Result<Vec<f64>, Failure> {
        self.call(self.fuel, |calls, store| calls.call_finish(store, partial))
    }

    fn call<T>(
        &mut self,
        fuel: u64,
        call: impl FnOnce(&wit::Plugin, &mut Store<Room>) -> wasmtime::Result<Result<T, String>>,
    ) -> Result<T, Failure> {
        let done = self.store.set_fuel(fuel).and_then(|()| call(&self.calls, &mut self.store));
        done.map_err(|error| fault(&error, fuel))?.map_err(|why| Failure::Refused(brief(&why)))
    }
}

fn fault(error: &wasmtime::Error, fuel: u64) -> Failure {
    Failure::Fault(match error.downcast_ref() {
        Some(Trap::OutOfFuel) => format!("it used up the {fuel} instructions that a call has (`fuel`)"),
        Some(Trap::UnreachableCodeReached) => "it trapped: it panicked, or gave up by itself".into(),
        Some(trap) => format!("it trapped: {trap}"),
        None => brief(&error.root_cause().to_string()),
    })
}

/// What a plug-in says, on one line and not too long.
fn brief(words: &str) -> String {
    let words = words.chars().map(|c| if c.is_control() { ' ' } else { c });
    words.take(REASON_CHARS_MAX).collect()
}

impl From<wit::Description> for Description {
    fn from(description: wit::Description) -> Self {
        let over = match description.over {
            wit::Over::Scan => Over::Scan,
            wit::Over::Detector => Over::Detector,
            wit::Over::All => Over::All,
        };
        let axis = |axis: wit::Axis| (axis.name.into(), axis.length as usize);
        let axes = description.axes.into_iter().map(axis).collect();
        Self { over, axes, unit: description.unit.into(), empty: description.empty }
    }
}
