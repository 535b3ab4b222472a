"""The live stream in the forms of other makes: the same numbers as those of the API, in the hands of programs made for them.

karabo-bridge is read by its own client. odin-data has none that pip could install: its viewer is played here, which takes a
message apart as `live_view_adapter.py` does (shape as decimal strings, rows first; `float` is of 32 bits).
"""

import json

import numpy as np
import zmq
from karabo_bridge import Client

import harness
import viewing

SCAN = (16, 20)
NAMES = {"bf", "adf", "com", "sum", "total"}


def source(name):
    return f"RONCHI/LIVE/{name}:output"


def test_karabo_bridge_gets_every_image(folder):
    """All images in every answer, in trains whose number grows; at the end, and for who comes after it, those of the API:
    names, shapes, types and values.
    """
    endpoint = f"tcp://127.0.0.1:{harness.free_port()}"
    with viewing.simulator(SCAN, 200) as data_port, viewing.receiver(folder, data_port, f'karabo = "{endpoint}"') as site:
        with Client(endpoint, timeout=60) as client:
            trains, measured, state = [], [], "waiting"
            while state in ("waiting", "running"):
                data, told = client.next()
                assert set(data) == {source(name) for name in NAMES}
                bright = data[source("bf")]
                trains.append(told[source("bf")]["timestamp.tid"])
                measured.append(np.isfinite(bright["image.data"]).sum())
                state = bright["state"]
            assert state == "complete" and len(set(measured)) > 3, measured
            assert trains == sorted(trains) and measured == sorted(measured)
            assert abs(told[source("bf")]["timestamp"] - folder.stat().st_mtime) < 600, "seconds since 1970"
        with Client(endpoint, timeout=60) as later:
            data, told = later.next()
        for name in NAMES:
            image, told_of = site.image(name), data[source(name)]
            assert (told_of["image.data"].dtype, told_of["image.data"].shape) == (image.dtype, image.shape), name
            np.testing.assert_array_equal(told_of["image.data"], image, name)
            assert told_of["result"] == name and told_of["acq"] == site.current()["id"]
        assert data[source("com")]["axes.name"] == ["scan_y", "scan_x", "component"]
        assert (data[source("bf")]["frame_to"], data[source("bf")]["quality.missing"]) == (320, 0)


class OdinViewer:
    """What the viewer of odin-data does with a message."""

    def __init__(self, endpoint):
        self.images, self.headers, self.count = {}, {}, 0
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 5)
        self._socket.connect(endpoint)

    def take(self):
        """One message, if one comes within 50 ms."""
        if not self._socket.poll(50):
            return
        text, pixels = self._socket.recv_multipart()
        header = json.loads(text)
        dtype = {"float": "float32"}.get(header["dtype"], header["dtype"])
        assert header["dsize"] == len(pixels) and header["compression"] == "none"
        shape = [int(header["shape"][0]), int(header["shape"][1])]
        self.images[header["dataset"]] = np.frombuffer(pixels, dtype).reshape(shape)
        self.headers[header["dataset"]] = header
        self.count += 1

    def close(self):
        self._socket.close()


def test_odin_viewers_get_every_image(folder):
    """A viewer follows the scan and ends with the numbers of the API in single precision; a vector is two images."""
    endpoint = f"tcp://127.0.0.1:{harness.free_port()}"
    with viewing.simulator(SCAN, 200) as data_port, viewing.receiver(folder, data_port, f'odin = "{endpoint}"') as site:
        viewer = OdinViewer(endpoint)
        measured = set()
        while site.current()["state"] in ("none", "waiting", "running"):
            viewer.take()
            if "bf" in viewer.headers:
                measured.add(320 - viewer.headers["bf"].get("filled", 0))
                assert np.isfinite(viewer.images["bf"]).all(), "its viewer shows nothing where there is one NaN"
        assert len(measured) > 2, measured
        wanted = {name: site.image(name) for name in NAMES - {"com"}}
        wanted |= {f"com_{axis}": site.image("com")[..., index] for index, axis in enumerate("yx")}

        def has_all():
            viewer.take()
            return all(np.array_equal(viewer.images.get(name), image.astype("f4")) for name, image in wanted.items())

        harness.until(has_all, 10, "the images of the whole scan", site.process)
        assert set(viewer.images) == set(wanted)
        header = viewer.headers["bf"]
        assert (header["frame_num"], header["acquisition_id"], "filled" in header) == (319, site.current()["id"], False)
        viewer.close()
