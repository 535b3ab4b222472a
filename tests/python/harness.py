"""Runs `ronchi`, its simulator and LiberTEM-live's simulator as processes, with deadlines and without fixed ports."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

PROJECT = pathlib.Path(__file__).resolve().parents[2]
POLL_S = 0.005


def until(condition, deadline_s, what, alive=None):
    """Polls `condition` until it returns something true; fails after `deadline_s`, or when process `alive` has ended."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if alive is not None and alive.poll() is not None:
            raise AssertionError(f"{what}: process ended with {alive.returncode}\n{alive.log()}")
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {deadline_s} s\n{alive.log() if alive else ''}")
        time.sleep(POLL_S)


def free_port():
    """A TCP port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_listening(port):
    """Whether something listens on the port; looks at the kernel's table, because connecting would disturb a simulator."""
    suffix = f":{port:04X}"
    lines = pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return any(f[1].endswith(suffix) and f[3] == "0A" for f in fields)


class Process:
    """A child whose output goes to files and which never outlives its `with` block."""

    def __init__(self, command, **kwargs):
        self.command = [str(part) for part in command]
        self._out = tempfile.TemporaryFile()
        self._err = tempfile.TemporaryFile()
        self._child = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=self._out, stderr=self._err, **kwargs
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.poll() is None:
            self._child.kill()
        self._child.wait()
        self._out.close()
        self._err.close()

    @property
    def returncode(self):
        return self._child.returncode

    @property
    def pid(self):
        return self._child.pid

    def poll(self):
        return self._child.poll()

    def signal(self, number):
        self._child.send_signal(number)

    def kill(self):
        """SIGKILL, and waits until the process is gone."""
        self._child.kill()
        self._child.wait()

    def wait(self, deadline_s):
        """Exit status, or a failure with everything the process printed."""
        try:
            return self._child.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end within {deadline_s} s: {self.log()}") from None

    def stdout(self):
        return _contents(self._out)

    def stderr(self):
        return _contents(self._err)

    def log(self):
        return f"$ {' '.join(self.command)}\n{self.stdout()[-4000:]}\n{self.stderr()[-4000:]}"


def _contents(file):
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode(errors="replace")


def ronchi_binary():
    """The binary under test: `RONCHI_BIN`, or the release build."""
    return pathlib.Path(os.environ.get("RONCHI_BIN", PROJECT / "target" / "release" / "ronchi"))


def ronchi(*arguments, deadline_s=60, cwd=None):
    """Runs `ronchi` to its end: `(exit status, stdout, stderr)`."""
    with Process([ronchi_binary(), *arguments], cwd=cwd) as process:
        process.wait(deadline_s)
        return process.returncode, process.stdout(), process.stderr()


class Detector:
    """A running simulator: its process and ports."""

    def __init__(self, process, data_port, control_port):
        self.process = process
        self.data_port = data_port
        self.control_port = control_port

    @property
    def record_arguments(self):
        """What `ronchi record` needs to arm and trigger it."""
        address = f"merlin://127.0.0.1:{self.data_port}"
        return [address, "--arm", "--control-port", self.control_port, "--trigger", "soft"]


class LiberTemDetector(Detector):
    """LiberTEM-live's simulator, which serves one data client after the other.

    It notices only after some 0.2 s that a client has left, and an arming command that comes earlier is lost.
    """

    def _clients(self):
        log = self.process.stderr()
        return log.count("DataSocketServer: accepted from"), log.count("DataSocketServer: handling done")

    def wait_until_idle(self):
        """Until the previous client has been seen to leave."""
        until(lambda: len(set(self._clients())) == 1, 10, "simulator is idle", alive=self.process)

    def wait_for_client(self):
        """Until a client is being served."""
        until(lambda: len(set(self._clients())) == 2, 10, "simulator has a client", alive=self.process)


@contextlib.contextmanager
def own_simulator(*arguments, rate=0):
    """`ronchi simulate merlin` that waits for arming and trigger; `rate` in frames per second, 0 for full speed."""
    ports = free_port(), free_port()
    command = [ronchi_binary(), "simulate", "merlin", "--data-port", ports[0], "--control-port", ports[1]]
    with Process([*command, "--trigger", "wait", "--rate", rate, *arguments]) as process:
        until(lambda: all(map(is_listening, ports)), 30, "simulator listens", alive=process)
        yield Detector(process, *ports)


@contextlib.contextmanager
def libertem_simulator(hdr, *arguments):
    """LiberTEM-live's Merlin simulator on ports of its own choice, waiting for arming and trigger."""
    program = pathlib.Path(sys.executable).with_name("libertem-live-mib-sim")
    command = [program, hdr, "--host", "127.0.0.1", "--wait-trigger", *arguments]
    ports = [part for name in ("data", "control", "trigger") for part in (f"--{name}-port", "0")]
    with Process([*command, *ports]) as process:

        def port_of(server):
            found = re.search(rf"{server} listening \('127.0.0.1', (\d+)\)", process.stderr())
            return found and int(found.group(1))

        data, control = (
            until(lambda: port_of(server), 60, f"{server} of libertem-live-mib-sim", alive=process)
            for server in ("DataSocketServer", "ControlSocketServer")
        )
        yield LiberTemDetector(process, data, control)


def recording(detector, out, *arguments, cwd=None):
    """Starts `ronchi record` of one series into `out`; `--json` is set, and no disk is too full for a test."""
    own = ["--out", out, "--json", *([] if "--reserve-gib" in arguments else ["--reserve-gib", 0])]
    command = [ronchi_binary(), "record", *detector.record_arguments, *own, *arguments]
    return Process(command, cwd=cwd)


def report(process):
    """The final JSON line of a finished `ronchi record --json`."""
    lines = process.stdout().strip().splitlines()
    assert lines, f"nothing printed\n{process.log()}"
    return json.loads(lines[-1])


def record(detector, out, *arguments, deadline_s=60):
    """Records one series that must be complete; returns its report."""
    with recording(detector, out, *arguments) as process:
        assert process.wait(deadline_s) == 0, process.log()
        return report(process)


def terminate(process, deadline_s=10):
    """SIGTERM, then the exit status."""
    process.signal(signal.SIGTERM)
    return process.wait(deadline_s)
