"""What is in `deploy/`, with the real Prometheus: rules are right, every alert fires in a run that provokes it and in no
other, and every expression of the dashboard finds data."""

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

import harness
from faults import receivers
from faults.senders import TileSender, Truth

DEPLOY = harness.PROJECT / "deploy"
RULES = DEPLOY / "prometheus" / "ronchi.rules.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "ronchi.json"
SHAPE = (64, 64)
SERVES_WITHIN_S = 20
FIRES_WITHIN_S = 60
# No run can provoke it: only a bug would. `promtool test rules` shows that it fires.
ONLY_BY_A_BUG = {"RonchiLawViolated"}

WITHOUT_PROMETHEUS = (
    None if shutil.which("prometheus") and shutil.which("promtool") else "prometheus is missing (./setup.sh installs it)"
)


def _get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


class Prometheus(harness.Process):
    """A Prometheus that scrapes these ports every second and evaluates our rules, in a hurry: without their waiting times,
    and with rates of 5 s instead of minutes."""

    def __init__(self, folder, ports):
        rules = [line for line in RULES.read_text().splitlines() if not line.strip().startswith("for: ")]
        (folder / "ronchi.rules.yml").write_text(re.sub(r"\[\d+m\]", "[5s]", "\n".join(rules)))
        config = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
        config = config.replace("5s", "1s").replace('"127.0.0.1:8600"', ", ".join(f'"127.0.0.1:{port}"' for port in ports))
        (folder / "prometheus.yml").write_text(config)
        self.port = harness.free_port()
        command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}"]
        super().__init__([*command, f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"])

    def query(self, expression):
        """What an expression gives now: a list of `{"metric", "value"}`."""
        query = urllib.parse.urlencode({"query": expression})
        return _get(f"http://127.0.0.1:{self.port}/api/v1/query?{query}")["data"]["result"]

    def firing(self):
        """`(alert, port)` of all alerts that fire."""
        alerts = _get(f"http://127.0.0.1:{self.port}/api/v1/alerts")["data"]["alerts"]
        labels = (alert["labels"] for alert in alerts if alert["state"] == "firing")
        return {(label["alertname"], int(label["instance"].rsplit(":", 1)[1])) for label in labels}

    def is_up(self):
        """Whether it answers."""
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=1).status == 200
        except OSError:
            return False


def test_rules_and_configuration_are_right(needs):
    needs(WITHOUT_PROMETHEUS)
    checks = (
        ["check", "config", DEPLOY / "prometheus" / "prometheus.yml"],
        ["check", "rules", RULES],
        ["test", "rules", DEPLOY / "prometheus" / "ronchi.rules.test.yml"],
    )
    for check in checks:
        done = subprocess.run(["promtool", *check], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_what_grafana_expects():
    """Read and written again by the types of Grafana's own SDK, nothing of it is lost."""
    register_default_plugins()
    dashboard = json.loads(DASHBOARD.read_text())
    again = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))

    def lost(ours, theirs, path):
        if isinstance(ours, dict):
            for key, value in ours.items():
                yield from lost(value, theirs.get(key) if isinstance(theirs, dict) else None, f"{path}.{key}")
        elif isinstance(ours, list):
            assert isinstance(theirs, list) and len(ours) == len(theirs), path
            for at, (value, other) in enumerate(zip(ours, theirs, strict=True)):
                yield from lost(value, other, f"{path}[{at}]")
        elif ours != theirs:
            yield f"{path}: {ours!r} became {theirs!r}"

    assert list(lost(dashboard, again, "dashboard")) == []
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(places)) == len(places) and all(p["targets"] for p in panels)


class Stage:
    """Receivers of one run; the detectors begin together, when the gate opens."""

    def __init__(self, folder, stack):
        self.folder, self.stack = folder, stack
        self.rng, self.gate = random.Random(7), threading.Event()
        self.ports = {}

    def sender(self, frames, rate_hz, *, lost_share=0.0, gate=None):
        """A detector of one tile."""
        truth = Truth(self.rng, SHAPE, frames, lost_share)
        gate = gate or self.gate
        sender = TileSender(truth, detector=SHAPE, origin=(0, 0), rate_hz=rate_hz, scan=[frames // 100, 100], gate=gate)
        return self.stack.enter_context(sender)

    def receiver(self, name, sender, *, launcher=(), change=lambda text: text, **settings):
        """A receiver, known by its name; `change` is applied to its configuration."""
        folder, port = self.folder / name, harness.free_port()
        (folder / "data").mkdir(parents=True)
        settings = {**receivers.SMALL, "http": port, **settings}
        links = receivers.tile_links([sender])
        config = folder / "receiver.toml"
        config.write_text(change(receivers.configuration(folder / "data", links, **settings)))
        process = self.stack.enter_context(
            harness.Process([*launcher, harness.ronchi_binary(), "serve", "--config", config, "--json"])
        )
        self.ports[name] = port
        harness.until(lambda: receivers.status(port), SERVES_WITHIN_S, f"{name} serves", process)
        return process


def _heavy_preview(text):
    """Nothing is recorded, and every frame takes a millisecond or so."""
    fourier = '[[reduction]]\nkind = "fourier"\ncentre = [32, 32]\ninner = 0\nouter = 31\nbins = 31\norders = 16\n'
    return text.replace("reserve_gib = 0", "record = false") + fourier


def _reserve(gib):
    return lambda text: text.replace("reserve_gib = 0", f"reserve_gib = {gib}")


def _nearly_all(folder):
    """A reserve that leaves 8 GB."""
    disk = os.statvfs(folder)
    return _reserve(round((disk.f_bavail * disk.f_frsize - 8e9) / (1 << 30), 3))


# A disk that others use may take seconds, and the rule's own half minute of patience is not waited for here.
BUSY_DISK = {"RonchiReceiverWaits"}
# What must fire at each receiver, and what may besides.
EXPECTED = {
    "quiet": (set(), BUSY_DISK),
    "lossy": ({"RonchiFramesMissing"}, BUSY_DISK),
    "lost": ({"RonchiDetectorLost"}, {"RonchiFramesMissing", *BUSY_DISK}),
    "gone": ({"RonchiDown"}, BUSY_DISK),
    "failing": ({"RonchiFramesNotKept", "RonchiAcquisitionFailed"}, set()),
    "full": ({"RonchiDiskFull", "RonchiVolumeFull"}, set()),
    "busy": ({"RonchiDiskSoonFull"}, BUSY_DISK),
    "preview": ({"RonchiNotRecording", "RonchiReceiverWaits"}, set()),
    "fallen": ({"RonchiStageFallen"}, BUSY_DISK),
    "slow": ({"RonchiSlowWrites"}, set()),
    "scanned": ({"RonchiHttpRefused"}, set()),
}


def test_alerts_fire_when_they_should_and_the_dashboard_has_data(folder, needs):
    needs(WITHOUT_PROMETHEUS)
    alerts = {line.split(":")[1].strip() for line in RULES.read_text().splitlines() if "- alert:" in line}
    assert set.union(*(must for must, _ in EXPECTED.values())) == alerts - ONLY_BY_A_BUG
    with contextlib.ExitStack() as stack:
        stage = Stage(folder, stack)
        stage.receiver("quiet", stage.sender(3000, 500), zmq=harness.free_port())
        stage.receiver("lossy", stage.sender(2000, 500, lost_share=0.05))
        lost = stage.sender(1_000_000, 500)
        stage.receiver("lost", lost)
        gone = stage.receiver("gone", stage.sender(1_000_000, 100))
        stage.receiver("failing", stage.sender(1000, 500), launcher=["prlimit", f"--fsize={1 << 20}"])
        (folder / "volume").mkdir()
        never = stage.sender(1000, 500, gate=threading.Event())
        stage.receiver("full", never, change=_reserve(1 << 20), volumes=[folder / "volume"])
        stage.receiver("busy", stage.sender(100_000, 1000), change=_nearly_all(folder))
        stage.receiver("preview", stage.sender(20_000, 20_000), change=_heavy_preview)
        stage.receiver("fallen", stage.sender(400_000, 500), launcher=["env", "RONCHI_PANIC=reduce:3"])
        stage.receiver("slow", never, launcher=receivers.denied("io_uring=EPERM"))
        stage.receiver("scanned", never)
        may = {name: more | _slow_anyway(stage, name) for name, (_, more) in EXPECTED.items()}
        prometheus = stack.enter_context(Prometheus(folder, stage.ports.values()))
        harness.until(prometheus.is_up, SERVES_WITHIN_S, "Prometheus answers", prometheus)
        count = len(stage.ports)
        harness.until(lambda: len(prometheus.query("up == 1")) == count, SERVES_WITHIN_S, "all are scraped", prometheus)
        stage.gate.set()
        for _ in range(40):
            _ask_as_somebody_else(stage.ports["scanned"])
        harness.until(lambda: lost.sent > 500 and len(prometheus.query("up")) == count, SERVES_WITHIN_S, "it sends")
        lost.__exit__()
        gone.kill()

        seen = {name: set() for name in stage.ports}
        names = {port: name for name, port in stage.ports.items()}

        def all_fire():
            for alert, port in prometheus.firing():
                seen[names[port]].add(alert)
            time.sleep(0.2)
            return all(must <= seen[name] for name, (must, _) in EXPECTED.items())

        try:
            harness.until(all_fire, FIRES_WITHIN_S, "alerts", prometheus)
        except AssertionError as error:
            missing = {name: must - seen[name] for name, (must, _) in EXPECTED.items() if not must <= seen[name]}
            raise AssertionError(f"do not fire: {missing}") from error
        too_many = {name: seen[name] - must - may[name] for name, (must, _) in EXPECTED.items()}
        assert not any(too_many.values()), too_many
        assert _without_data(prometheus) == []


def _slow_anyway(stage, name):
    """The machine may not let anybody write as fast as it could."""
    method = receivers.status(stage.ports[name])["write_method"]
    return set() if method.startswith("io_uring, registered buffers, O_DIRECT") else {"RonchiSlowWrites"}


def _ask_as_somebody_else(port):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=5)


def _without_data(prometheus):
    """Expressions of the dashboard that find nothing."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", [])]
    assert len(queries) > 20
    concrete = (
        (title, expression.replace("$instance", ".*").replace("$__rate_interval", "15s")) for title, expression in queries
    )
    return [f"{title}: {expression}" for title, expression in concrete if not prometheus.query(expression)]
