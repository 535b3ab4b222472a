//! Throughput and latency of ronchi, as ratios against what the machine allows, measured in the same run.
//!
//! Each case prints one JSON line. Figures of different runs or machines do not compare; ratios do.

mod children;
mod crowd;
mod data_set;
mod dectris;
mod e2e;
mod latency;
mod limits;
mod processor;
mod reduce;
mod reprocess;
mod storage;
mod subscribers;
mod tiles;

use clap::Parser;

/// Benchmarks of ronchi.
#[derive(Debug, Parser)]
enum Bench {
    /// Throughput of the whole path.
    E2e(e2e::E2e),
    /// Time from a frame on the wire to the update at a subscriber.
    Latency(latency::Latency),
    /// Ingest rate and memory with and without viewers, slow ones and others.
    Subscribers(subscribers::Subscribers),
    /// Rate of the reduction kernels, as shares of what memory and processor allow.
    Reduce(reduce::Reduce),
    /// Rate of `ronchi reprocess`, against the same from memory and against fio.
    Reprocess(reprocess::Reprocess),
    /// Makes a data set from a file of raw frames.
    DataSet(data_set::DataSetOf),
    /// Rates of writing and reading, against fio and against memory.
    Storage(storage::Storage),
    /// Throughput of tile streams, as pixels and compressed.
    Tiles(tiles::Tiles),
    /// Throughput of a DECTRIS stream.
    Dectris(dectris::Dectris),
}

fn main() -> anyhow::Result<()> {
    match Bench::parse() {
        Bench::E2e(bench) => bench.run(),
        Bench::Latency(bench) => bench.run(),
        Bench::Subscribers(bench) => bench.run(),
        Bench::Reduce(bench) => bench.run(),
        Bench::Reprocess(bench) => bench.run(),
        Bench::DataSet(bench) => bench.run(),
        Bench::Storage(bench) => bench.run(),
        Bench::Tiles(bench) => bench.run(),
        Bench::Dectris(bench) => bench.run(),
    }
}
