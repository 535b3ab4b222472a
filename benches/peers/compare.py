"""ronchi and LiberTEM-live side by side, fed by LiberTEM-live's own Merlin simulator, in one run.

Four cases alternate, so that a change in the machine's mood meets all of them: one ring without recording, and one ring
with every frame on disk and synced, for each side. Prints a table, and as last line one JSON object. How each side is
timed, and where that favours whom, is in the README beside this file.

    .venv/bin/python benches/peers/compare.py [--rounds 5] [--frames 16384] [--directory DIR] [--cached mem|memfd]
                                             [--only libertem|ronchi]
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import socket
import statistics
import sys
import tempfile
import time

import numpy as np

PROJECT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "tests" / "python"))

import harness  # noqa: E402
import mib  # noqa: E402
import libertem_side  # noqa: E402

SIDE = 256  # detector pixels per side, u16
RING = (128, 128, 40, 90)  # centre y, x; inner, outer radius
DISTINCT = 64  # distinct frames; the simulator replays a file, so they are repeated in it
ROW = 128  # frames per scan row


def main():
    options = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="peers-", dir=options.directory) as folder:
        folder = pathlib.Path(folder)
        scan = (options.frames // ROW, ROW)
        hdr = write_scan(folder, scan)
        with harness.libertem_simulator(hdr, "--cached", options.cached) as simulator:
            cases = make_cases(options, simulator, scan, folder)
            try:
                rates, images = measure(cases, options)
            finally:
                for case in cases.values():
                    case.close()
    check_images(images)
    print_report(rates, options)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each case (5)")
    parser.add_argument("--frames", type=int, default=16384, help="frames per run, a multiple of 128 (16384)")
    parser.add_argument("--directory", help="where temporary files go; its disk is the one measured")
    parser.add_argument("--cached", choices=["mem", "memfd"], default="mem", help="how the simulator keeps its frames (mem)")
    parser.add_argument("--only", choices=["libertem", "ronchi"], help="one side only")
    parser.set_defaults(side=SIDE)
    options = parser.parse_args()
    if options.frames % ROW or options.frames < 2 * ROW:
        parser.error("--frames must be a multiple of 128, at least 256")
    needed = 3 * options.frames * SIDE * SIDE * 2
    if shutil.disk_usage(options.directory or tempfile.gettempdir()).free < needed:
        parser.error(f"needs {needed >> 30} GiB free for temporary files")
    return options


def write_scan(folder, scan):
    """A `.mib` of 256x256 u16 frames for LiberTEM-live's simulator."""
    frames = mib.pattern(DISTINCT, SIDE, SIDE, mib.U16.limit)
    pixels = [mib.encode(frame, mib.U16) for frame in frames]
    count = scan[0] * scan[1]
    with open(folder / "scan.mib", "wb") as file:
        for index in range(count):
            file.write(mib.frame_header(index + 1, (SIDE, SIDE), mib.U16))
            file.write(pixels[index % DISTINCT])
    (folder / "scan.hdr").write_bytes(mib.acquisition_header(count, scan, mib.U16.depth))
    return folder / "scan.hdr"


class LiberTemCase:
    """One ring by LiberTEM-live, with or without RecordUDF."""

    def __init__(self, live, npy):
        self.live = live
        self.npy = npy

    def run(self):
        seconds, image = self.live.run(self.npy)
        if self.npy is not None:
            self.npy.unlink()
        return seconds, image

    def close(self):
        self.live.close()


class DiscardCase:
    """The simulator into a reader that throws everything away: what no receiver on this machine can exceed by much."""

    PREFIX_BYTES = 15

    def __init__(self, simulator, frames):
        self.simulator = simulator
        self.frames = frames

    def run(self):
        self.simulator.wait_until_idle()
        with socket.create_connection(("127.0.0.1", self.simulator.data_port)) as data:
            self.simulator.wait_for_client()
            self.command("STARTACQUISITION")
            self.message(data)  # the acquisition header: the detector is armed
            self.command("SOFTTRIGGER")
            first = self.message(data)
            begin = time.monotonic()
            left = (self.frames - 1) * (self.PREFIX_BYTES + len(first))
            buffer = bytearray(1 << 20)
            while left > 0:
                count = data.recv_into(buffer, min(left, len(buffer)))
                assert count, "the simulator closed the connection"
                left -= count
            return time.monotonic() - begin, None

    def command(self, name):
        body = f",CMD,{name}"
        with socket.create_connection(("127.0.0.1", self.simulator.control_port)) as control:
            control.sendall(f"MPX,{len(body):010d}{body}".encode())
            control.recv(1024)

    def message(self, data):
        prefix = self.exactly(data, self.PREFIX_BYTES)
        return self.exactly(data, int(prefix[4:14]) - 1)

    @staticmethod
    def exactly(data, count):
        got = bytearray()
        while len(got) < count:
            piece = data.recv(count - len(got))
            assert piece, "the simulator closed the connection"
            got += piece
        return bytes(got)

    def close(self):
        pass


class RonchiCase:
    """One ring by `ronchi record`, timed by itself: from the first frame until all is reduced, durable and stored."""

    def __init__(self, simulator, scan, out, record):
        self.simulator = simulator
        self.scan = scan
        self.out = out
        self.record = record

    def run(self):
        ring = ",".join(map(str, RING))
        arguments = ["--scan", f"{self.scan[0]}x{self.scan[1]}", "--virtual", f"ring=ring:{ring}"]
        self.simulator.wait_until_idle()
        extra = [] if self.record else ["--no-record"]
        with harness.recording(self.simulator, self.out, *arguments, *extra) as process:
            status = process.wait(300)
            assert status == 0, process.log()
            report = harness.report(process)
        seconds = report["seconds"] + report["finish_s"]
        image = self.image()
        shutil.rmtree(self.out, ignore_errors=True)
        return seconds, image

    def image(self):
        """The stored ring image, where there is a data set."""
        if not self.record:
            return None
        import zarr

        return np.array(zarr.open_array(str(self.out / "results" / "ring"), mode="r")[:])

    def close(self):
        pass


def make_cases(options, simulator, scan, folder):
    cases = {"simulator, discarded": DiscardCase(simulator, options.frames)}
    if options.only != "ronchi":
        live = libertem_side.LiberTemLive(simulator, scan, RING)
        cases["libertem-live ring"] = LiberTemCase(live, None)
        cases["libertem-live ring + record"] = LiberTemCase(live, folder / "libertem.npy")
    if options.only != "libertem":
        cases["ronchi ring"] = RonchiCase(simulator, scan, folder / "live.ronchi", record=False)
        cases["ronchi ring + record"] = RonchiCase(simulator, scan, folder / "record.ronchi", record=True)
    return cases


def measure(cases, options):
    """Frames per second of every run, by case, and the last image of each case."""
    names = list(cases)
    rates = {name: [] for name in names}
    images = {}
    for name in names:  # fills the simulator's cache, compiles LiberTEM's kernels, warms the disk
        cases[name].run()
    for round_number in range(options.rounds):
        turn = round_number % len(names)
        for name in names[turn:] + names[:turn]:
            os.sync()  # what an earlier run left to write must not be charged to the next
            seconds, image = cases[name].run()
            rates[name].append(options.frames / seconds)
            images[name] = image
            print(f"  {name:<28} {rates[name][-1]:9.0f} frames/s", file=sys.stderr)
    return rates, images


def check_images(images):
    """Both sides must have computed the same thing, or the comparison means nothing."""
    present = [(name, image) for name, image in images.items() if image is not None]
    for name, image in present[1:]:
        # LiberTEM sums in float32 here.
        if not np.allclose(present[0][1], image, rtol=1e-5):
            raise SystemExit(f"ring images of {present[0][0]} and {name} differ")


def print_report(rates, options):
    frame_bytes = options.side**2 * 2
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"\n{options.frames} frames of {options.side}x{options.side} u16, median of {options.rounds}, {os.cpu_count()} cores")
    limit = medians["simulator, discarded"]
    print(f"{'case':<28} {'frames/s':>9} {'GB/s':>6}   {'lowest - highest':>17}   of limit")
    for name, median in medians.items():
        low, high = min(rates[name]), max(rates[name])
        print(f"{name:<28} {median:9.0f} {median * frame_bytes / 1e9:6.2f}   {low:7.0f} - {high:7.0f}   {median / limit:8.2f}")
    ratios = {}
    for case in ("ring", "ring + record"):
        ours, theirs = medians.get(f"ronchi {case}"), medians.get(f"libertem-live {case}")
        if ours and theirs:
            ratios[case] = round(ours / theirs, 2)
            print(f"ronchi / libertem-live, {case}: {ratios[case]}")
    summary = {
        "frames": options.frames,
        "frame_bytes": frame_bytes,
        "rounds": options.rounds,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load_1min": round(os.getloadavg()[0], 2),
        "frames_per_s": {name: [round(value) for value in values] for name, values in rates.items()},
        "median_frames_per_s": {name: round(value) for name, value in medians.items()},
        "ratios": ratios,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
