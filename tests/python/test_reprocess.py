"""`ronchi reprocess`: results of recorded frames equal numpy's, in the data set and in files, and nothing else changes."""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import signal

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

import fabricate
import harness
import results_ref

SIGNAL = (24, 40)
SCAN = {"shape": [7, 6]}
DISK = (11, 20, 6.5)
ASKED = ["--virtual", "bf=disk:11,20,6.5", "--total", "--com", "--sum", "--max"]
PER_SEGMENT, PER_CHUNK = 9, 3


@pytest.fixture(name="frames", scope="module")
def known_frames():
    return np.random.default_rng(8).integers(1, 60000, (42, *SIGNAL)).astype(">u2")


def make(folder, frames, **options):
    """A data set of five segments, and one of missing frames where `absent` says so."""
    return fabricate.data_set(folder / "a.ronchi", frames, PER_SEGMENT, PER_CHUNK, **options)


def reprocess(*arguments, code=0):
    status, out, err = harness.ronchi("reprocess", *arguments, "--json")
    assert status == code, f"{out}\n{err}"
    return json.loads(out) if out else err


def checksums(path):
    """Of all files but results."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and "results" not in file.parts)
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def expected(frames, present=None):
    """By numpy: integer sums, NaN and 0 where a frame is not there."""
    wide = frames.astype("u8")
    present = np.ones(len(frames), bool) if present is None else present
    inside = results_ref.disk(SIGNAL, *DISK)
    com = results_ref.numpy_com(frames[None])[0]
    com[~present] = np.nan
    return {
        "bf": wide[:, inside].sum(axis=1) * present,
        "total": wide.sum(axis=(1, 2)) * present,
        "com": com,
        "sum": wide[present].sum(axis=0),
        "max": frames[present].max(axis=0).astype("u2"),
        "valid": present.astype("u1"),
    }


def by_scan(array):
    return array.reshape(*SCAN["shape"], *array.shape[1:]) if len(array) == 42 else array


def test_stored_and_as_files(folder, frames):
    """The same numbers by zarr, numpy and tifffile; a grey picture by PIL; frames that are not there are told."""
    data_set = make(folder, frames, scan=SCAN, absent=(2,))
    before = checksums(data_set)
    out = folder / "out"
    summary = reprocess(data_set, *ASKED, "--out", out, "--format", "npy,tif,png", "--verify")
    assert summary["stored"] and summary["frames"] == {"reduced": 33, "missing": 9, "damaged": 0, "verified": 33}
    assert summary["bytes"] == 33 * frames[0].nbytes and summary["bytes_per_second"] > 0
    assert sorted(summary["left_out"]) == ["com.png"]
    assert checksums(data_set) == before, "the recording has changed"
    present = np.ones(42, bool)
    present[18:27] = False
    group = zarr.open_group(str(data_set / "results"), mode="r")
    assert sorted(group.array_keys()) == sorted(expected(frames))
    for name, values in expected(frames, present).items():
        values = by_scan(values)
        stored = group[name][...]
        assert stored.dtype == values.dtype and stored.shape == values.shape, name
        np.testing.assert_allclose(stored, values, rtol=1e-14, atol=0, err_msg=name)
        assert np.load(out / f"{name}.npy").tobytes() == stored.tobytes(), name
        pages = tifffile.imread(out / f"{name}.tif")
        np.testing.assert_array_equal(np.moveaxis(pages, 0, -1) if stored.ndim == 3 else pages, stored, err_msg=name)
    grey = np.array(Image.open(out / "total.png"))
    assert grey.shape == (7, 6) and grey.max() == 65535
    assert group["bf"].attrs["valid"] == "valid"
    about = group["bf"].attrs["reprocessed"]
    assert about["frames"] == [0, 42] and about["scan"]["shape"] == [7, 6]
    assert harness.ronchi("verify", data_set)[0] == 0


@pytest.mark.parametrize("dtype", ["|u1", "<u2", ">u2", "<u4", ">u4", "<f4", ">f4"])
def test_every_type_by_any_number_of_threads(folder, frames, dtype):
    """A line of frames, no scan; one to five threads and every way to read give the same bytes."""
    frames = (frames % 251).astype(dtype)
    data_set = make(folder, frames)
    seen = set()
    for threads, read in [(1, "auto"), (2, "mapped"), (5, "direct"), (3, "plain")]:
        out = folder / f"{threads}"
        reprocess(data_set, *ASKED, "--no-store", "--out", out, "--threads", threads, "--read", read)
        seen.add(tuple((out / f"{name}.npy").read_bytes() for name in sorted(expected(frames))))
    assert len(seen) == 1
    assert not (data_set / "results").exists()
    for name, values in expected(frames.astype("u4")).items():
        np.testing.assert_allclose(np.load(folder / "1" / f"{name}.npy"), values, rtol=1e-14, err_msg=name)


def test_results_of_the_same_name_are_not_mixed(folder, frames):
    """Another shape replaces the old one as a whole; files of the old one are gone; other results stay."""
    data_set = make(folder, frames, scan=SCAN)
    reprocess(data_set, *ASKED)
    reprocess(data_set, "--scan", "21x2", "--virtual", "bf=disk:11,20,6.5")
    group = zarr.open_group(str(data_set / "results"), mode="r")
    assert group["bf"].shape == (21, 2) and group["total"].shape == (7, 6) and group["valid"].shape == (7, 6)
    assert np.array_equal(group["bf"][...].ravel(), expected(frames)["bf"])
    assert group["bf"].attrs["valid"] == "bf.valid" and group["bf.valid"].shape == (21, 2)
    assert not list(data_set.rglob("*.part"))


def test_files_are_not_overwritten(folder, frames):
    data_set = make(folder, frames)
    (folder / "out").mkdir()
    (folder / "out" / "valid.tif").write_text("mine")
    error = reprocess(data_set, "--total", "--out", folder / "out", "--format", "npy,tif", code=2)
    assert "valid.tif exists already" in error
    assert [path.name for path in (folder / "out").iterdir()] == ["valid.tif"] and not (data_set / "results").exists()


@contextlib.contextmanager
def being_written(data_set):
    """The data set as one whose receiver has it."""
    with open(data_set / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def come_to(data_set, frames, state="running"):
    """Publishes progress up to so many frames."""
    path = data_set / "progress.json"
    progress = {**json.loads(path.read_text()), "visible_frames": frames, "durable_frames": frames, "state": state}
    (data_set / "progress.json.part").write_text(json.dumps(progress))
    (data_set / "progress.json.part").rename(path)


def test_while_it_is_written(folder, frames):
    """As far as it has come into files, with a code of its own into the data set; with --follow to the end, and then into
    the data set as well. The first signal ends following: what there is goes into files, and nowhere else."""
    data_set = make(folder, frames, scan=SCAN, state="running")
    come_to(data_set, 20)
    command = [harness.ronchi_binary(), "reprocess", data_set, *ASKED, "--json", "--follow", "--out"]
    with being_written(data_set):
        assert "being written" in reprocess(data_set, *ASKED, code=3)
        summary = reprocess(data_set, *ASKED, "--out", folder / "now")
        assert not summary["stored"] and summary["range"] == [0, 20] and summary["condition"] == "running"
        values = expected(frames, np.arange(42) < 20)
        assert np.array_equal(np.load(folder / "now" / "bf.npy"), by_scan(values["bf"]))
        with harness.Process([*command, folder / "stopped"]) as process:
            harness.until(lambda: has_opened(process.pid, data_set), 30, "it reads", alive=process)
            process.signal(signal.SIGINT)
            assert process.wait(30) == 1, process.log()
            summary = json.loads(process.stdout())
        assert summary["stopped"] and not summary["stored"] and not (data_set / "results").exists()
        assert np.load(folder / "stopped" / "valid.npy").sum() == summary["frames"]["reduced"] <= 20
        process = harness.Process([*command, folder / "end"])
        come_to(data_set, 31)
    with process:
        manifest = json.loads((data_set / "zarr.json").read_text())
        come_to(data_set, 42, "complete")
        manifest["attributes"]["ronchi"]["state"] = "complete"
        # All at once, as the receiver does: `reprocess` may read it at any moment.
        (data_set / "zarr.json.part").write_text(json.dumps(manifest))
        (data_set / "zarr.json.part").rename(data_set / "zarr.json")
        assert process.wait(30) == 0, process.log()
        summary = json.loads(process.stdout())
    if summary["condition"] == "complete":  # Else it looked between the lock and the manifest, as at one that has died.
        assert summary["range"] == [0, 42]
    assert summary["stored"]
    group = zarr.open_group(str(data_set / "results"), mode="r")
    assert np.array_equal(group["bf"][...], np.load(folder / "end" / "bf.npy"))


def has_opened(pid, data_set):
    """Whether the process has a file of the data set open."""
    for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(link).startswith(str(data_set)):
                return True
    return False
