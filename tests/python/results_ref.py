"""Reference results of a scan, by LiberTEM and by plain numpy; `frames` are `(ny, nx, y, x)` integers.

LiberTEM works on `float64` here: with integer pixels and binary masks its sums are then exact, so that equality is
equality of bits. A centre of mass is one division of such sums.
"""

import numpy as np
from libertem.udf.com import CoMUDF
from libertem.udf.masks import ApplyMasksUDF
from libertem.udf.sum import SumUDF
from libertem.udf.sumsigudf import SumSigUDF

COM_TOLERANCE_PX = 1e-9


def radius_squared(signal, cy, cx):
    y, x = np.ogrid[: signal[0], : signal[1]]
    return (y - cy) ** 2 + (x - cx) ** 2


def disk(signal, cy, cx, radius):
    return radius_squared(signal, cy, cx) <= radius**2


def ring(signal, cy, cx, inner, outer):
    squared = radius_squared(signal, cy, cx)
    return (inner**2 < squared) & (squared <= outer**2)


def libertem_masks(context, frames, masks):
    """One image per mask, `(ny, nx)` float64."""
    factories = [_constant(np.asarray(mask, dtype="f8")) for mask in masks]
    udf = ApplyMasksUDF(mask_factories=factories, mask_count=len(masks), mask_dtype=np.float64, use_sparse=False)
    result = context.run_udf(dataset=_load(context, frames), udf=udf)["intensity"]
    return np.moveaxis(np.array(result), -1, 0)


def _constant(mask):
    return lambda: mask


def libertem_total(context, frames):
    result = context.run_udf(dataset=_load(context, frames.astype("f8")), udf=SumSigUDF())
    return np.array(result["intensity"])


def libertem_sum(context, frames):
    result = context.run_udf(dataset=_load(context, frames), udf=SumUDF(dtype="float64"))
    return np.array(result["intensity"])


def libertem_com(context, frames):
    """Centre of mass `(ny, nx, 2)`, `(y, x)` in px from pixel 0,0."""
    udf = CoMUDF.with_params(cy=0, cx=0)
    return np.array(context.run_udf(dataset=_load(context, frames.astype("f8")), udf=udf)["raw_com"])


def _load(context, frames):
    return context.load("memory", data=frames, sig_dims=2, num_partitions=2)


def numpy_com(frames):
    """The same in float64 from exact integer sums."""
    wide = frames.astype("i8")
    total = wide.sum(axis=(2, 3))
    y, x = np.arange(frames.shape[2]), np.arange(frames.shape[3])
    moment_y = (wide.sum(axis=3) * y).sum(axis=2)
    moment_x = (wide.sum(axis=2) * x).sum(axis=2)
    return np.stack([moment_y / total, moment_x / total], axis=-1)
