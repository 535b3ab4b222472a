"""F2: power cuts. The file system is shut down in mid recording, journal and all, and mounted again."""

import contextlib
import shutil
import time

import harness

from . import receivers
from .disks import disk
from .left_behind import Watermarks, check_data_set, present_count
from .senders import TileSender, Truth

CUTS_PER_DISK = 25
DEADLINE_S = 30


def run(folder, rng, tally, count, kind):
    """`count` cuts; every so often the disk is a new one, otherwise it goes on with what it has been through."""
    done = 0
    while done < count:
        with disk(kind, folder) as made:
            for _ in range(min(CUTS_PER_DISK, count - done)):
                tally.attempt(cut_once, made, rng, tally, done)
                done += 1


def cut_once(made, rng, tally, number):
    """One recording, one cut, one judgement of what is there after mounting again."""
    made.recover()
    shape = rng.choice([(16, 16), (31, 33), (64, 64), (128, 128)])
    rate = rng.choice([1000, 2500])
    truth = Truth(rng, shape, int(rate * rng.uniform(0.3, 0.9)), rng.choice([0.0, 0.02]))
    is_sealing = shape[0] <= 64 and rng.random() < 0.4
    scan = [truth.count, 1] if is_sealing else None
    sender = TileSender(
        truth, detector=shape, origin=(0, 0), rate_hz=rate, scan=scan, announces=is_sealing or rng.random() < 0.5
    )
    port = harness.free_port()
    watermarks = Watermarks(made.path / "data", 1)
    is_after_end, is_acknowledged = rng.random() < 0.15, rng.random() < 0.8
    after_s = rng.uniform(0, truth.count / rate)
    with (
        sender,
        receivers.serving(
            made.path, receivers.tile_links([sender]), http=port, sync_interval_ms=rng.choice([10, 20, 50, 200])
        ) as process,
    ):
        _watch_until_cut(process, watermarks, port, after_s, is_after_end, is_acknowledged)
        made.cut_power()
        # What is counted durable after the cut must be there as well: this is the moment to lie.
        end = time.monotonic() + rng.uniform(0, 0.15)
        while time.monotonic() < end and process.poll() is None:
            watermarks.count(receivers.status(port))
        process.kill()
    made.unmount()
    made.mount()
    problems = list(watermarks.problems)
    if (present := present_count(watermarks.directory)) < watermarks.counted:
        problems.append(f"{watermarks.counted} frames were counted durable, {present} are there")
    for path in sorted(watermarks.directory.glob("*.ronchi")):
        problems += check_data_set(path, [truth], watermarks.seen)
        _note(tally, path)
        if problems:
            kept = harness.PROJECT / "target" / "soak-kept" / f"{made.kind}-{number}-{path.name}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(path, kept, symlinks=True)
        shutil.rmtree(path)
    tally.saw(watermarks.total > 0, [f"{made.kind} cut {number}: {problem}" for problem in problems])
    tally.count("acknowledged frames", watermarks.total)


def _watch_until_cut(process, watermarks, port, after_s, is_after_end, is_acknowledged):
    harness.until(lambda: any(watermarks.directory.glob("*.ronchi")), DEADLINE_S, "data set", alive=process)
    if is_acknowledged:
        harness.until(lambda: watermarks.look() or watermarks.total, DEADLINE_S, "durable frames", alive=process)
    end = time.monotonic() + after_s
    while time.monotonic() < end or is_after_end and not watermarks.finished:
        assert process.poll() is None, f"the receiver ended by itself\n{process.log()}"
        watermarks.look()
        time.sleep(0.002)
    watermarks.hear(receivers.status(port))


def _note(tally, path):
    """What the cut left of the small file that is replaced without a sync."""
    with contextlib.suppress(OSError):
        progress = path / "progress.json"
        text = progress.read_text() if progress.exists() else None
        tally.count(
            "cuts without progress.json"
            if text is None
            else "empty progress.json"
            if not text
            else "progress.json kept"
        )
