#!/usr/bin/env python3
"""tests/bench/test_goals.py: which goals of fs-compare are met, and which the floor misses itself."""

import pathlib
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "bench"))

from lib import report  # noqa: E402


def judged(row, rates, raw=None, floor_requests=None):
    """The goals of one row: against -> line."""
    targets = {name: {"rate": rate} for name, rate in rates.items()}
    if floor_requests:
        targets["floor"]["requests"] = floor_requests
    result = {"rows": {row: {"title": row, "targets": targets}},
              "targets": {name: {"kind": "peer" if name == "fuse2fs" else "other"}
                          for name in rates}}
    if raw:
        result["raw_flush"] = {"append": raw}
    return {line["against"]: line for line in report.judge(result)}


class Goals(unittest.TestCase):
    def test_a_goal_is_a_least_ratio_to_another_rate(self):
        lines = judged("unlink/4k", {"kvfs": 100, "floor": 100, "ext4-fresh": 60, "fuse2fs": 50})
        self.assertEqual({name: line["met"] for name, line in lines.items()},
                         {"floor": True, "ext4-fresh": True, "fuse2fs": False})

    def test_what_was_not_measured_is_not_judged(self):
        self.assertEqual(list(judged("unlink/4k", {"kvfs": 100, "floor": 100})), ["floor"])

    def test_the_floor_may_miss_it_too(self):
        lines = judged("unlink/4k", {"kvfs": 90, "floor": 100, "ext4-fresh": 80, "fuse2fs": 39})
        self.assertEqual(lines["ext4-fresh"]["floor_ratio"], 1.25)  # 1.5 is wanted
        self.assertNotIn("floor_ratio", lines["fuse2fs"])  # 2.56 of it, 2.5 is wanted
        self.assertNotIn("floor_ratio", lines["floor"])
        self.assertEqual(report.verdict(lines["ext4-fresh"]), "floor: 1.25")
        self.assertEqual(report.verdict(lines["fuse2fs"]), "NOT")

    def test_a_floor_that_flushes_is_the_bound_and_not_the_floor(self):
        rates = {"kvfs": 40, "floor": 100, "ext4-fresh": 50}
        lines = judged("sqlite/delete", rates, raw=100, floor_requests={"fsync": 1})
        self.assertEqual(lines["bound"]["other"], 50)
        self.assertEqual(lines["ext4-fresh"]["floor_ratio"], 1)  # 1.3 is wanted

    def test_reads_from_disk_have_a_floor_on_disk(self):
        lines = judged("fio/read/disk/1", {"kvfs": 19, "floor-disk": 22, "ext4-fresh": 50})
        self.assertTrue(lines["floor-disk"]["met"])
        self.assertEqual(lines["ext4-fresh"]["floor_ratio"], 0.44)

    def test_who_was_remounted_is_no_faster_than_a_floor_that_was_not(self):
        remounted = {"kvfs": {"rate": 70}, "ext4-fresh": {"rate": 100}, "fuse2fs": {"rate": 20}}
        result = {"rows": {"read/remounted/4k": {"title": "", "targets": remounted},
                           "read/cold/4k": {"title": "", "targets": {"floor": {"rate": 90}}}},
                  "targets": {"kvfs": {"kind": "kvfs"}, "fuse2fs": {"kind": "peer"}}}
        lines = {line["against"]: line for line in report.judge(result)}
        self.assertEqual(lines["ext4-fresh"]["floor_ratio"], 0.9)  # 1.3 is wanted
        self.assertNotIn("floor_ratio", lines["fuse2fs"])  # 4.5 of it, 4 is wanted

    def test_with_less_memory_than_data_the_same_row_without_a_limit_counts(self):
        targets = {"kvfs": {"rate": 70}, "fuse2fs": {"rate": 80}}
        plain = {"kvfs": {"rate": 100}, "ext4-fresh": {"rate": 500}}
        result = {"rows": {"4x/unlink/4k": {"title": "", "targets": targets},
                           "unlink/4k": {"title": "", "targets": plain}},
                  "targets": {"kvfs": {"kind": "kvfs"}, "fuse2fs": {"kind": "peer"}}}
        lines = {line["against"]: line for line in report.judge(result)
                 if line["row"] == "4x/unlink/4k"}
        self.assertTrue(lines["without limit"]["met"])
        self.assertEqual(lines["fuse2fs"]["ratio"], 0.875)
        self.assertEqual(report.verdict(lines["fuse2fs"]), "NOT")


if __name__ == "__main__":
    unittest.main()
