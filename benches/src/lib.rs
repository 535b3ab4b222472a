//! What is measured: cases, frames and data sets, shared by the program `ronchi-benches` and by `cargo bench`.
//!
//! ```
//! use ronchi_benches::{Blocks, cases};
//! use ronchi_pipeline::PixelType;
//!
//! let pixel = PixelType::from_numpy_name("<u2").ok_or("pixel type")?;
//! let blocks = Blocks::counts(1, pixel)?;
//! for case in cases::all(64, pixel)? {
//!     case.pass().over(blocks.as_slice());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod blocks;
pub mod cases;
mod product;
mod recording;

pub use blocks::{BLOCK_BYTES, Blocks};
pub use product::ronchi;
pub use recording::{CHUNK_BYTES, DEPTH, Recorded, Recording, SEGMENT_BYTES, segment_files};
