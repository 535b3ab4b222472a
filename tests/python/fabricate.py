"""Data sets without a receiver, written from docs/format.md: any segment size, any scan, any tiles, in no time.

The receiver aims at segments of 256 MiB, so that recordings of a test's size have one. What happens between segments is
tested on these. They are what the format says, which `ronchi verify` confirms.
"""

import json
import os
import pathlib
import struct
import tempfile
import uuid as uuids

import google_crc32c
import h5py
import numpy as np

ABSENT = b"\xff" * 16
CREATED = "2026-01-01T00:00:00Z"


def data_set(path, frames, per_segment, per_chunk, scan=None, regions=None, absent=(), state="complete"):
    """Writes `frames` `(frame, y, x)`; frames of segments listed in `absent` are missing. `frames` may be a lazy object
    with `shape` and `dtype` that is all zeros (`Zeros`): then segments are sparse files."""
    path = pathlib.Path(path)
    count, height, width = frames.shape
    regions = regions or [(0, 0, height, width)]
    uuid = uuids.UUID(int=0x5EED)
    path.mkdir()
    (path / ".lock").touch()
    missing = sum(min((b + 1) * per_segment, count) - b * per_segment for b in absent)
    tiles = [{"id": i, "origin": [y, x], "shape": [h, w]} for i, (y, x, h, w) in enumerate(regions)]
    for i, (y, x, h, w) in enumerate(regions):
        base = path if len(regions) == 1 else path / "tiles" / str(i)
        array = path / "frames" if len(regions) == 1 else base
        part = frames if isinstance(frames, Zeros) else frames[:, y : y + h, x : x + w]
        geometry = (count, h, w, frames.dtype, per_segment, per_chunk)
        _array(array, geometry)
        log = _segments(array, part, geometry, uuid, i, absent)
        (base / "chunks.log").write_bytes(log)
        _table(base / "frame_table", count, per_segment, absent)
        done = {"uuid": str(uuid), "tile": i, "visible_frames": count, "durable_frames": count, "missing": missing}
        sealed = {"segments_sealed": -(-count // per_segment) - len(absent), "time_ns": 1, "state": state}
        counts = {"written_count": count - missing, "durable_count": count - missing}
        (base / "progress.json").write_text(json.dumps({**done, **sealed, **counts}))
    if len(regions) > 1:
        _group(path / "tiles", {})
    ranges = [{"first": b * per_segment, "count": min(per_segment, count - b * per_segment), "reason": "never_arrived"} for b in absent]
    manifest = {
        "layout_version": 1,
        "uuid": str(uuid),
        "name": path.stem,
        "created": CREATED,
        "state": state,
        "scan": scan and {"order": "raster", "flyback": 0, "sync_offset": 0, **scan},
        "frame_count": count,
        "detector": {"shape": [height, width], "pixel": frames.dtype.str, "tiles": tiles},
        "block": {"N": per_segment, "k": per_chunk, "D": 8192},
        "gaps": [{"tile": i, "frame_count": missing, "ranges": ranges, "is_cut": False} for i in range(len(regions))],
        "software": "fabricated",
        "vendor_header": "",
        "user": None,
    }
    _group(path, {"ronchi": manifest})
    return path


class Zeros:
    """An array of zeros that takes no memory."""

    def __init__(self, shape, dtype):
        self.shape, self.dtype = shape, np.dtype(dtype)


def _segments(array, frames, geometry, uuid, tile, absent):
    """Writes all segments; returns the log of their chunks."""
    count, height, width, dtype, per_segment, per_chunk = geometry
    chunks, frame_bytes = per_segment // per_chunk, height * width * dtype.itemsize
    chunk_bytes = per_chunk * frame_bytes
    face, log = _face(per_segment, height, width, dtype), bytearray()
    size = 8192 + -(-per_segment * frame_bytes // 4096) * 4096
    zeros = google_crc32c.value(bytes(chunk_bytes))
    for b in range(-(-count // per_segment)):
        if b in absent:
            continue
        first = b * per_segment
        present = min(per_segment, count - first)
        pixels = b"" if isinstance(frames, Zeros) else frames[first : first + present].tobytes()
        index, sums = b"", b""
        for chunk in range(chunks):
            there = min(max(present - chunk * per_chunk, 0), per_chunk)
            part = pixels[chunk * chunk_bytes : (chunk + 1) * chunk_bytes].ljust(chunk_bytes, b"\0")
            crc = (google_crc32c.value(part) if pixels else zeros) if there else 0
            index += struct.pack("<QQ", 8192 + chunk * chunk_bytes, chunk_bytes) if there else ABSENT
            sums += struct.pack("<I", crc)
            if there:
                record = struct.pack("<QIIIII", b, chunk, there, crc, 1, 0)
                log += record + struct.pack("<I", google_crc32c.value(record))
        page = (index + struct.pack("<I", google_crc32c.value(index)) + sums).ljust(4032, b"\0")
        trailer = struct.pack("<8s16sIIQQIII", b"RONCHIB1", uuid.bytes, tile, 1, b, first, present, per_chunk, chunks)
        page += trailer + struct.pack("<I", google_crc32c.value(trailer))
        segment = array / "c" / str(b) / "0" / "0"
        segment.parent.mkdir(parents=True)
        with open(segment, "wb") as file:
            file.write(page + face + pixels)
            file.truncate(size)
    return bytes(log)


def _face(per_segment, height, width, dtype):
    """Page 1, as HDF5's own library writes it; it puts only what fills a page where the format wants it."""
    assert per_segment * height * width * dtype.itemsize >= 4096, "segments of at least 4096 bytes"
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "face.h5")
        access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
        access.set_libver_bounds(h5py.h5f.LIBVER_V18, h5py.h5f.LIBVER_V18)
        access.set_alignment(4096, 4096)
        creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
        creation.set_userblock(4096)
        file = h5py.h5f.create(path.encode(), h5py.h5f.ACC_TRUNC, creation, access)
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        plist.set_obj_track_times(False)
        space = h5py.h5s.create_simple((per_segment, height, width))
        data = h5py.h5d.create(file, b"data", h5py.h5t.py_create(dtype, logical=True), space, plist)
        assert data.get_offset() == 8192
        del data
        file.close()
        page = bytearray(pathlib.Path(path).read_bytes()[4096:8192])
        page[54:70] = bytes(16)  # times of creation
        page[191:195] = struct.pack("<I", lookup3(page[48:191]))
        return bytes(page)


def lookup3(data):
    """Bob Jenkins' hash, which HDF5 uses for its metadata."""
    mask = 0xFFFFFFFF
    a = b = c = (0xDEADBEEF + len(data)) & mask

    def turn(x, k):
        return ((x << k) | (x >> (32 - k))) & mask

    words = [int.from_bytes(data[at : at + 4].ljust(4, b"\0"), "little") for at in range(0, len(data), 4)]
    words += [0] * (-len(words) % 3)
    groups = [words[at : at + 3] for at in range(0, len(words), 3)]
    for x, y, z in groups[:-1]:
        a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
        for first, second, third in ((4, 6, 8), (16, 19, 4)):
            a = ((a - c) & mask) ^ turn(c, first)
            c = (c + b) & mask
            b = ((b - a) & mask) ^ turn(a, second)
            a = (a + c) & mask
            c = ((c - b) & mask) ^ turn(b, third)
            b = (b + a) & mask
    x, y, z = groups[-1]
    a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
    c = ((c ^ b) - turn(b, 14)) & mask
    a = ((a ^ c) - turn(c, 11)) & mask
    b = ((b ^ a) - turn(a, 25)) & mask
    c = ((c ^ b) - turn(b, 16)) & mask
    a = ((a ^ c) - turn(c, 4)) & mask
    b = ((b ^ a) - turn(a, 14)) & mask
    return ((c ^ b) - turn(b, 24)) & mask


def _array(path, geometry):
    count, height, width, dtype, per_segment, per_chunk = geometry
    order = {">": {"endian": "big"}, "<": {"endian": "little"}, "|": None, "=": {"endian": "little"}}[dtype.byteorder]
    pixels = {"name": "bytes", **({"configuration": order} if order else {})}
    index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    sharding = {"chunk_shape": [per_chunk, height, width], "codecs": [pixels], "index_codecs": index, "index_location": "start"}
    _metadata(path, [count, height, width], [per_segment, height, width], dtype.name, 0, ["frame", "y", "x"],
              [{"name": "sharding_indexed", "configuration": sharding}])  # fmt: skip


def _metadata(path, shape, chunk, data_type, fill, names, codecs):
    path.mkdir(parents=True, exist_ok=True)
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": codecs,
        "dimension_names": names,
        "attributes": {},
    }
    (path / "zarr.json").write_text(json.dumps(document))


def _group(path, attributes):
    path.mkdir(exist_ok=True)
    (path / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}))


def _table(path, count, per_segment, absent):
    """The frame table: numbers from 1, no times, no checksums of frames."""
    rows = min(count, 65536)
    flags = np.ones(-(-count // rows) * rows, "u1")
    flags[:count] = [b in absent for b in range(-(-count // per_segment)) for _ in range(per_segment)][:count]
    present = flags == 0
    numbers = np.where(present, np.arange(1, len(flags) + 1), 0).astype("<u8")
    order = [{"name": "bytes", "configuration": {"endian": "little"}}]
    for name, kind, values, fill in [("counter", "uint64", numbers, 0), ("time_ns", "uint64", 0 * numbers, 0), ("flags", "uint8", flags, 1)]:
        codecs = order if kind != "uint8" else [{"name": "bytes"}]
        _metadata(path / name, [count], [rows], kind, fill, ["frame"], codecs)
        (path / name / "c").mkdir()
        for first in range(0, len(values), rows):
            (path / name / "c" / str(first // rows)).write_bytes(values[first : first + rows].tobytes())
    _group(path, {})
