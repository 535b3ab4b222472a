//! What the machine allows, measured in the same run as everything that is compared with it.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ronchi_pipeline::Pool;

use crate::children::Simulator;
use crate::processor;

const GIB: usize = 1 << 30;

/// Rate of a TCP stream over loopback from the detector simulator into a reader that discards it, in bytes/s: the same
/// sender, receive buffer and amount as our own receiver gets, 1 MiB per read.
pub(crate) fn loopback(simulator: &Simulator, total_bytes: u64) -> Result<f64> {
    let mut stream = TcpStream::connect(simulator.data_address()).context("connect to the simulator")?;
    rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 8 << 20)?;
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = stream.read(&mut buffer)? as u64;
    let (started, first) = (Instant::now(), bytes);
    while bytes < total_bytes {
        match stream.read(&mut buffer)? {
            0 => anyhow::bail!("the simulator closed after {bytes} bytes"),
            count => bytes += count as u64,
        }
    }
    Ok((bytes - first) as f64 / started.elapsed().as_secs_f64())
}

/// Rate of direct writes of `block_bytes`, `depth` in flight, to a preallocated file, sync included, in bytes/s.
pub(crate) fn disk(directory: &Path, total_bytes: u64, block_bytes: usize, depth: u32) -> Result<f64> {
    let path = directory.join("disk-limit.tmp");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .context("open a file for direct writes")?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, total_bytes).context("fallocate")?;
    let rate = write_blocks(&file, total_bytes, block_bytes, depth);
    std::fs::remove_file(&path)?;
    rate
}

fn write_blocks(file: &File, total_bytes: u64, block_bytes: usize, depth: u32) -> Result<f64> {
    let pool = Pool::new(depth, block_bytes)?;
    let next = AtomicU64::new(0);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..depth)
            .map(|_| {
                let mut slot = pool.take(Duration::ZERO).context("one slot per writer")?;
                slot.bytes_mut().fill(0x5a);
                let next = &next;
                Ok(scope.spawn(move || -> std::io::Result<()> {
                    loop {
                        let offset = next.fetch_add(block_bytes as u64, Ordering::Relaxed);
                        if offset + block_bytes as u64 > total_bytes {
                            return Ok(());
                        }
                        file.write_all_at(&slot.bytes()[..block_bytes], offset)?;
                    }
                }))
            })
            .collect::<Result<_>>()?;
        for writer in writers {
            writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    file.sync_data()?;
    Ok((total_bytes / block_bytes as u64 * block_bytes as u64) as f64 / started.elapsed().as_secs_f64())
}

/// Rate at which one thread reads memory that is far larger than the caches, in bytes/s; best of three passes.
pub(crate) fn memory_read() -> Result<f64> {
    let bytes = vec![1_u8; GIB];
    let best = (0..3)
        .map(|_| {
            let started = Instant::now();
            std::hint::black_box(processor::read(&bytes));
            started.elapsed()
        })
        .min()
        .context("three passes")?;
    Ok(GIB as f64 / best.as_secs_f64())
}
