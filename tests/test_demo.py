"""The page of demo.py: what a person sees who drops an image on it, and what ends it before it starts."""

import os
import re
import signal
import socket
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import demo
from datamodules.digits import read_digits
from inference import load_trained
from tests import browser

ROOT = Path(__file__).parent.parent


@pytest.fixture
def digit(tmp_path):
    """A digit as an image file."""
    images, _ = read_digits()
    Image.fromarray(images[-1].mul(255 / 16).round().byte().numpy()).save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


def test_the_answer_comes_first_and_then_what_speaks_for_it(trained, digit):
    network = load_trained(trained)
    (first, nothing), (second, picture) = demo.look(network, str(digit))
    assert first == second == dict(zip("0123456789", network(digit)[0].tolist(), strict=True))
    assert nothing is None and picture.shape == (12 + 192 + 2 * 15 + 12, 12 + 2 * (192 + 12), 3)
    # The network's input is grey, as it is; the map beside it has colours where a window changes the answer.
    left, right = np.split(picture[12 + 2 * 15 : -12, :408].astype(int), 2, axis=1)
    assert [np.ptp(half, axis=2).max() > 50 for half in (left, right)] == [False, True]


@pytest.mark.parametrize(
    "argv, error",
    [
        ("ckpt=rum", "ckpt=rum: no such file or folder"),
        ("ckpt=run port=TAKEN", "port=TAKEN is in use or no port; expected 1024 to 65535, or 0 for any"),
        ("ckpt=run port=65536", "port=65536 is in use or no port"),
        ("ckpt=run port=-1", "port=-1: expected a whole number, at least 0"),
        ("ckpt=run port=web", "port=web: expected a whole number, such as 7860"),
        ("ckpt=run share=true", "share: no such key"),
    ],
)
def test_what_cannot_be_served_is_one_line(argv, error, examine, monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda package: True)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        found = examine(argv.replace("TAKEN", taken).split(), "demo", demo.check)
    assert found.code == 2 and found.error.startswith(error.replace("TAKEN", taken))


def test_a_missing_extra_is_named_before_torch_is_imported(examine, lean, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda package: None)
    found = examine(["ckpt=run"], "demo", demo.check)
    assert found.code == 2
    assert found.error == "demo.py needs gradio, captum, not installed: pip install -e '.[demo]'"
    done = lean("demo.py", "ckpt=run", cwd=tmp_path)
    assert (done.code, done.imported, done.err.count("\n")) == (2, [], 1) and done.err.startswith("error: ")


@pytest.mark.skipif(not find_spec("gradio"), reason="gradio is not installed: pip install -e '.[demo]'")
@pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "")
def test_a_person_drops_an_image_and_reads_the_answer(trained, digit, tmp_path):
    probabilities, classes = load_trained(trained)(digit)[0].topk(5)
    answer = [text for p, c in zip(probabilities, classes, strict=True) for text in (str(int(c)), f"{p:.0%}")]
    broken, note, uploads = tmp_path / "broken.png", tmp_path / "note.txt", tmp_path / "uploads"
    broken.write_text("no image")
    note.write_text("no image")
    environment = os.environ | {"GRADIO_TEMP_DIR": str(uploads), "http_proxy": "http://127.0.0.1:9"}  # no such proxy
    command = (ROOT / "demo.py", f"ckpt={trained}", "port=0")
    with browser.served(*command, cwd=tmp_path, env=environment) as (process, address), browser.Page() as page:
        page.driver.get(address)
        page.wait_for("Likeliest classes")
        page.drop(digit)
        found = page.wait_for("%", pictures=1)
        assert re.findall(r"^(\d|\d+%)$", found, re.MULTILINE) == [str(int(classes[0])), *answer]
        script = "return performance.getEntriesByType('resource').map(entry => new URL(entry.name).origin + '/')"
        assert set(page.driver.execute_script(script)) == {address}  # nothing from or to anywhere else
        for file, message in ((broken, "broken.png cannot be read as an image"), (note, "Invalid file type: note.txt")):
            page.driver.get(address)
            page.wait_for("Likeliest classes")
            page.drop(file)
            page.wait_for(message)
        assert list(uploads.rglob("digit.png"))
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
        assert (process.returncode, rest) == (130, "")
    left = [path for path in uploads.rglob("*") if path.is_file() and path.stat().st_size]  # Gradio leaves empty files
    assert not left
