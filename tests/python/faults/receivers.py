"""`ronchi serve` as a fault needs it: any limits, any links, any disk, under a launcher that takes things away."""

import contextlib
import json
import sys
import urllib.request

import harness


def configuration(directory, links, *, detector=None, http=None, zmq=None, compress=None, volumes=(), **limits):
    """TOML of a receiver; `links` are `(source, region or None, control keys or None)`."""
    lines = ["[data]", f"directory = {json.dumps(str(directory))}", 'name = "scan"', "reserve_gib = 0"]
    if volumes:
        lines.append(f"volumes = {json.dumps([str(volume) for volume in volumes])}")
    if compress:
        lines.append(f"compress = {json.dumps(compress)}")
    if detector:
        lines += ["[detector]", f"shape = {list(detector)}"]
    for source, region, control in links:
        lines += ["[[link]]", f"source = {json.dumps(source)}"]
        if region:
            lines.append(f"region = {list(region)}")
        if control:
            lines += ["[link.control]"] + [f"{key} = {json.dumps(value)}" for key, value in control.items()]
    if http or zmq:
        lines.append("[live]")
    if http:
        lines.append(f'http = "127.0.0.1:{http}"')
    if zmq:
        lines.append(f'zmq = "tcp://127.0.0.1:{zmq}"')
    lines += ["[limits]"] + [f"{key} = {value}" for key, value in limits.items()]
    return "\n".join(lines) + "\n"


def denied(*refusals):
    """The launcher under which the kernel refuses system calls, e.g. `io_uring=EPERM`."""
    return [sys.executable, "-S", "-E", DENY, *refusals, "--"]


DENY = harness.PROJECT / "tests" / "python" / "faults" / "deny.py"
SMALL = {"block_mib": 1, "raw_queue_blocks": 4, "write_depth": 4, "live_queue_blocks": 4}


def tile_links(senders):
    """The links that listen to these senders."""
    region = (lambda sender: sender.region) if len(senders) > 1 else (lambda sender: None)
    return [(f"tiles://127.0.0.1:{sender.port}", region(sender), None) for sender in senders]


def merlin_link(detector, frames):
    """The link that arms and triggers a simulator for so many frames."""
    control = {"port": detector.control_port, "frames": frames, "trigger": "soft"}
    return [(f"merlin://127.0.0.1:{detector.data_port}", None, control)]


@contextlib.contextmanager
def serving(folder, links, *, launcher=(), **settings):
    """A receiver that records into `folder/data`; yields its process."""
    directory = folder / "data"
    directory.mkdir(exist_ok=True)
    config = folder / "receiver.toml"
    config.write_text(configuration(directory, links, **{**SMALL, **settings}))
    command = [*launcher, harness.ronchi_binary(), "serve", "--config", config, "--json"]
    with harness.Process(command) as process:
        yield process


def status(port, deadline_s=0.5):
    """`/api/v1/status`, or nothing while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/status", timeout=deadline_s) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return {}


def is_ready(process):
    """Whether the receiver has printed its plan."""
    return "memory    at most" in process.stderr()


def memory_bytes(process):
    """`(ceiling, largest resident size so far)`: what it printed, and what the kernel says."""
    line = next(line for line in process.stderr().splitlines() if line.startswith("memory    at most"))
    with open(f"/proc/{process.pid}/status") as file:
        peak = next(line for line in file if line.startswith("VmHWM:"))
    return int(line.split()[3]) << 20, int(peak.split()[1]) << 10
