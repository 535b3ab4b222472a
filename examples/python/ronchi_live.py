"""Live images of a ronchi receiver. Copy this file and `import ronchi_live`; it needs numpy and pyzmq, and Python 3.7 or newer,
so that it also runs where an old one is built in. What comes over the wire is described in docs/live-stream.md."""

import json

import numpy
import zmq


class Live:
    """Follows one receiver, acquisition after acquisition:

    `images`  by name of the result, arrays (slow axis first), NaN where nothing was measured
    `headers` by name of the result, what the receiver says of the image: axes, params, frames covered, ...
    `state`   "waiting", "running", "complete", "interrupted", "failed", or None before any acquisition
    """

    def __init__(self, endpoint="tcp://127.0.0.1:8601"):
        self.acq, self.state, self.images, self.headers, self._next_seq = None, None, {}, {}, {}
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"v1/")
        self._socket.connect(endpoint)

    def update(self, timeout_s=1.0):
        """Waits for news, takes all there is, and returns `[(name, first, end), ...]`: rows of an image that have changed."""
        news, wait_ms = [], int(timeout_s * 1000)
        while self._socket.poll(wait_ms):
            parts, wait_ms = self._socket.recv_multipart(), 0
            news += self._take(json.loads(parts[1].decode()), parts[2:])
        return news

    def close(self):
        """Leaves the receiver."""
        self._socket.close()

    def _take(self, header, blobs):
        if header["acq"] != self.acq:  # The next one, or an old one whose images are completed from disk.
            if header["acq"] == "none" or self.state in ("waiting", "running"):
                return []
            self.acq, self.state = header["acq"], "running"
            self.images, self.headers, self._next_seq = {}, {}, {}
            self._socket.setsockopt(zmq.SUBSCRIBE, f"v1/{self.acq}/".encode())  # Brings its images as they are now.
        self.state = header.get("state") or self.state
        if header["type"] not in ("array", "rows"):
            return []
        name = header["result"]
        if header["type"] == "rows" and header["seq"] != self._next_seq.get(name):
            return []  # A message was lost: the next whole image, within 2 s, puts it right.
        values = numpy.frombuffer(blobs[header["blob"]], header["dtype"]).reshape(header["shape"])
        if header["type"] == "array":
            self.images[name] = numpy.full(header["full_shape"], numpy.nan)
        for first, end in header["rows"]:
            self.images[name][first:end], values = values[: end - first], values[end - first :]
        self.headers[name], self._next_seq[name] = header, header["seq"] + 1
        return [(name, first, end) for first, end in header["rows"]]
