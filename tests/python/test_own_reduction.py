"""Reductions of a lab's own (`examples/own-reduction`) equal numpy's, live and offline; one that fails ends alone."""

import json
import pathlib

import numpy as np
import pytest

import harness
import mib
import scans
from dataset import DataSet

SHAPE, SIGNAL = (6, 9), (64, 64)


@pytest.fixture(name="own", autouse=True)
def own_program(monkeypatch, needs):
    """The example's program, which does all that `ronchi` does: beside `ronchi`, or as `cargo test` builds it."""
    programs = [harness.ronchi_binary().with_name("own-reduction"), harness.PROJECT / "target/debug/own-reduction"]
    program = next(filter(pathlib.Path.is_file, programs), None)
    needs(None if program else f"{programs[0]} is missing: cargo build -p own-reduction")
    monkeypatch.setattr(harness, "ronchi_binary", lambda: program)


@pytest.fixture(name="scan")
def known_scan(folder):
    return scans.write(folder, "scan", SHAPE, SIGNAL, mib.U16)


def record(scan, out, *arguments):
    with scan.simulator() as detector:
        report = harness.record(detector, out, *scan.arguments, *arguments)
    frames = DataSet(out).read_all()
    scans.assert_same_frames(frames, scan.frames)
    assert report["state"] == "complete" and report["gaps"] == []
    return report, frames.reshape(*SHAPE, *SIGNAL)


def peaks(frames, above):
    """Row, column and counts of the first brightest pixel; NaN where it is not above."""
    lines = frames.reshape(*SHAPE, -1)
    place = lines.argmax(axis=-1)
    rows, columns = np.unravel_index(place, SIGNAL)
    found = np.stack([rows, columns, lines.max(axis=-1)], axis=-1).astype("f8")
    found[lines.max(axis=-1) <= above] = np.nan
    return found


def test_live_and_offline_equal_numpy(scan, folder):
    """Stored live, and computed again from disk: the same bits as numpy."""
    above = float(np.median(np.asarray(scan.frames).reshape(SHAPE[0] * SHAPE[1], -1).max(axis=1)))
    least = float(np.median(scan.frames))
    asked = ["--reduce", f"brightest=peak:above={above}", "--reduce", f"occupied:least={least}", "--total"]
    report, frames = record(scan, folder / "a.ronchi", *asked)
    assert report["ended_results"] == []
    expected = {"brightest": peaks(frames, above), "occupied": (frames >= least).mean(axis=(0, 1))}
    data = DataSet(folder / "a.ronchi")
    for name, numbers in expected.items():
        assert np.array_equal(data.array(f"results/{name}"), numbers, equal_nan=True), name
    assert 0 < np.isnan(expected["brightest"]).sum() < expected["brightest"].size

    out = folder / "again"
    status, _, log = harness.ronchi("reprocess", folder / "a.ronchi", *asked, "--out", out, "--format", "npy", "--json")
    assert status == 0, log
    for name, numbers in expected.items():
        assert np.array_equal(np.load(out / f"{name}.npy"), numbers, equal_nan=True), name


def test_a_failure_ends_its_own_result(scan, folder):
    """The recording is whole, the results beside it are right, the reason is in summary, log and attributes."""
    asked = ["--reduce", "peak:saturated=1", "--reduce", "occupied", "--total"]
    report, frames = record(scan, folder / "a.ronchi", *asked)
    (ended,) = report["ended_results"]
    assert ended["name"] == "peak" and "is saturated" in ended["reason"], ended
    data = DataSet(folder / "a.ronchi")
    assert np.isnan(data.array("results/peak")).all()
    assert np.array_equal(data.array("results/occupied"), (frames >= 1).mean(axis=(0, 1)))
    assert np.array_equal(data.array("results/total"), frames.sum(axis=(2, 3), dtype="u8"))
    about = json.loads((folder / "a.ronchi" / "results" / "peak" / "zarr.json").read_text())
    assert about["attributes"]["ended"] == ended["reason"]
