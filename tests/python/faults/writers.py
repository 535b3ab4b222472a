"""F19: two receivers for one data set. One wins, the other ends with code 3 and touches nothing."""

import random
import shutil
import threading
import time

import harness

from .left_behind import check_ended
from .senders import TileSender, Truth

TAKEN = 3
DEADLINE_S = 30
SHAPE = (32, 32)


def run(folder, rng, tally, count):
    for number in range(count):
        tally.attempt(race_once, folder / f"race-{number}", rng, tally, number)


def race_once(folder, rng, tally, number):
    """Two receivers, each with a detector of its own, started together or a little apart."""
    folder.mkdir()
    out, gate = folder / "scan.ronchi", threading.Event()
    truths = [Truth(random.Random(f"{number} {side}"), SHAPE, 100) for side in range(2)]
    options = {"detector": SHAPE, "origin": (0, 0), "rate_hz": 1000}
    is_together = rng.random() < 0.5
    with TileSender(truths[0], gate=gate, **options) as first, TileSender(truths[1], gate=gate, **options) as second:
        with _recording(first, out) as one:
            if not is_together:
                gate.set()
                harness.until(lambda: (out / "zarr.json").exists(), DEADLINE_S, "data set", alive=one)
                time.sleep(rng.uniform(0, 0.1))
            with _recording(second, out) as other:
                time.sleep(rng.uniform(0, 0.04))
                gate.set()
                codes = [one.wait(DEADLINE_S), other.wait(DEADLINE_S)]
                logs = [one.log(), other.log()]
    problems = _judge(out, truths, codes, logs)
    tally.saw(TAKEN in codes, [f"race {number}: {problem}" for problem in problems])
    tally.count("together" if is_together else "one after the other")
    if codes[1] == 0:
        tally.count("won by the second")
    if not problems:
        shutil.rmtree(folder)


def _recording(sender, out):
    source = f"tiles://127.0.0.1:{sender.port}"
    command = [harness.ronchi_binary(), "record", source, "--out", out, "--json", "--reserve-gib", 0]
    return harness.Process([*command, "--http", "off", "--live-zmq", "off"])


def _judge(out, truths, codes, logs):
    if sorted(codes) != [0, TAKEN]:
        return [f"exit codes {codes}\n" + "\n".join(logs)]
    winner = codes.index(0)
    problems = []
    if "exists already" not in logs[1 - winner]:
        problems.append(f"the loser does not say why\n{logs[1 - winner]}")
    left = {path.name for path in out.parent.iterdir()}
    if left != {out.name}:
        problems.append(f"left over: {left}")
    return problems + check_ended(out, [truths[winner]], {(out.name, None): truths[winner].count}, ["complete"])
