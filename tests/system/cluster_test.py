"""A cluster of real nodes in network namespaces: joining, fan-out reads, nodes that die, come back,
join late and leave, and what hostile or mistaken peers get for an answer.

Needs root (namespaces, mounts); skips with the reason where that is not given.
"""

import os
import shutil
import sys
import threading
import time
import unittest

import harness

sys.path.insert(0, os.path.join(harness.ROOT, "tools"))
import cluster as lab_tool  # noqa: E402

MIB = 1 << 20
GIB = 1 << 30
HTTP = 7071
DATA = 7070


def open_lab(test, places, **options):
    """A lab that ends with the test (or the class)."""
    try:
        lab = lab_tool.Lab(places=places, directory=os.environ.get("TEST_DIRECTORY"),
                           shoal=harness.SHOAL, **options)
    except lab_tool.LabImpossible as error:
        raise unittest.SkipTest(str(error))
    test.addCleanup(lab.close) if isinstance(test, unittest.TestCase) else test.addClassCleanup(
        lab.close)
    return lab


def members(node):
    """{name: state} as this node sees the cluster."""
    return {member["name"]: member["state"] for member in node.status()["members"]}


def slots(node):
    return {member["name"]: member["slots"] for member in node.status()["members"]}


def wait_for_members(nodes, expected, seconds=30):
    """Every one of these nodes sees exactly these members: {name: state}."""
    seen = {}

    def agreed():
        for node in nodes:
            seen[node.place] = members(node)
            if seen[node.place] != expected:
                return False
        return True

    try:
        harness.eventually(agreed, "the members to agree", seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}; wanted {expected}, seen {seen}") from None


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return (crc ^ 0xFFFFFFFF).to_bytes(4, "little")


def of_format(stored, number):
    """A stored map as a program with that map format would write its header."""
    head = stored[:8] + number.to_bytes(4, "little") + stored[12:20]
    return head + crc32c(head) + stored[24:]


def all_up(count, **others):
    return {**{f"n{i}": "up" for i in range(count)}, **others}


class ClusterTest(unittest.TestCase):
    def read_whole(self, lab, nodes, name, size, seed=1):
        for place, outcome in zip(nodes, lab.read(nodes, name, size, seed)):
            self.assertEqual(outcome["error"], "", f"node {place}")

    def warm(self, node, name):
        status, output = node.shoal("warm", f"{node.mountpoint}/{name}", "--wait")
        self.assertEqual(status, 0, output)


class EightNodes(ClusterTest):
    """One cluster of eight for tests that leave it as they found it."""

    @classmethod
    def setUpClass(cls):
        cls.lab = open_lab(cls, 10)
        cls.nodes = cls.lab.start(count=8, cluster="eight")
        wait_for_members(cls.nodes, all_up(8))

    def test_members_share_the_slots_evenly(self):
        owned = slots(self.nodes[3])
        self.assertEqual(sum(owned.values()), 4096)
        self.assertLessEqual(max(owned.values()) - min(owned.values()), 1, owned)
        versions = {node.own()["map"]["version"] for node in self.nodes}
        self.assertEqual(len(versions), 1, versions)

    def test_a_fan_out_read_asks_the_origin_once(self):
        size = 96 * MIB
        self.lab.add("fan-out", size)
        self.lab.reset_origin_stats()
        self.read_whole(self.lab, range(8), "fan-out", size)
        self.assertLessEqual(self.lab.origin_stats()["bytes_out"], 1.01 * size)
        received = sum(node.own()["peer"]["bytes_received"] for node in self.nodes)
        self.assertGreaterEqual(received, 6.5 * size)
        sent = [node.own()["peer"]["bytes_sent"] for node in self.nodes]
        self.assertGreater(min(sent), 0, "every owner serves its share")

    def test_three_readers_of_one_cold_chunk_cost_one_get(self):
        for seed in range(1, 6):
            name = f"chunk{seed}"
            self.lab.add(name, 8 * MIB, seed)
            self.read_whole(self.lab, [1, 4, 6], name, 8 * MIB, seed)
            self.assertEqual(self.lab.origin_gets(name), 1, name)

    def test_status_sums_over_the_cluster(self):
        status = self.nodes[2].status()
        self.assertEqual(status["self"], "n2")
        self.assertEqual(sorted(status["nodes"]), sorted(f"n{i}" for i in range(8)))
        total = sum(one["peer"]["bytes_sent"] for one in status["nodes"].values())
        self.assertEqual(status["peer"]["bytes_sent"], total)
        self.assertEqual(status["map"]["members"], 8)

    def test_metadata_is_asked_once_for_all(self):
        count = 100
        self.lab.add("many-f", 4096, count=count)
        self.lab.reset_origin_stats()

        def open_all(node):
            for i in range(count):
                with open(node.path(f"many-f{i:08}"), "rb"):
                    pass

        begun = time.monotonic()
        threads = [threading.Thread(target=open_all, args=(node,)) for node in self.nodes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        requests = self.lab.origin_stats()["requests"]
        # Each node looks at the map's ETag every 30 s too.
        looks = len(self.nodes) * (1 + int((time.monotonic() - begun) / 30))
        self.assertLessEqual(requests["head_blob"], count + looks)
        self.assertLessEqual(requests["list"], 1)

    # --- what comes in by the data port ---

    def talk(self, payload, half_close=False):
        """Sends bytes to node 0's data port; the seconds until it hung up, and what it said."""
        # A node that hung up before the half-close leaves nothing to close: ENOTCONN.
        script = ("import errno, socket, sys, time\n"
                  "s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)\n"
                  "begun = time.monotonic()\n"
                  "s.settimeout(20)\n"
                  "got = b''\n"
                  "try:\n"
                  "  s.sendall(bytes.fromhex(sys.argv[3]))\n"
                  "  if sys.argv[4] == '1': s.shutdown(socket.SHUT_WR)\n"
                  "  while True:\n"
                  "    more = s.recv(65536)\n"
                  "    if not more: break\n"
                  "    got += more\n"
                  "except OSError as error:\n"
                  "  if not isinstance(error, ConnectionError) and error.errno != errno.ENOTCONN:\n"
                  "    raise\n"
                  "print(time.monotonic() - begun, got.hex())\n")
        words = self.lab.python(script, self.nodes[0].host, str(DATA), payload.hex(),
                                "1" if half_close else "0").split()
        return float(words[0]), bytes.fromhex(words[1]) if len(words) > 1 else b""

    def test_garbage_gets_hung_up_on(self):
        before = self.nodes[0].usage()["rss_bytes"]
        magic = b"SHOL" + bytes([1, 1]) + bytes(2) + bytes(16)
        hostile = {
            "garbage": os.urandom(4096),
            "an HTTP request": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
            "half a frame": magic,
            "a giant length": magic + b"\xff\xff\xff\xff" + b"\xff\xff\xff\xff" + bytes(8),
            "a wrong checksum": magic + bytes(8) + b"\x12\x34\x56\x78" * 2,
        }
        for what, payload in hostile.items():
            for half_close in (True, False):
                seconds, _ = self.talk(payload, half_close)
                self.assertLess(seconds, 8, what)
        self.assertLess(self.nodes[0].usage()["rss_bytes"], before + 32 * MIB)
        self.lab.add("after-garbage", MIB)
        self.read_whole(self.lab, [0, 5], "after-garbage", MIB)

    def test_idle_connections_do_not_add_up(self):
        script = ("import socket, sys\n"
                  "all = [socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) "
                  "for _ in range(200)]\n"
                  "for s in all: s.settimeout(20)\n"
                  "print(sum(1 for s in all if s.recv(1) == b''))\n")
        closed = int(self.lab.python(script, self.nodes[0].host, str(DATA)))
        self.assertEqual(closed, 200, "who does not say hello in time is hung up on")

    # --- nodes that must not join ---

    def refused(self, place=9, **choice):
        """Starts a node that must end by itself; what it said."""
        node = self.lab.node(place)
        node.begin(**{"cluster": "eight", "mount": False, **choice})
        try:
            with self.assertRaises(lab_tool.LabError) as caught:
                node.ready(seconds=40)
        finally:
            node.kill9()
        said = str(caught.exception)
        self.assertIn(" ended", said)
        self.assertNotRegex(said, r"#\d+ 0x|Assertion|terminate called")
        return said

    def test_a_port_in_use(self):
        self.lab.spawn("squatter", sys.executable, "-c",
                       f"import socket, signal\ns = socket.create_server(('0.0.0.0', {DATA}))\n"
                       "signal.pause()", node=9)
        self.addCleanup(self.lab.signal, "squatter", 9)
        check = f"import socket; socket.create_connection(('127.0.0.1', {DATA}), 5)"
        harness.eventually(lambda: self.lab.run(sys.executable, "-c", check, node=9)[0] == 0,
                           "the squatter to listen")
        said = self.refused()
        self.assertIn(str(DATA), said)
        self.assertIn("in use", said)

    def test_an_unreachable_advertised_address(self):
        said = self.refused(advertise="10.77.200.200")
        self.assertIn("10.77.200.200", said)
        self.assertIn("--advertise", said)
        wait_for_members(self.nodes, all_up(8))

    def test_a_copied_cache_directory(self):
        copy = f"{self.lab.work}/copied-cache"
        source = self.lab.path(f"{self.lab.work}/n1/cache")
        shutil.copytree(source, self.lab.path(copy), ignore=lambda where, names: [
            name for name in names
            if not os.path.isdir(os.path.join(where, name))
            and not os.path.isfile(os.path.join(where, name))])
        said = self.refused(cache=copy)
        self.assertRegex(said, r"n1|same id|copied|already")
        wait_for_members(self.nodes, all_up(8))

    def test_a_wrong_key(self):
        key = self.lab.get(".shoal/eight/key")
        self.lab.put(".shoal/eight/key", key.strip()[::-1] + b"\n")
        try:
            said = self.refused()
        finally:
            self.lab.put(".shoal/eight/key", key)
        self.assertIn("key", said)
        wait_for_members(self.nodes, all_up(8))

    def test_a_map_that_is_none(self):
        stored = self.lab.get(".shoal/eight/map")
        for what, content in (("corrupt", os.urandom(500)), ("short", stored[:20]),
                              ("flipped", stored[:-1] + bytes([stored[-1] ^ 1]))):
            self.lab.put(".shoal/eight/map", content)
            try:
                said = self.refused()
            finally:
                self.lab.put(".shoal/eight/map", stored)
            self.assertIn("map", said, what)
        # Those who are members go on with the map they have.
        self.lab.add("without-map", MIB)
        self.read_whole(self.lab, [2, 7], "without-map", MIB)


    def test_a_map_from_a_newer_version(self):
        stored = self.lab.get(".shoal/eight/map")
        self.assertEqual(of_format(stored, 1), stored, "the header is as this test knows it")
        self.lab.put(".shoal/eight/map", of_format(stored, 7))
        try:
            said = self.refused()
        finally:
            self.lab.put(".shoal/eight/map", stored)
        self.assertIn("format 7", said)
        self.assertIn("run the version of shoal that the other nodes run", said)
        self.lab.add("with-newer-map", MIB)
        self.read_whole(self.lab, [1, 6], "with-newer-map", MIB)
        wait_for_members(self.nodes, all_up(8))


class Changes(ClusterTest):
    """Nodes die, return, join and leave; each test has a cluster of its own."""

    def setUp(self):
        self.lab = open_lab(self, 5)
        self.nodes = self.lab.start(count=4, cluster="changing")
        wait_for_members(self.nodes, all_up(4))

    def load(self, nodes=(0, 1)):
        self.lab.add("load", 16 * GIB, seed=9)
        self.lab.begin_load(nodes, "load", 16 * GIB, seed=9)

    def end_load(self, longest):
        outcome = self.lab.end_load()
        self.assertEqual(outcome["errors"], 0, outcome["first_error"])
        self.assertGreater(outcome["reads"], 50)
        # The goal is 1 s; other tests may run beside this one.
        self.assertLess(outcome["longest_seconds"], longest)

    def test_kill_9_and_restart_within_grace(self):
        self.lab.add("warm", 64 * MIB, seed=3)
        self.warm(self.nodes[0], "warm")
        before, cached = slots(self.nodes[0]), self.nodes[3].own()["files"]["bytes"]
        self.assertGreater(cached, 0)
        self.load()
        self.nodes[3].kill9()
        died = time.monotonic()
        wait_for_members(self.nodes[:3], all_up(3, n3="down"), 15)
        self.assertLess(time.monotonic() - died, 10)
        self.end_load(3)
        self.assertEqual(slots(self.nodes[0]), before, "nothing moves within the grace time")

        self.nodes[3].restart()
        wait_for_members(self.nodes, all_up(4))
        self.assertEqual(slots(self.nodes[0]), before)
        self.assertGreaterEqual(self.nodes[3].own()["files"]["bytes"], cached)
        gets = self.lab.origin_gets("warm")
        self.read_whole(self.lab, [1], "warm", 64 * MIB, seed=3)
        self.assertEqual(self.lab.origin_gets("warm"), gets, "its cache is as it was")

    def test_a_late_joiner_costs_the_origin_nothing(self):
        self.lab.add("warm", 96 * MIB, seed=4)
        self.warm(self.nodes[0], "warm")
        gets = self.lab.origin_gets("warm")
        before = slots(self.nodes[0])
        self.load()
        joiner = self.lab.start(first=4, cluster="changing")[0]
        wait_for_members([*self.nodes, joiner], all_up(5))
        after = slots(joiner)
        self.assertAlmostEqual(after["n4"] / 4096, 1 / 5, delta=0.01)
        for name, owned in before.items():
            self.assertLess(after[name], owned)
        self.read_whole(self.lab, [4, 2], "warm", 96 * MIB, seed=4)
        self.assertEqual(self.lab.origin_gets("warm"), gets, "previous owners had it")
        self.end_load(3)

    def test_a_drained_node_costs_the_origin_nothing(self):
        self.lab.add("warm", 96 * MIB, seed=5)
        self.warm(self.nodes[0], "warm")
        gets = self.lab.origin_gets("warm")
        self.load()
        status, output = self.nodes[0].shoal("drain", "n3", "--at",
                                             f"{self.nodes[0].host}:{HTTP}")
        self.assertEqual(status, 0, output)
        self.nodes[3].stop()
        self.assertEqual(slots(self.nodes[0]).get("n3", 0), 0)
        self.read_whole(self.lab, [0, 1, 2], "warm", 96 * MIB, seed=5)
        self.assertEqual(self.lab.origin_gets("warm"), gets, "it was handed over")
        self.end_load(3)

    def lose_the_map(self, change):
        """What the log of node 0 says after `change` took the right to write the map away and a
        node died, which the map would have to say."""
        self.lab.add("load", 64 * MIB, seed=8)
        before = self.nodes[0].own()["map"]["version"]
        change()
        self.nodes[3].kill9()
        self.read_whole(self.lab, [0, 1, 2], "load", 64 * MIB, seed=8)
        harness.eventually(lambda: any("may not be written" in node.log()
                                       for node in self.nodes[:3]), "a warning")
        self.assertEqual(self.nodes[0].own()["map"]["version"], before)
        self.lab.add("later", 16 * MIB, seed=9)
        self.read_whole(self.lab, [2], "later", 16 * MIB, seed=9)
        return next(node.log() for node in self.nodes[:3] if "may not be written" in node.log())

    def test_lost_permission_to_write_the_map(self):
        said = self.lose_the_map(lambda: self.lab.faults(script=[
            {"fault": "expired_token", "method": "PUT", "target": ".shoal/changing/map",
             "count": 1_000_000}]))
        self.assertIn(".shoal/changing/map", said)
        self.assertIn("going on with the map as it is", said)
        self.lab.faults(script=[])
        wait_for_members(self.nodes[:3], all_up(3, n3="down"), 30)
        harness.eventually(lambda: any("may be written again" in node.log()
                                       for node in self.nodes[:3]), "the good news")

    def test_a_pulled_cable(self):
        self.load()
        self.nodes[2].plug(False)
        wait_for_members([self.nodes[0], self.nodes[1], self.nodes[3]],
                         {**all_up(4), "n2": "down"}, 15)
        self.end_load(6)
        self.nodes[2].plug(True)
        wait_for_members(self.nodes, all_up(4), 30)

    def test_a_frozen_owner_does_not_stop_readers(self):
        self.load()
        self.nodes[3].freeze()
        wait_for_members(self.nodes[:3], all_up(3, n3="down"), 15)
        self.end_load(6)
        self.nodes[3].freeze(False)
        # It was marked down while it lived: it says so with a higher incarnation.
        wait_for_members(self.nodes, all_up(4), 30)

    def test_an_origin_outage_does_not_stop_what_is_cached(self):
        self.lab.add("warm", 32 * MIB, seed=6)
        self.warm(self.nodes[0], "warm")
        with open(self.nodes[1].path("warm"), "rb") as file:  # knows its attributes
            self.assertEqual(len(file.read(4096)), 4096)
            self.lab.faults(outage=True)
            try:
                self.assertEqual(sum(len(file.read(MIB)) for _ in range(32)), 32 * MIB - 4096)
            finally:
                self.lab.faults(outage=False)


class Etcd(ClusterTest):
    """The map in a real etcd."""

    def setUp(self):
        if not shutil.which("etcd"):
            self.skipTest("etcd is not installed")
        self.lab = open_lab(self, 4)
        self.store = f"etcd://{self.lab.hub}:2379"

    def start_etcd(self):
        url, peer = f"http://{self.lab.hub}:2379", "http://127.0.0.1:2380"
        self.lab.spawn("etcd", "etcd", "--data-dir", f"{self.lab.work}/etcd",
                       "--listen-client-urls", url, "--advertise-client-urls", url,
                       "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                       "--initial-cluster", f"default={peer}")
        check = f"import socket; socket.create_connection(('{self.lab.hub}', 2379), 5)"
        harness.eventually(lambda: self.lab.run(sys.executable, "-c", check)[0] == 0,
                           "etcd to listen")

    def test_down_at_the_start_and_later(self):
        node = self.lab.node(0)
        node.begin(cluster="etcd", flags=["--map-store", self.store])
        with self.assertRaises(lab_tool.LabError) as caught:
            node.ready(seconds=60)
        node.kill9()
        self.assertIn("etcd", str(caught.exception))
        self.assertIn(self.lab.hub, str(caught.exception))

        self.start_etcd()
        nodes = self.lab.start(count=3, cluster="etcd", flags=["--map-store", self.store])
        wait_for_members(nodes, all_up(3))
        self.lab.signal("etcd", 9)
        self.lab.add("while-away", 24 * MIB)
        self.read_whole(self.lab, [0, 1, 2], "while-away", 24 * MIB)
        nodes[2].kill9()
        self.read_whole(self.lab, [0], "while-away", 24 * MIB)
        self.lab.add("still-away", 24 * MIB)
        self.read_whole(self.lab, [0, 1], "still-away", 24 * MIB)
        # The map cannot change now; it does as soon as the store is back.
        self.start_etcd()
        wait_for_members(nodes[:2], all_up(2, n2="down"), 60)

    def test_one_name_for_two_origins(self):
        self.start_etcd()
        self.lab.start(count=1, cluster="twice", flags=["--map-store", self.store])
        other = os.path.join(self.lab.work, "other-origin")
        os.mkdir(self.lab.path(other))
        node = self.lab.node(1)
        node.begin(cluster="twice", origin=other, flags=["--map-store", self.store])
        with self.assertRaises(lab_tool.LabError) as caught:
            node.ready(seconds=40)
        node.kill9()
        said = str(caught.exception)
        self.assertIn("twice", said)
        self.assertRegex(said, "origin")


class Alone(ClusterTest):
    """What must hold without any cluster, by the same tool."""

    def test_nodes_without_a_cluster_do_not_know_each_other(self):
        lab = open_lab(self, 2)
        lab.start(count=2, cluster="")
        lab.add("alone", 16 * MIB)
        lab.reset_origin_stats()
        self.read_whole(lab, [0, 1], "alone", 16 * MIB)
        self.assertGreaterEqual(lab.origin_stats()["bytes_out"], 2 * 16 * MIB)

    def test_nothing_is_left_behind(self):
        lab = open_lab(self, 2)
        lab.start(count=2, cluster="")
        pids = [lab.node(place).ask("ready")["pid"] for place in (0, 1)]
        work = lab.work
        lab.process.kill()  # the worst end of all
        lab.process.wait()
        harness.eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids),
                           "the daemons to end with their lab")
        with open("/proc/self/mounts", encoding="utf-8") as mounts:
            self.assertNotIn(work, mounts.read())
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    harness.main()
