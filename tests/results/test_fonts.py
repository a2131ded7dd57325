"""Names that matplotlib's font lacks are drawn with an installed font, or numbered."""

import logging
import warnings

import numpy as np
import pytest
import torch
from matplotlib import get_data_path
from PIL import ImageDraw

from callbacks.plots import confusion_matrix, label_title
from results import figures, fonts, pictures
from results.table import read_jobs, tabulate
from tests.results.test_report import put

STIX = f"{get_data_path()}/fonts/ttf/STIXGeneral.ttf"  # as a font that somebody has installed
OTHER = min(fonts.characters(STIX) - fonts.characters(fonts.default_font()))  # which DejaVu Sans lacks
NAMES = ["cat", "猫", "हिन्दी", f"{OTHER} x", "ünï", "猫 🐱 cat"]


@pytest.fixture(params=[True, False], ids=["installed", "none"])
def installed(request, monkeypatch):
    """Whether STIX is among the installed fonts; nothing else is."""
    for cached in (fonts.font_for, pictures._undrawable):
        cached.cache_clear()
    monkeypatch.setattr(fonts, "installed_fonts", lambda: [STIX] if request.param else [])
    yield request.param
    fonts.font_for.cache_clear()
    pictures._undrawable.cache_clear()


def test_a_font_is_chosen_that_has_all_characters(installed):
    assert [fonts.font_for(text) for text in ("cat", "ünï (98.0%)…")] == [fonts.default_font()] * 2
    assert fonts.font_for(NAMES[3]) == (STIX if installed else None)
    assert fonts.font_for("猫") is None
    assert fonts.font_for("☃\ufe0f") == fonts.default_font()  # how a snowman is to be shown needs no glyph
    assert fonts.families([*NAMES, NAMES[3]]) == ["sans-serif"] + ["STIXGeneral"] * installed
    assert pictures.open_font(11, NAMES[3]).path == (STIX if installed else fonts.default_font())


def test_classes_are_numbered_and_the_legend_is_logged_once(installed, caplog):
    caplog.set_level(logging.INFO)
    other = NAMES[3] if installed else "class 3"
    for _ in range(2):
        assert pictures.class_labels(NAMES) == ["cat", "class 1", "class 2", other, "ünï", "class 5"]
    warning, legend = caplog.records
    count = 3 if installed else 4
    assert warning.message == f"no installed font can draw {count} of 6 class names; pictures show numbers"
    assert warning.levelname == "WARNING" and "class 1 = 猫  class 2 = हिन्दी  class" in legend.message


def test_nothing_is_drawn_that_would_be_a_box(installed, monkeypatch):
    drawn = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, place, text, *_, **__: drawn.append(text))
    counts = torch.ones(6, 6, dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a missing glyph
        confusion_matrix(counts, NAMES)
    titles = [label_title(torch.tensor(label), NAMES) for label in range(6)]
    titles += [label_title(torch.eye(6)[label], NAMES) for label in range(6)] + [pictures.shorten("猫/1.png")]
    pictures.picture_grid(np.zeros((13, 3, 4, 4), np.uint8), titles)
    assert {"cat", "class 1", "100% class 2", r"\u732b/1.png", "ünï"} <= set(drawn)
    assert all(map(fonts.font_for, drawn))


def test_a_long_name_is_cut_where_it_is_as_wide_as_latin_letters(monkeypatch):
    monkeypatch.setattr(pictures, "drawable", lambda text: text)
    assert pictures.shorten("a" * 20) == "a" * 20 and pictures.shorten("a" * 21) == "a" * 19 + "…"
    assert pictures.shorten("猫" * 10) == "猫" * 10 and pictures.shorten("猫" * 11) == "猫" * 9 + "…"


def test_plots_of_a_report_have_no_boxes(installed, tmp_path):
    for number, name in enumerate(NAMES[:4]):
        put(tmp_path / str(number), f"datamodule.name={name}", metrics={"val/top1": number / 10}, params=number + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a missing glyph
        assert len(figures.draw(tabulate(read_jobs([tmp_path]), "val/top1"))) == 3
