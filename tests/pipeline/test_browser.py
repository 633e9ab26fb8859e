"""The report as people see it: opened from disk in a real browser, Debian's `chromium`, without a network."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_results import NAMES, PARAMS, draw_crops, write_results

from nuclei.report.page import build_page
from nuclei.report.results import read_results
from nuclei.task import COLON
from tools.clone import Clone

sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium")

QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
HOSTILE = ["<script>alert(1)</script>.png", "<img src=x onerror=alert(1)>.png", *NAMES[2:]]
ERRORS = "#gallery > li:visible"


class Window:
    """A page in a browser, and all that went wrong or out of it."""

    def __init__(self, context: sync_api.BrowserContext):
        self.page = context.new_page()
        self.trouble: list[str] = []
        self.page.on("console", lambda message: self.trouble.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.trouble.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.trouble.append(f"dialog: {dialog.message}") or dialog.dismiss())
        self.page.on("request", lambda request: self._note(request.url))

    def _note(self, url: str) -> None:
        if not url.startswith("data:") and url != self.url:
            self.trouble.append(f"request: {url}")

    def open(self, path: Path) -> None:
        self.url = path.resolve().as_uri()
        self.page.goto(self.url)
        self.page.wait_for_function("[...document.images].every((image) => image.complete)")

    def resize(self, width: int) -> None:
        self.page.set_viewport_size({"width": width, "height": 800})

    def background(self) -> str:
        return self.page.evaluate("getComputedStyle(document.body).backgroundColor")

    def column(self, table: str, number: int) -> list[str]:
        return self.page.locator(f"{table} tbody tr td:nth-child({number})").all_inner_texts()


@pytest.fixture(scope="module")
def context(tmp_path_factory) -> Iterator[sync_api.BrowserContext]:
    with sync_api.sync_playwright() as playwright:
        profile = tmp_path_factory.mktemp("profile")
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, headless=True, args=QUIET, timezone_id="UTC", locale="en"
        )
        browser.set_default_timeout(20_000)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> Path:
    """A page of made-up results in which names try to run code."""
    folder = tmp_path_factory.mktemp("reports")
    write_results(folder, HOSTILE)
    page = folder / "index.html"
    page.write_text(build_page(read_results(folder), draw_crops(HOSTILE), COLON, PARAMS, "lr:\n"), encoding="utf-8")
    return page


@pytest.fixture
def window(context) -> Iterator[Window]:
    window = Window(context)
    yield window
    window.page.close()
    assert not window.trouble


@pytest.mark.parametrize("width", [1280, 360])
def test_the_report_of_a_run_opens_from_disk(window, width, finished: Clone, tmp_path):
    window.resize(width)
    window.open(finished.path / "reports" / "index.html")
    page = window.page
    assert page.evaluate("[...document.images].filter((image) => !image.naturalWidth).length") == 0
    assert page.locator("img").count() > 10
    assert page.evaluate("[...document.querySelectorAll('tbody')].filter((body) => !body.rows.length).length") == 0
    assert page.locator("table").count() > 15
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / f"{width}.png", full_page=True)
    assert (tmp_path / f"{width}.png").stat().st_size > 100_000


def test_a_click_on_a_column_sorts_it_as_numbers_and_a_second_one_backwards(window, example):
    window.open(example)
    trials = "table:has(caption:text-is('CNN: trials, the last rung and the lowest loss first'))"
    assert window.column(trials, 7) == ["0.300", "0.400", "17.500"]
    head = window.page.locator(f"{trials} thead th:nth-child(2)")
    assert window.column(trials, 2) == ["0.003", "0.001", "0.02"]
    head.get_by_role("button").click()
    assert window.column(trials, 2) == ["0.001", "0.003", "0.02"]
    assert head.get_attribute("aria-sort") == "ascending"
    head.get_by_role("button").press("Enter")
    assert window.column(trials, 2) == ["0.02", "0.003", "0.001"]
    assert head.get_attribute("aria-sort") == "descending"
    window.page.locator(f"{trials} thead th:nth-child(1) button").click()
    assert head.get_attribute("aria-sort") is None


def test_words_are_sorted_as_words_and_unknown_numbers_come_last(window, example):
    window.open(example)
    classes = "table:has(caption:text-is('CNN: scores per class'))"
    window.page.locator(f"{classes} thead th:nth-child(1) button").click()
    assert window.column(classes, 1) == ["cancer epithelial", "immune leukocyte", "muscle", "normal epithelial"]
    maps = "table:has(caption:text-matches('^CNN: means over 16 crops'))"
    window.page.locator(f"{maps} thead th:has-text('Stability') button").click()
    assert window.column(maps, 10) == ["0.980", "0.980", "0.980", "0.980", "–", "–"]


def test_values_with_an_error_are_sorted_by_the_value(window, example):
    window.open(example)
    maps = "table:has(caption:text-matches('^CNN: means over 16 crops'))"
    window.page.locator(f"{maps} thead th:nth-child(4) button").click()
    assert [text.split()[0] for text in window.column(maps, 4)] == 2 * ["0.000"] + 2 * ["0.046"] + 2 * ["0.123"]


def test_the_gallery_of_errors_is_filtered_by_class_pair_and_network(window, example):
    window.open(example)
    page = window.page
    assert page.locator(ERRORS).count() == 4
    assert page.locator("#matches").inner_text() == "4 of 4 shown"
    page.get_by_label("Class pair").select_option("normal epithelial classified as cancer epithelial (2)")
    assert page.locator(ERRORS).count() == 2
    page.get_by_label("misclassified by").select_option("ResNet18")
    assert page.locator(ERRORS).count() == 1 and "4.png" in page.locator(ERRORS).inner_text()
    page.get_by_label("Class pair").select_option("any")
    assert page.locator(ERRORS).count() == 2
    page.get_by_label("misclassified by").select_option("all networks")
    assert page.locator(ERRORS).count() == 1
    assert page.locator("#matches").inner_text() == "1 of 4 shown"


def test_a_number_in_the_confusion_matrix_leads_to_its_crops(window, example):
    window.open(example)
    page = window.page
    page.get_by_label("1 muscle classified as immune leukocyte by CNN").click()
    assert page.locator(ERRORS).count() == 1 and "2.png" in page.locator(ERRORS).inner_text()
    assert page.get_by_label("misclassified by").input_value() == "cnn"
    assert page.locator("#errors").evaluate("(head) => head.getBoundingClientRect().top") < 100


def test_names_that_look_like_code_are_shown_as_text(window, example):
    window.open(example)
    assert HOSTILE[0] in window.page.locator("#gallery").inner_text()
    assert window.page.locator("script").count() == 1


def test_the_page_may_not_call_anybody(context, example):
    window = Window(context)
    window.open(example)
    refused = window.page.evaluate(
        """() => new Promise((resolve) => {
            document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
            fetch("http://example.invalid/").catch(() => {});
        })"""
    )
    assert refused == "connect-src"
    assert not [trouble for trouble in window.trouble if trouble.startswith("request: ")]
    window.page.close()


def test_a_dark_screen_gets_a_dark_page_and_paper_a_white_one(window, example, tmp_path):
    window.open(example)
    page = window.page
    assert window.background() == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    assert window.background() == "rgb(20, 24, 29)"
    page.screenshot(path=tmp_path / "dark.png")
    page.emulate_media(color_scheme="dark", media="print")
    assert window.background() == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible() and not page.locator("select").first.is_visible()
    hidden = page.locator("details table").first
    assert hidden.bounding_box()["height"] > 50  # what is folded up on a screen is there on paper
    page.pdf(path=tmp_path / "print.pdf", format="A4")
    assert (tmp_path / "print.pdf").read_bytes().startswith(b"%PDF")


def test_the_keyboard_reaches_the_results_first(window, example):
    window.open(example)
    window.page.keyboard.press("Tab")
    assert window.page.locator(":focus").inner_text() == "Skip to the results"
    assert window.page.locator(":focus").bounding_box()["x"] >= 0
