"""DECTRIS detectors: LiberTEM-live's simulator, which nobody here wrote, is recorded and reduced."""

import contextlib
import hashlib
import json
import pathlib
import re
import struct
import sys
import urllib.request

import h5py
import hdf5plugin
import numpy as np
import pytest
import zarr
import zmq

import harness
import results_ref
import scans
from dataset import DataSet
from test_interop import by_zarr

SCAN, COUNT, SIDE, SERIES = "9x16", 144, 192, 34


def bslz4(frame, folder):
    """A frame as HDF5 filter 32008 compresses it: what detectors send."""
    path = folder / "one.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("x", data=frame[None], chunks=(1, *frame.shape), **hdf5plugin.Bitshuffle(cname="lz4"))
        _, payload = data.id.read_direct_chunk((0, 0, 0))
    return payload


def dump_of(frames, encoding, folder):
    """A file for `libertem-live-dectris-sim`: every message part with its length in front."""
    configuration = {
        "trigger_mode": "exte", "ntrigger": len(frames), "nimages": 1, "bit_depth_image": 16, "compression": "bslz4",
        "x_pixels_in_detector": frames.shape[2], "y_pixels_in_detector": frames.shape[1],
    }
    parts = [json.dumps({"htype": "dheader-1.0", "series": SERIES, "header_detail": "basic"}), json.dumps(configuration)]
    for number, frame in enumerate(frames):
        payload = bslz4(frame, folder) if encoding == "bs16-lz4<" else frame.tobytes()
        form = {"shape": [frame.shape[1], frame.shape[0]], "type": "uint16", "encoding": encoding, "size": len(payload)}
        times = {"start_time": 8330 * number, "stop_time": 8330 * number + 8200, "real_time": 8200}
        parts += [
            json.dumps({"htype": "dimage-1.0", "series": SERIES, "frame": number, "hash": "0" * 32}),
            json.dumps({"htype": "dimage_d-1.0", **form}),
            payload,
            json.dumps({"htype": "dconfig-1.0", **times}),
        ]
    parts.append(json.dumps({"htype": "dseries_end-1.0", "series": SERIES}))
    path = folder / "dump"
    with path.open("wb") as file:
        for part in parts:
            part = part.encode() if isinstance(part, str) else part
            file.write(struct.pack("<q", len(part)) + part)
    return path


@contextlib.contextmanager
def simulator(dump):
    """LiberTEM-live's simulator: the port of its stream, and what arms it."""
    program = pathlib.Path(sys.executable).with_name("libertem-live-dectris-sim")
    port = harness.free_port()
    with harness.Process([program, dump, "--port", port, "--zmqport", 0]) as process:

        def stream_port():
            found = re.search(r"listening on tcp://127\.0\.0\.1:(\d+)", process.stderr() + process.stdout())
            return found and int(found.group(1))

        stream = harness.until(stream_port, 60, "the simulator listens", alive=process)
        harness.until(lambda: harness.is_listening(port), 30, "the simulator takes commands", alive=process)
        yield stream, lambda: command(port, "arm")


def command(port, name):
    url = f"http://127.0.0.1:{port}/detector/api/1.8.0/command/{name}"
    with urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=30) as answer:
        return json.loads(answer.read() or b"{}")


def record(stream, arm, out, *arguments):
    """One series, recorded to its end; its report."""
    own = ["--out", out, "--json", "--reserve-gib", 0, "--http", "off", "--live-zmq", "off"]
    with harness.Process([harness.ronchi_binary(), "record", f"dectris1://127.0.0.1:{stream}", *own, *arguments]) as process:
        arm()
        assert process.wait(60) == 0, process.log()
        return harness.report(process)


@pytest.mark.parametrize(
    "encoding, arguments", [("bs16-lz4<", []), ("bs16-lz4<", ["--compress", "none"]), ("<", [])], ids=["kept", "decoded", "raw"]
)
def test_libertem_simulator(folder, encoding, arguments):
    """Its images are recorded, kept compressed or as pixels, and reduced exactly; gaps between modules do not count."""
    frames = np.random.default_rng(3).poisson(0.7, (COUNT, SIDE, SIDE - 12)).astype("<u2")
    frames[:, 90:93] = 65535
    ring = ["--virtual", "adf=ring:96,90,20,60", "--sum"]
    with simulator(dump_of(frames, encoding, folder)) as (stream, arm):
        report = record(stream, arm, folder / "scan.ronchi", "--scan", SCAN, *ring, *arguments)
    assert (report["state"], report["frames"]["durable"], report["gaps"]) == ("complete", COUNT, [])
    data = DataSet(folder / "scan.ronchi")
    scans.assert_same_frames(by_zarr(data, 0, COUNT), frames, 0)
    assert np.all(np.diff(data.array("frame_table/time_ns")[:COUNT].astype(np.int64)) == 8330)
    counted = np.where(frames == 65535, 0, frames).astype(np.uint64)
    want = counted[:, results_ref.ring(frames.shape[1:], 96, 90, 20, 60)].sum(axis=1).reshape(9, 16)
    np.testing.assert_array_equal(data.array("results/adf"), want)
    np.testing.assert_array_equal(data.array("results/sum"), counted.sum(axis=0))
    assert "x_pixels_in_detector" in json.dumps(data.manifest())


def test_mock_images(folder):
    """Frames with twelve zero bytes in place of the framing header, as the simulator makes them up by itself."""
    from libertem_live.detectors.dectris.sim import DectrisSim

    sim = DectrisSim(port=0, zmqport=0, num_mock_frames=COUNT, verbose=False)
    sim.start()
    try:
        sim.wait_for_listen()

        def arm():
            command(sim.port, "arm")
            command(sim.port, "trigger")

        report = record(sim.zmqport, arm, folder / "mock.ronchi", "--compress", "none", "--total")
    finally:
        sim.stop()
    assert report["frames"]["durable"] == COUNT, report
    frames = by_zarr(DataSet(folder / "mock.ronchi"), 0, COUNT)
    np.testing.assert_array_equal(frames[:, 0, 0], np.arange(COUNT))
    assert np.all(frames == frames[:, :1, :1])


@contextlib.contextmanager
def detector():
    """A PUSH socket as a detector binds it, and its port."""
    context = zmq.Context()
    push = context.socket(zmq.PUSH)
    push.linger = 1000
    try:
        yield push, push.bind_to_random_port("tcp://127.0.0.1")
    finally:
        push.close()
        context.term()


def send_with_mask(push, frames, mask, **configuration):
    """A series whose start has a pixel mask and a flat field; images are not compressed."""
    size = [frames.shape[2], frames.shape[1]]
    known = {"trigger_mode": "exte", "ntrigger": len(frames), "x_pixels_in_detector": size[0], "y_pixels_in_detector": size[1]}
    parts = [{"htype": "dheader-1.0", "series": SERIES, "header_detail": "all"}, {**known, **configuration}]
    parts += [{"htype": "dflatfield-1.0", "shape": size, "type": "float32"}, np.full(mask.shape, 1.25, "<f4").tobytes()]
    parts += [{"htype": "dpixelmask-1.0", "shape": size, "type": "uint32"}, mask.astype("<u4").tobytes()]
    parts += [{"htype": "dcountrate_table-1.0", "shape": [2, 1], "type": "float32"}, bytes(8)]
    messages = [parts]
    for number, frame in enumerate(frames):
        form = {"htype": "dimage_d-1.0", "shape": size, "type": "uint16", "encoding": "<", "size": frame.nbytes}
        head = {"htype": "dimage-1.0", "series": SERIES, "frame": number, "hash": ""}
        messages.append([head, form, frame.tobytes(), {"htype": "dconfig-1.0", "start_time": number}])
    messages.append([{"htype": "dseries_end-1.0", "series": SERIES}])
    for message in messages:
        push.send_multipart([part if isinstance(part, bytes) else json.dumps(part).encode() for part in message])


@pytest.mark.parametrize("sockets", [1, 3])
def test_pixel_mask(folder, sockets):
    """Pixels that the detector masks and does not apply count nothing, live and reprocessed; the tables are there for others."""
    dice = np.random.default_rng(5)
    frames = dice.integers(0, 5000, (12, 20, 32)).astype("<u2")
    frames[3, 7, 9] = 65535
    mask = np.where(dice.random((20, 32)) < 0.1, 1 << dice.integers(0, 5, (20, 32)), 0)
    mask[2, 2] = 1 << 31
    with detector() as (push, port):
        send = lambda: send_with_mask(push, frames, mask, pixel_mask_applied=False, flatfield_correction_applied=0)
        stream = f"{port}?sockets={sockets}"
        report = record(stream, send, folder / "a.ronchi", "--scan", "3x4", "--total", "--reduce", "nodata", "--reduce", "min")
    assert (report["state"], report["frames"]["durable"]) == ("complete", 12)
    data = DataSet(folder / "a.ronchi")
    np.testing.assert_array_equal(by_zarr(data, 0, 12), frames)
    absent = (mask & 0xFFFF != 0) | (frames == 65535)
    total, count = np.where(absent, 0, frames).astype("u8").sum(axis=(1, 2)), absent.sum(axis=(1, 2))

    def check(total, count):
        np.testing.assert_array_equal(data.array("results/total"), total.reshape(3, 4))
        np.testing.assert_array_equal(data.array("results/nodata"), count.reshape(3, 4))

    check(total, count)
    seen = mask & 0xFFFF == 0
    np.testing.assert_array_equal(data.array("results/min")[seen], frames.min(axis=0)[seen])
    tables = zarr.open_group(folder / "a.ronchi" / "detector", mode="r")
    np.testing.assert_array_equal(tables["pixel_mask"][:], mask)
    np.testing.assert_array_equal(tables["flatfield"][:], np.full(mask.shape, 1.25))
    assert [dict(tables[name].attrs) for name in ("pixel_mask", "flatfield")] == [{"applied": False}] * 2
    assert data.manifest()["detector"]["nodata"] == "max"
    assert harness.ronchi("verify", folder / "a.ronchi")[0] == 0
    again = ["reprocess", folder / "a.ronchi", "--total", "--reduce", "nodata"]
    assert harness.ronchi(*again)[0] == 0
    check(total, count)
    assert harness.ronchi("reprocess", folder / "a.ronchi", "--total", "--nodata", "none")[0] == 0
    np.testing.assert_array_equal(data.array("results/total"), frames.astype("u8").sum(axis=(1, 2)).reshape(3, 4))


REAL = {
    "real_v1_eiger2_1M_uint32_lz4": (10, 5),
    "real_v1_eigerx_4M_uint16_bslz4": (10, 10),
    "real_v2_eiger2_16M_uint16_bslz4": (1, 40),
}
"""Series recorded from detectors: how many images they announce, of which not all are there, and blocks that hold one, in MiB."""


@pytest.mark.parametrize("arguments", [[], ["--compress", "none"]], ids=["kept", "decoded"])
@pytest.mark.parametrize("name", REAL)
def test_real_captures(folder, shared_dectris, name, arguments):
    """What detectors sent goes through a socket to the disk, as it came or as pixels, and reads back as reference decoders read it."""
    index = json.loads((shared_dectris / "index.json").read_text())
    series = next(series for series in index["series"] if series["name"] == name)
    (announced, block_mib), wanted = REAL[name], series["expected_frames"]
    stream, out = f"dectris{series['stream']}", folder / "real.ronchi"
    own = ["--out", out, "--json", "--reserve-gib", 0, "--http", "off", "--live-zmq", "off", "--block-mib", block_mib, "--total"]
    with detector() as (push, port):
        with harness.Process([harness.ronchi_binary(), "record", f"{stream}://127.0.0.1:{port}", *own, *arguments]) as process:
            for parts in series["messages"]:
                push.send_multipart([(shared_dectris / part["file"]).read_bytes() for part in parts])
            assert process.wait(180) == (0 if announced == len(wanted) else 1), process.log()
            report = harness.report(process)
    assert report["frames"]["durable"] == len(wanted) and report["frames"]["missing"] == announced - len(wanted), report
    assert harness.ronchi("verify", out)[0] == 0
    data = DataSet(out)
    is_kept = "bslz4" in name and not arguments
    assert ("blosc" in json.dumps(json.loads((data.frames_path / "zarr.json").read_text())["codecs"])) == is_kept
    assert harness.ronchi("export", out, "--to", folder / "x.npy", "--order", "frames")[0] == 0
    exported, zarred = np.load(folder / "x.npy", mmap_mode="r"), by_zarr(data, 0, len(wanted))
    for number, want in enumerate(wanted):
        for frame in (exported[number], zarred[number]):
            assert list(frame.shape) == want["shape"]
            assert hashlib.sha256(frame.astype(f"<u{frame.itemsize}").tobytes()).hexdigest() == want["sha256_le_bytes"]
    totals = data.array("results/total").ravel()[: len(wanted)]
    assert totals.tolist() == [want["sum_excluding_nodata"] for want in wanted]
