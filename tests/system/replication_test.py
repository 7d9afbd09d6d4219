"""Writes that are on other nodes before they are acknowledged: the writer is destroyed, everything
is still there, and reaches the origin by itself. Real nodes on the loopback address."""

import os

from harness import NodesTest, content_of, eventually, main, pattern

MIB = 1 << 20


class Replication(NodesTest):
    def test_the_writer_is_destroyed(self):
        stub = self.start_stub()
        self.start_nodes("--upload-delay", "1h", origin=stub.url)
        files = {"small": pattern(1000, 1), "medium": pattern(230_000, 2),
                 "large": pattern(37 * MIB + 12_345, 3), "empty": b""}
        writer = self.nodes[0]
        for name, data in files.items():
            self.write_at(writer, name, data)
        self.destroy(writer)
        rest = self.nodes[1:]
        for node in rest:
            for name, data in files.items():
                found = eventually(lambda: os.path.exists(self.path_at(node, name)), name)
                self.assertTrue(found)
                self.assertTrue(content_of(self.path_at(node, name)) == data,
                                f"{name} at {node.mountpoint}\n{node.log()}")
        # Nobody asked for it: they go to the origin by themselves.
        eventually(lambda: rest[0].status()["replication"]["records"] == 0,
                   "the ledger to empty", 60)
        eventually(lambda: rest[0].status()["replication"]["replicas"] == 0, "replicas to go")
        for node in rest:
            for name, data in files.items():
                self.assertTrue(content_of(self.path_at(node, name)) == data, name)
        # And a stock client of the origin reads them whole.
        self.start(origin=stub.url)
        for name, data in files.items():
            self.assertTrue(self.read(name) == data, name)

    def test_others_see_what_waits(self):
        self.start_nodes("--upload-delay", "1h")
        a, b, c, d = self.nodes
        os.mkdir(self.path_at(a, "step"))
        self.write_at(a, "step/x", pattern(20 * MIB, 5))
        self.write_at(a, "step/y", b"tiny")
        self.assertIsNone(self.in_origin("step/x"))
        for node in (b, c, d):
            self.assertEqual(sorted(os.listdir(self.path_at(node, "step"))), ["x", "y"])
            self.assertTrue(content_of(self.path_at(node, "step/x")) == pattern(20 * MIB, 5))
        # Rewritten before its upload: the newest is what others see.
        self.write_at(a, "step/x", pattern(9 * MIB, 6))
        os.rename(self.path_at(a, "step/y"), self.path_at(a, "step/z"))
        self.assertTrue(content_of(self.path_at(b, "step/x")) == pattern(9 * MIB, 6))
        self.assertEqual(sorted(os.listdir(self.path_at(c, "step"))), ["x", "z"])
        # Removed by another node: it waits for the upload first.
        os.unlink(self.path_at(d, "step/x"))
        self.assertFalse(os.path.exists(self.path_at(a, "step/x")) and
                         os.path.exists(self.path_at(b, "step/x")))
        a.sync()
        self.assertEqual(self.in_origin("step/z"), b"tiny")
        self.assertIsNone(self.in_origin("step/x"))
        eventually(lambda: all(n.status()["replication"]["records"] == 0 and
                               n.status()["replication"]["replicas"] == 0 for n in self.nodes),
                   "records and replicas to go")

    def test_more_replicas_than_nodes(self):
        self.start_nodes("--replicas", "3", "--ack-timeout", "2s", count=2)
        with self.assertRaises(OSError):
            self.write_at(self.nodes[0], "x", pattern(9 * MIB, 1))

    def test_degraded(self):
        self.start_nodes("--replicas", "3", "--ack-degraded", count=2)
        self.write_at(self.nodes[0], "x", pattern(9 * MIB, 1))
        self.assertTrue(self.nodes[0].status()["replication"]["degraded"])
        self.nodes[0].sync()
        self.assertTrue(self.in_origin("x") == pattern(9 * MIB, 1))

    def test_holders_upload(self):
        stub = self.start_stub()
        self.start_nodes("--upload-delay", "0s", origin=stub.url)
        data = pattern(64 * MIB, 7)
        self.write_at(self.nodes[0], "big", data)
        self.nodes[0].sync()
        sent = {name: node["origin"]["bytes_written"]
                for name, node in self.nodes[0].status()["nodes"].items()}
        self.assertLess(sent["n0"], 40 * MIB, sent)
        self.assertLess(sum(sent.values()), 66 * MIB, sent)
        self.assertTrue(content_of(self.path_at(self.nodes[3], "big")) == data)

    def test_holder_is_lost_while_the_origin_is_away(self):
        """The writer makes new copies, so that the loss of the writer costs nothing after that."""
        stub = self.start_stub()
        self.start_nodes("--upload-delay", "1h", "--grace", "2s", origin=stub.url)
        data = pattern(48 * MIB, 9)
        self.write_at(self.nodes[0], "x", data)
        before = self.nodes[0].status()["nodes"]
        lost = max((1, 2, 3), key=lambda i: before[f"n{i}"]["replication"]["replica_bytes"])
        had = sum(node["replication"]["replica_bytes"] for node in before.values())
        self.destroy(self.nodes[lost])
        eventually(lambda: sum(n["replication"]["replica_bytes"] for n in
                               self.nodes[0].status()["nodes"].values()) >= had,
                   "new copies", 60)
        self.destroy(self.nodes[0])
        for i in {1, 2, 3} - {lost}:
            node = self.nodes[i]
            eventually(lambda: os.path.exists(self.path_at(node, "x")), "x")
            self.assertTrue(content_of(self.path_at(node, "x")) == data, node.log())

    def test_the_level_shows_while_it_goes_up(self):
        stub = self.start_stub()
        self.start_nodes("--upload-delay", "0s", count=2, origin=stub.url)
        stub.faults(latency_ms=3000)
        path = self.path_at(self.nodes[0], "x")
        self.write_at(self.nodes[0], "x", pattern(5000, 1))

        def uploading():
            return [item["state"] for item in self.nodes[0].status()["backlog"]] == ["uploading"]

        eventually(uploading, "the upload to begin")
        self.assertEqual(os.getxattr(path, "user.shoal.state"), b"replicated")
        stub.faults()
        self.nodes[0].sync()
        self.assertEqual(os.getxattr(path, "user.shoal.state"), b"clean")

    def test_sync_replicated(self):
        """What was acknowledged locally can be made safe from the loss of this node."""
        self.start_nodes("--upload-delay", "1h", count=3, ack="local")
        data = pattern(20 * MIB, 4)
        self.write_at(self.nodes[0], "x", data)
        self.write_at(self.nodes[0], "y", b"small")
        self.assertEqual(os.getxattr(self.path_at(self.nodes[0], "x"), "user.shoal.state"),
                         b"staged")
        self.nodes[0].sync(level="replicated")
        self.assertEqual(os.getxattr(self.path_at(self.nodes[0], "x"), "user.shoal.state"),
                         b"replicated")
        self.destroy(self.nodes[0])
        for node in self.nodes[1:]:
            eventually(lambda: os.path.exists(self.path_at(node, "y")), "y")
            self.assertTrue(content_of(self.path_at(node, "x")) == data)
            self.assertEqual(content_of(self.path_at(node, "y")), b"small")
        eventually(lambda: self.in_origin("x") == data and self.in_origin("y") == b"small",
                   "both to be in the origin", 60)

    def test_holder_dies_while_writing(self):
        self.start_nodes("--upload-delay", "0s")
        data = pattern(48 * MIB, 8)
        with open(self.path_at(self.nodes[0], "x"), "wb") as file:
            file.write(data[:20 * MIB])
            file.flush()
            self.destroy(self.nodes[2])
            file.write(data[20 * MIB:])
        self.nodes[0].sync()
        self.assertTrue(self.in_origin("x") == data)


if __name__ == "__main__":
    main()
