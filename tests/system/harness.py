"""Starts real daemons over real mounts for the system tests.

Each test gets a Cluster-free world of its own: an origin (a directory, or the Blob stub), a cache
directory and a mountpoint below one temporary directory, and a daemon that can be asked, killed and
started again. Nothing waits by sleeping for a guess: `eventually` polls a condition to a deadline.
"""

import base64
import email.utils
import hashlib
import hmac
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SHOAL = os.environ.get("TEST_SHOAL", os.path.join(ROOT, "build/release/shoal"))
STUB_ACCOUNT = "devstoreaccount1"
SAS = "sv=2022-11-02&sr=c&sp=rwdl&se=2040-01-01T00%3A00%3A00Z&sig=c2VjcmV0c2lnbmF0dXJlCg%3D%3D"
# The published key of every storage emulator, not a secret.
STUB_KEY = ("Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/"
            "KBHBeksoGMGw==")


def can_mount():
    """Whether this machine lets us mount at all; a reason when not."""
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse: {error}"
    if os.geteuid() != 0 and not shutil.which("fusermount3"):
        return "not root and no fusermount3"
    return None


def eventually(condition, what, seconds=30):
    """Polls until condition() is truthy; fails the test at the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.02)  # between two looks, not instead of one


class Stub:
    """The Blob stub as a process."""

    def __init__(self, *flags):
        self.process = subprocess.Popen(
            [SHOAL, "blob-stub", "--port", "0", "--account", STUB_ACCOUNT, "--key", STUB_KEY,
             "--container", "data", *flags],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        line = self.process.stdout.readline()
        match = re.search(r"listening on ([\d.]+):(\d+)", line)
        if not match:
            self.process.kill()
            raise AssertionError(f"the stub said: {line!r}")
        self.address = f"{match[1]}:{match[2]}"

    @property
    def url(self):
        return f"http://{self.address}/{STUB_ACCOUNT}/data"

    def post(self, path, body):
        import urllib.request
        request = urllib.request.Request(f"http://{self.address}{path}",
                                         data=json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read()

    def stats(self):
        import urllib.request
        with urllib.request.urlopen(f"http://{self.address}/__stub/stats", timeout=10) as answer:
            return json.load(answer)

    def reader(self):
        """A connection that asks for objects as a stock client does."""
        return ObjectReader(self.address)

    def add(self, name, size, seed=1, count=None):
        """Synthesised bytes: they cost no memory."""
        body = {"container": "data", "name": name, "size": size, "seed": seed}
        self.post("/__stub/blobs", body if count is None else {**body, "count": count})

    def faults(self, **faults):
        """Sets faults; without arguments the stub is well again."""
        well = {"latency_ms": 0, "account_in_mibps": 0, "account_out_mibps": 0, "outage": False,
                "chance": {}, "script": []}
        self.post("/__stub/faults", {**well, **faults})

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class ObjectReader:
    """GETs with Shared Key over one connection: nothing of the product."""

    def __init__(self, address):
        self.connection = http.client.HTTPConnection(address, timeout=30)

    def get(self, name):
        path = f"/{STUB_ACCOUNT}/data/{name}"
        headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
        text = "GET" + "\n" * 12 + "".join(f"{k}:{v}\n" for k, v in sorted(headers.items()))
        digest = hmac.new(base64.b64decode(STUB_KEY), f"{text}/{STUB_ACCOUNT}{path}".encode(),
                          hashlib.sha256).digest()
        headers["Authorization"] = f"SharedKey {STUB_ACCOUNT}:{base64.b64encode(digest).decode()}"
        self.connection.request("GET", path, headers=headers)
        answer = self.connection.getresponse()
        content = answer.read()
        return content if answer.status == 200 else None

    def close(self):
        self.connection.close()


class Daemon:
    """`shoal mount` in the foreground, as a child."""

    def __init__(self, origin, mountpoint, cache, *flags, env=None, expect_failure=False,
                 user=None, log=None, prefix=(), patience=30):
        self.mountpoint = mountpoint
        self.log_path = log or (cache.rstrip("/") + ".log")
        environment = dict(os.environ)
        environment.update(env or {})
        environment.setdefault("AZURE_STORAGE_ACCOUNT", STUB_ACCOUNT)
        environment.setdefault("AZURE_STORAGE_KEY", STUB_KEY)
        log_file = open(self.log_path, "ab")
        begun = log_file.tell()
        self.process = subprocess.Popen(
            [*prefix, SHOAL, "mount", origin, mountpoint, "--cache-dir", cache, "--foreground",
             *([] if "--cache-size" in flags else ["--cache-size", "2GiB"]), *flags],
            stdout=log_file, stderr=log_file, env=environment, user=user,
            group=user and user)
        log_file.close()
        if not expect_failure:
            eventually(lambda: self.process.poll() is not None or
                       " is mounted on " in self.log(begun), "the mount to appear", patience)
            if self.process.poll() is not None:
                raise AssertionError("shoal mount failed:\n" + self.log())

    def log(self, begin=0):
        with open(self.log_path, "rb") as file:
            file.seek(begin)
            return file.read()[-4000:].decode(errors="replace")

    def status(self):
        out = subprocess.run([SHOAL, "status", self.mountpoint, "--json"], capture_output=True,
                             text=True, timeout=20)
        if out.returncode != 0:
            raise AssertionError(f"shoal status: {out.stderr}\n{self.log()}")
        return json.loads(out.stdout)

    def sync(self, path=None, timeout="60s", level="durable", seconds=120):
        out = subprocess.run([SHOAL, "sync", path or self.mountpoint, "--level", level, "--timeout",
                              timeout], capture_output=True, text=True, timeout=seconds)
        if out.returncode != 0:
            raise AssertionError(f"shoal sync: {out.stdout}{out.stderr}\n{self.log()}")

    def kill(self):
        """kill -9, then what an operator does: unmount the dead mountpoint."""
        self.process.kill()
        self.process.wait()
        subprocess.run(["umount", "-l", self.mountpoint], capture_output=True)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError("the daemon did not stop on SIGTERM:\n" + self.log())
        subprocess.run(["umount", "-l", self.mountpoint], capture_output=True)
        return self.process.returncode


@unittest.skipIf(can_mount(), can_mount() or "")
class ShoalTest(unittest.TestCase):
    """A temporary directory with origin, cache and mountpoint, and what was started in it."""

    flags = ()

    def setUp(self):
        if not os.path.exists(SHOAL):
            self.fail(f"{SHOAL} is not built")
        self.directory = tempfile.mkdtemp(prefix="shoal-test-", dir=os.environ.get("TEST_DIRECTORY"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=not os.environ.get("TEST_KEEP"))
        self.origin = os.path.join(self.directory, "origin")
        self.cache = os.path.join(self.directory, "cache")
        self.mount = os.path.join(self.directory, "mnt")
        os.mkdir(self.origin)
        os.mkdir(self.mount)

    def start(self, *flags, origin=None, **options):
        daemon = Daemon(origin or self.origin, self.mount, self.cache, *self.flags, *flags,
                        **options)
        self.addCleanup(daemon.stop)
        self.daemon = daemon
        return daemon

    def start_stub(self, *flags):
        stub = Stub(*flags)
        self.addCleanup(stub.stop)
        self.stub = stub
        return stub

    def path(self, *names):
        return os.path.join(self.mount, *names)

    def write(self, name, content):
        with open(self.path(name), "wb") as file:
            file.write(content)

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def shoal(self, *arguments, **options):
        return subprocess.run([SHOAL, *arguments], capture_output=True, text=True, timeout=120,
                              **options)


def content_of(path):
    with open(path, "rb") as file:
        return file.read()


class NodesTest(ShoalTest):
    """Several nodes of one cluster, each with a mount of its own, on the loopback address."""

    count = 4

    def start_nodes(self, *flags, count=None, origin=None, ack="replicated"):
        self.nodes = []
        for i in range(count or self.count):
            self.start_node(i, *flags, "--ack", ack, origin=origin)
        eventually(lambda: all(len(node.status()["members"]) == len(self.nodes)
                               for node in self.nodes), "all to be members")

    def start_node(self, i, *flags, origin=None, env=None, patience=30):
        mountpoint = os.path.join(self.directory, f"mnt{i}")
        os.makedirs(mountpoint, exist_ok=True)
        if "--attr-ttl" not in flags:
            flags += ("--attr-ttl", "0s")
        node = Daemon(origin or self.origin, mountpoint, os.path.join(self.directory, f"cache{i}"),
                      "--cluster", "r", "--name", f"n{i}", "--listen", "127.0.0.1:0", "--http",
                      "off", *flags, env=env, patience=patience)
        node.cache = os.path.join(self.directory, f"cache{i}")
        self.addCleanup(node.stop)
        self.nodes[i:i + 1] = [node]
        return node

    def path_at(self, node, name):
        return os.path.join(node.mountpoint, name)

    def write_at(self, node, name, data):
        with open(self.path_at(node, name), "wb") as file:
            file.write(data)

    def destroy(self, node):
        """kill -9, and its disk is gone too."""
        node.kill()
        shutil.rmtree(node.cache)

    def in_origin(self, name):
        path = os.path.join(self.origin, name)
        return content_of(path) if os.path.exists(path) else None


def pattern(size, seed=0):
    """Bytes that tell their place and seed."""
    block = b"".join((i * 2654435761 + seed * 40503 & 0xFFFFFFFF).to_bytes(4, "little")
                     for i in range(16384))
    return (block * (size // len(block) + 1))[:size] if size <= len(block) else b"".join(
        (seed * 1000003 + index).to_bytes(8, "little") + block[8:]
        for index in range(size // len(block) + 1))[:size]


def main():
    unittest.main(verbosity=1, argv=[sys.argv[0], *sys.argv[1:]])
