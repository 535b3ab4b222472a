"""ronchi and LiberTEM side by side on the same file of raw frames, with the same masks, in one run.

    .venv/bin/python benches/peers/offline.py [--directory DIR] [--rounds 5] [--frames 4096] [--executors inline,threads,pipelined]

Every round runs each case once per program; figures are the best round of each (other work on the machine only ever
takes away), and LiberTEM's is that of its best executor. The file lies in the page cache for both. LiberTEM is timed around
`run_udf` in a process that has compiled its kernels; ronchi around opening the file, reading and reducing it on as many
threads as LiberTEM has processors (`ronchi-benches file`).
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import tempfile
import time

import numpy as np

PROJECT = pathlib.Path(__file__).resolve().parents[2]
SIDE = 256
DISTINCT = 64  # distinct frames; the file repeats them
CASES = ["one ring", "8 real masks", "centre of mass"]


def main():
    options = parse_arguments()
    figures = {}
    with tempfile.TemporaryDirectory(prefix="offline-", dir=options.directory) as folder:
        for name in ["<u2", "<f4"]:
            path = pathlib.Path(folder) / "frames.raw"
            frames = options.frames * 2 // np.dtype(name).itemsize
            write_frames(path, np.dtype(name), frames)
            figures[name] = measure(path, name, frames, options)
            path.unlink()
    report(figures)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", help="where the file goes")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each case (5)")
    parser.add_argument("--frames", type=int, default=4096, help="frames of u16, half as many of f32; a multiple of 128 (4096)")
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


def measure(path, name, frames, options):
    """`{program: {case: [GB/s]}}`; LiberTEM once per executor."""
    from libertem.api import Context

    figures = {}
    shape = (frames // 64, 64)
    for executor in options.executors.split(","):
        with Context.make_with(executor) as context:
            data = context.load("raw", path=str(path), dtype=name, nav_shape=shape, sig_shape=(SIDE, SIDE))
            for case in CASES:
                context.run_udf(dataset=data, udf=udf(case))  # Compiles, and brings the file into the cache.
            for _ in range(options.rounds):
                for case in CASES:
                    begin = time.monotonic()
                    context.run_udf(dataset=data, udf=udf(case))
                    rate = path.stat().st_size / 1e9 / (time.monotonic() - begin)
                    figures.setdefault(f"LiberTEM, {executor}", {}).setdefault(case, []).append(rate)
                    figures.setdefault("ronchi", {}).setdefault(case, []).extend(ours(path, name, case))
    return figures


def ours(path, name, case):
    command = [PROJECT / "target/release/ronchi-benches", "file", path, "--pixel", name, "--case", case]
    command += ["--threads", str(os.cpu_count()), "--rounds", "1"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(printed)["gb_per_s"]


def report(figures):
    print("| pixel | case | LiberTEM, GB/s | executor | ronchi, GB/s | ronchi / LiberTEM |\n|---|---|---|---|---|---|")
    for name, programs in figures.items():
        theirs = [program for program in programs if program != "ronchi"]
        for case in CASES:
            best = max(theirs, key=lambda program: max(programs[program][case]))
            peer, own = max(programs[best][case]), max(programs["ronchi"][case])
            executor = best.split(", ")[1]
            print(f"| {name} | {case} | {peer:.2f} | {executor} | {own:.2f} | **{own / peer:.1f}** |")
    medians = {
        name: {program: {case: statistics.median(rates) for case, rates in cases.items()} for program, cases in programs.items()}
        for name, programs in figures.items()
    }
    print(json.dumps({"machine": platform.processor() or platform.machine(), "figures": figures, "medians": medians}))


if __name__ == "__main__":
    main()
