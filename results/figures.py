"""The plots of a sweep's report, drawn by matplotlib without pyplot: no window system, no global state."""

import io
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from results.fonts import drawable, families
from results.metrics import is_percentage, lower_is_better
from results.pictures import new_figure
from results.table import SweepTable, as_number, human, ordered

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = "#0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9 #000000 #8C510A".split()  # Okabe and Ito's, without yellow
MARKERS = "osD^vPX*"
COSTS = {"params": "parameters", "flops_per_image": "FLOPs per image", "train_seconds": "training time (s)"}
MAX_LINES = 8  # in one plot
MAX_SIDE = 30  # values along a side of a heat map


class Plot(NamedTuple):
    """What a plot shows, as plain numbers and texts, and the function that draws it."""

    data: Any
    figure: "Callable[[], Figure]"


def draw(table: SweepTable) -> dict[str, bytes]:
    """Every plot that the table has at least two numbers for, as a PNG under its file name."""
    from matplotlib import rc_context

    texts = [*table.titles, *(value for title in table.titles for value in table.rows[title])]
    with rc_context({"font.family": families(texts)}):
        return {name: to_png(plot.figure()) for name, plot in plots(table).items()}


def plots(table: SweepTable) -> dict[str, Plot]:
    """Every plot that the table has at least two numbers for, under its file name."""
    found: dict[str, Plot] = {}
    for key, title in table.keys.items() or {"seed": "seed"}.items():
        drawn = {label: line.reset_index().to_numpy().tolist() for label, line in lines(table, key).items()}
        if sum(map(len, drawn.values())) > 1:
            name = "report_" + re.sub("[^A-Za-z0-9._-]+", "-", title) + ".png"
            taken = name in found or title in ("heatmap", "cost")
            name = name.replace(".png", f"_{len(found)}.png") if taken else name
            found[name] = Plot((table.metric, title, drawn), partial(line_figure, table, key))
    if len(table.measured) > 1:
        numbers = [table.metric, f"{table.metric} std", *COSTS]
        data = table.rows[[*table.titles, *numbers, "status"]].to_numpy().tolist()
        if len(table.keys) == 2 and all(table.rows[title].nunique() <= MAX_SIDE for title in table.titles):
            found["report_heatmap.png"] = Plot((table.metric, table.titles, data), partial(heatmap_figure, table))
        found["report_cost.png"] = Plot((table.metric, table.titles, data), partial(cost_figure, table))
    return found


def to_png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def lines(table: SweepTable, key: str) -> dict[str, pd.DataFrame]:
    """The lines of the plot of one key: label → ``mean`` and ``std`` (NaN for one number) by the key's values.

    There is a line for each combination of the other keys. More than ``MAX_LINES`` become one line, ``""``, whose
    statistics are over configurations.
    """
    metric = table.metric
    if key == "seed":
        completed = table.jobs[table.jobs.status == "completed"]
        numbers = completed.record.map(lambda record: (record.get("metrics") or {}).get(metric)).astype(float)
        found = {
            "": pd.DataFrame({"mean": numbers.to_numpy(), "std": math.nan}, index=completed.seed).dropna(subset="mean")
        }
    else:
        measured, title = table.measured, table.keys[key]
        labels = measured.apply(lambda row: table.name(row, without=title), axis=1)
        if labels.nunique() > MAX_LINES:
            found = {"": measured.groupby(title)[metric].agg(["mean", "std"])}
        else:
            columns = {metric: "mean", f"{metric} std": "std"}
            one = len(table.keys) == 1
            found = {
                "" if one else label: measured[labels == label].set_index(title)[list(columns)].rename(columns=columns)
                for label in ordered(labels)
            }
    return {label: line.loc[ordered(line.index)] for label, line in found.items()}


def line_figure(table: SweepTable, key: str) -> "Figure":
    found, title = lines(table, key), table.keys.get(key, key)
    others = [other for other in table.titles if other != title]
    averaged = list(found) == [""] and len(others) > 0
    figure = new_figure(8.2 if len(found) > 1 else 6.4, 4.4)
    axes = figure.add_subplot()
    values = ordered(value for line in found.values() for value in line.index)
    position, is_numeric = _scale_x(axes, values, key)
    scale = 100 if is_percentage(table.metric) else 1
    for i, (label, line) in enumerate(found.items()):
        shift = 0 if is_numeric else 0.1 * (i - (len(found) - 1) / 2) * min(1, 5 / len(found))
        axes.errorbar(
            [position[value] + shift for value in line.index],
            scale * line["mean"],
            yerr=scale * line["std"],
            label=plain(label.removeprefix(f"{others[0]} ") if len(others) == 1 else label),
            color=COLORS[i],
            marker=MARKERS[i],
            linestyle="-" if is_numeric and len(values) <= 20 else "",
            capsize=4,
        )
    axes.set(xlabel=plain(title), ylabel=_metric_label(table))
    axes.grid(alpha=0.3)
    if len(found) > 1:
        figure.legend(loc="outside right center", title=plain(others[0]) if len(others) == 1 else None)
    suffix = f", mean over {', '.join(others)}" if averaged else ""
    axes.set_title(plain(f"{table.metric} by {title}{suffix}"), fontsize=11)
    if any(line["std"].notna().any() for line in found.values()):
        over = "configurations" if averaged else "seeds"
        note = f"bars: ± one standard deviation over {over}"
        figure.supxlabel(note, fontsize=8, x=0.01, ha="left", color="0.35")
    return figure


def _scale_x(axes: "Axes", values: Sequence[str], key: str) -> tuple[dict[str, float], bool]:
    """Prepare the x axis. Returns the position of each value, and whether the values are numbers."""
    numbers = [as_number(value) for value in values]
    is_numeric = key != "seed" and None not in numbers
    position = dict(zip(values, numbers if is_numeric else map(float, range(len(values))), strict=True))
    if is_numeric and min(numbers) > 0 and max(numbers) / min(numbers) >= 8:
        axes.set_xscale("log", base=2)
    axes.set_xticks(list(position.values()), map(plain, values))
    axes.set_xticks([], minor=True)
    _rotate_long_labels(axes)
    return position, is_numeric


def heatmap_figure(table: SweepTable) -> "Figure":
    """The metric by the two keys; a cell without a result says why."""
    from matplotlib import colormaps

    down, across = table.titles
    rows, columns = (ordered(table.rows[title]) for title in (down, across))
    scale = 100 if is_percentage(table.metric) else 1
    wide = table.rows.pivot(index=down, columns=across)
    numbers = scale * wide[table.metric].reindex(index=rows, columns=columns)
    status = wide["status"].reindex(index=rows, columns=columns).astype(object)
    status = status.where(status.notna(), "not run")
    figure = new_figure(max(4.5, 2.4 + 0.85 * len(columns)), max(3, 1.4 + 0.55 * len(rows)))
    axes = figure.add_subplot()
    colors = colormaps["viridis_r" if lower_is_better(table.metric) else "viridis"].with_extremes(bad="0.93")
    picture = axes.imshow(numbers.to_numpy(dtype=float), cmap=colors, aspect="auto", origin="lower")
    figure.colorbar(picture, label=_metric_label(table))
    axes.set_xticks(range(len(columns)), map(plain, columns))
    axes.set_yticks(range(len(rows)), map(plain, rows))
    _rotate_long_labels(axes)
    axes.set(xlabel=plain(across), ylabel=plain(down))
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            value = numbers.loc[row, column]
            if pd.isna(value):
                text, color = status.loc[row, column], "0.25"
            else:
                red, green, blue, _ = colors(picture.norm(value))
                text = f"{value:.2f}" if scale == 100 else f"{value:.3g}"
                color = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
            axes.text(x, y, text, ha="center", va="center", color=color, fontsize=9).set_in_layout(False)
    return figure


def cost_figure(table: SweepTable) -> "Figure":
    """The metric against each cost, with the Pareto front, whose configurations are named."""
    figure = new_figure(14, 5.2)
    scale = 100 if is_percentage(table.metric) else 1
    panels = figure.subplots(1, len(COSTS), sharey=True)
    for axes, (cost, title) in zip(panels, COSTS.items(), strict=True):
        found = table.measured[table.measured[cost] > 0]
        axes.set(xlabel=title)
        axes.grid(alpha=0.3)
        if found.empty:
            axes.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=axes.transAxes)
            axes.set_xticks([])
            continue
        values = scale * found[table.metric]
        axes.errorbar(
            found[cost], values, yerr=scale * found[f"{table.metric} std"], fmt="none", ecolor="0.75", zorder=1
        )
        axes.plot(found[cost], values, "o", color=COLORS[0], label="configuration")
        front = found.loc[pareto_front(found[cost], values, lower_is_better(table.metric))]
        style = {"color": COLORS[1], "marker": "o", "markersize": 9, "markerfacecolor": "none"}
        axes.plot(front[cost], scale * front[table.metric], drawstyle="steps-post", label="Pareto front", **style)
        for _, row in front.iterrows():
            label = plain("·".join(row[table.titles]))
            at = (row[cost], scale * row[table.metric])
            axes.annotate(label, at, (6, -10), textcoords="offset points", fontsize=8)
        _scale_cost(axes, found[cost])
    panels[0].set_ylabel(_metric_label(table))
    handles, labels = next((axes.get_legend_handles_labels() for axes in panels if axes.lines), ([], []))
    figure.legend(handles, labels, loc="outside upper right", ncols=2)
    figure.suptitle(plain(f"labels: {' · '.join(table.titles)}"), fontsize=10, x=0.01, ha="left")
    return figure


def pareto_front(costs: pd.Series, values: pd.Series, lower: bool) -> list:
    """The index labels of configurations that no other beats in cost or value without being worse in the other one."""
    ranked = pd.DataFrame({"cost": costs, "value": values if lower else -values}, dtype=float).sort_values(
        ["cost", "value"]
    )
    best_cheaper = ranked["value"].cummin().shift(fill_value=math.inf)
    front = ranked[ranked["value"] < best_cheaper]
    return ranked.index[ranked.apply(tuple, axis=1).isin(front.apply(tuple, axis=1))].tolist()


def _scale_cost(axes: "Axes", costs: pd.Series) -> None:
    """A logarithmic axis with a few ticks that have units, and room for labels."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = costs.min(), costs.max()
    room = max((high / low) ** 0.14, 1.08)
    axes.set_xscale("log")
    axes.set_xlim(low / room, high * room**2)
    axes.xaxis.set_major_locator(MaxNLocator(4) if high / low < 8 else LogLocator(subs=(1, 2, 5), numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: human(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(y=0.12)


def plain(text: str) -> str:
    """A text in which matplotlib sees no formula, clipped, in characters that can be drawn."""
    text = drawable(text)
    return (text if len(text) <= 60 else text[:59] + "…").replace("$", r"\$")


def _rotate_long_labels(axes: "Axes") -> None:
    texts = axes.get_xticklabels()
    if len(texts) * (max(len(text.get_text()) for text in texts) + 1) > 9 * axes.figure.get_figwidth():
        for text in texts:
            text.set(rotation=40, ha="right", rotation_mode="anchor")


def _metric_label(table: SweepTable) -> str:
    return plain(f"{table.metric} (%)" if is_percentage(table.metric) else table.metric)
