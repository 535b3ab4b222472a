//! Plug-ins: reductions of a lab's own in WebAssembly, loaded by path, without rebuilding ronchi.
//!
//! # Place in the path
//! One more [`ronchi_pipeline::reduce::Custom`]: what reducers, merging, files and failures know of it is that. Every copy
//! has an instance of its own, so every thread.
//!
//! # Invariants
//! - I1: a plug-in imports nothing: it sees pixels and parameters, and no file, clock or network.
//! - I2: every call is bounded, in instructions and in memory; so are the file, and whatever comes back.
//! - I3: what breaks these bounds, traps or returns nonsense ends its own result (I1 of `Custom`), also while it describes
//!   itself: then the result is NaN everywhere. Only parameters that it refuses, in words, refuse the list of reductions.
//!
//! # Limits
//! [`MODULE_BYTES_MAX`], `fuel` and `memory_mib` of each plug-in. The runtime is the cargo feature `wasm` (`plugins` of the
//! program); without it, no plug-in can be loaded.

#[cfg(not(feature = "wasm"))]
#[path = "absent.rs"]
mod host;
#[cfg(feature = "wasm")]
mod host;
mod limits;
mod module;
mod plugin;

pub use module::MODULE_BYTES_MAX;
pub use plugin::Plugin;
