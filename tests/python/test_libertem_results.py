"""Results of `ronchi reprocess` on fresh random frames equal LiberTEM's on the same frames.

Shapes, types, masks and the way segments are cut are drawn anew in every run; `RONCHI_SEED` repeats one. LiberTEM works in
`float64`. Integer pixels under binary masks, sums and maxima must agree bit for bit; with real weights or floating point
pixels, within 1e-12 of the sum of absolute products; centres of mass within 1e-9 px where the numbers allow it.
"""

import json

import numpy as np
import pytest
import zarr
from libertem.udf import UDF

import fabricate
import harness
import results_ref

RELATIVE = 1e-12
# Masks given in single precision are multiplied in it.
SINGLE = 2e-6


class MaxUDF(UDF):
    """Largest value per detector pixel."""

    def get_result_buffers(self):
        return {"max": self.buffer(kind="sig", dtype="float64")}

    def process_tile(self, tile):
        self.results.max[:] = np.maximum(self.results.max, tile.max(axis=0))

    def merge(self, dest, src):
        dest.max[:] = np.maximum(dest.max, src.max)


class Case:
    """A data set of random frames, and random masks for it."""

    def __init__(self, folder, rng, dtype):
        random = np.random.default_rng(rng.randrange(1 << 32))
        self.scan = (rng.randrange(2, 9), rng.randrange(2, 11))
        self.signal = (rng.randrange(9, 70), rng.randrange(16, 70))
        count = self.scan[0] * self.scan[1]
        self.frames = frames_of(random, (count, *self.signal), np.dtype(dtype))
        per_chunk = rng.randrange(1, 6)
        # Segments of at least one page of pixels, see `fabricate`.
        least = -(-4096 // self.frames[0].nbytes)
        per_segment = per_chunk * (-(-least // per_chunk) + rng.randrange(0, 5))
        self.data_set = fabricate.data_set(
            folder / "a.ronchi", self.frames, per_segment, per_chunk, scan={"shape": list(self.scan)}
        )
        cy, cx = rng.uniform(0, self.signal[0]), rng.uniform(0, self.signal[1])
        inner, outer = sorted(rng.uniform(1, 40) for _ in range(2))
        self.binary = {
            "disk": (f"disk:{cy},{cx},{outer}", results_ref.disk(self.signal, cy, cx, outer)),
            "ring": (f"ring:{cy},{cx},{inner},{outer}", results_ref.ring(self.signal, cy, cx, inner, outer)),
            "dots": self.image(folder / "dots.npy", random.random(self.signal) < rng.random() * 0.9 + 0.05),
        }
        self.binary = {name: mask for name, mask in self.binary.items() if mask[1].any()}
        self.real = {
            "normal": self.image(folder / "normal.npy", random.normal(size=self.signal)),
            "narrow": self.image(folder / "narrow.npy", random.random(self.signal).astype("f4")),
        }

    @staticmethod
    def image(path, weights):
        np.save(path, weights.astype(weights.dtype if weights.dtype != bool else "u1"))
        return f"npy:{path}", weights

    def cube(self, dtype):
        return self.frames.astype(dtype).reshape(*self.scan, *self.signal)

    def reprocess(self, threads):
        masks = {**self.binary, **self.real}
        options = [part for name, (text, _) in masks.items() for part in ("--virtual", f"{name}={text}")]
        arguments = ["reprocess", self.data_set, *options, "--total", "--com", "--sum", "--max", "--threads", threads, "--json"]
        code, out, err = harness.ronchi(*arguments)
        assert code == 0, err
        assert json.loads(out)["frames"]["reduced"] == len(self.frames)
        group = zarr.open_group(str(self.data_set / "results"), mode="r")
        return {name: group[name][...] for name in group.array_keys()}


def frames_of(random, shape, dtype):
    """Counts over the whole range of the type; floating point numbers of both signs over some decades."""
    if dtype.kind == "f":
        return (random.normal(size=shape) * 10.0 ** random.integers(-3, 4, shape)).astype(dtype)
    return random.integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)


@pytest.mark.parametrize("dtype", ["|u1", "<u2", ">u2", "<u4", "<f4"])
def test_results_equal_libertems(folder, rng, libertem, dtype):
    case = Case(folder, rng, dtype)
    results = case.reprocess(threads=rng.randrange(1, 5))
    cube = case.cube("f8")
    is_exact = np.dtype(dtype).kind != "f"
    masks = {name: mask for name, (_, mask) in {**case.binary, **case.real}.items()}
    for (name, mask), reference in zip(
        masks.items(), results_ref.libertem_masks(libertem, cube, masks.values()), strict=True
    ):
        relative = SINGLE if np.asarray(mask).dtype == "f4" else RELATIVE
        check(name, results[name], reference, cube, np.asarray(mask, "f8"), is_exact and name in case.binary, relative)
    check("total", results["total"], results_ref.libertem_total(libertem, cube), cube, np.ones(case.signal), is_exact)
    reference = results_ref.libertem_sum(libertem, cube)
    allowed = 0 if is_exact else RELATIVE * np.abs(cube).sum(axis=(0, 1))
    assert np.all(np.abs(results["sum"].astype("f8") - reference) <= allowed), "sum"
    dataset = libertem.load("memory", data=cube, sig_dims=2, num_partitions=2)
    largest = np.array(libertem.run_udf(dataset=dataset, udf=MaxUDF())["max"])
    # The buffer begins at zero; so does ours, with a sign, only where there are frames.
    assert np.array_equal(np.maximum(results["max"].astype("f8"), 0), largest), "max"
    check_centres(results["com"], results_ref.libertem_com(libertem, cube), cube)


def check(name, stored, reference, cube, mask, is_exact, relative=RELATIVE):
    allowed = 0 if is_exact else relative * np.tensordot(np.abs(cube), np.abs(mask), 2)
    difference = np.abs(stored.astype("f8") - reference)
    assert np.all(difference <= allowed), f"{name}: off by {difference.max()}"


def check_centres(stored, reference, cube):
    """Where the sum is positive; its relative error, and that of the moments, is what the absolute values allow."""
    total, absolute = cube.sum(axis=(2, 3)), np.abs(cube).sum(axis=(2, 3))
    is_there = total > RELATIVE * absolute
    assert np.all(np.isnan(stored[total < -RELATIVE * absolute])), "no centre without signal"
    extent = max(cube.shape[2:])
    allowed = np.maximum(1e-9, RELATIVE * extent * (absolute / np.where(is_there, total, 1)) ** 2)
    off = np.abs(stored - reference).max(axis=-1)
    assert np.all(off[is_there] <= allowed[is_there]), f"com: off by {off[is_there].max()}"
