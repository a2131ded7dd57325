"""How a report's plots are drawn."""

import io
import math
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from results.axes import plain, scale_cost, scale_x, tilt, write_labels
from results.fonts import families
from results.plots import axis_values, cells, lines, pareto, points
from results.table import Table, order, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = "#0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9 #000000 #8C510A".split()  # Okabe and Ito's, but no yellow
MARKERS = "osD^vPX*"
COSTS = {"params": "parameters", "flops_per_image": "FLOPs per image", "train_seconds": "training time (s)"}
MAX_SIDE = 30  # values along a side of the heat map; more could not be read


class Plot(NamedTuple):
    """What a plot shows, as plain numbers and texts, and the function that draws it."""

    data: Any
    figure: Callable[[], "Figure"]


def draw(table: Table) -> dict[str, bytes]:
    """Every plot that the table has at least two numbers for, as a PNG under its file's name."""
    from matplotlib import rc_context

    texts = [*table.keys.values(), *(value for row in table.rows for value in row.values.values())]
    with rc_context({"font.family": families(texts)}):
        return {name: to_png(plot.figure()) for name, plot in plots(table).items()}


def plots(table: Table) -> dict[str, Plot]:
    """Every plot that the table has at least two numbers for, under its file's name."""
    found: dict[str, Plot] = {}
    for key, title in table.keys.items() or {"seed": "seed"}.items():
        drawn = lines(table, key)
        if sum(len(line.x) for line in drawn[0]) > 1:
            name = "report_" + re.sub("[^A-Za-z0-9._-]+", "-", title) + ".png"
            clash = name in found or title in ("heatmap", "cost")
            name = name.replace(".png", f"_{len(found)}.png") if clash else name
            found[name] = Plot((table.metric, title, drawn), partial(key_figure, table, key))
    if len(table.measured) > 1:
        if len(table.keys) == 2 and all(len(axis_values(table, key)) <= MAX_SIDE for key in table.keys):
            axes = [(title, axis_values(table, key)) for key, title in table.keys.items()]
            found["report_heatmap.png"] = Plot((table.metric, axes, cells(table)), partial(heatmap_figure, table))
        drawn = [points(table, cost) for cost in COSTS]
        found["report_cost.png"] = Plot((table.metric, list(table.keys.values()), drawn), partial(cost_figure, table))
    return found


def to_png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def new_figure(width: float, height: float, **options) -> "Figure":
    """An empty figure of so many inches; options as of matplotlib's ``Figure``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # without pyplot: no window system, no global state
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), **({"layout": "constrained"} | options))
    FigureCanvasAgg(figure)
    return figure


def key_figure(table: Table, key: str) -> "Figure":
    found, averaged = lines(table, key)
    title, others = table.keys.get(key, key), [t for k, t in table.keys.items() if k != key]
    figure = new_figure(8.2 if len(found) > 1 else 6.4, 4.4)
    axes = figure.add_subplot()
    values = order([x for line in found for x in line.x])
    place, words = scale_x(axes, values, key != "seed")
    scale = 100 if percent(table.metric) else 1
    for i, line in enumerate(found):
        shift = 0.1 * (i - (len(found) - 1) / 2) * min(1, 5 / len(found)) if words else 0  # bars side by side
        stroke = "" if key == "seed" else ":" if words else "-" if len(values) <= 20 else ""
        axes.errorbar(
            [place[x] + shift for x in line.x],
            [scale * y for y in line.y],
            yerr=[scale * error for error in line.errors],
            label=plain(line.label.removeprefix(f"{others[0]} ") if len(others) == 1 else line.label),
            color=COLORS[i],
            marker=MARKERS[i],
            linestyle=stroke,
            capsize=4,
        )
    axes.set(xlabel=plain(title), ylabel=metric_label(table))
    axes.grid(alpha=0.3)
    if len(found) > 1:
        figure.legend(loc="outside right center", title=plain(others[0]) if len(others) == 1 else None)
    bars = "over configurations" if averaged else "over seeds" if key != "seed" else ""
    told = f", mean over {', '.join(others)}" if averaged else ""
    axes.set_title(plain(f"{table.metric} by {title}{told}"), fontsize=11)
    if any(not math.isnan(error) for line in found for error in line.errors):
        figure.supxlabel(f"bars: ± one standard deviation {bars}", fontsize=8, x=0.01, ha="left", color="0.35")
    return figure


def heatmap_figure(table: Table) -> "Figure":
    from matplotlib import colormaps

    down, across = table.keys
    rows, columns, grid = axis_values(table, down), axis_values(table, across), cells(table)
    scale = 100 if percent(table.metric) else 1
    numbers = [[math.nan if isinstance(cell, str) else scale * cell for cell in line] for line in grid]
    figure = new_figure(max(4.5, 2.4 + 0.85 * len(columns)), max(3, 1.4 + 0.55 * len(rows)))
    axes = figure.add_subplot()
    colors = colormaps["viridis_r" if table.lower else "viridis"]
    picture = axes.imshow(numbers, cmap=colors, aspect="auto", origin="lower")
    figure.colorbar(picture, label=metric_label(table))
    axes.set_xticks(range(len(columns)), [plain(value) for value in columns])
    axes.set_yticks(range(len(rows)), [plain(value) for value in rows])
    tilt(axes)
    axes.set(xlabel=plain(table.keys[across]), ylabel=plain(table.keys[down]))
    for y, line in enumerate(grid):
        for x, cell in enumerate(line):
            if isinstance(cell, str):
                axes.fill_between([x - 0.5, x + 0.5], y - 0.5, y + 0.5, facecolor="0.93", edgecolor="0.7", hatch="//")
                text, color = cell, "0.25"
            else:
                red, green, blue, _ = colors(picture.norm(scale * cell))
                text = f"{scale * cell:.2f}" if scale == 100 else f"{cell:.3g}"
                color = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
            axes.text(x, y, text, ha="center", va="center", color=color, fontsize=9).set_in_layout(False)
    return figure


def cost_figure(table: Table) -> "Figure":
    figure = new_figure(14, 5.2)
    scale = 100 if percent(table.metric) else 1
    panels = figure.subplots(1, len(COSTS), sharey=True)
    fronts = []
    for axes, (cost, title) in zip(panels, COSTS.items(), strict=True):
        found = points(table, cost)
        axes.set(xlabel=title, xscale="log")
        axes.grid(alpha=0.3)
        if not found:
            axes.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=axes.transAxes)
            axes.set_xticks([])
            continue
        xs, ys = [point[0] for point in found], [scale * point[1] for point in found]
        front = pareto(xs, ys, table.lower)
        errors = [scale * point[2] for point in found]
        axes.errorbar(xs, ys, yerr=errors, fmt="none", ecolor="0.75", elinewidth=1, zorder=1)
        axes.plot(xs, ys, "o", color=COLORS[0], markersize=6, label="configuration")
        best = {"color": COLORS[1], "marker": "o", "markersize": 9, "markerfacecolor": "none"}
        axes.plot([xs[i] for i in front], [ys[i] for i in front], drawstyle="steps-post", label="Pareto front", **best)
        scale_cost(axes, xs)
        fronts.append((axes, xs, ys, [point[3] for point in found], front, table.lower))
    panels[0].set_ylabel(metric_label(table))
    handles, labels = fronts[0][0].get_legend_handles_labels() if fronts else ([], [])
    figure.legend(handles, labels, loc="outside upper right", ncols=2)
    figure.suptitle(plain(f"labels: {' · '.join(table.keys.values())}"), fontsize=10, x=0.01, ha="left")
    figure.draw_without_rendering()  # so that the texts' places on the page are known
    for panel in fronts:
        write_labels(*panel)
    return figure


def metric_label(table: Table) -> str:
    return plain(f"{table.metric} (%)" if percent(table.metric) else table.metric)
