"""An independent reader of `<name>.ronchi`: written from the format's description, sharing nothing with the product.

Sizes in bytes, frame ranges half-open. Frames are read with plain file reads from page 0's index, so that what an
unfinished or killed recording left behind can be judged without any library's opinion.
"""

import dataclasses
import json
import pathlib
import struct

import google_crc32c
import numpy as np

DATA_OFFSET = 8192
ABSENT = (1 << 64) - 1
TRAILER_OFFSET = 4032
MAGIC = b"RONCHIB1"
FLAG_OK, FLAG_MISSING, FLAG_CORRUPT, FLAG_TRUNCATED = range(4)


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Shape and placement of the frames, from `frames/zarr.json`."""

    shape: tuple  # frames, y, x
    dtype: np.dtype
    frames_per_segment: int
    frames_per_chunk: int

    @property
    def frame_bytes(self):
        return self.shape[1] * self.shape[2] * self.dtype.itemsize

    @property
    def chunks_per_segment(self):
        return self.frames_per_segment // self.frames_per_chunk


class DataSet:
    """One acquisition directory, finished, growing or left by a crash; of a detector of several tiles, one of them."""

    def __init__(self, path, tile=None):
        self.path = pathlib.Path(path)
        self.tile = tile

    @property
    def base_path(self):
        """Where progress and frame table lie."""
        return self.path if self.tile is None else self.path / "tiles" / str(self.tile)

    @property
    def frames_path(self):
        return self.path / "frames" if self.tile is None else self.base_path

    def progress(self):
        """`progress.json`, or `None` before it exists."""
        try:
            return json.loads((self.base_path / "progress.json").read_text())
        except FileNotFoundError:
            return None

    def visible(self):
        return (self.progress() or {}).get("visible_frames", 0)

    def durable(self):
        return (self.progress() or {}).get("durable_frames", 0)

    def manifest(self):
        return json.loads((self.path / "zarr.json").read_text())["attributes"]["ronchi"]

    def geometry(self):
        meta = json.loads((self.frames_path / "zarr.json").read_text())
        (sharding,) = meta["codecs"]
        assert sharding["name"] == "sharding_indexed"
        assert sharding["configuration"]["index_location"] == "start"
        to_bytes = sharding["configuration"]["codecs"][0]
        order = {"big": ">", "little": "<"}[to_bytes.get("configuration", {}).get("endian", "little")]
        return Geometry(
            shape=tuple(meta["shape"]),
            dtype=np.dtype(meta["data_type"]).newbyteorder(order),
            frames_per_segment=meta["chunk_grid"]["configuration"]["chunk_shape"][0],
            frames_per_chunk=sharding["configuration"]["chunk_shape"][0],
        )

    def segment_path(self, index):
        return self.frames_path / "c" / str(index) / "0" / "0"

    def segment_count(self):
        geometry = self.geometry()
        return -(-geometry.shape[0] // geometry.frames_per_segment)

    def array(self, name):
        """A small array of the data set (`results/sum`, `frame_table/flags`) through zarr-python, as numpy."""
        import zarr

        return zarr.open_array(str(self.path / name), mode="r")[...]

    def flags(self):
        return self.array("frame_table/flags")[: self.geometry().shape[0]]

    def raw_flags(self):
        """The flags as the files of the frame table have them; rows of files that are not there are missing."""
        table = self.base_path / "frame_table" / "flags"
        rows = json.loads((table / "zarr.json").read_text())["chunk_grid"]["configuration"]["chunk_shape"][0]
        flags = np.full(self.geometry().shape[0], FLAG_MISSING, "u1")
        for first in range(0, len(flags), rows):
            part = flags[first : first + rows]
            if (path := table / "c" / str(first // rows)).exists():
                got = np.fromfile(path, "u1", len(part))
                part[: len(got)] = got
        return flags

    def read(self, first, end):
        """Frames `first..end` by plain reads; every chunk touched must be listed as present in page 0."""
        geometry = self.geometry()
        frames = np.empty((end - first, *geometry.shape[1:]), geometry.dtype)
        at = first
        while at < end:
            segment, inside = divmod(at, geometry.frames_per_segment)
            count = min(end - at, geometry.frames_per_segment - inside)
            with open(self.segment_path(segment), "rb") as file:
                present = _present_chunks(file, geometry)
                chunks = range(inside // geometry.frames_per_chunk, -(-(inside + count) // geometry.frames_per_chunk))
                absent = [chunk for chunk in chunks if not present[chunk]]
                assert not absent, f"segment {segment}: chunks {absent} of frames {at}..{at + count} are absent"
                file.seek(DATA_OFFSET + inside * geometry.frame_bytes)
                pixels = file.read(count * geometry.frame_bytes)
            assert len(pixels) == count * geometry.frame_bytes, f"segment {segment} is too short"
            part = np.frombuffer(pixels, geometry.dtype).reshape(count, *geometry.shape[1:])
            frames[at - first : at - first + count] = part
            at += count
        return frames

    def read_runs(self, first, end, is_wanted):
        """As `read`, of the frames of `first..end` that are wanted; the others are zeros and need not be there."""
        geometry = self.geometry()
        frames = np.zeros((end - first, *geometry.shape[1:]), geometry.dtype)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], is_wanted, [False]]).astype("i1")))
        for begin, stop in edges.reshape(-1, 2):
            frames[begin:stop] = self.read(first + int(begin), first + int(stop))
        return frames

    def read_all(self):
        return self.read(0, self.geometry().shape[0])

    def chunk_checksums(self, segment):
        """`(chunk, stored, computed)` crc32c of every present chunk of a segment."""
        geometry = self.geometry()
        chunk_bytes = geometry.frames_per_chunk * geometry.frame_bytes
        with open(self.segment_path(segment), "rb") as file:
            present = _present_chunks(file, geometry)
            stored = struct.unpack_from(f"<{len(present)}I", _page(file), 16 * len(present) + 4)
            for chunk in np.flatnonzero(present):
                file.seek(DATA_OFFSET + int(chunk) * chunk_bytes)
                yield int(chunk), stored[chunk], google_crc32c.value(file.read(chunk_bytes))

    def trailer(self, segment):
        """The private trailer of a segment, checked and as a dictionary."""
        with open(self.segment_path(segment), "rb") as file:
            raw = _page(file)[TRAILER_OFFSET:]
        names = "magic uuid tile flags segment first_frame frames_written k n crc".split()
        fields = dict(zip(names, struct.unpack("<8s16sIIQQIIII", raw), strict=True))
        assert fields["magic"] == MAGIC
        assert fields["crc"] == google_crc32c.value(raw[:60])
        return fields


def _page(file):
    file.seek(0)
    return file.read(4096)


def _present_chunks(file, geometry):
    """Which chunks the checked index of an open segment lists; present ones must lie where they belong."""
    count = geometry.chunks_per_segment
    page = _page(file)
    (stored,) = struct.unpack_from("<I", page, 16 * count)
    assert stored == google_crc32c.value(page[: 16 * count]), "index checksum of page 0"
    entries = np.frombuffer(page, "<u8", 2 * count).reshape(count, 2)
    chunk_bytes = geometry.frames_per_chunk * geometry.frame_bytes
    present = entries[:, 0] != ABSENT
    places = DATA_OFFSET + np.arange(count, dtype="u8") * chunk_bytes
    assert np.array_equal(entries[present, 0], places[present]), "a chunk is not where it belongs"
    assert np.all(entries[present, 1] == chunk_bytes), "a chunk has the wrong length"
    return present
