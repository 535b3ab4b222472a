"""Writes Merlin `.mib`/`.hdr` pairs whose pixels are known, so that a recording can be compared with its truth.

Frames go in as `(frame, y, x)` arrays of unsigned integers; the header text is our own, in the vendor's field order.
The raw formats (`R64`) are encoded here from their description, independently of the receiver's decoder.
"""

import dataclasses
import pathlib

import numpy as np

CHIP = 256  # pixels per side of a Medipix chip


@dataclasses.dataclass(frozen=True)
class Format:
    """How the pixels of a stream are encoded."""

    code: str  # field 6 of the frame header: U08, U16, U32 or R64
    depth: int  # counter depth in bits: 1, 6, 12 or 24

    @property
    def is_raw(self):
        return self.code == "R64"

    @property
    def stored(self):
        """numpy type in which these pixels are expected on disk, byte order aside."""
        return np.dtype({1: "u1", 6: "u1", 12: "u2", 24: "u4"}[self.depth])

    @property
    def limit(self):
        """One more than the largest pixel value."""
        return 1 << self.depth


U08 = Format("U08", 6)
U16 = Format("U16", 12)
U32 = Format("U32", 24)
R64_1 = Format("R64", 1)
R64_6 = Format("R64", 6)
R64_12 = Format("R64", 12)


def pattern(count, height, width, limit, seed=0):
    """Frames `(frame, y, x)` in which every frame, row and column differs, so that any shift or swap shows."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, max(limit // 4, 2), size=(count, height, width), dtype=np.uint32)
    frame, y, x = np.ogrid[:count, :height, :width]
    moving = (y - height / 2 - 3 * np.cos(frame)) ** 2 + (x - width / 2 - 3 * np.sin(frame)) ** 2
    bright = np.where(moving < (min(height, width) / 4) ** 2, limit // 2, 0).astype(np.uint32)
    ramp = (frame * 7 + y * 3 + x).astype(np.uint32) % max(limit // 4, 2)
    return (noise + bright + ramp) % limit


def write(directory, name, frames, form, scan, chips=1, extra=()):
    """Writes `NAME.mib` and `NAME.hdr`; returns the path of the `.hdr`. `scan` is `(ny, nx)`."""
    directory = pathlib.Path(directory)
    header = acquisition_header(len(frames), scan, form.depth, chips, extra)
    (directory / f"{name}.hdr").write_bytes(header)
    with open(directory / f"{name}.mib", "wb") as file:
        for index, frame in enumerate(frames):
            file.write(frame_header(index + 1, frame.shape, form, chips))
            file.write(encode(frame, form, chips))
    return directory / f"{name}.hdr"


def acquisition_header(count, scan, depth, chips=1, extra=()):
    """2048 bytes of `HDR` text for `count` frames of a scan of `(ny, nx)` positions."""
    lines = [
        "HDR,\t",
        "Time and Date Stamp (day, mnth, yr, hr, min, s):\t01/02/2026 10:20:30",
        "Chip ID:\tW000_A0,-,-,-",
        "Chip Type (Medipix 3.0, Medipix 3.1, Medipix 3RX):\tMedipix 3RX",
        f"Assembly Size (NX1, 2X2):\t{'  2x2' if chips == 4 else '  1x1'}",
        "Chip Mode  (SPM, CSM, CM, CSCM):\tSPM",
        f"Counter Depth (number):\t{depth}",
        "Gain:\tSLGM",
        "Active Counters:\tAlternating",
        "Acquisition Type (Normal, Th_scan, Config):\tNormal",
        f"Frames in Acquisition (Number):\t{count}",
        f"Frames per Trigger (Number):\t{scan[1]}",
        "Trigger Start (Positive, Negative, Internal):\tInternal",
        "Trigger Stop (Positive, Negative, Internal):\tInternal",
        "Readout System:\tMerlin Quad",
        "Software Version:\t0.0.0.0",
        *extra,
        "End\t",
    ]
    return "\r\n".join(lines).encode("latin1").ljust(2048)


def frame_header(sequence, shape, form, chips=1):
    """Frame header of 256 + 128 * chips bytes for a decoded frame of `shape` `(height, width)`."""
    offset = 256 + 128 * chips
    height, width = shape
    if form.is_raw and chips == 4:
        height, width = CHIP, 4 * CHIP
    layout = "2x2" if chips == 4 else "1x1"
    select = "0F" if chips == 4 else "01"
    thresholds = ",".join(["2.000000E+0", "5.110000E+2"] + ["0.000000E+0"] * 6)
    dacs = ",".join(",".join(["3RX"] + ["011"] + ["511"] * 26) for _ in range(chips))
    text = (
        f"MQ1,{sequence:06d},{offset:05d},{chips:02d},{width:04d},{height:04d},{form.code},{layout:>6},{select},"
        f"2026-02-01 10:20:30.000000,0.001000,0,0,0,{thresholds},{dacs},"
        f"MQ1A,2026-02-01T10:20:30.000000000Z,1000000ns,{form.depth},"
    )
    assert len(text) <= offset, "header text does not fit"
    return text.encode("ascii").ljust(offset, b"\0")


def encode(frame, form, chips=1):
    """Bytes of one frame as the detector sends them."""
    if not form.is_raw:
        return frame.astype({"U08": ">u1", "U16": ">u2", "U32": ">u4"}[form.code]).tobytes()
    if chips == 1:
        return _encode_words(frame, form.depth)
    # A transmitted row is four chip rows, chips 4, 3, 2, 1; the lower two chips are mounted upside down.
    half = CHIP
    upper, lower = frame[:half], frame[half:][::-1, ::-1]
    chip_1, chip_2 = upper[:, :half], upper[:, half:]
    chip_4, chip_3 = lower[:, :half], lower[:, half:]
    return _encode_words(np.concatenate([chip_4, chip_3, chip_2, chip_1], axis=1), form.depth)


def _encode_words(rows, depth):
    """64-bit big-endian words with the first pixel in the least significant bits."""
    if depth == 1:
        words = np.packbits(rows.astype("u1").reshape(-1, 64), axis=1, bitorder="little")
        return words[:, ::-1].tobytes()
    per_word, kind = {6: (8, ">u1"), 12: (4, ">u2")}[depth]
    return rows.astype(kind).reshape(-1, per_word)[:, ::-1].tobytes()
