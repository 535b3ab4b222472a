//! What the machine allows, measured in the same run as everything that is compared with it.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ronchi_benches::{CHUNK_BYTES, DEPTH, SEGMENT_BYTES};
use ronchi_pipeline::Pool;
use serde_json::Value;

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

/// Whether fio is installed.
pub(crate) fn has_fio() -> bool {
    Command::new("fio").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Runs fio in a directory over files of the size of segments, around the page cache, as much at a time as our writer and
/// reader; bytes/s. Files it makes are removed.
pub(crate) fn fio(directory: &Path, arguments: &[&str], segments: u32) -> Result<f64> {
    let scratch = tempfile::tempdir_in(directory).context("a folder for fio")?;
    let output = Command::new("fio")
        .args(["--name=ronchi", "--ioengine=io_uring", "--direct=1", "--fallocate=native", "--end_fsync=1"])
        .args(["--file_service_type=sequential", "--output-format=json", "--thread"])
        .arg(format!("--bs={CHUNK_BYTES}"))
        .arg(format!("--iodepth={DEPTH}"))
        .arg(format!("--nrfiles={segments}"))
        .arg(format!("--filesize={SEGMENT_BYTES}"))
        .arg(format!("--size={}", u64::from(segments) * SEGMENT_BYTES))
        .args(arguments)
        .current_dir(scratch.path())
        .output()
        .context("run fio")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "fio: {text}{}", String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_str(&text[text.find('{').unwrap_or(0)..]).context("what fio prints")?;
    let rates = ["/jobs/0/write/bw_bytes", "/jobs/0/read/bw_bytes"].map(|at| json.pointer(at)?.as_f64());
    let rate = rates.into_iter().flatten().fold(0.0, f64::max);
    ensure!(rate > 0.0, "fio moved nothing: {text}");
    Ok(rate)
}

/// The argument that lets fio read these files.
pub(crate) fn fio_files(files: &[PathBuf]) -> String {
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    format!("--filename={}", files.join(":"))
}

/// A control group with so much memory, page cache included; removed on drop.
pub(crate) struct MemoryGroup {
    path: PathBuf,
}

impl MemoryGroup {
    /// `None` where none can be made: that takes root, and control groups.
    pub(crate) fn new(bytes: u64) -> Option<Self> {
        let versions = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        versions.into_iter().find_map(|(root, limit)| {
            let group = Self { path: Path::new(root).join(format!("ronchi-benches-{}", std::process::id())) };
            std::fs::create_dir(&group.path).ok()?;
            std::fs::write(group.path.join(limit), bytes.to_string()).ok()?;
            Some(group)
        })
    }

    /// Starts a program within the group.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo $$ > "$0" && exec "$@""#]).arg(self.path.join("cgroup.procs")).arg(program);
        command
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.path);
    }
}
