#!/usr/bin/python3
"""tests/bench/test_report.py: bench/report makes one whole page of the kept results.

    test_report.py BIN_DIR

It is well-formed, loads nothing, uses each id once, has a table for each plot, and names every row of
every result, the figures of the guides, and each run with its machine and command. Results of every
kind that is not kept are made up. Skipped (77) without matplotlib.
"""

import html
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
REPORT = TOP / "bench" / "report"
RESULTS = sorted((TOP / "bench" / "results").glob("*.json"))
BIN = sys.argv.pop(1) if len(sys.argv) > 1 else str(TOP / "build" / "bin")


def pair(ratio):
    return {"a": 100, "b": 100 * ratio, "ratio": ratio, "low": ratio * 0.9, "high": ratio * 1.1,
            "level": 0.96, "beyond_noise": abs(ratio - 1) > 0.1}


MADE_UP = {
    "gate.json": {
        "bench": "gate", "when": "2026-11-20 10:00:00 UTC", "commit": "0123456789abcdef",
        "machine": {"cpu": "a <processor>", "cpus": 2, "memory_mib": 1000, "kernel": "6",
                    "system": "Debian", "host_file_system": "ext4", "load_before": 0.5},
        "versions": {"fio": None}, "options": {"rounds": 6, "sizes": "quick", "loss_percent": 10},
        "sides": {"A": {"note": "before"}, "B": {"note": "after & now"}}, "method": "by hand",
        "rows": {"create/4k/1": {"title": "create <it>", "unit": "op/s", **pair(0.8),
                                 "cpu_us": pair(1.2)}},
        "failures": [], "unequal": []},
    "new.json": {"bench": "of-tomorrow", "when": "2026-11-20 11:00:00 UTC", "commit": None,
                 "options": {}, "figures": {"answer": 42, "rates": [1, 2, 3], "word": "x"}},
}


def make(directory, files, status=0):
    output = pathlib.Path(directory) / "page.html"
    done = subprocess.run([str(REPORT), "-o", str(output), "--bin", BIN, *map(str, files)],
                          text=True, check=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode == 77:
        print(done.stderr, end="")
        sys.exit(77)
    if done.returncode != status:
        raise AssertionError(f"status {done.returncode}, not {status}: {done.stderr}")
    return output.read_text(encoding="utf-8") if status == 0 else done.stderr


class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory(prefix="kvfs-report.") as directory:
            files = list(RESULTS)
            for name, data in MADE_UP.items():
                files.append(pathlib.Path(directory) / name)
                files[-1].write_text(json.dumps(data))
            cls.page = make(directory, files)
        cls.tree = xml.etree.ElementTree.fromstring(cls.page.split("\n", 1)[1])
        cls.words = html.unescape(cls.page)

    def test_it_loads_nothing(self):
        for tag in ("script", "link", "img", "iframe", "object", "embed"):
            self.assertEqual(self.tree.findall(f".//{tag}"), [], tag)
        for found in re.findall(r'(?:href|src)="([^"]*)"', self.page):
            self.assertTrue(found.startswith("#"), found)
        self.assertNotIn("@import", self.page)
        self.assertEqual(re.findall(r"url\((?!#)", self.page), [])

    def test_each_id_is_there_once_and_each_reference_leads_somewhere(self):
        ids = re.findall(r'\bid="([^"]*)"', self.page)
        self.assertEqual(len(ids), len(set(ids)))
        for found in re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', self.page):
            self.assertIn(found[0] or found[1], ids)

    def test_each_plot_has_a_name_and_a_table(self):
        figures = 0
        for section in self.tree.iter("section"):
            here = len(section.findall(".//figure"))
            figures += here
            if here:
                self.assertTrue(section.findall(".//table"), section.get("id"))
        plots = self.tree.findall(".//{http://www.w3.org/2000/svg}svg")
        self.assertGreater(figures, 5)
        self.assertEqual(len(plots), figures)
        for plot in plots:
            self.assertTrue(plot.get("aria-label"))

    def test_colours_are_those_of_the_page(self):
        plots = "".join(re.findall(r"<svg.*?</svg>", self.page, re.DOTALL))
        left = set(re.findall(r"#[0-9a-f]{6}\b", plots)) - {"#000000"}
        self.assertEqual(left, set())
        self.assertIn("prefers-color-scheme: dark", self.page)

    def test_every_row_of_every_result_is_named(self):
        for path in RESULTS:
            data = json.loads(path.read_text(encoding="utf-8"))
            self.assertIn(path.name, self.words)
            rows = data.get("rows")
            if isinstance(rows, dict):
                for name, row in rows.items():
                    self.assertTrue(name in self.words or
                                    row.get("title", name) in self.words, name)
            for size in data.get("sizes", ()):
                for figure in size["figures"]:
                    self.assertIn(f"{figure['row']}, {size['records']:,}", self.words)
            for name in (*data.get("loads", ()), *data.get("traces", ())):
                self.assertIn(name, self.words)

    def test_the_guides_figures_stand_beside_ours(self):
        for words in ("20.4 M cached reads/s", "1.14 M writes/s", "885 K mixed", "1.4 M concurrent",
                      "5 GB/s large values", "P50 49 µs", "P99 250 µs"):
            self.assertIn(words, self.words)

    def test_each_run_tells_machine_settings_and_command(self):
        for words in ("a <processor>", "bench/fs-compare --quick", "build/bin/bench-kv-compare",
                      "build/bin/bench-tiers", "loss_percent 10"):
            self.assertIn(words, self.words)

    def test_what_is_unknown_is_shown_as_it_is(self):
        for words in ("of-tomorrow", "figures / answer", "figures / rates"):
            self.assertIn(words, self.words)


class Refusals(unittest.TestCase):
    def test_what_is_no_result_is_refused_by_name(self):
        with tempfile.TemporaryDirectory(prefix="kvfs-report.") as directory:
            for content in ("", "[]", "{}", '{"bench": 7, "rows'):
                path = pathlib.Path(directory) / "bad.json"
                path.write_text(content)
                self.assertIn("bad.json: not a result", make(directory, [path], 1))

    def test_a_later_look_at_a_few_rows_does_not_stand_for_the_whole(self):
        whole = max((path for path in RESULTS if path.name.startswith("fs-compare")),
                    key=lambda path: len(json.loads(path.read_text(encoding="utf-8"))["rows"]))
        few = json.loads(whole.read_text(encoding="utf-8"))
        few["when"] = "2099-01-01 00:00:00 UTC"
        row = next(iter(few["rows"]))
        few["rows"] = {row: few["rows"][row]}
        few["goals"] = [goal for goal in few["goals"] if goal["row"] == row]
        with tempfile.TemporaryDirectory(prefix="kvfs-report.") as directory:
            path = pathlib.Path(directory) / "few.json"
            path.write_text(json.dumps(few))
            made = make(directory, [whole, path])
        files = made[made.index('<section id="files">'):]
        files = files[:files.index("</section>")]
        self.assertIn(whole.name, files)
        self.assertNotIn("few.json", files)
        self.assertIn("few.json", made)

    def test_one_small_result_is_enough(self):
        with tempfile.TemporaryDirectory(prefix="kvfs-report.") as directory:
            path = pathlib.Path(directory) / "new.json"
            path.write_text(json.dumps(MADE_UP["new.json"]))
            self.assertIn("of-tomorrow", make(directory, [path]))


if __name__ == "__main__":
    unittest.main()
