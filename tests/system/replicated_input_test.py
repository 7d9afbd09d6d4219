"""What users do to files that are on their way to other nodes and to the origin. Real nodes."""

import errno
import os
import time

from harness import NodesTest, content_of, eventually, main, pattern

MIB = 1 << 20


class ReplicatedInput(NodesTest):
    count = 3

    def drained(self):
        return all(node.status()["dirty"]["objects"] == 0 and
                   node.status()["replication"]["records"] == 0 and
                   node.status()["replication"]["replicas"] == 0 for node in self.nodes)

    def conflicts_of(self, directory, name):
        return [leaf for leaf in os.listdir(directory) if leaf.startswith(name + ".conflict-")]

    def test_rewritten_ten_times(self):
        self.start_nodes("--upload-delay", "0s")
        a, b, _ = self.nodes
        for i in range(10):
            self.write_at(a, "big", pattern(9 * MIB + i, i))
            self.write_at(a, "small", pattern(1000 + i, i))
        self.assertTrue(content_of(self.path_at(b, "big")) == pattern(9 * MIB + 9, 9))
        self.assertEqual(content_of(self.path_at(b, "small")), pattern(1009, 9))
        a.sync()
        self.assertTrue(self.in_origin("big") == pattern(9 * MIB + 9, 9))
        self.assertEqual(self.in_origin("small"), pattern(1009, 9))
        eventually(self.drained, "records and replicas to go", 60)
        self.assertEqual(sorted(name for name in os.listdir(self.origin) if name != ".shoal"),
                         ["big", "small"])

    def test_renamed_and_removed_while_uploading(self):
        stub = self.start_stub()
        self.start_nodes("--upload-delay", "0s", origin=stub.url)
        a, b, _ = self.nodes
        stub.faults(account_in_mibps=8)
        data = pattern(24 * MIB, 1)
        for name in ("renamed", "removed"):
            self.write_at(a, name, data)
            eventually(lambda: (name, "uploading") in [(item["object"], item["state"])
                                                       for item in a.status()["backlog"]],
                       "the upload to begin")
            if name == "renamed":
                os.rename(self.path_at(a, name), self.path_at(a, "new"))
            else:
                os.unlink(self.path_at(a, name))
        stub.faults()
        a.sync()
        eventually(self.drained, "records and replicas to go", 60)
        for node in (a, b):
            self.assertEqual(os.listdir(node.mountpoint), ["new"])
            self.assertTrue(content_of(self.path_at(node, "new")) == data)

    def test_two_writers_of_one_path(self):
        self.start_nodes("--upload-delay", "1h", ack="local")
        a, b, c = self.nodes
        ours, theirs = pattern(9 * MIB, 1), pattern(9 * MIB + 5, 2)
        self.write_at(a, "x", ours)
        self.write_at(b, "x", theirs)
        a.sync()
        b.sync()
        self.assertTrue(self.in_origin("x") == ours)
        aside = self.conflicts_of(self.origin, "x")
        self.assertEqual(len(aside), 1)
        self.assertTrue(self.in_origin(aside[0]) == theirs)
        self.assertIn("was changed in the origin by somebody else", b.log())
        self.assertTrue(content_of(self.path_at(c, "x")) == ours)
        self.assertTrue(content_of(self.path_at(c, aside[0])) == theirs)

    def test_changed_in_the_origin_while_it_waits(self):
        self.start_nodes("--upload-delay", "1h")
        a, b, _ = self.nodes
        self.write_at(a, "x", b"first")
        a.sync()
        self.write_at(a, "x", b"ours")
        with open(os.path.join(self.origin, "x.new"), "wb") as file:
            file.write(b"theirs")
        os.rename(os.path.join(self.origin, "x.new"), os.path.join(self.origin, "x"))
        a.sync()
        self.assertEqual(self.in_origin("x"), b"theirs")
        aside = self.conflicts_of(self.origin, "x")
        self.assertEqual([self.in_origin(name) for name in aside], [b"ours"])
        self.assertIn("the local version is kept as " + aside[0], a.log())
        eventually(self.drained, "the record to go")
        self.assertEqual(content_of(self.path_at(b, "x")), b"theirs")
        self.assertEqual(content_of(self.path_at(b, aside[0])), b"ours")

    def test_a_writer_that_never_closes(self):
        self.start_nodes("--upload-delay", "0s", "--grace", "2s")
        a, b, _ = self.nodes
        data = pattern(18 * MIB + 77, 3)
        file = open(self.path_at(a, "log"), "wb", buffering=0)
        self.addCleanup(self.close_quietly, file)
        file.write(data[:10 * MIB])
        os.fsync(file.fileno())
        file.write(data[10 * MIB:])
        os.fsync(file.fileno())
        file.write(b"never synced")
        self.assertFalse(os.path.exists(self.path_at(b, "log")))
        self.destroy(a)
        found = eventually(lambda: self.in_origin("log"), "what was synced in the origin", 60)
        self.assertTrue(found[:len(data)] == data)
        eventually(lambda: os.path.exists(self.path_at(b, "log")), "the file")
        self.assertTrue(content_of(self.path_at(b, "log"))[:len(data)] == data)

    def close_quietly(self, file):
        try:
            file.close()
        except OSError:
            pass  # its mount is gone

    def test_owners_without_space(self):
        """The writer hears of it, keeps what it has, and all of it gets to the origin."""
        stub = self.start_stub()
        self.nodes = []
        for i, size in enumerate(("2GiB", "64MiB", "64MiB")):
            self.start_node(i, "--cache-size", size, "--upload-delay", "0s", "--ack", "replicated",
                            "--ack-timeout", "3s", origin=stub.url)
        eventually(lambda: all(len(node.status()["members"]) == 3 for node in self.nodes),
                   "all to be members")
        a = self.nodes[0]
        # Uploads wait, all else goes on.
        stub.faults(script=[{"fault": "busy", "method": "PUT", "target": "/data/f", "skip": 0,
                             "count": 1_000_000}])
        written = []
        with self.assertRaises(OSError) as refused:
            for i in range(20):
                written.append((f"f{i}", pattern(16 * MIB, i)))
                self.write_at(a, *written[-1])
        self.assertEqual(refused.exception.errno, errno.ENOSPC, a.log())
        self.assertGreaterEqual(len(written), 3)
        self.assertIn("nodes", a.log())
        for name, data in written[:-1]:  # acknowledged
            self.assertTrue(content_of(self.path_at(self.nodes[2], name)) == data, name)
        stub.faults()
        a.sync(timeout="110s")
        eventually(self.drained, "records and replicas to go", 60)
        for name, data in written[:-1]:
            self.assertTrue(content_of(self.path_at(self.nodes[1], name)) == data, name)

    def test_levels_of_files_and_directories(self):
        self.start_nodes("--upload-delay", "1h", "--ack-below", "ckpt=replicated,ckpt/scratch=local",
                         ack="local")
        a, b, _ = self.nodes
        for directory in ("ckpt/scratch", "other", "by-xattr"):
            os.makedirs(self.path_at(a, directory))
        os.setxattr(self.path_at(a, "by-xattr"), "user.shoal.ack", b"replicated")

        def level(name):
            return os.getxattr(self.path_at(a, name), "user.shoal.ack")

        def state(name):
            return os.getxattr(self.path_at(a, name), "user.shoal.state")

        for name in ("ckpt/x", "ckpt/scratch/x", "other/x", "by-xattr/x"):
            self.write_at(a, name, b"1")
        self.assertEqual((level("ckpt/x"), state("ckpt/x")), (b"replicated", b"replicated"))
        self.assertEqual((level("ckpt/scratch/x"), state("ckpt/scratch/x")), (b"local", b"staged"))
        self.assertEqual((level("other/x"), state("other/x")), (b"local", b"staged"))
        self.assertEqual((level("by-xattr/x"), state("by-xattr/x")), (b"replicated", b"replicated"))
        with open(self.path_at(a, "other/y"), "wb") as file:
            os.setxattr(file.fileno(), "user.shoal.ack", b"durable")
            file.write(b"2")
        self.assertEqual(self.in_origin("other/y"), b"2")
        with self.assertRaises(OSError):
            os.setxattr(self.path_at(a, "other/y"), "user.shoal.ack", b"sometimes")
        # The directory says it to every node.
        self.write_at(b, "by-xattr/z", b"3")
        self.assertEqual(os.getxattr(self.path_at(b, "by-xattr/z"), "user.shoal.state"),
                         b"replicated")


class CommitOrder(NodesTest):
    count = 2

    def watch(self, condition, stub, what):
        """Looks at the origin like one who knows nothing of Shoal's nodes."""
        self.start("--attr-ttl", "0s", "--negative-ttl", "0s", "--read-only", origin=stub.url)
        return eventually(condition, what, 60)

    def test_the_marker_comes_last(self):
        stub = self.start_stub()
        self.start_nodes("--upload-delay", "0s", ack="local", origin=stub.url)
        a, b = self.nodes
        os.makedirs(self.path_at(a, "run/s/rng"))
        stub.faults(script=[{"fault": "busy", "method": "PUT", "target": f"/s/{part}", "skip": 0,
                             "count": 4} for part in ("shard", "other", "rng")])
        self.write_at(a, "run/s/shard", pattern(9 * MIB, 1))
        self.write_at(a, "run/s/rng/0", b"2")
        self.write_at(b, "run/s/other", b"3")  # another node's, closed before
        self.write_at(a, "run/s/.metadata", b"4")
        self.write_at(a, "run/latest_checkpointed_iteration.txt", b"5")
        names = ("run/s/shard", "run/s/rng/0", "run/s/other")

        def torn_or_whole():
            tracker = os.path.exists(self.path("run/latest_checkpointed_iteration.txt"))
            metadata = os.path.exists(self.path("run/s/.metadata"))
            if tracker:
                self.assertTrue(os.path.exists(self.path("run/s/.metadata")))
            if tracker or metadata:
                for name in names:
                    self.assertTrue(os.path.exists(self.path(name)), name)
            return tracker

        self.watch(torn_or_whole, stub, "the tracker")

    def test_the_newest_directory_first_within_the_rate(self):
        self.start_nodes("--upload-delay", "200ms", "--upload-rate", "24MiB", count=1, ack="local")
        a = self.nodes[0]
        os.makedirs(self.path_at(a, "old"))
        os.makedirs(self.path_at(a, "new"))
        begun = time.monotonic()
        for i in range(10):
            self.write_at(a, f"old/{i}", pattern(9 * MIB, i))
        for i in range(2):
            self.write_at(a, f"new/{i}", pattern(9 * MIB, i))
        # In the order of directories /old would be whole first.
        eventually(lambda: self.in_origin("new/1") is not None, "the newest", 60)
        self.assertFalse(self.in_origin("old/9") is not None, "old/9 before new/1")
        a.sync()
        self.assertGreater(time.monotonic() - begun, 12 * 9 / 24 - 1)


if __name__ == "__main__":
    main()
