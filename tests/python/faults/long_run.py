"""F25 in small: one receiver that never rests. Memory and descriptors must not grow with frames or with series."""

import fcntl
import os
import pathlib
import shutil
import signal
import time

import numpy as np

import harness
import mib
import scans
from dataset import DataSet

from . import receivers
from .left_behind import verify

DEADLINE_S = 60
LOOK_S = 0.5
WARM_UP_SHARE = 0.2
GROWTH_MAX = (8 << 20, 4, 2)  # Bytes, descriptors, threads: series that come and go move them a little.


def run(folder, rng, tally, seconds):
    """Series after series of tiny frames, flat out; finished data sets are checked now and then, and removed."""
    scan = scans.write(folder, "tiny", (50, 400), (16, 16), mib.U08)
    with scan.simulator(rate=0) as detector:
        port = harness.free_port()
        links = receivers.merlin_link(detector, len(scan.frames))
        with receivers.serving(folder, links, http=port) as process:
            samples, problems, series = _watch(folder, process, rng, seconds)
            frames = receivers.status(port, DEADLINE_S)["links"][0]["frames"]
            process.signal(signal.SIGTERM)
            process.wait(DEADLINE_S)
    _judge(samples, problems, tally, series, frames)


def _watch(folder, process, rng, seconds):
    samples, problems, series = [], [], 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, f"the receiver ended by itself\n{process.log()}"
        samples.append(_sample(process.pid))
        for path in sorted((folder / "data").glob("*.ronchi")):
            if not (path / "zarr.json").exists() or not _is_let_go(path):
                continue
            if rng.random() < 0.05:
                problems += verify(path, True)
            shutil.rmtree(path)
            series += 1
        time.sleep(LOOK_S)
    return samples, problems, series


def _is_let_go(path):
    """Whether the data set is finished and its lock free: companions come after the manifest."""
    with open(path / ".lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return DataSet(path).manifest()["state"] != "running"


def _sample(pid):
    """`(time, resident bytes, descriptors, threads)`."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    resident = int(fields["VmRSS"].split()[0]) << 10
    return time.monotonic(), resident, len(os.listdir(f"/proc/{pid}/fd")), int(fields["Threads"])


def _judge(samples, problems, tally, series, frames):
    """Growth is the difference of medians between the last third and the first one after the warm-up."""
    late = np.array(samples[int(len(samples) * WARM_UP_SHARE) :], float)
    first, last = late[: len(late) // 3], late[-len(late) // 3 :]
    growth = np.median(last, axis=0) - np.median(first, axis=0)
    for name, grown, allowed in zip(("bytes", "descriptors", "threads"), growth[1:], GROWTH_MAX, strict=True):
        if grown > allowed:
            problems.append(f"{grown:.0f} {name} more after {growth[0]:.0f} s, {allowed} allowed")
    tally.saw(series > 0, problems)
    per_hour = np.polyfit(late[:, 0] - late[0, 0], late[:, 1:3], 1)[0] * 3600
    tally.count("series", series)
    tally.count("million frames", round(frames / 1e6, 2))
    tally.count("MiB RSS slope per hour", round(per_hour[0] / (1 << 20), 2))
    tally.count("descriptor slope per hour", round(per_hour[1], 1))
    tally.count("KiB RSS growth", int(growth[1]) >> 10)
    tally.count("descriptors growth", int(growth[2]))
    tally.most("MiB RSS at most", int(late[:, 1].max()) >> 20)
