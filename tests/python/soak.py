#!/usr/bin/env python3
"""Breaks the receiver on purpose, many times, and says what was lost: `soak.py [--rows F1,F2] [--scale 0.1]`.

Every row is a fault of the failure model. The table at the end tells how often it was tried, how often it hit, and the
losses; the exit status is 0 only if every fault fired and nothing was lost. docs/testing.md describes the rows.
"""

import argparse
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback

import harness
from faults import broken, disks, kills, limits, long_run, panics, power, stalls, stops, writers
from faults.tally import Tally, table

END_TO_END = ["test_cli.py", "test_conformance.py", "test_results.py", "test_stranger.py", "test_kill9.py"]

# Row, fault, how often at scale 1, why not here (a reason or None), what to do with (folder, rng, tally, count).
FAULTS = [
    ("F1", "kill -9", 1000, None, kills.run),
    *(
        ("F2", f"power cut, {kind}", 500, disks.why_not(kind), lambda *a, kind=kind: power.run(*a, kind))
        for kind in ("ext4", "xfs")
    ),
    ("F5", "quota used up", 20, disks.why_not("btrfs", "btrfs"), limits.quota),
    ("F6", "disk refuses, or is gone", 200, broken.why_not(), broken.run),
    *(
        (
            "F7",
            f"disk stalls 10 s, {kind}",
            6,
            disks.why_not(kind, "fsfreeze"),
            lambda *a, kind=kind: stalls.run(*a, kind, 10),
        )
        for kind in ("ext4", "xfs")
    ),
    ("F19", "two writers", 200, None, writers.run),
    ("F20", "low limits, not root", 5, limits.why_no_user(), limits.low_limits),
    ("F21", "io_uring forbidden", 200, None, limits.without_uring),
    ("F21", "end-to-end suite without io_uring", 1, None, limits.suite(END_TO_END)),
    ("F22", "a stage panics", 160, None, panics.run),
    ("F25", "long run, seconds", 300, None, long_run.run),
    ("F26", "SIGTERM", 200, None, stops.run),
]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", help="only these, e.g. F1,F26; all of them unless told")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of tries (1.0)")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="repeats the choices of a run"
    )
    parser.add_argument("--dir", type=pathlib.Path, help="where data sets and disk images go; target/soak unless told")
    return parser.parse_args()


def run_fault(fault, options, base):
    """One row; an exception of the harness is a loss: nothing is known then."""
    row, name, full_count, why_not, run = fault
    tally, started = Tally(row, name), time.monotonic()
    if why_not:
        tally.losses.append(f"cannot be tried: {why_not}")
        return tally
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{row}-", dir=base))
    try:
        run(folder, random.Random(f"{options.seed} {row} {name}"), tally, max(round(full_count * options.scale), 1))
    except Exception:  # The other rows are still worth their run.
        tally.losses.append(traceback.format_exc(limit=4))
    tally.count("s", round(time.monotonic() - started))
    if not tally.losses:
        shutil.rmtree(folder)
    return tally


def main():
    options = arguments()
    rows = set(options.rows.split(",")) if options.rows else {fault[0] for fault in FAULTS}
    if unknown := rows - {fault[0] for fault in FAULTS}:
        sys.exit(f"no such rows: {', '.join(sorted(unknown))}")
    base = options.dir or harness.PROJECT / "target" / "soak"
    base.mkdir(parents=True, exist_ok=True)
    print(f"seed {options.seed}, scale {options.scale:g}, binary {harness.ronchi_binary()}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))  # Unwinds: processes end, disks are unmounted.
    tallies = []
    for fault in FAULTS:
        if fault[0] in rows:
            tallies.append(run_fault(fault, options, base))
            print(table(tallies[-1:]), flush=True)
    print(f"\n{table(tallies)}", flush=True)
    sys.exit(0 if all(tally.is_good for tally in tallies) else 1)


if __name__ == "__main__":
    main()
