"""`scan.nxs`, `scan.emd` and `frames4d/` show every frame at its scan position, over many segments, tiles and gaps."""

import contextlib
import json
import shutil

import h5py
import numpy as np
import pytest
import zarr

import fabricate
import harness
import scans
from dataset import DataSet
from faults import receivers
from faults.senders import TileSender, Truth

SCANS = {
    "raster": {"shape": [7, 6]},
    "flyback": {"shape": [7, 5], "flyback": 1},
    "skips first frames": {"shape": [6, 6], "flyback": 1, "sync_offset": 3},
    "leaves first positions empty": {"shape": [7, 6], "sync_offset": -8},
    "serpentine": {"shape": [7, 6], "order": "serpentine"},
    "serpentine with all": {"shape": [5, 6], "order": "serpentine", "flyback": 2, "sync_offset": 5},
    "larger than the series": {"shape": [20, 6]},
    "smaller than the series": {"shape": [3, 6]},
    "one row": {"shape": [1, 42]},
    "one column": {"shape": [42, 1], "order": "serpentine"},
}


def by_position(frames, scan):
    """`(ny, nx, y, x)` as docs/reductions.md defines positions: one frame after the other."""
    ny, nx = scan["shape"]
    image = np.zeros((ny, nx, *frames.shape[1:]), frames.dtype)
    for number, frame in enumerate(frames):
        step = number - scan.get("sync_offset", 0)
        row, column = divmod(step, nx + scan.get("flyback", 0))
        if step < 0 or row >= ny or column >= nx:
            continue
        is_back = scan.get("order") == "serpentine" and row % 2 == 1
        image[row, nx - 1 - column if is_back else column] = frame
    return image


def make(path, *arguments, **options):
    """A fabricated data set with its companions."""
    data_set = fabricate.data_set(path, *arguments, **options)
    code, out, err = harness.ronchi("export", data_set, "--companions", "--json")
    assert code == 0, err
    return data_set, json.loads(out)["companions"]


@pytest.fixture(name="frames", scope="module")
def known_frames():
    return np.random.default_rng(5).integers(1, 60000, (42, 24, 40)).astype(">u2")


@pytest.mark.parametrize("per_segment", [4, 9, 12, 50])
@pytest.mark.parametrize("scan", SCANS.values(), ids=list(SCANS))
def test_every_frame_is_at_its_position(folder, frames, scan, per_segment):
    """Segments that hold parts of rows, some rows, all rows: the 4-D view is the same."""
    data_set, companions = make(folder / "a.ronchi", frames, per_segment, 1, scan=scan)
    expected = by_position(frames, scan)
    with h5py.File(data_set / "scan.nxs") as nxs, h5py.File(data_set / "scan.emd") as emd:
        image, cube = nxs["entry/data/data"], emd["datacube_root/datacube/data"]
        assert image.dtype == cube.dtype == frames.dtype and image.is_virtual
        assert np.array_equal(image[...], expected)
        assert np.array_equal(cube[...], expected)
        assert np.array_equal(image[-1, 0, 3:5], expected[-1, 0, 3:5])
        assert np.array_equal(nxs["entry/instrument/detector/data"][...], frames)
    is_plain = not {"flyback", "sync_offset", "order"} & set(scan)
    nx = scan["shape"][1]
    assert ("frames4d" in companions) == (is_plain and per_segment % nx == 0)
    if "frames4d" in companions:
        assert np.array_equal(zarr.open_array(str(data_set / "frames4d"), mode="r")[...], expected)


def test_tiles_of_unequal_size_and_missing_segments(folder, frames):
    """Tiles lie where they belong, what is between or missing reads as zeros, also after a move and from elsewhere."""
    regions = [(0, 0, 10, 40), (10, 0, 14, 15), (12, 17, 12, 23)]
    scan = SCANS["serpentine with all"]
    data_set, companions = make(folder / "a.ronchi", frames, 10, 2, scan=scan, regions=regions, absent=(1, 3))
    assert companions == ["scan.nxs", "scan.emd"]
    expected = np.zeros_like(frames)
    for y, x, h, w in regions:
        expected[:, y : y + h, x : x + w] = frames[:, y : y + h, x : x + w]
    expected[10:20] = expected[30:40] = 0
    (folder / "archive").mkdir()
    moved = data_set.rename(folder / "archive" / "b.ronchi")
    with contextlib.chdir("/"), h5py.File(moved / "scan.nxs") as nxs:
        assert np.array_equal(nxs["entry/instrument/detector/data"][...], expected)
        assert np.array_equal(nxs["entry/data/data"][...], by_position(expected, scan))


@pytest.mark.parametrize("dtype", ["|u1", "<u2", ">u4", "<f4", ">f4"])
def test_without_a_scan_there_are_frames(folder, dtype):
    """Every pixel type; no scan, no 4-D companion."""
    frames = np.random.default_rng(6).integers(0, 200, (9, 60, 70)).astype(dtype)
    data_set, companions = make(folder / "a.ronchi", frames, 4, 2)
    assert companions == ["scan.nxs"]
    with h5py.File(data_set / "scan.nxs") as nxs:
        assert nxs["entry/data/data"].dtype == np.dtype(dtype)
        assert np.array_equal(nxs["entry/data/data"][...], frames)
        assert nxs["entry/data/data"] == nxs["entry/instrument/detector/data"]


def test_too_many_pieces(folder):
    """A serpentine of many cut rows is left as frames, with their positions beside them."""
    scan = {"shape": [2, 65536], "order": "serpentine", "flyback": 0}
    frames = fabricate.Zeros((40, 32, 64), "<u2")
    data_set = fabricate.data_set(folder / "a.ronchi", frames, 2, 1, scan=scan)
    manifest = json.loads((data_set / "zarr.json").read_text())
    manifest["attributes"]["ronchi"]["frame_count"] = 131_072
    (data_set / "zarr.json").write_text(json.dumps(manifest))
    code, out, err = harness.ronchi("export", data_set, "--companions", "--json")
    assert code == 0, err
    assert json.loads(out)["companions"] == ["scan.nxs"]
    with h5py.File(data_set / "scan.nxs") as nxs:
        assert nxs["entry/data/data"].shape == (131_072, 32, 64)
        positions = nxs["entry/instrument/detector/scan_position"][...]
    assert positions[[0, 65_535, 65_536, 131_071]].tolist() == [[0, 0], [0, 65_535], [1, 65_535], [1, 0]]


def test_what_receivers_write_is_what_export_writes(folder, scan):
    """Companions are there when a recording ends, and are made again after they were deleted."""
    with scan.simulator() as detector:
        harness.record(detector, folder / "out.ronchi", *scan.arguments, "--live-zmq", "off", "--http", "off")
    data_set = folder / "out.ronchi"
    assert harness.ronchi("verify", data_set)[0] == 0
    names = ["scan.nxs", "scan.emd"]
    before = {name: (data_set / name).read_bytes() for name in names}
    for name in names:
        (data_set / name).unlink()
    shutil.rmtree(data_set / "frames4d")
    assert harness.ronchi("export", data_set, "--companions")[0] == 0
    assert before == {name: (data_set / name).read_bytes() for name in names}
    four = zarr.open_array(str(data_set / "frames4d"), mode="r")
    assert four.metadata.dimension_names == ("scan_y", "scan_x", "y", "x")
    scans.assert_same_frames(four[...].reshape(scan.frames.shape), scan.frames)


def test_an_open_ended_run_grows_in_hdf5(folder, rng):
    """Nobody knows how many frames will come: `scan.nxs` is there from the beginning, and as long as its segments; frames
    below the watermark are right in it, and at the end it has as many frames as came."""
    truth = Truth(rng, (256, 256), 1300)
    volumes = [folder / "one", folder / "two"]  # With volumes segments are short: 512 frames.
    for volume in volumes:
        volume.mkdir()
    sender = TileSender(truth, detector=truth.shape, origin=(0, 0), rate_hz=600, announces=False)
    path, seen = folder / "data" / "scan.ronchi", set()
    with receivers.serving(folder, receivers.tile_links([sender]), volumes=volumes) as process, sender:
        harness.until(lambda: (path / "scan.nxs").exists(), 30, "companion", alive=process)
        while DataSet(path).manifest()["state"] == "running":
            visible = DataSet(path).visible()
            with h5py.File(path / "scan.nxs") as file:
                frames = file["entry/data/data"]
                per_segment = DataSet(path).geometry().frames_per_segment
                assert frames.maxshape[0] is None and frames.shape[0] % per_segment == 0
                assert visible <= frames.shape[0] <= visible + 3 * per_segment
                if visible:
                    frame = rng.choice([visible - 1, rng.randrange(visible)])
                    assert np.array_equal(frames[frame : frame + 1], truth.frames(frame, frame + 1))
                    seen.add(frames.shape[0])
            assert process.poll() is None, process.log()
        assert harness.terminate(process) == 0, process.log()
    assert len(seen) > 1, f"it did not grow: {seen}"
    with h5py.File(path / "scan.nxs") as file:
        frames = file["entry/data/data"]
        assert frames.shape == (truth.count, *truth.shape)
        for first in range(0, truth.count, 100):
            assert np.array_equal(frames[first : first + 100], truth.frames(first, min(first + 100, truth.count)))
