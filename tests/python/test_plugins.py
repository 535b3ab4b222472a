"""Plug-ins in WebAssembly (`examples/plugin`) equal numpy, live and offline; one that misbehaves ends alone.

`./test.sh` builds what they need: a `ronchi` with plug-ins (`RONCHI_BIN`), and the plug-ins in `target/guests`."""

import json
import os
import shutil

import numpy as np
import pytest

import harness
import mib
import scans
from dataset import DataSet

SHAPE, SIGNAL = (6, 9), (64, 64)
GUESTS = harness.PROJECT / "target" / "guests" / "wasm32-unknown-unknown" / "release"
PEAK, FAULTY = GUESTS / "peak_plugin.wasm", GUESTS / "faulty_plugin.wasm"

BUILT_WITHOUT = "was built without plug-ins"


@pytest.fixture(autouse=True)
def plugins(needs, folder):
    for plugin in (PEAK, FAULTY):
        needs(None if plugin.is_file() else f"{plugin} is missing: ./test.sh builds it")
    _, _, error = harness.ronchi("reprocess", folder, "--reduce", f"plugin:path={PEAK}")
    needs(f"{harness.ronchi_binary()} {BUILT_WITHOUT}" if BUILT_WITHOUT in error else None)


@pytest.fixture(name="scan")
def known_scan(folder):
    return scans.write(folder, "scan", SHAPE, SIGNAL, mib.U16)


def record(scan, out, *arguments):
    """Records every frame, whatever becomes of results."""
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


def attributes(data_set, name):
    return json.loads((data_set / "results" / name / "zarr.json").read_text())["attributes"]


def crc32c(data):
    """Bit by bit, the polynomial of iSCSI."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return f"{crc ^ 0xFFFFFFFF:08x}"


def test_live_and_offline_equal_numpy(scan, folder):
    """Stored live, and computed again from disk: the same bits as numpy, and the file that made them."""
    above = float(np.median(np.asarray(scan.frames).reshape(SHAPE[0] * SHAPE[1], -1).max(axis=1)))
    asked = ["--reduce", f"brightest=plugin:path={PEAK},above={above}", "--total"]
    report, frames = record(scan, folder / "a.ronchi", *asked)
    assert report["ended_results"] == []
    expected = peaks(frames, above)
    assert np.array_equal(DataSet(folder / "a.ronchi").array("results/brightest"), expected, equal_nan=True)
    assert 0 < np.isnan(expected).sum() < expected.size
    about = attributes(folder / "a.ronchi", "brightest")
    assert about["plugin"] == {"file": PEAK.name, "crc32c": crc32c(PEAK.read_bytes())}
    assert about["unit"] == "px, px, counts"

    out = folder / "again"
    status, _, log = harness.ronchi("reprocess", folder / "a.ronchi", *asked, "--out", out, "--format", "npy", "--json")
    assert status == 0, log
    assert np.array_equal(np.load(out / "brightest.npy"), expected, equal_nan=True)


def test_frames_of_a_position_are_merged(scan, folder):
    """Two frames for each position: `merge` brings them together."""
    record(scan, folder / "a.ronchi")
    frames = np.asarray(scan.frames).reshape(SHAPE[0] * SHAPE[1] // 2, 2, *SIGNAL)
    asked = ["--scan", "3x9", "--frames-per-position", "2", "--reduce", f"brightest=plugin:path={PEAK}"]
    out = folder / "again"
    status, _, log = harness.ronchi("reprocess", folder / "a.ronchi", *asked, "--out", out, "--format", "npy")
    assert status == 0, log
    brightest = frames.max(axis=1).reshape(27, -1)
    rows, columns = np.unravel_index(brightest.argmax(axis=1), SIGNAL)
    expected = np.stack([rows, columns, brightest.max(axis=1)], axis=-1).reshape(3, 9, 3)
    assert np.array_equal(np.load(out / "brightest.npy"), expected)


# What a plug-in is told to do wrong, and a part of the reason that is given.
FAULTS = {
    "trap": "it trapped",
    "loop": "used up the 5000000 instructions",
    "hog": "more than the 16 MiB",
    "deep": "call stack exhausted",
    "nonsense": "1000 numbers came back, must be 1",
    "refuse": "is not to its taste.....",
    "merge_loop": "merging: it used up the 500000 instructions",
    "finish_trap": "finishing: it trapped",
    "finish_nonsense": "0 numbers came back, must be 1",
    "describe_trap": "describing: it trapped",
    "describe_loop": "describing: it used up the 500000 instructions",
    "describe_hog": "more than the 16 MiB",
    "describe_huge": "must have a product of 1 to",
    "describe_name": "an axis is called",
}


def test_what_misbehaves_ends_alone(scan, folder):
    """All at once, beside one that behaves: each ends with its reason, the recording and the rest are whole."""
    bounds = f"path={FAULTY},fuel=5000000,memory_mib=16"
    faults = [f"{fault}=plugin:{bounds},fault={fault}" for fault in FAULTS]
    good = [f"counts=plugin:{bounds},fault=none", f"brightest=plugin:path={PEAK}"]
    asked = [part for text in [*faults, *good] for part in ("--reduce", text)]
    report, frames = record(scan, folder / "a.ronchi", *asked, "--total")
    reasons = {ended["name"]: ended["reason"] for ended in report["ended_results"]}
    assert set(reasons) == set(FAULTS), reasons
    data = DataSet(folder / "a.ronchi")
    for name, part in FAULTS.items():
        assert part in reasons[name] and len(reasons[name]) < 500 and "\n" not in reasons[name], (name, reasons[name])
        assert np.isnan(data.array(f"results/{name}")).all(), name
        assert attributes(folder / "a.ronchi", name)["ended"] == reasons[name]
    total = frames.sum(axis=(2, 3), dtype="u8")
    assert np.array_equal(data.array("results/total"), total)
    assert np.array_equal(data.array("results/counts")[..., 0], total)
    assert np.array_equal(data.array("results/brightest"), peaks(frames, 0))


def test_wrong_files_and_parameters_are_refused(folder):
    """Before anything is opened, with the parameter that is wrong."""
    folder = folder / "files"
    folder.mkdir()
    contents = {
        "garbage": (b"GIF89a", "is no plug-in"),
        "module": (b"\0asm\1\0\0\0", "is no plug-in"),
        "component": (b"\0asm\x0d\0\1\0", "is no plug-in"),
        "cut": (PEAK.read_bytes()[:1000], "is no plug-in"),
        "large": (bytes((8 << 20) + 1), "is not a file of at most 8388608 bytes"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe")
    expected = {name: part for name, (_, part) in contents.items()}
    expected |= {"missing": "cannot be read", "pipe": "is not a file", ".": "is not a file"}
    for name, part in expected.items():
        assert_refused(folder, f"path={folder / name}", "`path`: ", part)
    assert_refused(folder, f"path={PEAK},fuel=0", "`fuel`: ", "must be 1 to")
    assert_refused(folder, f"path={PEAK},memory_mib=5000", "`memory_mib`: ", "must be 1 to 4096 MiB")
    assert_refused(folder, "above=3", "path")


def assert_refused(folder, parameters, *parts):
    status, _, error = harness.ronchi("reprocess", folder, "--reduce", f"plugin:{parameters}")
    assert status == 2 and all(part in error for part in parts), (parameters, error)


def test_what_a_plugin_refuses_is_refused(scan, folder):
    """Its parameters are its own: it says what is wrong with them."""
    record(scan, folder / "a.ronchi")
    asked = ["--reduce", f"plugin:path={PEAK},abvoe=3", "--out", folder / "again"]
    status, _, error = harness.ronchi("reprocess", folder / "a.ronchi", *asked)
    assert status == 2 and "abvoe" in error and "above" in error, error


def test_paths_start_at_the_configuration(folder):
    """As all paths there do; a wrong file is found before anything starts."""
    shutil.copy(PEAK, folder / "peak.wasm")
    text = '[[link]]\nsource = "merlin://127.0.0.1"\n[data]\ndirectory = "."\n[[reduction]]\nkind = "plugin"\n'
    config = folder / "lab.toml"
    config.write_text(text + 'path = "peak.wasm"\nabove = 100\n')
    status, _, error = harness.ronchi("check-config", config)
    assert status == 0, error
    config.write_text(text + 'path = "lab.toml"\n')
    status, _, error = harness.ronchi("check-config", config)
    assert status == 2 and "reduction[0].path" in error and "is no plug-in" in error, error
