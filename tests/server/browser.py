"""A real headless browser, for the chat page: the one that the system has, never one from the network."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
)  # fmt: skip
PHONE, DESKTOP = (390, 844), (1200, 860)
TAB, ENTER, SHIFT, ESCAPE = "\ue004", "\ue007", "\ue008", "\ue00c"  # WebDriver's codes of keys


def missing() -> str:
    """What keeps a browser from running here, in words; empty when nothing does."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed (pip install 'soberano[test]')"
    if not (shutil.which("chromium") or shutil.which("google-chrome")):
        return "no chromium on the PATH (Debian: apt-get install chromium chromium-driver)"
    return (
        "" if shutil.which("chromedriver") else "no chromedriver on the PATH (Debian: apt-get install chromium-driver)"
    )


class Page:
    """The chat page in a browser window, and what a person does with it."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver, self.address = driver, address

    def open(self) -> None:
        self.driver.get(self.address)
        self.until(lambda: self.find("#model").get_attribute("data-state") == "ready")

    def find(self, selector: str) -> Any:
        from selenium.webdriver.common.by import By

        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[Any]:
        from selenium.webdriver.common.by import By

        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def type(self, *keys: str) -> None:
        """Send keys to whatever has the focus."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def until(self, condition: Callable[[], Any], seconds: float = 15.0) -> Any:
        """Wait for a condition; the page may redraw while it is looked at."""
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.wait import WebDriverWait

        waiting = WebDriverWait(self.driver, seconds, 0.03, ignored_exceptions=[StaleElementReferenceException])
        return waiting.until(lambda _: condition())

    def answers(self) -> list[str]:
        return self.driver.execute_script(
            "return [...document.querySelectorAll('article.assistant .text')].map((e) => e.innerText.trim())"
        )

    def busy(self) -> bool:
        return bool(self.all("article[aria-busy]"))

    def ask(self, text: str, seconds: float = 15.0) -> str:
        """Type, send, wait for the whole answer and return it."""
        self.find("#prompt").send_keys(text, ENTER)
        self.until(lambda: self.answers() and not self.busy(), seconds)
        return self.answers()[-1]

    def size(self, width: int, height: int) -> None:
        wanted = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", wanted)

    def scheme(self, name: str) -> None:
        wanted = {"features": [{"name": "prefers-color-scheme", "value": name}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)

    def problems(self) -> list[str]:
        """What the browser's console complained about: scripts that failed, requests that the policy refused."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def picture(self, path: Path) -> None:
        self.driver.save_screenshot(str(path))


@contextmanager
def browser() -> Iterator[Any]:
    """A fresh browser with a profile of its own, gone afterwards."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            yield driver
        finally:
            driver.quit()
