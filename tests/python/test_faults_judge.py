"""The judge of the fault tests itself: what is wrong with a data set is found, so that "no losses" means something."""

import json
import random

import numpy as np
import pytest

import harness
from dataset import DATA_OFFSET
from faults import receivers
from faults.left_behind import Watermarks, check_data_set, check_present
from faults.senders import TileSender, Truth
from faults.tally import Tally, table

SHAPE = (16, 16)
FRAME_BYTES = 512
COUNT = 200


@pytest.fixture
def recorded(folder):
    """`(data set, truth)` of a recording with frames that were never sent."""
    truth = Truth(random.Random(1), SHAPE, COUNT, lost_share=0.1)
    with TileSender(truth, detector=SHAPE, origin=(0, 0), rate_hz=1e9) as sender:
        with receivers.serving(folder, receivers.tile_links([sender])) as process:
            watermarks = Watermarks(folder / "data", 1)
            finish = ("scan.ronchi", None)
            harness.until(lambda: watermarks.look() or finish in watermarks.finished, 30, "end", alive=process)
            harness.terminate(process)
    return folder / "data" / "scan.ronchi", truth


def judge(path, truth):
    return check_data_set(path, [truth], {(path.name, None): COUNT}) + check_present(path, None, truth)


def test_a_sound_data_set_is_sound(recorded):
    """No problem where there is none."""
    path, truth = recorded
    assert truth.is_lost.any() and judge(path, truth) == []


def test_every_kind_of_loss_is_found(recorded):
    """One wrong byte, one wrong flag either way, one lost file: each is a problem, and only then."""
    path, truth = recorded
    kept, lost = int(np.flatnonzero(~truth.is_lost)[-1]), int(np.flatnonzero(truth.is_lost)[0])
    segment, flags = path / "frames/c/0/0/0", path / "frame_table/flags/c/0"
    for file, at in ((segment, DATA_OFFSET + kept * FRAME_BYTES + 7), (segment, 3), (flags, kept), (flags, lost)):
        _with_flipped_bit(file, at, lambda: judge(path, truth), path, truth)
    aside = segment.with_suffix(".aside")
    segment.rename(aside)
    assert judge(path, truth)
    aside.rename(segment)
    assert judge(path, truth) == []


def _with_flipped_bit(file, at, find, path, truth):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    assert find(), f"byte {at} of {file.name}"
    content[at] ^= 1
    file.write_bytes(content)
    assert judge(path, truth) == []


def test_a_watermark_that_goes_back_is_found(recorded):
    """No acknowledgement is ever taken back."""
    path, _ = recorded
    watermarks = Watermarks(path.parent, 1)
    watermarks.look()
    assert watermarks.total == COUNT and watermarks.problems == []
    progress = json.loads((path / "progress.json").read_text())
    (path / "progress.json").write_text(json.dumps({**progress, "durable_frames": COUNT - 1}))
    watermarks.look()
    assert len(watermarks.problems) == 1


def test_a_fault_that_never_fired_is_no_success():
    """Nor is one with a loss; the table says both."""
    idle, losing, good = Tally("F1", "idle"), Tally("F2", "losing"), Tally("F3", "good")
    idle.saw(False, [])
    losing.saw(True, ["frame 7"])
    good.saw(True, [])
    assert [tally.is_good for tally in (idle, losing, good)] == [False, False, True]
    shown = table([idle, losing, good])
    assert "NEVER FIRED F1 idle" in shown and "LOSS F2 losing: frame 7" in shown and "F3 good" not in shown
    good.check()
    for tally in (idle, losing):
        with pytest.raises(AssertionError):
            tally.check()
