"""The command line as a script sees it: exit statuses, the JSON line, refusals that touch nothing."""

import json
import os
import re
import signal
import subprocess

import numpy as np
import pytest

import harness
import scans
from dataset import FLAG_OK, DataSet


@pytest.fixture
def small(folder):
    """An 8x8 scan of 64x64 u16 frames."""
    return scans.write(folder, "small", (8, 8), (64, 64))


def test_help_and_version_succeed():
    """`--help` lists the subcommands; `--version` prints one line."""
    status, out, _ = harness.ronchi("--help")
    assert status == 0
    for command in ("record", "simulate", "demo", "serve", "check-config"):
        assert re.search(rf"^\s+{command}\b", out, re.MULTILINE), command
    status, out, _ = harness.ronchi("--version")
    assert status == 0 and re.fullmatch(r"ronchi \d+\.\d+\.\d+.*\n", out)


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["record"],
        ["record", "http://127.0.0.1:1", "--out", "x.ronchi", "--scan", "2x2"],
        ["record", "merlin://127.0.0.1:1", "--out", "x.ronchi", "--scan", "2"],
        ["record", "merlin://127.0.0.1:1", "--out", "x.ronchi", "--scan", "0x2"],
        ["record", "merlin://127.0.0.1:1", "--out", "x.ronchi", "--scan", "2x2", "--virtual", "a=square:1"],
        ["record", "merlin://127.0.0.1:1", "--out", "x.ronchi", "--scan", "2x2", "--virtual", "../a=disk:1,1,1"],
        ["record", "merlin://127.0.0.1:1", "--out", "x.ronchi", "--scan", "2x2", "--virtual", "a=npy:missing.npy"],
        ["record", "merlin://127.0.0.1:1", "--out", "x.ronchi", "--scan", "2x2", "--reserve-gib", "nan"],
    ],
    ids=lambda arguments: " ".join(arguments[-2:]),
)
def test_wrong_arguments_fail_with_a_message_and_write_nothing(folder, arguments):
    """A mistake is refused at once, in words, before anything is created."""
    status, _, err = harness.ronchi(*arguments, cwd=folder)
    assert status not in (0, 101) and status > 0
    assert err.strip() and "panicked" not in err
    assert list(folder.iterdir()) == []


def test_a_recording_goes_on_when_nobody_reads_what_it_prints(folder, small):
    """Both outputs are pipes whose readers have gone, as after `| head`: the data set is whole, and the status says so."""
    reader, gone = os.pipe()
    os.close(reader)
    out = folder / "out.ronchi"
    try:
        with small.simulator() as detector:
            arguments = [*detector.record_arguments, "--out", out, "--json", "--reserve-gib", 0]
            command = [str(part) for part in (harness.ronchi_binary(), "record", *arguments)]
            env = {**os.environ, "RONCHI_LOG": "info"}
            pipes = {"stdin": subprocess.DEVNULL, "stdout": gone, "stderr": gone}
            assert subprocess.run(command, **pipes, env=env, timeout=60).returncode == 0
        command = [harness.ronchi_binary(), "ls", folder]
        assert subprocess.run(command, **pipes, timeout=60).returncode == 0
    finally:
        os.close(gone)
    assert (DataSet(out).flags() == FLAG_OK).all()
    scans.assert_same_frames(DataSet(out).read_all(), small.frames)


def test_a_series_that_does_not_fit_is_refused_before_it_begins(folder, small):
    """The message says what is needed, what is free and what would fit; nothing is left behind."""
    before = set(folder.iterdir())
    with small.simulator() as detector:
        with harness.recording(detector, folder / "out.ronchi", "--reserve-gib", 1048576) as process:
            assert process.wait(60) == 2, process.log()
            message = process.stderr()
    assert re.search(r"no room for 64 frames: \d+ bytes needed, \d+ free, 1125899906842624 kept in reserve;", message)
    assert re.search(r"; 0 frames \(0 scan rows\) would fit", message), message
    assert set(folder.iterdir()) == before


def test_json_line_of_a_complete_recording(folder, small):
    """The last line of `--json` has every documented field, with types and sums that agree."""
    out = folder / "out.ronchi"
    with small.simulator() as detector:
        with harness.recording(detector, out, *small.arguments) as process:
            assert process.wait(60) == 0, process.log()
            lines = process.stdout().strip().splitlines()
    report = json.loads(lines[-1])
    assert {"dataset", "state", "frames", "gaps", "rates", "seconds"} <= report.keys()
    assert report["state"] == "complete" and report["gaps"] == []
    assert (folder / report["dataset"]).resolve() == out.resolve()
    assert {"announced", "received", "durable", "missing"} <= report["frames"].keys()
    assert all(isinstance(report["frames"][key], int) for key in ("announced", "received", "durable", "missing"))
    assert report["seconds"] > 0
    assert report["rates"]["frames_per_s"] > 0 and report["rates"]["gb_per_s"] > 0
    scans.assert_complete(out, report, small)


def test_existing_data_set_is_refused_and_left_as_it_is(folder, small):
    """Recording into a name that exists fails and changes not one byte of it."""
    out = folder / "out.ronchi"
    with small.simulator() as detector:
        harness.record(detector, out, *small.arguments)
    before = contents(out)
    with small.simulator() as detector:
        with harness.recording(detector, out, *small.arguments) as process:
            assert process.wait(60) == 3, process.log()
            assert "exists already" in process.stderr()
    assert contents(out) == before
    # Refused before anybody was asked for frames: here nobody would answer.
    address = f"merlin://127.0.0.1:{harness.free_port()}"
    assert harness.ronchi("record", address, "--out", out, "--reserve-gib", 0)[0] == 3
    assert contents(out) == before


def contents(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_no_record_writes_no_frames(folder, small):
    """`--no-record` reduces and stores no segment."""
    out = folder / "out.ronchi"
    with small.simulator() as detector:
        with harness.recording(detector, out, *small.arguments, "--no-record", "--total") as process:
            process.wait(60)
            assert harness.report(process)["frames"]["received"] == len(small.frames)
    assert list(folder.rglob("c/*/0/0")) == [] or not (out / "frames").exists()


def test_nothing_listens_at_the_address(folder):
    """A detector that is not there: failure within a deadline or on SIGTERM, never success, no complete data set."""
    address = f"merlin://127.0.0.1:{harness.free_port()}"
    command = [harness.ronchi_binary(), "record", address, "--out", folder / "x.ronchi", "--scan", "2x2", "--json"]
    with harness.Process(command) as process:
        try:
            process.wait(5)
        except AssertionError:
            harness.terminate(process)
        assert process.returncode != 0
    assert not (folder / "x.ronchi" / "frames" / "c").exists()


def test_detector_that_hangs_up_leaves_an_honest_data_set(folder, small):
    """The simulator dies in mid series: failure, the frames that came are durable and right, the rest are gaps."""
    out = folder / "out.ronchi"
    data = DataSet(out)
    scan = scans.write(folder, "long", (24, 32), (128, 128))
    with scans.recording_of(scan, out, rate=400) as (detector, process):
        harness.until(lambda: data.visible() > 100, 30, "100 visible frames", alive=process)
        detector.process.kill()
        assert process.wait(60) != 0, process.log()
        report = harness.report(process)
    assert report["state"] != "complete"
    assert sum(gap["count"] for gap in report["gaps"]) == report["frames"]["missing"] > 0
    durable = report["frames"]["durable"]
    assert durable > 100
    scans.assert_same_frames(data.read(0, durable), scan.frames[:durable])


def test_sigterm_drains_and_seals(folder, scan):
    """SIGTERM in mid series: the process ends within its grace time, and what it reports as durable is there."""
    data = DataSet(folder / "out.ronchi")
    with scans.recording_of(scan, data.path, rate=400) as (_, process):
        harness.until(lambda: data.visible() > 100, 30, "100 visible frames", alive=process)
        process.signal(signal.SIGTERM)
        process.wait(15)
        report = harness.report(process)
    durable = report["frames"]["durable"]
    assert 100 < durable < len(scan.frames) and report["state"] != "complete"
    assert np.array_equal(np.flatnonzero(data.flags() == FLAG_OK), np.arange(durable))
    scans.assert_same_frames(data.read(0, durable), scan.frames[:durable])


def example_configs():
    return sorted((harness.PROJECT / "examples").glob("*.toml"))


@pytest.mark.parametrize("path", example_configs(), ids=lambda path: path.name)
def test_example_configurations_are_valid(path):
    """Every example that the project ships passes `check-config`."""
    status, out, err = harness.ronchi("check-config", path, cwd=harness.PROJECT)
    assert status == 0, out + err


@pytest.mark.parametrize(
    ("text", "named"),
    [("no_such_key = 1\n", "no_such_key"), ("this is not toml", "toml"), ("", "")],
    ids=["unknown key", "not TOML", "empty"],
)
def test_wrong_configuration_is_refused_with_file_and_key(folder, text, named):
    """`check-config` names the file and what is wrong, and creates nothing."""
    path = folder / "wrong.toml"
    path.write_text(text)
    status, out, err = harness.ronchi("check-config", path, cwd=folder)
    assert status > 0 and "panicked" not in err
    assert "wrong.toml" in out + err and named.lower() in (out + err).lower()
    assert list(folder.iterdir()) == [path]


def test_check_config_of_a_missing_file_names_it(folder):
    status, out, err = harness.ronchi("check-config", folder / "absent.toml")
    assert status > 0 and "absent.toml" in out + err


def test_simulator_repeats_itself_for_a_seed(folder):
    """The same seed gives the same frames, another seed others."""
    stored = []
    for name, seed in [("first", 5), ("again", 5), ("other", 6)]:
        shape = ["--scan", "6x7", "--detector", "64x48", "--dtype", "u16", "--seed", seed]
        with harness.own_simulator(*shape) as detector:
            harness.record(detector, folder / f"{name}.ronchi", "--scan", "6x7")
        stored.append(DataSet(folder / f"{name}.ronchi").read_all())
    assert stored[0].shape == (42, 64, 48)
    scans.assert_same_frames(stored[1], stored[0])
    assert (stored[2] != stored[0]).any()
