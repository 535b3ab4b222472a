"""ronchi and LiberTEM side by side on the same frames, with the same masks, in one run.

    cargo build --release -p ronchi -p ronchi-benches
    .venv/bin/python benches/peers/offline.py [--directory DIR] [--rounds 5] [--frames 16384] [--executors inline,threads,pipelined]

The frames lie in a raw file for LiberTEM and in a data set for `ronchi reprocess`, both in the page cache. Every round runs each
case twice per program and counts the second time, as what has just come from the disk is slow; figures are medians, and
LiberTEM's is that of its best executor. LiberTEM is timed around `run_udf` in a process that has compiled its kernels.
ronchi is timed around the whole process, results stored, and as it says itself: from the opened data set to the results,
which is what `run_udf` does. The images of both must agree.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

PROJECT = pathlib.Path(__file__).resolve().parents[2]
SIDE = 256
DISTINCT = 64  # distinct frames; the file repeats them
CASES = ["one ring", "8 real masks", "centre of mass"]
RELEASE = PROJECT / "target/release"


def main():
    if os.environ.pop("OPENBLAS_CORETYPE", None):  # LiberTEM's BLAS shall choose its kernels by the processor.
        os.execv(sys.executable, [sys.executable, *sys.argv])
    options = parse_arguments()
    figures = {}
    with tempfile.TemporaryDirectory(prefix="offline-", dir=options.directory) as folder:
        for name in ["<u2", "<f4"]:
            path = pathlib.Path(folder) / "frames.raw"
            frames = options.frames * 2 // np.dtype(name).itemsize
            write_frames(path, np.dtype(name), frames)
            command = [RELEASE / "ronchi-benches", "data-set", path, folder, "--pixel", name]
            data_set = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["data_set"]
            figures[name] = measure(path, Ours(data_set, pathlib.Path(folder)), name, frames, options)
            path.unlink()
            shutil.rmtree(data_set)
    report(figures)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", help="where the file goes")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each case (5)")
    parser.add_argument("--frames", type=int, default=16384, help="frames of u16, half as many of f32; a multiple of 128 (16384)")
    parser.add_argument("--executors", default="inline,threads,pipelined", help="LiberTEM's, the best counts")
    return parser.parse_args()


def write_frames(path, dtype, count):
    """Counts around 10; floating point ones as after a correction."""
    frames = np.random.default_rng(1).poisson(10, (DISTINCT, SIDE, SIDE))
    frames = (frames * 1.37 - 0.4 if dtype.kind == "f" else frames).astype(dtype)
    with open(path, "wb") as file:
        for _ in range(count // DISTINCT):
            frames.tofile(file)


def ring():
    y, x = np.ogrid[:SIDE, :SIDE]
    radius = np.hypot(y - (SIDE / 2 - 0.7), x - (SIDE / 2 + 0.4))
    return ((radius > 0.15 * SIDE) & (radius <= 0.35 * SIDE)).astype(np.float32)


def weights(number):
    """The real masks of `ronchi-benches`."""
    at = np.arange(SIDE * SIDE, dtype=np.int64)
    return (((at * 7919 + number * 104_729) % 65_521) / 65_521 - 0.4).astype(np.float32).reshape(SIDE, SIDE)


class Weights:
    """A mask factory that workers can be sent."""

    def __init__(self, number):
        self.number = number

    def __call__(self):
        return weights(self.number)


def udf(case):
    from libertem.udf.com import CoMUDF
    from libertem.udf.masks import ApplyMasksUDF

    if case == "one ring":
        return ApplyMasksUDF(mask_factories=[ring])
    if case == "8 real masks":
        # Said to be dense: LiberTEM would look for zeros otherwise.
        return ApplyMasksUDF(mask_factories=[Weights(number) for number in range(8)], use_sparse=False)
    return CoMUDF.with_params(cy=SIDE / 2, cx=SIDE / 2)


class Ours:
    """`ronchi reprocess` of a data set; masks lie in a folder."""

    def __init__(self, data_set, folder):
        self.data_set = data_set
        arguments = []
        for number in range(8):
            np.save(folder / f"real{number}.npy", weights(number))
            arguments += ["--virtual", f"real{number}=npy:{folder / f'real{number}.npy'}"]
        inner, outer = 0.15 * SIDE, 0.35 * SIDE
        one_ring = f"ring=ring:{SIDE / 2 - 0.7},{SIDE / 2 + 0.4},{inner},{outer}"
        self.arguments = {"one ring": ["--virtual", one_ring], "8 real masks": arguments, "centre of mass": ["--com"]}

    def run(self, case):
        """Rates in GB/s: of the whole process, and as it says."""
        command = [RELEASE / "ronchi", "reprocess", self.data_set, *self.arguments[case], "--json"]
        begin = time.monotonic()
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds = time.monotonic() - begin
        outcome = json.loads(printed)
        if outcome["access"] != "mapped":
            raise SystemExit(f"the data set is not read from the page cache: {outcome['access']}")
        return outcome["bytes"] / 1e9 / seconds, outcome["bytes_per_second"] / 1e9

    def image(self, case):
        """What the last run stored: one number, or a vector, per frame."""
        import zarr

        name = {"one ring": "ring", "8 real masks": "real7", "centre of mass": "com"}[case]
        return zarr.open_array(f"{self.data_set}/results/{name}", mode="r")[:]


def their_image(case, result):
    """The same of LiberTEM's result, one row per frame."""
    if case == "centre of mass":
        return result["raw_com"].raw_data.reshape(-1, 2)
    return result["intensity"].raw_data.reshape(-1, 1 if case == "one ring" else 8)[:, -1]


def measure(path, ours, name, frames, options):
    """`{program: {case: [GB/s]}}`; LiberTEM once per executor."""
    from libertem.api import Context

    figures = {}

    def note(program, case, rate):
        figures.setdefault(program, {}).setdefault(case, []).append(rate)

    for executor in options.executors.split(","):
        with Context.make_with(executor) as context:
            data = context.load("raw", path=str(path), dtype=name, nav_shape=(frames // 64, 64), sig_shape=(SIDE, SIDE))
            for case in CASES:  # Compiles, and brings the pixels into the cache.
                result = context.run_udf(dataset=data, udf=udf(case))
                ours.run(case)
                np.testing.assert_allclose(ours.image(case), their_image(case, result), rtol=1e-4, atol=1e-2)
            for _ in range(options.rounds):
                for case in CASES:
                    context.run_udf(dataset=data, udf=udf(case))
                    begin = time.monotonic()
                    context.run_udf(dataset=data, udf=udf(case))
                    note(f"LiberTEM, {executor}", case, path.stat().st_size / 1e9 / (time.monotonic() - begin))
                    ours.run(case)
                    whole, own = ours.run(case)
                    note("ronchi, whole process", case, whole)
                    note("ronchi", case, own)
    return figures


def report(figures):
    print(f"{processor()}, {os.cpu_count()} cores\n")
    print("| pixel | case | LiberTEM, GB/s | executor | ronchi, GB/s | whole process | ronchi / LiberTEM | whole process |")
    print("|---|---|---|---|---|---|---|---|")
    for name, programs in figures.items():
        medians = {program: {case: statistics.median(rates) for case, rates in cases.items()} for program, cases in programs.items()}
        theirs = [program for program in medians if program.startswith("LiberTEM")]
        for case in CASES:
            best = max(theirs, key=lambda program: medians[program][case])
            peer, own, whole = medians[best][case], medians["ronchi"][case], medians["ronchi, whole process"][case]
            executor = best.split(", ")[1]
            print(f"| {name} | {case} | {peer:.2f} | {executor} | {own:.2f} | {whole:.2f} | **{own / peer:.1f}** | {whole / peer:.1f} |")
    print(json.dumps({"machine": processor(), "figures": figures}))


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
