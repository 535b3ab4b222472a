"""Attacks on the HTTP server and its WebSocket while a detector sends: nothing breaks, and not a frame is lost."""

import itertools
import json
import os
import re
import resource
import socket
import time

import pytest
import websockets
from websockets.sync.client import connect

import guarded
import harness
import viewing

RUNS, SCAN, RATE = 3, (48, 48), 600
MEMORY_GROWTH_MAX = 96 << 20


def traversals():
    """More than 200 names that lead elsewhere, where somebody lets them."""
    dots = ["..", "%2e%2e", "..%00", "%252e%252e", "..%c0%af", "....", ".%2e", "%uff0e%uff0e", "\\..", "~"]
    slashes = ["/", "%2f", "%5c", "%252f", "//", ";/", "%00/"]
    ends = ["etc/passwd", "proc/self/environ", "x"]
    return ["".join(parts) for parts in itertools.product(dots, slashes, ends)]


def slow_header(site):
    stream = socket.create_connection(("127.0.0.1", site.port), timeout=30)
    stream.sendall(b"GET /api/v1/status HTTP/1.1\r\nhost: loc")
    return stream


def refused(site):
    """Requests that are turned away: what is sent, and how it is answered."""
    post = ("POST", "/api/v1/recording")
    start = {"action": "start"}
    bomb = b"[" * 60_000
    return [
        (site.send, (b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1073741824\r\n\r\n" + b"x" * 65536,), 413),
        (site.send, (b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n",), 413),
        (site.send, (b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * (1 << 20) + b"\r\n\r\n",), 431),
        (site.send, (b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 5000 + b"\r\n",), 431),
        (site.send, (b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",), 431),
        (site.send, (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(64) + b"\r\n\r\n",), 400),
        (site.ask, ("GET", "/", None, None, ("host: evil.example",)), 403),
        (site.ask, ("GET", "/api/v1/status", site.read, None, ("host: 127.0.0.1.nip.io",)), 403),
        (site.ask, (*post, site.control, start, ("origin: http://evil.example",)), 403),
        (site.ask, (*post, site.control, start, ("origin: null",)), 403),
        (site.ask, (*post, site.control, bomb), 400),
        (site.ask, (*post, site.control, b'{"a":' * 40 + b"1" + b"}" * 40), 400),
        (site.ask, (*post, None, start), 401),
        (site.ask, (*post, "0" * 64, start), 401),
        (site.ask, (*post, site.read, start), 403),
        (site.ask, ("PUT", "/api/v1/reductions", site.control, [{"name": "a", "kind": "npy", "file": "/etc/passwd"}]), 422),
        (site.ask, ("PUT", "/api/v1/reductions", site.control, b'[{"name":"a","kind":"disk","cy":1e999}]'), 400),
    ]


def half_open(site, count):
    """Connections that say nothing, until all places are taken; the server turns the rest away and goes on."""
    streams = []
    try:
        for _ in range(count):
            streams.append(socket.create_connection(("127.0.0.1", site.port), timeout=10))
    finally:
        for stream in streams:
            stream.close()
    harness.until(lambda: site.ask("GET", "/healthz")[0] == 200, 30, "places come back", alive=site.process)


def foreign_websockets(site):
    address = f"ws://127.0.0.1:{site.port}/api/v1/live"
    with pytest.raises(websockets.InvalidStatus) as refused:
        connect(address, origin="http://evil.example")
    assert refused.value.response.status_code == 403
    for first in ['{"op": "sub", "topics": ["v1/"]}', '{"op": "auth", "token": "0"}', "[" * 10_000]:
        with connect(address) as stranger:
            stranger.send(first)
            with pytest.raises(websockets.ConnectionClosedError) as closed:
                stranger.recv(timeout=30)
            assert closed.value.rcvd.code == 1008
    with connect(address, additional_headers={"authorization": f"Bearer {site.read}"}) as large:
        with pytest.raises(websockets.ConnectionClosed):
            large.send("x" * (1 << 20))
            large.recv(timeout=30)


def test_attacks_cost_no_frame(folder):
    """Every attack is refused as it should be and counted; the receiver lives, stays as small as it was, and has recorded
    every frame.
    """
    with viewing.simulator(SCAN, RATE, "--runs", RUNS) as data_port, guarded.receiver(folder, data_port) as site:
        site.wait_for_state("running")
        before, refused_before = site.memory_bytes(), site.metric("http_refused_total")
        slow = [slow_header(site) for _ in range(20)]
        began = time.monotonic()
        for send, arguments, status in refused(site):
            answer, body = send(*arguments)
            assert answer == status, f"{arguments!r:.200}: {answer} {body!r:.200}"
        names = traversals()
        assert len(names) >= 200
        for name in names:
            for route in ("datasets", "acq/latest/result", "acq/latest/frame", "acq"):
                status, body = site.ask("GET", f"/api/v1/{route}/{name}", site.read)
                assert status in (400, 404) and not re.search(rb"root:|PATH=", body), f"{route}/{name}: {status}"
            time.sleep(0.01)  # Below the rate: it is the names that are tried here.
        for name in ["../up", "a/b", "..", ".", "", "con", "a" * 129, "a\x00b", "%2e%2e"]:
            status, _ = site.ask("POST", "/api/v1/recording", site.control, {"action": "start", "name": name})
            assert status in (409, 422), name
        foreign_websockets(site)
        half_open(site, min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200))
        for stream in slow:
            assert stream.recv(1 << 10)[:12] in (b"", b"HTTP/1.1 408"), "closed, with a word or without"
            stream.close()
        assert time.monotonic() - began > 9, "they were given their time"
        harness.until(
            lambda: len([d for d in json.loads(site.get("/api/v1/datasets")) if d["state"] == "complete"]) == RUNS,
            120,
            "all scans are recorded",
            alive=site.process,
        )
        for data_set in json.loads(site.get("/api/v1/datasets")):
            assert (data_set["frames"], data_set["gaps"]) == (SCAN[0] * SCAN[1], 0), data_set
        assert site.metric("http_refused_total") - refused_before > 500, "half-open connections and all others"
        assert site.metric("http_unauthorized_total") >= 2
        assert site.memory_bytes() - before < MEMORY_GROWTH_MAX


def test_guessing_is_slowed_down(folder):
    """Who tries tokens is soon told to wait, with 429; who has one is answered all the same."""
    with viewing.simulator((8, 8), RATE) as data_port, guarded.receiver(folder, data_port) as site:
        tries = (site.ask("GET", "/api/v1/status", "0" * 64)[0] for _ in range(1000))
        until_told = list(itertools.takewhile(lambda status: status != 429, tries))
        assert 10 <= len(until_told) < 1000 and set(until_told) == {401}
        assert site.ask("GET", "/api/v1/status", site.read)[0] == 200
