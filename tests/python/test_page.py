"""The live view in a real browser, against the real receiver and its simulator. What panes show is compared by a checksum
of their numbers, not by pixels of the screen, which differ from one graphics driver to the next.
"""

import json

import numpy as np
import pytest

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
    with viewing.simulator((32, 32), 100) as data_port, viewing.receiver(folder, data_port) as site:
        with look(site) as page:
            page.until(lambda: page.measured("adf") > 64, "the first rows")
            before = page.data("adf", "cfg")
            handle = page.page.locator('[data-handle="adf/outer"]')
            handle.wait_for()
            box = handle.bounding_box()
            assert box["width"] >= 10 and box["height"] >= 10, "large enough to be grabbed"
            x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            page.page.mouse.move(x, y)
            page.page.mouse.down()
            page.page.mouse.move(x - 30, y, steps=4)
            page.page.mouse.up()
            field = page.page.locator('[data-name="adf"] input[data-key="outer"]')
            dragged = float(field.input_value())
            assert 14.5 < dragged < 30
            page.page.locator('[data-handle="adf/centre"]').focus()
            page.page.keyboard.press("ArrowRight")
            page.page.locator('[data-name="adf"] input[data-key="inner"]').fill("12")

            def ring():
                return next(entry for entry in json.loads(site.get("/api/v1/reductions")) if entry["name"] == "adf")

            page.until(lambda: (ring()["cx"], ring()["inner"]) == (33, 12), "the ring in force")
            assert ring()["outer"] == pytest.approx(dragged)
            page.until(lambda: page.data("adf", "cfg") not in (None, before), "an image of the new ring")
            site.wait_for_state("complete")
            image = site.image("adf")
            assert not np.isnan(image).any()
            page.until(lambda: page.data("adf", "checksum") == viewing.checksum(image), "the numbers of the new ring")
            page.page.get_by_role("button", name="+ disk").click()
            page.until(lambda: any(e["name"] == "disk1" for e in json.loads(site.get("/api/v1/reductions"))), "a new disk")


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
