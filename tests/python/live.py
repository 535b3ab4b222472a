"""A subscriber of the live stream: collects messages in a thread and puts the final arrays together."""

import json
import threading
import time

import numpy as np
import zmq


class Subscriber:
    """Receives everything on `v1/` from before the recording until its `end` message, or until stopped."""

    def __init__(self, endpoint):
        self.headers = []
        self.arrays = {}
        self.error = None
        self._stop = threading.Event()
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 5)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"v1/")
        self._socket.connect(endpoint)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def wait_for_end(self, deadline_s):
        """Until the stream says that the acquisition is over."""
        self._thread.join(deadline_s)
        if self.error:
            raise self.error
        kinds = sorted({header["type"] for _, header in self.headers})
        assert not self._thread.is_alive(), f"no end message within {deadline_s} s, only {kinds}"

    def _run(self):
        try:
            while not self._stop.is_set():
                if self._socket.poll(50) and self._take(self._socket.recv_multipart()):
                    return
        except Exception as error:  # handed to the test by wait_for_end
            self.error = error

    def _take(self, parts):
        topic, header = parts[0].decode("ascii"), json.loads(parts[1])
        header["received_at"] = time.monotonic()
        self.headers.append((topic, header))
        if header["type"] in ("array", "rows"):
            self._place(topic.rsplit("/", 1)[1], header, parts[2 + header["blob"]])
        return header["type"] == "end"

    def _place(self, result, header, blob):
        values = np.frombuffer(blob, header["dtype"]).reshape(header["shape"])
        full = tuple(header["full_shape"])
        whole = self.arrays.setdefault(result, np.full(full, np.nan))
        assert whole.shape == full and values.shape[1:] == full[1:]
        at = 0
        for first, end in header["rows"]:
            whole[first:end] = values[at : at + end - first]
            at += end - first
        assert at == len(values), "the blob holds other rows than its header says"
