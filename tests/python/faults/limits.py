"""F5, F20, F21: what the system refuses: a disk quota, locked memory, file descriptors, io_uring."""

import contextlib
import itertools
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request

import harness
from dataset import DataSet

from . import kills, receivers, stops
from .disks import disk
from .left_behind import check_ended, check_present, verify
from .senders import TileSender, Truth

NOBODY = 65534
DEADLINE_S = 180  # Only for what hangs: how fast a busy machine is proves nothing.
SHAPE = (64, 64)
BEST = "io_uring, registered buffers"
# Lets an ordinary user lock as much as there is, also where nobody may raise the limit.
MAY_LOCK = ["--inh-caps=+ipc_lock", "--ambient-caps=+ipc_lock"]
MEMLOCK_MAX = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
# Less than the pool, and whatever is allowed here.
MEMLOCK_BYTES = [n for n in (64 << 10, 8 << 20) if n < MEMLOCK_MAX or MEMLOCK_MAX == resource.RLIM_INFINITY] + [
    MEMLOCK_MAX
]
DESCRIPTORS = (8, 16, 32, 48, 64, 1024)
QUOTA_MIB = 40


@contextlib.contextmanager
def open_folder():
    """A directory that any user may enter, with a copy of the binary."""
    with tempfile.TemporaryDirectory(prefix="ronchi-nobody-", dir="/var/tmp") as name:
        path = pathlib.Path(name)
        path.chmod(0o755)
        shutil.copy(harness.ronchi_binary(), path / "ronchi")
        (path / "data").mkdir()
        os.chown(path / "data", NOBODY, NOBODY)
        yield path


def why_no_user():
    """Why programs cannot be run as another user here, or `None`."""
    missing = [program for program in ("setpriv", "prlimit") if shutil.which(program) is None]
    if os.geteuid() != 0:
        return "only root may become another user"
    return f"{', '.join(missing)} missing" if missing else None


def low_limits(_folder, rng, tally, count):
    """F20: an ordinary user under every pair of limits: refused at start with the reason, or complete."""
    for _ in range(count):
        pairs = itertools.product(MEMLOCK_BYTES, DESCRIPTORS)
        tries = [(*pair, []) for pair in pairs] + [(memlock, 1024, MAY_LOCK) for memlock in MEMLOCK_BYTES]
        for memlock, nofile, abilities in tries:
            with open_folder() as folder:
                tally.attempt(_record_as_nobody, folder, rng, tally, memlock, nofile, abilities)


def _record_as_nobody(folder, rng, tally, memlock, nofile, abilities):
    truth, port = Truth(rng, SHAPE, 400), harness.free_port()
    locked = "unlimited" if memlock == resource.RLIM_INFINITY else memlock
    limits = ["prlimit", f"--memlock={locked}:{locked}", f"--nofile={nofile}:{nofile}"]
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *abilities]
    where = f"memlock {locked}, nofile {nofile}{', may lock' * bool(abilities)}"
    with TileSender(truth, detector=SHAPE, origin=(0, 0), rate_hz=2000) as sender:
        config = folder / "receiver.toml"
        links = receivers.tile_links([sender])
        config.write_text(receivers.configuration(folder / "data", links, http=port, **receivers.SMALL))
        command = [*limits, *user, folder / "ronchi", "serve", "--config", config, "--json"]
        with harness.Process(command) as process:
            out = folder / "data" / "scan.ronchi"
            harness.until(lambda: process.poll() is not None or _is_complete(out), DEADLINE_S, where)
            is_refused = process.poll() is not None
            status = {} if is_refused else receivers.status(port, DEADLINE_S)
            method = status.get("write_method", "")
            if is_refused:
                problems = _judge_refusal(process, out)
            else:
                pool_bytes = status["pool"]["total"] * status["pool"]["slot_bytes"]
                fits = bool(abilities) or memlock == resource.RLIM_INFINITY or memlock > pool_bytes
                problems = _judge_recording(process, port, (method, fits), out, truth)
    has_fired = is_refused or bool(abilities) or not method.startswith(BEST)
    tally.saw(has_fired, [f"{where}: {problem}" for problem in problems])
    tally.count("refused at start" if is_refused else "complete")
    tally.count("with unregistered buffers", int("unregistered" in method))
    tally.count("with registered buffers", int(method.startswith(BEST)))


def _is_complete(out):
    return out.is_dir() and (out / "zarr.json").exists() and DataSet(out).manifest()["state"] != "running"


def _judge_refusal(process, out):
    says_why = re.search(r"ronchi: \d+ file descriptors are needed, \d+ are allowed", process.stderr())
    if process.returncode == 2 and says_why and not out.exists():
        return []
    return [f"not refused well\n{process.log()}"]


def _judge_recording(process, port, how, out, truth):
    problems, (method, fits) = [], how
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE_S) as answer:
        if f'ronchi_write_method{{method="{method}"}} 1' not in answer.read().decode():
            problems.append("the metric does not tell how frames are written")
    is_best = method.startswith(BEST)
    if is_best != fits:
        problems.append(f"{method}, although the pool {'may' if fits else 'may not'} be locked")
    warnings = process.stderr().count("slower way")
    if warnings != (not is_best):
        problems.append(f"{warnings} warnings\n{process.log()}")
    process.signal(signal.SIGTERM)
    if process.wait(DEADLINE_S) != 0:
        problems.append(f"exit code {process.returncode}\n{process.log()}")
    return problems + check_ended(out, [truth], {(out.name, None): truth.count}, ["complete"])


def quota(folder, rng, tally, count):
    """F5: a disk quota (EDQUOT, of a btrfs subvolume) that is used up in mid recording."""
    with disk("btrfs", folder) as made:
        _run("btrfs", "quota", "enable", made.path)
        for number in range(count):
            volume = made.path / f"quota-{number}"
            _run("btrfs", "subvolume", "create", volume)
            _run("btrfs", "qgroup", "limit", f"{QUOTA_MIB}M", volume)
            _exceed_quota(volume, rng, tally, number)
            _run("btrfs", "subvolume", "delete", "--commit-after", volume)


def _exceed_quota(volume, rng, tally, number):
    """Rows of one frame make segments of 200 frames: many of them, until the quota is used up."""
    truth = Truth(rng, SHAPE, 8000)
    sender = TileSender(truth, detector=SHAPE, origin=(0, 0), rate_hz=1e9, scan=[truth.count, 1])
    out = volume / "data" / "scan.ronchi"
    with receivers.serving(volume, receivers.tile_links([sender])) as process, sender:
        harness.until(lambda: _is_complete(out), DEADLINE_S, "end", alive=process)
        process.signal(signal.SIGTERM)
        code = process.wait(DEADLINE_S)
        summary = json.loads(process.stdout().splitlines()[-1])
        log = process.log()
    problems = []
    durable, refused = summary["frames"]["durable"], summary["law"][0]["gaps"].get("write_failed", 0)
    if not summary["law"][0]["holds"] or summary["state"] != "failed" or code != 1:
        problems.append(f"exit code {code}, {summary}")
    if durable + refused != truth.count:
        problems.append(f"{durable} durable and {refused} refused of {truth.count}")
    problems += check_present(out, None, truth) + verify(out, True)
    if int((DataSet(out).raw_flags() == 0).sum()) != durable:
        problems.append("flags and summary differ")
    has_fired = refused > 0 and durable > 0 and "quota" in log.lower()
    tally.saw(has_fired, [f"quota {number}: {problem}" for problem in problems])
    tally.count("durable frames", durable)
    tally.count("refused frames", refused)


def without_uring(folder, rng, tally, count):
    """F21: kills, and a quarter as many stops, where io_uring is forbidden: `pwrite` threads, the same promises."""
    stop_count = -(-count // 10)
    kill_count = -(-count // 2) - stop_count
    for error in ("EPERM", "ENOSYS"):
        sub = folder / error
        sub.mkdir()
        launcher = receivers.denied(f"io_uring={error}")
        _whole_recording(sub, rng, tally, launcher, error)
        with contextlib.ExitStack() as stack:
            campaign = kills.Campaign(sub, rng, stack)
            campaign.start_simulators()
            for number in range(kill_count):
                tally.attempt(campaign.kill_once, tally, number, launcher)
        again = sub / "stops"
        again.mkdir()
        stops.run(again, rng, tally, stop_count, launcher)


def _whole_recording(folder, rng, tally, launcher, error):
    truth, port = Truth(rng, SHAPE, 2000), harness.free_port()
    out = folder / "data" / "scan.ronchi"
    with TileSender(truth, detector=SHAPE, origin=(0, 0), rate_hz=1e9) as sender:
        with receivers.serving(folder, receivers.tile_links([sender]), launcher=launcher, http=port) as process:
            harness.until(lambda: _is_complete(out), DEADLINE_S, "end", alive=process)
            method = receivers.status(port, DEADLINE_S)["write_method"]
            warnings = process.stderr().count("slower way")
    problems = check_ended(out, [truth], {(out.name, None): truth.count}, ["complete"])
    if "pwrite threads" not in method or "no io_uring" not in method or warnings != 1:
        problems.append(f"{warnings} warnings, {method}")
    tally.saw(True, [f"{error}: {problem}" for problem in problems])


def suite(files):
    """F21: the end-to-end tests in these files, run with a binary to which io_uring is forbidden."""
    return lambda folder, _rng, tally, _count: _run_suite(folder, tally, files)


def _run_suite(folder, tally, files):
    wrapper = folder / "ronchi"
    command = [*receivers.denied("io_uring=EPERM"), harness.ronchi_binary().resolve()]
    wrapper.write_text("#!/bin/sh\nexec " + " ".join(map(str, command)) + ' "$@"\n')
    wrapper.chmod(0o755)
    tests = harness.PROJECT / "tests" / "python"
    pytest = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", *(tests / name for name in files)]
    done = subprocess.run(pytest, env={**os.environ, "RONCHI_BIN": str(wrapper)}, capture_output=True, text=True)
    passed = re.search(r"(\d+) passed", done.stdout)
    for _ in range(int(passed.group(1)) if passed else 0):
        tally.saw(True, [])
    if done.returncode != 0:
        tally.saw(False, [done.stdout[-2000:]])


def _run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
