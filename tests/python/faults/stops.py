"""F26: SIGTERM at any moment. Within the grace time the data set is sealed and sound; a second signal ends at once."""

import contextlib
import json
import shutil
import signal
import time

from . import receivers
from .kills import Campaign
from .left_behind import Watermarks, check_data_set, check_ended

GRACE_S = 10
PHASES = ("start", "recording", "recording", "sealing", "finishing")
AT_ONCE = 130


def run(folder, rng, tally, count, launcher=()):
    with contextlib.ExitStack() as stack:
        campaign = Campaign(folder, rng, stack)
        campaign.start_simulators()
        for number in range(count):
            tally.attempt(stop_once, campaign, rng, tally, number, launcher)


def stop_once(campaign, rng, tally, number, launcher=()):
    """One receiver, one SIGTERM (now and then a second), one judgement."""
    phase, is_twice = rng.choice(PHASES), rng.random() < 0.2
    folder = campaign.folder / f"stop-{number}"
    folder.mkdir()
    limits = {"sync_interval_ms": rng.choice([10, 50, 500]), "block_mib": rng.choice([1, 4])}
    with campaign.detector(phase) as detector:
        watermarks = Watermarks(folder / "data", detector.tiles)
        arguments = {"detector": detector.detector if detector.tiles > 1 else None, "launcher": launcher, **limits}
        with receivers.serving(folder, detector.links, **arguments) as process:
            campaign.watch(phase, process, watermarks, detector)
            watermarks.look()
            is_ready = receivers.is_ready(process)
            process.signal(signal.SIGTERM)
            started = time.monotonic()
            if is_twice:
                time.sleep(rng.uniform(0, 0.02))
                process.signal(signal.SIGTERM)
            code, seconds = _end(process, started)
            summaries = [json.loads(line) for line in process.stdout().splitlines()]
        problems = list(watermarks.problems) + _judge_end(code, is_ready, is_twice, summaries)
        for path in sorted((folder / "data").glob("*.ronchi")):
            if code in (0, 1):
                problems += check_ended(path, detector.truths, watermarks.seen, ["complete", "interrupted"])
            else:
                problems += check_data_set(path, detector.truths, watermarks.seen)
    problems = [f"stop {number} ({phase}{', twice' * is_twice}): {problem}" for problem in problems]
    tally.saw(any(watermarks.directory.glob("*.ronchi")) or phase == "start", problems)
    tally.most("s at most until the end", seconds)
    tally.count("acknowledged frames", watermarks.total)
    tally.count("ended at once by a second signal", int(code == AT_ONCE))
    if not problems:
        shutil.rmtree(folder)


def _end(process, started):
    """Exit code, or `None` when the grace time passed; and the seconds it took."""
    try:
        code = process.wait(GRACE_S)
    except AssertionError:
        code = None
    return code, time.monotonic() - started


def _judge_end(code, is_ready, is_twice, summaries):
    """The exit code is the documented one for what the receiver says of its series."""
    is_whole = all(s["state"] == "complete" and s["frames"]["durable"] == s["frames"]["announced"] for s in summaries)
    allowed = {0 if is_whole else 1}
    if is_twice:
        allowed.add(AT_ONCE)
    if not is_ready:
        allowed.add(-signal.SIGTERM)  # The handler was not there yet, and neither was anything to seal.
    problems = [] if code in allowed else [f"exit code {code}, expected one of {sorted(allowed)}"]
    if any(s["unsound"] or not all(law["holds"] for law in s["law"]) for s in summaries):
        problems.append(f"a law is violated: {summaries}")
    return problems
