"""From the samples of a run to medians, ratios, goals met or not, and tables of them.

The tables are Markdown that is also lined up for a terminal.
"""

import statistics

from lib import goals

FIGURES = ("p50_us", "p99_us", "cpu_us", "device_bytes_per_byte")


def summarize(samples):
    """samples: row -> target -> list of what works recorded. Returns the same with medians."""
    summary = {}
    for row, about in goals.rows().items():
        targets = {}
        for name, records in samples.get(row, {}).items():
            entry = {}
            rates = [record["rate"] for record in records if "rate" in record]
            if rates:
                entry["rate"] = statistics.median(rates)
                entry["rates"] = [round(rate, 2) for rate in rates]
            for figure in FIGURES:
                values = [record[figure] for record in records if figure in record]
                if values:
                    entry[figure] = round(statistics.median(values), 3)
            requests = [record["requests"] for record in records if "requests" in record]
            if requests:
                entry["requests"] = requests[-1]
            checksums = {record["checksum"] for record in records if "checksum" in record}
            if checksums:
                entry["checksum"] = "/".join(sorted(checksums))
            targets[name] = entry
        if targets:
            summary[row] = {"title": about.title, "unit": about.unit, "targets": targets}
    return summary


def unequal_work(summary):
    """The rows whose targets did not all read and write the same."""
    return [row for row, entry in summary.items()
            if len({target["checksum"] for target in entry["targets"].values()
                    if "checksum" in target}) > 1]


# ---- goals ---------------------------------------------------------------------------


def rate_of(summary, row, target):
    return summary.get(row, {}).get("targets", {}).get(target, {}).get("rate")


def bound(summary, row, raw_rate, floor_name):
    """The rate of a floor that also flushes as often as it was told to."""
    floor = summary[row]["targets"].get(floor_name, {})
    if not raw_rate or "rate" not in floor:
        return None
    requests = floor.get("requests", {})
    flushes = requests.get("fsync", 0) + requests.get("fsyncdir", 0)
    return 1 / (1 / floor["rate"] + flushes / raw_rate)


def other_rate(summary, row, other, context):
    """Whom a goal compares with, and how fast that is; (name, None): not measured."""
    if other == "floor":
        name = context["floor"]
    elif other == "bound":
        return "bound", bound(summary, row, context["raw"], context["floor"])
    elif other == "disk":
        name = context["floor_disk"]
    elif other == "without limit":
        return other, rate_of(summary, row.removeprefix(goals.LIMITED), context["kvfs"])
    elif other == "1 thread":
        return other, rate_of(summary, row[:-1] + "1", context["kvfs"])
    elif other == "peer":
        rates = [(rate_of(summary, row, name), name) for name in context["peers"]]
        best = max((pair for pair in rates if pair[0]), default=(None, "peer"))
        return best[1], best[0]
    else:
        name = f"ext4-{other}"
    return name, rate_of(summary, row, name)


def judge(result, kvfs="kvfs", floor="floor", floor_disk="floor-disk"):
    """One line for each goal that can be judged. "floor_ratio" of one that is missed beside ext4 or a
    peer: the ratio of what no engine on this transport is faster than, if that is too little, too."""
    summary = result["rows"]
    raw = result.get("raw_flush", {}).get("append")
    peers = [name for name, target in result["targets"].items() if target["kind"] == "peer"]
    context = {"kvfs": kvfs, "floor": floor, "floor_disk": floor_disk, "peers": peers, "raw": raw}
    lines = []
    for row, about in goals.rows().items():
        rate = rate_of(summary, row, kvfs)
        if not rate:
            continue
        floors = [other for other in about.goals if other in goals.FLOORS] or ["floor"]
        least_costs = [other_rate(summary, goals.floor_row(row), other, context)[1]
                       for other in floors]
        for other, goal in about.goals.items():
            name, theirs = other_rate(summary, row, other, context)
            if not theirs:
                continue
            ratio = rate / theirs
            least = goals.SAME if other == "floor" and goal == 1 else goal
            line = {"row": row, "against": name, "goal": goal, "kvfs": rate, "other": theirs,
                    "ratio": round(ratio, 3), "met": ratio >= least}
            if not line["met"] and other not in (*goals.FLOORS, *goals.OURSELVES):
                best = max((floor_rate / theirs for floor_rate in least_costs if floor_rate),
                           default=least)
                if best < least:
                    line["floor_ratio"] = round(best, 3)
            lines.append(line)
    return lines


# ---- tables --------------------------------------------------------------------------


def number(value):
    if value is None:
        return ""
    if value >= 9999.5:
        return f"{value / 1000:.0f}k" if value >= 99950 else f"{value / 1000:.1f}k"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table(heads, lines, ragged=False):
    """Markdown, lined up: the first column to the left, the others to the right. ragged: the last
    one as it is."""
    cells = [heads] + lines
    widths = [max(len(line[column]) for line in cells) for column in range(len(heads))]
    left = {0}
    if ragged:
        left.add(len(heads) - 1)
        widths[-1] = len(heads[-1])

    def text(line):
        return "| " + " | ".join(cell.ljust(width) if column in left else cell.rjust(width)
                                 for column, (cell, width) in enumerate(zip(line, widths))) + " |"
    rule = "|" + "|".join("-" * (width + 2) if column in left else "-" * (width + 1) + ":"
                          for column, width in enumerate(widths)) + "|"
    return "\n".join([text(heads), rule] + [text(line) for line in lines])


def figure_table(result, title, figure):
    names = [name for name in result["targets"]
             if any(figure in row["targets"].get(name, {}) for row in result["rows"].values())]
    lines = [[row["title"]] + [number(row["targets"].get(name, {}).get(figure)) for name in names]
             for row in result["rows"].values()
             if any(figure in row["targets"].get(name, {}) for name in names)]
    return f"## {title}\n\n" + table(["work", *names], lines) if lines else ""


def verdict(goal):
    if goal["met"]:
        return "met"
    return f"floor: {goal['floor_ratio']:.2f}" if "floor_ratio" in goal else "NOT"


def goal_table(result):
    lines = [[result["rows"][goal["row"]]["title"], goal["against"], f"≥ {goal['goal']:g}",
              number(goal["kvfs"]), number(goal["other"]), f"{goal['ratio']:.2f}", verdict(goal)]
             for goal in result["goals"]]
    if not lines:
        return ""
    met = sum(goal["met"] for goal in result["goals"])
    beyond = sum("floor_ratio" in goal for goal in result["goals"])
    words = f"; {beyond} the floor itself does not meet" if beyond else ""
    return (f"## Goals: {met} of {len(lines)} met{words}\n\n" +
            table(["work", "against", "goal", "kvfs", "other", "ratio", ""], lines))


def request_table(result):
    """Of kvfs; and of the floor where it got clearly more or fewer."""
    lines = []
    for row in result["rows"].values():
        totals = {name: sum(target["requests"].values())
                  for name, target in row["targets"].items() if "requests" in target}
        for name in ("kvfs", "floor"):
            if name not in totals or (name == "floor" and "kvfs" in totals and
                                      abs(totals["floor"] - totals["kvfs"]) < 0.1):
                continue
            counts = sorted(row["targets"][name]["requests"].items(), key=lambda pair: -pair[1])
            lines.append([f"{row['title']}: {name}", f"{totals[name]:.2f}"] +
                         [", ".join(f"{what} {count:.2f}" for what, count in counts
                                    if count >= 0.02)])
    return "## Requests for each operation\n\n" + table(
        ["work", "all", "of them"], lines, ragged=True) if lines else ""


def render(result):
    machine, options = result["machine"], result["options"]
    parts = [
        f"# fs-compare, {result['when']}, commit {(result['commit'] or 'unknown')[:12]}",
        f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['memory_mib']} MiB; "
        f"{machine['system']}, Linux {machine['kernel']}; host: {machine['host_file_system']}; "
        f"load before: {machine['load_before']:.1f}.\n"
        f"Rounds: {options['rounds']}, medians; sizes: {options['sizes']}." +
        (" Interrupted: of the last round not all rows are there." if result.get("interrupted")
         else "") +
        (f" 4 × memory: {options['limited_data']} of data where the daemon, the programs and what the "
         f"kernel keeps for them have {options['memory']}."
         if any(row.startswith(goals.LIMITED) for row in result["rows"]) else ""),
        "\n".join(f"- {name}: {target['note']}"
                  + (f"; {target['version']}" if target.get("version") else "")
                  for name, target in result["targets"].items())
        + "".join(f"\n- {name} is missing: {why}" for name, why in result["missing"].items()),
    ]
    if result.get("raw_flush"):
        raw = result["raw_flush"]
        parts.append("Raw 4 KiB + fdatasync, on the host's file system: "
                     f"{number(raw['append'])} per second at the end of a file (from this comes the "
                     f"bound), {number(raw['in_place'])} within it.")
    parts += [figure_table(result, "Rates, operations per second (sequential: MiB/s)", "rate"),
              goal_table(result),
              figure_table(result, "Median time of one operation, µs", "p50_us"),
              figure_table(result, "99 of 100 operations take at most, µs", "p99_us"),
              figure_table(result, "Daemon CPU for each operation, µs", "cpu_us"),
              figure_table(result, "Bytes the device was given for each byte of content",
                           "device_bytes_per_byte"),
              request_table(result)]
    if result["failures"]:
        parts.append("## Failed\n\n" + "\n".join(
            f"- {failure['target']}, {failure['work']}, round {failure['round']}: {failure['words']}"
            for failure in result["failures"]))
    if result.get("unequal"):
        parts.append("Not the same work was done in: " + ", ".join(result["unequal"]))
    return "\n\n".join(part for part in parts if part)
