"""`ronchi simulate dectris`, read by software that is not ronchi's: plain sockets with HDF5's filters, CBOR, and LiberTEM-live."""

import contextlib
import json
import re
import threading
import urllib.request

import cbor2
import h5py
import hdf5plugin
import numpy as np
import pytest
import zmq

import harness
import results_ref
import scans
from dataset import DataSet
from test_dectris import record
from test_interop import by_h5py, by_zarr

SCAN, SHAPE = (6, 8), (64, 48)
COUNT = SCAN[0] * SCAN[1]
COMMON = ["--scan", "6x8", "--detector", "64x48", "--counts", 400, "--rate", 0, "--stream1", "127.0.0.1:0", "--stream2", "127.0.0.1:0"]


@contextlib.contextmanager
def simulator(*arguments):
    """A running simulator: its process, and what it says of its addresses."""
    with harness.Process([harness.ronchi_binary(), "simulate", "dectris", *COMMON, *arguments]) as process:
        harness.until(lambda: "starting" in process.stdout() or "waiting" in process.stdout(), 60, "it starts", alive=process)
        yield process, dict(re.findall(r"(dectris[12]|http)://(\S+)", process.stdout()))


def messages(address, count):
    """All messages of one series, as lists of parts."""
    with zmq.Context() as context, context.socket(zmq.PULL) as pull:
        pull.setsockopt(zmq.RCVTIMEO, 30_000)
        pull.connect(f"tcp://{address}")
        return [pull.recv_multipart() for _ in range(count)]


def decoded(payloads, shape, dtype, filters, folder):
    """Images that HDF5's own filters decode: each payload is put into a file as a chunk, as it came."""
    path = folder / "chunks.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("x", (len(payloads), *shape), dtype, chunks=(1, *shape), **filters)
        for number, payload in enumerate(payloads):
            data.id.write_direct_chunk((number, 0, 0), payload)
    with h5py.File(path) as file:
        return file["x"][:]


BSLZ4, LZ4 = hdf5plugin.Bitshuffle(cname="lz4"), hdf5plugin.LZ4()


@pytest.mark.parametrize("compression, filters", [("none", {}), ("lz4", LZ4), ("bslz4", BSLZ4)], ids=["none", "lz4", "bslz4"])
@pytest.mark.parametrize("dtype", ["u8", "u16", "u32"])
def test_both_streams(folder, dtype, compression, filters):
    """ronchi records one stream while a plain socket reads the other: all pixels are the same, also as CBOR has them."""
    kind = np.dtype(f"<{dtype[0]}{int(dtype[1:]) // 8}")
    with simulator("--format", "both", "--dtype", dtype, "--compression", compression) as (process, addresses):
        read = []
        other = threading.Thread(target=lambda: read.extend(messages(addresses["dectris2"], COUNT + 2)))
        other.start()
        port = addresses["dectris1"].split(":")[1]
        report = record(port, lambda: None, folder / "scan.ronchi")
        other.join()
        assert process.wait(30) == 0
    assert (report["state"], report["frames"]["durable"], report["gaps"]) == ("complete", COUNT, [])
    assert all(len(parts) == 1 and parts[0].startswith(b"\xd9\xd9\xf7") for parts in read)
    start, *images, end = [cbor2.loads(parts[0], tag_hook=lambda _, tag: tag) for parts in read]
    assert (start["type"], end["type"], start["number_of_images"]) == ("start", "end", COUNT)
    assert (start["image_size_y"], start["image_size_x"], start["image_dtype"]) == (*SHAPE, f"uint{dtype[1:]}")
    assert [image["image_id"] for image in images] == list(range(COUNT))
    arrays = [image["data"]["threshold_1"] for image in images]
    assert all((array.tag, array.value[0]) == (40, list(SHAPE)) for array in arrays)
    typed = [array.value[1] for array in arrays]
    assert {item.tag for item in typed} == {{1: 64, 2: 69, 4: 70}[kind.itemsize]}
    payloads = [item.value if compression == "none" else item.value.value[2] for item in typed]
    frames = decoded(payloads, SHAPE, kind, filters, folder)
    assert frames.sum() > 100 * COUNT
    data = DataSet(folder / "scan.ronchi")
    scans.assert_same_frames(by_zarr(data, 0, COUNT), frames, 0)
    scans.assert_same_frames(by_h5py(data, 0, COUNT), frames, 0)


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "decoded"])
def test_replay(folder, kept):
    """A recorded data set is sent again, by the other stream and coded otherwise: the same frames arrive."""
    with simulator("--format", "legacy", "--dtype", "u32", "--compression", "bslz4") as (_, addresses):
        again = [] if kept else ["--compress", "none"]
        record(addresses["dectris1"].split(":")[1], lambda: None, folder / "first.ronchi", "--scan", "6x8", *again)
    replay = ["--replay", folder / "first.ronchi", "--rate", 0, "--format", "legacy", "--compression", "lz4"]
    command = [harness.ronchi_binary(), "simulate", "dectris", *replay, "--stream1", "127.0.0.1:0"]
    with harness.Process(command) as process:
        harness.until(lambda: "starting" in process.stdout(), 60, "it starts", alive=process)
        assert "scan 6x8, detector 64x48 (uint32, lz4" in process.stdout()
        port = re.search(r"dectris1://127.0.0.1:(\d+)", process.stdout()).group(1)
        report = record(port, lambda: None, folder / "second.ronchi")
    assert (report["state"], report["frames"]["durable"], report["gaps"]) == ("complete", COUNT, [])
    first, second = (by_zarr(DataSet(folder / f"{name}.ronchi"), 0, COUNT) for name in ("first", "second"))
    assert first.sum() > 100 * COUNT
    scans.assert_same_frames(second, first, 0)
    code, _, err = harness.ronchi("simulate", "dectris", "--replay", folder / "nothing.ronchi")
    assert code != 0 and "cannot replay" in err


def command(address, path, value=None):
    body = None if value is None else json.dumps({"value": value}).encode()
    request = urllib.request.Request(f"http://{address}/{path}", method="PUT", data=body)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


@pytest.mark.parametrize("compression", ["bslz4", "lz4"])
def test_libertem_live(folder, compression):
    """LiberTEM-live configures, arms and receives the simulator as it does a detector; its sums are those of what ronchi recorded."""
    import libertem.udf.masks
    from libertem_live.api import LiveContext

    ring = results_ref.ring(SHAPE, 32, 24, 5, 15)
    with simulator("--format", "legacy", "--rest", "127.0.0.1:0", "--compression", compression) as (process, addresses):
        rest, stream = addresses["http"].split("/")[0], addresses["dectris1"]
        command(rest, "detector/api/1.8.0/command/initialize")
        command(rest, "stream/api/1.8.0/config/mode", "enabled")
        (api_host, api_port), (data_host, data_port) = rest.split(":"), stream.split(":")
        with LiveContext() as context, context.make_connection("dectris").open(
            api_host=api_host, api_port=int(api_port), data_host=data_host, data_port=int(data_port)
        ) as connection:
            controller = connection.get_active_controller(trigger_mode="exte", compression=compression)
            acquisition = context.make_acquisition(conn=connection, nav_shape=SCAN, controller=controller, frames_per_partition=8)
            udf = libertem.udf.masks.ApplyMasksUDF(mask_factories=[lambda: ring.astype(np.float64)])
            theirs = context.run_udf(dataset=acquisition, udf=udf)["intensity"].data[..., 0]

        def arm():
            harness.until(lambda: status(rest, "detector") == "idle", 30, "it is idle", alive=process)
            command(rest, "detector/api/1.8.0/command/arm")

        report = record(data_port, arm, folder / "scan.ronchi", "--scan", "6x8", "--virtual", "adf=ring:32,24,5,15")
    assert (report["state"], report["gaps"]) == ("complete", [])
    ours = DataSet(folder / "scan.ronchi").array("results/adf")
    assert ours.sum() > 0
    np.testing.assert_array_equal(ours, theirs)


def status(address, module):
    with urllib.request.urlopen(f"http://{address}/{module}/api/1.8.0/status/state", timeout=30) as answer:
        return json.loads(answer.read())["value"]
