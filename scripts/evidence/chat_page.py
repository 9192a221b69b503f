"""Evidence: a person's way through the chat page in a real headless browser, against `soberano serve`.

    make evidence TOPIC=chat_page

Types, streams, stops, retries, sets a system prompt; on a desktop and on a phone, light and dark. Saves pictures to
build/chat_page/, prints what was seen, and exits with 1 when something does not hold.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.server.browser import DESKTOP, ENTER, ESCAPE, PHONE, Page, browser, missing
from tests.server.live import program

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "build" / "chat_page"
QUESTION = "List five good habits for learning a language."


def converse(page: Page) -> None:
    """Type, stream, stop, retry, system prompt. Raises AssertionError or TimeoutException."""
    page.find("#prompt").send_keys(QUESTION, ENTER)
    began = time.monotonic()
    page.until(lambda: page.answers() and page.answers()[0], 60)
    print(f"holds   stream    first text after {time.monotonic() - began:.2f} s")
    page.until(lambda: len(page.answers()[0]) > 40, 60)
    assert page.busy(), "the answer was complete before it could be stopped"
    page.click("#stop")
    page.until(lambda: not page.busy())
    count = page.find("article.assistant .count").text
    assert "stopped" in count, count
    print(f"holds   stop      {count}")
    page.click(".retry")
    page.until(page.busy)
    page.until(lambda: not page.busy(), 120)
    count = page.find("article.assistant .count").text
    assert "tokens/s" in count and "stopped" not in count, count
    print(f"holds   retry     {count}")
    page.click("#open-settings")
    page.find("#system").send_keys("You answer in one short sentence.")
    page.find("#max_tokens").send_keys("60")
    page.type(ESCAPE)
    page.find("#prompt").send_keys("Why is the sky blue?", ENTER)
    page.until(lambda: len(page.answers()) == 2 and not page.busy(), 120)
    print(f"holds   system    {page.answers()[-1][:90]!r}")
    assert page.problems() == [], "the browser's console is not empty"


def look(page: Page) -> None:
    """Take a picture of every window and colour scheme, and see that none scrolls sideways."""
    for size_name, size in (("desktop", DESKTOP), ("phone", PHONE)):
        page.size(*size)
        for scheme in ("light", "dark"):
            page.scheme(scheme)
            page.picture(PICTURES / f"{size_name}-{scheme}.png")
        wide = page.driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{size_name}: the page is {wide} pixels too wide"
    print(f"holds   pictures  {PICTURES.relative_to(ROOT)}/{{desktop,phone}}-{{light,dark}}.png")


def main(arguments: list[str]) -> int:
    """Run it all; return the exit status."""
    if missing():
        print(f"cannot run: {missing()}")
        return 1
    PICTURES.mkdir(parents=True, exist_ok=True)
    with program(*(arguments or ["--demo"])) as address, browser() as driver:
        page = Page(driver, address)
        page.size(*DESKTOP)
        page.open()
        print(f"chat page of {address}, model {page.find('#model-name').text}, {driver.capabilities['browserName']}")
        try:
            converse(page)
            look(page)
        except Exception as why:  # a browser fails in many ways; every one of them is a case that does not hold
            page.picture(PICTURES / "failed.png")
            print(f"FAILED  {why}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
