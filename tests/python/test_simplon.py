"""DECTRIS detectors that ronchi drives over REST: the simulators of LiberTEM-live and of tickit-devices, which nobody here wrote."""

import contextlib
import json
import signal
import subprocess
import urllib.error
import urllib.request

import h5py
import hdf5plugin
import numpy as np
import pytest

import harness
import scans
from dataset import DataSet
from test_dectris import COUNT, SCAN, SIDE, dump_of
from test_interop import by_zarr

STRANGERS = harness.PROJECT / ".venv-strangers" / "bin"
OWN = ["--json", "--reserve-gib", 0, "--http", "off", "--live-zmq", "off"]


@contextlib.contextmanager
def libertem_simulator(**frames):
    """LiberTEM-live's simulator: the ports of its stream and of its REST interface."""
    from libertem_live.detectors.dectris.sim import DectrisSim

    sim = DectrisSim(port=0, zmqport=0, verbose=False, **frames)
    sim.start()
    try:
        sim.wait_for_listen()
        yield sim.zmqport, sim.port
    finally:
        sim.stop()


def driving(source, port, *arguments):
    """`ronchi record` of a detector that it arms."""
    return harness.Process([harness.ronchi_binary(), "record", source, "--arm", "--control-port", port, *OWN, *arguments])


def some_frames(folder):
    frames = np.random.default_rng(4).poisson(0.7, (COUNT, SIDE, SIDE - 12)).astype("<u2")
    return frames, str(dump_of(frames, "bs16-lz4<", folder))


def test_libertem_scan_by_pulses(folder):
    """A pulse for each position: the counts that follow from the scan are those of the simulator, which takes no others."""
    frames, dump = some_frames(folder)
    more = ["--scan", SCAN, "--trigger", "exte", "--set", "trigger_per=frame", "--set", "compression=bslz4"]
    with libertem_simulator(path=dump) as (stream, port):
        with driving(f"dectris1://127.0.0.1:{stream}", port, "--out", folder / "scan.ronchi", *more) as process:
            assert process.wait(60) == 0, process.log()
            report = harness.report(process)
    assert (report["state"], report["frames"]["durable"], report["frames"]["dropped"]) == ("complete", COUNT, 0)
    scans.assert_same_frames(by_zarr(DataSet(folder / "scan.ronchi"), 0, COUNT), frames, 0)


def test_libertem_mock(folder):
    """Nothing is set: what the simulator has stays; it is triggered if it waits for that."""
    with libertem_simulator(num_mock_frames=COUNT) as (stream, port):
        out = folder / "mock.ronchi"
        with driving(f"dectris1://127.0.0.1:{stream}", port, "--out", out, "--compress", "none") as process:
            assert process.wait(60) == 0, process.log()
    frames = by_zarr(DataSet(out), 0, COUNT)
    np.testing.assert_array_equal(frames[:, 0, 0], np.arange(COUNT))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--scan", "10x16"], "its ntrigger = 144 times nimages = 1 are 144 images, the scan has 160 frames"),
        (["--set", "count_time_s=5"], 'config/count_time {"value":5.0}: answered 500'),
        (["--scan", "10x16", "--trigger", "exts", "--set", "ntrigger=9", "--set", "nimages=16"], "9 triggers of 16 images are 144"),
        (["--trigger", "soft"], "trigger=soft: expected one of"),
    ],
)
def test_disagreement_ends_the_recording(folder, arguments, message):
    """What the detector would not do, or would do otherwise than the scan needs, is told, and nothing is recorded."""
    _, dump = some_frames(folder)
    with libertem_simulator(path=dump) as (stream, port):
        with driving(f"dectris1://127.0.0.1:{stream}", port, "--out", folder / "no.ronchi", *arguments) as process:
            assert process.wait(30) == 2, process.log()
            assert message in process.stderr(), process.log()
    assert not (folder / "no.ronchi").exists()


def test_serve_arms_again(folder):
    """A configuration file: one series after the other, each armed by ronchi."""
    frames, dump = some_frames(folder)
    with libertem_simulator(path=dump) as (stream, port):
        text = f"""
            data = {{ directory = "data", name = "s", reserve_gib = 0 }}
            scan = {{ shape = [9, 16] }}
            [[link]]
            source = "dectris1://127.0.0.1:{stream}"
            control = {{ port = {port}, trigger = "exte", trigger_per = "frame" }}
        """
        (folder / "r.toml").write_text(text)
        with harness.Process([harness.ronchi_binary(), "serve", "--config", folder / "r.toml", "--json"]) as process:
            harness.until(lambda: process.stdout().count("\n") >= 3, 60, "three series", alive=process)
            harness.terminate(process, 30)
            reports = [json.loads(line) for line in process.stdout().splitlines()]
    assert all(report["frames"]["durable"] == COUNT for report in reports[:3]), reports
    for name in ["s", "s_0001", "s_0002"]:
        scans.assert_same_frames(by_zarr(DataSet(folder / "data" / f"{name}.ronchi"), 0, COUNT), frames, 0)


# tickit lets its PUSH sockets connect to the address to which they are bound: to themselves. Until that is refused, every
# second message may be dealt to that end, and is lost, whoever listens. Here they are only bound.
TICKIT = """
import sys, aiozmq, zmq
from tickit.adapters.io.zeromq_push_io import ZeroMqPushIo
from tickit.cli import main
def bound(host, port): return aiozmq.create_zmq_stream(zmq.PUSH, bind=f"tcp://{host}:{port}")
ZeroMqPushIo.__init__.__defaults__ = (*ZeroMqPushIo.__init__.__defaults__[:-1], bound)
sys.exit(main())
"""


@contextlib.contextmanager
def tickit(folder):
    """tickit-devices' EIGER: the ports of REST, STREAM and STREAM2."""
    if not (STRANGERS / "tickit").exists():
        pytest.skip("tickit-devices is not installed: ./setup.sh makes .venv-strangers")
    rest, legacy, cbor = (harness.free_port() for _ in range(3))
    device = {"type": "tickit_devices.eiger.Eiger", "name": "eiger", "inputs": {}, "host": "127.0.0.1", "port": rest}
    ports = {"stream_host": "127.0.0.1", "stream_legacy_port": legacy, "stream_cbor_port": cbor}
    (folder / "eiger.yaml").write_text(json.dumps([{**device, **ports}]))
    command = [STRANGERS / "python", "-c", TICKIT, "--log-level", "WARNING", "all", folder / "eiger.yaml"]
    with harness.Process(command) as process:
        harness.until(lambda: all(map(harness.is_listening, (rest, legacy, cbor))), 60, "tickit listens", alive=process)
        yield rest, legacy, cbor


def tickit_image(folder):
    """The only image it has, decoded by the HDF5 filter."""
    where = subprocess.check_output(
        [STRANGERS / "python", "-c", "import tickit_devices.eiger as e; print(e.__path__[0])"], text=True
    )
    payload = (folder.__class__(where.strip()) / "data" / "frame_sample").read_bytes()
    with h5py.File(folder / "image.h5", "w") as file:
        shape = (1, 4362, 4148)
        data = file.create_dataset("x", shape, "<u2", chunks=shape, **hdf5plugin.Bitshuffle(cname="lz4"))
        data.id.write_direct_chunk((0, 0, 0), payload)
        return data[0]


def state_of(rest):
    url = f"http://127.0.0.1:{rest}/detector/api/1.8.0/status/state"
    with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(url, timeout=10) as answer:
        return json.loads(answer.read())["value"]


@pytest.mark.parametrize("stream, arguments", [(1, ["--compress", "none"]), (2, [])], ids=["stream", "stream2"])
def test_tickit(folder, stream, arguments):
    """Initialised, set, armed, triggered and disarmed; both streams, frames of 36 MB."""
    more = ["--trigger", "ints", "--set", "trigger_per=scan", "--set", "frame_time_s=0.01", "--set", "count_time_s=0.01"]
    with tickit(folder) as (rest, *ports):
        source = f"dectris{stream}://127.0.0.1:{ports[stream - 1]}"
        out = folder / "eiger.ronchi"
        own = ["--out", out, "--scan", "1x3", "--block-mib", 36, *more, *arguments]
        with driving(source, rest, *own) as process:
            assert process.wait(120) == 0, process.log()
            report = harness.report(process)
        assert state_of(rest) == "idle"
    assert (report["state"], report["frames"]["durable"], report["gaps"]) == ("complete", 3, [])
    frames = by_zarr(DataSet(out), 0, 3)
    assert frames.shape[1:] == (4362, 4148)
    image = frames[0] if stream == 2 else tickit_image(folder)
    scans.assert_same_frames(frames, np.broadcast_to(image, frames.shape), 0)
    if stream == 2:  # As reference decoders find it: its pixels without data, and the others together.
        assert (np.count_nonzero(image == 65535), int(image[image != 65535].sum(dtype=np.uint64))) == (1253075, 13712)


def test_a_stopped_receiver_leaves_no_detector_armed(folder):
    """SIGINT while the detector waits for a pulse."""
    with tickit(folder) as (rest, _, cbor):
        with driving(f"dectris2://127.0.0.1:{cbor}", rest, "--no-record", "--trigger", "exts") as process:
            harness.until(lambda: state_of(rest) == "ready", 30, "the detector is armed", alive=process)
            process.signal(signal.SIGINT)
            process.wait(30)
            assert "may still be" not in process.stderr(), process.log()
        assert state_of(rest) == "idle"
