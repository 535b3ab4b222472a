"""Ten thousand segments, sparse files of tiny frames: what needs only metadata takes seconds. Times are printed."""

import time

import h5py

import fabricate
import harness

SEGMENTS = 10_000


def timed(what, action):
    begin = time.perf_counter()
    result = action()
    print(f"{what}: {time.perf_counter() - begin:.2f} s")
    return result


def ronchi(*arguments):
    code, out, err = timed(f"ronchi {' '.join(map(str, arguments[:2]))}", lambda: harness.ronchi(*arguments, deadline_s=120))
    assert code == 0, out + err
    return out


def test_ten_thousand_segments(folder):
    """ls, verify --quick, companions, and opening them; frames of the first and the last segment."""
    count = 4 * SEGMENTS
    frames = fabricate.Zeros((count, 32, 32), ">u2")
    scan = {"shape": [200, 200]}
    data_set = timed("fabricated", lambda: fabricate.data_set(folder / "a.ronchi", frames, 4, 2, scan=scan))
    ronchi("ls", "--json", folder)
    assert "intact" in ronchi("verify", "--quick", data_set)
    ronchi("export", "--companions", data_set)
    assert "intact" in ronchi("verify", "--quick", data_set)
    file = timed("h5py opens scan.nxs", lambda: h5py.File(data_set / "scan.nxs"))
    with file:
        image = timed("h5py opens the 4-D view", lambda: file["entry/data/data"])
        assert image.shape == (200, 200, 32, 32)
        assert len(image.virtual_sources()) == SEGMENTS
        first = timed("first frame", lambda: image[0, 0])
        last = timed("last frame", lambda: image[-1, -1])
        timed("a row of 50 segments", lambda: image[100])
        assert not first.any() and not last.any()
    size = (data_set / "scan.nxs").stat().st_size
    print(f"scan.nxs: {size / 1e6:.1f} MB")
