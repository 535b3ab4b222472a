"""Compressed data sets (`--compress lz4`) open in every Zarr v3 reader and, with the Blosc filter, in HDF5, while they grow,
afterwards, and with frames missing.
"""

import json
import random

import h5py
import hdf5plugin  # noqa: F401, the filter that reads compressed chunks
import numcodecs
import numpy as np
import pytest

import harness
import scans
from dataset import FLAG_MISSING, FLAG_OK, DataSet
from test_interop import by_dask, by_h5py, by_tensorstore, by_zarr, by_zarr_group

READERS = [by_h5py, by_zarr, by_zarr_group, by_dask, by_tensorstore]
COMPRESS = ["--compress", "lz4"]


def stored_chunks(data, segment):
    """`(chunk, bytes)` of the present chunks of a segment, by page 0."""
    geometry = data.geometry()
    raw = data.segment_path(segment).read_bytes()
    entries = np.frombuffer(raw, "<u8", 2 * geometry.chunks_per_segment).reshape(-1, 2)
    for chunk, (offset, nbytes) in enumerate(entries.tolist()):
        if offset != 2**64 - 1:
            assert offset % 4096 == 0 and offset + nbytes <= len(raw)
            yield chunk, raw[offset : offset + nbytes]


@pytest.mark.parametrize("signal", [(128, 128), (67, 65), (256, 100)], ids=str)
def test_finished_data_set_opens_in_zarr_readers(folder, signal):
    """All frames through every reader; less room than the pixels take; every chunk is a Blosc frame of its own."""
    scan = scans.write(folder, "scan", (13, 24), signal)
    out = folder / "out.ronchi"
    with scan.simulator() as detector:
        harness.record(detector, out, *scan.arguments, *COMPRESS)
    data = DataSet(out)
    geometry = data.geometry()
    for reader in READERS:
        for first, end in [(0, len(scan.frames)), (len(scan.frames) - 1, len(scan.frames)), (3, 10)]:
            scans.assert_same_frames(reader(data, first, end), scan.frames[first:end], first)
    sizes = [data.segment_path(segment).stat().st_size for segment in range(data.segment_count())]
    assert sum(sizes) < scan.frames.nbytes
    for chunk, stored in stored_chunks(data, 0):
        pixels = np.frombuffer(numcodecs.Blosc().decode(stored), geometry.dtype)
        first = chunk * geometry.frames_per_chunk
        frames = scan.frames[first : first + geometry.frames_per_chunk]
        assert np.array_equal(pixels[: frames.size], frames.ravel())
    status, printed, _ = harness.ronchi("verify", "--json", out)
    assert status == 0, printed
    total = data.array("results/total") if (out / "results/total").exists() else None
    assert total is None or np.array_equal(total.ravel(), scan.frames.sum(axis=(1, 2), dtype="u8"))


def test_hdf5_finds_chunks_where_page_0_has_them(folder, scan):
    """Filter and places are as the library itself tells them."""
    out = folder / "out.ronchi"
    with scan.simulator() as detector:
        harness.record(detector, out, *scan.arguments, *COMPRESS)
    data = DataSet(out)
    geometry = data.geometry()
    with h5py.File(data.segment_path(0), "r") as file:
        frames = file["data"]
        chunk_bytes = geometry.frames_per_chunk * geometry.frame_bytes
        values = (2, 2, geometry.dtype.itemsize, chunk_bytes, 5, 2, 1)
        assert frames.id.get_create_plist().get_filter(0) == (32001, 1, values, b"blosc")
        assert frames.dtype == geometry.dtype and frames.fillvalue == 0
        for chunk, stored in stored_chunks(data, 0):
            mask, found = frames.id.read_direct_chunk((chunk * geometry.frames_per_chunk, 0, 0))
            assert mask == 0 and found == stored


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_growing_data_set_shows_right_frames_below_the_watermark(folder, scan, reader):
    """Random frames below `visible_frames`, read while more arrive; the watermark moves during the test."""
    data = DataSet(folder / "out.ronchi")
    choose = random.Random(7)
    seen = []
    with scans.recording_of(scan, data.path, *COMPRESS, rate=150) as (_, process):
        while process.poll() is None:
            visible = data.visible()
            if visible == 0 or visible == len(scan.frames):
                continue
            frame = choose.choice([visible - 1, choose.randrange(visible)])
            got = reader(data, frame, frame + 1)
            scans.assert_same_frames(got, scan.frames[frame : frame + 1], frame)
            seen.append(visible)
        assert process.wait(60) == 0, process.log()
    assert seen == sorted(seen), "the watermark went back"
    assert len(seen) >= 10 and len(set(seen)) >= 3, f"only {len(seen)} reads at {len(set(seen))} watermarks"
    scans.assert_same_frames(reader(data, 0, len(scan.frames)), scan.frames)


@pytest.mark.parametrize("signal", [(128, 128), (67, 65)], ids=str)
def test_missing_frames_are_zeros_and_flagged(folder, signal):
    """About one frame in twenty is lost; all others are right, in every reader, and results have holes, not shifts."""
    scan = scans.write(folder, "scan", (24, 32), signal)
    data = DataSet(folder / "out.ronchi")
    with scan.simulator("--fault", "lose=0.05", "--seed", 11) as detector:
        with harness.recording(
            detector, data.path, *scan.arguments, *COMPRESS, "--total", "--silence", 2
        ) as process:
            assert process.wait(60) != 0, "lost frames must not end in success"
            report = harness.report(process)
    flags = data.flags()
    missing = np.flatnonzero(flags != FLAG_OK)
    assert set(np.unique(flags)) == {FLAG_OK, FLAG_MISSING}
    assert report["frames"]["missing"] == len(missing) and len(missing) >= 10
    expected = scan.frames.copy()
    expected[missing] = 0
    for reader in READERS:
        scans.assert_same_frames(reader(data, 0, len(expected)), expected)
    present = (flags == FLAG_OK).reshape(scan.shape)
    exact = scan.frames.sum(axis=(1, 2), dtype="u8").reshape(scan.shape)
    assert np.array_equal(data.array("results/total")[present], exact[present])
    status, printed, _ = harness.ronchi("verify", "--json", data.path)
    assert status == 0, printed
    assert json.loads(printed)


def test_exports_and_replays_are_right(folder, scan):
    """What goes through recorded frames decompresses them."""
    out = folder / "out.ronchi"
    with scan.simulator() as detector:
        harness.record(detector, out, *scan.arguments, *COMPRESS)
    status, printed, errors = harness.ronchi("export", out, "--to", folder / "frames.npy", "--order", "frames")
    assert status == 0, printed + errors
    scans.assert_same_frames(np.load(folder / "frames.npy"), scan.frames)
    again = folder / "again.ronchi"
    status, printed, errors = harness.ronchi("record", f"replay:{out}", "--out", again, "--reserve-gib", 0)
    assert status == 0, printed + errors
    scans.assert_same_frames(by_zarr(DataSet(again), 0, len(scan.frames)), scan.frames)
