"""A reader of data sets written from docs/format.md alone, with nothing but struct, numpy and json: a page of code."""

import json
import pathlib
import struct

import numpy as np

TABLE = [0] * 256  # CRC-32C, reflected, as of RFC 3720
for value in range(256):
    crc = value
    for _ in range(8):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    TABLE[value] = crc


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def lz4(data):
    """The bytes of one LZ4 block."""
    out, at = bytearray(), 0

    def length(count):
        nonlocal at
        more = 255 if count == 15 else 0
        while more == 255:
            more, at = data[at], at + 1
            count += more
        return count

    while True:
        token, at = data[at], at + 1
        literals = length(token >> 4)
        out += data[at : at + literals]
        at += literals
        if at >= len(data):
            return bytes(out)
        distance, at = data[at] | data[at + 1] << 8, at + 2
        count = length(token & 15) + 4
        out += (out[-distance:] * (count // distance + 1))[:count]


def unpack(chunk):
    """The pixels of a compressed chunk."""
    version, lz4_version, flags, item, decoded, block, stored = struct.unpack_from("<4B3I", chunk)
    if (version, lz4_version, stored) != (2, 1, len(chunk)) or flags not in (0x34, 0x36):
        raise ValueError("no Blosc frame")
    if flags == 0x36:
        return chunk[16:]
    pixels = b""
    for number, size in enumerate(min(block, decoded - first) for first in range(0, decoded, block)):
        (start,) = struct.unpack_from("<I", chunk, 16 + 4 * number)
        (length,) = struct.unpack_from("<I", chunk, start)
        rows = chunk[start + 4 : start + 4 + length]
        rows = rows if length == size else lz4(rows)
        if size % (8 * item) == 0:
            bits = np.unpackbits(np.frombuffer(rows, "u1").reshape(8 * item, -1), axis=1, bitorder="little")
            rows = np.packbits(bits.T, axis=1, bitorder="little").tobytes()
        pixels += rows
    return pixels


def read_tile(array, table, uuid, tile_id):
    """All frames of one tile and which of them are there: `(frames, is_there)`; raises ValueError where bytes are wrong."""
    about = json.loads((array / "zarr.json").read_text())
    count, height, width = about["shape"]
    codec = about["codecs"][0]["configuration"]
    endian = codec["codecs"][0].get("configuration", {}).get("endian", "little")
    dtype = np.dtype(about["data_type"]).newbyteorder(endian)
    per_segment = about["chunk_grid"]["configuration"]["chunk_shape"][0]
    per_chunk = codec["chunk_shape"][0]
    is_packed = [codec["name"] for codec in codec["codecs"]] == ["bytes", "blosc"]
    chunk_count, chunk_bytes = per_segment // per_chunk, per_chunk * height * width * dtype.itemsize
    frames = np.zeros((-(-count // per_segment) * per_segment, height, width), dtype)
    for b in range(len(frames) // per_segment):
        path = array / "c" / str(b) / "0" / "0"
        if not path.exists():
            continue
        raw = path.read_bytes()
        index, n = raw[: 16 * chunk_count], chunk_count
        index_crc, *crcs = struct.unpack_from(f"<I{n}I", raw, 16 * n)
        fields = struct.unpack_from("<8s16sIIQQIIII", raw, 4032)
        expected = (b"RONCHIB1", bytes.fromhex(uuid.replace("-", "")), tile_id, b, b * per_segment, per_chunk, n)
        if (*fields[:3], *fields[4:6], *fields[7:9]) != expected:
            raise ValueError(f"segment {b} is not where it belongs")
        if crc32c(index) != index_crc or crc32c(raw[4032:4092]) != fields[9]:
            raise ValueError(f"page 0 of segment {b}")
        for i in range(n):
            offset, nbytes = struct.unpack_from("<QQ", index, 16 * i)
            if offset == nbytes == 2**64 - 1:
                continue
            pixels = raw[offset : offset + nbytes]
            is_placed = is_packed and offset % 4096 == 0 or (offset, nbytes) == (8192 + i * chunk_bytes, chunk_bytes)
            if not is_placed or crc32c(pixels) != crcs[i] and (is_packed or crcs[i]):
                raise ValueError(f"chunk {i} of segment {b}")
            pixels = unpack(pixels) if is_packed else pixels
            at = b * per_segment + i * per_chunk
            frames[at : at + per_chunk] = np.frombuffer(pixels, dtype).reshape(per_chunk, height, width)
    parts = sorted(table.glob("flags/c/*"), key=lambda part: int(part.name))
    flags = np.concatenate([np.frombuffer(part.read_bytes(), "u1") for part in parts])
    return frames[:count], flags[:count] == 0


def read(path):
    """`(frames, is_there)` of a whole data set; a frame of several tiles is there when all of them are."""
    path = pathlib.Path(path)
    manifest = json.loads((path / "zarr.json").read_text())["attributes"]["ronchi"]
    if manifest["layout_version"] > 1:
        raise ValueError(f"layout version {manifest['layout_version']}")
    tiles, uuid = manifest["detector"]["tiles"], manifest["uuid"]
    if len(tiles) == 1:
        return read_tile(path / "frames", path / "frame_table", uuid, tiles[0]["id"])
    folders = [(path / "tiles" / str(tile["id"]), tile["id"]) for tile in tiles]
    parts = [read_tile(folder, folder / "frame_table", uuid, tile_id) for folder, tile_id in folders]
    count = max(len(frames) for frames, _ in parts)
    whole = np.zeros((count, *manifest["detector"]["shape"]), parts[0][0].dtype)
    is_there = np.ones(count, bool)
    for tile, (frames, there) in zip(tiles, parts, strict=True):
        (y, x), (height, width) = tile["origin"], tile["shape"]
        whole[: len(frames), y : y + height, x : x + width] = frames
        is_there &= np.pad(there, (0, count - len(there)))
    return whole, is_there
