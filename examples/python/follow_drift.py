"""Keeps a ring on the pattern while the pattern drifts: a closed loop from the live centre of mass to the virtual detector.

Every few scan rows it takes the mean centre of mass of the newest ones, and when that has moved by more than a pixel it moves the
ring there; the receiver computes the new ring from that frame on, and of all earlier frames from disk. Start the receiver with
`--com` (for a few bright pixels around the pattern: `--reduce com=com:...`), then `python follow_drift.py --ring 40,90`. Instead
of moving a ring, the same loop could move the beam: `offset` is how far the pattern is from where it was.
"""

import argparse
import json
import os
import urllib.request

import numpy

from ronchi_live import Live


def ask(method, url, body=None):
    """The receiver's answer; with the token in RONCHI_TOKEN, where it asks for one."""
    headers = {"Content-Type": "application/json"}
    token = os.environ.get("RONCHI_TOKEN")
    if token:
        headers["Authorization"] = f"Bearer {token}"
    payload = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, payload, headers, method=method), timeout=5) as answer:
        return json.load(answer)


def set_ring(http, name, centre, inner, outer):
    """Asks the receiver for this ring beside everything else that it computes."""
    others = [entry for entry in ask("GET", f"{http}/api/v1/reductions") if entry["name"] != name]
    ring = {"name": name, "kind": "ring", "cy": centre[0], "cx": centre[1], "inner": inner, "outer": outer}
    ask("PUT", f"{http}/api/v1/reductions", [*others, ring])


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--ring", default="40,90", help="inner and outer radius, pixels")
    arguments.add_argument("--name", default="followed", help="what the ring is called")
    arguments.add_argument("--rows", type=int, default=4, help="scan rows of which the mean is taken")
    arguments.add_argument("--more-than", type=float, default=1.0, help="pixels of drift that are followed")
    arguments.add_argument("--live", default="tcp://127.0.0.1:8601")
    arguments.add_argument("--http", default="http://127.0.0.1:8600")
    asked = arguments.parse_args()
    inner, outer = (float(number) for number in asked.ring.split(","))

    live, start, centre, until = Live(asked.live), None, None, 0
    print("waiting for rows of `com`", flush=True)
    while live.state in (None, "waiting", "running"):
        live.update()
        com = live.images.get("com")
        whole = numpy.flatnonzero(numpy.isfinite(com).all(axis=(1, 2))) if com is not None else ()
        if len(whole) == 0 or whole[-1] + 1 < until + asked.rows:
            continue
        until = whole[-1] + 1
        newest = com[until - asked.rows : until]
        mean = numpy.nanmean(newest.reshape(-1, 2), axis=0)
        start = mean if start is None else start
        if centre is None or numpy.abs(mean - centre).max() > asked.more_than:
            centre = mean
            set_ring(asked.http, asked.name, [float(value) for value in centre], inner, outer)
            offset = centre - start
            print(f"row {until}: ring at {centre[0]:.1f}, {centre[1]:.1f}; drift {offset[0]:+.1f}, {offset[1]:+.1f} pixels", flush=True)
    live.close()


if __name__ == "__main__":
    main()
