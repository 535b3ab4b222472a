"""Results stored beside the frames equal LiberTEM's and numpy's on the same frames, and the live stream ends on them."""

import contextlib

import numpy as np
import pytest

import harness
import live
import mib
import results_ref
import scans
from dataset import DataSet

RING = (63.5, 60, 20, 50)
DISK = (64, 64, 30.5)


@pytest.fixture(params=["u08", "u16", "u32", "odd"])
def recorded(request, folder):
    """`(data set, frames as (ny, nx, y, x), directory)` of a recording with every kind of result."""
    form, signal = {
        "u08": (mib.U08, (128, 128)),
        "u16": (mib.U16, (128, 128)),
        "u32": (mib.U32, (128, 128)),
        "odd": (mib.U16, (117, 131)),
    }[request.param]
    scan = scans.write(folder, "scan", (12, 17), signal, form)
    random = np.random.default_rng(1)
    np.save(folder / "binary.npy", (random.random(signal) < 0.4).astype("f8"))
    np.save(folder / "weights.npy", random.normal(size=signal))
    masks = [
        *["--virtual", f"ring=ring:{','.join(map(str, RING))}"],
        *["--virtual", f"disk=disk:{','.join(map(str, DISK))}"],
        *["--virtual", f"binary=npy:{folder / 'binary.npy'}"],
        *["--virtual", f"weights=npy:{folder / 'weights.npy'}"],
    ]
    out = folder / "out.ronchi"
    with scan.simulator() as detector:
        harness.record(detector, out, *scan.arguments, *masks, "--total", "--com", "--sum", "--max")
    data = DataSet(out)
    frames = data.read_all()
    scans.assert_same_frames(frames, scan.frames)
    return data, frames.reshape(*scan.shape, *signal), folder


def test_virtual_images_equal_libertem_and_numpy(recorded, libertem):
    """Binary masks on integers: the same bits. Weights: within 1e-12 of the sum of absolute products."""
    data, frames, folder = recorded
    signal = frames.shape[2:]
    masks = {
        "ring": results_ref.ring(signal, *RING),
        "disk": results_ref.disk(signal, *DISK),
        "binary": np.load(folder / "binary.npy") != 0,
    }
    for (name, mask), reference in zip(
        masks.items(), results_ref.libertem_masks(libertem, frames, masks.values()), strict=True
    ):
        stored = data.array(f"results/{name}")
        exact = frames[..., mask].sum(axis=-1, dtype="u8")
        assert np.array_equal(stored, exact), f"{name} differs from numpy"
        assert np.array_equal(stored, reference), f"{name} differs from LiberTEM"
    weights = np.load(folder / "weights.npy")
    stored = data.array("results/weights")
    (reference,) = results_ref.libertem_masks(libertem, frames, [weights])
    allowed = 1e-12 * np.tensordot(frames.astype("f8"), np.abs(weights), 2)
    assert np.all(np.abs(stored - np.tensordot(frames.astype("f8"), weights, 2)) <= allowed)
    assert np.all(np.abs(stored - reference) <= allowed)


def test_total_sum_and_max_equal_libertem_and_numpy(recorded, libertem):
    """Counts per frame and per pixel are exact; the maximum is the pixel's own."""
    data, frames, _ = recorded
    total, summed = data.array("results/total"), data.array("results/sum")
    assert np.array_equal(total, frames.sum(axis=(2, 3), dtype="u8"))
    assert np.array_equal(total, results_ref.libertem_total(libertem, frames))
    assert np.array_equal(summed, frames.sum(axis=(0, 1), dtype="u8"))
    assert np.array_equal(summed, results_ref.libertem_sum(libertem, frames))
    assert np.array_equal(data.array("results/max"), frames.max(axis=(0, 1)))


def test_centre_of_mass_equals_libertem_and_numpy(recorded, libertem):
    """Position of the centre `(y, x)` in detector pixels."""
    data, frames, _ = recorded
    stored = data.array("results/com")
    np.testing.assert_allclose(stored, results_ref.numpy_com(frames), rtol=0, atol=results_ref.COM_TOLERANCE_PX)
    reference = results_ref.libertem_com(libertem, frames)
    np.testing.assert_allclose(stored, reference, rtol=0, atol=results_ref.COM_TOLERANCE_PX)


def test_results_do_not_depend_on_the_speed_of_the_stream(folder):
    """Live work may be skipped and made up for later: a fast and a slow recording end with the same bits."""
    scan = scans.write(folder, "scan", (24, 32), (128, 128))
    wanted = ["--virtual", "ring=ring:64,64,20,50", "--total", "--com", "--sum", "--max"]
    names = ["ring", "total", "com", "sum", "max"]
    stored = []
    for name, rate in [("fast", 0), ("slow", 800)]:
        with scan.simulator(rate=rate) as detector:
            harness.record(detector, folder / f"{name}.ronchi", *scan.arguments, *wanted)
        data = DataSet(folder / f"{name}.ronchi")
        stored.append([data.array(f"results/{result}") for result in names])
    for name, fast, slow in zip(names, *stored, strict=True):
        assert fast.dtype == slow.dtype and fast.tobytes() == slow.tobytes(), name


@contextlib.contextmanager
def subscribed_recording(scan, out, *arguments, rate):
    """A recording with a subscriber that was there before it."""
    endpoint = f"tcp://127.0.0.1:{harness.free_port()}"
    with live.Subscriber(endpoint) as subscriber:
        with scans.recording_of(scan, out, "--live-zmq", endpoint, *arguments, rate=rate) as (_, process):
            yield subscriber, process


def test_live_stream_ends_on_the_stored_results(folder, scan):
    """Arrays put together from the stream's updates equal the stored ones once the stream has said `end`."""
    out = folder / "out.ronchi"
    wanted = ["--virtual", "ring=ring:64,64,20,50", "--total", "--com", "--sum", "--max"]
    with subscribed_recording(scan, out, *wanted, rate=500) as (subscriber, process):
        assert process.wait(60) == 0, process.log()
        subscriber.wait_for_end(10)
    data = DataSet(out)
    for name in ("ring", "total", "sum", "max", "com"):
        stored = data.array(f"results/{name}")
        assert name in subscriber.arrays, sorted(subscriber.arrays)
        streamed = subscriber.arrays[name]
        if name == "com":
            np.testing.assert_allclose(streamed, stored, rtol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(streamed, stored, err_msg=name)


def test_live_stream_grows_with_the_scan_and_counts_its_messages(folder, scan):
    """Several updates arrive while frames come in; watermarks and sequence numbers only grow."""
    with subscribed_recording(scan, folder / "out.ronchi", "--total", rate=400) as (subscriber, process):
        assert process.wait(60) == 0, process.log()
        subscriber.wait_for_end(10)
    updates = [header for topic, header in subscriber.headers if topic.endswith("/total")]
    assert len(updates) >= 5, f"{len(updates)} updates in about two seconds"
    sequences = [header["seq"] for header in updates]
    assert all(before < after for before, after in zip(sequences, sequences[1:]))
    covered = [header["frame_to"] for header in updates]
    assert covered == sorted(covered) and covered[-1] == len(scan.frames)
    assert any(0 < frames < len(scan.frames) for frames in covered), "nothing was shown before the end"
    assert {header["v"] for _, header in subscriber.headers} == {1}
    assert len({header["acq"] for _, header in subscriber.headers}) == 1
