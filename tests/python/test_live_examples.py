"""The Python examples beside the live stream: a small client, a window, and a loop that follows drift."""

import ast
import contextlib
import random
import re
import sys
import threading

import numpy as np

import harness
from dataset import DataSet
from faults.senders import TileSender, Truth

EXAMPLES = harness.PROJECT / "examples" / "python"
SHAPE = (48, 64)
SCAN = (80, 25)
RATE_HZ = 800
RADIUS = 6
RING = (9.0, 16.0)


class Drifting(Truth):
    """A disk that moves with every scan row, on a weak ground that stays."""

    def __init__(self, rng):
        super().__init__(rng, SHAPE, SCAN[0] * SCAN[1])
        self.centres = np.stack([24 + np.arange(SCAN[0]) * 0.06, 30 - np.arange(SCAN[0]) * 0.1], axis=1)
        y, x = np.indices(SHAPE)
        disks = (np.hypot(y - cy, x - cx) <= RADIUS for cy, cx in self.centres)
        self.rows = np.array([100 * disk for disk in disks], "<u2")

    def frames(self, first, end):
        return self.rows[np.arange(first, end) // SCAN[1]]

    def payload(self, frame):
        return self.rows[frame // SCAN[1]].tobytes()


@contextlib.contextmanager
def recording(folder, *arguments):
    """A recording of the drifting disk that has not begun: yields its process, the event that begins it, and two addresses."""
    gate = threading.Event()
    sender = TileSender(Drifting(random.Random(3)), detector=SHAPE, origin=(0, 0), rate_hz=RATE_HZ, scan=list(SCAN), gate=gate)
    zmq, http = f"tcp://127.0.0.1:{harness.free_port()}", f"127.0.0.1:{harness.free_port()}"
    with sender:
        source = ["record", f"tiles://127.0.0.1:{sender.port}", "--out", folder / "scan.ronchi", "--reserve-gib", 0]
        command = [harness.ronchi_binary(), *source, "--live-zmq", zmq, "--http", http, *arguments]
        with harness.Process(command) as process:
            harness.until(lambda: harness.is_listening(int(http.rsplit(":", 1)[1])), 30, "it serves", process)
            yield process, gate, zmq, f"http://{http}"


def test_examples_run_on_an_old_python():
    """As the text says: nothing newer than 3.7."""
    for path in EXAMPLES.glob("*.py"):
        ast.parse(path.read_text(), feature_version=(3, 7))
    assert len((EXAMPLES / "ronchi_live.py").read_text().splitlines()) <= 60


def test_the_client_has_the_stored_images(folder):
    """Put together row by row while they came, or as a whole: the same numbers."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        from ronchi_live import Live  # noqa: PLC0415
    finally:
        sys.path.remove(str(EXAMPLES))
    with recording(folder, "--total", "--com") as (process, gate, zmq, _):
        live, rows = Live(zmq), 0
        harness.until(lambda: live.update(0.1) or True, 5, "connected")
        gate.set()
        harness.until(lambda: live.update(0.1) or live.state == "complete", 60, "the end", process)
        while live.state == "running":
            rows += sum(end - first for name, first, end in live.update(0.1) if name == "total")
        live.update(0.5)
        assert process.wait(30) == 0, process.log()
    assert live.state == "complete" and rows >= SCAN[0] // 2
    data = DataSet(folder / "scan.ronchi")
    np.testing.assert_array_equal(live.images["total"], data.array("results/total"))
    np.testing.assert_allclose(live.images["com"], data.array("results/com"), rtol=1e-6)
    assert live.headers["com"]["axes"][0]["name"] == "scan_y"
    live.close()


def test_a_window_shows_the_image(folder):
    """Without a screen: as a picture in a file."""
    with recording(folder, "--total", "--com") as (process, gate, zmq, _):
        command = [sys.executable, EXAMPLES / "show.py", "total", "--from", zmq, "--save", folder / "total.png"]
        with harness.Process(command, env={"MPLBACKEND": "Agg", "HOME": str(folder)}) as window:
            gate.set()
            assert process.wait(60) == 0, process.log()
            assert window.wait(30) == 0, window.log()
    assert (folder / "total.png").read_bytes().startswith(b"\x89PNG")


def test_a_ring_follows_the_drift(folder):
    """The loop keeps the ring within a pixel and a half of the disk, and the last ring is computed of the whole scan."""
    inner, outer = RING
    with recording(folder, "--total", "--com") as (process, gate, zmq, http):
        loop = [sys.executable, EXAMPLES / "follow_drift.py", "--live", zmq, "--http", http, "--ring", f"{inner},{outer}"]
        with harness.Process(loop) as following:
            harness.until(lambda: "waiting" in following.stdout(), 30, "the loop begins", following)
            gate.set()
            assert process.wait(60) == 0, process.log()
            assert following.wait(30) == 0, following.log()
            moves = re.findall(r"row (\d+): ring at ([\d.]+), ([\d.]+)", following.stdout())
    truth = Drifting(random.Random(3))
    assert len(moves) >= 4, moves
    for row, y, x in moves:
        away = np.abs(truth.centres[int(row) - 1] - (float(y), float(x))).max()
        assert away < 1.5, f"at row {row} by {away:.2f} pixels"
    data = DataSet(folder / "scan.ronchi")
    # The last ring, as far as it was printed: all pixels of the disk that are surely inside or outside of it.
    centre = np.array(moves[-1][1:], float)
    away = np.hypot(*(np.indices(SHAPE) - centre[:, None, None]))
    surely = ((away > inner + 0.1) & (away < outer - 0.1)).ravel()
    maybe = ((away > inner - 0.1) & (away < outer + 0.1)).ravel()
    frames = data.read_all().reshape(*SCAN, -1).astype("u8")
    stored = data.array("results/followed")
    assert (frames[..., surely].sum(-1) <= stored).all() and (stored <= frames[..., maybe].sum(-1)).all()
    assert stored[0].sum() > 0, "the drift took the first rows out of the last ring"
