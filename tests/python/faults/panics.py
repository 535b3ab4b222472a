"""F22: a stage panics (`RONCHI_PANIC`): the receiver ends, non-zero, and what it had acknowledged is there."""

import json
import shutil
import time

import numpy as np
import zarr

import harness
from dataset import DataSet

from . import receivers
from .left_behind import Watermarks, check_data_set, check_ended, verify
from .senders import TileSender, Truth

SHAPE = (64, 64)
FRAMES = 1600
RATE_HZ = 2000
ENDS_WITHIN_S = 5
DEADLINE_S = 60
# Stages, how many passes are surely come by, and whether frames can be recorded without them.
STAGES = {
    "receive": (60, False),
    "write": (60, False),
    "clerk": (12, False),
    "pack": (40, False),
    "finish": (1, False),
    "reduce": (20, True),
    "publish": (60, True),
    "http": (5, True),
}
# Without these nothing that is open can be finished.
WRITING = ("write", "clerk", "pack")
MARK = "asks for this panic"


def run(folder, rng, tally, count):
    """The stages in turn."""
    for number in range(count):
        tally.attempt(_panic_once, folder, rng, tally, number)


def _panic_once(folder, rng, tally, number):
    stage = list(STAGES)[number % len(STAGES)]
    most, is_beside = STAGES[stage]
    passes = rng.randrange(1, most + 1)
    base = folder / f"panic-{number}"
    base.mkdir()
    truth, http, zmq = Truth(rng, SHAPE, FRAMES), harness.free_port(), harness.free_port()
    # The second series would go on for ever: nothing but the panic ends the receiver.
    sender = TileSender(truth, detector=SHAPE, origin=(0, 0), rate_hz=RATE_HZ, scan=[FRAMES, 1], series=1000)
    settings = {"http": http, "zmq": zmq, "sync_interval_ms": 20, "compress": "lz4" if stage == "pack" else None}
    launcher = ["env", f"RONCHI_PANIC={stage}:{passes}"]
    watermarks = Watermarks(base / "data", 1, is_to_the_end=False)
    with receivers.serving(base, receivers.tile_links([sender]), launcher=launcher, **settings) as process, sender:
        has_fired, seconds = _watch(process, watermarks, http if stage == "http" else None, is_beside)
        code, log, summaries = process.returncode, process.log(), process.stdout().splitlines()
    problems = list(watermarks.problems)
    if code in (None, 0) or code < 0 or seconds > ENDS_WITHIN_S:
        problems.append(f"exit code {code} after {seconds:.1f} s\n{log}")
    problems += _judge(stage, base / "data", truth, watermarks.seen, [json.loads(line) for line in summaries])
    has_begun = any(watermarks.directory.glob("*.ronchi"))
    tally.saw(has_fired and has_begun, [f"{stage}:{passes}: {problem}" for problem in problems])
    tally.most("s at most until the end", round(seconds, 2))
    tally.count(stage, int(has_fired))
    tally.count("acknowledged frames", watermarks.total)
    if not problems:
        shutil.rmtree(base)


def _watch(process, watermarks, http, is_beside):
    """Until the receiver has ended: `(whether the stage panicked, seconds from when it had to end)`. With a stage beside
    the recording that is when nothing is being recorded."""
    end, due = time.monotonic() + DEADLINE_S, None
    while process.poll() is None and time.monotonic() < end:
        watermarks.look()
        if http:
            receivers.status(http)
        if due is None and MARK in process.stderr() and not (is_beside and _is_recording(watermarks.directory)):
            due = time.monotonic()
        time.sleep(0.005)
    watermarks.look()
    return MARK in process.stderr(), time.monotonic() - due if due else 0.0


def _is_recording(directory):
    """Whether any data set is unfinished."""
    manifests = (path / "zarr.json" for path in directory.glob("*.ronchi"))
    return any(not path.exists() or DataSet(path.parent).manifest()["state"] == "running" for path in manifests)


def _judge(stage, directory, truth, seen, summaries):
    """What was acknowledged is there; what happened is told; a recording that only lost company is whole."""
    problems = []
    paths = sorted(directory.glob("*.ronchi"))
    for path in paths:
        problems += verify(path, True) if stage == "pack" else check_data_set(path, [truth], seen)
        condition = _condition(path)
        last = {"publish": "complete", "http": "complete", "reduce": "failed", "receive": "failed"}.get(stage, "died")
        is_last = path == paths[-1] or stage == "finish"  # Nothing was finished any more.
        allowed = [last] if is_last else ["complete"]
        if stage in WRITING:
            allowed.append("died")  # The end of a series may still be on its way when the next one begins.
        if condition not in allowed:
            problems.append(f"{path.name} is called {condition}, {len(paths)} data sets")
        if STAGES[stage][1]:
            problems += check_ended(path, [truth], {(path.name, None): truth.count}, [condition])
        elif condition == "died":
            status, _, err = harness.ronchi("repair", path)
            problems += [] if status == 0 else [f"repair ends with {status}: {err}"]
            if stage == "pack":
                problems += _check_packed(path, truth, seen.get((path.name, None), 0))
            else:
                problems += check_ended(path, [truth], seen, ["interrupted"])
    if STAGES[stage][1] and any(summary["frames"]["durable"] != truth.count for summary in summaries):
        problems.append(f"summaries: {summaries}")
    return problems


def _check_packed(path, truth, seen):
    """Acknowledged frames of compressed segments, as Zarr reads them after the repair."""
    if seen == 0:
        return verify(path, True)
    frames = zarr.open_array(str(path / "frames"), mode="r")[:seen]
    is_right = len(frames) == seen and np.array_equal(frames, truth.frames(0, seen))
    is_told = not DataSet(path).raw_flags()[:seen].any()
    problems = [] if is_right and is_told else [f"{path.name}: acknowledged frames are missing or differ"]
    return problems + verify(path, True)


def _condition(path):
    _, out, _ = harness.ronchi("verify", "--quick", "--json", path)
    return json.loads(out)["condition"]
