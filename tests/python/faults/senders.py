"""Detectors in this process: frames whose pixels follow from their number, sent as a tile stream."""

import json
import struct
import threading
import time

import numpy as np
import zmq

PATTERNS = 64
NUMBER = struct.Struct("<I")


class Truth:
    """Pixels of every frame of a tile, and which of them are never sent: the ledger that no receiver can touch."""

    def __init__(self, rng, shape, count, lost_share=0.0):
        self.shape, self.count = shape, count
        numbers = np.random.default_rng(rng.randrange(1 << 32))
        self._patterns = numbers.integers(0, 1 << 16, size=(PATTERNS, *shape), dtype="<u2")
        self.is_lost = numbers.random(count) < lost_share
        if lost_share:
            self.is_lost[0] = False  # A series opens with its first frame or before.

    def frames(self, first, end):
        """`(frame, y, x)`; the first two pixels of a frame spell its number."""
        numbers = np.arange(first, end)
        frames = self._patterns[numbers % PATTERNS].reshape(len(numbers), -1)
        frames[:, 0], frames[:, 1] = numbers & 0xFFFF, numbers >> 16
        return frames.reshape(len(numbers), *self.shape)

    def payload(self, frame):
        """The bytes of a frame."""
        pixels = bytearray(self._patterns[frame % PATTERNS].tobytes())
        NUMBER.pack_into(pixels, 0, frame)
        return pixels


class MerlinTruth:
    """Pixels of a known scan, for a recording of our own Merlin simulator."""

    def __init__(self, scan):
        self.scan, self.count = scan, len(scan.frames)
        self.is_lost = np.zeros(self.count, bool)

    def frames(self, first, end):
        return self.scan.frames[first:end]


class TileSender(threading.Thread):
    """Sends series after series of one tile at a pace, once the gate is open; binds a port of its own and forgets
    everything when closed."""

    def __init__(self, truth, *, detector, origin, rate_hz, scan=None, announces=True, series=1, gate=None, swap=0):
        super().__init__(daemon=True)
        self.truth, self.rate_hz, self.announces, self.series = truth, rate_hz, announces, series
        self.region = [*origin, *truth.shape]
        self.detector, self.scan, self.swap = list(detector), scan, swap
        self.sent = 0
        self._closing = threading.Event()
        self._gate = gate
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDTIMEO, 50)
        self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._closing.set()
        self.join()
        self._socket.close()
        self._context.term()

    def run(self):
        while self._gate and not self._closing.is_set() and not self._gate.wait(0.01):
            pass
        for number in range(self.series):
            self._send_series(f"run-{number}")

    def _send(self, *parts):
        """Waits for room, however long; `False` when told to close."""
        while not self._closing.is_set():
            try:
                self._socket.send_multipart(parts, copy=True)
                return True
            except zmq.Again:
                pass
        return False

    def _order(self):
        """Frame numbers in the order of sending: every now and then two neighbours change places."""
        order = np.arange(self.truth.count)
        if self.swap:
            at = np.arange(self.swap, self.truth.count - 1, self.swap)
            order[at], order[at + 1] = order[at + 1], order[at]
        return (int(frame) for frame in order if not self.truth.is_lost[frame])

    def _send_series(self, name):
        common = {"v": 1, "series": name, "region": self.region, "dtype": "<u2"}
        begin = {**common, "type": "begin", "detector": self.detector}
        if self.announces:
            begin["frames"] = self.truth.count
        if self.scan:
            begin["scan"] = self.scan
        if not self._send(json.dumps(begin).encode()):
            return
        head = json.dumps({**common, "type": "tile"}).encode()[:-1] + b', "frame": '
        started = time.monotonic()
        for index, frame in enumerate(self._order()):
            ahead = index / self.rate_hz - (time.monotonic() - started)
            if ahead > 0.001 and self._closing.wait(ahead):
                return
            if not self._send(head + b"%d}" % frame, self.truth.payload(frame)):
                return
            self.sent += 1
        self._send(json.dumps({"v": 1, "type": "end", "series": name, "frames": self.truth.count}).encode())
