"""Two of kvfs, A and B, side by side: how B's rows are to A's."""

import pathlib
import statistics
import time

from lib import goals, interval, machine, report, works

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
SIDES = ("A", "B")


def titles(with_store):
    """row -> (title, unit), in the order of the tables."""
    rows = {row: (about.title, about.unit) for row, about in goals.rows().items()
            if not row.startswith(goals.LIMITED)}
    if with_store:
        rows.update({f"store/{name}": (f"the store by itself: {title}", "op/s")
                     for name, title in works.STORE_PHASES.items()})
    return rows


def paired(records, figure):
    """records: side -> those of a row. The figure in the rounds in which both have it."""
    by_round = [{record["round"]: record[figure] for record in records.get(side, ())
                 if record.get(figure, 0) > 0} for side in SIDES]
    both = sorted(set(by_round[0]) & set(by_round[1]))
    return [[rounds[number] for number in both] for rounds in by_round]


def describe_pair(a, b, digits):
    found = interval.compare(b, a)
    return {"a": round(statistics.median(a), digits), "b": round(statistics.median(b), digits),
            "a_rounds": [round(value, digits) for value in a],
            "b_rounds": [round(value, digits) for value in b],
            "ratio": round(found.ratio, 4), "low": round(found.low, 4),
            "high": round(found.high, 4), "level": round(found.level, 4),
            "beyond_noise": found.is_beyond_noise}


def compare_rows(samples, with_store=False):
    """row -> what is known of A and B: the rate, and the daemon's CPU for an operation."""
    rows = {}
    for row, (title, unit) in titles(with_store).items():
        a, b = paired(samples.get(row, {}), "rate")
        if not a:
            continue
        rows[row] = {"title": title, "unit": unit, **describe_pair(a, b, 2)}
        a, b = paired(samples[row], "cpu_us")
        if a:
            rows[row]["cpu_us"] = describe_pair(a, b, 3)
    return rows


def unequal_work(samples):
    """The rows in which A and B did not read or write the same."""
    def checksums(row, side):
        return {record["checksum"] for record in samples[row].get(side, ())
                if "checksum" in record}
    return [row for row in samples
            if checksums(row, "A") and checksums(row, "B") and
            checksums(row, "A") != checksums(row, "B")]


def result_of(name, run, facts, sides, options, with_store=False):
    return {
        "bench": name,
        "when": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "commit": machine.commit(TOP),
        "machine": facts,
        "versions": machine.tool_versions(),
        "options": {**run.sizes, **options},
        "sides": sides,
        "method": interval.METHOD,
        "rows": compare_rows(run.samples, with_store),
        "failures": run.failures,
        "unequal": unequal_work(run.samples),
    }


# ---- tables --------------------------------------------------------------------------------


def verdict(pair, better="higher"):
    if pair["level"] < interval.LEVEL_LEAST:
        return "too few rounds"
    if not pair["beyond_noise"]:
        return "within the noise"
    return "B better" if (pair["ratio"] > 1) == (better == "higher") else "B WORSE"


def pair_table(rows, heads, better):
    lines = [[title, report.number(pair["a"]), report.number(pair["b"]), f"{pair['ratio']:.3f}",
              f"{pair['low']:.3f} to {pair['high']:.3f}", verdict(pair, better)]
             for title, pair in rows]
    return report.table(heads, lines)


def render(result):
    facts, options = result["machine"], result["options"]
    rows = result["rows"].values()
    parts = [
        f"# {result['bench']}, {result['when']}",
        f"{facts['cpu']}, {facts['cpus']} CPUs, {facts['memory_mib']} MiB; {facts['system']}, "
        f"Linux {facts['kernel']}; host: {facts['host_file_system']}; load before: "
        f"{facts['load_before']:.1f}.\nRounds: {options['rounds']}; sizes: {options['sizes']}.",
        "\n".join(f"- {name}: {side['note']}" for name, side in result["sides"].items()),
    ]
    if rows:
        level = min(row["level"] for row in rows)
        apart = sum(row["beyond_noise"] for row in rows)
        parts += [
            "## Rates, operations per second (sequential: MiB/s)\n\n" +
            pair_table([(row["title"], row) for row in rows],
                       ["work", "A", "B", "B/A", "interval", ""], "higher"),
            f"{result['method']}, {level:.1%} of certainty for one row. Beyond the noise: {apart} "
            f"of {len(rows)} rows; of rows that are the same, chance alone puts "
            f"{len(rows) * (1 - level):.1f} there.",
        ]
    cpu = [(row["title"], row["cpu_us"]) for row in rows if "cpu_us" in row]
    if cpu:
        parts.append("## Daemon CPU for each operation, µs\n\n" +
                     pair_table(cpu, ["work", "A", "B", "B/A", "interval", ""], "lower"))
    if result["failures"]:
        parts.append("## Failed\n\n" + "\n".join(
            f"- {failure['target']}, {failure['work']}, round {failure['round']}: "
            f"{failure['words']}" for failure in result["failures"]))
    if result["unequal"]:
        parts.append("Not the same was read or written in: " + ", ".join(result["unequal"]))
    return "\n\n".join(parts)
