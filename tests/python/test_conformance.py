"""What the receiver stores is, pixel by pixel, what a Merlin sent: generated, golden and real streams, two simulators."""

import hashlib
import json

import numpy as np
import pytest

import harness
import mib
import scans
from dataset import DataSet

# Name, format, chips, frame shape, scan. LiberTEM-live's simulator replays all of these.
GENERATED = [
    ("u08", mib.U08, 1, (256, 256), (3, 5)),
    ("u16", mib.U16, 1, (256, 256), (3, 5)),
    ("u32", mib.U32, 1, (256, 256), (3, 5)),
    ("u16_quad", mib.U16, 4, (512, 512), (3, 4)),
    ("u16_rows", mib.U16, 1, (64, 256), (3, 5)),
    ("raw_1", mib.R64_1, 1, (256, 256), (3, 5)),
    ("raw_6", mib.R64_6, 1, (256, 256), (3, 5)),
    ("raw_12", mib.R64_12, 1, (256, 256), (3, 5)),
    ("raw_1_quad", mib.R64_1, 4, (512, 512), (3, 4)),
    ("raw_6_quad", mib.R64_6, 4, (512, 512), (3, 4)),
    ("raw_12_quad", mib.R64_12, 4, (512, 512), (3, 4)),
]

REFERENCE = [
    "golden/golden_quad_raw01.mib",
    "golden/golden_quad_raw06.mib",
    "golden/golden_quad_raw12.mib",
    "golden/golden_quadgap_raw01.mib",
    "golden/golden_single_raw01.mib",
    "golden/golden_single_raw06.mib",
    "golden/golden_single_raw12.mib",
    "golden/golden_single_raw24.mib",
    "golden/golden_single_u16.mib",
    "quad/Quad_1_Frame_CounterDepth_12_Rows_256.mib",
    "quad/Quad_1_Frame_CounterDepth_1_Rows_256.mib",
    "quad/Quad_1_Frame_CounterDepth_24_Rows_256.mib",
    "quad/Quad_1_Frame_CounterDepth_6_Rows_256.mib",
    "quad_raw/Quad_1_Frame_CounterDepth_1_Rows_256RAW.mib",
    "quad_raw/Quad_9_Frame_CounterDepth_1_Rows_256RAW.mib",
    "scan/001_4x2_6bit.mib",
    "scan/002_4x2_6bit_roi128.mib",
    "scan/002_merlin_test_roi_sig256x128_nav4x2_hot_pixel_52x_39y.mib",
    "scan/003_merlin_test_roi_sig256x64_nav4x2_hot_pixel_52x_39y.mib",
    "scan/Single_9_Frame_CounterDepth_6_Rows_256.mib",
    "single/Single_1_Frame_CounterDepth_12_Rows_256.mib",
    "single/Single_1_Frame_CounterDepth_1_Rows_256.mib",
    "single/Single_1_Frame_CounterDepth_24_Rows_256.mib",
    "single/Single_1_Frame_CounterDepth_6_Rows_256.mib",
    "single_raw/Single_1_Frame_CounterDepth_1_Rows_256RAW.mib",
    "single_raw/Single_9_Frame_CounterDepth_1_Rows_256RAW.mib",
]


@pytest.mark.parametrize("simulator", ["libertem", "own"])
@pytest.mark.parametrize("case", GENERATED, ids=lambda case: case[0])
def test_generated_stream_is_stored_exactly(folder, case, simulator):
    """Every processed and raw format: pixels in the data set equal the pixels that went into the .mib."""
    name, form, chips, signal, shape = case
    scan = scans.write(folder, name, shape, signal, form, chips)
    feed = scan.libertem_simulator() if simulator == "libertem" else scan.simulator()
    with feed as detector:
        report = harness.record(detector, folder / "out.ronchi", *scan.arguments)
    scans.assert_complete(folder / "out.ronchi", report, scan)


@pytest.mark.parametrize("seed", range(2))
def test_odd_frame_sizes_are_stored_exactly(folder, seed):
    """Frames that fill no whole number of sectors, more of them than fit in one block."""
    scan = scans.write(folder, "odd", (11, 13), [(67, 65), (515, 513)][seed], seed=seed)
    with scan.simulator() as detector:
        report = harness.record(detector, folder / "out.ronchi", *scan.arguments)
    scans.assert_complete(folder / "out.ronchi", report, scan)


def test_many_frames_of_a_paced_libertem_simulator(folder):
    """A scan of several segments' worth of chunks through LiberTEM-live's simulator with its cache and a dwell time."""
    scan = scans.write(folder, "scan", (32, 64), (128, 128))
    with scan.libertem_simulator("--cached", "mem", "--dwelltime", "200") as detector:
        report = harness.record(detector, folder / "out.ronchi", *scan.arguments)
    scans.assert_complete(folder / "out.ronchi", report, scan)


def test_two_acquisitions_on_one_simulator(folder):
    """A detector is armed again by a second receiver; both data sets are complete and alike."""
    scan = scans.write(folder, "scan", (8, 8), (64, 64))
    with scan.libertem_simulator() as detector:
        for name in ("first", "second"):
            detector.wait_until_idle()
            report = harness.record(detector, folder / f"{name}.ronchi", *scan.arguments)
            scans.assert_complete(folder / f"{name}.ronchi", report, scan)


def reference_scan(expected):
    """A scan shape for files that carry between 1 and 9 frames."""
    return {1: "1x1", 2: "1x2", 4: "2x2", 8: "2x4", 9: "3x3"}[expected["frames"]]


@pytest.mark.parametrize("simulator", ["libertem", "own"])
@pytest.mark.parametrize("name", REFERENCE)
def test_reference_stream_is_decoded_as_expected(folder, shared_mib, name, simulator):
    """Real and golden files: sums, maxima, single pixels and the digest of frame 0 as independently computed."""
    expected = json.loads((shared_mib / "expected.json").read_text())[name]
    if simulator == "libertem":
        feed = harness.libertem_simulator((shared_mib / name).with_suffix(".hdr"))
    else:
        feed = harness.own_simulator("--mib", shared_mib / name)
    out = folder / "out.ronchi"
    with feed as detector:
        report = harness.record(detector, out, "--scan", reference_scan(expected))
    assert report["gaps"] == []
    assert report["frames"]["durable"] == expected["frames"]
    frames = DataSet(out).read_all()
    assert frames.shape == (expected["frames"], *expected["decoded_shape"])
    assert frames.sum(axis=(1, 2), dtype="u8").tolist() == expected["frame_sums"]
    assert frames.max(axis=(1, 2)).tolist() == expected["frame_max"]
    for place, value in expected["first_frame_pixels"].items():
        y, x = map(int, place.split(","))
        assert frames[0, y, x] == value, place
    first = np.ascontiguousarray(frames[0], dtype="<u4").tobytes()
    assert hashlib.sha256(first).hexdigest() == expected["decoded_sha256_u32le_first"]


def test_the_list_of_reference_files_is_whole(shared_mib):
    """No reference file is forgotten when the collection grows."""
    assert sorted(json.loads((shared_mib / "expected.json").read_text())) == sorted(REFERENCE)
