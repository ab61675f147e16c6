"""Plots of the page of results, as SVG whose colours are the page's, for light and dark.

matplotlib draws with colours that stand for the page's variables; they are replaced in its SVG.
"""

import io
import re

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FuncFormatter, NullLocator  # noqa: E402

from lib.page import text  # noqa: E402

VARIABLES = {"#000001": "--ink", "#000002": "--faint", "#000003": "--rule", "#000004": "--met",
             "#000005": "--missed", "#000006": "--paper",
             **{f"#0000{16 + number:02x}": f"--c{number}" for number in range(8)}}
INK, FAINT, RULE, MET, MISSED, PAPER = list(VARIABLES)[:6]
SERIES = list(VARIABLES)[6:]
MARKS = "oDs^vPX*"

matplotlib.rcParams.update({
    "svg.fonttype": "none", "svg.hashsalt": "kvfs", "font.size": 9, "font.family": "DejaVu Sans",
    "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.edgecolor": RULE, "grid.color": RULE, "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "axes.titlesize": 9.5,
    "axes.titlelocation": "left", "figure.facecolor": "none", "axes.facecolor": "none",
})


def finish(figure, name, label):
    """The SVG of a figure, to be put into a page beside others."""
    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    svg = out.getvalue()
    svg = svg[svg.index("<svg"):]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{text(label)}"', 1)


def factor(value, _position=None):
    return f"{value:g}"


def rate(value, _position=None):
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g} {letter}"
    return f"{value:g}"


def ratio_axis(axis, low, high):
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
             if low * 0.99 <= tick <= high * 1.01]
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    axis.set_xticks(ticks)
    axis.xaxis.set_major_formatter(FuncFormatter(factor))
    axis.xaxis.set_minor_locator(NullLocator())


def rows_axis(axis, titles):
    axis.set_yticks(range(len(titles)), titles)
    axis.set_ylim(len(titles) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", linewidth=0.5)
    axis.set_axisbelow(True)


def goals(titles, series, name, label):
    """titles: of the rows; series: who is held against -> {row index: ratio / goal}."""
    values = [value for points in series.values() for value in points.values()]
    low, high = min(0.5, min(values) * 0.8), max(2, max(values) * 1.25)
    figure, axis = plt.subplots(figsize=(9, 0.7 + 0.21 * len(titles)))
    rows_axis(axis, titles)
    ratio_axis(axis, low, high)
    axis.axvline(1, color=INK, linewidth=1)
    axis.axvspan(low, 1, color=MISSED, alpha=0.05, linewidth=0)
    for number, (who, points) in enumerate(series.items()):
        axis.plot(list(points.values()), list(points), MARKS[number % len(MARKS)], markersize=5,
                  color=SERIES[number % len(SERIES)], label=who, linestyle="none")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=6, handletextpad=0.2)
    axis.set_xlabel("what is reached, as a multiple of the goal (right of the line: met)")
    return finish(figure, name, label)


def dots(titles, series, name, label, unit):
    """titles: of the rows; series: name -> {row index: value}; on a logarithmic axis."""
    figure, axis = plt.subplots(figsize=(9, 0.7 + 0.21 * len(titles)))
    rows_axis(axis, titles)
    axis.set_xscale("log")
    for number, (who, points) in enumerate(series.items()):
        axis.plot(list(points.values()), list(points), MARKS[number % len(MARKS)], markersize=5,
                  color=SERIES[number % len(SERIES)], label=who, linestyle="none")
    axis.xaxis.set_major_formatter(FuncFormatter(rate))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(axis="x", linewidth=0.5)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=6, handletextpad=0.2)
    axis.set_xlabel(unit)
    return finish(figure, name, label)


TREND_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50)


def trend(groups, runs, name, label, ylabel):
    """groups: title -> {row: [a value or None for each run]}; runs: what they are called."""
    columns = 3
    count = -(-len(groups) // columns)
    longest = max(len(rows) for rows in groups.values())
    figure, axes = plt.subplots(count, columns, squeeze=False,
                                figsize=(9.6, (2.2 + 0.14 * longest) * count))
    for axis, (title, rows) in zip(axes.flat, groups.items()):
        axis.set_title(title)
        axis.set_ylabel(ylabel, fontsize=7.5)
        seen = [value for values in rows.values() for value in values if value]
        low, high = min(0.75, min(seen) * 0.9), max(1.35, max(seen) * 1.1)
        for number, (row, values) in enumerate(rows.items()):
            points = [(at, value) for at, value in enumerate(values) if value]
            axis.plot([at for at, _ in points], [value for _, value in points],
                      marker=MARKS[number % len(MARKS)], markersize=4, linewidth=1.3,
                      color=SERIES[number % len(SERIES)], label=row)
        axis.set_yscale("log")
        axis.set_ylim(low, high)
        ticks = [tick for tick in TREND_TICKS if low <= tick <= high]
        axis.set_yticks(ticks[::-(-len(ticks) // 6)] if len(ticks) > 6 else ticks)
        axis.yaxis.set_major_formatter(FuncFormatter(factor))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.tick_params(axis="y", labelsize=7)
        axis.set_xticks(range(len(runs)), runs, fontsize=6.5)
        axis.set_xlim(-0.35, len(runs) - 0.65)
        axis.axhline(1, color=FAINT, linewidth=0.8, linestyle="--")
        axis.grid(axis="y", linewidth=0.5)
        axis.legend(fontsize=6.5, loc="upper left", bbox_to_anchor=(-0.02, -0.2), ncols=2,
                    handlelength=1.2, labelspacing=0.2, columnspacing=1)
    for axis in list(axes.flat)[len(groups):]:
        axis.set_visible(False)
    figure.tight_layout(h_pad=1.2)
    return finish(figure, name, label)


def bars(panels, engines, name, label):
    """panels: title -> {engine: value per second}; the same engines everywhere."""
    columns = 3
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(9.6, (0.5 + 0.19 * len(engines)) * lines),
                                squeeze=False)
    for axis, (title, values) in zip(axes.flat, panels.items()):
        present = [engine for engine in engines if engine in values]
        axis.barh(range(len(present)), [values[engine] for engine in present], height=0.7,
                  color=[SERIES[0] if engine.startswith("kvfs") else SERIES[7]
                         for engine in present])
        axis.set_yticks(range(len(present)), present, fontsize=7)
        axis.invert_yaxis()
        axis.tick_params(axis="y", length=0)
        axis.tick_params(axis="x", labelsize=7)
        axis.xaxis.set_major_formatter(FuncFormatter(rate))
        axis.locator_params(axis="x", nbins=4)
        axis.grid(axis="x", linewidth=0.5)
        axis.set_axisbelow(True)
        axis.set_title(title, fontsize=8)
    for axis in list(axes.flat)[len(panels):]:
        axis.set_visible(False)
    figure.tight_layout()
    return finish(figure, name, label)


def lines(panels, name, label, xlabel, ylabel):
    """panels: title -> {series: ([x], [y])}."""
    columns = 3
    count = -(-len(panels) // columns)
    figure, axes = plt.subplots(count, columns, figsize=(9.6, 2.3 * count), squeeze=False)
    for axis, (title, series) in zip(axes.flat, panels.items()):
        axis.set_title(title)
        for number, (who, (xs, ys)) in enumerate(series.items()):
            axis.plot(xs, ys, marker=MARKS[number], markersize=4, linewidth=1.3,
                      color=SERIES[number], label=who)
        axis.grid(linewidth=0.5)
        axis.tick_params(labelsize=7)
    for axis in list(axes.flat)[len(panels):]:
        axis.set_visible(False)
    axes[0][0].legend(fontsize=7)
    axes[0][0].set_ylabel(ylabel)
    axes[-1][0].set_xlabel(xlabel)
    figure.tight_layout()
    return finish(figure, name, label)


def intervals(rows, name, label, xlabel, bound=None):
    """rows: (title, ratio, low, high, is beyond the noise)."""
    low = min(0.5, min(row[2] for row in rows) * 0.9)
    high = max(2, max(row[3] for row in rows) * 1.1)
    figure, axis = plt.subplots(figsize=(9, 0.8 + 0.21 * len(rows)))
    rows_axis(axis, [row[0] for row in rows])
    ratio_axis(axis, low, high)
    axis.axvline(1, color=INK, linewidth=1)
    if bound:
        axis.axvline(bound, color=MISSED, linewidth=1, linestyle="--")
    for at, (_, ratio, least, most, apart) in enumerate(rows):
        colour = FAINT if not apart else MET if ratio > 1 else MISSED
        axis.plot([least, most], [at, at], color=colour, linewidth=2)
        axis.plot([ratio], [at], "o", color=colour, markersize=5)
    axis.set_xlabel(xlabel)
    return finish(figure, name, label)


def tiers(loads, name, label):
    """loads: title -> {"ratio", "goal", "met", shares of hits by tier for "four" and "two"}."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 0.9 + 0.5 * len(loads)),
                                         gridspec_kw={"width_ratios": [2, 3]})
    titles = list(loads)
    for at, load in enumerate(loads.values()):
        left.barh(at, load["ratio"], height=0.55, color=MET if load["met"] else MISSED)
        left.plot([load["goal"]] * 2, [at - 0.38, at + 0.38], color=INK, linewidth=2)
        left.annotate(f"{load['ratio']:.2f}", (0, at), xytext=(6, -3),
                      textcoords="offset points", color=PAPER)
    left.set_xlim(0, max(max(load["ratio"], load["goal"]) for load in loads.values()) * 1.2)
    left.axvline(1, color=FAINT, linewidth=0.8, linestyle="--")
    left.set_title("reads, four tiers to two; the mark is the goal")
    left.set_yticks(range(len(titles)), titles)
    left.invert_yaxis()
    left.tick_params(axis="y", length=0)
    kinds = ("hot", "warm", "cold", "frozen", "device")
    for at, load in enumerate(loads.values()):
        for offset, which in ((-0.19, "four"), (0.19, "two")):
            start = 0
            for number, kind in enumerate(kinds):
                share = load[which][kind]
                right.barh(at + offset, share, left=start, height=0.32,
                           color=SERIES[(1, 4, 5, 0, 7)[number]],
                           label=kind if at == 0 and which == "four" else None)
                start += share
    right.set_yticks([at + offset for at in range(len(titles)) for offset in (-0.19, 0.19)],
                     ["four", "two"] * len(titles), fontsize=7)
    right.invert_yaxis()
    right.tick_params(axis="y", length=0)
    right.set_xlim(0, 100)
    right.set_title("where pages were found, %", pad=20)
    right.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=5, fontsize=7,
                 handlelength=1, columnspacing=1)
    figure.tight_layout()
    return finish(figure, name, label)
