#!/usr/bin/env python3
"""Forecasts of the command line with small parameters: what comes out lies between the ceiling and a
small multiple of it.

Usage: forecast_test.py SHOAL_BINARY
"""

import json
import subprocess
import sys
import unittest

SHOAL = ""
WRITE = ("fan-out-write", "--nodes", "8", "size=8GB")
ACKNOWLEDGED = "replicated, last writer"
BASELINE = "local NVMe and uploader"
COST = "node losses that cost the checkpoint, "
COSTLY = "runs of {} in which a lost node cost anything acknowledged"


def simulate(*arguments):
    return subprocess.run([SHOAL, "simulate", *arguments], capture_output=True, text=True,
                          timeout=300, check=False)


class Forecasts(unittest.TestCase):
    def forecast(self, *arguments):
        done = simulate(*arguments, "--json")
        self.assertEqual(done.returncode, 0, done)
        document = json.loads(done.stdout)
        self.assertEqual(document["scenario"], arguments[0])
        return {row["name"]: row for row in document["rows"]}

    def ratio(self, rows, name, most):
        self.assertGreaterEqual(rows[name]["ratio"], 0.999, rows[name])
        self.assertLessEqual(rows[name]["ratio"], most, rows[name])

    def test_a_checkpoint_is_near_its_ceilings(self):
        rows = self.forecast(*WRITE, "losses=0")
        self.ratio(rows, ACKNOWLEDGED, 1.5)
        self.ratio(rows, "durable, last file", 2.2)
        self.ratio(rows, "bytes to the origin", 1.02)
        self.ratio(rows, "bytes between nodes", 1.02)
        self.ratio(rows, BASELINE + ": local, last node", 1.05)
        self.ratio(rows, BASELINE + ": durable, last node", 1.5)
        self.assertLess(rows[ACKNOWLEDGED]["value"], rows["durable, last file"]["value"])

    def test_one_writer_spreads_its_upload(self):
        rows = self.forecast(*WRITE, "writers=1", "losses=0", "blob-connections=16")
        self.ratio(rows, ACKNOWLEDGED, 1.5)
        self.assertLess(rows["durable, last file"]["value"],
                        rows[BASELINE + ": durable, last node"]["value"] / 2)

    def test_a_lost_node_costs_nothing_replicated(self):
        rows = self.forecast(*WRITE, "losses=3", "interval=60s")
        self.assertGreater(rows[COST + BASELINE]["value"], 0)
        self.assertLess(rows[COST + BASELINE]["value"], 100)
        self.assertEqual(rows[COST + "Shoal"]["value"], 0)
        self.assertEqual(rows[COSTLY.format(3)]["value"], 0)
        self.assertGreaterEqual(rows["durable, last file, after a node was lost"]["value"],
                                rows["durable, last file"]["value"])

    # The checker sees what is lost: one copy is one node's.
    def test_a_lost_node_costs_what_only_it_had(self):
        rows = self.forecast(*WRITE, "losses=3", "replicas=1")
        self.assertGreater(rows[COSTLY.format(3)]["value"], 0)
        self.assertGreater(rows[COST + "Shoal"]["value"], 0)

    def test_placement_keeps_its_marks(self):
        rows = self.forecast("placement", "nodes-max=16", "objects=20", "changes=20")
        marked = [row for row in rows.values() if row["target"] is not None]
        self.assertGreater(len(marked), 0)
        self.assertEqual([row for row in marked if not row["met"]], [])
        for name in ("slot map", "ring", "rendezvous"):
            self.assertTrue(any(name in row for row in rows), name)

    def test_equal_seeds_equal_forecasts(self):
        outputs = {simulate(*WRITE, "losses=1", "--seed", "7", "--json").stdout for _ in range(2)}
        self.assertEqual(len(outputs), 1)

    def test_one_reader_gets_what_its_network_carries(self):
        rows = self.forecast("fan-in-read", "--nodes", "4", "size=8GB", "chunks=256")
        self.ratio(rows, "read by one client", 1.25)
        self.assertEqual(rows["bytes from the origin while reading"]["value"], 0)

    def test_more_nodes_fetch_no_more(self):
        rows = self.forecast("scale", "--nodes", "16", "size=8GB", "chunks=128")
        for nodes in (8, 16):
            self.ratio(rows, f"{nodes} nodes, bytes from the origin", 1.02)
            self.ratio(rows, f"{nodes} nodes, read, last node", 3)

    def test_parameters_that_cannot_be_are_named(self):
        for given, message in (("colour=red", "\"red\" is no amount"),
                               ("colour=1", "it has no parameter \"colour\""),
                               ("ahead=4", "it has no parameter \"ahead\""),
                               ("blob-out=60Gbit", "it has no parameter \"blob-out\""),
                               ("writers=9", "9 writers are more than 8 nodes"),
                               ("replicas=6", "that may be \"6\""),
                               ("chunks=3", "must be 33 at least"),
                               ("interval=soon", "is no time like"),
                               ("interval=0s", "interval must be more than nothing"),
                               ("size=1MB", "are too few")):
            done = simulate(*WRITE, given)
            self.assertEqual(done.returncode, 2, done)
            self.assertIn("shoal simulate fan-out-write: ", done.stderr)
            self.assertIn(message, done.stderr)
        done = simulate("fan-out-read", "--nodes", "4", "replicas=2")
        self.assertEqual(done.returncode, 2, done)
        self.assertIn("it has no parameter \"replicas\"", done.stderr)

    def test_help_names_parameters(self):
        done = simulate("--help")
        self.assertEqual(done.returncode, 0, done)
        for text in ("fan-out-write", "losses=8", "interval=30min"):
            self.assertIn(text, " ".join(done.stdout.split()))


if __name__ == "__main__":
    SHOAL = sys.argv.pop(1)
    unittest.main()
