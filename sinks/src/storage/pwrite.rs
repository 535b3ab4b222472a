//! Operations by plain threads and `pwrite`: where io_uring is missing or forbidden. Same face, same guarantees.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::disk::{Action, Disk, DiskFile, Done, Op};

/// Threads with one queue of operations and one of completions.
pub(super) struct Threads {
    ops: Option<Sender<Op>>,
    done: Receiver<Done>,
    workers: Vec<JoinHandle<()>>,
    capacity: usize,
    in_flight: usize,
}

impl Threads {
    /// `thread_count` threads for at most `capacity` operations in flight.
    pub(super) fn new(capacity: usize, thread_count: usize) -> io::Result<Self> {
        let (ops, queue) = bounded::<Op>(capacity);
        let (finished, done) = bounded(capacity);
        let worker = |i: usize| {
            let (queue, finished) = (queue.clone(), finished.clone());
            std::thread::Builder::new().name(format!("ronchi-pwrite{i}")).spawn(move || {
                for op in queue {
                    let result = run(&op);
                    if finished.send(Done { op, result }).is_err() {
                        return;
                    }
                }
            })
        };
        let workers = (0..thread_count).map(worker).collect::<io::Result<_>>()?;
        Ok(Self { ops: Some(ops), done, workers, capacity, in_flight: 0 })
    }
}

fn run(op: &Op) -> io::Result<usize> {
    match &op.action {
        Action::Write(offset, bytes) => op.file.file.write_at(bytes.as_slice(), *offset),
        Action::Sync => op.file.file.sync_data().map(|()| 0),
    }
}

impl Disk for Threads {
    fn describe(&self) -> String {
        format!("{} pwrite threads", self.workers.len())
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn attach(&mut self, file: File) -> DiskFile {
        DiskFile { file: Arc::new(file), slot: None }
    }

    fn detach(&mut self, _: DiskFile) {}

    fn submit(&mut self, op: Op) {
        self.in_flight += 1;
        let sent = self.ops.as_ref().map(|ops| ops.send(op));
        debug_assert!(matches!(sent, Some(Ok(()))), "workers live as long as this");
    }

    fn reap(&mut self, patience: Duration, done: &mut Vec<Done>) {
        let before = done.len();
        done.extend(self.done.try_iter());
        if done.len() == before && self.in_flight > 0 && !patience.is_zero() {
            done.extend(self.done.recv_timeout(patience).ok());
            done.extend(self.done.try_iter());
        }
        self.in_flight -= done.len() - before;
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.ops = None;
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}
