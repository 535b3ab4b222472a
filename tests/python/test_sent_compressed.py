"""Frames that come compressed (tile stream, `bslz4`) are recorded, reduced and read as if they had come as pixels.

The independent encoder is HDF5's own filter 32008; the pixels to compare with are those of the same stream sent raw.
"""

import contextlib
import json
import shutil
import struct

import h5py
import hdf5plugin
import numpy as np
import pytest
import zmq

import harness
import scans
from dataset import DataSet
from test_interop import by_dask, by_h5py, by_tensorstore, by_zarr, by_zarr_group

READERS = [by_h5py, by_zarr, by_zarr_group, by_dask, by_tensorstore]
REDUCTIONS = ["--total", "--com", "--sum", "--max", "--virtual", "ring=ring:32,31,5,20", "--virtual", "d=disk:20,40,9"]
SCAN, COUNT = "12x16", 192


@contextlib.contextmanager
def recording(out, *arguments, scan=SCAN, signal="64x64", encoding="bslz4", rate=100000, sent=()):
    """A receiver of one series and its simulated sender, both running."""
    port = harness.free_port()
    source = [f"tiles+bind://127.0.0.1:{port}"]
    own = ["--out", out, "--json", "--reserve-gib", 0, "--http", "off", "--live-zmq", "off"]
    stream = ["--scan", scan, "--detector", signal, "--encoding", encoding, "--rate", rate, "--dose", 400, *sent]
    with harness.Process([harness.ronchi_binary(), "record", *source, *own, *arguments]) as receiver:
        with harness.Process([harness.ronchi_binary(), "simulate", "tiles", f"tcp://127.0.0.1:{port}", *stream]):
            yield receiver


def record(out, *arguments, status=0, **stream):
    """A series recorded to its end; its report."""
    with recording(out, *arguments, **stream) as process:
        assert process.wait(60) == status, process.log()
        return harness.report(process)


def frames_of(path):
    """All frames through zarr."""
    data = DataSet(path)
    return by_zarr(data, 0, len(data.flags()))


def results_of(path):
    """The bytes of every stored result."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted((path / "results").rglob("*"))
        if file.is_file()
    }


@pytest.fixture(params=["64x64", "67x65"], ids=str)
def pair(request, folder):
    """The same series raw and compressed: paths and the pixels."""
    for encoding in ("raw", "bslz4"):
        report = record(folder / f"{encoding}.ronchi", *REDUCTIONS, signal=request.param, encoding=encoding)
        assert report["state"] == "complete" and report["frames"]["durable"] == COUNT
    return folder / "raw.ronchi", folder / "bslz4.ronchi", frames_of(folder / "raw.ronchi")


def test_every_reader_gets_the_pixels(pair):
    """Frames through every reader, in less room than they take; there is no column of checksums, and nothing is missing."""
    raw, sent, frames = pair
    data = DataSet(sent)
    for reader in READERS:
        for first, end in [(0, COUNT), (COUNT - 1, COUNT), (3, 10)]:
            scans.assert_same_frames(reader(data, first, end), frames[first:end], first)
    sizes = [
        [file.stat().st_size for file in (path / "frames" / "c").rglob("*") if file.is_file()] for path in (raw, sent)
    ]
    assert sum(sizes[1]) < sum(sizes[0])
    assert not np.any(data.flags()) and not (sent / "frame_table" / "crc32c").exists()


def test_results_are_the_same_bit_for_bit(pair):
    """What was reduced live and from disk does not know how frames came."""
    raw, sent, _ = pair
    assert results_of(sent) == results_of(raw) and len(results_of(raw)) > 6


def test_tools_work_on_it(pair, folder):
    """verify, ls, repair, export and replay."""
    raw, sent, frames = pair
    status, printed, errors = harness.ronchi("verify", "--json", sent)
    assert status == 0, printed + errors
    status, printed, _ = harness.ronchi("ls", "--json", sent)
    assert status == 0 and json.loads(printed)[0]["durable"] == COUNT
    status, printed, errors = harness.ronchi("repair", sent)
    assert status == 0, printed + errors
    out = folder / "frames.npy"
    status, printed, errors = harness.ronchi("export", sent, "--to", out, "--order", "frames")
    assert status == 0, printed + errors
    scans.assert_same_frames(np.load(out), frames)
    again = folder / "again.ronchi"
    command = ["record", f"replay:{sent}", "--out", again, "--reserve-gib", 0, *REDUCTIONS]
    status, printed, errors = harness.ronchi(*command)
    assert status == 0, printed + errors
    scans.assert_same_frames(frames_of(again), frames)
    assert results_of(again) == results_of(raw)


def test_pixels_are_stored_when_asked_for(pair, folder):
    """With `--compress none` the data set is as if the frames had come raw: HDF5 face and all."""
    raw, _, frames = pair
    out = folder / "pixels.ronchi"
    signal = "x".join(map(str, frames.shape[1:]))
    record(out, "--compress", "none", signal=signal)
    with h5py.File(DataSet(out).segment_path(0), "r") as file:
        assert np.array_equal(file["data"][:5], frames[:5])
    scans.assert_same_frames(frames_of(out), frames)
    assert (out / "frame_table/crc32c").is_dir()


def test_a_preview_reduces(folder):
    """Nothing is recorded, and everything is received and reduced."""
    report = record(folder / "none.ronchi", "--no-record", *REDUCTIONS)
    assert report["frames"]["received"] == COUNT and report["state"] == "complete", report
    assert report["frames"]["damaged"] == 0 and not (folder / "none.ronchi").exists()
    report = record(folder / "none.ronchi", "--no-record", *REDUCTIONS, status=1, sent=["--spoil", 0.05])
    assert report["frames"]["received"] == COUNT and report["frames"]["damaged"] >= 3, report


def test_frames_that_do_not_decode(folder):
    """They are gaps `damaged`, flagged, zeros; everything else, and the law, is as it should be."""
    whole, out = folder / "whole.ronchi", folder / "out.ronchi"
    record(whole)
    report = record(out, *REDUCTIONS, status=1, sent=["--spoil", 0.05])
    frames, data = frames_of(whole), DataSet(out)
    flags = data.flags()
    bad = np.flatnonzero(flags)
    assert len(bad) >= 3 and set(flags[bad]) == {2}
    assert {gap["reason"] for gap in report["gaps"]} == {"damaged"} and report["frames"]["missing"] == len(bad)
    assert report["frames"]["damaged"] == len(bad)
    assert not report["unsound"] and report["law"][0]["holds"] and report["errors"] == []
    frames[bad] = 0
    for reader in READERS:
        scans.assert_same_frames(reader(data, 0, COUNT), frames)
    total = data.array("results/total").ravel()
    good = np.flatnonzero(flags == 0)
    assert np.array_equal(total[good], frames.sum(axis=(1, 2), dtype="u8")[good])
    assert np.array_equal(data.array("results/sum"), frames.sum(axis=0, dtype="u8"))
    status, printed, _ = harness.ronchi("verify", "--json", out)
    assert status == 0, printed


def test_export_goes_on_behind_a_damaged_chunk(pair, folder):
    """One flipped bit: the export stops and names the frames; with `--keep-going` that chunk alone is left out."""
    _, sent, frames = pair
    path = folder / "a.ronchi"
    shutil.copytree(sent, path)
    data = DataSet(path)
    geometry, segment = data.geometry(), data.segment_path(0)
    stored = bytearray(segment.read_bytes())
    offset = np.frombuffer(bytes(stored[:4096]), "<u8", 4)[2]  # The second chunk.
    stored[offset + 50] ^= 1
    segment.write_bytes(stored)
    k = geometry.frames_per_chunk
    out = folder / "x.npy"
    status, _, errors = harness.ronchi("export", path, "--to", out, "--order", "frames")
    assert status == 1 and f"frames {k} to {2 * k - 1}" in errors, errors
    status, printed, errors = harness.ronchi("export", path, "--to", out, "--order", "frames", "--keep-going")
    assert status == 1 and f"{k} FRAMES ARE DAMAGED" in printed, printed + errors
    expected = frames.copy()
    expected[k : 2 * k] = 0
    scans.assert_same_frames(np.load(out), expected)
    flags = np.load(folder / "x.npy.flags.npy")
    assert np.flatnonzero(flags).tolist() == list(range(k, 2 * k))


def test_a_killed_receiver_keeps_what_it_called_durable(folder, rng):
    """kill -9 at random moments: below the watermark everything is there and right, and repair makes the rest intact."""
    whole = folder / "whole.ronchi"
    record(whole, scan="20x30")
    frames = frames_of(whole)
    acknowledged = 0
    for number in range(6):
        data = DataSet(folder / f"killed-{number}.ronchi")
        goal = rng.randrange(0, 500)
        with recording(data.path, scan="20x30", rate=rng.choice([600, 1500])) as process:
            seen = lambda: data.path.exists() and (data.path / "progress.json").exists() and data.durable() >= goal
            harness.until(seen, 30, f"{goal} durable frames", alive=process)
            process.kill()
            durable = data.durable()
        acknowledged += durable
        scans.assert_same_frames(by_zarr(data, 0, durable), frames[:durable])
        assert not np.any(data.array("frame_table/flags")[:durable])
        status, printed, errors = harness.ronchi("repair", data.path)
        assert status == 0, printed + errors
        status, printed, errors = harness.ronchi("verify", "--json", data.path)
        assert status == 0, printed + errors
        flags = data.flags()
        assert not np.any(flags[:durable])
        there = np.flatnonzero(flags == 0)
        got = by_zarr(data, 0, len(flags))
        scans.assert_same_frames(got[there], frames[there])
        assert not np.any(got[flags != 0])
    assert acknowledged > 300


def test_frames_of_the_hdf5_filter(folder):
    """An encoder that is not ours: blocks of several sizes, big-endian pixels, frames that do and do not compress."""
    numbers = np.random.default_rng(5)
    frames = numbers.poisson(0.3, (40, 80, 96)).astype(">u2")
    frames[7:9] = numbers.integers(0, 1 << 16, (2, 80, 96))
    frames[20] = 0
    port = harness.free_port()
    out = folder / "out.ronchi"
    context = zmq.Context()
    push = context.socket(zmq.PUSH)
    push.connect(f"tcp://127.0.0.1:{port}")
    common = {"v": 1, "series": "hdf5", "region": [0, 0, 80, 96], "dtype": ">u2", "encoding": "bslz4"}
    with harness.Process(
        [harness.ronchi_binary(), "record", f"tiles+bind://127.0.0.1:{port}", "--out", out, "--json", "--total"]
        + ["--reserve-gib", "0", "--http", "off", "--live-zmq", "off"]
    ) as process:
        push.send(json.dumps({**common, "type": "begin", "detector": [80, 96], "frames": len(frames)}).encode())
        for number, frame in enumerate(frames):
            with h5py.File("frame.h5", "w", driver="core", backing_store=False) as file:
                block = [0, 1024, 4096][number % 3]  # Pixels; 0 is the filter's own choice.
                options = hdf5plugin.Bitshuffle(nelems=block, cname="lz4")
                stored = file.create_dataset("f", data=frame, chunks=frame.shape, **options)
                _, payload = stored.id.read_direct_chunk((0, 0))
            assert struct.unpack(">Q", payload[:8])[0] == frame.nbytes
            push.send_multipart([json.dumps({**common, "type": "tile", "frame": number}).encode(), payload])
        push.send(json.dumps({"v": 1, "type": "end", "series": "hdf5", "frames": len(frames)}).encode())
        assert process.wait(60) == 0, process.log()
    push.close(linger=0)
    context.term()
    for reader in READERS:
        scans.assert_same_frames(reader(DataSet(out), 0, len(frames)), frames)
    assert harness.ronchi("verify", out)[0] == 0
