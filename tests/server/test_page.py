"""The page at `/` in a real browser, headless, on the embedded model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from surelock.llm import LLM
from tests.server.running import Running, running
from tests.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FilePayload, Locator, Page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("there is no chromium on this machine", allow_module_level=True)
expect = playwright.expect
expect.set_options(timeout=1000 * WAIT_SECONDS)

KEY = "a-key-of-this-test"
PROMPT = "The <b>whale</b> was "
NUM_TOKENS = 12


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, embedded_server: Running) -> Iterator[Page]:
    """The page, which must ask nobody else for anything and have nothing to complain about."""
    opened = browser.new_page(viewport={"width": 1280, "height": 800})
    complaints: list[str] = []
    requests: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(embedded_server.url)
    expect(opened.locator("#model")).to_contain_text("surelock-demo")
    yield opened
    opened.close()
    # What the browser itself says of an answer that is no success.
    assert [each for each in complaints if "status of 400" not in each] == []
    assert all(url.startswith((f"{embedded_server.url}/", f"blob:{embedded_server.url}/")) for url in requests)


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def start(page: Page, prompt: str = PROMPT, num_tokens: int = NUM_TOKENS) -> None:
    page.get_by_label("Text or template").check()
    page.get_by_label("Prompt", exact=True).fill(prompt)
    if page.get_by_label("Max tokens").is_enabled():
        page.get_by_label("Max tokens").fill(str(num_tokens))
    page.get_by_label("Seed").fill("5")
    button(page, "Run").click()


def finish(page: Page, *args: Any) -> None:
    start(page, *args)
    expect(page.get_by_role("status")).to_contain_text("Finished")


def figure(page: Page, name: str) -> Locator:
    return page.locator("#figures > div").filter(has_text=name).locator("dd").first


def scrub(page: Page, step: int) -> None:
    page.get_by_role("slider", name="step").fill(str(step))


def masked(page: Page) -> Locator:
    return page.locator(".tokens .masked")


def canvas_text(page: Page, index: int = 0) -> str:
    return str(page.locator(".tokens").nth(index).text_content()).replace("\u21b5\n", "\n")


def answer(embedded_server: Running, **fields: Any) -> dict[str, Any]:
    body = {"prompt": PROMPT, "max_tokens": NUM_TOKENS, "seed": 5, "ignore_eos": True, **fields}
    choice: dict[str, Any] = embedded_server.post("/v1/completions", body).json()["choices"][0]
    return choice


def test_a_run_is_shown_as_it_goes(page: Page, embedded_server: Running) -> None:
    page.evaluate(
        """() => {
            window.seen = new Set();
            const watch = () => seen.add(document.querySelectorAll(".tokens .masked").length);
            new MutationObserver(watch).observe(document.getElementById("canvases"), {
                subtree: true, childList: true, attributes: true });
        }"""
    )
    finish(page, PROMPT, 40)
    assert len(page.evaluate("[...window.seen]")) > 3
    expected = answer(embedded_server, max_tokens=40)
    # Text of the model and of the prompt is text.
    assert canvas_text(page) == PROMPT + expected["text"]
    assert page.locator("#canvases b").count() == 0
    assert page.locator(".tokens .prompt").count() > 3
    assert page.locator(".tokens .locked").count() > 0
    expect(figure(page, "FLOPs saved")).to_have_text(f"{100 * expected['surelock']['saved_flops']:.1f} %")
    expect(page.get_by_role("status")).to_contain_text(expected["text"].strip()[:8])


def test_scrubbing_and_playing(page: Page) -> None:
    finish(page)
    expect(masked(page)).to_have_count(0)
    scrub(page, 0)
    expect(masked(page)).to_have_count(NUM_TOKENS)
    scrub(page, 3)
    expect(masked(page)).to_have_count(NUM_TOKENS - 3)
    expect(page.locator(".tokens .fresh")).to_have_count(1)
    expect(figure(page, "step")).to_have_text("3")
    button(page, "Play").click()
    expect(button(page, "Pause")).to_be_visible()
    button(page, "Pause").click()
    expect(button(page, "Play")).to_be_visible()
    button(page, "Play").click()
    expect(masked(page)).to_have_count(0)
    expect(button(page, "Play")).to_be_visible()
    box = page.locator("#curve").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 5)
    expect(figure(page, "step")).to_have_text(str(NUM_TOKENS // 2))


def test_every_step_has_its_state(page: Page) -> None:
    """A recording of frames made up here: two steps in one frame, and a restart that takes everything back."""
    states = page.evaluate(
        """async () => {
            const { Recording } = await import("/page/recording.js");
            const recording = new Recording({ path: "v1/completions", body: {} });
            const frame = (rest) => recording.apply({ num_steps: 3, seconds: 1, saved_flops: 0.1, ...rest });
            const states = () => [0, 1, 2, 3].map((step) => [0, 1, 2].map((at) => recording.state(at, step)));
            frame({ canvas: { tokens: ["a", null, null], num_prompt: 1 } });
            frame({ patch: { tokens: [[1, "b", 0.5, 1]], locked: [[0, 1]], rows: [3] } });
            frame({ restarted: true, patch: { tokens: [[2, "c", 0.5, 1]], locked: [], rows: [3] } });
            frame({ patch: { tokens: [[1, "d", 0.5, 2]], locked: [[2, 2], [0, 3]], rows: [3, 2] } });
            return [states(), recording.rows, recording.totals(3)];
        }"""
    )
    assert states[0] == [
        ["prompt", "masked", "masked"],
        ["prompt", "masked", "fresh"],
        ["prompt", "fresh", "locked"],
        ["prompt locked", "unmasked", "locked"],
    ]
    assert states[1] == [3, 3, 2]
    assert states[2] == {"done": 3, "numRows": 8, "numAll": 9, "saved": 0.1, "masked": 0, "locked": 2}


def test_lock_times(page: Page) -> None:
    finish(page)
    locked = page.locator(".tokens .locked").first
    before = locked.evaluate("each => getComputedStyle(each).backgroundColor")
    page.get_by_label("Lock time").check()
    assert locked.evaluate("each => getComputedStyle(each).backgroundColor") != before
    locked.click()
    expect(page.locator("#detail")).to_contain_text("locked at step")


def test_cancel(page: Page, embedded_server: Running) -> None:
    start(page, PROMPT, 300)
    expect(masked(page).first).to_be_visible()
    button(page, "Cancel").click()
    expect(page.get_by_role("status")).to_contain_text("Cancelled")
    embedded_server.until_idle()
    assert masked(page).count() > 0
    expect(button(page, "Run")).to_be_enabled()
    expect(button(page, "Run with locking off")).to_be_disabled()
    scrub(page, 0)
    expect(masked(page)).to_have_count(300)


def test_side_by_side(page: Page, embedded_server: Running) -> None:
    finish(page)
    button(page, "Run with locking off").click()
    expect(page.locator(".tokens")).to_have_count(2)
    expect(figure(page, "time saved")).to_contain_text("%")
    assert canvas_text(page, 1) == PROMPT + answer(embedded_server, lock=False)["text"]
    assert page.locator(".tokens").nth(1).locator(".locked").count() == 0
    scrub(page, 4)
    expect(masked(page)).to_have_count(2 * (NUM_TOKENS - 4))


def test_a_trace_comes_back(page: Page, browser: Browser, embedded_server: Running, tmp_path: Path) -> None:
    finish(page)
    button(page, "Run with locking off").click()
    expect(button(page, "Save trace")).to_be_enabled()
    expect(page.locator(".tokens")).to_have_count(2)
    with page.expect_download() as download:
        button(page, "Save trace").click()
    saved = tmp_path / "trace.json"
    download.value.save_as(saved)
    other = browser.new_page()
    other.goto(embedded_server.url)
    other.locator("#file").set_input_files(saved)
    expect(other.get_by_role("status")).to_contain_text("Trace loaded")
    for step in (0, 5, NUM_TOKENS):
        for each in (page, other):
            scrub(each, step)
        for part in ("#canvases", "#figures", "#map", "#curve"):
            assert other.locator(part).inner_html() == page.locator(part).inner_html()
    hostile = '<img src="x" onerror="document.title = 1">'
    trace = json.loads(saved.read_text())
    trace["runs"][0]["frames"][0]["canvas"]["tokens"][0] = hostile
    saved.write_text(json.dumps(trace))
    other.locator("#file").set_input_files(saved)
    expect(other.locator(".tokens").first).to_contain_text(hostile)
    assert other.locator("#canvases img").count() == 0
    other.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "is not a trace"),
        ('{"format": "surelock page trace", "version": 9}', "is not of version"),
        ('{"format": "surelock page trace", "version": 1, "runs": []}', "has no runs"),
        ('{"format": "surelock page trace", "version": 1, "runs": [{"path": "x"}]}', "has a broken run"),
    ],
)
def test_what_is_no_trace_is_refused(page: Page, text: str, message: str) -> None:
    file: FilePayload = {"name": "own.json", "mimeType": "application/json", "buffer": text.encode()}
    page.locator("#file").set_input_files(file)
    expect(page.get_by_role("alert")).to_contain_text(f"own.json {message}")


def test_a_template_is_filled(page: Page) -> None:
    page.get_by_label("Text or template").check()
    page.get_by_label("Prompt", exact=True).fill("The sea was [[4]], and [[2]].")
    expect(page.locator("#prompt-hint")).to_have_text("2 gaps, 6 positions to fill.")
    expect(page.get_by_label("Max tokens")).to_be_disabled()
    button(page, "Run").click()
    expect(page.get_by_role("status")).to_contain_text("Finished in 6 steps:\nThe sea was ", use_inner_text=True)
    scrub(page, 0)
    expect(masked(page)).to_have_count(6)
    assert canvas_text(page) == "The sea was , and ."


def test_a_refusal_is_shown_in_its_own_words(page: Page, embedded_server: Running) -> None:
    start(page, PROMPT, 100_000)
    body = {"prompt": PROMPT, "max_tokens": 100_000}
    message = embedded_server.post("/v1/completions", body).json()["error"]["message"]
    expect(page.get_by_role("alert")).to_have_text(message)
    finish(page)
    expect(page.get_by_role("alert")).to_be_empty()


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([], "the connection ended before the answer did"),
        ([{"error": {"message": "the deadline is over"}}, "[DONE]"], "the deadline is over"),
    ],
    ids=["cut off", "error"],
)
def test_a_stream_that_fails_says_so(page: Page, events: list[Any], message: str) -> None:
    state = {"num_steps": 2, "seconds": 0, "canvas": {"tokens": ["a", None, None], "num_prompt": 1}}
    sent = [json.dumps({"choices": [{"text": ""}], "surelock": state})]
    sent += [each if isinstance(each, str) else json.dumps(each) for each in events]
    body = ": ping\n\n" + "".join(f"data: {each}\n\n" for each in sent)
    page.route(
        "**/v1/completions", lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body)
    )
    start(page)
    expect(page.get_by_role("alert")).to_contain_text(message)
    expect(masked(page)).to_have_count(2)
    expect(button(page, "Run")).to_be_enabled()


def test_a_key_is_asked_for(browser: Browser, embedded: LLM) -> None:
    with running(embedded, api_keys=(KEY,)) as server:
        page = browser.new_page()
        page.goto(server.url)
        key = page.get_by_label("API key")
        expect(key).to_be_focused()
        expect(page.get_by_role("alert")).to_contain_text("Authorization")
        key.fill(KEY)
        finish(page)
        stored = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie, location.href]")
        assert stored == [0, 0, "", f"{server.url}/"]
        page.close()


def test_the_keyboard_is_enough(page: Page) -> None:
    order = []
    for _ in range(40):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.name"))
        if order[-1] == "load":
            break
    fields = ["prompt", "max_tokens", "steps", "block_length", "temperature", "seed", "kl_threshold", "lock", "run"]
    assert order == ["theme", "mode", *fields, "load"]
    page.locator("#theme").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.keyboard.press("Control+A")
    page.keyboard.type(PROMPT)
    page.keyboard.press("Tab")
    page.keyboard.press("Control+A")
    page.keyboard.type(str(NUM_TOKENS))
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("status")).to_contain_text("Finished")
    while page.evaluate("document.activeElement.className") != "tokens":
        page.keyboard.press("Tab")
    page.keyboard.press("End")
    expect(page.locator("#detail")).to_contain_text("unmasked at step")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".selected")).to_have_count(1)
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    expect(figure(page, "step")).to_have_text(str(NUM_TOKENS - 1))
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(figure(page, "step")).to_have_text(str(NUM_TOKENS))
    # Everything that can be used has a name.
    names = page.evaluate(
        """() => [...document.querySelectorAll("input, textarea, button")].map(
            (each) => each.labels?.[0]?.textContent || each.getAttribute("aria-label") || each.textContent)"""
    )
    assert all(names)
    page.get_by_label("Max tokens").fill("300")
    page.keyboard.press("Control+Enter")
    expect(masked(page).first).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("status")).to_contain_text("Cancelled")


def test_a_narrow_screen_scrolls_one_way(page: Page) -> None:
    page.set_viewport_size({"width": 375, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    finish(page, PROMPT + "x" * 100)
    button(page, "Run with locking off").click()
    expect(figure(page, "time saved")).to_contain_text("%")
    assert page.evaluate("document.documentElement.scrollWidth") == 375


def test_light_and_dark(page: Page) -> None:
    def brightness() -> int:
        colour = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

    light = brightness()
    page.emulate_media(color_scheme="dark")
    dark = brightness()
    assert dark < 200 < 600 < light
    toggle = button(page, "Dark")
    expect(toggle).to_have_attribute("aria-pressed", "true")
    toggle.click()
    expect(toggle).to_have_attribute("aria-pressed", "false")
    assert brightness() == light
