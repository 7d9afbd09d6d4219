"""Nodes with two network cards: two real daemons in network namespaces of their own, with two links
between them, each limited. Payload uses both; one that goes down costs no read.

Needs root (namespaces, mounts), nsenter, ip and tc; skips with the reason where one is missing.
"""

import os
import subprocess
import threading
import time
import unittest

import harness

MIB = 1 << 20
LINK_MBIT = 320
LINK_BYTES = LINK_MBIT * 1e6 / 8
SIZE = 160 * MIB


def command(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise unittest.SkipTest(f"{' '.join(words)}: {done.stderr.strip()}")


class Machine:
    """A network namespace, held by a process that does nothing else."""

    def __init__(self, number):
        self.number = number
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"],
                                       stderr=subprocess.DEVNULL)
        own = os.readlink("/proc/self/ns/net")
        harness.eventually(lambda: self.holder.poll() is not None or self.network() != own,
                           "a network namespace")
        if self.holder.poll() is not None:
            raise unittest.SkipTest("this user may not make network namespaces")
        self.prefix = ("nsenter", f"--net=/proc/{self.holder.pid}/ns/net", "--")

    def network(self):
        try:
            return os.readlink(f"/proc/{self.holder.pid}/ns/net")
        except FileNotFoundError:
            return None

    def run(self, *words):
        command(*self.prefix, *words)

    def address(self, link):
        return f"10.78.{link}.{self.number + 1}"

    def settle(self):
        self.run("ip", "link", "set", "lo", "up")
        for link in range(2):
            self.run("ip", "address", "add", f"{self.address(link)}/24", "dev", f"link{link}")
            self.run("ip", "link", "set", f"link{link}", "up")
            self.run("tc", "qdisc", "replace", "dev", f"link{link}", "root", "tbf", "rate",
                     f"{LINK_MBIT}mbit", "burst", "256k", "limit", "1m")

    def plug(self, link, plugged):
        self.run("ip", "link", "set", f"link{link}", "up" if plugged else "down")

    def close(self):
        self.holder.kill()
        self.holder.wait()


class TwoCards(harness.ShoalTest):
    """Node 0 owns nearly all and has it; node 1 reads it from there."""

    def setUp(self):
        super().setUp()
        if os.geteuid() != 0:
            self.skipTest("not root")
        self.machines = []
        for number in range(2):
            self.machines.append(Machine(number))
            self.addCleanup(self.machines[-1].close)
        other = str(self.machines[1].holder.pid)
        for link in range(2):
            self.machines[0].run("ip", "link", "add", f"link{link}", "mtu", "9000", "type", "veth",
                                 "peer", "name", f"link{link}", "mtu", "9000", "netns", other)
        for machine in self.machines:
            machine.settle()
        self.nodes = []

    def start_node(self, number, *flags, expect_failure=False):
        machine = self.machines[number]
        mountpoint = os.path.join(self.directory, f"mnt{number}")
        os.makedirs(mountpoint, exist_ok=True)
        node = harness.Daemon(self.origin, mountpoint, os.path.join(self.directory, f"cache{number}"),
                              "--cluster", "cards", "--name", f"n{number}", "--http", "off",
                              *flags, prefix=machine.prefix, expect_failure=expect_failure)
        self.addCleanup(node.stop)
        if not expect_failure:
            self.nodes.append(node)
        return node

    def start_both(self, *flags):
        self.start_node(0, "--weight", "4000", *flags)
        self.start_node(1, "--weight", "1", *flags)
        harness.eventually(lambda: all(len(node.status()["members"]) == 2 for node in self.nodes),
                           "both to be members")

    def add(self, name, seed):
        """A file that lies in node 0's cache."""
        data = harness.pattern(SIZE, seed)
        with open(os.path.join(self.origin, name), "wb") as file:
            file.write(data)
        done = self.shoal("warm", os.path.join(self.nodes[0].mountpoint, name), "--wait")
        self.assertEqual(done.returncode, 0, done.stderr)
        return data

    def read_at_1(self, name, right):
        """Bytes a second, all of them compared, and counted as a peer's."""
        received = self.nodes[1].status()["peer"]["bytes_received"]
        begun = time.monotonic()
        got = harness.content_of(os.path.join(self.nodes[1].mountpoint, name))
        seconds = time.monotonic() - begun
        self.assertTrue(got == right, "wrong bytes")
        received = self.nodes[1].status()["peer"]["bytes_received"] - received
        self.assertGreater(received, 0.95 * SIZE, "it came from the peer")
        return len(got) / seconds

    def test_payload_uses_both_links(self):
        self.start_both("--interface", "link0,link1")
        cluster = self.nodes[0].status()["cluster"]
        self.assertEqual(cluster["address"], "10.78.0.1:7070")
        self.assertEqual(cluster["further_addresses"], ["10.78.1.1:7070"])
        rate = self.read_at_1("both", self.add("both", 1))
        print(f"two links: {rate / LINK_BYTES:.2f} of one")
        self.assertGreaterEqual(rate, 1.6 * LINK_BYTES)

    def test_one_address_is_one_link(self):
        self.start_both("--interface", "link0")
        rate = self.read_at_1("one", self.add("one", 2))
        print(f"one link: {rate / LINK_BYTES:.2f}")
        self.assertLessEqual(rate, 1.1 * LINK_BYTES)
        self.assertGreaterEqual(rate, 0.7 * LINK_BYTES)

    def test_reads_go_on_when_a_link_goes_down(self):
        self.start_both("--interface", "link0,link1")
        first, second = self.add("first", 3), self.add("second", 4)
        outcome = []

        def read():
            try:
                outcome.append(self.read_at_1("first", first))
            except BaseException as error:  # for the test's own thread
                outcome.append(error)

        reader = threading.Thread(target=read)
        before = self.nodes[1].status()["peer"]["bytes_received"]
        reader.start()
        harness.eventually(lambda: self.nodes[1].status()["peer"]["bytes_received"] - before >
                           SIZE / 4, "a quarter of it to be there")
        self.machines[0].plug(1, False)
        begun = time.monotonic()
        reader.join()
        seconds = time.monotonic() - begun
        self.assertIsInstance(outcome[0], float, outcome[0])
        # What is left goes over one link; finding out may take a second.
        self.assertLess(seconds, SIZE / LINK_BYTES + 3)
        rate = self.read_at_1("second", second)
        print(f"one of two links down: {rate / LINK_BYTES:.2f} of one")
        self.assertGreaterEqual(rate, 0.7 * LINK_BYTES)
        self.assertEqual(set(member["state"] for member in self.nodes[1].status()["members"]),
                         {"up"})
        self.assertIn("its further address 10.78.1.1:7070 cannot be used", self.nodes[1].log())

    def test_an_address_that_does_not_work_is_named(self):
        self.start_node(0, "--advertise", self.machines[0].address(0))
        node = self.start_node(1, "--advertise", f"{self.machines[1].address(0)},10.78.1.99",
                               expect_failure=True)
        self.assertNotEqual(node.process.wait(timeout=60), 0)
        said = node.log()
        self.assertIn("cannot be reached at 10.78.1.99:7070", said)
        self.assertIn("--advertise", said)


if __name__ == "__main__":
    harness.main()
