"""The axes and labels of a report's plots."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from results.fonts import drawable
from results.table import human, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_LABELS = 16  # points of a cost plot that all get a label; of more, those of the front do


def plain(text: str) -> str:
    """A text in which matplotlib sees no formula, clipped, in characters that can be drawn."""
    text = drawable(text)
    return (text if len(text) <= 60 else text[:59] + "…").replace("$", r"\$")


def scale_x(axes: "Axes", values: Sequence[str], scaled: bool) -> tuple[dict[str, float], bool]:
    """Prepare the axis of a key, and say where its values stand, and whether as words, side by side."""
    numbers = [number(value) for value in values]
    words = not scaled or None in numbers
    if words:
        place = {value: float(i) for i, value in enumerate(values)}
    else:
        place = dict(zip(values, numbers, strict=True))
        if min(numbers) > 0 and max(numbers) / min(numbers) >= 8:
            axes.set_xscale("log", base=2)
    at = [math.log2(place[value]) if axes.get_xscale() == "log" else place[value] for value in values]
    width, ticks = max(at) - min(at), []
    for i, position in enumerate(at):  # those that have room
        if not ticks or position - at[ticks[-1]] >= width * (0.05 if not words else 0.025):
            ticks.append(i)
    axes.set_xticks([place[values[i]] for i in ticks], [plain(values[i]) for i in ticks])
    axes.set_xticks([], minor=True)
    tilt(axes)
    if words:
        axes.set_xlim(-0.5, len(values) - 0.5)
    return place, words


def tilt(axes: "Axes") -> None:
    """Turn the labels of the x axis if they are too long to stand side by side."""
    texts = axes.get_xticklabels()
    if len(texts) * (max(len(text.get_text()) for text in texts) + 1) > 9 * axes.figure.get_figwidth():
        for text in texts:
            text.set(rotation=40, ha="right", rotation_mode="anchor")


def scale_cost(axes: "Axes", xs: Sequence[float]) -> None:
    """Room for the labels on both sides, and ticks with units, few enough to be read."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    low, high = min(xs), max(xs)
    room = max((high / low) ** 0.14, 1.08)
    low, high = low / room, high * room
    subs = (1, 2, 5) if high / low < 200 else (1,)
    ticks = (MaxNLocator(4) if high / low < 8 else LogLocator(subs=subs)).tick_values(low, high)
    ticks = [tick for tick in ticks if low <= tick <= high] if max(xs) > min(xs) else [xs[0]]
    axes.set_autoscalex_on(False)  # it would complain of points at one cost
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [human(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.margins(y=0.12)


def write_labels(axes: "Axes", xs: list[float], ys: list[float], labels: list[str], front: list[int], lower: bool):
    """Name the points, those of the front first, wherever a name covers neither another nor a point."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    up, bottom, top = (-1, "top", "bottom") if lower else (1, "bottom", "top")
    spots = [  # around a point, from where the front never runs to where it mostly does
        (-7, 5 * up, "right", bottom), (0, 8 * up, "center", bottom), (-9, 0, "right", "center"),
        (7, 5 * up, "left", bottom), (-7, -5 * up, "right", top), (9, 0, "left", "center"),
        (0, -8 * up, "center", top), (7, -5 * up, "left", top),
    ]  # fmt: skip
    renderer, frame = axes.figure.canvas.get_renderer(), axes.get_window_extent()
    places = [axes.transData.transform(point) for point in zip(xs, ys, strict=True)]
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in places]
    rest = [i for i in range(len(xs)) if i not in front] if len(xs) <= MAX_LABELS else []
    for i in [*front, *rest]:
        text = axes.annotate(plain(labels[i]), (xs[i], ys[i]), (0, 0), textcoords="offset points", fontsize=8)
        text.set(in_layout=False, path_effects=[withStroke(linewidth=2.5, foreground="white")], zorder=4)
        for dx, dy, ha, va in spots if i in front else reversed(spots):
            text.set(position=(dx, dy), ha=ha, va=va)
            box = text.get_window_extent(renderer)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
        else:
            text.remove()
