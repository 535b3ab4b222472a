"""The list of reductions changes while a scan of 60,000 frames comes at 5000 per second: the new image is that of the whole
scan long before the scan ends, and the recording lacks nothing.
"""

import io
import json
import time
import urllib.error
import urllib.request

import numpy as np

import harness
import results_ref
from dataset import DataSet

SCAN = (240, 250)
SIGNAL = (64, 64)
RATE = 5000
BEFORE = (31.5, 31.5, 8, 20)
AFTER = (29.0, 33.0, 12, 28)


def request(port, path, body=None):
    """The answer's body; `body` is sent as JSON with PUT."""
    url = f"http://127.0.0.1:{port}{path}"
    data = None if body is None else json.dumps(body).encode()
    method = "GET" if body is None else "PUT"
    sent = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(sent, timeout=10) as answer:
        return answer.read()


def image(port, name):
    return np.load(io.BytesIO(request(port, f"/api/v1/acq/latest/result/{name}.npy")))


def frame_count(port):
    """Frames received so far."""
    return sum(link["frames"] for link in json.loads(request(port, "/api/v1/status"))["links"])


def ring(cy, cx, inner, outer):
    return {"name": "ring", "kind": "ring", "cy": cy, "cx": cx, "inner": inner, "outer": outer}


def test_a_moved_ring_shows_the_whole_scan(folder):
    out, port = folder / "scan.ronchi", harness.free_port()
    count = SCAN[0] * SCAN[1]
    shape = ["--scan", f"{SCAN[0]}x{SCAN[1]}", "--detector", f"{SIGNAL[0]}x{SIGNAL[1]}"]
    wanted = ["--virtual", f"ring=ring:{','.join(map(str, BEFORE))}", "--total", "--sum", "--live-zmq", "off"]
    with harness.own_simulator(*shape, rate=RATE) as detector:
        arguments = ["--scan", shape[1], *wanted, "--http", f"127.0.0.1:{port}"]
        with harness.recording(detector, out, *arguments) as process:
            harness.until(lambda: harness.is_listening(port), 30, "HTTP listens", alive=process)
            harness.until(lambda: frame_count(port) > count // 3, 60, "a third of the scan", alive=process)
            answer = request(port, "/api/v1/reductions", [{"name": "total"}, {"name": "sum"}, ring(*AFTER), {"kind": "max"}])
            asked_at, changed = time.monotonic(), frame_count(port)
            assert [entry["name"] for entry in json.loads(answer)] == ["total", "sum", "ring", "max"]
            rows = changed // SCAN[1]

            def is_whole():
                return not np.isnan(image(port, "ring")[:rows]).any()

            harness.until(is_whole, 60, "the new image of all that had come", alive=process)
            seconds, arrived = time.monotonic() - asked_at, frame_count(port)
            print(f"changed at frame {changed}, whole {seconds:.2f} s later, at frame {arrived} of {count}")
            assert arrived < count, "the image became whole only when the scan was over"
            assert process.wait(120) == 0, process.log()
            report = harness.report(process)
    assert (report["state"], report["gaps"], report["frames"]["durable"]) == ("complete", [], count)
    compare(out, changed)


def compare(out, changed):
    """Every result is that of the whole scan, by numpy."""
    data = DataSet(out)
    frames = data.read_all()
    mask = results_ref.ring(SIGNAL, *AFTER)
    assert np.array_equal(data.array("results/ring").ravel(), frames[:, mask].sum(axis=1, dtype="u8")), changed
    assert np.array_equal(data.array("results/total").ravel(), frames.sum(axis=(1, 2), dtype="u8"))
    assert np.array_equal(data.array("results/sum"), frames.sum(axis=0, dtype="u8"))
    assert np.array_equal(data.array("results/max"), frames.max(axis=0))
    assert data.array("results/valid").all()


def test_a_list_that_does_not_fit_changes_nothing(folder):
    port = harness.free_port()
    with harness.own_simulator("--scan", "8x8", "--detector", "32x32", rate=1) as detector:
        arguments = ["--scan", "8x8", "--total", "--http", f"127.0.0.1:{port}", "--live-zmq", "off"]
        with harness.recording(detector, folder / "x.ronchi", *arguments) as process:
            harness.until(lambda: harness.is_listening(port), 30, "HTTP listens", alive=process)
            harness.until(lambda: frame_count(port) > 0, 60, "a frame", alive=process)
            before = request(port, "/api/v1/reductions")
            for wrong, why in [
                ([{"kind": "spiral"}], "[0]: "),
                ([{"name": "total"}, {"kind": "radial", "bins": "many"}], "[1]: `bins`"),
                ([ring(100, 100, 0, 5)], "selects no pixel"),
                ([{"kind": "sum"}, {"kind": "sum"}], "two results are called"),
                ({"kind": "sum"}, "expected an array"),
            ]:
                try:
                    request(port, "/api/v1/reductions", wrong)
                except urllib.error.HTTPError as error:
                    text = json.loads(error.read())["error"]
                    assert error.code == 422 and why in text, (error.code, text)
                else:
                    raise AssertionError(f"{wrong} was taken")
                assert request(port, "/api/v1/reductions") == before
            harness.terminate(process)
