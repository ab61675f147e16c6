"""The sections of the page of results: what is taken of which run, and how it is shown."""

import re
import statistics

from lib import goals, page, plots, report, sides
from lib.page import table

GROUPS = {"create": "create", "fsync": "create, fsync", "stat": "stat", "list": "ls -lR", "ls": "ls -lR",
          "read": "open, read, close", "rename": "rename", "unlink": "unlink",
          "rm-r": "trees", "untar": "trees", "tar": "trees", "git": "trees",
          "sqlite": "SQLite", "fio": "large files", "4x": "data 4 × memory"}

KV_GROUPS = {"get": "get", "scan": "scan, mixed", "mixed": "scan, mixed", "fill": "put",
             "put": "put", "sync": "put, durable", "large": "4 KiB values",
             "limited": "data 4 × memory"}

# What guides to tuning key-value stores promise, none of them with a machine or a work: beside each
# the rows here that come nearest, as (title, how to get it).
HEADLINES = (
    ("20.4 M cached reads/s", ("get-hot-many", "get-hot", "get")),
    ("1.14 M writes/s", ("fill-order", "fill-random", "put-one")),
    ("885 K mixed operations/s", ("mixed",)),
    ("1.4 M concurrent operations/s", ("get-2",)),
    ("5 GB/s large values", ("large-get", "large-fill")),
    ("P50 49 µs", ("p50_us",)),
    ("P99 250 µs", ("p99_us",)),
)
HEADLINE_NOTES = {
    "20.4 M cached reads/s":
        "Less than one miss of the processor's caches for each read (150 to 210 ns): so only of keys "
        "that these caches hold. The rows of 1,000 neighbours are such.",
    "1.14 M writes/s": "In batches of 1,000, in order and at random; then one put in each batch. "
                       "None of them waits for the device.",
    "885 K mixed operations/s": "80 % get, 20 % put, one thread.",
    "1.4 M concurrent operations/s": "Two threads, on two processors.",
    "5 GB/s large values": "Values of 4 KiB, each read whole; what is written is packed, and is on "
                           "the device at the end.",
    "P50 49 µs": "Of whole files through the kernel: open, write 4 KiB, close; and read.",
    "P99 250 µs": "The same.",
}


class Run:
    """One file of results: what all of them have."""

    def __init__(self, file, data):
        machine = data.get("machine", {})
        self.file, self.data, self.bench = file, data, data["bench"]
        when = data.get("when") or data.get("time") or machine.get("time") or "unknown"
        self.when = re.sub(r"T(.*)Z", r" \1 UTC", when)
        self.commit = (data.get("commit") or machine.get("commit") or "unknown")[:12]

    @property
    def label(self):
        return f"{self.when[5:16]}\n{self.commit[:7]}"

    def facts(self):
        """Machine and file system, in a few words."""
        data, machine = self.data, self.data.get("machine", {})
        cpu = machine.get("cpu") or machine.get("processor") or data.get("processor") or "?"
        cpus = machine.get("cpus") or machine.get("processors") or data.get("processors") or "?"
        mib = machine.get("memory_mib") or \
            (machine.get("memory_bytes") or data.get("memory_bytes") or 0) >> 20
        kernel = machine.get("kernel") or data.get("kernel") or "?"
        disk = machine.get("host_file_system") or machine.get("file_system") or \
            data.get("file_system") or "?"
        return f"{cpus} × {cpu}, {mib} MiB, Linux {kernel}; {disk}"


def breadth(run):
    """How many rows a run has, where runs may have few of them."""
    if run.bench == "fs-compare":
        return len(run.data["rows"])
    if run.bench == "kv-compare":
        return len({figure["row"] for size in run.data["sizes"] for figure in size["figures"]})
    return 1


def newest(runs, bench, holds=None):
    """The newest run that `holds`; without it, of those that are no look at a few rows."""
    those = [run for run in runs if run.bench == bench and (not holds or holds(run))]
    if not holds and those:
        most = max(breadth(run) for run in those)
        those = [run for run in those if 2 * breadth(run) >= most]
    return those[-1] if those else None


def source(run):
    return f'<p class="faint">{page.text(run.file)}: {page.text(run.when)}, commit {run.commit}</p>'


# ---- file systems ----------------------------------------------------------------------------


def goal_series(judged):
    """Of the goals of a run: titles, and who is held against -> {row: ratio / goal}."""
    rows = list(dict.fromkeys(goal["row"] for goal in judged))
    at = {row: number for number, row in enumerate(rows)}
    series = {}
    for goal in judged:
        who = goal["against"]
        if who not in ("floor", "bound", "ext4-fresh", "ext4-aged", "1 thread"):
            who = "best FUSE peer"
        series.setdefault(who, {})[at[goal["row"]]] = goal["ratio"] / goal["goal"]
    return rows, series


def fs_goals(run):
    rows, series = goal_series(run.data["goals"])
    met = sum(goal["met"] for goal in run.data["goals"])
    titles = [run.data["rows"][row]["title"] for row in rows]
    svg = plots.goals(titles, series, f"goals-{plain(run.file)}",
                      f"{met} of {len(run.data['goals'])} goals met")
    markdown = report.goal_table(run.data)
    return (source(run) + page.figure(svg, f"{met} of {len(run.data['goals'])} goals are met; the "
                                      "figures are in the table.") +
            page.folded("All goals, as a table", page.from_markdown(markdown)))


def plain(name):
    return re.sub(r"[^a-zA-Z0-9]+", "-", name)


def fs_section(runs):
    """The newest run; and where that has none, the newest that has other FUSE, or data that memory
    does not hold."""
    now = newest(runs, "fs-compare")
    if not now:
        return None
    peers = newest(runs, "fs-compare", lambda run: any(
        target["kind"] == "peer" for target in run.data["targets"].values()))
    limited = newest(runs, "fs-compare", lambda run: any(
        row.startswith(goals.LIMITED) for row in run.data["rows"]))
    shown, out = [now], [fs_goals(now)]
    for run, words in ((peers, "the other FUSE file systems"),
                       (limited, "data of four times all memory")):
        if run and run not in shown:
            shown.append(run)
            out.append(f"<h3>An earlier run, with {words}</h3>" + fs_goals(run))
    return "".join(out)


def latency_section(runs):
    run = newest(runs, "fs-compare")
    if not run:
        return None
    rows = run.data["rows"]
    out = [source(run)]
    for figure, words in (("p50_us", "half of the operations"), ("p99_us", "99 of 100 operations")):
        named = [row for row in rows if any(figure in target
                                            for target in rows[row]["targets"].values())]
        if not named:
            continue
        names = [name for name in run.data["targets"]
                 if any(figure in rows[row]["targets"].get(name, {}) for row in named)]
        series = {name: {at: rows[row]["targets"][name][figure] for at, row in enumerate(named)
                         if rows[row]["targets"].get(name, {}).get(figure, 0) > 0}
                  for name in names}
        svg = plots.dots([rows[row]["title"] for row in named], series,
                         f"latency-{figure}-{plain(run.file)}", f"what {words} take at most", "µs")
        out.append(page.figure(svg, f"What {words} take at most. Left is better."))
    for title, figure in (("Median, µs", "p50_us"), ("99 of 100 take at most, µs", "p99_us"),
                          ("Daemon CPU for each operation, µs", "cpu_us"),
                          ("Bytes to the device for each byte of content",
                           "device_bytes_per_byte")):
        markdown = report.figure_table(run.data, title, figure)
        if markdown:
            out.append(page.folded(title, page.from_markdown(markdown)))
    out.append(page.folded("Rates", page.from_markdown(
        report.figure_table(run.data, "Rates, operations per second (sequential: MiB/s)", "rate"))))
    out.append(page.folded("Requests for each operation",
                           page.from_markdown(report.request_table(run.data))))
    return "".join(out)


# ---- trend -------------------------------------------------------------------------------------


def trend_groups(runs, against):
    """group -> {row: kvfs' ratio to the floor or ext4 in each run}."""
    groups = {}
    for row in goals.rows():
        values = []
        for run in runs:
            targets = run.data["rows"].get(row, {}).get("targets", {})
            ours, theirs = (targets.get(name, {}).get("rate") for name in ("kvfs", against))
            values.append(ours / theirs if ours and theirs else None)
        if any(values):
            groups.setdefault(GROUPS[row.split("/")[0]], {})[row] = values
    split = {}
    for title, rows in groups.items():  # no more lines than there are colours
        names = list(rows)
        size = len(plots.SERIES)
        for start in range(0, len(names), size):
            part = f" ({start // size + 1})" if len(names) > size else ""
            split[title + part] = {name: rows[name] for name in names[start:start + size]}
    return split


def fs_trend(runs, against, note):
    groups = trend_groups(runs, against)
    if not groups:
        return ""
    svg = plots.trend(groups, [run.label for run in runs], f"trend-{against}",
                      f"kvfs as a multiple of {against}, over the runs", f"× {against}")
    lines = [[row, *("" if value is None else f"{value:.2f}" for value in values)]
             for rows in groups.values() for row, values in rows.items()]
    heads = ["row", *(f"{run.when[:16]} {run.commit[:7]}" for run in runs)]
    return (f"<h3>Against {page.text(against)}</h3><p>{page.text(note)}</p>" +
            page.figure(svg, "Each line is a row of bench/fs-compare; dashed: as fast.") +
            page.folded("As a table", table(heads, lines)))


def kv_trend(runs):
    rows = dict.fromkeys((size["records"], figure["row"]) for run in runs
                         for size in run.data["sizes"] for figure in size["figures"])
    groups, lines = {}, []
    for records, row in rows:
        values = []
        for run in runs:
            ours, best = kv_pair(run, records, row)
            values.append(ours / best if ours and best else None)
        if not any(values):
            continue
        group = KV_GROUPS.get(re.split("-", row)[0], row)
        groups.setdefault(f"{group}, {report.number(records)} records", {})[row] = values
        lines.append([f"{row}, {records:,}", *("" if value is None else f"{value:.2f}"
                                               for value in values)])
    if not lines:
        return ""
    svg = plots.trend(groups, [run.label for run in runs], "trend-store",
                      "the store as a multiple of the best other, over the runs", "× best other")
    heads = ["row, records", *(f"{run.when[:16]} {run.commit[:7]}" for run in runs)]
    return ("<h3>The store, against the best other</h3>" +
            page.figure(svg, "Each line is a row of bench-kv-compare; dashed: as fast.") +
            page.folded("As a table", table(heads, lines)))


def bare_machine(runs):
    """Rows that no store does: what the machine by itself took at the longest."""
    lines = []
    for run in runs:
        for size in run.data["sizes"]:
            stored = {figure["row"] for figure in size["figures"] if figure["engine"] != "raw"}
            lines += [[f"{figure['row']}, {size['records']:,}", run.when[:16],
                       f"{figure['longest_ns'] / 1e6:.1f} ms"]
                      for figure in size["figures"] if figure["row"] not in stored]
    if not lines:
        return ""
    return ("<h3>The machine without a store</h3>" +
            table(["row, records", "run", "the longest operation"], lines))


def trend_section(runs):
    files = [run for run in runs if run.bench == "fs-compare"]
    stores = [run for run in runs if run.bench == "kv-compare"]
    out = ["<p>Rates of different days are of different hours of a machine; what can be followed is "
           "the ratio to what was measured in the same run. Sizes of the runs: " +
           page.text(", ".join(sorted({run.data["options"]["sizes"] for run in files}))) + ".</p>"]
    if files:
        out.append(fs_trend(files, "floor",
                            "What FUSE costs at the least, with an engine that costs nothing."))
        out.append(fs_trend(files, "ext4-fresh",
                            "The host's file system, a new directory for each work."))
    if stores:
        out.append(kv_trend(stores) + bare_machine(stores))
    return "".join(out)


# ---- the store ----------------------------------------------------------------------------------


def kv_values(run, records):
    """row -> engine -> median per second."""
    values = {}
    for size in run.data["sizes"]:
        if size["records"] != records:
            continue
        for figure in size["figures"]:
            if figure.get("per_second") and not figure.get("failure"):
                values.setdefault(figure["row"], {})[figure["engine"]] = \
                    statistics.median(figure["per_second"])
    return values


def kv_pair(run, records, row):
    """kvfs, and the best of the others."""
    values = kv_values(run, records).get(row, {})
    others = [value for engine, value in values.items()
              if not engine.startswith("kvfs") and engine != "raw"]
    return values.get("kvfs"), max(others, default=None)


def kv_goal_rows(markdown):
    """Of the tables of kv-compare: (title, ratio / goal, met or not)."""
    found = []
    for line in markdown.splitlines():
        words = page.cells(line) if line.startswith("|") else []
        if len(words) != 6 or "met" not in words[5] and "missed" not in words[5]:
            continue
        goal = re.match(r"([≥≤]) ([\d.]+) ×", words[4])
        if goal and re.fullmatch(r"[\d.]+", words[3]):
            ratio = float(words[3]) / float(goal[2])
            found.append((words[0], ratio if goal[1] == "≥" else 1 / max(ratio, 1e-9)))
    return found


def kv_section(runs, tables):
    run = newest(runs, "kv-compare")
    if not run:
        return None
    out = [source(run)]
    markdown = tables.get(run.file)
    if markdown:
        found = kv_goal_rows(markdown)
        if found:
            svg = plots.goals([title for title, _ in found],
                              {"kvfs": {at: value for at, (_, value) in enumerate(found)}},
                              "kv-goals", "goals of the store")
            out.append(page.figure(svg, "Held against the best other store, unless the table says "
                                        "against what."))
    else:
        out.append("<p>bench-kv-compare is not built here, which knows the goals.</p>")
    engines = [engine["name"] for engine in run.data["engines"]]
    for size in run.data["sizes"]:
        values = kv_values(run, size["records"])
        svg = plots.bars(values, engines + ["raw"], f"kv-{size['records']}",
                         f"operations per second of {size['records']} records, by store")
        lines = [[row, *(report.number(values[row].get(engine)) for engine in engines)]
                 for row in values]
        out.append(f"<h3>{size['records']:,} records</h3>" +
                   page.figure(svg, "Operations per second, longer is better." + (
                       "" if run.data.get("memory_limit") else " Rows limited-*: only caches were "
                       "limited, so who relies on the kernel's page cache had all memory.")) +
                   page.folded("As a table", table(["row", *engines], lines)))
    if markdown:
        out.append(page.folded("All tables of this run, with latencies, memory and sizes",
                               page.from_markdown(markdown)))
    return "".join(out)


# ---- memory -----------------------------------------------------------------------------------------


def tier_shares(side):
    """Where the pages of gets were found, in percent."""
    found = {name: tier["hits"] for name, tier in side["tiers"].items()}
    found["device"] = side["device_reads"]
    total = sum(found.values()) or 1
    return {name: 100 * count / total for name, count in found.items()}


def tiers_section(runs):
    run = newest(runs, "tiers")
    if not run:
        return None
    loads = {name: {**load, "four": tier_shares(load["four"]), "two": tier_shares(load["two"])}
             for name, load in run.data["loads"].items()}
    lines = []
    for name, load in run.data["loads"].items():
        for which in ("four", "two"):
            side = load[which]
            lines.append([f"{name}, {which}", report.number(side["per_second"]),
                          *(f"{loads[name][which][kind]:.1f}"
                            for kind in ("hot", "warm", "cold", "frozen", "device")),
                          report.number(side["p50_ns"] / 1000), report.number(side["p99_ns"] / 1000),
                          f"{side['peak_rss_bytes'] >> 20}",
                          f"{load['ratio']:.2f}" if which == "four" else "",
                          f"≥ {load['goal']:g}" if which == "four" else "",
                          ("met" if load["met"] else "missed") if which == "four" else ""])
    heads = ["load", "reads/s", "hot %", "warm %", "cold %", "frozen %", "device %", "p50 µs",
             "p99 µs", "peak MiB", "ratio", "goal", ""]
    return (source(run) + page.figure(plots.tiers(loads, "tiers", "four tiers beside two"),
                                      "Left: reads per second, with all four tiers, to those of the "
                                      "same budget for hot and warm alone. Right: pages.") +
            page.folded("As a table", table(heads, lines)))


def policy_section(runs):
    run = newest(runs, "policy")
    if not run:
        return None
    panels, lines = {}, []
    for trace, data in run.data["traces"].items():
        sizes = list(data["hit_ratios"])
        names = list(data["hit_ratios"][sizes[0]])
        panels[trace] = {name: ([int(size) for size in sizes],
                                [100 * data["hit_ratios"][size][name] for size in sizes])
                         for name in names}
        lines += [[f"{trace}, {size} %", *(f"{100 * data['hit_ratios'][size][name]:.1f}"
                                           for name in names)] for size in sizes]
    svg = plots.lines(panels, "policy", "hit ratios of policies", "memory, % of the pages",
                      "found in memory, %")
    return (source(run) + page.figure(svg, "Pages found in memory, by trace and size of memory.") +
            page.folded("As a table", table(["trace, memory", *names], lines)))


def import_section(runs):
    run = newest(runs, "import")
    if not run:
        return None
    panels, lines = {}, []
    for row, figures in run.data["rows"].items():
        way, _, state = row.partition("/")
        name = f"kvfs import, {way}" if way.startswith(("image-", "mount-")) else way
        if figures.get("files_per_s"):
            panels.setdefault(state, {})[name] = figures["files_per_s"]
        lines.append([row, *(report.number(figures.get(figure)) for figure in
                             ("files_per_s", "to_cp", "tool_us", "daemon_us", "tool_peak_mib"))])
    ways = list(dict.fromkeys(name for values in panels.values() for name in values))
    svg = plots.bars(panels, ways, "import", "files per second that come in, by way")
    heads = ["way, caches", "files/s", "to cp -a", "µs of the tool", "µs of the daemon",
             "peak MiB of the tool"]
    goal = run.data.get("goal")
    return (source(run) + page.figure(svg, "Files per second, by what state the kernel's caches "
                                           "were in; in blue: kvfs import." +
                                      (f" Its goal is {goal:g} times what cp -a reaches."
                                       if goal else "")) +
            page.folded("As a table", table(heads, lines)))


# ---- side by side ------------------------------------------------------------------------------------


def compare_section(runs):
    those = [run for run in runs if run.bench in ("compare", "gate") and run.data["rows"]]
    out = []
    for run in those:
        rows = run.data["rows"].values()
        bound = 1 - run.data["options"]["loss_percent"] / 100 if run.bench == "gate" else None
        svg = plots.intervals([(row["title"], row["ratio"], row["low"], row["high"],
                                row["beyond_noise"]) for row in rows], plain(run.file),
                              "B as a multiple of A, with intervals", "B / A", bound)
        out.append(source(run) + page.figure(svg, "B as a multiple of A, each with its interval. "
                                                  "Grey: within the noise.") +
                   page.folded("As tables", page.from_markdown(sides.render(run.data))))
    return "".join(out) or None


# ---- the guides' figures -------------------------------------------------------------------------------


def measured_rates(run, size, rows):
    values = kv_values(run, size["records"])
    said = []
    for row in rows:
        rate = values.get(row, {}).get("kvfs")
        if rate and row.startswith("large"):
            said.append(f"{rate * run.data['large_value_bytes'] / 1e9:.2f} GB/s ({row})")
        elif rate:
            said.append(f"{rate / 1e6:.2f} M/s ({row})")
    return said


def measured_latencies(run, figure):
    said = []
    for row in ("create/4k/1", "read/cold/4k", "read/warm/4k"):
        value = run.data["rows"].get(row, {}).get("targets", {}).get("kvfs", {}).get(figure)
        if value:
            said.append(f"{report.number(value)} µs ({row})")
    return said


def store_latencies(run, size, percentile):
    for figure in size["figures"]:
        if figure["row"] == "get" and figure["engine"] == "kvfs" and figure.get(percentile):
            return [f"{statistics.median(figure[percentile]) / 1000:.2f} µs (get, in process)"]
    return []


def headline_section(runs):
    store, files = newest(runs, "kv-compare"), newest(runs, "fs-compare")
    lines = []
    for claim, rows in HEADLINES:
        said = []
        if rows[0] in ("p50_us", "p99_us"):
            if files:
                said += measured_latencies(files, rows[0])
            if store:
                said += store_latencies(store, store.data["sizes"][-1],
                                        rows[0].replace("_us", "_ns"))
        elif store:
            said += measured_rates(store, store.data["sizes"][-1], rows)
        lines.append([claim, "; ".join(said) or "not in the results that are kept",
                      HEADLINE_NOTES[claim]])
    size = store.data["sizes"][-1] if store else None
    lead = ("Guides to tuning promise these figures, and name neither the machine nor the work. Beside "
            "them stands what comes nearest here, each with the row it is from" +
            (f": {size['records']:,} records of {store.data['value_bytes']} bytes in process "
             f"({store.file})" if store else "") +
            (f"; files through the kernel ({files.file})" if files else "") + ".")
    return f"<p>{page.text(lead)}</p>" + table(["promised", "measured here", "what that is"], lines,
                                               words=True)


# ---- what it was measured on --------------------------------------------------------------------------


def command_of(run):
    """How to do it again, as far as the run says."""
    options = run.data.get("options", {})
    if isinstance(options, str):
        return f"build/bin/bench-{run.bench} {options}"
    if run.bench == "fs-compare":
        size = {"full": "", "quick": " --quick", "tiny": " --tiny"}.get(options.get("sizes"), "")
        rows = "" if options.get("rows") in (None, "*") else f" --rows '{options['rows']}'"
        return (f"bench/fs-compare{size} --rounds {options.get('rounds')}{rows} --targets "
                f"{','.join(run.data['targets'])} --seed {options.get('seed')}")
    words = " ".join(f"{name}={value}" for name, value in options.items())
    program = {"tiers": "build/bin/bench-tiers", "policy": "build/bin/bench-policy"}
    return f"{program.get(run.bench, 'bench/' + run.bench)}  # {words}"


def versions_of(run):
    data, said = run.data, []
    said += [f"{name} {value}" for name, value in data.get("versions", {}).items() if value]
    said += [f"{engine['name']} {engine['version']}: {engine['settings']}"
             for engine in data.get("engines", ())]
    said += [f"{name}: {target['note']}" +
             (f", {target['version']}" if target.get("version") else "")
             for name, target in data.get("targets", {}).items()]
    said += [f"{name}: {side['note']}" for name, side in data.get("sides", {}).items()]
    return said


def settings_of(run):
    options = run.data.get("options", {})
    return ", ".join(f"{name} {value}" for name, value in options.items()) \
        if isinstance(options, dict) else options


def runs_section(runs):
    out = []
    for run in reversed(runs):
        out.append(f"<h3>{page.text(run.bench)}, {page.text(run.when)}</h3>" + table(
            ["this run", ""], [["file", run.file], ["commit", run.commit], ["machine", run.facts()],
                       ["settings", settings_of(run)]], words=True) +
            f"<pre>{page.text(command_of(run))}</pre>" +
            page.folded("Versions and settings of all that took part", "<ul>" + "".join(
                f"<li>{page.text(words)}</li>" for words in versions_of(run)) + "</ul>"))
    return "".join(out)


# ---- others --------------------------------------------------------------------------------------------

KNOWN = ("import", "fs-compare", "kv-compare", "tiers", "policy", "compare", "gate")


def leaves(value, path=()):
    """The numbers of a result, each with where it stands."""
    if isinstance(value, dict):
        for name, below in value.items():
            yield from leaves(below, (*path, str(name)))
    elif isinstance(value, bool) or value is None or isinstance(value, str):
        return
    elif isinstance(value, (int, float)):
        yield path, value
    elif isinstance(value, list) and value and all(isinstance(one, (int, float)) for one in value):
        yield path, statistics.median(value)


def other_section(runs):
    """Results that this page knows no plot for: their numbers, all the same."""
    out = []
    for run in runs:
        if run.bench in KNOWN:
            continue
        lines = [[" / ".join(path), report.number(value)] for path, value in leaves(
            {name: value for name, value in run.data.items() if name not in ("machine", "options")})]
        out.append(f"<h3>{page.text(run.bench)}</h3>" + source(run) +
                   page.folded(f"{len(lines)} figures", table(["figure", "value"], lines)))
    return "".join(out) or None


# ---- the page -------------------------------------------------------------------------------------------


def lead_of(runs, tables):
    files, store = newest(runs, "fs-compare"), newest(runs, "kv-compare")
    said = []
    if files:
        met = sum(goal["met"] for goal in files.data["goals"])
        said.append(("goals of files met", f"{met} of {len(files.data['goals'])}"))
    if store and tables.get(store.file):
        words = [page.cells(line)[-1] for line in tables[store.file].splitlines()
                 if line.startswith("|") and len(page.cells(line)) == 6]
        judged = [word for word in words if word == "met" or "missed" in word]
        said.append(("goals of the store met", f"{judged.count('met')} of {len(judged)}"))
    said.append(("runs kept", len(runs)))
    said.append(("newest", runs[-1].when[:16]))
    return ("<p>A key-value store that is a filesystem, measured beside other filesystems, other "
            "stores, and what its transport costs at the least. A goal is a ratio to something "
            "measured in the same run.</p>" + page.tiles(said) +
            f'<p class="faint">{page.text(runs[-1].facts())}</p>')


def everything(runs, tables):
    """(lead, sections) of the page."""
    parts = [
        ("files", "Files, beside others", fs_section(runs)),
        ("latencies", "Latencies, CPU, requests", latency_section(runs)),
        ("trend", "Trend", trend_section(runs)),
        ("store", "The store, beside others", kv_section(runs, tables)),
        ("tiers", "Tiers of memory", tiers_section(runs)),
        ("policy", "What leaves memory", policy_section(runs)),
        ("import", "Import", import_section(runs)),
        ("sides", "Settings and builds side by side", compare_section(runs)),
        ("others", "Further results", other_section(runs)),
        ("headlines", "Figures that tuning guides promise", headline_section(runs)),
        ("runs", "Machine, versions, settings, commands", runs_section(runs)),
    ]
    return lead_of(runs, tables), [part for part in parts if part[2]]
