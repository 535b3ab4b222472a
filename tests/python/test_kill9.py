"""A receiver that is killed loses nothing that it had called durable."""

import os
import random
import shutil
import time

import numpy as np
import pytest
import zarr

import harness
import scans
from dataset import DataSet

KILLS = int(os.environ.get("RONCHI_KILLS", "50"))
SEED = int(os.environ.get("RONCHI_KILL_SEED", random.SystemRandom().randrange(1 << 32)))
RATE_HZ = 1000


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """1152 frames of 128x128 u16, 36 MB: a little over a second at the simulator's rate."""
    folder = tmp_path_factory.mktemp("kill9")
    known = scans.write(folder, "scan", (36, 32), (128, 128))
    yield known
    for path in folder.iterdir():
        path.unlink()


def test_kill_9_at_random_moments_loses_no_durable_frame(folder, scan):
    """Kill at a random moment, seen durable watermark in hand: those frames are there and right, every time."""
    moments = random.Random(SEED)
    longest = len(scan.frames) / RATE_HZ * 1.1
    durable = []
    for number in range(KILLS):
        data = DataSet(folder / f"killed_{number}.ronchi")
        durable.append(kill_once(scan, data, moments.uniform(0, longest)))
        check_left_behind(scan, data, durable[-1], f"kill {number}, RONCHI_KILL_SEED={SEED}")
        shutil.rmtree(data.path)
    print(f"{KILLS} kills, durable frames at the kill from {min(durable)} to {max(durable)}, seed {SEED}")
    inside = sum(0 < frames < len(scan.frames) for frames in durable)
    assert inside >= KILLS // 3, f"only {inside} of {KILLS} kills hit a recording in progress: {durable}"


def kill_once(scan, data, after_s):
    """Kills a recording `after_s` after its first sign of life; returns the last durable watermark seen before."""
    seen = 0
    with scans.recording_of(scan, data.path, rate=RATE_HZ) as (_, process):
        harness.until(lambda: data.path.exists(), 30, "data set appears", alive=process)
        end = time.monotonic() + after_s
        while time.monotonic() < end and process.poll() is None:
            now = data.durable()
            assert now >= seen, f"the durable watermark went back from {seen} to {now}"
            seen = now
        process.kill()
    return seen


def check_left_behind(scan, data, seen, where):
    """Every frame that was called durable, before the kill or in the file left behind, reads back as sent."""
    left = data.durable()
    assert left >= seen, f"{where}: acknowledged {seen} frames, the file left behind says {left}"
    if left == 0:
        return
    scans.assert_same_frames(data.read(0, left), scan.frames[:left])
    assert not np.any(data.array("frame_table/flags")[:left]), f"{where}: a durable frame is flagged"


def test_killed_data_set_still_opens_and_is_not_taken_for_complete(folder, scan):
    """After a kill the data set reads with zarr below its watermark, says that it did not end, and is not written over."""
    data = DataSet(folder / "killed.ronchi")
    with scans.recording_of(scan, data.path, rate=RATE_HZ) as (_, process):
        harness.until(lambda: data.durable() > 100, 30, "100 durable frames", alive=process)
        process.kill()
    durable = data.durable()
    scans.assert_same_frames(zarr.open_array(str(data.frames_path), mode="r")[:durable], scan.frames[:durable])
    assert data.manifest()["state"] != "complete"
    with scan.simulator() as detector:
        with harness.recording(detector, data.path, *scan.arguments) as process:
            assert process.wait(60) != 0, "a second recording went over what the first had left"
    scans.assert_same_frames(data.read(0, durable), scan.frames[:durable])
