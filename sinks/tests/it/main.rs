//! Integration tests of the sinks, one module per sink.

mod storage;
