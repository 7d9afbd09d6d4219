"""What a cluster answers to a machine that is set up wrongly: a clock that is hours off, a map that
may not be written any more. Real nodes on the loopback address."""

import glob
import os
import re
import subprocess
import unittest

from harness import Daemon, NodesTest, content_of, eventually, main, pattern

HOURS = 2
FAKETIME = next(iter(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")), None)


def clock(hours):
    """The environment of a process whose wall clock is off; its monotonic clock is not."""
    return {"LD_PRELOAD": FAKETIME, "FAKETIME": f"{hours:+}h", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1"}


@unittest.skipIf(os.environ.get("TEST_SANITIZE"), "sanitizers want to be loaded first")
@unittest.skipIf(FAKETIME is None, "faketime is not installed (make deps)")
class WrongClock(NodesTest):
    count = 3

    def start_with_clocks(self, hours, *flags, origin=None):
        self.nodes = []
        for i, off in enumerate(hours):
            self.start_node(i, *flags, "--ack", "replicated", origin=origin,
                            env=clock(off) if off else None)
        eventually(lambda: all(len(node.status()["members"]) == len(hours) for node in self.nodes),
                   "all to be members")

    def test_the_origin_refuses_it(self):
        """Blob takes no signature that is 15 minutes off. The message says what to do."""
        stub = self.start_stub()
        for off in (HOURS, -HOURS):
            node = Daemon(stub.url, self.mount, self.cache, env=clock(off), expect_failure=True)
            self.assertNotEqual(node.process.wait(timeout=60), 0)
            self.assertIn("clock", node.log())
            self.assertIn("timedatectl", node.log())
        doctor = self.shoal("doctor", stub.url, env={**os.environ, **clock(HOURS)})
        self.assertNotEqual(doctor.returncode, 0)
        seconds = re.search(r"clock +(\d+) s ahead of the origin's", doctor.stdout)
        self.assertTrue(seconds, doctor.stdout)
        self.assertAlmostEqual(int(seconds[1]), HOURS * 3600, delta=30)

    def test_members_name_it(self):
        """A directory takes any clock. The others say whose is wrong, and by how much."""
        for off, word in ((HOURS, "ahead of"), (-HOURS, "behind")):
            with self.subTest(hours=off):
                logs = [os.path.join(self.directory, f"cache{i}.log") for i in range(3)]
                sizes = [os.path.getsize(log) if os.path.exists(log) else 0 for log in logs]
                self.start_with_clocks((0, 0, off))
                begun = dict(zip(self.nodes, sizes))
                good = self.nodes[0]
                said = eventually(lambda: next((line for line in good.log(begun[good]).splitlines()
                                                if "clock is" in line), None), "a warning")
                self.assertIn(word, said)
                self.assertIn("NTP", said)
                for node in self.nodes:
                    node.stop()
                    count = node.log(begun[node]).count("clock is")
                    self.assertLessEqual(count, 4, "once for each peer and direction")

    def test_what_was_written_later_counts(self):
        """Written by the node that is ahead, then by one that is not: whatever the clocks say."""
        self.start_with_clocks((0, HOURS, 0), "--upload-delay", "1h")
        good, ahead, other = self.nodes
        for name, first, second in (("a", ahead, good), ("b", good, ahead)):
            self.write_at(first, name, pattern(5000, 1))
            self.assertTrue(content_of(self.path_at(second, name)) == pattern(5000, 1))
            self.write_at(second, name, pattern(6000, 2))
            self.assertTrue(content_of(self.path_at(other, name)) == pattern(6000, 2), name)
        for node in self.nodes:
            node.sync()
        for name in ("a", "b"):
            self.assertTrue(self.in_origin(name) == pattern(6000, 2), name)
        self.assertEqual(sorted(n for n in os.listdir(self.origin) if "conflict" in n), [])

    def test_failure_detection_goes_by_no_wall_clock(self):
        """The one that is ahead is not taken for dead, and is when it is."""
        self.start_with_clocks((0, 0, HOURS), "--upload-delay", "1h")
        survivor, _, ahead = self.nodes
        self.write_at(ahead, "x", pattern(5000, 3))
        states = [m["state"] for m in survivor.status()["members"]]
        self.assertEqual(states, ["up"] * 3)
        self.destroy(ahead)
        eventually(lambda: "down" in [m["state"] for m in survivor.status()["members"]],
                   "it to be marked down")
        eventually(lambda: self.in_origin("x") == pattern(5000, 3), "others to upload it", 60)


@unittest.skipIf(os.geteuid() != 0, "only root may make a directory immutable")
class LostMapPermission(NodesTest):
    count = 3

    def test_a_directory_that_may_not_be_written(self):
        self.start_nodes("--grace", "5m")
        a, b, c = self.nodes
        self.write_at(a, "before", pattern(100_000, 1))
        a.sync()
        # Permissions do not bind root, but this does.
        state = os.path.join(self.origin, ".shoal", "r")
        locked = subprocess.run(["chattr", "+i", state], capture_output=True, text=True)
        if locked.returncode != 0:
            self.skipTest("chattr: " + locked.stderr)
        self.addCleanup(subprocess.run, ["chattr", "-i", state], capture_output=True)
        c.kill()
        said = eventually(lambda: next((line for node in (a, b) for line in node.log().splitlines()
                                        if "may not be written" in line), None), "a warning", 60)
        self.assertIn("map", said)
        self.assertIn("going on with the map as it is", said)
        refused = eventually(lambda: next((status["cluster"] for status in (a.status(), b.status())
                                           if not status["cluster"]["map_store_writable"]), None),
                             "the status to say so")
        self.assertTrue(refused["last_error"])
        for node in (a, b):
            self.assertTrue(content_of(self.path_at(node, "before")) == pattern(100_000, 1))
        self.write_at(a, "after", pattern(100_000, 2))
        a.sync()
        self.assertTrue(self.in_origin("after") == pattern(100_000, 2))
        self.assertTrue(content_of(self.path_at(b, "after")) == pattern(100_000, 2))
        subprocess.run(["chattr", "-i", state], check=True)
        eventually(lambda: any("may be written again" in node.log() for node in (a, b)),
                   "the good news", 60)
        eventually(lambda: all("down" in [m["state"] for m in node.status()["members"]]
                               for node in (a, b)), "the map to say who is down")


if __name__ == "__main__":
    main()
