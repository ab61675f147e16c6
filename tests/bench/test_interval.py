#!/usr/bin/env python3
"""tests/bench/test_interval.py: the statistics of bench/compare and bench/gate, on numbers that are
known: how often an interval misses the truth, and which rows count as lost."""

import importlib.machinery
import importlib.util
import itertools
import math
import pathlib
import random
import sys
import unittest

sys.dont_write_bytecode = True
BENCH = pathlib.Path(__file__).resolve().parent.parent.parent / "bench"
sys.path.insert(0, str(BENCH))

from lib import interval, sides  # noqa: E402


def script(name):
    loader = importlib.machinery.SourceFileLoader(name, str(BENCH / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


class Interval(unittest.TestCase):
    def test_rank_sums_are_those_of_all_choices_of_signs(self):
        for pairs in range(1, 9):
            counts = interval.rank_sum_counts(pairs)
            seen = [0] * len(counts)
            for signs in itertools.product((0, 1), repeat=pairs):
                seen[sum(rank * sign for rank, sign in enumerate(signs, 1))] += 1
            self.assertEqual(counts, seen)

    def test_cuts_are_those_of_the_published_tables(self):
        # Two-sided 5 %: the greatest rank sum that rejects.
        for pairs, critical in ((6, 0), (7, 2), (8, 3), (9, 5), (10, 8), (15, 25), (20, 52)):
            cut, level = interval.cut_of(pairs)
            self.assertEqual(cut, critical)
            self.assertGreaterEqual(level, 0.95)

    def test_few_pairs_tell_nothing(self):
        found = interval.compare([2, 2, 2, 2], [1, 1, 1, 1])
        self.assertFalse(found.is_beyond_noise)
        self.assertAlmostEqual(found.level, 0.875)
        self.assertTrue(interval.compare([2] * 5, [1] * 5).is_beyond_noise)
        self.assertEqual(interval.pairs_for(0.95), 6)
        self.assertEqual(interval.pairs_for(0.9), 5)

    def test_a_constant_ratio_is_found_exactly(self):
        theirs = [100, 90, 120, 80, 110, 95, 105]
        found = interval.compare([0.8 * rate for rate in theirs], theirs)
        for value in (found.ratio, found.low, found.high):
            self.assertAlmostEqual(value, 0.8)

    def test_the_other_way_round_is_the_inverse(self):
        rng = random.Random(3)
        a = [rng.lognormvariate(0, 0.3) for _ in range(11)]
        b = [rng.lognormvariate(0, 0.3) for _ in range(11)]
        one, other = interval.compare(a, b), interval.compare(b, a)
        self.assertAlmostEqual(one.ratio, 1 / other.ratio)
        self.assertAlmostEqual(one.low, 1 / other.high)

    def test_one_wild_pair_moves_it_little(self):
        found = interval.compare([1.0] * 9 + [1000.0], [1.0] * 10)
        self.assertAlmostEqual(found.ratio, 1)
        self.assertTrue(found.low <= 1 <= found.high)

    def test_it_misses_the_truth_as_rarely_as_it_says(self):
        # A fixed seed: the count is always the same. 5 % of 2,000 are 100, of a spread of 10.
        rng = random.Random(7)
        for pairs in (6, 10):
            missed = 0
            _, level = interval.cut_of(pairs)
            for _ in range(2000):
                theirs = [rng.lognormvariate(0, 0.2) for _ in range(pairs)]
                ours = [0.7 * rate * math.exp(rng.uniform(-0.5, 0.5)) for rate in theirs]
                found = interval.compare(ours, theirs)
                missed += not found.low <= 0.7 <= found.high
            self.assertLess(missed, 2000 * (1 - level) + 40)
            self.assertGreater(missed, 0)


class Sides(unittest.TestCase):
    @staticmethod
    def samples(ratio, noise, row="create/4k/1"):
        rng = random.Random(5)
        records = {"A": [], "B": []}
        for number in range(1, 7):
            rate = 1000 * rng.lognormvariate(0, 0.5)
            records["A"].append({"round": number, "rate": rate, "checksum": "x"})
            records["B"].append({"round": number, "checksum": "x",
                                 "rate": rate * ratio * rng.lognormvariate(0, noise)})
        return {row: records}

    def test_rounds_are_paired_by_their_number(self):
        samples = {"create/4k/1": {
            "A": [{"round": 1, "rate": 10}, {"round": 2, "rate": 1000}, {"round": 4, "rate": 7}],
            "B": [{"round": 2, "rate": 2000}, {"round": 3, "rate": 5}, {"round": 1, "rate": 20}]}}
        row = sides.compare_rows(samples)["create/4k/1"]
        self.assertEqual((row["a_rounds"], row["b_rounds"]), ([10, 1000], [20, 2000]))
        self.assertAlmostEqual(row["ratio"], 2)

    def test_a_row_of_one_side_is_left_out(self):
        self.assertEqual(sides.compare_rows({"create/4k/1": {"A": [{"round": 1, "rate": 1}]}}), {})

    def test_other_contents_are_told(self):
        samples = self.samples(1, 0)
        self.assertEqual(sides.unequal_work(samples), [])
        samples["create/4k/1"]["B"][0]["checksum"] = "y"
        self.assertEqual(sides.unequal_work(samples), ["create/4k/1"])

    def test_gate_stops_a_loss_and_no_noise(self):
        gate = script("gate")
        for ratio, noise, lost in ((0.5, 0.05, True), (0.85, 0.01, True), (0.95, 0.001, False),
                                   (1.3, 0.05, False), (1, 0.3, False), (1, 0, False)):
            rows = sides.compare_rows(self.samples(ratio, noise))
            self.assertEqual(bool(gate.lost_rows(rows, 10)), lost, (ratio, noise))

    def test_gate_believes_only_what_is_lost_twice(self):
        gate = script("gate")

        def result(ratio):
            return {"rows": sides.compare_rows(self.samples(ratio, 0.01)), "failures": [],
                    "unequal": []}
        self.assertEqual(gate.judge(result(0.5), result(0.99), 10), [])
        self.assertEqual(len(gate.judge(result(0.5), result(0.6), 10)), 1)
        failed = {**result(1), "failures": [{"target": "B", "work": "git", "words": "no"}]}
        self.assertEqual(gate.judge(failed, None, 10), ["git failed: no"])

    def test_tables_name_every_row_and_how_sure_it_is(self):
        result = {"bench": "compare", "when": "now", "rows": sides.compare_rows(
                      self.samples(0.5, 0.01)), "failures": [], "unequal": [],
                  "machine": {"cpu": "c", "cpus": 2, "memory_mib": 1, "system": "s", "kernel": "k",
                              "host_file_system": "f", "load_before": 0.0},
                  "options": {"rounds": 6, "sizes": "tiny"}, "method": interval.METHOD,
                  "sides": {"A": {"note": "a"}, "B": {"note": "b"}}}
        text = sides.render(result)
        self.assertIn("create, write, close; 4 KiB, 1 thr.", text)
        self.assertIn("B WORSE", text)
        self.assertIn("96.9%", text)


if __name__ == "__main__":
    unittest.main()
