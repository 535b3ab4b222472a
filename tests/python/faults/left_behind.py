"""Judges what a fault left behind: by position, against the truth, and by what `ronchi verify` says."""

import json

import numpy as np

import harness
from dataset import DataSet

FRAMES_AT_ONCE_BYTES = 32 << 20


def progress_of(path, tile=None):
    """`progress.json` of a tile, or `None` while there is none that can be read: it is a cache."""
    try:
        return DataSet(path, tile).progress()
    except (OSError, ValueError):
        return None


class Watermarks:
    """The acknowledgements seen outside the receiver: for every data set and tile the largest durable frame count."""

    def __init__(self, directory, tiles, is_to_the_end=True):
        """Without `is_to_the_end` only of series that go on: the end passes frames that never came."""
        self.directory, self.tiles, self._is_to_the_end = directory, tiles, is_to_the_end
        self.seen = {}
        self.counted = 0
        self.finished = set()
        self.problems = []

    def _keys(self):
        tiles = [None] if self.tiles == 1 else range(self.tiles)
        return [(path.name, tile) for path in self.directory.glob("*.ronchi") for tile in tiles]

    def look(self):
        """Reads every watermark once; one that went back is a broken promise."""
        for name, tile in self._keys():
            if (progress := progress_of(self.directory / name, tile)) is None:
                continue
            durable, before = progress["durable_frames"], self.seen.get((name, tile), 0)
            if durable < before:
                self.problems.append(f"{name} tile {tile}: the watermark went back from {before} to {durable}")
            if progress["state"] != "running":
                self.finished.add((name, tile))
            if progress["state"] == "running" or self._is_to_the_end:
                self.seen[name, tile] = max(durable, before)

    def hear(self, status):
        """The same from `/api/v1/status`, for receivers of one tile, while the disk is well."""
        for acquisition in status.get("acquisitions", []):
            key = f"{acquisition['name']}.ronchi", None
            self.seen[key] = max(self.seen.get(key, 0), acquisition["durable"])
        self.count(status)

    def count(self, status):
        """Frames called durable one by one. Where the disk refuses frames the watermark passes them, this does not."""
        self.counted = max([self.counted, *(link["durable_frames"] for link in status.get("links", []))])

    @property
    def total(self):
        return sum(self.seen.values())


def check_tile(path, tile, truth, seen):
    """Problems with frames below `seen`: each is there and right, or was never sent and is flagged missing."""
    if seen == 0:
        return []
    data, where = DataSet(path, tile), f"{path.name} tile {tile}"
    flags = data.raw_flags()[:seen]
    if len(flags) < seen:
        return [f"{where}: {seen} frames acknowledged, {len(flags)} rows in the frame table"]
    problems = []
    wrong_flags = np.flatnonzero((flags == 0) == truth.is_lost[:seen])
    if len(wrong_flags):
        first = wrong_flags[0]
        problems.append(f"{where}: {len(wrong_flags)} wrong flags, first {flags[first]} at frame {first} of {seen}")
    geometry = data.geometry()
    step = max(FRAMES_AT_ONCE_BYTES // geometry.frame_bytes, 1)
    for first in range(0, seen, step):
        end = min(first + step, seen)
        try:
            got = data.read_runs(first, end, ~truth.is_lost[first:end])
        except (OSError, AssertionError) as error:
            problems.append(f"{where}: frames {first}..{end} of {seen}: {error}")
            continue
        expected = truth.frames(first, end)
        expected = np.where(truth.is_lost[first:end, None, None], 0, expected)
        differs = (got != expected).reshape(end - first, -1).any(axis=1)
        if differs.any():
            problems.append(
                f"{where}: {differs.sum()} of {seen} acknowledged frames differ, first {first + differs.argmax()}"
            )
    return problems


def check_present(path, tile, truth):
    """Problems with frames that are called present, wherever they lie: each was sent, and is what was sent."""
    data = DataSet(path, tile)
    is_there = data.raw_flags() == 0
    problems = []
    if (is_there & truth.is_lost[: len(is_there)]).any():
        problems.append(f"{path.name} tile {tile}: frames are called present that were never sent")
    try:
        got = data.read_runs(0, len(is_there), is_there)
    except (OSError, AssertionError) as error:
        return [*problems, f"{path.name} tile {tile}: {error}"]
    expected = truth.frames(0, len(is_there))
    differs = is_there & (got != expected).reshape(len(got), -1).any(axis=1)
    if differs.any():
        problems.append(f"{path.name} tile {tile}: {differs.sum()} frames differ, first {differs.argmax()}")
    return problems


def check_ended(path, truths, seen, states):
    """Problems of a data set that its receiver ended: as `check_data_set`, and state, law and every frame present."""
    problems = check_data_set(path, truths, seen)
    manifest = DataSet(path).manifest()
    laws = [gaps["law"]["holds"] for gaps in manifest["gaps"]]
    if manifest["state"] not in states or manifest.get("unsound") or not all(laws) or len(laws) != len(truths):
        problems.append(f"{path.name}: state {manifest['state']}, unsound {manifest.get('unsound')}, laws hold {laws}")
    for tile, truth in _tiles(truths):
        if (DataSet(path, tile).frames_path / "zarr.json").exists():  # A tile that never began has none.
            problems += check_present(path, tile, truth)
    return problems


def present_count(directory):
    """Frames that the frame tables of all data sets of one tile call present."""
    paths = [path for path in directory.glob("*.ronchi") if (path / "frames" / "zarr.json").exists()]
    return sum(int((DataSet(path).raw_flags() == 0).sum()) for path in paths)


def _tiles(truths):
    """`(tile, truth)`; the only tile of a detector has no number."""
    return [(None, truths[0])] if len(truths) == 1 else list(enumerate(truths))


def check_data_set(path, truths, seen):
    """Problems of a data set: acknowledged frames of every tile, and the opinion of `ronchi verify`."""
    problems = []
    for tile, truth in _tiles(truths):
        problems += check_tile(path, tile, truth, seen.get((path.name, tile), 0))
    return problems + verify(path, any(key[0] == path.name and count for key, count in seen.items()))


def verify(path, is_acknowledged):
    """What `ronchi verify` objects to. A directory without a manifest was only just made: no data set yet."""
    status, out, err = harness.ronchi("verify", "--json", path)
    if status == 2 and not (path / "zarr.json").exists() and not is_acknowledged:
        return []
    if status != 0:
        flaws = json.loads(out)["flaws"] if status == 1 else err.strip()
        return [f"{path.name}: verify ends with {status}: {json.dumps(flaws)[:600]}"]
    return []
