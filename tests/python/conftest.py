"""Fixtures of the Python tests: the binary, a work directory that is removed at once, recorded scans, LiberTEM."""

import os
import pathlib
import random
import shutil
import tempfile

import pytest

import harness
import scans


def pytest_configure(config):
    binary = harness.ronchi_binary()
    if not binary.is_file():
        pytest.exit(f"{binary} is missing: run `cargo build --release` first, or set RONCHI_BIN", returncode=2)


@pytest.fixture
def folder():
    """An empty directory on the project's disk, gone after the test (pytest's own keeps the last three runs)."""
    base = harness.PROJECT / "target" / "pytest"
    base.mkdir(parents=True, exist_ok=True)
    path = pathlib.Path(tempfile.mkdtemp(dir=base))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def needs():
    """`needs(reason)` skips for a reason, if there is one; on CI (`CI=true`) a test that cannot run has failed."""

    def check(reason):
        if reason and os.environ.get("CI") == "true":
            pytest.fail(reason)
        if reason:
            pytest.skip(reason)

    return check


@pytest.fixture
def rng():
    """Random choices, different in every run; `RONCHI_SEED` repeats one."""
    seed = int(os.environ.get("RONCHI_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"RONCHI_SEED={seed}")
    return random.Random(seed)


def reference(folder, index):
    """A folder of real and golden data, where there is one: `RONCHI_SHARED`, or `shared` beside the project."""
    root = pathlib.Path(os.environ.get("RONCHI_SHARED", harness.PROJECT.parent / "shared"))
    path = root / "data" / folder
    if not (path / index).is_file():
        pytest.skip(f"no reference data at {path}")
    return path


@pytest.fixture(scope="session")
def shared_mib():
    """Real and golden `.mib` files."""
    return reference("mib", "expected.json")


@pytest.fixture(scope="session")
def shared_dectris():
    """Streams recorded from detectors, and golden ones."""
    return reference("dectris", "index.json")


@pytest.fixture(scope="session")
def libertem():
    """LiberTEM context that runs in this process, one task after the other."""
    import libertem.api
    from libertem.executor.inline import InlineJobExecutor

    return libertem.api.Context(executor=InlineJobExecutor())


@pytest.fixture
def scan(folder):
    """A 24x32 scan of 128x128 u16 frames as `.mib`, 25 MB."""
    return scans.write(folder, "scan", (24, 32), (128, 128))
