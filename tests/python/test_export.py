"""`ronchi export`: every format holds the right pixels for a program that knows nothing of ronchi."""

import json
import os
import struct

import h5py
import hdf5plugin
import numpy as np
import pytest
import tifffile
import zarr

import fabricate
import harness
import test_companions

SCAN = {"shape": [7, 5], "order": "serpentine", "flyback": 1}
PLAIN = {"shape": [7, 6]}


@pytest.fixture(name="frames", scope="module")
def known_frames():
    return np.random.default_rng(8).integers(1, 60000, (42, 24, 40)).astype(">u2")


def export(*arguments):
    code, out, err = harness.ronchi("export", *arguments, "--json")
    assert code == 0, err
    return json.loads(out) if out else None


def make(folder, frames, **options):
    """A data set of five segments, and one of missing frames where `absent` says so."""
    return fabricate.data_set(folder / "a.ronchi", frames, 9, 3, **options)


@pytest.mark.parametrize("dtype", ["|u1", "<u2", ">u2", "<u4", ">u4", "<f4", ">f4"])
def test_numpy(folder, frames, dtype):
    """Byte order and type stay; with a scan frames lie by position."""
    frames = (frames % 251).astype(dtype) if dtype != ">u2" else frames
    data_set = make(folder, np.tile(frames, (1, 1, 2)), scan=SCAN)
    frames = np.tile(frames, (1, 1, 2))
    assert export(data_set, "--to", folder / "x.npy")["shape"] == [7, 5, 24, 80]
    got = np.load(folder / "x.npy")
    assert got.dtype == np.dtype(dtype)
    assert np.array_equal(got, test_companions.by_position(frames, SCAN))
    summary = export(data_set, "--to", folder / "y.npy", "--order", "frames")
    assert np.array_equal(np.load(folder / "y.npy"), frames)
    assert (summary["frames"], summary["missing"], summary["verified"]) == (42, 0, 42)
    assert sorted(path.name for path in folder.iterdir()) == ["a.ronchi", "x.npy", "y.npy"], "no flags, no parts"


@pytest.mark.parametrize("name", ["x.h5", "x.emd"])
def test_hdf5_stands_alone(folder, frames, name):
    """Without the data set: frames, the 4-D view and flags, in one file that can be renamed."""
    data_set = make(folder, frames, scan=SCAN, absent=(2,))
    assert export(data_set, "--to", folder / name)["missing"] == 9
    data_set.rename(folder / "gone")
    (folder / name).rename(folder / "renamed.h5")
    frames = frames.copy()
    frames[18:27] = 0
    view = "entry/data/data" if name == "x.h5" else "datacube_root/datacube/data"
    with h5py.File(folder / "renamed.h5") as file:
        detector = file["entry/instrument/detector"]
        assert detector["data"].dtype == frames.dtype and not detector["data"].is_virtual
        assert np.array_equal(detector["data"][...], frames)
        assert np.array_equal(file[view][...], test_companions.by_position(frames, SCAN))
        assert np.flatnonzero(detector["frame_flags"][...]).tolist() == list(range(18, 27))


@pytest.mark.parametrize("name", ["x.h5", "x.emd"])
@pytest.mark.parametrize("dtype", ["|u1", "<u2", ">u4", "<f4"])
def test_compressed_hdf5(folder, frames, name, dtype):
    """Chunks that were never given to the filter are read by it; what is not there has no chunk and reads as zeros."""
    frames = (frames % 251).astype(dtype)
    data_set = make(folder, frames, scan=SCAN, absent=(2,))
    assert export(data_set, "--to", folder / name, "--compress")["missing"] == 9
    frames = frames.copy()
    frames[18:27] = 0
    view = "entry/data/data" if name == "x.h5" else "datacube_root/datacube/data"
    with h5py.File(folder / name) as file:
        data = file["entry/instrument/detector/data"]
        assert (data.chunks, data.dtype) == ((1, *frames.shape[1:]), np.dtype(dtype))
        assert data.id.get_create_plist().get_filter(0)[0] == hdf5plugin.BSHUF_ID
        assert data.id.get_num_chunks() == 42 - 9
        assert np.array_equal(data[...], frames)
        assert np.array_equal(file[view][...], test_companions.by_position(frames, SCAN))
        assert np.flatnonzero(file["entry/instrument/detector/frame_flags"][...]).tolist() == list(range(18, 27))


@pytest.mark.parametrize("count", [1024, 1025, 9000])
def test_many_chunks(folder, count):
    """An index of several pages; a file smaller than its pixels; every chunk is what the filter itself would have written."""
    frames = np.random.default_rng(count).poisson(0.5, (count, 12, 26)).astype("<u2")
    data_set = fabricate.data_set(folder / "a.ronchi", frames, 450, 150)
    export(data_set, "--to", folder / "x.nxs", "--compress")
    with h5py.File(folder / "x.nxs") as file, h5py.File(folder / "own.h5", "w") as own:
        data = file["entry/instrument/detector/data"]
        assert np.array_equal(data[...], frames)
        assert data.id.get_num_chunks() == count and data.id.get_storage_size() < frames.nbytes / 2
        theirs = own.create_dataset("x", data=frames[-1:], chunks=(1, 12, 26), **hdf5plugin.Bitshuffle(cname="lz4"))
        assert data.id.read_direct_chunk((count - 1, 0, 0)) == theirs.id.read_direct_chunk((0, 0, 0))


def test_compress_is_for_hdf5(folder, frames):
    code, _, err = harness.ronchi("export", make(folder, frames), "--to", folder / "x.npy", "--compress")
    assert code == 2 and "--compress is for frames in HDF5" in err and not (folder / "x.npy").exists()


def test_zarr_has_no_links(folder, frames):
    """Tiles are put together; plain chunks, flags and the manifest."""
    regions = [(0, 0, 12, 40), (12, 0, 12, 40)]
    data_set = make(folder, frames, regions=regions, absent=(0,))
    export(data_set, "--to", folder / "x.zarr")
    frames = frames.copy()
    frames[:9] = 0
    group = zarr.open_group(str(folder / "x.zarr"), mode="r")
    assert np.array_equal(group["frames"][...], frames)
    assert np.flatnonzero(group["flags"][...]).tolist() == list(range(9))
    assert group.attrs["ronchi"]["name"] == "a"
    assert not any((folder / root / name).is_symlink() for root, _, names in os.walk(folder / "x.zarr") for name in names)


def test_raw_says_what_it_is(folder, frames):
    """The document beside the pixels is enough to read them; flags are there because frames are not."""
    data_set = make(folder, frames, scan=PLAIN, absent=(1,))
    export(data_set, "--to", folder / "x.raw")
    about = json.loads((folder / "x.raw.json").read_text())
    got = np.fromfile(folder / "x.raw", about["dtype"], offset=about["offset"]).reshape(about["shape"])
    frames = frames.copy()
    frames[9:18] = 0
    assert np.array_equal(got, test_companions.by_position(frames, PLAIN))
    assert np.flatnonzero(np.load(folder / "x.raw.flags.npy")).tolist() == list(range(9, 18))


@pytest.mark.parametrize("dtype", ["|u1", "<u2", ">u2", "<u4"])
def test_mib_opens_in_libertem(folder, frames, libertem, dtype):
    """LiberTEM's Merlin reader finds shape, type and pixels."""
    from libertem.udf.raw import PickUDF

    frames = np.tile(frames % 63, (1, 2, 2)).astype(dtype)
    data_set = make(folder, frames, scan=PLAIN)
    export(data_set, "--to", folder / "x.mib")
    data = libertem.load("mib", str(folder / "x.hdr"), nav_shape=(7, 6))
    picked = libertem.run_udf(data, PickUDF(), roi=np.ones((7, 6), bool))["intensity"].data
    assert np.array_equal(picked.reshape(frames.shape), frames)


def test_results(folder, scan):
    """Results as npy, TIFF with ImageJ's words, and PNG."""
    with scan.simulator() as detector:
        quiet = ["--live-zmq", "off", "--http", "off"]
        harness.record(detector, folder / "out.ronchi", *scan.arguments, "--total", "--com", *quiet)
    data_set = folder / "out.ronchi"
    total = zarr.open_array(str(data_set / "results" / "total"), mode="r")[...]
    names = {path.name for path in (data_set / "results").iterdir() if path.is_dir()}
    assert "total" in names
    assert harness.ronchi("export", data_set, "--to", folder / "t.npy", "--result", "total")[0] == 0
    assert np.array_equal(np.load(folder / "t.npy"), total)
    assert harness.ronchi("export", data_set, "--to", folder / "t.tif", "--result", "total")[0] == 0
    with tifffile.TiffFile(folder / "t.tif") as tiff:
        assert tiff.is_imagej and tiff.imagej_metadata["unit"] == "pixel"
        assert tiff.asarray().dtype.kind == "f" and np.array_equal(tiff.asarray(), total)
    assert harness.ronchi("export", data_set, "--to", folder / "t.png", "--result", "total")[0] == 0
    png = (folder / "t.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", png[16:24]) == (32, 24)
    for name in sorted(names):
        code, _, err = harness.ronchi("export", data_set, "--to", folder / f"{name}-all.npy", "--result", name)
        assert code == 0, err
    code, _, err = harness.ronchi("export", data_set, "--to", folder / "n.npy", "--result", "nothing")
    assert code == 2 and "total" in err, "it says what there is"


def test_damage_stops_or_is_left_out(folder, frames):
    """A flipped bit is not exported: exit code 1, no file; or zeros and a flag, and still exit code 1."""
    data_set = make(folder, frames)
    segment = data_set / "frames/c/1/0/0"
    pixels = bytearray(segment.read_bytes())
    pixels[8192 + 3 * 24 * 40 * 2 + 5] ^= 1
    segment.write_bytes(pixels)
    code, _, err = harness.ronchi("export", data_set, "--to", folder / "x.npy")
    assert code == 1 and "frames 12 to 14" in err and "--keep-going" in err
    assert [path.name for path in folder.iterdir()] == ["a.ronchi"]
    code, out, _ = harness.ronchi("export", data_set, "--to", folder / "x.npy", "--keep-going")
    assert code == 1 and "3 FRAMES ARE DAMAGED" in out
    frames = frames.copy()
    frames[12:15] = 0
    assert np.array_equal(np.load(folder / "x.npy"), frames)
    assert np.load(folder / "x.npy.flags.npy").tolist() == [2 if 12 <= n < 15 else 0 for n in range(42)]


def test_refusals(folder, frames):
    """Nothing is overwritten, nothing is guessed: exit code 2, and the reason."""
    data_set = make(folder, frames)
    (folder / "there.npy").write_text("mine")
    cases = [
        (["--to", folder / "there.npy"], "exists already"),
        (["--to", folder / "x.what"], "says no format"),
        (["--to", folder / "x.emd"], "scan"),
        (["--to", folder / "x.npy", "--order", "scan"], "has no scan"),
        (["--to", folder / "x.tif"], "--result"),
        (["--to", folder / "none" / "x.npy"], "no directory"),
        ([], "--to"),
    ]
    for arguments, reason in cases:
        code, _, err = harness.ronchi("export", data_set, *arguments)
        assert code == 2 and reason in err, err
    assert harness.ronchi("export", folder, "--to", folder / "x.npy")[0] == 2, "no data set"
    assert (folder / "there.npy").read_text() == "mine"
    assert sorted(path.name for path in folder.iterdir()) == ["a.ronchi", "there.npy"]


def test_no_room(folder):
    """An export that does not fit is refused before it begins."""
    frames = fabricate.Zeros((42, 1024, 1024), "<u2")
    data_set = fabricate.data_set(folder / "a.ronchi", frames, 9, 3)
    manifest = json.loads((data_set / "zarr.json").read_text())
    manifest["attributes"]["ronchi"]["frame_count"] = 1 << 40
    (data_set / "zarr.json").write_text(json.dumps(manifest))
    code, _, err = harness.ronchi("export", data_set, "--to", folder / "x.npy")
    assert code == 2 and "no room" in err
    assert [path.name for path in folder.iterdir()] == ["a.ronchi"]
