"""A receiver to look at: `ronchi serve` with its simulator, requests to its API, and a browser for its page."""

import contextlib
import io
import json
import pathlib
import shutil
import urllib.request

import numpy as np

import harness

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SIGNAL = (64, 64)
OFFERED = ("/api/v1/me", "/api/v1/recording", "/api/v1/datasets")
CONFIG = """
[data]
directory = "{folder}"
name = "seen"
reserve_gib = 0
[[link]]
source = "merlin://127.0.0.1:{data_port}"
[[virtual]]
name = "bf"
kind = "disk"
centre = [32, 32]
radius = 10
[[virtual]]
name = "adf"
kind = "ring"
centre = [32, 32]
inner = 14
outer = 30
[reduce]
com = true
sum = true
[live]
http = "127.0.0.1:{http_port}"
"""


class Receiver:
    """A running `ronchi serve`, restartable on the same port."""

    def __init__(self, folder, data_port, live=""):
        self.folder = folder
        self.port = harness.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._config = folder / "seen.toml"
        self._config.write_text(CONFIG.format(folder=folder, data_port=data_port, http_port=self.port) + live)
        self.process = None

    def start(self):
        self.process = harness.Process([harness.ronchi_binary(), "serve", "--config", self._config])
        harness.until(lambda: harness.is_listening(self.port), 30, "HTTP listens", alive=self.process)

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return answer.read()

    def array(self, path):
        return np.load(io.BytesIO(self.get(path)))

    def image(self, name):
        return self.array(f"/api/v1/acq/latest/result/{name}.npy")

    def reduction(self, name):
        """The reduction of this name in force, or nothing."""
        return next((entry for entry in json.loads(self.get("/api/v1/reductions")) if entry["name"] == name), None)

    def current(self):
        """The newest acquisition, or an empty one."""
        return (json.loads(self.get("/api/v1/status"))["acquisitions"] or [{"state": "none", "visible": 0}])[0]

    def wait_for_state(self, *states, deadline_s=60):
        harness.until(lambda: self.current()["state"] in states, deadline_s, f"one of {states}", alive=self.process)


@contextlib.contextmanager
def simulator(scan, rate, *arguments):
    """A detector that sends scans as soon as somebody connects: its data port. One scan, unless `--runs` says more."""
    ports = harness.free_port(), harness.free_port()
    command = [harness.ronchi_binary(), "simulate", "merlin", "--trigger", "now", "--specimen", "particles"]
    shape = ["--scan", "x".join(map(str, scan)), "--detector", "x".join(map(str, SIGNAL)), "--rate", rate]
    with harness.Process([*command, *shape, "--data-port", ports[0], "--control-port", ports[1], *arguments]) as process:
        harness.until(lambda: harness.is_listening(ports[0]), 60, "simulator listens", alive=process)
        yield ports[0]


@contextlib.contextmanager
def receiver(folder, data_port, live=""):
    """A receiver of this detector, which ends with the block; `live` is more of its `[live]`."""
    site = Receiver(folder, data_port, live)
    site.start()
    try:
        yield site
    finally:
        with site.process:
            harness.terminate(site.process)


def checksum(values):
    """What the page puts into `data-checksum`: FNV-1a over the bits of all values in single precision."""
    bits = np.ascontiguousarray(values, "<f4")
    bits = np.where(np.isnan(bits), np.uint32(0x7FC00000), bits.view("<u4"))
    value = 0x811C9DC5
    for bit in bits.ravel().tolist():
        value = ((value ^ bit) * 0x01000193) & 0xFFFFFFFF
    return f"{value:08x}"


@contextlib.contextmanager
def browser():
    """Headless Chromium, with WebGL2 in software."""
    from playwright.sync_api import sync_playwright

    graphics = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *graphics])
        yield chromium
        chromium.close()


class Page:
    """The page of a receiver at 1366x768; whatever goes wrong in it fails the test."""

    def __init__(self, chromium, url, can_lose_contact=False, routes=None):
        self.context = chromium.new_context(viewport={"width": 1366, "height": 768})
        self.page = self.context.new_page()
        for path, answer in (routes or {}).items():
            self.page.route(path, answer)
        self.page.set_default_timeout(30_000)
        self.errors = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        if not can_lose_contact:
            self.page.on("console", self._hear)
        self.page.goto(url)

    def _hear(self, message):
        # What a receiver does not offer is asked for once, and Chromium tells of that.
        is_offer = message.text.endswith("404 (Not Found)") and message.location["url"].endswith(OFFERED)
        if message.type == "error" and not is_offer:
            self.errors.append(message.text)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.context.close()
        if kind is None:
            assert self.errors == [], self.errors

    def data(self, name, key):
        """A `data-` attribute of the pane of this image, or of the pattern (`diffraction`)."""
        selector = "#left .pane" if name == "diffraction" else f'.tiles .pane[data-name="{name}"]'
        element = self.page.query_selector(selector)
        return element and element.get_attribute(f"data-{key}")

    def measured(self, name):
        return int(self.data(name, "measured") or 0)

    def drag(self, handle, dx, dy):
        """Grabs a handle of a detector and moves it by so many pixels of the screen."""
        element = self.page.locator(f'[data-handle="{handle}"]')
        boxes = []  # It may be drawn anew while it is measured.
        self.until(lambda: boxes.append(element.count() == 1 and element.bounding_box()) or boxes[-1], f"the handle {handle}")
        box = boxes[-1]
        assert box["width"] >= 10 and box["height"] >= 10, "large enough to be grabbed"
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + dx, y + dy, steps=4)
        self.page.mouse.up()

    def keep(self, name, kind, folder):
        """Saves a pane as a file of this kind: its path."""
        pane = "#left .pane" if name == "diffraction" else f'.tiles .pane[data-name="{name}"]'
        with self.page.expect_download() as download:
            self.page.locator(f"{pane} .save").select_option(kind)
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        return path

    def text(self, selector):
        return self.page.inner_text(selector)

    def until(self, condition, what, deadline_s=40):
        harness.until(lambda: condition() or self.page.wait_for_timeout(50), deadline_s, what)


def missing_browser():
    """Why no page can be looked at here, if so."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "playwright is missing (./setup.sh installs it)"
    return None if CHROMIUM and pathlib.Path(CHROMIUM).exists() else "Chromium is missing (./setup.sh installs it)"
