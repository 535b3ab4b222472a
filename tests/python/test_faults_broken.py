"""Disks that refuse, and stages that panic: the receiver says so, and keeps what it had acknowledged."""

from faults import broken, panics
from faults.tally import Tally

TRIES = 10


def test_what_the_disk_refuses_becomes_a_gap(folder, rng, needs):
    """Errors of a real file system at writes, syncs, names and reads, and a disk that is pulled out."""
    needs(broken.why_not())
    tally = Tally("F6", "disk refuses")
    broken.run(folder, rng, tally, TRIES)
    print(tally)
    tally.check(fired_min=TRIES * 7 // 10)


def test_a_panic_ends_the_receiver_and_loses_nothing(folder, rng):
    """Every stage once: exit code, time, and the data set that is left."""
    tally = Tally("F22", "a stage panics")
    panics.run(folder, rng, tally, len(panics.STAGES))
    print(tally)
    tally.check(fired_min=len(panics.STAGES) - 1)
