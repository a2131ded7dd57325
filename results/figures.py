"""The plots of a sweep's report, drawn by matplotlib without pyplot: no window system, no global state."""

import io
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from results.fonts import drawable, families
from results.metrics import is_percentage, lower_is_better
from results.pictures import new_figure
from results.statistics import ALPHA
from results.table import ABSENT, BEST, EQUAL, UNTESTED, WORSE, SweepTable, as_number, ordered

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.transforms import Transform

COLORS = "#0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9 #000000 #8C510A".split()  # Okabe and Ito, without yellow
MARKERS = "osD^vPX*"
REST = "0.72"  # grey, for configurations that the legend does not name
VERDICT_COLORS = {BEST: COLORS[0], EQUAL: COLORS[4], WORSE: "0.45", UNTESTED: COLORS[3]}
# Cost → axis title, and units with their sizes, largest first.
SIZES = {"G": 1e9, "M": 1e6, "k": 1e3}
COSTS = {
    "params": ("parameters", SIZES),
    "flops_per_image": ("FLOPs per image", {"T": 1e12} | SIZES),
    "train_seconds": ("training time", {"h": 3600.0, "min": 60.0, "s": 1.0}),
}
MAX_ROWS = 40  # configurations in one plot: the best
MAX_PANELS, MAX_POINTS = 12, 100  # in small multiples: panels, and means over all panels
MAX_NAMED = len(COLORS)  # configurations in a legend
MAX_SIDE = 30  # values along a side of a heat map
MAX_CELLS = 120  # a larger heat map shows no numbers in the cells


class Plot(NamedTuple):
    """The data of a plot, as plain numbers and strings, and the function that draws it."""

    data: Any
    figure: "Callable[[], Figure]"


def draw(table: SweepTable) -> dict[str, bytes]:
    """File name → PNG, for each plot with at least two numbers to show."""
    from matplotlib import rc_context

    texts = [*table.titles, *(value for title in table.titles for value in table.rows[title])]
    with rc_context({"font.family": families(texts)}):
        return {name: to_png(plot.figure()) for name, plot in plots(table).items()}


def plots(table: SweepTable) -> dict[str, Plot]:
    """File name → plot, for each plot with at least two numbers to show."""
    found: dict[str, Plot] = {}
    several = len(table.measured) > 1
    scores = [table.metric, [table.name(table.rows.loc[row]) for row in table.scores], table.scores.T.values.tolist()]
    if several:
        found["report_configurations.png"] = Plot(scores, partial(configurations_figure, table))
    if drawn := curves(table):
        data = [*scores, {str(row): curve.reset_index().values.tolist() for row, curve in drawn.items()}]
        found["report_curves.png"] = Plot(data, partial(curves_figure, table))
    for key, title in table.keys.items() or {"seed": "seed"}.items():
        data = {label: panel.reset_index().values.tolist() for label, panel in panels(table, key).items()}
        if sum(map(len, data.values())) > 1:
            name = "report_" + re.sub("[^A-Za-z0-9._-]+", "-", title) + ".png"
            taken = name in found or title in ("heatmap", "cost", "configurations", "curves")
            name = name.replace(".png", f"_{len(found)}.png") if taken else name
            found[name] = Plot((table.metric, title, data), partial(key_figure, table, key))
    if several:
        numbers = [table.metric, f"{table.metric} std", f"{table.metric} n", *COSTS]
        data = table.rows[[*table.titles, *numbers, "status"]].values.tolist()
        if len(table.keys) == 2 and all(table.rows[title].nunique() <= MAX_SIDE for title in table.titles):
            found["report_heatmap.png"] = Plot((table.metric, table.titles, data), partial(heatmap_figure, table))
        found["report_cost.png"] = Plot((table.metric, table.titles, data), partial(cost_figure, table))
    return found


def to_png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def configurations_figure(table: SweepTable) -> "Figure":
    """One row per configuration: the score of each seed and, to the right, the paired differences from the best."""
    scores = _scale(table) * table.scores.iloc[:, :MAX_ROWS]
    rows = table.rows.loc[scores.columns]
    paired = bool((rows["shared seeds"] >= 1).any())
    figure = new_figure(11 if paired else 7.5, 1.5 + 0.27 * len(rows))
    axes = np.atleast_1d(figure.subplots(1, 1 + paired, sharey=True))
    spread = _scale(table) * rows[f"{table.metric} std"].to_numpy()
    _dots(axes[0], scores, np.vstack([spread, spread]), rows["verdict"])
    axes[0].set(xlabel=f"{_metric_label(table)}\ndots: seeds; ◆ mean ± standard deviation")
    if paired:
        from matplotlib.ticker import MaxNLocator

        differences = scores.sub(scores.iloc[:, 0], axis=0).drop(index=ABSENT, errors="ignore")
        mean, low, high = (
            _scale(table) * rows[name].to_numpy(float) for name in ("difference", "difference low", "difference high")
        )
        _dots(axes[1], differences, np.vstack([mean - low, high - mean]), rows["verdict"])
        axes[1].axvline(0, color=COLORS[0], linewidth=1)
        left, right = axes[1].get_xlim()
        cut = ", cut off at the edge" if (low < left).any() or (high > right).any() else ""
        axes[1].set_xlabel(f"difference from the best, seed by seed\ndots: seeds; ◆ mean with 95 % interval{cut}")
        axes[1].xaxis.set_major_locator(MaxNLocator(6))
    places = range(len(rows))
    names = [plain(f"{place + 1}. {table.name(row)}") for place, (_, row) in zip(places, rows.iterrows(), strict=True)]
    axes[0].set_yticks(places, names, fontsize=9)
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    count = "" if len(rows) == len(table.measured) else f": the best {len(rows)} of {len(table.measured)}"
    axes[0].set_title(plain(f"{table.metric} of the configurations{count}"), fontsize=11, loc="left")
    handles = [
        axes[0].plot([], [], "D", color=color, label=f"{kind}, corrected p > {ALPHA}" if kind == EQUAL else kind)[0]
        for kind, color in VERDICT_COLORS.items()
        if (rows["verdict"] == kind).any()
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=4, fontsize=8, frameon=False)
    return figure


def _dots(axes: "Axes", values: pd.DataFrame, bars: np.ndarray, verdicts: pd.Series) -> None:
    """For each column of ``values``, the mean with a bar and, below it, a dot per number; the axis fits the dots."""
    colors = [VERDICT_COLORS.get(verdict, REST) for verdict in verdicts]
    places = np.arange(len(values.columns))
    y = np.broadcast_to(places, values.shape)
    style = {"c": np.broadcast_to(colors, values.shape).ravel(), "transform": _shifted(axes, down=6)}
    axes.scatter(values, y, s=14, alpha=0.6, linewidths=0, zorder=2, **style)
    mean = values.mean().to_numpy()
    axes.hlines(places, mean - bars[0], mean + bars[1], colors=colors, linewidth=1.5, zorder=3)
    axes.scatter(mean, places, s=34, marker="D", c=colors, edgecolors="white", linewidths=0.8, zorder=4)
    low, high = np.nanmin(values), np.nanmax(values)  # not the bars: an interval from two seeds can be huge
    margin = 0.15 * (high - low) or 0.05 * abs(high) or 1
    axes.set_xlim(low - margin, high + margin)
    axes.grid(alpha=0.3)


def _shifted(axes: "Axes", right: float = 0, down: float = 0) -> "Transform":
    """Data coordinates, shifted by some points so that dots do not cover the mean."""
    from matplotlib.transforms import ScaledTranslation

    return axes.transData + ScaledTranslation(right / 72, -down / 72, axes.figure.dpi_scale_trans)


def curves(table: SweepTable) -> dict[Any, pd.Series]:
    """Configuration → metric by epoch, mean over seeds, up to the last epoch that all seeds reached; best first.

    Records without a history, as earlier versions wrote them, are left out.
    """
    completed = table.jobs[table.jobs.status == "completed"]
    found = {}
    for row in table.scores.columns[:MAX_ROWS]:
        records = completed.record[completed.configuration == row]
        histories = [(record.get("history") or {}).get(table.metric) or [] for record in records]
        columns = [pd.Series(dict(history), dtype=float) for history in histories if history]
        mean = pd.concat(columns, axis=1).dropna().mean(axis=1) if columns else pd.Series(dtype=float)
        if len(mean) > 1:
            found[row] = mean.sort_index()
    return found


def curves_figure(table: SweepTable) -> "Figure":
    """The metric by epoch, mean over seeds; to the right, the score of each seed at the best epoch."""
    found, scale = curves(table), _scale(table)
    scores = scale * table.scores.iloc[:, :MAX_ROWS]
    figure = new_figure(12, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=[1.7, 1])
    for place, row in reversed(list(enumerate(scores))):
        named = place < MAX_NAMED
        color = COLORS[place] if named else REST
        label = _place(table, row) if named else None
        if row in found:
            marker = MARKERS[place] if named and len(found[row]) <= 30 else ""
            line = {"color": color, "marker": marker, "markersize": 4, "zorder": 3 if named else 1}
            left.plot(found[row].index, scale * found[row], linewidth=1.6 if named else 0.8, **line)
        right.plot([place + 1] * len(scores), scores[row], ".", color=color, alpha=0.6, markersize=6)
        marker = MARKERS[place] if named else "_"
        size = 8 if len(scores.columns) <= MAX_NAMED else 6
        right.plot(place + 1, scores[row].mean(), marker, color=color, markersize=size, label=label)
    further = len(scores.columns) - MAX_NAMED
    if further > 0:
        right.plot([], [], color=REST, label=f"{further} further configurations")
    left.set(xlabel="epoch", ylabel=_metric_label(table))
    left.set_title("learning curves, mean over seeds", fontsize=11)
    right.set(xlabel="configuration, best first", ylabel=_metric_label(table))
    right.set_title("at the best epoch: dots are seeds", fontsize=11)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    handles, labels = right.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: (not labels[i][0].isdigit() or "further" in labels[i], -i))
    figure.legend(
        [handles[i] for i in order], [labels[i] for i in order], loc="outside lower left", ncols=2, fontsize=8
    )
    return figure


def panels(table: SweepTable, key: str) -> dict[str, pd.DataFrame]:
    """The data of one key's plot: label → ``mean``, ``std`` and ``dots`` (a list of numbers) by the key's values.

    There is one panel per combination of the other keys, with a dot per seed. If that exceeds ``MAX_PANELS`` or
    ``MAX_POINTS``, there is a single panel, ``""``, with a dot per configuration.
    """
    if key == "seed":
        numbers = table.scores.iloc[:, 0].dropna() if len(table.scores.columns) else pd.Series(dtype=float)
        dots = [[number] for number in numbers]
        return {"": pd.DataFrame({"mean": numbers, "std": math.nan, "dots": dots}, index=numbers.index)}
    measured, title, metric = table.measured, table.keys[key], table.metric
    labels = measured.apply(lambda row: table.name(row, without=title), axis=1)
    if labels.nunique() > MAX_PANELS or len(table.keys) > 1 and len(measured) > MAX_POINTS:
        grouped = measured.groupby(title)[metric]
        found = {"": grouped.agg(["mean", "std"]).assign(dots=grouped.agg(list))}
    else:
        shown = pd.DataFrame({title: measured[title], "mean": measured[metric], "std": measured[f"{metric} std"]})
        shown["dots"] = [table.scores[row].dropna().tolist() for row in shown.index]
        places = {other: {value: i for i, value in enumerate(ordered(measured[other]))} for other in table.titles}
        order = measured[[other for other in table.titles if other != title]].transform(lambda c: c.map(places[c.name]))
        order = labels[order.sort_values(list(order)).index] if len(order.columns) else labels
        one = len(table.keys) == 1
        found = {"" if one else label: shown[labels == label].set_index(title) for label in order.unique()}
    return {label: panel.loc[ordered(panel.index)] for label, panel in found.items()}


def key_figure(table: SweepTable, key: str) -> "Figure":
    """The metric by the values of one key, in small multiples over the other keys with shared axes.

    Means are joined by lines only if the values are numbers; each panel repeats the other panels' lines in grey.
    """
    found, title, scale = panels(table, key), table.keys.get(key, key), _scale(table)
    other_titles = [other for other in table.titles if other != title]
    pooled = list(found) == [""] and len(other_titles) > 0
    across = min(4, len(found))
    down = -(-len(found) // across)
    figure = new_figure(6.4, 4.4) if len(found) == 1 else new_figure(1 + 3 * across, 0.9 + 2.5 * down)
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    place, is_numeric = _scale_x(grid, ordered(value for panel in found.values() for value in panel.index), key)
    for axes, (label, panel) in zip(grid, found.items(), strict=False):
        x = [place[value] for value in panel.index]
        for other in found.values() if is_numeric and len(found) > 1 else ():
            axes.plot([place[value] for value in other.index], scale * other["mean"], color="0.87", zorder=1)
        seeds = [(at, scale * dot) for at, dots in zip(x, panel["dots"], strict=True) for dot in dots]
        style = {"color": COLORS[1], "transform": _shifted(axes, right=6)}
        axes.scatter(*zip(*seeds, strict=True), s=14, alpha=0.7, linewidths=0, zorder=4, **style)
        axes.update_datalim(seeds)  # scatter leaves shifted dots out of the limits
        style = {"color": COLORS[0], "linestyle": "-" if is_numeric else "", "marker": "D", "markersize": 5}
        axes.errorbar(x, scale * panel["mean"], yerr=scale * panel["std"], capsize=3, zorder=3, **style)
        axes.set_title(plain(label, 40), fontsize=9)
        axes.grid(alpha=0.3)
    grid[0].margins(x=0.09, y=0.08)
    grid[0].autoscale_view()
    for number, axes in enumerate(grid):
        axes.set_visible(number < len(found))
        axes.tick_params("x", labelbottom=number + across >= len(found))
    over = "configurations" if pooled else "seeds"
    note = "" if key == "seed" else f"\ndots: {over}; ◆ mean ± standard deviation"
    figure.supxlabel(f"{plain(title)}{note}", fontsize=10)
    figure.supylabel(_metric_label(table), fontsize=10)
    suffix = f", all {', '.join(other_titles)}" if pooled else ""
    figure.suptitle(plain(f"{table.metric} by {title}{suffix}"), fontsize=11)
    return figure


def _scale_x(grid: Sequence["Axes"], values: Sequence[str], key: str) -> tuple[dict[str, float], bool]:
    """Set up the shared x axis. Returns the position of each value, and whether the values are numbers."""
    numbers = [as_number(value) for value in values]
    is_numeric = key != "seed" and None not in numbers
    longest = max(len(plain(value)) for value in values)
    letters = 11 * grid[0].figure.get_figwidth() / grid[0].get_gridspec().ncols  # that fit below a panel
    places = list(map(float, range(len(values))))
    if is_numeric:
        is_log = min(numbers) > 0 and max(numbers) / min(numbers) >= 8
        gaps = np.diff(np.log(numbers) if is_log else numbers)
        if len(numbers) == 1 or gaps.min() * letters > gaps.sum() * longest:  # otherwise labels overlap: equal steps
            places = numbers
            if is_log:
                grid[0].set_xscale("log", base=2)
    step = -(-len(values) // (40 if len(grid) == 1 else 12))
    grid[0].set_xticks(places[::step], list(map(plain, values))[::step])
    grid[0].set_xticks([], minor=True)
    if not is_numeric:
        grid[0].set_xlim(-0.5, len(values) - 0.5)
    if len(values[::step]) * (longest + 1) > letters:
        for axes in grid:
            axes.tick_params("x", rotation=60 if longest < 12 else 40)
            for text in axes.get_xticklabels():
                text.set(ha="right", rotation_mode="anchor")
    return dict(zip(values, places, strict=True)), is_numeric


def heatmap_figure(table: SweepTable) -> "Figure":
    """The metric and n for each pair of values of the two keys; a cell without a result gives the reason."""
    from matplotlib import colormaps

    down, across = table.titles
    rows, columns = (ordered(table.rows[title]) for title in (down, across))
    scale = _scale(table)
    wide = table.rows.pivot(index=down, columns=across)
    numbers, status, count = (
        wide[name].reindex(index=rows, columns=columns).astype(object)
        for name in (table.metric, "status", f"{table.metric} n")
    )
    numbers = scale * numbers.astype(float)
    is_labelled = numbers.size <= MAX_CELLS
    width, height = (0.8, 0.5) if is_labelled else (0.35, 0.25)
    figure = new_figure(max(4.5, 2.4 + width * len(columns)), max(3, 1.6 + height * len(rows)))
    axes = figure.add_subplot()
    colors = colormaps["cividis_r" if lower_is_better(table.metric) else "cividis"].with_extremes(bad="0.93")
    picture = axes.imshow(numbers.to_numpy(), cmap=colors, aspect="auto", origin="lower")
    figure.colorbar(picture, label=_metric_label(table))
    longest = max(map(len, columns))
    axes.set_xticks(range(len(columns)), map(plain, columns), rotation=40 if longest > 9 * width else 0)
    axes.set_yticks(range(len(rows)), map(plain, rows))
    axes.set(xlabel=plain(across), ylabel=plain(down))
    few, many = count.min(axis=None), count.max(axis=None)
    text = f"n = {few:g} in each cell" if few == many else f"n = {few:g} to {many:g}"
    axes.set_title(plain(f"{table.metric}, mean over seeds; {text}"), fontsize=10)
    for (y, x), value in np.ndenumerate(numbers.to_numpy() if is_labelled else np.empty((0, 0))):
        if math.isnan(value):
            reason = status.iloc[y, x]
            text, color = "not run" if pd.isna(reason) else reason, "0.25"
        else:
            shown = f"{value:.2f}" if scale == 100 else f"{value:.3g}"
            text = f"{shown}\nn = {count.iloc[y, x]:.0f}"
            color = "black" if np.dot(colors(picture.norm(value))[:3], (0.299, 0.587, 0.114)) > 0.5 else "white"
        axes.text(x, y, text, ha="center", va="center", color=color, fontsize=8, wrap=True).set_in_layout(False)
    return figure


def cost_figure(table: SweepTable) -> "Figure":
    """The metric against each cost; configurations on a Pareto front are coloured and named in the legend."""
    figure = new_figure(13, 4.6)
    scale, shown = _scale(table), table.measured
    grid = figure.subplots(1, len(COSTS), sharey=True)
    fronts = {
        cost: pareto_front(found[cost], found[table.metric], lower_is_better(table.metric))
        for cost in COSTS
        if len(found := shown[shown[cost] > 0])
    }
    union = {row for front in fronts.values() for row in front}
    named = [row for row in shown.index if row in union][:MAX_NAMED]
    for axes, (cost, (title, units)) in zip(grid, COSTS.items(), strict=True):
        found = shown[shown[cost] > 0]
        axes.grid(alpha=0.3)
        if found.empty:
            axes.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=axes.transAxes)
            axes.set(xlabel=title, xticks=[])
            continue
        unit, size = next(((u, s) for u, s in units.items() if found[cost].max() >= s), ("", 1.0))
        x, y = found[cost] / size, scale * found[table.metric]
        axes.set_xlabel(f"{title} ({unit})" if unit else title)
        axes.plot(x, y, "o", color=REST, markersize=5)
        front = fronts[cost]
        axes.plot(x[front], y[front], drawstyle="steps-post", color="0.4", linewidth=1)
        for number, row in enumerate(named):
            if row in found.index:
                style = {"color": COLORS[number], "marker": MARKERS[number], "linestyle": ""}
                axes.plot(x[row], y[row], markersize=9 if row in front else 6, **style)
                seeds = scale * table.scores[row]
                axes.plot([x[row]] * len(seeds), seeds, ".", color=COLORS[number], markersize=3)
        _scale_cost(axes, x)
    grid[0].set_ylabel(_metric_label(table))
    labels = [_place(table, row) for row in named]
    figure.legend(handles=_cost_legend(grid[0], labels, len(shown)), loc="outside lower left", ncols=3, fontsize=8)
    figure.suptitle(plain(f"{table.metric} against cost, means over seeds"), fontsize=11)
    return figure


def _cost_legend(axes: "Axes", labels: Sequence[str], configurations: int) -> list["Line2D"]:
    styles = zip(labels, COLORS, MARKERS, strict=False)
    lines = [axes.plot([], [], color=c, marker=m, linestyle="", label=label)[0] for label, c, m in styles]
    lines += axes.plot([], [], color="0.4", linewidth=1, label="Pareto front: no cheaper one is as good")
    if len(labels) < configurations:
        lines += axes.plot([], [], "o", color=REST, markersize=5, label="further configurations")
    return lines + axes.plot([], [], ".", color="0.4", markersize=3, label="seeds")


def _place(table: SweepTable, row: Any) -> str:
    return plain(f"{table.rows.index.get_loc(row) + 1}. {table.name(table.rows.loc[row])}")


def pareto_front(costs: pd.Series, values: pd.Series, lower: bool) -> list:
    """The index labels of the Pareto front: configurations that no other matches in both numbers and beats in one."""
    ranked = pd.DataFrame({"cost": costs, "value": values if lower else -values}, dtype=float).sort_values(
        ["cost", "value"]
    )
    best_cheaper = ranked["value"].cummin().shift(fill_value=math.inf)
    front = ranked[ranked["value"] < best_cheaper]
    return ranked.index[ranked.apply(tuple, axis=1).isin(front.apply(tuple, axis=1))].tolist()


def _scale_cost(axes: "Axes", costs: pd.Series) -> None:
    """A few ticks with plain numbers; logarithmic if the largest cost is at least 8 times the smallest."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    is_wide = costs.max() / costs.min() >= 8
    if is_wide:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8) if is_wide else MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(x=0.08, y=0.1)


def plain(text: str, length: int = 60) -> str:
    """Clip a text, escape ``$`` for matplotlib, and replace characters that no font can draw."""
    text = drawable(text)
    return (text if len(text) <= length else text[: length - 1] + "…").replace("$", r"\$")


def _scale(table: SweepTable) -> int:
    return 100 if is_percentage(table.metric) else 1


def _metric_label(table: SweepTable) -> str:
    return plain(f"{table.metric} (%)" if is_percentage(table.metric) else table.metric)
