"""docs/format.md is enough: a reader written from it alone reads every kind of data set, and notices what is wrong."""

import contextlib
import json

import numpy as np
import pytest

import harness
import scans
import stranger


@pytest.mark.parametrize("compress", ["none", "lz4"])
@pytest.mark.parametrize("form", ["U08", "U16", "U32"])
def test_finished_data_sets(folder, form, compress):
    """Every integer type, with a frame size that fills no sector and no block of eight items."""
    scan = scans.write(folder, "scan", (5, 12), (33, 47), getattr(scans.mib, form))
    out = folder / "out.ronchi"
    with scan.simulator() as detector:
        harness.record(detector, out, *scan.arguments, "--compress", compress)
    frames, is_there = stranger.read(out)
    scans.assert_same_frames(frames, scan.frames)
    assert is_there.all()


@pytest.fixture(name="gappy", params=["none", "lz4"])
def gappy_data_set(request, folder):
    """`(scan, path, report)` of a small recording that lost frames."""
    scan = scans.write(folder, "scan", (8, 16), (40, 24))
    out = folder / "out.ronchi"
    with scan.simulator("--fault", "lose=0.1", "--seed", 3) as detector:
        with harness.recording(detector, out, *scan.arguments, "--silence", 2, "--compress", request.param) as process:
            assert process.wait(60) == 1, process.log()
            return scan, out, harness.report(process)


def test_gaps(gappy):
    """Frames that are not there are told from black ones."""
    scan, out, report = gappy
    frames, is_there = stranger.read(out)
    lost = np.zeros(len(frames), bool)
    for gap in report["gaps"]:
        lost[gap["first"] : gap["first"] + gap["count"]] = True
    assert lost.any() and np.array_equal(is_there, ~lost)
    scans.assert_same_frames(frames[is_there], scan.frames[is_there])
    assert not frames[lost].any()


def test_damage_is_noticed(gappy):
    """One flipped bit in the index, in a checksum, in the trailer, in pixels: each is refused."""
    _, out, _ = gappy
    segment = out / "frames" / "c" / "0" / "0" / "0"
    whole = segment.read_bytes()
    for at in (3, 4033, 4041, 4056, 4070, 4090, 4092, 8192, 8192 + 1000):
        segment.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(ValueError, match="segment"):
            stranger.read(out)
    segment.write_bytes(whole)
    stranger.read(out)


def test_tiles_of_one_detector(folder):
    """Two senders of half a detector each become whole frames: the same as of one sender of all of it."""
    read = {}
    for name, regions in {"whole": ["0,0,24,32"], "tiled": ["0,0,12,32", "12,0,12,32"]}.items():
        (folder / name).mkdir()
        read[name] = stranger.read(record_tiles(folder / name, regions))
    (whole, is_there), (tiled, is_tile_there) = read["whole"], read["tiled"]
    assert is_there.all() and is_tile_there.all()
    assert whole.any(axis=(1, 2)).all(), "every frame has counts"
    scans.assert_same_frames(tiled, whole)


def record_tiles(folder, regions, *data):
    """Records one run of tile senders, one for each region of a detector of 24 x 32; returns the data set. `data`: lines of
    the configuration's `[data]`."""
    endpoints = [f"127.0.0.1:{harness.free_port()}" for _ in regions]
    links = [
        f'[[link]]\nsource = "tiles+bind://{endpoint}"\nregion = [{region}]\n'
        for endpoint, region in zip(endpoints, regions, strict=True)
    ]
    config = folder / "tiles.toml"
    data = "\n".join(["[data]", f'directory = "{folder}"', *data])
    config.write_text(f'{data}\n[detector]\nshape = [24, 32]\n{"".join(links)}')
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(harness.Process([harness.ronchi_binary(), "serve", "--config", config]))
        for endpoint, region in zip(endpoints, regions, strict=True):
            sender = ["simulate", "tiles", f"tcp://{endpoint}", "--detector", "24x32", "--region", region]
            stack.enter_context(harness.Process([harness.ronchi_binary(), *sender, "--scan", "6x10", "--rate", "500"]))
        harness.until(lambda: is_complete(folder), 60, "a complete data set", alive=receiver)
        assert harness.terminate(receiver) == 0, receiver.log()
    (data_set,) = folder.glob("*.ronchi")
    return data_set


def is_complete(folder):
    manifests = list(folder.glob("*.ronchi/zarr.json"))
    return manifests and json.loads(manifests[0].read_text())["attributes"]["ronchi"]["state"] == "complete"
