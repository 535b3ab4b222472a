"""Scans with known pixels: written as `.mib`, replayed by a simulator, recorded, compared."""

import contextlib
import dataclasses
import pathlib

import numpy as np

import harness
import mib
from dataset import DataSet


@dataclasses.dataclass(frozen=True)
class KnownScan:
    """A `.mib` on disk and the pixels in it."""

    hdr: pathlib.Path
    form: mib.Format
    shape: tuple  # ny, nx
    frames: np.ndarray  # frame, y, x

    @property
    def arguments(self):
        return ["--scan", f"{self.shape[0]}x{self.shape[1]}"]

    def simulator(self, *arguments, rate=0):
        """Our own simulator replaying it, at `rate` frames per second or at full speed."""
        return harness.own_simulator("--mib", self.hdr.with_suffix(".mib"), *arguments, rate=rate)

    def libertem_simulator(self, *arguments):
        """LiberTEM-live's simulator replaying it."""
        return harness.libertem_simulator(self.hdr, *arguments)


def write(folder, name, shape, signal, form=mib.U16, chips=1, seed=0):
    """Writes a scan of `shape` positions with frames of `signal` `(height, width)` pixels."""
    count = shape[0] * shape[1]
    distinct = mib.pattern(count, *signal, form.limit, seed)
    return KnownScan(mib.write(folder, name, distinct, form, shape, chips), form, shape, distinct)


def assert_same_frames(got, expected, first=0):
    """Equal frames, or a message that names the first that differs; `first` is the number of the first frame."""
    assert got.shape == expected.shape
    if np.array_equal(got, expected):
        return
    differs = (got != expected).reshape(len(got), -1).any(axis=1)
    numbers = np.flatnonzero(differs) + first
    raise AssertionError(f"{len(numbers)} of {len(got)} frames differ, the first is {numbers[0]}")


def assert_complete(out, report, scan):
    """The data set holds exactly the scan's pixels in the stored type, and the report says so."""
    count = len(scan.frames)
    assert report["state"] == "complete"
    assert report["gaps"] == []
    frames = report["frames"]
    assert [frames[key] for key in ("announced", "received", "durable", "missing")] == [count, count, count, 0]
    data = DataSet(out)
    assert data.geometry().dtype.newbyteorder("=") == scan.form.stored
    assert_same_frames(data.read_all(), scan.frames)
    assert not data.flags().any()


@contextlib.contextmanager
def recording_of(scan, out, *arguments, rate=0):
    """`(detector, process)` of a recording in progress, fed by our own simulator at `rate` frames per second."""
    with scan.simulator(rate=rate) as detector:
        with harness.recording(detector, out, *scan.arguments, *arguments) as process:
            yield detector, process
