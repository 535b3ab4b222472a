"""Power cuts and disks that stand still: needs root, loop devices and mkfs; says why where it cannot."""

import pytest

from faults import disks, power, stalls
from faults.tally import Tally

CUTS = 10
STALL_S = 2


@pytest.fixture(params=["ext4", "xfs"])
def kind(request, needs):
    """A file system that can be made and mounted here."""
    needs(disks.why_not(request.param, "fsfreeze"))
    return request.param


def test_power_cuts_lose_no_acknowledged_frame(folder, rng, kind):
    """The file system is shut down with its journal in mid recording; what was durable before is there afterwards."""
    tally = Tally("F2", f"power cut, {kind}")
    power.run(folder, rng, tally, CUTS, kind)
    print(tally)
    tally.check(fired_min=CUTS // 3)


def test_a_disk_that_stands_still_is_waited_for(folder, rng, kind):
    """Frozen in mid recording: nothing is acknowledged, memory is bounded, nothing is lost once it answers again."""
    tally = Tally("F7", f"disk stalls, {kind}")
    stalls.run(folder, rng, tally, 1, kind, STALL_S)
    print(tally)
    tally.check()
