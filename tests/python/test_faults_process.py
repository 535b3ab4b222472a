"""Signals and rivals: the receiver ends well when told to, and there is one writer to a data set."""

from faults import stops, writers
from faults.tally import Tally

STOPS = 12
RACES = 10


def test_sigterm_at_random_moments_seals_what_there_is(folder, rng):
    """Within the grace time, with the documented exit code, and sound; a second signal is like a kill."""
    tally = Tally("F26", "SIGTERM")
    stops.run(folder, rng, tally, STOPS)
    print(tally)
    tally.check(fired_min=STOPS * 9 // 10)


def test_of_two_writers_one_wins_and_the_other_touches_nothing(folder, rng):
    """Two receivers for one data set, together and one after the other: the loser ends with 3 and says why."""
    tally = Tally("F19", "two writers")
    writers.run(folder, rng, tally, RACES)
    print(tally)
    tally.check(fired_min=RACES)
