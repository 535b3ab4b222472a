"""A receiver that is killed loses nothing that it had called durable."""

import os

import numpy as np
import zarr

import harness
import scans
from dataset import DataSet
from faults import kills
from faults.tally import Tally

KILLS = int(os.environ.get("RONCHI_KILLS", "50"))
RATE_HZ = 1000


def test_kill_9_at_random_moments_loses_no_acknowledged_frame(folder, rng):
    """Receivers of every kind, killed at every moment: what was seen to be durable is there and right, every time."""
    tally = Tally("F1", "kill -9")
    kills.run(folder, rng, tally, KILLS)
    print(tally)
    tally.check(fired_min=KILLS * 9 // 10)
    assert tally.notes["kills with acknowledged frames"] >= KILLS // 4, tally


def test_killed_data_set_still_opens_and_is_not_taken_for_complete(folder):
    """A killed data set reads with zarr below its watermark, says that it did not end, and is not written over."""
    scan = scans.write(folder, "scan", (36, 32), (128, 128))
    data = DataSet(folder / "killed.ronchi")
    with scans.recording_of(scan, data.path, rate=RATE_HZ) as (_, process):
        harness.until(lambda: data.durable() > 100, 30, "100 durable frames", alive=process)
        process.kill()
    durable = data.durable()
    scans.assert_same_frames(zarr.open_array(str(data.frames_path), mode="r")[:durable], scan.frames[:durable])
    assert not np.any(data.array("frame_table/flags")[:durable])
    assert data.manifest()["state"] != "complete"
    with scan.simulator() as detector:
        with harness.recording(detector, data.path, *scan.arguments) as process:
            assert process.wait(60) == 3, "a second recording went over what the first had left"
    scans.assert_same_frames(data.read(0, durable), scan.frames[:durable])
