//! What users write: good files become plans, bad files get messages that name the place, the key and what is allowed.

mod bad;
mod control;
mod good;
