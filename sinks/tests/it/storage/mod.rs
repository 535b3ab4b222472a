//! Data sets written through the writer and read back through the reader.

mod compressed;
mod faults;
mod full_disk;
mod packed;
mod reader;
mod repair;
mod rig;
mod round_trip;
mod sim;
mod verify;
mod volumes;
