"""Every consumer of a data set, in every state of one: while it is written, finished, with gaps, from tiles, compressed.

A consumer is what somebody has installed: it gets the path of a data set and returns frames. Growing data sets are held
still (the detector is stopped with a signal in the middle of a series), so that slow consumers see one in any case.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import warnings

import dask.array
import h5py
import hdf5plugin  # Reads compressed chunks in this process: h5py, LiberTEM and hyperspy do not load it themselves.
import numpy as np
import pytest
import xarray

import harness
import scans
import stranger
import test_interop
import test_stranger
from dataset import FLAG_OK, DataSet

QUIET = ["--live-zmq", "off", "--http", "off"]  # Nobody looks at these recordings.
STRANGERS = harness.PROJECT / ".venv-strangers" / "bin" / "python"


class Sample:
    """A data set, its frames as they should be, and how many of them are final."""

    def __init__(self, path, frames, visible, scan, tiles=1):
        self.path, self.frames, self.visible, self.scan, self.tiles = path, frames, visible, scan, tiles


def by_nexus(sample):
    with h5py.File(sample.path / "scan.nxs") as file:
        return file["entry/instrument/detector/data"][...]


def by_nexus_4d(sample):
    with h5py.File(sample.path / "scan.nxs") as file:
        return file["entry/data/data"][...]


def by_libertem(sample):
    return _libertem_frames("auto", str(sample.path / "scan.nxs"))


def by_libertem_dask(sample):
    array = dask.array.from_zarr(str(sample.path / "frames")).reshape((*sample.scan, *sample.frames.shape[1:]))
    return _libertem_frames("dask", array, sig_dims=2)


def _libertem_frames(kind, source, **options):
    import libertem.api
    from libertem.executor.inline import InlineJobExecutor
    from libertem.udf.raw import PickUDF

    context = libertem.api.Context(executor=InlineJobExecutor())
    data = context.load(kind, source, **options)
    everything = np.ones(tuple(data.shape.nav), bool)
    return context.run_udf(data, PickUDF(), roi=everything)["intensity"].data


def by_hyperspy(sample):
    import hyperspy.api

    path = str(sample.path / "scan.nxs")
    signal_2d = hyperspy.api.load(path, lazy=True)[0]
    assert signal_2d == signal_2d and signal_2d.axes_manager.signal_dimension == 2
    (signal_2d,) = [hyperspy.api.load(path, lazy=True, nxdata_only=True)]
    assert signal_2d.axes_manager.navigation_shape == sample.scan[::-1]
    assert [axis.units for axis in signal_2d.axes_manager._axes] == ["px"] * 4
    return signal_2d.data.compute(scheduler="synchronous")


def by_py4dstem(sample):
    if not STRANGERS.is_file():
        pytest.skip("py4DSTEM is not installed: ./setup.sh makes .venv-strangers")
    with tempfile.TemporaryDirectory() as folder:
        code = "import sys, numpy, py4DSTEM; numpy.save(sys.argv[2], py4DSTEM.read(sys.argv[1]).data)"
        target = pathlib.Path(folder) / "frames.npy"
        command = [STRANGERS, "-W", "ignore", "-c", code, sample.path / "scan.emd", target]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        return np.load(target)


def by_xarray(sample):
    return xarray.open_zarr(sample.path, consolidated=False, drop_variables=["frames4d"])["frames"].to_numpy()


def by_zarr_4d(sample):
    import zarr

    return zarr.open_array(str(sample.path / "frames4d"), mode="r")[...]


def by_nxvalidate(sample):
    """No error against NXem; the definitions come with the package nexusformat. It opens its file for writing, and what
    the file leads to as well: it gets a copy that leads nowhere."""
    import nexusformat

    definitions = pathlib.Path(nexusformat.__file__).parent / "definitions"
    program = pathlib.Path(os.sys.executable).with_name("nxvalidate")
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(sample.path / "scan.nxs", folder)
        done = subprocess.run([program, "-d", definitions, copy], capture_output=True, text=True, timeout=60)
    text = done.stdout + done.stderr
    assert "Application Definition: NXem" in text and "Total number of errors: 0" in text, text
    return by_nexus(sample)


def _plain(reader):
    """A reader of `test_interop`, for whole arrays."""

    def by(sample):
        return reader(DataSet(sample.path), 0, len(sample.frames))

    by.__name__ = reader.__name__
    return by


PLAIN = [_plain(reader) for reader in test_interop.READERS]
COMPANIONS = [by_nexus, by_nexus_4d, by_libertem, by_libertem_dask, by_hyperspy, by_py4dstem, by_xarray, by_nxvalidate]
CONSUMERS = [*PLAIN, *COMPANIONS, by_zarr_4d]
# Segments of tiles hold parts of frames: who reads segments alone is not for tiled data sets.
OF_SEGMENTS = {"by_h5py", "by_memmap"}
COMPRESS = ["--compress", "lz4"]


@pytest.fixture(scope="module")
def module_folder():
    base = harness.PROJECT / "target" / "pytest"
    base.mkdir(parents=True, exist_ok=True)
    path = pathlib.Path(tempfile.mkdtemp(dir=base))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def known(module_folder):
    return scans.write(module_folder, "scan", (24, 32), (128, 128))


@pytest.fixture(scope="module")
def finished(module_folder, known):
    return record_finished(module_folder / "finished.ronchi", known)


@pytest.fixture(scope="module")
def compressed_finished(module_folder, known):
    return record_finished(module_folder / "compressed_finished.ronchi", known, *COMPRESS)


def record_finished(out, known, *arguments):
    with known.simulator() as detector:
        harness.record(detector, out, *known.arguments, *arguments, *QUIET)
    return Sample(out, known.frames, len(known.frames), known.shape)


@pytest.fixture(scope="module")
def growing(module_folder, known):
    yield from record_growing(module_folder / "growing.ronchi", known)


@pytest.fixture(scope="module")
def compressed_growing(module_folder, known):
    yield from record_growing(module_folder / "compressed_growing.ronchi", known, *COMPRESS)


def record_growing(out, known, *arguments):
    with scans.recording_of(known, out, "--silence", 3600, *arguments, *QUIET, rate=400) as (detector, process):
        data = DataSet(out)
        harness.until(lambda: data.visible() >= len(known.frames) // 3, 30, "a third of the frames", alive=process)
        detector.process.signal(signal.SIGSTOP)
        held = harness.until(lambda: _held(data), 30, "the last frames sent are visible", alive=process)
        assert held < len(known.frames), "the whole series had been sent"
        yield Sample(out, known.frames, held, known.shape)
        # A compressed chunk in pieces is written later than others, by the second sync that finds it so.
        assert held <= data.visible() < len(known.frames) and data.manifest()["state"] == "running"
        detector.process.signal(signal.SIGCONT)
        assert process.wait(60) == 0, process.log()


def _held(data):
    """The watermark, once two publications in a row were the same."""
    before = data.progress()
    harness.until(lambda: data.progress()["time_ns"] != before["time_ns"] or _is_quiet(data), 10, "a publication")
    return data.visible() if data.visible() == before["visible_frames"] else None


def _is_quiet(data):
    import time

    return time.time_ns() - data.progress()["time_ns"] > 1_000_000_000


@pytest.fixture(scope="module")
def gappy(module_folder, known):
    return record_gappy(module_folder / "gappy.ronchi", known)


@pytest.fixture(scope="module")
def compressed_gappy(module_folder, known):
    return record_gappy(module_folder / "compressed_gappy.ronchi", known, *COMPRESS)


def record_gappy(out, known, *arguments):
    with known.simulator("--fault", "lose=0.05", "--seed", 11) as detector:
        with harness.recording(detector, out, *known.arguments, "--silence", 2, *arguments, *QUIET) as process:
            assert process.wait(60) == 1, process.log()
    expected = known.frames.copy()
    lost = DataSet(out).flags() != FLAG_OK
    assert lost.any()
    expected[lost] = 0
    return Sample(out, expected, len(expected), known.shape)


@pytest.fixture(scope="module")
def tiled(module_folder):
    return record_tiled(module_folder / "tiles")


@pytest.fixture(scope="module")
def compressed_tiled(module_folder):
    return record_tiled(module_folder / "compressed_tiles", 'compress = "lz4"')


def record_tiled(folder, *data):
    folder.mkdir()
    out = test_stranger.record_tiles(folder, ["0,0,12,32", "12,0,12,32"], *data)
    frames, is_there = stranger.read(out)
    assert is_there.all() and frames.any()
    return Sample(out, frames, len(frames), (6, 10), tiles=2)


STATES = ["growing", "finished", "gappy", "tiled"]


@pytest.mark.parametrize("consumer", CONSUMERS, ids=lambda consumer: consumer.__name__)
@pytest.mark.parametrize("state", STATES + [f"compressed_{state}" for state in STATES])
def test_reads_the_right_pixels(request, state, consumer):
    """All final frames, pixel by pixel."""
    sample = request.getfixturevalue(state)
    if sample.tiles > 1 and consumer.__name__ in OF_SEGMENTS:
        pytest.skip("reads segments, which hold parts of frames here")
    if state.startswith("compressed") and consumer.__name__ == "by_memmap":
        pytest.skip("compressed pixels are no plain array")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = consumer(sample)
    expected = sample.frames
    got = np.asarray(got).reshape(expected.shape)
    scans.assert_same_frames(got[: sample.visible], expected[: sample.visible])
    if not state.endswith("growing"):
        assert len(got) == len(expected)


@pytest.mark.parametrize("state", ["growing", "compressed_growing"])
def test_growing_companion_shows_what_came_later(request, state):
    """A companion written at the start needs no second writing to show frames that came after it."""
    growing = request.getfixturevalue(state)
    with contextlib.closing(h5py.File(growing.path / "scan.nxs")) as file:
        frame = file["entry/instrument/detector/data"][growing.visible - 1]
    assert np.array_equal(frame, growing.frames[growing.visible - 1])


READ_ONE = "import sys, h5py; print(h5py.File(sys.argv[1])['entry/instrument/detector/data'][5].sum())"


def test_filter_is_found_or_missed(compressed_finished):
    """A program that does not know of the filter says so instead of reading zeros; HDF5_PLUGIN_PATH is enough for it."""
    command = [os.sys.executable, "-c", READ_ONE, compressed_finished.path / "scan.nxs"]
    without = {name: value for name, value in os.environ.items() if name != "HDF5_PLUGIN_PATH"}
    refused = subprocess.run(command, env=without, capture_output=True, text=True, timeout=60)
    assert refused.returncode != 0 and "OSError" in refused.stderr, refused.stdout + refused.stderr
    known = {**without, "HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH}
    read = subprocess.run(command, env=known, capture_output=True, text=True, timeout=60, check=True)
    assert int(read.stdout) == compressed_finished.frames[5].sum(dtype="u8")
