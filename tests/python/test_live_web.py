"""The live stream over WebSocket and recorded frames over HTTP, as a program sees them."""

import json
import struct
import urllib.error

import numpy as np
import pytest
import websockets
from websockets.sync.client import connect

import viewing
from dataset import DataSet


class Canvas:
    """Puts the images of one connection together."""

    def __init__(self):
        self.images, self.next_seq, self.ended = {}, {}, set()

    def take(self, message):
        (length,) = struct.unpack_from("<I", message)
        header = json.loads(message[4 : 4 + length])
        name = header.get("result")
        if name is None:
            return
        assert self.next_seq.get(name, header["seq"]) == header["seq"], "messages of one connection have no holes"
        self.next_seq[name] = header["seq"] + 1
        if header["type"] == "end":
            self.ended.add(name)
            return
        blob = message[-(-(4 + length) // 8) * 8 :]
        values = np.frombuffer(blob, header["dtype"]).reshape(header["shape"])
        image = self.images.setdefault(name, np.full(header["full_shape"], np.nan))
        for first, end in header["rows"]:
            image[first:end], values = values[: end - first], values[end - first :]


def test_images_and_frames_are_those_of_the_recording(folder):
    """A scan is followed from its first rows to its end: the images are the API's, bit for bit; frames by number and by
    position are those on disk.
    """
    with viewing.simulator((16, 20), 200) as data_port, viewing.receiver(folder, data_port) as site:
        canvas = Canvas()
        with connect(f"ws://127.0.0.1:{site.port}/api/v1/live", max_size=None) as socket:
            socket.send(json.dumps({"op": "sub", "topics": ["v1/"], "max_hz": 60}))
            while not {"bf", "adf", "com", "sum"} <= canvas.ended:
                canvas.take(socket.recv(timeout=60))
        for name, image in canvas.images.items():
            np.testing.assert_array_equal(image, site.image(name), name)
        path = next(folder.glob("seen*.ronchi"))
        frames = DataSet(path).read_all()
        base = "/api/v1/acq/latest/frame"
        for which, index in [("latest", 319), ("0", 0), ("47", 47), ("3,7", 67)]:
            np.testing.assert_array_equal(site.array(f"{base}/{which}.npy"), frames[index], which)
        assert site.get(f"{base}/latest.png").startswith(b"\x89PNG")
        for which, status in [("320", 404), ("16,0", 404), ("-1", 400), ("1,2,3", 400), ("..%2f..", 400)]:
            with pytest.raises(urllib.error.HTTPError) as refused:
                site.get(f"{base}/{which}")
            assert refused.value.code == status
            assert str(folder) not in json.loads(refused.value.read())["error"]


def test_a_lost_frame_is_not_zeros(folder):
    """A frame that never came has no numbers at all, in its image and by itself; its neighbours have theirs."""
    with viewing.simulator((8, 8), 500, "--fault", "lose=0.3") as data_port, viewing.receiver(folder, data_port) as site:
        site.wait_for_state("complete", "interrupted")
        image = site.image("bf")
        for y, x in np.argwhere(np.isfinite(image))[:3].tolist() + np.argwhere(np.isnan(image))[:3].tolist():
            frame = site.array(f"/api/v1/acq/latest/frame/{y},{x}.npy")
            assert frame.shape == viewing.SIGNAL
            assert np.isnan(frame).all() == np.isnan(frame).any() == np.isnan(image[y, x])
        assert 0 < np.isnan(image).sum() < 64


def test_pages_from_elsewhere_are_refused(folder):
    """A page of another origin opens no stream and changes nothing; a request without an upgrade is told what is missing."""
    with viewing.simulator((8, 8), 1000) as data_port, viewing.receiver(folder, data_port) as site:
        address = f"ws://127.0.0.1:{site.port}/api/v1/live"
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
            connect(address, origin="http://evil.example")
        assert refused.value.response.status_code == 403
        with connect(address, origin=site.url):
            pass
        with pytest.raises(urllib.error.HTTPError) as refused:
            site.get("/api/v1/live")
        assert refused.value.code in (400, 426)


def test_small_images_for_small_screens(folder):
    """`max_px` bins: the mean of each bin, in single precision when that is asked for."""
    with viewing.simulator((16, 20), 0) as data_port, viewing.receiver(folder, data_port) as site:
        site.wait_for_state("complete")
        with connect(f"ws://127.0.0.1:{site.port}/api/v1/live") as socket:
            topic = f"v1/{site.current()['id']}/bf"
            socket.send(json.dumps({"op": "sub", "topics": [topic], "max_px": 10, "dtype": "<f4"}))
            canvas = Canvas()
            while "bf" not in canvas.images:
                canvas.take(socket.recv(timeout=60))
        binned = site.image("bf").reshape(8, 2, 10, 2).mean(axis=(1, 3))
        np.testing.assert_array_equal(canvas.images["bf"], binned.astype("<f4"))
