"""A checkpoint directory with a great many small files: what they cost while they wait for the origin,
what others see of them, and that all of them arrive. SMALL_FILES says how many (`make small-files`: a
million). Real nodes on the loopback address."""

import concurrent.futures
import contextlib
import json
import os
import shutil
import subprocess
import time

from harness import SHOAL, NodesTest, content_of as content_of_path, eventually, main

FILES = int(os.environ.get("SMALL_FILES", "20000"))
WRITERS = 8
MANIFEST = ".shoal-manifest.json"
BYTES_PER_FILE = 6 * 1024  # of memory of the daemon, for a file that waits
STATUS_BYTES = 64 * 1024
PATIENCE = 60 + FILES // 100  # seconds


def content_of(number, size=1024):
    """Each is of its own, and of its own length."""
    line = f"file {number:09} of a checkpoint\n".encode()
    return (line * (size // len(line) + 1))[:size - number % 64]


def name_of(number):
    return f"part-{number:09}"


def create(directory, numbers):
    for number in numbers:
        handle = os.open(os.path.join(directory, name_of(number)),
                         os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
        os.write(handle, content_of(number))
        os.close(handle)


def rss(node):
    with open(f"/proc/{node.process.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class SmallFiles(NodesTest):
    count = 2

    def start_pair(self, *flags, ack):
        self.began = time.monotonic()
        self.stub = self.start_stub()
        # The cache of values is bounded by --memory: small, so that what is seen is the files' own.
        self.flags = ("--memory", "16MiB", "--upload-delay", "1h", "--attr-ttl", "5s", *flags)
        self.ack = ack
        if FILES > 20_000:  # the small tier has to hold them all
            self.flags += ("--cache-size", "56GiB")
        self.start_nodes(*self.flags, origin=self.stub.url, ack=ack)
        os.makedirs(self.path_at(self.nodes[0], "run/step"))

    def note(self, what):
        """Figures for docs/benchmarks.md; ctest keeps them in its log."""
        print(f"{time.monotonic() - self.began:8.1f} s  {what}", flush=True)

    def create_all(self, numbers):
        """By several processes, as ranks do. Files per second."""
        began = time.monotonic()
        directory = self.path_at(self.nodes[0], "run/step")
        children = []
        for writer in range(WRITERS):
            child = os.fork()
            if child == 0:
                try:
                    create(directory, numbers[writer::WRITERS])
                    os._exit(0)
                except OSError as error:
                    print(f"creating: {error}", flush=True)
                    os._exit(1)
            children.append(child)
        results = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        self.assertEqual(results, [0] * WRITERS, self.nodes[0].log())
        return len(numbers) / (time.monotonic() - began)

    def status_of(self, node):
        """Small and quick, whatever waits."""
        began = time.monotonic()
        out = subprocess.run([SHOAL, "status", node.mountpoint, "--json"], capture_output=True,
                             timeout=30, check=True)
        took = time.monotonic() - began
        self.assertLess(len(out.stdout), STATUS_BYTES)
        self.assertLess(took, 5)
        status = json.loads(out.stdout)
        self.assertEqual(len(status["backlog"]), min(100, status["dirty"]["objects"]))
        return status

    def listed(self, node, directory="run/step"):
        began = time.monotonic()
        names = os.listdir(self.path_at(node, directory))
        names = [name for name in names if not name.startswith(MANIFEST)]
        self.note(f"listing at {os.path.basename(node.mountpoint)}: {len(names)} names, "
                  f"{time.monotonic() - began:.1f} s")
        self.assertEqual(len(names), len(set(names)), "names twice")
        return set(names)

    def look_up(self, node):
        """Many absent names are answered from a listing; it hides none that waits elsewhere."""
        path = self.path_at(node, "run/step")
        for number in range(FILES // 100):
            self.assertFalse(os.path.exists(f"{path}/absent-{number}"))
            size = os.stat(f"{path}/{name_of(100 * number)}").st_size
            self.assertEqual(size, len(content_of(100 * number)))
            with self.assertRaises(FileExistsError):
                os.open(f"{path}/{name_of(100 * number + 1)}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)

    def assert_memory(self, nodes, before, files):
        for node, was in zip(nodes, before):
            each = (rss(node) - was) / files
            self.note(f"{os.path.basename(node.mountpoint)}: {each:.0f} bytes of memory per file")
            if FILES >= 10_000:  # few files take no more than a page of a listing does
                self.assertLess(each, BYTES_PER_FILE)

    def publish(self, node, level):
        began = time.monotonic()
        out = subprocess.run([SHOAL, "publish", self.path_at(node, "run/step"), "--latest",
                              "newest", "--level", level, "--timeout", f"{PATIENCE}s"],
                             capture_output=True, text=True, timeout=PATIENCE + 60)
        self.assertEqual(out.returncode, 0, out.stdout + out.stderr + node.log())
        self.note(f"published, {level}: {time.monotonic() - began:.1f} s; " + ", ".join(
            f"{rss(each) / 2**20:.0f} MiB" for each in self.nodes))

    def assert_published(self, pointer, manifest):
        self.assertEqual(pointer, b"step\n")
        files = json.loads(manifest)["files"]
        self.assertEqual({file["name"]: file["size"] for file in files},
                         {name_of(n): len(content_of(n)) for n in range(FILES)})

    def while_it_uploads(self, node, act):
        """Calls act() when a tenth has been uploaded; then all the rest goes up."""
        before = self.status_of(node)["dirty"]["objects"]
        with subprocess.Popen([SHOAL, "sync", node.mountpoint, "--timeout", f"{PATIENCE}s"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as sync:
            eventually(lambda: self.status_of(node)["dirty"]["objects"] <= before * 9 // 10,
                       "a tenth to be uploaded", PATIENCE)
            left = self.status_of(node)["dirty"]["objects"]
            self.assertGreater(left, 0, "nothing waits any more")
            began = time.monotonic()
            act()
            took = time.monotonic() - began
            sync.wait(timeout=PATIENCE + 60)
        self.note(f"{left} files waited before it, which took {took:.1f} s")

    def assert_in_origin(self, directory="run/step"):
        """Every file, byte for byte."""
        def wrong_of(numbers):
            with contextlib.closing(self.stub.reader()) as reader:
                return [name_of(number) for number in numbers
                        if reader.get(f"{directory}/{name_of(number)}") != content_of(number)]

        with concurrent.futures.ThreadPoolExecutor() as pool:  # its map() raises what they raise
            for wrong in pool.map(wrong_of, [range(i, FILES, 4) for i in range(4)]):
                self.assertEqual(wrong[:10], [])

    def test_replicated(self):
        """They wait on two nodes; the writer is killed meanwhile, comes back, and uploads them."""
        self.start_pair(ack="replicated")
        a, b = self.nodes
        first = FILES // 3  # by then the cache of values is full
        self.create_all(range(first))
        before = [rss(a), rss(b)]
        rate = self.create_all(range(first, FILES))
        self.note(f"created at --ack replicated: {rate:.0f} files/s")
        self.assert_memory([a, b], before, FILES - first)
        self.assertEqual(self.status_of(a)["dirty"]["objects"], FILES)
        expected = {name_of(number) for number in range(FILES)}
        self.assertEqual(self.listed(b), expected, "others see what waits")
        for number in range(0, FILES, FILES // 50):
            with open(self.path_at(b, f"run/step/{name_of(number)}"), "rb") as file:
                self.assertTrue(file.read() == content_of(number), name_of(number))
        self.look_up(b)
        self.publish(a, "replicated")
        # Its listing may be as old as --attr-ttl.
        eventually(lambda: os.path.exists(self.path_at(b, "run/step/" + MANIFEST)), "the manifest")
        self.assert_published(content_of_path(self.path_at(b, "run/newest.replicated")),
                              content_of_path(self.path_at(b, "run/step/" + MANIFEST)))
        a.kill()
        began = time.monotonic()
        a = self.start_node(0, *self.flags, "--ack", self.ack, origin=self.stub.url,
                            patience=PATIENCE)
        self.note(f"started again after {time.monotonic() - began:.1f} s")
        self.status_of(a)
        self.publish(a, "durable")
        reader = self.stub.reader()
        self.addCleanup(reader.close)
        self.assert_published(reader.get("run/newest"), reader.get("run/step/" + MANIFEST))
        a.sync(timeout=f"{PATIENCE}s", seconds=PATIENCE + 60)
        eventually(lambda: all(node.status()["replication"]["records"] == 0
                               for node in self.nodes), "the records to go", PATIENCE)
        for node in self.nodes:
            self.assertEqual(self.listed(node), expected)
        self.assert_in_origin()

    def test_local(self):
        """On one disk, in a node that is published from there."""
        self.start_pair(ack="local")
        a = self.nodes[0]
        first = FILES // 3  # by then the cache of values is full
        self.create_all(range(first))
        before = [rss(a)]
        rate = self.create_all(range(first, FILES))
        self.note(f"created at --ack local: {rate:.0f} files/s")
        self.assert_memory([a], before, FILES - first)
        self.status_of(a)

        def rename():
            os.rename(self.path_at(a, "run/step"), self.path_at(a, "run/moved"))
            self.assertGreater(self.status_of(a)["dirty"]["objects"], FILES // 2,
                               "the rename waited for uploads")
        self.while_it_uploads(a, rename)
        a.sync(timeout=f"{PATIENCE}s", seconds=PATIENCE + 60)
        self.assertEqual(self.status_of(a)["dirty"]["objects"], 0)
        expected = {name_of(number) for number in range(FILES)}
        for node in self.nodes:
            self.assertEqual(self.listed(node, "run/moved"), expected)
            self.assertFalse(os.path.exists(self.path_at(node, "run/step")))
        self.assert_in_origin("run/moved")

    def test_removed_while_it_uploads(self):
        self.start_pair(ack="replicated")
        a, b = self.nodes
        self.create_all(range(FILES // 4))
        self.while_it_uploads(a, lambda: shutil.rmtree(self.path_at(a, "run/step")))
        self.assertEqual(self.status_of(a)["dirty"]["objects"], 0)
        eventually(lambda: all(node.status()["replication"]["records"] == 0
                               for node in self.nodes), "the records to go", PATIENCE)
        for node in self.nodes:
            eventually(lambda: not os.listdir(self.path_at(node, "run")), "its name to go")
        reader = self.stub.reader()
        self.addCleanup(reader.close)
        for number in range(0, FILES // 4, 7):
            self.assertIsNone(reader.get(f"run/step/{name_of(number)}"))

    def test_a_limit_of_waiting_files(self):
        """Writers wait for uploads, get ENOSPC when none ends, and go on when the origin is well."""
        most = 200
        self.stub = self.start_stub()
        self.start_nodes("--waiting-files", str(most), "--space-timeout", "1s", "--attr-ttl", "5s",
                         "--create-during-outage", count=1, origin=self.stub.url, ack="local")
        directory = self.path_at(self.nodes[0], "step")
        os.mkdir(directory)
        create(directory, range(2 * most))  # more than the limit: uploads make room
        self.stub.faults(outage=True)
        with self.assertRaises(OSError) as refused:
            create(directory, range(2 * most, 4 * most))
        self.assertEqual(refused.exception.errno, 28)  # ENOSPC
        self.stub.faults()
        made = sorted(os.listdir(directory))
        create(directory, range(4 * most, 5 * most))
        self.nodes[0].sync()
        reader = self.stub.reader()
        self.addCleanup(reader.close)
        for name in made:
            number = int(name.removeprefix("part-"))
            stored = reader.get(f"step/{name}")
            if number < 4 * most and stored != content_of(number):
                # What was refused at close was never acknowledged.
                self.assertEqual(name, made[-1])


if __name__ == "__main__":
    main()
