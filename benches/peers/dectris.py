"""ronchi and LiberTEM-live side by side on one DECTRIS stream, in one run: one ring, live.

`ronchi simulate dectris` sends STREAM from a process of its own, bit-transposed LZ4 that was compressed before, each time
somebody arms it. Cases take turns; prints a table, and as last line one JSON object. How each side is timed is in the README
beside this file.

    .venv/bin/python benches/peers/dectris.py [--rounds 5] [--frames 65536] [--side 192] [--counts 0.5] [--directory DIR]
                                             [--only libertem|ronchi]
"""

import argparse
import contextlib
import json
import pathlib
import re
import shutil
import sys
import tempfile
import time
import urllib.request

import numpy as np
import zmq

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "python"))

import harness  # noqa: E402

import compare  # noqa: E402
import libertem_side  # noqa: E402

ROW = 256  # frames per scan row
FRAMES_PER_STACK = 128  # of LiberTEM-live: its default


def main():
    options = parse_arguments()
    scan = (options.frames // ROW, ROW)
    with tempfile.TemporaryDirectory(prefix="peers-", dir=options.directory) as folder, simulator(options, scan) as detector:
        cases = make_cases(options, detector, scan, pathlib.Path(folder))
        try:
            rates, images = compare.measure(cases, options)
        finally:
            for case in cases.values():
                case.close()
    compare.check_images(images)
    compare.print_report(rates, options)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each case (5)")
    parser.add_argument("--frames", type=int, default=65536, help="frames per run, a multiple of 256 (65536)")
    parser.add_argument("--side", type=int, default=192, help="rows and columns of the detector (192)")
    parser.add_argument("--counts", type=float, default=0.5, help="mean electrons per pixel (0.5)")
    parser.add_argument("--directory", help="where recordings go; its disk is the one measured")
    parser.add_argument("--only", choices=["libertem", "ronchi"], help="one side only")
    options = parser.parse_args()
    if options.frames % ROW or options.frames < ROW:
        parser.error("--frames must be a multiple of 256")
    return options


class Detector:
    """A running simulator: where it takes commands and sends."""

    def __init__(self, process, rest, stream):
        self.process = process
        self.rest = rest
        self.stream = stream

    def command(self, path, value=None):
        body = None if value is None else json.dumps({"value": value}).encode()
        request = urllib.request.Request(f"http://{self.rest}/{path}", method="PUT", data=body)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def is_idle(self):
        with urllib.request.urlopen(f"http://{self.rest}/detector/api/1.8.0/status/state", timeout=30) as answer:
            return json.loads(answer.read())["value"] == "idle"

    def wait_until_idle(self):
        harness.until(self.is_idle, 30, "the simulator is idle", alive=self.process)

    def arm(self):
        self.command("detector/api/1.8.0/command/arm")


@contextlib.contextmanager
def simulator(options, scan):
    """Our simulator of a control unit, told to send a whole scan when it is armed."""
    counts = options.counts * options.side**2
    what = ["--scan", f"{scan[0]}x{scan[1]}", "--detector", f"{options.side}x{options.side}", "--counts", counts, "--rate", 0]
    where = ["--format", "legacy", "--rest", "127.0.0.1:0", "--stream1", "127.0.0.1:0"]
    with harness.Process([harness.ronchi_binary(), "simulate", "dectris", *what, *where, "--memory-mib", 64]) as process:
        harness.until(lambda: "waiting" in process.stdout(), 300, "images are ready", alive=process)
        said = process.stdout()
        detector = Detector(process, re.search(r"http://([^/]+)/", said).group(1), re.search(r"dectris1://(\S+)", said).group(1))
        detector.command("detector/api/1.8.0/command/initialize")
        detector.command("stream/api/1.8.0/config/mode", "enabled")
        for key, value in {"trigger_mode": "exte", "ntrigger": options.frames, "nimages": 1}.items():
            detector.command(f"detector/api/1.8.0/config/{key}", value)
        yield detector


class DiscardCase:
    """A PULL socket that throws everything away: what no receiver with one socket on this machine can exceed by much."""

    def __init__(self, detector):
        self.detector = detector

    def run(self):
        self.detector.wait_until_idle()
        with zmq.Context() as context, context.socket(zmq.PULL) as pull:
            pull.setsockopt(zmq.RCVTIMEO, 30_000)
            pull.connect(f"tcp://{self.detector.stream}")
            self.detector.arm()
            pull.recv_multipart(copy=False)  # the header
            begin = time.monotonic()
            while b"dseries_end" not in pull.recv():
                while pull.getsockopt(zmq.RCVMORE):
                    pull.recv(copy=False)
            return time.monotonic() - begin, None

    def close(self):
        pass


class LiberTemCase:
    """One ring by LiberTEM-live, which arms the detector; one context for all runs, so that compilation is not in the figures."""

    def __init__(self, detector, scan, side, ring):
        self.detector = detector
        self.scan = scan
        self.context = libertem_side.LiveContext()
        self.udf = libertem_side.ApplyMasksUDF(mask_factories=[libertem_side._Ring((side, side), ring)])

    def run(self):
        self.detector.wait_until_idle()
        (api_host, api_port), (data_host, data_port) = self.detector.rest.split(":"), self.detector.stream.split(":")
        opened = self.context.make_connection("dectris").open(
            api_host=api_host, api_port=int(api_port), data_host=data_host, data_port=int(data_port)
        )
        with opened as connection:
            controller = connection.get_active_controller(trigger_mode="exte")
            armed = Armed()
            acquisition = self.context.make_acquisition(
                conn=connection, nav_shape=self.scan, controller=controller, hooks=armed, frames_per_partition=FRAMES_PER_STACK
            )
            result = self.context.run_udf(dataset=acquisition, udf=self.udf)
            seconds = time.monotonic() - armed.begin
        return seconds, np.array(result["intensity"])[..., 0]

    def close(self):
        self.context.close()


class Armed(libertem_side.Hooks):
    """Looks at the clock when LiberTEM-live has armed the detector."""

    begin = None

    def on_ready_for_data(self, env):
        self.begin = time.monotonic()


class RonchiCase:
    """One ring by `ronchi record`, timed by itself: from the first frame until all is reduced, durable and stored."""

    def __init__(self, detector, scan, ring, out, is_recorded):
        self.detector = detector
        self.scan = scan
        self.ring = ring
        self.out = out
        self.is_recorded = is_recorded

    def run(self):
        self.detector.wait_until_idle()
        arguments = ["--scan", f"{self.scan[0]}x{self.scan[1]}", "--virtual", "ring=ring:" + ",".join(map(str, self.ring))]
        own = ["--out", self.out, "--json", "--reserve-gib", 0, "--http", "off", "--live-zmq", "off"]
        own += [] if self.is_recorded else ["--no-record"]
        command = [harness.ronchi_binary(), "record", f"dectris1://{self.detector.stream}", *arguments, *own]
        with harness.Process(command) as process:
            self.detector.arm()
            status = process.wait(300)
            assert status == 0, process.log()
            report = harness.report(process)
        image = self.image()
        shutil.rmtree(self.out, ignore_errors=True)
        return report["seconds"] + report["finish_s"], image

    def image(self):
        """The stored ring image, where there is a data set."""
        if not self.is_recorded:
            return None
        import zarr

        return np.array(zarr.open_array(str(self.out / "results" / "ring"), mode="r")[:])

    def close(self):
        pass


def make_cases(options, detector, scan, folder):
    half = options.side // 2
    ring = (half, half, half // 4, half * 7 // 10)
    cases = {"simulator, discarded": DiscardCase(detector)}
    if options.only != "ronchi":
        cases["libertem-live ring"] = LiberTemCase(detector, scan, options.side, ring)
    if options.only != "libertem":
        cases["ronchi ring"] = RonchiCase(detector, scan, ring, folder / "live.ronchi", is_recorded=False)
        cases["ronchi ring + record"] = RonchiCase(detector, scan, ring, folder / "record.ronchi", is_recorded=True)
    return cases


if __name__ == "__main__":
    main()
