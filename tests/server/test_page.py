"""The chat page, driven in a real browser as a person would: type, stream, stop, retry, edit, keyboard, phone."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.browser import DESKTOP, ENTER, ESCAPE, PHONE, SHIFT, TAB, Page, browser, missing
from tests.server.fake import FakeModel
from tests.server.live import live

pytestmark = [pytest.mark.browser, pytest.mark.skipif(bool(missing()), reason=f"no browser here: {missing()}")]

SAID = "one two three four five six seven eight nine ten"


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with browser() as made:
        yield made


@pytest.fixture
def model() -> FakeModel:
    return FakeModel(text=SAID, delay=0.005)


@pytest.fixture
def page(driver: Any, model: FakeModel) -> Iterator[Page]:
    with live(model) as address:
        made = Page(driver, address)
        made.size(*DESKTOP)
        made.open()
        yield made
        assert made.problems() == []


def test_a_message_is_answered_with_counts(page: Page):
    assert page.find("#welcome").is_displayed()
    assert page.ask("hello") == SAID
    assert not page.find("#welcome").is_displayed()
    count = page.find("article.assistant .count").text
    assert "10 tokens" in count and "50 tokens/s" in count
    assert "Answer complete" in page.find("#status").get_attribute("textContent")


def test_text_streams_in_and_stop_stops(page: Page, model: FakeModel):
    model.delay = 0.1
    page.find("#prompt").send_keys("hello\n")
    page.until(lambda: page.answers() and page.answers()[0].startswith("one two"))
    assert page.busy() and not page.find("#send").is_displayed()
    page.click("#stop")
    page.until(lambda: not page.busy())
    assert "ten" not in page.answers()[0] and "stopped" in page.find("article.assistant .count").text
    page.until(lambda: model.generations[0].closed)
    assert model.pages == 4


def test_counts_are_of_tokens_and_not_of_the_pieces_that_they_come_in(page: Page, model: FakeModel):
    model.hold, model.delay, words = 3, 0.03, len(SAID.split())
    page.ask("hello")
    assert f"{words} tokens" in page.find("article.assistant .count").text
    page.find("#clear").click()
    page.driver.switch_to.alert.accept()
    model.text, model.delay = " ".join(["word"] * 300), 0.02
    page.find("#prompt").send_keys("hello\n")
    page.until(lambda: page.answers() and page.answers()[0].count("word") >= 12)
    page.click("#stop")
    page.until(lambda: not page.busy())
    count, said = page.find("article.assistant .count").text, page.answers()[0].count("word")
    assert count.startswith(f"{said} tokens · ") and "stopped" in count


def test_retry_answers_the_same_message_again(page: Page, model: FakeModel):
    page.ask("hello")
    model.text = "another answer"
    page.click(".retry")
    page.until(lambda: page.answers() == ["another answer"] and not page.busy())
    assert model.prompts[0] == model.prompts[1]


def test_the_last_message_can_be_edited_and_left_as_it_was(page: Page, model: FakeModel):
    page.ask("hello")
    page.click(".edit")
    assert page.find("#prompt").get_attribute("value") == "hello" and page.find("#editing").is_displayed()
    page.type(ESCAPE)
    assert not page.find("#editing").is_displayed() and page.find("#prompt").get_attribute("value") == ""
    page.click(".edit")
    page.find("#prompt").send_keys(" there\n")
    page.until(lambda: len(model.prompts) == 2 and not page.busy())
    assert bytes(model.prompts[1]).decode() == "user: hello there\n" and len(page.all("article.user")) == 1


def test_settings_reach_the_server_and_outlive_a_reload(page: Page, model: FakeModel):
    page.click("#open-settings")
    page.find("#system").send_keys("Be brief.")
    for name, value in (
        ("temperature", "0.3"),
        ("top_p", "0.5"),
        ("top_k", "7"),
        ("min_p", "0.2"),
        ("max_tokens", "3"),
        ("seed", "42"),
    ):
        page.find(f"#{name}").send_keys(value)
    page.type(ESCAPE)
    assert page.ask("hello") == "one two three"
    assert bytes(model.prompts[0]).decode() == "system: Be brief.\nuser: hello\n"
    o = model.generations[0].options
    assert (o.temperature, o.top_p, o.top_k, o.min_p, o.max_tokens, o.seed) == (0.3, 0.5, 7, 0.2, 3, 42)
    assert "cut at" in page.find("article.assistant .count").text
    page.open()
    assert page.answers() == ["one two three"]
    assert page.ask("again") == "one two three"
    assert (
        bytes(model.prompts[1]).decode() == "system: Be brief.\nuser: hello\nassistant: one two three \nuser: again\n"
    )


def test_new_chat_forgets(page: Page):
    page.ask("hello")
    page.click("#clear")
    page.driver.switch_to.alert.accept()
    page.until(lambda: page.find("#welcome").is_displayed())
    page.open()
    assert page.answers() == [] and page.find("#welcome").is_displayed()


def test_everything_works_with_the_keyboard_alone(page: Page, model: FakeModel):
    model.delay = 0.1
    assert page.driver.switch_to.active_element.get_attribute("id") == "prompt"
    page.type("two", SHIFT + ENTER + SHIFT, "lines", ENTER)
    page.until(lambda: page.answers() and page.answers()[0])
    assert bytes(model.prompts[0]).decode() == "user: two\nlines\n"
    page.type(ESCAPE)
    page.until(lambda: not page.busy())
    reached = []
    for _ in range(12):
        page.type(TAB)
        here = page.driver.switch_to.active_element
        reached.append(here.get_attribute("id") or here.text)
    assert {"clear", "open-settings", "Copy", "Retry", "prompt", "send"} <= set(reached)
    while page.driver.switch_to.active_element.get_attribute("id") != "open-settings":
        page.type(TAB)
    page.type(ENTER)
    assert page.find("#settings").get_attribute("open") is not None
    page.type(ESCAPE)
    page.until(lambda: page.find("#settings").get_attribute("open") is None)
    assert page.driver.switch_to.active_element.get_attribute("id") == "open-settings"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scroll(page: Page, model: FakeModel, scheme: str):
    model.text = f"{'w' * 300}\n\n```\n{'c' * 300}\n```\n\n|a|b|\n|-|-|\n|{'x' * 200}|y|\n"
    page.size(*PHONE)
    page.scheme(scheme)
    page.ask("v" * 200)
    widths = (
        "return [document.documentElement, document.querySelector('main')].map((e) => e.scrollWidth - e.clientWidth)"
    )
    assert page.driver.execute_script(widths) == [0, 0]
    page.click("#open-settings")
    assert (
        page.driver.execute_script("const d = document.querySelector('dialog'); return d.scrollWidth - d.clientWidth")
        == 0
    )
    small = (
        "return [...document.querySelectorAll('button')].filter((b) => b.offsetParent && b.offsetHeight < 24).length"
    )
    assert page.driver.execute_script(small) == 0


def test_markdown_is_drawn_and_markup_stays_text(page: Page, model: FakeModel):
    model.text = (
        "## Title\n\n**bold** *it* `code` <img src=x onerror=alert(1)> [bad](javascript:alert(1)) [good](https://e.org)"
        "\n\n1. one\n   - deep\n2. two\n\n```js\n<script>alert(1)</script>\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    )
    page.ask("<b>me</b>")
    text = page.find("article.assistant .text")
    assert page.find("article.user .text").text == "<b>me</b>" and page.all("article.user .text b") == []
    for selector in ("h3", "strong", "em", "p code", "ol > li > ul > li", ".code pre", "table td"):
        assert page.all(f"article.assistant .text {selector}"), selector
    assert page.all("article.assistant :is(img, script, iframe)") == [] and "<img src=x" in text.text
    assert [link.get_attribute("href") for link in page.all("article.assistant a")] == ["https://e.org/"]


def test_an_error_is_said_plainly_and_can_be_retried(page: Page, model: FakeModel):
    model.break_at = 2
    page.find("#prompt").send_keys("hello\n")
    page.until(lambda: page.find("#problem").is_displayed())
    assert "request id" in page.find("#problem").text and page.find("#problem").get_attribute("role") == "alert"
    model.break_at = -1
    page.click(".retry")
    page.until(lambda: page.answers() == [SAID] and not page.busy())
    assert not page.find("#problem").is_displayed()


def test_a_conversation_that_is_too_long_is_said_in_plain_words(page: Page, model: FakeModel):
    page.find("#prompt").send_keys("x" * 600, ENTER)
    page.until(lambda: page.find("#problem").is_displayed())
    assert "longer than the model can take in" in page.find("#problem").text
    page.click(".edit")
    page.find("#prompt").clear()
    assert page.ask("short") == SAID
    page.problems()  # the 400, which is right here


def test_a_server_that_went_away_is_said_and_the_words_are_kept(driver: Any):
    with live(FakeModel()) as address:
        page = Page(driver, address)
        page.open()
    page.find("#prompt").send_keys("hello\n")
    page.until(lambda: "cannot be reached" in page.find("#problem").text)
    assert page.find("article.user .text").text == "hello" and page.find(".retry").is_displayed()
    page.problems()  # the refused connections, which are right here


def test_a_key_is_asked_for_and_used(driver: Any):
    with live(FakeModel(text=SAID), api_key="sesame") as address:
        page = Page(driver, address)
        page.open()
        page.find("#prompt").send_keys("hello\n")
        page.until(lambda: "API key" in page.find("#problem").text)
        page.click("#open-settings")
        page.find("#key").send_keys("sesame")
        page.type(ESCAPE)
        page.click(".retry")
        page.until(lambda: page.answers() == [SAID] and not page.busy())
        page.problems()  # the 401, which is right here


def test_every_control_has_a_name(page: Page):
    page.ask("hello")
    page.click("#open-settings")
    nameless = """return [...document.querySelectorAll('button, input, textarea')].filter((e) =>
        !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).map((e) => e.outerHTML)"""
    assert page.driver.execute_script(nameless) == []
