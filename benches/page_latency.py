"""How long a row of a scan takes from the detector to the page: `ronchi serve`, its simulator and Chromium on one clock.

The simulator stamps each frame with the wall-clock time right before it sends it; the recording keeps that stamp in its
frame table. In the page, the time is taken when the screen image after the one is due in which the pane of the ring drew
all pixels of the row (`data-measured`, then one animation frame): the row is in what the browser hands to the screen by
then. A row's latency is that time minus the stamp of its last frame. Rows that come together count each. Frames that the
live queue skips are filled in later and delay the rows behind them: they are counted with them, and told (`skipped`).

Bytes are those that the page received over its WebSocket, per second of the scan, and in the worst second of it.

    .venv/bin/python benches/page_latency.py [--rate 5000] [--detector 128] [--rows 256] [--columns 256] [--directory DIR]

Prints one JSON line. `RONCHI_BIN` is the binary, else the release build.
"""

import argparse
import json
import pathlib
import sys
import tempfile

import numpy as np

PROJECT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "tests" / "python"))

import harness  # noqa: E402
import viewing  # noqa: E402
from dataset import DataSet  # noqa: E402

CONFIG = """
[data]
directory = "{folder}"
name = "page"
reserve_gib = 0
[[link]]
source = "merlin://127.0.0.1:{data_port}"
[[virtual]]
name = "ring"
kind = "ring"
centre = [{centre}, {centre}]
inner = {inner}
outer = {outer}
[reduce]
com = true
sum = true
[live]
http = "127.0.0.1:{http_port}"
"""
# Runs in the page before its own script. `drawn`: [ms since 1970, positions shown]; `received`: [ms, bytes].
WATCH = """
window.bench = { drawn: [], received: [] };
const Plain = window.WebSocket;
window.WebSocket = class extends Plain {
  constructor(...options) {
    super(...options);
    this.addEventListener("message", ({ data }) => bench.received.push([Date.now(), data.byteLength ?? data.length]));
  }
};
new MutationObserver(() => {
  const pane = document.querySelector('.tiles .pane[data-name="ring"]');
  const measured = Number(pane?.dataset.measured ?? 0);
  if (measured === (bench.drawn.at(-1)?.[1] ?? 0)) return;
  const entry = [Infinity, measured];
  bench.drawn.push(entry);
  requestAnimationFrame(() => (entry[0] = Date.now()));
}).observe(document, { subtree: true, attributes: true, attributeFilter: ["data-measured"] });
"""


def main():
    options = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="page-", dir=options.directory) as folder:
        print(json.dumps(measure(options, pathlib.Path(folder).resolve())))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=5000, help="frames per second (5000)")
    parser.add_argument("--detector", type=int, default=128, help="side of the detector, px (128)")
    parser.add_argument("--rows", type=int, default=256, help="scan rows (256)")
    parser.add_argument("--columns", type=int, default=256, help="positions of a row (256)")
    parser.add_argument("--directory", help="where the recording goes, for the time of the run")
    return parser.parse_args()


def measure(options, folder):
    """The report of one scan that one page looks at."""
    ports = harness.free_port(), harness.free_port(), harness.free_port()
    side, scan = options.detector, (options.rows, options.columns)
    config = folder / "page.toml"
    rings = {"centre": side / 2, "inner": side / 4, "outer": side * 0.45}
    config.write_text(CONFIG.format(folder=folder, data_port=ports[0], http_port=ports[2], **rings))
    url = f"http://127.0.0.1:{ports[2]}"
    simulate = ["simulate", "merlin", "--trigger", "now", "--dtype", "u16", "--detector", f"{side}x{side}", "--rate", options.rate]
    simulate += ["--scan", f"{scan[0]}x{scan[1]}", "--data-port", ports[0], "--control-port", ports[1]]
    with harness.Process([harness.ronchi_binary(), "serve", "--config", config]) as receiver, viewing.browser() as chromium:
        harness.until(lambda: harness.is_listening(ports[2]), 30, "HTTP listens", receiver)
        page = chromium.new_context(viewport={"width": 1366, "height": 768}).new_page()
        page.add_init_script(WATCH)
        page.goto(url)
        page.wait_for_selector("#grid")
        with harness.Process([harness.ronchi_binary(), *simulate]) as simulator:
            status = wait_for_end(page, url, receiver, simulator, scan[0] * scan[1])
        seen = page.evaluate("window.bench")
        harness.terminate(receiver, 60)
    sent_ms = DataSet(next(folder.glob("page*.ronchi"))).array("frame_table/time_ns").astype(float) / 1e6
    return report(options, seen, sent_ms, status)


def wait_for_end(page, url, receiver, simulator, frame_count):
    """The status of the receiver when its scan is over and the page shows all of it."""

    def ended():
        page.wait_for_timeout(500)
        status = page.request.get(f"{url}/api/v1/status").json()
        newest = (status["acquisitions"] or [{"state": "none"}])[0]
        shown = page.evaluate("bench.drawn.at(-1)?.[1] ?? 0")
        return status if newest["state"] in ("complete", "interrupted", "failed") and shown == frame_count else None

    return harness.until(ended, 600, "the page shows the whole scan", receiver)


def report(options, seen, sent_ms, status):
    """Latencies by the row, and bytes by the second."""
    drawn = np.array([entry for entry in seen["drawn"] if entry[0] is not None and np.isfinite(entry[0])])
    last = np.arange(1, options.rows + 1) * options.columns
    # The first time at which as many positions are shown as the row and all before it have.
    shown = np.searchsorted(np.maximum.accumulate(drawn[:, 1]), last)
    latency_ms = drawn[shown, 0] - sent_ms[last - 1]
    begin, end = sent_ms[0], sent_ms[-1] + 1000
    received = np.array([entry for entry in seen["received"] if begin <= entry[0] <= end])
    seconds = np.bincount(((received[:, 0] - begin) // 1000).astype(int), received[:, 1])
    return {
        "case": "page latency",
        "rate": options.rate,
        "rate_sent": round((len(sent_ms) - 1) / (sent_ms[-1] - sent_ms[0]) * 1000, 1),
        "detector": [options.detector] * 2,
        "scan": [options.rows, options.columns],
        "rows": options.rows,
        "pictures": len(drawn),
        "skipped": sum(link["live_skipped_frames"] for link in status["links"]),
        "ms": {f"p{q:g}": round(float(np.percentile(latency_ms, q)), 1) for q in (1, 10, 50, 90, 99)}
        | {"max": round(float(latency_ms.max()), 1)},
        "bytes_per_second": {"mean": round(received[:, 1].sum() / (end - begin) * 1000), "worst": int(seconds.max())},
        "browser": "Chromium, headless, WebGL in software",
    }


if __name__ == "__main__":
    reason = viewing.missing_browser()
    if reason:
        sys.exit(reason)
    main()
