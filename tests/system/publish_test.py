"""Checkpoint directories that become visible as one: the manifest, the pointers, what the origin
shows when, and retention. Real nodes on the loopback address."""

import json
import os
import threading

from harness import NodesTest, content_of, eventually, main, pattern

MIB = 1 << 20
MANIFEST = ".shoal-manifest.json"


def crc32c(data):
    """Bit by bit, from the polynomial: nothing of the product."""
    table = []
    for i in range(256):
        for _ in range(8):
            i = i >> 1 ^ (0x82F63B78 if i & 1 else 0)
        table.append(i)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


class Publish(NodesTest):
    count = 3

    def publish(self, node, name, *flags, check=True):
        out = self.shoal("publish", self.path_at(node, name), *flags)
        if check:
            self.assertEqual(out.returncode, 0, out.stderr + node.log())
        return out

    def write_checkpoint(self, name, nodes, size=9 * MIB):
        """Each node writes its shard, as ranks do."""
        os.makedirs(self.path_at(nodes[0], name), exist_ok=True)
        files = {}
        for rank, node in enumerate(nodes):
            files[f"shard-{rank}"] = pattern(size + rank, rank)
            files[f"rng/{rank}"] = pattern(100 + rank, rank)
            os.makedirs(self.path_at(node, f"{name}/rng"), exist_ok=True)
            for leaf in (f"shard-{rank}", f"rng/{rank}"):
                self.write_at(node, f"{name}/{leaf}", files[leaf])
        return files

    def assert_manifest(self, text, files):
        manifest = json.loads(text)
        self.assertEqual(manifest["format"], "shoal-manifest 1")
        self.assertEqual({f["name"]: f["size"] for f in manifest["files"]},
                         {name: len(data) for name, data in files.items()})
        small = {f["name"]: f["crc32c"] for f in manifest["files"] if f["size"] < 10_000}
        self.assertEqual(small, {name: f"{crc32c(data):08x}" for name, data in files.items()
                                 if len(data) < 10_000})

    def test_durable_from_all_nodes(self):
        """Acknowledged locally only: other nodes do not even see the files yet."""
        self.start_nodes("--upload-delay", "1h", ack="local")
        a, b, c = self.nodes
        files = self.write_checkpoint("run/step-1", self.nodes)
        self.assertIsNone(self.in_origin("run/step-1/shard-0"))
        self.publish(b, "run/step-1")
        for name, data in files.items():
            self.assertTrue(self.in_origin(f"run/step-1/{name}") == data, name)
        self.assertEqual(self.in_origin("run/latest"), b"step-1\n")
        self.assert_manifest(self.in_origin(f"run/step-1/{MANIFEST}"), files)
        for node in self.nodes:
            self.assertEqual(content_of(self.path_at(node, "run/latest")), b"step-1\n")

    def test_replicated_then_durable_without_the_writers(self):
        """Nodes see it at once; the origin's pointers never run ahead of what they name, although
        the node that published is destroyed before anything was uploaded."""
        stub = self.start_stub()
        self.start_nodes("--upload-delay", "1h", "--grace", "2s", count=4, origin=stub.url)
        a, b, c, d = self.nodes
        files = self.write_checkpoint("run/step-7", [a, b])
        stub.faults(script=[{"fault": "busy", "method": "PUT", "target": "step-7/", "skip": 0,
                             "count": 1_000_000}])
        self.publish(a, "run/step-7", "--level", "replicated", "--timeout", "30s")
        for node in (b, c, d):
            self.assertEqual(content_of(self.path_at(node, "run/latest.replicated")), b"step-7\n")
            self.assertFalse(os.path.exists(self.path_at(node, "run/latest")))
            self.assert_manifest(content_of(self.path_at(node, f"run/step-7/{MANIFEST}")), files)
        self.destroy(a)
        seen = []
        ended = threading.Event()
        stub.faults()

        def watch():
            """Whoever reads the origin, without a cluster."""
            while not ended.is_set():
                if os.path.exists(self.path("run/latest.replicated")):
                    seen.append(all(os.path.exists(self.path("run/step-7", name)) and
                                    self.read(f"run/step-7/{name}") == data
                                    for name, data in files.items()))
                    return

        self.start("--attr-ttl", "0s", "--negative-ttl", "0s", origin=stub.url)
        thread = threading.Thread(target=watch)
        thread.start()
        try:
            eventually(lambda: seen, "the pointer in the origin", 60)
        finally:
            ended.set()
            thread.join()
        self.assertEqual(seen, [True])
        # Published again by another node, the durable pointer follows.
        self.publish(c, "run/step-7", "--timeout", "60s")
        self.assertEqual(self.read("run/latest"), b"step-7\n")

    def test_scrub(self):
        """From a node that wrote nothing: bits that rotted in the origin, and files that went."""
        self.start_nodes("--upload-delay", "0s", count=2, ack="local")
        a, b = self.nodes
        os.makedirs(self.path_at(a, "run/s"))
        big = pattern(26 * MIB, 1)
        self.write_at(a, "run/s/big", big)
        for i in range(5):
            self.write_at(a, f"run/s/small-{i}", pattern(5000, i))
        with open(os.path.join(self.origin, "run/s/foreign"), "wb") as file:
            file.write(b"not written by shoal")
        self.publish(a, "run/s")
        out = self.shoal("scrub", self.path_at(b, "run"), "--all")
        self.assertEqual(out.returncode, 0, out.stderr)
        self.assertIn("run/s/big: ok", out.stdout)
        read = b.status()["nodes"]["n1"]["origin"]["bytes_read"]
        self.assertGreater(read, 26 * MIB)  # not from a cache
        self.rot("run/s/big", 17 * MIB + 3)
        self.rot("run/s/foreign", 3)
        os.unlink(os.path.join(self.origin, "run/s/small-2"))
        out = self.shoal("scrub", self.path_at(b, "run/s"))
        self.assertEqual(out.returncode, 1)
        self.assertIn(f"run/s/big: mismatch at byte {16 * MIB}", out.stdout)
        self.assertIn("run/s/foreign: mismatch", out.stdout)
        self.assertIn("run/s/small-2: missing", out.stdout)
        self.assertEqual(len(out.stdout.splitlines()), 3, out.stdout)
        self.assertIn("2 do not match and 1 are missing", out.stderr)
        out = self.shoal("scrub", self.path_at(b, "run/s/small-1"), "--rate", "1MiB")
        self.assertEqual(out.returncode, 0, out.stderr)
        out = self.shoal("scrub", self.path_at(b, "absent"))
        self.assertEqual(out.returncode, 1)

    def rot(self, name, offset):
        """One bit, and the file does not look changed."""
        path = os.path.join(self.origin, name)
        before = os.stat(path)
        with open(path, "r+b") as file:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 4]))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def test_errors(self):
        self.start_nodes("--upload-delay", "0s", count=2, ack="local")
        a, b = self.nodes
        os.makedirs(self.path_at(a, "run/empty"))
        out = self.publish(a, "run/empty", check=False)
        self.assertEqual(out.returncode, 1)
        self.assertIn("holds no files", out.stderr)
        out = self.publish(a, "run/absent", check=False)
        self.assertIn("does not exist", out.stderr)
        out = self.shoal("publish", self.directory)
        self.assertNotEqual(out.returncode, 0)
        self.assertIn("mount", out.stderr)
        out = self.publish(a, "", check=False)
        self.assertIn("root", out.stderr)
        out = self.publish(a, "run/empty", "--latest", "a/b", check=False)
        self.assertIn("pointer", out.stderr)
        self.write_at(a, "run/empty/x", b"1")
        with open(self.path_at(b, "run/empty/y"), "wb") as file:
            file.write(b"2")
            out = self.publish(a, "run/empty", check=False)
            self.assertEqual(out.returncode, 1)
            self.assertIn("run/empty/y is still open for writing on n1", out.stderr)
        self.assertIsNone(self.in_origin("run/latest"))
        self.publish(a, "run/empty", "--latest", "newest")
        self.assertEqual(self.in_origin("run/newest"), b"empty\n")
        self.assertIsNone(self.in_origin("run/latest"))

    def test_timeout_names_what_is_behind(self):
        stub = self.start_stub()
        self.start_nodes("--upload-delay", "0s", count=2, ack="local", origin=stub.url)
        a, b = self.nodes
        os.makedirs(self.path_at(a, "run/s"))
        stub.faults(script=[{"fault": "busy", "method": "PUT", "target": "run/s/", "skip": 0,
                             "count": 1_000_000}])
        self.write_at(b, "run/s/x", b"1")
        out = self.publish(a, "run/s", "--timeout", "3s", check=False)
        self.assertEqual(out.returncode, 1)
        self.assertIn("1 files (1 B) are not in the origin yet: run/s/x (n1", out.stderr)
        stub.faults()
        self.publish(a, "run/s", "--timeout", "60s")

    def test_retention(self):
        self.start_nodes("--upload-delay", "0s", count=2, ack="local")
        a, b = self.nodes
        os.makedirs(self.path_at(a, "run/mine"))
        self.write_at(a, "run/mine/notes", b"never published")
        for step in range(1, 6):
            self.write_checkpoint(f"run/step-{step}", [b, a], size=300_000)
            self.publish(a, f"run/step-{step}", "--keep-last", "2")
        self.assertEqual(sorted(os.listdir(os.path.join(self.origin, "run"))),
                         ["latest", "mine", "step-4", "step-5"])
        self.assertEqual(sorted(os.listdir(self.path_at(a, "run"))),
                         ["latest", "mine", "step-4", "step-5"])
        self.assertEqual(self.in_origin("run/latest"), b"step-5\n")
        self.assertEqual(self.in_origin("run/mine/notes"), b"never published")
        # An older one is published again: the newest durable one stays.
        self.publish(b, "run/step-4", "--keep-last", "1")
        self.assertEqual(sorted(os.listdir(os.path.join(self.origin, "run"))),
                         ["latest", "mine", "step-4"])


if __name__ == "__main__":
    main()
