"""LiberTEM-live's side of the comparison: one ring, with or without recording, timed as a user would run it."""

import os
import pathlib
import time

import numpy as np
from libertem.udf.masks import ApplyMasksUDF
from libertem.udf.record import RecordUDF
from libertem_live.api import Hooks, LiveContext


class Trigger(Hooks):
    """Arms and triggers the simulator when LiberTEM-live says that it is ready for data; the clock starts here."""

    def __init__(self, connection, simulator):
        self.connection = connection
        self.simulator = simulator
        self.begin = None

    def on_ready_for_data(self, env):
        # The simulator would take the command for its previous client if that one is not gone yet.
        self.simulator.wait_for_client()
        with self.connection.control() as control:
            self.begin = time.monotonic()
            control.cmd("STARTACQUISITION")
            control.cmd("SOFTTRIGGER")


def ring_mask(shape, cy, cx, inner, outer):
    """1 where `inner^2 < r^2 <= outer^2`, else 0; float32, LiberTEM's default for masks."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    squared = (y - cy) ** 2 + (x - cx) ** 2
    return ((squared > inner**2) & (squared <= outer**2)).astype(np.float32)


class LiberTemLive:
    """One context and one executor for all runs, so that start-up and compilation are not in the figures."""

    def __init__(self, detector, scan, ring):
        self.context = LiveContext()
        self.detector = detector
        self.scan = scan
        self.ring = ring

    def close(self):
        self.context.close()

    def run(self, npy=None):
        """One acquisition; returns `(seconds, ring image)`. With `npy`, frames are recorded there and synced."""
        factory = _Ring((256, 256), self.ring)
        udfs = [ApplyMasksUDF(mask_factories=[factory])]
        if npy is not None:
            udfs.append(RecordUDF(str(npy)))
        self.detector.wait_until_idle()
        opened = self.context.make_connection("merlin").open(
            api_host="127.0.0.1",
            api_port=self.detector.control_port,
            data_host="127.0.0.1",
            data_port=self.detector.data_port,
        )
        with opened as connection:
            trigger = Trigger(connection, self.detector)
            acquisition = self.context.make_acquisition(conn=connection, nav_shape=self.scan, hooks=trigger)
            results = self.context.run_udf(dataset=acquisition, udf=udfs)
            if npy is not None:
                _sync(pathlib.Path(npy))
            seconds = time.monotonic() - trigger.begin
        return seconds, np.array(results[0]["intensity"])[..., 0]


class _Ring:
    """A mask factory that is cheap to send to the workers."""

    def __init__(self, shape, ring):
        self.shape = shape
        self.ring = ring

    def __call__(self):
        return ring_mask(self.shape, *self.ring)


def _sync(path):
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
