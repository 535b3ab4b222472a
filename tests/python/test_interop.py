"""Data sets open in the tools people have, with the right pixels, while they grow, afterwards, and with frames missing."""

import contextlib
import itertools
import random

import dask.array
import h5py
import numpy as np
import pytest
import tensorstore
import zarr

import harness
import scans
from dataset import DATA_OFFSET, FLAG_MISSING, FLAG_OK, DataSet


def by_h5py(data, first, end):
    """A segment is an HDF5 file with one dataset: at a fixed offset, or of compressed chunks."""
    geometry = data.geometry()
    parts = []
    for segment, begin, count in spans(geometry, first, end):
        with h5py.File(data.segment_path(segment), "r") as file:
            chunk = (geometry.frames_per_chunk, *geometry.shape[1:])
            assert file["data"].id.get_offset() == DATA_OFFSET or file["data"].chunks == chunk
            assert file.userblock_size == 4096
            parts.append(file["data"][begin : begin + count])
    return np.concatenate(parts)


def by_memmap(data, first, end):
    """A segment is a dense array after 8192 bytes."""
    geometry = data.geometry()
    shape = (geometry.frames_per_segment, *geometry.shape[1:])
    parts = []
    for segment, begin, count in spans(geometry, first, end):
        mapped = np.memmap(data.segment_path(segment), geometry.dtype, "r", DATA_OFFSET, shape)
        parts.append(np.array(mapped[begin : begin + count]))
    return np.concatenate(parts)


def by_zarr(data, first, end):
    return zarr.open_array(str(data.frames_path), mode="r")[first:end]


def by_zarr_group(data, first, end):
    return zarr.open_group(str(data.path), mode="r")["frames"][first:end]


def by_dask(data, first, end):
    return dask.array.from_zarr(str(data.frames_path))[first:end].compute(scheduler="synchronous")


def by_tensorstore(data, first, end):
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(data.frames_path)}, "recheck_cached_data": True}
    return tensorstore.open(spec, read=True).result()[first:end].read().result()


READERS = [by_h5py, by_memmap, by_zarr, by_zarr_group, by_dask, by_tensorstore]


def spans(geometry, first, end):
    """`(segment, frame in it, count)` that cover frames `first..end`."""
    per_segment = geometry.frames_per_segment
    while first < end:
        segment, inside = divmod(first, per_segment)
        count = min(end - first, per_segment - inside)
        yield segment, inside, count
        first += count


@pytest.mark.parametrize("signal", [(128, 128), (67, 65), (256, 100)], ids=str)
def test_finished_data_set_opens_everywhere(folder, signal):
    """All frames through every reader, whole and in pieces that cross chunks."""
    scan = scans.write(folder, "scan", (13, 24), signal)
    out = folder / "out.ronchi"
    with scan.simulator() as detector:
        harness.record(detector, out, *scan.arguments)
    data = DataSet(out)
    chunk = data.geometry().frames_per_chunk
    edges = [(0, len(scan.frames)), (len(scan.frames) - 1, len(scan.frames)), (max(chunk - 2, 0), chunk + 1)]
    for reader, (first, end) in itertools.product(READERS, edges):
        end = min(end, len(scan.frames))
        scans.assert_same_frames(reader(data, first, end), scan.frames[first:end], first)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_growing_data_set_shows_right_frames_below_the_watermark(folder, scan, reader):
    """Random frames below `visible_frames`, read while more arrive; the watermark moves during the test.

    On a busy machine few reads, or none, fall into a recording of a second or two. Then it is made again, slower: how fast
    the detector sends is no part of what is tested."""
    for rate in (400, 100, 25):
        seen = read_while_it_grows(folder / f"{rate}.ronchi", scan, reader, rate)
        if len(seen) >= 10 and len(set(seen)) >= 3:
            return
    pytest.fail(f"only {len(seen)} reads at {len(set(seen))} watermarks, with the slowest of detectors")


def read_while_it_grows(path, scan, reader, rate):
    """The watermarks at which frames were read, all of them right; and so is the whole data set at the end."""
    data = DataSet(path)
    choose = random.Random(7)
    seen = []
    with scans.recording_of(scan, data.path, rate=rate) as (_, process):
        while process.poll() is None:
            visible = data.visible()
            assert visible <= len(scan.frames)
            if visible == 0 or visible == len(scan.frames):
                continue
            frame = choose.choice([visible - 1, choose.randrange(visible)])
            got = reader(data, frame, frame + 1)
            scans.assert_same_frames(got, scan.frames[frame : frame + 1], frame)
            seen.append(visible)
        assert process.wait(60) == 0, process.log()
    assert seen == sorted(seen), "the watermark went back"
    scans.assert_same_frames(reader(data, 0, len(scan.frames)), scan.frames)
    return seen


@pytest.fixture(params=[(128, 128), (67, 65)], ids=str)
def with_gaps(request, folder):
    """`(scan, data set, report)` of a recording in which about one frame in twenty was lost."""
    scan = scans.write(folder, "scan", (24, 32), request.param)
    out = folder / "out.ronchi"
    with scan.simulator("--fault", "lose=0.05", "--seed", 11) as detector:
        with harness.recording(detector, out, *scan.arguments, "--total", "--silence", 2) as process:
            assert process.wait(60) != 0, "lost frames must not end in success"
            report = harness.report(process)
    return scan, DataSet(out), report


def test_missing_frames_are_flagged_and_all_others_right(with_gaps):
    """The frame table tells lost frames from black ones; frame numbers do not shift."""
    scan, data, report = with_gaps
    flags = data.flags()
    missing = np.flatnonzero(flags != FLAG_OK)
    assert set(np.unique(flags)) == {FLAG_OK, FLAG_MISSING}
    assert 10 <= len(missing) <= 100, f"{len(missing)} of {len(flags)} lost at 5 %"
    expected = scan.frames.copy()
    expected[missing] = 0
    for reader in READERS:
        scans.assert_same_frames(reader(data, 0, len(expected)), expected)
    listed = [range(gap["first"], gap["first"] + gap["count"]) for gap in report["gaps"]]
    assert sorted(itertools.chain(*listed)) == missing.tolist()
    assert {gap["reason"] for gap in report["gaps"]} == {"never_arrived"}
    frames = report["frames"]
    assert frames["announced"] == len(flags) == frames["durable"] + frames["missing"]
    assert frames["received"] == frames["durable"] and frames["missing"] == len(missing)


def test_results_with_missing_frames_are_right_where_frames_are(with_gaps):
    """A lost frame makes a hole in the image, not a shift."""
    scan, data, _ = with_gaps
    present = (data.flags() == FLAG_OK).reshape(scan.shape)
    total = data.array("results/total")
    exact = scan.frames.sum(axis=(1, 2), dtype="u8").reshape(scan.shape)
    assert np.array_equal(total[present], exact[present])
    assert not np.array_equal(np.nan_to_num(total), exact)


def test_metadata_says_what_the_frames_are(folder, scan):
    """Zarr attributes and axis names, the manifest, the trailer and the checksums of every segment."""
    out = folder / "out.ronchi"
    with scan.simulator() as detector:
        harness.record(detector, out, *scan.arguments)
    data = DataSet(out)
    array = zarr.open_array(str(data.frames_path), mode="r")
    assert array.shape == (len(scan.frames), 128, 128)
    assert array.metadata.dimension_names == ("frame", "y", "x")
    manifest = data.manifest()
    assert manifest["layout_version"] == 1 and manifest["state"] == "complete"
    assert manifest["scan"]["shape"] == list(scan.shape)
    uuid = manifest["uuid"].replace("-", "")
    assert data.progress()["uuid"].replace("-", "") == uuid
    for segment in range(data.segment_count()):
        trailer = data.trailer(segment)
        assert trailer["uuid"].hex() == uuid
        assert trailer["flags"] & 1, "sealed"
        checks = list(data.chunk_checksums(segment))
        assert checks and all(stored == computed for _, stored, computed in checks)


def test_moved_data_set_still_opens(folder, scan):
    """Nothing in a data set names the place where it was recorded."""
    with scan.simulator() as detector:
        harness.record(detector, folder / "out.ronchi", *scan.arguments)
    (folder / "archive").mkdir()
    moved = (folder / "out.ronchi").rename(folder / "archive" / "renamed.ronchi")
    with contextlib.chdir("/"):
        for reader in READERS:
            scans.assert_same_frames(reader(DataSet(moved), 0, len(scan.frames)), scan.frames)
