"""TensorBoard and demo.py in a headless Chromium, for tests of what is on their pages and the docs' screenshots."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

# All words on a page, those behind shadow roots too. (A tag's group and its name are two elements.)
WORDS = """
const found = [];
const walk = node => {
  if (node.nodeType === Node.TEXT_NODE) { if (node.textContent.trim()) found.push(node.textContent.trim()); }
  else if (!['SCRIPT', 'STYLE', 'TEMPLATE'].includes(node.nodeName)) {
    if (node.shadowRoot) node.shadowRoot.childNodes.forEach(walk);
    if (node.nodeName === 'INPUT' && node.value) found.push(node.value);
    node.childNodes.forEach(walk);
  }
};
walk(document.body);
return found.join('\\n').replaceAll('\\n/', '/');
"""
# Clicks on the first element that has just this text, the innermost one.
CLICK = """
const wanted = arguments[0];
let target = null;
const walk = node => {
  const first = !target || target.contains(node);
  if (first && node instanceof HTMLElement && node.textContent.trim() === wanted) target = node;
  if (node.shadowRoot) node.shadowRoot.childNodes.forEach(walk);
  node.childNodes.forEach(walk);
};
walk(document.body);
if (target) target.click();
return Boolean(target);
"""
# How many pictures have been loaded.
PICTURES = """
let count = 0;
const walk = node => {
  if (node.nodeName === 'IMG' && node.complete && node.naturalWidth > 50) count += 1;
  if (node.shadowRoot) node.shadowRoot.childNodes.forEach(walk);
  node.childNodes.forEach(walk);
};
walk(document.body);
return count;
"""


def missing() -> str | None:
    """What is not installed of what this takes."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        return "Chromium and its driver are not installed (Debian: chromium, chromium-driver)"
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed"
    return None


@contextmanager
def served(*command: str | Path, **options) -> Iterator[tuple[subprocess.Popen, str]]:
    """(the process of a Python command, the address that it prints). Args: options: of the process."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **options}
    process = subprocess.Popen([sys.executable, *command], **options)
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if address := re.search(r"http://127.0.0.1:\d+/", line):
                yield process, address[0]
                return
        raise RuntimeError(f"{command} ended with {process.wait()}: {''.join(lines)}")
    finally:
        process.kill()
        process.wait()


@contextmanager
def tensorboard(folder: Path) -> Iterator[str]:
    """The address of a TensorBoard of a folder."""
    options = ["--logdir", str(folder), "--port", "0", "--host", "127.0.0.1", "--load_fast", "false"]
    with served("-m", "tensorboard.main", *options) as (_, address):
        yield address


class Page:
    """A tab of a headless Chromium.

    Args:
        width, height: of the page, in pixels.
    """

    def __init__(self, width: int = 1400, height: int = 1000):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            options.add_argument(flag)
        options.add_argument(f"--window-size={width},{height}")
        service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options, service)
        self.resize(width, height)

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_) -> None:
        self.driver.quit()

    def resize(self, width: int, height: int) -> None:
        """The page, without the window's frame."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def open(self, address: str, tab: str, tags: str = "", runs: str = "") -> None:
        """Args: tab: the end of its address, say ``timeseries``; tags, runs: regular expressions of what to show."""
        self.driver.get("about:blank")  # else another tab would not load the page anew
        tags, runs = quote(tags), quote(runs)  # the newest tab reads the query, the older ones the fragment
        self.driver.get(f"{address}?tagFilter={tags}&runFilter={runs}#{tab}&tagFilter={tags}&regexInput={runs}")

    def settle(self, address: str, **settings: bool | float) -> None:
        """TensorBoard's settings, as the browser remembers them, say ``scalarSmoothing=0``; for pages opened later."""
        self.driver.get(address)
        for key in ("_tb_global_settings", "_tb_global_settings.timeseries"):
            self.driver.execute_script("localStorage.setItem(arguments[0], arguments[1])", key, json.dumps(settings))

    def click(self, text: str) -> None:
        if not self.driver.execute_script(CLICK, text):
            raise ValueError(f"nothing to click on says {text}; the page has:\n{self.words()}")

    def drop(self, file: Path) -> None:
        """On the page's field for a file."""
        self.driver.find_element("css selector", "input[type=file]").send_keys(str(file))

    def words(self) -> str:
        return self.driver.execute_script(WORDS)

    def wait_for(self, *words: str, pictures: int = 0, seconds: float = 40) -> str:
        """The page's words, once all of these are among them and so many pictures are shown."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.words()
            lacking = [word for word in words if word not in found]
            shown = self.driver.execute_script(PICTURES) if pictures and not lacking else 0
            if not lacking and shown >= pictures:
                return found
            if time.monotonic() > deadline:
                raise TimeoutError(f"{lacking or f'{shown} pictures'} after {seconds} s; the page has:\n{found}")
            time.sleep(0.2)
