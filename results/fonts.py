"""Fonts for pictures: matplotlib's default, or an installed one for characters that the default lacks."""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache

ASCII = frozenset(map(chr, range(33, 127)))
# Words in the names of fonts that are used only if no other font will do.
SPECIAL = ("bold", "black", "italic", "oblique", "light", "thin", "condensed", "mono", "serif")


@cache
def default_font() -> str:
    """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, Arabic and many symbols."""
    from matplotlib import get_data_path

    return os.path.join(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@cache
def font_for(text: str) -> str | None:
    """The file of a font that can draw the whole text, or None."""
    if text.isascii() and text.isprintable():
        return default_font()
    if any(unicodedata.bidirectional(character) in ("R", "AL") for character in text):
        from PIL import features

        if not features.check("raqm"):  # orders letters from right to left and joins them
            return None
    wanted = {character for character in text if not _is_blank(character)}
    return next((file for file in (default_font(), *installed_fonts()) if wanted <= characters(file)), None)


def drawable(text: str) -> str:
    """The text; if no font can draw it, with escapes such as ``\\u732b`` for non-ASCII characters."""
    return text if font_for(text) else text.encode("ascii", "backslashreplace").decode()


@cache
def installed_fonts() -> Sequence[str]:
    """The system's scalable fonts that cover ASCII, upright sans-serif ones first; searched once."""
    from matplotlib.font_manager import findSystemFonts

    def rank(file: str) -> tuple[bool, str]:
        name = os.path.basename(file).lower()
        return any(word in name for word in SPECIAL), name

    # macOS has a font of last resort, with a box for every character.
    return [f for f in sorted(findSystemFonts(), key=rank) if "lastresort" not in f.lower() and characters(f) >= ASCII]


@cache
def characters(file: str) -> frozenset[str]:
    """The characters that a font can draw; empty if it has only bitmaps, as for colour emoji, or is unreadable."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
        return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
    except (OSError, RuntimeError, ValueError):
        return frozenset()


def families(texts: Iterable[str]) -> list[str]:
    """A value for matplotlib's ``font.family``: the default, then installed fonts for characters that it lacks."""
    from matplotlib.font_manager import FontProperties, fontManager

    names = ["sans-serif"]
    for file in dict.fromkeys(map(font_for, texts)):
        if file not in (None, default_font()):
            fontManager.addfont(file)  # it may have been installed after matplotlib listed the fonts
            names.append(FontProperties(fname=file).get_name())
    return names


def _is_blank(character: str) -> bool:
    """Whether a character needs no glyph: spaces, joiners, variation selectors."""
    return unicodedata.category(character) in ("Zs", "Cf") or "\ufe00" <= character <= "\ufe0f"
