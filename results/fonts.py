"""Fonts for pictures: matplotlib's own, or an installed one for characters that it lacks."""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache

ASCII = frozenset(map(chr, range(33, 127)))
# In the names of fonts that are taken only if no other will do.
SPECIAL = ("bold", "black", "italic", "oblique", "light", "thin", "condensed", "mono", "serif")


@cache
def default_font() -> str:
    """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, Arabic and many symbols."""
    from matplotlib import get_data_path

    return os.path.join(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@cache
def font_for(text: str) -> str | None:
    """The file of a font that can draw all of a text; None if there is none."""
    if text.isascii() and text.isprintable():
        return default_font()
    if any(unicodedata.bidirectional(character) in ("R", "AL") for character in text):
        from PIL import features

        if not features.check("raqm"):  # which puts letters from right to left, and joins them
            return None
    wanted = {character for character in text if not _is_blank(character)}
    return next((file for file in (default_font(), *installed_fonts()) if wanted <= characters(file)), None)


def drawable(text: str) -> str:
    """A text in which characters that no font has are written as ``\\u732b``."""
    return text if font_for(text) else text.encode("ascii", "backslashreplace").decode()


@cache
def installed_fonts() -> Sequence[str]:
    """The system's scalable fonts that have ASCII too, upright sans-serif ones first; looked for once."""
    from matplotlib.font_manager import findSystemFonts

    def rank(file: str) -> tuple[bool, str]:
        name = os.path.basename(file).lower()
        return any(word in name for word in SPECIAL), name

    # macOS has a font of last resort, with a box for every character.
    return [f for f in sorted(findSystemFonts(), key=rank) if "lastresort" not in f.lower() and characters(f) >= ASCII]


@cache
def characters(file: str) -> frozenset[str]:
    """What a font can draw; nothing if it has only bitmaps, as for coloured emoji, or cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
        return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
    except (OSError, RuntimeError, ValueError):
        return frozenset()


def families(texts: Iterable[str]) -> list[str]:
    """For matplotlib's ``font.family``: its default, and the installed fonts that draw what that lacks."""
    from matplotlib.font_manager import FontProperties, fontManager

    found = ["sans-serif"]
    for file in dict.fromkeys(map(font_for, texts)):
        if file not in (None, default_font()):
            fontManager.addfont(file)  # it may have been installed after matplotlib made its list
            found.append(FontProperties(fname=file).get_name())
    return found


def _is_blank(character: str) -> bool:
    """Whether a character needs no glyph: spaces, joiners, variation selectors."""
    return unicodedata.category(character) in ("Zs", "Cf") or "\ufe00" <= character <= "\ufe0f"
