"""F7: a disk that stops answering. Nothing is acknowledged meanwhile, memory is bounded, and it goes on by itself."""

import signal
import time

import harness

from . import receivers
from .disks import disk
from .left_behind import Watermarks, check_ended
from .senders import TileSender, Truth

DEADLINE_S = 60
SHAPE, RATE_HZ = (128, 128), 1500
SETTLE_S = 0.3  # Completions of what had reached the disk before it froze.


def run(folder, rng, tally, count, kind, stall_s):
    with disk(kind, folder) as made:
        for number in range(count):
            stall_once(made, rng, tally, number, stall_s)


def stall_once(made, rng, tally, number, stall_s):
    """One recording, one freeze of its file system, one thaw."""
    truth, port = Truth(rng, SHAPE, 3 * RATE_HZ), harness.free_port()
    watermarks = Watermarks(made.path / f"stall-{number}" / "data", 1)
    watermarks.directory.parent.mkdir()
    sender = TileSender(truth, detector=SHAPE, origin=(0, 0), rate_hz=RATE_HZ)
    links = receivers.tile_links([sender])
    with receivers.serving(watermarks.directory.parent, links, http=port, sync_interval_ms=50) as process, sender:
        harness.until(lambda: watermarks.look() or watermarks.total > 0, DEADLINE_S, "durable frames", alive=process)
        time.sleep(rng.uniform(0, 1))
        made.freeze()
        try:
            problems, stuck = _watch_stall(process, port, stall_s)
        finally:
            made.thaw()
        finish = ("scan.ronchi", None)
        harness.until(lambda: watermarks.look() or finish in watermarks.finished, DEADLINE_S, "end", alive=process)
        ceiling, peak = receivers.memory_bytes(process)
        process.signal(signal.SIGTERM)
        if (code := process.wait(DEADLINE_S)) != 0:
            problems.append(f"exit code {code}\n{process.log()}")
    if peak > ceiling:
        problems.append(f"{peak} bytes resident, {ceiling} promised")
    path = watermarks.directory / "scan.ronchi"
    problems += watermarks.problems + check_ended(path, [truth], {(path.name, None): truth.count}, ["complete"])
    tally.saw(stuck > 0, [f"{made.kind} stall {number}: {problem}" for problem in problems])
    tally.count("frames waited for the disk", stuck)
    tally.most("MiB resident at most", peak >> 20)
    tally.most("MiB promised", ceiling >> 20)


def _watch_stall(process, port, stall_s):
    """Problems while the disk stands still, and how many frames wait in the receiver for it."""
    end = time.monotonic() + stall_s
    time.sleep(SETTLE_S)
    before = _counters(port)
    while time.monotonic() < end:
        assert process.poll() is None, f"the receiver ended by itself\n{process.log()}"
        time.sleep(0.05)
    after = _counters(port)
    problems = []
    if (early := after["durable_frames"] - before["durable_frames"]) != 0:
        problems.append(f"{early} frames were acknowledged while the disk stood still")
    return problems, after["frames"] - after["written_frames"]


def _counters(port):
    return receivers.status(port, DEADLINE_S)["links"][0]
