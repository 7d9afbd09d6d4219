"""Two real nodes with --tls: files are read byte for byte, the wire shows nothing of them, and a node
without --tls is refused with the reason.
"""

import os
import socket
import threading

import harness

MIB = 1 << 20


class Wiretap:
    """Stands between a node's port and who calls it, and keeps all that passes."""

    def __init__(self, target):
        self.target = target
        self.seen = bytearray()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            host, port = self.target().rsplit(":", 1)
            try:
                far = socket.create_connection((host, int(port)))
            except OSError:
                near.close()
                continue
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self.pump, args=pair, daemon=True).start()

    def pump(self, source, sink):
        try:
            while True:
                data = source.recv(1 << 16)
                if not data:
                    break
                self.seen += data
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        source.close()  # the other pump closes the sink

    def close(self):
        self.listener.close()


class Encrypted(harness.ShoalTest):
    def start_node(self, number, *flags, expect_failure=False):
        mountpoint = os.path.join(self.directory, f"mnt{number}")
        os.makedirs(mountpoint, exist_ok=True)
        node = harness.Daemon(self.origin, mountpoint, os.path.join(self.directory, f"cache{number}"),
                              "--cluster", "quiet", "--name", f"n{number}", "--http", "off", *flags,
                              expect_failure=expect_failure)
        self.addCleanup(node.stop)
        return node

    def free_port(self):
        with socket.create_server(("127.0.0.1", 0)) as one:
            return one.getsockname()[1]

    def read_through_a_wiretap(self, *flags):
        """What passed between two nodes while the second read a file that the first has."""
        port = self.free_port()
        tap = Wiretap(lambda: f"127.0.0.1:{port}")
        self.addCleanup(tap.close)
        first = self.start_node(0, "--listen", f"127.0.0.1:{port}", "--advertise", tap.address,
                                "--weight", "4000", *flags)
        second = self.start_node(1, "--listen", "127.0.0.1:0", "--weight", "1", *flags)
        data = os.urandom(24 * MIB + 12345)
        with open(os.path.join(self.origin, "file"), "wb") as file:
            file.write(data)
        done = self.shoal("warm", os.path.join(first.mountpoint, "file"), "--wait")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(harness.content_of(os.path.join(second.mountpoint, "file")) == data)
        status = second.status()
        self.assertGreater(status["peer"]["bytes_received"], 0.9 * len(data))
        self.assertEqual(status["cluster"]["tls"], "--tls" in flags)
        table = self.shoal("status", second.mountpoint).stdout
        self.assertEqual("TLS" in table, "--tls" in flags, table)
        first.stop()
        second.stop()
        return data, bytes(tap.seen)

    def found(self, data, seen):
        places = range(100, len(data) - 32, 1 * MIB)
        return sum(data[at:at + 32] in seen for at in places) / len(places)

    def test_the_wire_shows_nothing(self):
        data, seen = self.read_through_a_wiretap("--tls")
        self.assertGreater(len(seen), 0.9 * len(data), "it went by the wire")
        self.assertEqual(self.found(data, seen), 0)
        self.assertNotIn(b"SHOL", seen[:4096])

    def test_without_tls_the_wiretap_finds_it(self):
        data, seen = self.read_through_a_wiretap()
        self.assertGreater(self.found(data, seen), 0.9)

    def test_all_nodes_or_none(self):
        for first, second in ((("--tls",), ()), ((), ("--tls",))):
            node = self.start_node(0, "--listen", "127.0.0.1:0", *first)
            other = self.start_node(1, "--listen", "127.0.0.1:0", *second, expect_failure=True)
            self.assertNotEqual(other.process.wait(timeout=60), 0)
            self.assertIn("--tls", other.log())
            self.assertIn("refused this node", other.log())
            self.assertEqual(len(node.status()["members"]), 1)
            node.stop()

    def test_the_key_is_not_shown(self):
        node = self.start_node(0, "--listen", "127.0.0.1:0", "--tls", "--log-level", "trace")
        with open(os.path.join(self.origin, ".shoal/quiet/key")) as file:
            key = file.read().strip()
        self.assertEqual(len(key), 64)
        with open(f"/proc/{node.process.pid}/cmdline", "rb") as file:
            self.assertNotIn(key.encode(), file.read())
        with open(node.log_path) as file:
            self.assertNotIn(key, file.read())


if __name__ == "__main__":
    harness.main()
