"""The page in a real Chromium: consent, keys, phone, two tabs, back, reload, a lost server, a full disk, withdrawal."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browser import PHONE, Browser, browser
from support.failing_disk import small_files
from support.studies import METHODS, Serving, Study, made_study, serving_study

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return made_study(tmp_path, cases=4, people=4, ratings=4)


@pytest.fixture
def server(study: Study) -> Iterator[Serving]:
    with serving_study(study) as running:
        yield running


@pytest.fixture
def visit(chromium: Browser, server: Serving) -> Iterator[Any]:
    # The browser reports an answer of 4xx or 5xx as an error of its own, which is not one of the page.
    with chromium.visits(harmless="Failed to load resource") as visitor:

        def visit(number: int = 0, token: str | None = None, **options: Any) -> Any:
            page = visitor(**{"locale": "en-US", **options})
            page.goto(f"{server.url}/#{server.study.key.tokens[number] if token is None else token}")
            return page

        yield visit


def shot(page: Any, name: str) -> None:
    """A screenshot, where TAGMOE_SCREENSHOTS names a folder for them."""
    if folder := os.environ.get("TAGMOE_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"study-{name}.png"))


def agree(page: Any) -> None:
    page.get_by_role("button", name="I agree").click()
    page.locator("#pictures img").first.wait_for()


def at(page: Any, number: int) -> None:
    page.get_by_text(f"Page {number} of").wait_for()


def kept(server: Serving) -> list[tuple[int, int]]:
    """(person, page) of every answer on the disk."""
    with sqlite3.connect(server.store.path) as base:
        found = base.execute("SELECT person, number FROM page ORDER BY sequence").fetchall()
    base.close()
    return found


def test_a_person_answers_all_by_the_keyboard_and_withdraws(visit: Any, server: Serving) -> None:
    page = visit()
    page.get_by_role("button", name="I agree").wait_for()
    shot(page, "consent")
    assert page.locator("#page").is_hidden()
    agree(page)
    sheet = server.study.manifest.sheets[0]
    for number in range(len(sheet)):
        at(page, number + 1)
        assert page.get_by_role("button", name="Next").is_disabled()
        for key in "123":
            page.keyboard.press(key)
        if number == 0:
            assert [one.inner_text() for one in page.locator("legend .chosen").all()] == ["A", "B", "C"]
            shot(page, "chosen")
        page.keyboard.press("Enter")
    page.get_by_text("Thank you").wait_for()
    shot(page, "done")
    assert kept(server) == [(0, number) for number in range(len(sheet))]
    page.get_by_role("button", name="Withdraw").click()
    shot(page, "sure")
    page.get_by_role("button", name="Yes, delete").click()
    page.get_by_text("You have withdrawn").wait_for()
    assert kept(server) == []
    page.reload()
    page.get_by_text("You have withdrawn").wait_for()


def goes_on(page: Any, held: str) -> bool:
    """Whether Enter is for the next page while this element has the focus."""
    return bool(
        page.evaluate(
            """(held) => !document.querySelector(held).dispatchEvent(
                 new KeyboardEvent("keydown", {key: "Enter", bubbles: true, cancelable: true}))""",
            held,
        )
    )


def test_no_key_is_taken_by_what_is_hidden(visit: Any, server: Serving) -> None:
    page = visit()
    page.get_by_role("button", name="I agree").wait_for()
    # Until the browser paints again, the hidden button would still have the focus.
    holds = page.evaluate(
        """async () => { get("agree").focus();
             await act("api/consent", {language, expertise: "", screen: "large"});
             return document.activeElement.tagName; }"""
    )
    assert holds == "BODY"
    at(page, 1)
    for key in "123":
        page.keyboard.press(key)
    assert goes_on(page, "#agree"), "a key that meets the hidden button all the same is the page's"
    at(page, 2)
    assert kept(server) == [(0, 0)]


def test_enter_goes_on_after_a_number_and_after_a_click(visit: Any, server: Serving) -> None:
    page = visit()
    page.get_by_role("button", name="I agree").focus()
    page.keyboard.press("Enter")
    at(page, 1)
    page.get_by_role("button", name="Enlarge").nth(1).click()
    page.keyboard.press("Escape")
    for key in "123":
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    at(page, 2)
    for _ in range(3):
        page.locator(".choice .pick").first.click()
    page.keyboard.press("Enter")
    at(page, 3)
    assert kept(server) == [(0, 0), (0, 1)]
    assert not goes_on(page, "#withdraw"), "a button that is seen keeps its key"


def test_a_second_click_on_agree_sends_nothing_more(visit: Any) -> None:
    page = visit()
    page.get_by_role("button", name="I agree").wait_for()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate("() => { get('agree').click(); get('agree').click(); }")
    at(page, 1)
    assert sum(url.endswith("api/consent") for url in asked) == 1


def test_a_reload_keeps_place_and_open_choices(visit: Any, server: Serving) -> None:
    page = visit()
    agree(page)
    for key in "111":
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    at(page, 2)
    page.locator(".choice .pick").nth(1).click()
    page.reload()
    at(page, 2)
    assert page.locator("legend .chosen").first.inner_text() == "B"
    assert kept(server) == [(0, 0)]


def test_two_tabs_a_double_click_and_back_lose_and_double_nothing(visit: Any, server: Serving) -> None:
    page = visit()
    agree(page)
    other = page.context.new_page()
    other.goto(page.url)
    at(other, 1)
    for key in "111":
        page.keyboard.press(key)
    page.get_by_role("button", name="Next").dblclick()
    at(page, 2)
    for key in "222":
        other.keyboard.press(key)
    other.keyboard.press("Enter")
    other.get_by_role("alert").get_by_text("was answered already").wait_for()
    shot(other, "two-tabs")
    at(other, 2)
    with sqlite3.connect(server.store.path) as base:
        assert [row[0] for row in base.execute("SELECT choices FROM page")] == [
            '{"reference": 0, "prompt": 0, "overall": 0}'
        ], "the first answer stands"
    base.close()
    other.goto("about:blank")
    other.go_back()
    at(other, 2)
    assert kept(server) == [(0, 0)]


def test_a_server_that_is_gone_or_full_costs_no_choice(visit: Any, server: Serving) -> None:
    page = visit()
    agree(page)
    for key in "123":
        page.keyboard.press(key)
    page.route("**/api/answer", lambda route: route.abort())
    page.keyboard.press("Enter")
    page.get_by_role("alert").get_by_text("does not answer").wait_for()
    shot(page, "offline")
    page.unroute("**/api/answer")
    with small_files(os.path.getsize(f"{server.store.path}-wal")):
        page.keyboard.press("Enter")
        page.get_by_role("alert").get_by_text("disk is full").wait_for()
        assert [one.inner_text() for one in page.locator("legend .chosen").all()] == ["A", "B", "C"]
    assert kept(server) == []
    page.keyboard.press("Enter")
    at(page, 2)
    assert kept(server) == [(0, 0)]


def test_a_link_that_was_never_issued_and_none_at_all(visit: Any) -> None:
    page = visit(token="not-a-token")
    page.get_by_role("alert").get_by_text("never issued").wait_for()
    shot(page, "unknown")
    assert page.locator("#consent, #page").locator("visible=true").count() == 0
    visit(token="").get_by_role("alert").get_by_text("needs your personal link").wait_for()


def test_the_other_language_is_chosen_by_the_browser_and_by_hand(visit: Any) -> None:
    page = visit(locale="de-DE")
    page.get_by_role("button", name="Ich stimme zu").wait_for()
    assert page.evaluate("document.documentElement.lang") == "de"
    page.get_by_label("Sprache").select_option("en")
    agree(page)
    page.get_by_label("Language").select_option("de")
    page.get_by_text("Seite 1 von").wait_for()
    shot(page, "german")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desk", "phone"])
def test_it_fits_a_phone_in_light_and_dark(visit: Any, scheme: str, size: str) -> None:
    options = {"viewport": PHONE, "has_touch": True, "is_mobile": True} if size == "phone" else {}
    page = visit(color_scheme=scheme, **options)
    agree(page)
    click = "tap" if size == "phone" else "click"
    for place in (0, 2):
        getattr(page.locator(".choice .pick").nth(place), click)()
    shot(page, f"{size}-{scheme}")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    getattr(page.locator(".choice .line button").first, click)()
    page.locator("#large[open]").wait_for()
    shot(page, f"large-{size}-{scheme}")
    page.keyboard.press("Escape")
    small = page.evaluate(
        "[...document.querySelectorAll('fieldset.active .letters label, #next, .choice .line button')]"
        ".filter((one) => Math.min(one.offsetWidth, one.offsetHeight) < 34).length"
    )
    assert small == 0, "a finger hits every button"
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(250, 249, 246)", "dark": "rgb(22, 24, 27)"}[scheme]


def test_everything_has_a_name_and_the_keyboard_reaches_it(visit: Any) -> None:
    page = visit()
    agree(page)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('input, select, button')]
        .filter((one) => one.offsetParent !== null)
        .filter((one) => !(one.labels?.length || one.ariaLabel || one.title || one.innerText?.trim()
                           || one.querySelector('img[alt]:not([alt=""])')))
        .map((one) => one.outerHTML.slice(0, 200))"""
    )
    assert nameless == []
    for _ in range(3):
        page.keyboard.press("Tab")
    page.locator("input[name=reference]").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("legend .chosen").first.inner_text() == "B"


def test_nothing_that_the_browser_sees_names_a_method(visit: Any, chromium: Browser) -> None:
    page = visit()
    bodies: list[str] = []
    page.on("response", lambda answer: bodies.append(f"{answer.url} {answer.all_headers()}"))
    agree(page)
    page.wait_for_load_state("networkidle")
    seen = " ".join([page.content(), *chromium.seen.asked, *bodies]).lower()
    assert len(bodies) > 3
    for name in (*METHODS, "source-", "outputs", "c0.", "alphaedit"):
        assert name.lower() not in seen
