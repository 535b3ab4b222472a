"""What the system refuses: quota, locked memory, descriptors, io_uring. Each is survived, and told."""

from faults import disks, limits
from faults.tally import Tally


def test_a_quota_that_is_used_up_is_a_full_disk(folder, rng, needs):
    """EDQUOT in mid recording: what fits is durable, the rest are gaps, and the law holds."""
    needs(disks.why_not("btrfs", "btrfs"))
    tally = Tally("F5", "quota used up")
    limits.quota(folder, rng, tally, 1)
    tally.check()


def test_low_limits_are_survived_or_refused_at_start(folder, rng, needs):
    """As an ordinary user: too few descriptors end it before it begins, too little locked memory costs a warning."""
    needs(limits.why_no_user())
    tally = Tally("F20", "low limits, not root")
    limits.low_limits(folder, rng, tally, 1)
    print(tally)
    tally.check(fired_min=len(limits.DESCRIPTORS) * len(limits.MEMLOCK_BYTES) // 2)


def test_without_io_uring_the_promises_are_the_same(folder, rng):
    """Recordings, kills and stops under a filter that refuses io_uring."""
    tally = Tally("F21", "io_uring forbidden")
    limits.without_uring(folder, rng, tally, 16)
    print(tally)
    tally.check(fired_min=12)
