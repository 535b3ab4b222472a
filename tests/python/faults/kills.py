"""F1: `kill -9` at any moment. Nothing that had been acknowledged is lost, no byte is wrong."""

import contextlib
import dataclasses
import shutil
import time

import harness
import mib
import scans

from . import receivers
from .left_behind import Watermarks, check_data_set
from .senders import MerlinTruth, TileSender, Truth

PHASES = ("start", "recording", "recording", "sealing", "finishing")
DEADLINE_S = 180  # Only for what hangs: how fast a busy machine is proves nothing.


@dataclasses.dataclass
class Detector:
    """Whatever sends frames: its links, the truth of every tile, and the length of a series in seconds."""

    links: list
    truths: list
    series_s: float
    detector: tuple = None

    @property
    def tiles(self):
        return len(self.truths)


class Campaign:
    """Kills receivers that record from simulators and senders; every choice comes from `rng`."""

    def __init__(self, folder, rng, stack):
        self.folder, self.rng = folder, rng
        self._stack = stack
        self._merlins = []

    def start_simulators(self):
        """A few Merlin simulators that outlive the receivers they serve."""
        kinds = (("u8", (16, 64), (64, 64), mib.U08, 2000), ("u16", (24, 32), (128, 128), mib.U16, 1500))
        for name, shape, signal, form, rate in kinds:
            scan = scans.write(self.folder, name, shape, signal, form)
            simulator = self._stack.enter_context(scan.simulator(rate=rate))
            truth = MerlinTruth(scan)
            self._merlins.append((simulator, truth, truth.count / rate))

    @contextlib.contextmanager
    def detector(self, phase):
        """A detector for one kill. Sealing needs many segments: scan rows of one frame make segments of 200."""
        rng = self.rng
        if phase != "sealing" and self._merlins and rng.random() < 0.4:
            simulator, truth, series_s = rng.choice(self._merlins)
            yield Detector(receivers.merlin_link(simulator, truth.count), [truth], series_s)
            return
        is_sealing = phase == "sealing"
        shape = rng.choice(
            [(16, 16), (32, 48), (64, 64)] if is_sealing else [(16, 16), (31, 33), (100, 60), (256, 256)]
        )
        rate = rng.choice([1000, 3000]) if shape[0] < 200 else 400
        count = int(rate * rng.uniform(0.2, 0.7))
        scan = [count, 1] if is_sealing else None
        with contextlib.ExitStack() as stack:
            senders = []
            for tile in range(rng.choice([1, 1, 2])):
                truth = Truth(rng, shape, count, rng.choice([0.0, 0.02]))
                senders.append((truth, tile))
            full = (shape[0] * len(senders), shape[1])
            announces = is_sealing or len(senders) > 1 or rng.random() < 0.7
            made = [
                stack.enter_context(
                    TileSender(
                        truth,
                        detector=full,
                        origin=(tile * shape[0], 0),
                        rate_hz=rate,
                        scan=scan,
                        announces=announces,
                        series=2,
                        swap=rng.choice([0, 7]),
                    )
                )
                for truth, tile in senders
            ]
            yield Detector(receivers.tile_links(made), [truth for truth, _ in senders], count / rate, full)

    def kill_once(self, tally, number, launcher=()):
        """One receiver, one kill, one judgement."""
        rng = self.rng
        phase = rng.choice(PHASES)
        folder = self.folder / f"kill-{number}"
        folder.mkdir()
        limits = {"sync_interval_ms": rng.choice([10, 20, 50, 200]), "block_mib": rng.choice([1, 4])}
        with self.detector(phase) as detector:
            watermarks = Watermarks(folder / "data", detector.tiles)
            arguments = {"launcher": launcher, "detector": detector.detector if detector.tiles > 1 else None, **limits}
            with receivers.serving(folder, detector.links, **arguments) as process:
                self.watch(phase, process, watermarks, detector)
                watermarks.look()
                process.kill()
            problems = list(watermarks.problems)
            for path in sorted((folder / "data").glob("*.ronchi")):
                problems += check_data_set(path, detector.truths, watermarks.seen)
        self._record(tally, phase, watermarks, problems, number)
        if not problems:
            shutil.rmtree(folder)

    def watch(self, phase, process, watermarks, detector):
        """Looks at the watermarks until the moment to kill has come."""
        rng = self.rng
        if phase == "start":
            after_s = rng.uniform(0, 0.06)
        else:
            harness.until(lambda: any(watermarks.directory.glob("*.ronchi")), DEADLINE_S, "data set", alive=process)
            after_s = rng.uniform(0, detector.series_s * 1.05)
        if phase == "finishing":
            first = ("scan.ronchi", None if detector.tiles == 1 else 0)
            harness.until(lambda: watermarks.look() or first in watermarks.finished, DEADLINE_S, "end", alive=process)
            after_s = rng.choice([0, rng.uniform(0, 0.03)])
        end = time.monotonic() + after_s
        while time.monotonic() < end and process.poll() is None:
            watermarks.look()
            time.sleep(0.001)
        assert process.poll() is None, f"the receiver ended by itself\n{process.log()}"

    def _record(self, tally, phase, watermarks, problems, number):
        has_begun = any(watermarks.directory.glob("*.ronchi"))
        tally.saw(has_begun or phase == "start", [f"kill {number} ({phase}): {problem}" for problem in problems])
        tally.count("acknowledged frames", watermarks.total)
        tally.count("kills with acknowledged frames", int(watermarks.total > 0))
        tally.count(f"while {phase}" if phase != "start" else "at start")


def run(folder, rng, tally, count):
    """`count` kills at random moments of recordings of every kind."""
    with contextlib.ExitStack() as stack:
        campaign = Campaign(folder, rng, stack)
        campaign.start_simulators()
        for number in range(count):
            tally.attempt(campaign.kill_once, tally, number)
