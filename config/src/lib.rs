//! What the user wrote, and the plan it becomes.
//!
//! A configuration is a TOML text (`docs/configuration.md`); [`Plan::from_file`] reads it, checks every value and every
//! relation between values, and either returns a [`Plan`] with all defaults filled in or names everything that is wrong.
//! The command line uses the same checks: [`parse_source`], [`parse_scan`], [`parse_reduction, parse_virtual`], [`Plan::check`].
//!
//! # Place in the path
//! Before anything runs. Nothing here opens a socket, reads the environment or writes a file; the only files read are
//! the configuration and the masks it names.
//!
//! ```
//! let text = "[data]\ndirectory = '/data'\n[[link]]\nsource = 'merlin://192.168.1.20:99999'\n[scan]\nshap = [2, 2]\n";
//! let problems = ronchi_config::Plan::from_toml(text, "r.toml", "/".as_ref()).expect_err("two mistakes");
//! assert_eq!(problems.iter().map(|p| p.line).collect::<Vec<_>>(), [4, 6]);
//! ```

mod check;
pub mod condition_file;
mod dectris;
mod describe;
mod document;
mod limits;
pub mod mask_file;
mod plan;
mod problem;
mod read;
mod value;

pub use dectris::{DectrisCompression, DectrisControlPlan, DectrisTrigger, HeaderDetail, TriggerPer, parse_control};
pub use plan::{
    AuthPlan, Compress, DataPlan, DectrisStream, Limits, LinkPlan, LivePlan, MerlinControlPlan, MerlinTrigger, Plan,
    Recipe, ScanPlan, SourcePlan,
};
pub use problem::{Error, Problem, Problems, ValueError};
pub use value::{
    MERLIN_CONTROL_PORT, check_name, check_virtual, parse_descan, parse_http, parse_live_endpoint, parse_nodata,
    parse_rectangle, parse_reduction, parse_reserve, parse_scan, parse_source, parse_virtual,
};
