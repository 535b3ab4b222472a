"""F25 in small: one receiver that never rests. Memory and descriptors must not grow with frames or with series."""

import os
import pathlib
import shutil
import signal
import time

import numpy as np

import harness

from . import receivers
from .left_behind import verify

DEADLINE_S = 60
LOOK_S = 0.5
WARM_UP_SHARE = 0.2
RSS_SLOPE_MAX_BYTES_PER_S = (1 << 20) / 60  # Hundreds of MiB would come together in a day.


def run(folder, rng, tally, seconds):
    """Series after series of tiny frames, flat out; finished data sets are checked now and then, and removed."""
    scan = ["--scan", "200x500", "--detector", "16x16", "--dtype", "u8", "--trigger", "wait"]
    with harness.own_simulator(*scan, rate=0) as detector:
        port = harness.free_port()
        links = receivers.merlin_link(detector, 100_000)
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
        for path in sorted((folder / "data").glob("*.ronchi"))[:-2]:
            if rng.random() < 0.05:
                problems += verify(path, True)
            shutil.rmtree(path)
            series += 1
        time.sleep(LOOK_S)
    return samples, problems, series


def _sample(pid):
    """`(time, resident bytes, descriptors, threads)`."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    resident = int(fields["VmRSS"].split()[0]) << 10
    return time.monotonic(), resident, len(os.listdir(f"/proc/{pid}/fd")), int(fields["Threads"])


def _judge(samples, problems, tally, series, frames):
    late = np.array(samples[int(len(samples) * WARM_UP_SHARE) :], float)
    seconds = late[:, 0] - late[0, 0]
    resident, descriptors, threads = (np.polyfit(seconds, late[:, column], 1)[0] for column in (1, 2, 3))
    if resident > RSS_SLOPE_MAX_BYTES_PER_S:
        problems.append(f"memory grows by {resident * 3600 / (1 << 20):.1f} MiB per hour")
    if max(abs(descriptors), abs(threads)) * 3600 > 20:
        problems.append(f"{descriptors * 3600:.1f} descriptors and {threads * 3600:.1f} threads more per hour")
    tally.saw(series > 0, problems)
    tally.count("series", series)
    tally.count("million frames", round(frames / 1e6, 2))
    tally.count("MiB RSS slope per hour", round(resident * 3600 / (1 << 20), 2))
    tally.count("descriptor slope per hour", round(descriptors * 3600, 2))
    tally.most("MiB RSS at most", int(late[:, 1].max()) >> 20)
