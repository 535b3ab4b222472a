//! Merlin: whole streams through `MerlinSource`, against slow references and golden data.
#![allow(unreachable_pub, reason = "modules of one test binary; some are shared with fuzz targets")]

mod conformance;
mod driver;
mod faults;
mod loopback;
mod seeds;
mod series;
mod stream;
