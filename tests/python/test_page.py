"""The live view in a real browser, against the real receiver and its simulator. What panes show is compared by a checksum
of their numbers, not by pixels of the screen, which differ from one graphics driver to the next.
"""

import contextlib
import json
import os
import subprocess

import numpy as np
import pytest
import tifffile

import harness
import viewing


@pytest.fixture(scope="module")
def chromium():
    reason = viewing.missing_browser()
    if reason:
        yield reason
    else:
        with viewing.browser() as chromium:
            yield chromium


@pytest.fixture
def look(chromium, needs):
    """Opens the page of a receiver."""
    needs(chromium if isinstance(chromium, str) else None)
    return lambda site, **options: viewing.Page(chromium, site.url, **options)


def test_panes_fill_and_end_with_the_receivers_numbers(folder, look):
    """Every pane fills without ever losing a position, ends with the very numbers of the API, and a click on a position
    shows its frame.
    """
    with viewing.simulator((24, 32), 80) as data_port, viewing.receiver(folder, data_port) as site:
        with look(site) as page:
            seen = []
            page.until(lambda: seen.append(page.measured("bf")) or seen[-1] == 24 * 32, "the whole image")
            assert seen == sorted(seen) and len(set(seen)) > 3, seen
            site.wait_for_state("complete")
            page.until(lambda: "complete" in page.text("#state"), "the end of the scan")
            for name in ("bf", "adf"):
                wanted = viewing.checksum(site.image(name))
                page.until(lambda: page.data(name, "checksum") == wanted, f"the numbers of {name}")
            page.until(lambda: page.data("diffraction", "checksum") == viewing.checksum(site.image("sum")), "the sum")
            assert page.text("#health-lost strong") == "0 lost"
            pick_a_frame(site, page)


def pick_a_frame(site, page):
    """By a click, and from there with the keys."""
    stage = page.page.locator('.tiles .pane[data-name="bf"] .stage')
    box = stage.bounding_box()
    stage.click(position={"x": box["width"] * 10.5 / 32, "y": box["height"] * 7.5 / 24})

    def shows(y, x):
        wanted = viewing.checksum(site.array(f"/api/v1/acq/latest/frame/{y},{x}.npy"))
        page.until(lambda: page.data("diffraction", "checksum") == wanted, f"the frame at {y}, {x}")

    assert page.text('.sources button[aria-pressed="true"]') == "at 7, 10"
    shows(7, 10)
    page.page.keyboard.press("ArrowDown")
    page.page.keyboard.press("Shift+ArrowRight")
    shows(8, 20)


def test_a_dragged_ring_changes_the_image(folder, look):
    """The edge of a ring is dragged, then its centre nudged and its radius typed: the receiver computes that ring, and the
    pane ends with its image of the whole scan.
    """
    with viewing.simulator((32, 32), 70) as data_port, viewing.receiver(folder, data_port) as site:
        with look(site) as page:
            page.until(lambda: page.measured("adf") > 64, "the first rows")
            before = page.data("adf", "cfg")
            page.drag("adf/outer", -30, 0)
            field = page.page.locator('[data-name="adf"] input[data-key="outer"]')
            dragged = float(field.input_value())
            assert 14.5 < dragged < 30
            page.page.locator('[data-handle="adf/centre"]').focus()
            page.page.keyboard.press("ArrowRight")
            page.page.locator('[data-name="adf"] input[data-key="inner"]').fill("12")
            ring = lambda: site.reduction("adf")
            page.until(lambda: (ring()["cx"], ring()["inner"]) == (33, 12), "the ring in force")
            assert ring()["outer"] == pytest.approx(dragged)
            page.until(lambda: page.data("adf", "cfg") not in (None, before), "an image of the new ring")
            site.wait_for_state("complete")
            image = site.image("adf")
            assert not np.isnan(image).any()
            page.until(lambda: page.data("adf", "checksum") == viewing.checksum(image), "the numbers of the new ring")
            page.page.get_by_role("button", name="+ disk").click()
            page.until(lambda: site.reduction("disk1"), "a new disk")


def test_every_shape_can_be_grabbed(folder, look):
    """Sector, rectangle and point are added and dragged: the receiver computes what is drawn, and what the page reads in
    the sum of all frames is the sum of the image.
    """
    again = ("--runs", 0, "--pause-ms", 2000)
    with viewing.simulator((16, 16), 200, *again) as data_port, viewing.receiver(folder, data_port) as site:
        with look(site) as page:
            page.until(lambda: page.measured("adf") > 16, "the first rows")
            for kind in ("sector", "rectangle", "point"):
                page.page.get_by_role("button", name=f"+ {kind}").click()
            page.drag("sector1/to_deg", -60, -20)
            page.drag("sector1/outer", 20, 20)
            page.drag("rectangle1/y1x1", 40, 12)
            page.drag("rectangle1/centre", -25, 0)
            page.drag("point1/centre", 9, 14)
            page.page.keyboard.press("Shift+ArrowLeft")
            for name in ("sector1", "rectangle1", "point1"):
                typed = page.page.locator(f'.detector[data-name="{name}"] input[data-key]')
                shown = {field.get_attribute("data-key"): float(field.input_value()) for field in typed.all()}
                page.until(lambda: shown.items() <= site.reduction(name).items(), f"{name} in force")
                page.until(lambda: reads_as_computed(site, page, name), f"the numbers of {name}")
            assert site.reduction("point1")["radius"] == 0


def reads_as_computed(site, page, name):
    """Whether the page reads in the sum of all frames what the image of this detector adds up to."""
    if site.current()["state"] != "complete":
        return False
    image, read = site.image(name), page.text(f'.detector[data-name="{name}"] .value')
    is_shown = page.data(name, "checksum") == viewing.checksum(image)
    return is_shown and float(read) == pytest.approx(image.sum(), rel=1e-3)


def test_pictures_can_be_kept(folder, look):
    """A virtual image, the field of the centre of mass and the pattern as PNG and as TIFF: the numbers are the receiver's, the
    calibration is read by tifffile and, where it is there, by hyperspy's reader.
    """
    with viewing.simulator((16, 24), 200) as data_port, viewing.receiver(folder, data_port) as site, look(site) as page:
        site.wait_for_state("complete")
        page.page.get_by_label("scan step in nm").fill("0.25")
        page.page.get_by_label("camera in mrad/px").fill("1.5")
        page.until(lambda: page.measured("bf") == 16 * 24 and page.measured("com") == 16 * 24, "the images")
        assert_tiff(page.keep("bf", "tiff", folder), site.image("bf"), "nm", 0.25)
        assert_tiff(page.keep("com", "tiff", folder), np.moveaxis(site.image("com"), 2, 0), "nm", 0.25)
        assert_tiff(page.keep("diffraction", "tiff", folder), site.image("sum"), "mrad", 1.5)
        for name in ("bf", "com", "diffraction"):
            picture = page.keep(name, "png", folder).read_bytes()
            height, width = (int.from_bytes(picture[at : at + 4], "big") for at in (20, 16))
            assert picture.startswith(b"\x89PNG") and height > 500 and width > 700, "large enough to be printed"


def assert_tiff(path, wanted, unit, per_pixel):
    with tifffile.TiffFile(path) as file:
        assert np.array_equal(file.asarray(), wanted.astype("<f4"), equal_nan=True)
        assert file.is_imagej and file.imagej_metadata["unit"] == unit
        about = json.loads(file.imagej_metadata["ronchi"])
        assert about["name"].startswith("seen") and about["scan"] == [16, 24]
        dots, per = file.pages[0].tags["XResolution"].value
        assert per / dots == pytest.approx(per_pixel)
    try:
        from rsciio.tiff import file_reader
    except ImportError:
        return
    axes = file_reader(str(path))[0]["axes"]
    assert [(axis["units"], pytest.approx(axis["scale"])) for axis in axes[-2:]] == [(unit, per_pixel)] * 2


def test_recording_is_started_and_stopped(folder, look):
    """The button asks for what was typed; stopping is asked back once. Against a stand-in for the control API."""
    asked = []

    def answer(route, request):
        if request.method == "POST":
            asked.append(request.post_data_json)
            recording.update(recording=asked[-1]["action"] == "start", can=["stop" if asked[-1]["action"] == "start" else "start"])
        route.fulfill(json=recording)

    recording = {"recording": False, "can": ["start"], "name": "seen", "scan": None, "links": ["merlin"], "why_not": None}
    with viewing.receiver(folder, harness.free_port()) as site, look(site, routes={"**/api/v1/recording": answer}) as page:
        page.until(lambda: "next scan: not recorded" in page.text(".recorder"), "the state")
        page.page.get_by_label("name of the next recording").fill("gold")
        page.page.get_by_label("scan shape").fill("64")
        page.page.get_by_role("button", name="Record").click()
        page.until(lambda: "expected rows" in page.text("#banner-refused"), "why not")
        page.page.get_by_label("scan shape").fill("64 x 32")
        page.page.get_by_role("button", name="Record").click()
        page.until(lambda: "recorded as seen" in page.text(".recorder"), "the next scan")
        assert page.page.query_selector("#banner-refused") is None
        page.page.get_by_role("button", name="Stop").click()
        page.page.get_by_role("button", name="Keep recording").click()
        page.page.get_by_role("button", name="Stop").click()
        page.page.get_by_role("button", name="Stop recording").click()
        page.until(lambda: "not recorded" in page.text(".recorder"), "the end")
        assert asked == [{"action": "start", "name": "gold", "scan": [64, 32]}, {"action": "stop"}]


def test_whoever_may_only_look_is_offered_nothing_else(folder, look):
    """First a token is asked for, and kept for this tab; one that may only read shows everything and changes nothing."""

    def who(route, request):
        token = request.headers.get("authorization")
        if token in (None, "Bearer secret"):
            return route.fulfill(json={"role": "read" if token else None, "auth": True, "controller": False})
        route.fulfill(status=401, json={"status": 401, "error": "no such token"})

    can = {"recording": True, "can": ["stop"], "name": "seen", "scan": None, "links": ["merlin"], "why_not": None}
    routes = {
        "**/api/v1/me": who,
        "**/api/v1/ticket": lambda route, _: route.fulfill(json={"ticket": "once"}),
        "**/api/v1/recording": lambda route, _: route.fulfill(json=can),
    }
    with viewing.simulator((16, 16), 100) as data_port, viewing.receiver(folder, data_port) as site:
        with look(site, routes=routes, can_lose_contact=True) as page:
            field = page.page.get_by_label("token", exact=True)
            for token in ("wrong", "secret"):
                field.wait_for()
                field.fill(token)
                page.page.get_by_role("button", name="Use it").click()
                if token == "wrong":
                    page.until(lambda: "does not know this token" in page.text("#token"), "a wrong token")
            page.until(lambda: page.text(".role") == "read-only" and not page.page.is_visible("#token"), "the role")
            page.until(lambda: page.measured("bf") > 0, "images")
            page.page.reload()
            page.until(lambda: page.text(".role") == "read-only", "the role, also after a reload")
            for locked in ('.detector[data-name="bf"] input[data-key="radius"]', '.detector[data-name="bf"] .remove'):
                page.until(lambda: page.page.locator(locked).is_disabled(), f"{locked} locked")
            assert page.page.locator('[data-detector="bf"] .handle').count() == 0
            assert not page.page.get_by_role("button", name="Stop").is_visible()
            assert page.page.get_by_role("button", name="+ disk").count() == 0


def test_data_sets_and_numbers_are_in_the_drawer(folder, look):
    """Name, frames and gaps of what is on disk, the line that opens it; the last two minutes; what is computed."""
    with viewing.simulator((16, 16), 200) as data_port, viewing.receiver(folder, data_port) as site, look(site) as page:
        site.wait_for_state("complete")
        page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.page.get_by_role("button", name="Data sets", exact=True).first.click()
        page.until(lambda: "256 frames" in page.text(".data-set") and "no gaps" in page.text(".data-set"), "the data set")
        page.page.get_by_label("copy the Python line that opens seen").click()
        page.until(lambda: "zarr.open_array" in page.page.evaluate("navigator.clipboard.readText()"), "the line")
        page.page.get_by_role("button", name="Metadata").click()
        page.until(lambda: '"name":"adf"' in page.text("#drawer"), "the reductions")
        page.page.keyboard.press("Escape")
        assert not page.page.is_visible("#drawer")
        page.page.locator("#health-rate").click()
        page.until(lambda: "backlog" in page.text("#drawer"), "the history")


def test_the_field_of_the_centre_of_mass(folder, look):
    """Rotation and flip typed above the field are the receiver's: the pane ends with the field that it computes."""
    again = ("--runs", 0, "--pause-ms", 2000)
    with viewing.simulator((16, 16), 200, *again) as data_port, viewing.receiver(folder, data_port) as site, look(site) as page:
        page.page.get_by_role("button", name="field of com").click()
        page.page.get_by_label("turn of com").fill("90")
        page.page.get_by_label("flip y of com").check()
        page.page.get_by_label("subtracted from com").select_option("mean")

        def is_turned():
            wanted = {"rotation_deg": 90, "flip_y": True, "regression": 0}
            if not wanted.items() <= site.reduction("com").items() or site.current()["state"] != "complete":
                return False
            com, field = site.image("com"), site.image("com_field")
            flipped = (com - com.mean(axis=(0, 1))) * [-1, 1]
            turned = np.stack([flipped[..., 1], -flipped[..., 0]], axis=-1)
            page.page.locator('.pane[data-name="com_field"] select').first.select_option("x")
            return np.allclose(field, turned, atol=1e-6) and page.data("com_field", "checksum") == viewing.checksum(field[..., 1])

        page.until(is_turned, "the field")


def test_a_full_disk_is_told(folder, look, needs):
    """Somebody else fills the disk in the middle of a scan, and the data set cannot be finished: a banner says so, what is
    kept, and what to do.
    """
    needs(None if os.geteuid() == 0 else "only root may mount file systems")
    with small_disk(folder, "8m") as small, viewing.simulator((24, 32), 150) as data_port:
        with viewing.receiver(small, data_port) as site, look(site) as page:
            page.until(lambda: page.measured("bf") > 0, "the first rows")
            fill(small / "ballast")
            site.wait_for_state("failed")
            page.until(lambda: page.page.query_selector("#banner-disk-full"), "the banner")
            text = page.text("#banner-disk-full").replace("\u202f", "")
            assert f"{site.current()['durable_count']} frames are kept" in text and f"Free space in {small}" in text


def fill(path):
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@contextlib.contextmanager
def small_disk(folder, size):
    path = folder / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def test_an_open_page_does_not_grow(folder, look):
    """After a dozen seconds of scans that follow each other, script memory is what it was after the first ones (8 hours are
    the same, only longer): no picture, pane or reading is kept beyond its use.
    """
    again = ("--runs", 0, "--pause-ms", 100)
    with viewing.simulator((16, 16), 500, *again) as data_port, viewing.receiver(folder, data_port) as site, look(site) as page:
        session = page.context.new_cdp_session(page.page)

        def heap_and_nodes():
            session.send("HeapProfiler.collectGarbage")
            counts = session.send("Memory.getDOMCounters")
            return session.send("Runtime.getHeapUsage")["usedSize"], counts["nodes"]

        page.until(lambda: len(json.loads(site.get("/api/v1/status"))["acquisitions"]) == 4, "four scans")
        page.page.wait_for_timeout(2000)
        before = heap_and_nodes()
        page.page.wait_for_timeout(12_000)
        after = heap_and_nodes()
        assert after[0] < before[0] + 1_500_000, (before, after)
        assert after[1] < before[1] + 1000, (before, after)  # Some are not collected yet.


def test_lost_frames_are_told_and_shown(folder, look):
    """Frames that are lost on the way: the number turns bad with a shape, the lamp of the link says so, and the positions
    are marked as missing, never as zero.
    """
    with viewing.simulator((16, 16), 200, "--fault", "lose=0.1") as data_port:
        with viewing.receiver(folder, data_port) as site, look(site) as page:
            page.until(lambda: page.page.get_attribute("#health-lost", "data-mood") == "bad", "the loss")
            site.wait_for_state("complete", "interrupted")
            lost = int(np.isnan(site.image("bf")).sum())
            assert lost > 0
            page.until(lambda: page.text("#health-lost strong").endswith(f"{lost} lost"), "the number of frames lost")
            page.until(lambda: page.text('[data-name="bf"] .note') == f"{lost} missing", "the positions")
            assert "lost" in page.text(".lamp small")
            assert page.measured("bf") == 256 - lost


def test_the_page_survives_a_restart(folder, look):
    """The receiver is killed: within a second or two the page says so, keeps the last image desaturated, and goes on by
    itself when a receiver is there again, with its layout.
    """
    with viewing.simulator((16, 16), 200, "--runs", 0, "--pause-ms", 300) as data_port:
        with viewing.receiver(folder, data_port) as site, look(site, can_lose_contact=True) as page:
            page.until(lambda: page.measured("bf") > 0, "the first rows")
            page.page.get_by_role("button", name="hide adf").click()
            site.process.kill()
            page.until(lambda: "no connection" in page.text("#state"), "the silence")
            assert "stale" in page.page.get_attribute("body", "class")
            assert "does not answer" in page.text("#banner-offline")
            assert page.measured("bf") > 0
            site.process.__exit__()
            site.start()
            page.until(lambda: "no connection" not in page.text("#state"), "the receiver again")
            page.until(lambda: page.page.query_selector("#banner-offline") is None, "no banner any more")
            page.until(lambda: site.current()["visible"] > 32 and page.measured("bf") > 0, "images of the new receiver")
            assert page.data("adf", "measured") is None, "what was hidden stays hidden"
            page.page.reload()
            page.until(lambda: page.measured("bf") > 0 and page.data("adf", "measured") is None, "also after a reload")


def test_an_empty_page_teaches(folder, look):
    """Without a detector: where frames will be written, how much fits, and the command that simulates one."""
    with viewing.receiver(folder, harness.free_port()) as site, look(site) as page:
        page.until(lambda: "No scan yet" in page.text("#grid"), "the empty state")
        text = page.text("#grid")
        assert str(folder) in text and "free" in text and "not connected" in text
        assert page.text("#grid code").startswith("ronchi simulate merlin")
        assert "idle" in page.text("#state")
        policy = page.page.request.get(site.url).headers["content-security-policy"]
        assert policy.startswith("default-src 'self'")
