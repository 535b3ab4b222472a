"""F6: the disk refuses writes, syncs, reads, names, or is gone: real errors of a real file system (`fuse_disk.py`)."""

import contextlib
import ctypes.util
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

import harness
from dataset import DataSet

from . import receivers
from .left_behind import Watermarks, check_data_set, check_present, verify
from .senders import TileSender, Truth

SHAPE = (64, 64)
FRAMES = 1600  # Eight segments: rows of one frame make segments of 200.
DEADLINE_S = 180  # Only for what hangs.
ERRORS = ("EIO", "ENOSPC", "EROFS", "EDQUOT")
SEGMENTS, TABLE, LOG = "/frames/c/", "/frame_table/", "/chunks.log"
SERVER = pathlib.Path(__file__).with_name("fuse_disk.py")


def why_not():
    """Why no such file system can be mounted here, or `None`."""
    if os.geteuid() != 0:
        return "only root may mount file systems"
    if not os.path.exists("/dev/fuse"):
        return "this kernel has no FUSE"
    if ctypes.util.find_library("fuse3") is None:
        return "libfuse3 is missing (./setup.sh installs it)"
    return None if importlib.util.find_spec("mfusepy") else "mfusepy is missing (./setup.sh installs it)"


class Broken:
    """A mounted file system that takes orders: `path` leads through it, `backing` past it."""

    def __init__(self, base):
        self.base = pathlib.Path(tempfile.mkdtemp(prefix="broken-", dir=base))
        self.path, self.backing = self.base / "mounted", self.base / "backing"
        self.path.mkdir()
        self.backing.mkdir()
        self.refused = []
        self._is_ready = threading.Event()
        command = [sys.executable, SERVER, self.backing, self.path]
        self._server = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self):
        for line in self._server.stdout:
            if line.strip() == "ready":
                self._is_ready.set()
            else:
                self.refused.append(line.strip())

    def wait(self):
        harness.until(lambda: os.path.ismount(self.path) or self._server.poll() is not None, 30, "mounted")
        assert os.path.ismount(self.path), "the file system did not start"

    def order(self, text):
        """Takes effect before this returns."""
        self._is_ready.clear()
        self._server.stdin.write(f"{text}\n")
        self._server.stdin.flush()
        assert self._is_ready.wait(30), "no answer"

    def refuse(self, operation, error, part, first, count):
        self.order(f"{operation} {error} {part or '-'} {first} {count}")

    def heal(self):
        self.order("heal")

    def pull(self):
        """The disk is gone: every operation fails from here on."""
        self._server.kill()
        self._server.wait()

    def remove(self):
        subprocess.run(["umount", "--lazy", self.path], capture_output=True)
        self._server.kill()
        self._server.wait()
        self._listener.join(10)
        shutil.rmtree(self.base)


@contextlib.contextmanager
def broken(base):
    made = Broken(base)
    try:
        made.wait()
        yield made
    finally:
        made.remove()


def run(folder, rng, tally, count):
    """In turn: frames, table and log, documents and names, reads, and a disk that is pulled out."""
    tries = (_refuse_frames, _refuse_table, _refuse_documents, _refuse_reads, _pull)
    for number in range(count):
        tally.attempt(_one, tries[number % len(tries)], folder, rng, tally, number)


def _one(one_try, folder, rng, tally, number):
    truth = Truth(rng, SHAPE, FRAMES)
    with broken(folder) as disk:
        has_fired, problems = one_try(disk, rng, tally, truth)
    name = one_try.__name__.strip("_").replace("_", " ")
    tally.saw(has_fired, [f"{name} {number}: {problem}" for problem in problems])
    tally.count(name)


@contextlib.contextmanager
def _recording(disk, truth, rate_hz=8000):
    """A receiver on the disk, told once its data set is there: `(process, data set)`."""
    sender = TileSender(truth, detector=SHAPE, origin=(0, 0), rate_hz=rate_hz, scan=[truth.count, 1])
    links = receivers.tile_links([sender])
    with receivers.serving(disk.path, links, sync_interval_ms=20) as process, sender:
        out = disk.path / "data" / "scan.ronchi"
        harness.until(lambda: (out / "progress.json").exists(), DEADLINE_S, "data set", alive=process)
        yield process, out


def _end(process):
    """Waits for the summary of the series, then ends the receiver: `(exit code, summary)`."""
    harness.until(process.stdout, DEADLINE_S, "summary", alive=process)
    process.signal(signal.SIGTERM)
    code = process.wait(DEADLINE_S)
    return code, json.loads(process.stdout().splitlines()[0])


def _record(disk, rng, truth, orders):
    """Records while one of these `(operation, part of a path)` is refused: `(code, summary, data set, refusals)`."""
    operation, part = rng.choice(orders)
    with _recording(disk, truth) as (process, out):
        disk.refuse(operation, rng.choice(ERRORS), part, rng.randrange(1, 12), rng.choice([1, 1, 3, 1000]))
        code, summary = _end(process)
        disk.heal()
    refused = [line for line in disk.refused if line.startswith(f"refused {operation} ")]
    return code, summary, out, refused


def _judge(code, summary, out, refused, truth):
    """The law holds, what is called present is right, and a refusal that cost something is told."""
    problems = [] if summary["law"][0]["holds"] and not summary["unsound"] else [f"the law is violated: {summary}"]
    durable, lost = summary["frames"]["durable"], summary["law"][0]["gaps"].get("write_failed", 0)
    if durable + lost != truth.count:
        problems.append(f"{durable} durable and {lost} refused of {truth.count}")
    if (code, summary["state"]) not in ((1, "failed"), (0, "complete")) or (lost and code == 0):
        problems.append(f"exit code {code}, {refused[:3]}, {summary}")
    return problems + check_present(out, None, truth)


def _refuse_frames(disk, rng, tally, truth):
    """Writes and syncs of segments: what was refused is a gap, the next segment goes on."""
    code, summary, out, refused = _record(disk, rng, truth, [("write", SEGMENTS), ("sync", SEGMENTS)])
    problems = _judge(code, summary, out, refused, truth) + verify(out, True)
    durable = summary["frames"]["durable"]
    if int((DataSet(out).raw_flags() == 0).sum()) != durable:
        problems.append("flags and summary differ")
    tally.count("refused frames", truth.count - durable)
    return bool(refused), problems


def _refuse_table(disk, rng, _tally, truth):
    """Table and log: pixels are recorded on, and what they lack can be made again from the segments."""
    orders = [(operation, part) for operation in ("write", "sync") for part in (TABLE, LOG)]
    code, summary, out, refused = _record(disk, rng, truth, orders)
    problems = _judge(code, summary, out, refused, truth)
    status, _, err = harness.ronchi("repair", out)
    if status != 0:
        problems.append(f"repair ends with {status}: {err}")
    present = int((DataSet(out).raw_flags() == 0).sum())
    if present != summary["frames"]["durable"]:
        problems.append(f"{summary['frames']['durable']} durable, {present} after repair, {refused[:3]}")
    return bool(refused), problems + check_present(out, None, truth) + verify(out, True)


def _refuse_documents(disk, rng, _tally, truth):
    """Names and documents that cannot be made or replaced."""
    orders = [("create", "/c/"), ("rename", "/c/"), ("rename", "progress.json")]
    orders += [("create", "results"), ("sync", ".part")]
    code, summary, out, refused = _record(disk, rng, truth, orders)
    return bool(refused), _judge(code, summary, out, refused, truth)


def _refuse_reads(disk, rng, _tally, truth):
    """A good data set on a disk that loses sectors: whoever reads is told which frames, and gets no others for them."""
    with _recording(disk, truth, rate_hz=1e9) as (process, out):
        code, _ = _end(process)
    problems = [] if code == 0 else [f"exit code {code}"]
    disk.refuse("read", "EIO", f"{SEGMENTS}{rng.randrange(4)}/", 1, 1_000_000)
    status, text, _ = harness.ronchi("verify", "--json", out)
    if status != 1 or "frames/c/" not in json.dumps(json.loads(text)["flaws"]):
        problems.append(f"verify ends with {status}: {text[:500]}")
    target = disk.base / "export.npy"
    status, _, err = harness.ronchi("export", out, "--to", target)
    if status == 0:
        problems.append(f"export is content without the frames: {err}")
    target.unlink(missing_ok=True)
    has_fired = any(line.startswith("refused read") for line in disk.refused)
    disk.heal()
    return has_fired, problems + verify(out, True) + check_present(out, None, truth)


def _pull(disk, rng, tally, truth):
    """The disk is gone in mid recording: the receiver says so and ends; what it had called durable is on the disk."""
    watermarks = Watermarks(disk.backing / "data", 1)
    with _recording(disk, truth, rate_hz=3000) as (process, _):
        wanted = rng.randrange(1, FRAMES // 2)
        harness.until(lambda: watermarks.look() or watermarks.total >= wanted, DEADLINE_S, "frames", alive=process)
        disk.pull()
        code, summary = _end(process)
    problems = list(watermarks.problems)
    if code == 0 or summary["state"] != "failed":
        problems.append(f"exit code {code}, {summary}")
    tally.count("acknowledged frames", watermarks.total)
    return True, problems + check_data_set(disk.backing / "data" / "scan.ronchi", [truth], watermarks.seen)
