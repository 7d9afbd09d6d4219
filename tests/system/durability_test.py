"""What is acknowledged survives: kill -9, restarts, conflicts, a full disk, an origin that is away."""

import errno
import os
import random
import subprocess
import threading
import time

from harness import ShoalTest, eventually, main, pattern

KIB, MIB = 1024, 1024 * 1024


def origin_content(origin):
    found = {}
    for directory, names, files in os.walk(origin):
        if ".shoal" in names:
            names.remove(".shoal")
        for name in files:
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, origin)] = file.read()
    return found


def version_of(content):
    """The seed that pattern() wrote into the first block, for messages."""
    for version in range(100_000):
        if content[:64] == pattern(min(len(content), 64), version)[:64] or (
                len(content) > 65_536 and content[:8] == (version * 1000003).to_bytes(8, "little")):
            return version
    return "unknown"


class Durability(ShoalTest):
    longMessage = False
    kills = int(os.environ.get("TEST_KILLS", "100"))

    def same(self, actual, expected, what="content"):
        """assertEqual without printing megabytes."""
        if actual != expected:
            self.fail(f"{what}: {len(actual)} bytes {actual[:20]!r}, expected {len(expected)} "
                      f"bytes {expected[:20]!r}")

    def check(self, name, content, acknowledged, in_doubt, where):
        allowed = [acknowledged[name], *in_doubt.get(name, [])]
        if content in allowed:
            return
        known = {version_of(c): len(c) for c in allowed}
        self.fail(f"{where}: {name} has {len(content)} bytes of version {version_of(content)}, "
                  f"allowed are {known} (version: bytes)\n{self.daemon.log()}")

    def test_kill_at_random_moments(self):
        """kill -9 while three writers write, rewrite and rename; nothing acknowledged is lost."""
        seed = int(os.environ.get("TEST_SEED", time.time_ns() % 1_000_000))
        print(f"seed {seed} (TEST_SEED={seed} repeats it)")
        choose = random.Random(seed)
        acknowledged = {}  # name -> content of the last close that returned
        in_doubt = {}      # name -> contents that an interrupted rewrite may have left
        version = 0
        for kill in range(self.kills):
            daemon = self.start("--upload-delay", choose.choice(["0s", "20ms", "500ms"]))
            for name in list(acknowledged):
                content = self.read(name)
                self.check(name, content, acknowledged, in_doubt, f"seed {seed}, kill {kill}")
                acknowledged[name] = content
            in_doubt.clear()
            stop = threading.Event()
            lock = threading.Lock()

            def write(worker, random_of_worker):
                nonlocal version
                while not stop.is_set():
                    name = f"w{worker}-{random_of_worker.randrange(4)}"
                    with lock:
                        version += 1
                        mine = version
                    size = random_of_worker.choice([0, 100, 70_000, 262_144, 300_000, 3 * MIB])
                    content = pattern(size, mine)
                    target = name
                    if random_of_worker.random() < 0.3:
                        target = name + ".tmp"
                    with lock:
                        in_doubt.setdefault(name, []).append(content)
                    try:
                        self.write(target, content)
                        if target != name:
                            os.rename(self.path(target), self.path(name))
                    except OSError:
                        return
                    with lock:
                        acknowledged[name] = content
                        in_doubt[name] = []

            workers = [threading.Thread(target=write, args=(w, random.Random(f"{seed}/{kill}/{w}")))
                       for w in range(3)]
            for worker in workers:
                worker.start()
            # The moment is what the test varies; nothing is waited for here.
            time.sleep(choose.uniform(0.01, 0.25))
            daemon.process.kill()
            stop.set()
            for worker in workers:
                worker.join()
            daemon.kill()
        self.start("--upload-delay", "0s")
        for name, content in acknowledged.items():
            self.check(name, self.read(name), acknowledged, in_doubt, f"seed {seed}, end")
        expected = {name: self.read(name) for name in acknowledged}
        self.daemon.sync()
        there = origin_content(self.origin)
        for name, content in expected.items():
            self.assertTrue(there[name] == content, name)
        self.assertFalse([n for n in there if "conflict" in n], "no foreign writer, no conflict")

    def test_sync_while_what_was_recovered_goes_up(self):
        """A sync never takes a recovered version for one that is still written."""
        names = [f"f{i}" for i in range(60)]
        self.start("--upload-delay", "60s")
        for i, name in enumerate(names):
            self.write(name, pattern(300_000, i))
        self.daemon.kill()
        self.start("--upload-delay", "0s")
        for name in names:
            os.stat(self.path(name))
        self.daemon.sync()
        there = origin_content(self.origin)
        for i, name in enumerate(names):
            self.same(there[name], pattern(300_000, i), name)

    def test_rename_of_a_directory_that_is_written_in(self):
        """What is written, rewritten and created below it meanwhile goes along, and nothing stays."""
        stub = self.start_stub()
        self.start("--upload-delay", "0s", origin=stub.url)
        os.mkdir(self.path("old"))
        for i in range(300):  # copied one by one under the new name: it takes a while
            self.write(f"old/before-{i}", pattern(100, i))
        self.daemon.sync()
        stub.faults(latency_ms=20)
        directory = os.open(self.path("old"), os.O_RDONLY)
        self.addCleanup(os.close, directory)
        expected = {f"before-{i}": pattern(100, i) for i in range(300)}
        ended = threading.Event()
        errors = []

        def put(name, content):
            handle = os.open(name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644, dir_fd=directory)
            try:
                os.write(handle, content)
            finally:
                os.close(handle)
            expected[name] = content

        def work(worker):
            i = 0
            while not ended.is_set():
                try:
                    put(f"new-{worker}-{i % 40}", pattern(64 + i % 7, i))
                    put(f"before-{worker * 50 + i % 50}", pattern(200 + i % 5, i))
                except OSError as error:
                    errors.append(error)
                i += 1

        workers = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
        for worker in workers:
            worker.start()
        os.rename(self.path("old"), self.path("new"))
        ended.set()
        for worker in workers:
            worker.join()
        self.assertEqual(errors, [])
        self.assertFalse(os.path.exists(self.path("old")))
        self.assertEqual(set(os.listdir(self.path("new"))), set(expected))
        stub.faults()
        self.daemon.sync()
        self.assertEqual(self.daemon.status()["dirty"]["objects"], 0)
        reader = stub.reader()
        self.addCleanup(reader.close)
        for name, content in expected.items():
            self.same(self.read(f"new/{name}"), content, name)
            self.same(reader.get(f"new/{name}") or b"", content, f"{name} in the origin")
            self.assertIsNone(reader.get(f"old/{name}"), f"{name} stayed")

    def test_restart_reads_nothing_again(self):
        content = {f"f{i}": pattern(size, i) for i, size in
                   enumerate((100, 70_000, 200_000, MIB, 9 * MIB))}
        for name, data in content.items():
            with open(os.path.join(self.origin, name), "wb") as file:
                file.write(data)
        self.start()
        for name, data in content.items():
            self.same(self.read(name), data)
        before = self.daemon.status()["origin"]["bytes_read"]
        self.assertEqual(before, sum(map(len, content.values())))
        for name, data in content.items():
            self.same(self.read(name), data)
        self.assertEqual(self.daemon.status()["origin"]["bytes_read"], before)
        for how in ("stop", "kill"):
            getattr(self.daemon, how)()
            self.start()
            for name, data in content.items():
                self.same(self.read(name), data)
            self.assertEqual(self.daemon.status()["origin"]["bytes_read"], 0, how)

    def test_upload_resumes_without_sending_again(self):
        stub = self.start_stub("--account-mibps", "40")
        content = pattern(64 * MIB, 3)
        self.start("--upload-delay", "0s", origin=stub.url)
        self.write("big", content)
        # The stub counts a block when it has all of it.
        eventually(lambda: stub.stats()["requests"].get("put_block", 0) >= 3, "some blocks")
        self.daemon.kill()
        sent = stub.stats()["bytes_in"]
        stub.faults()
        self.start("--upload-delay", "0s", origin=stub.url)
        self.daemon.sync()
        resent = stub.stats()["bytes_in"] - sent
        self.assertLess(resent, len(content) - 2 * 8 * MIB, "blocks that were there went up again")
        self.same(self.read("big"), content)
        self.assertEqual(self.daemon.status()["dirty"]["objects"], 0)

    def test_conflict_keeps_both(self):
        stub_free_origin = self.origin
        self.write_origin("f", b"first")
        self.start("--upload-delay", "300ms", "--attr-ttl", "0s")
        self.same(self.read("f"), b"first")
        self.write("f", b"mine")
        self.write_origin("f", b"theirs, longer")
        self.daemon.sync()
        there = origin_content(stub_free_origin)
        self.assertEqual(there.pop("f"), b"theirs, longer")
        self.assertEqual(list(there.values()), [b"mine"])
        self.assertIn("conflict", list(there)[0])
        self.same(self.read("f"), b"theirs, longer")
        self.same(self.read(list(there)[0]), b"mine")
        self.assertIn("changed in the origin by somebody else", self.daemon.log())

    def write_origin(self, name, content):
        beside = os.path.join(self.origin, name + ".beside")
        with open(beside, "wb") as file:
            file.write(content)
        os.rename(beside, os.path.join(self.origin, name))

    def test_durable_means_in_the_origin(self):
        self.start("--ack", "durable", "--upload-delay", "10s")
        for size in (10, 300_000, 9 * MIB):
            content = pattern(size, size)
            self.write("f", content)
            self.same(origin_content(self.origin)["f"], content)
        fd = os.open(self.path("g"), os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"synced")
        os.fsync(fd)
        self.same(origin_content(self.origin)["g"], b"synced")
        os.close(fd)

    def test_fsync_without_close_survives_a_kill(self):
        for size in (1000, 500_000):
            self.start("--upload-delay", "10s")
            content = pattern(size, size)
            fd = os.open(self.path("f"), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.write(fd, content)
            os.fsync(fd)
            self.daemon.process.kill()
            self.daemon.process.wait()
            try:
                os.close(fd)
            except OSError:
                pass
            self.daemon.kill()
            self.start()
            self.same(self.read("f"), content)
            self.daemon.sync()
            self.same(origin_content(self.origin)["f"], content)
            self.daemon.stop()

    def test_interrupted_rewrite_leaves_the_old(self):
        for size in (1000, 500_000):
            old = pattern(size, 1)
            self.start("--upload-delay", "10s")
            self.write("f", old)
            fd = os.open(self.path("f"), os.O_WRONLY | os.O_TRUNC)
            os.write(fd, b"half of the new")
            self.daemon.process.kill()
            self.daemon.process.wait()
            try:
                os.close(fd)
            except OSError:
                pass
            self.daemon.kill()
            self.start()
            self.same(self.read("f"), old)
            os.unlink(self.path("f"))
            self.daemon.stop()

    def test_origin_away(self):
        """Cached files stay readable, writes go on, the rest fails after its deadline."""
        stub = self.start_stub()
        stub.add("cold", 4 * MIB, 1)
        self.start("--origin-timeout", "2s", "--upload-delay", "0s", origin=stub.url)
        content = pattern(MIB, 2)
        self.write("warm", content)
        self.daemon.sync()
        self.same(self.read("warm"), content)
        self.assertTrue(os.path.exists(self.path("cold")))
        stub.pause()
        self.same(self.read("warm"), content)
        begun = time.monotonic()
        with self.assertRaises(OSError) as caught:
            self.read("cold")
        self.assertEqual(caught.exception.errno, errno.EIO)
        self.assertLess(time.monotonic() - begun, 60)
        stub.go_on()
        self.assertEqual(len(self.read("cold")), 4 * MIB)

    def test_full_budget_refuses_and_loses_nothing(self):
        stub = self.start_stub()
        self.start("--cache-size", "128MiB", "--upload-delay", "0s", origin=stub.url)
        self.write("a", pattern(20 * MIB, 1))
        self.daemon.sync()
        stub.faults(script=[{"fault": "busy", "method": "PUT", "count": 1_000_000_000}])
        written = {}
        with self.assertRaises(OSError) as caught:
            for i in range(40):
                self.write(f"f{i}", pattern(8 * MIB, i))
                written[f"f{i}"] = i
        self.assertEqual(caught.exception.errno, errno.ENOSPC, self.daemon.log())
        self.assertGreater(len(written), 5)
        stub.faults()
        self.daemon.sync()
        for name, seed in written.items():
            self.same(self.read(name), pattern(8 * MIB, seed))

    def test_file_larger_than_the_cache(self):
        content = os.urandom(MIB) * 200
        with open(os.path.join(self.origin, "large"), "wb") as file:
            file.write(content)
        self.start("--cache-size", "96MiB")
        self.same(self.read("large"), content)
        self.same(self.read("large"), content)
        files = self.daemon.status()["files"]
        self.assertLessEqual(files["bytes"], files["capacity"])

    def test_corrupted_cache_is_never_served(self):
        content = pattern(3 * MIB, 1)
        with open(os.path.join(self.origin, "f"), "wb") as file:
            file.write(content)
        small = pattern(20_000, 2)
        with open(os.path.join(self.origin, "s"), "wb") as file:
            file.write(small)
        self.start()
        self.same(self.read("f"), content)
        self.same(self.read("s"), small)
        self.daemon.kill()
        hit = 0
        for directory, _, files in os.walk(self.cache):
            for name in files:
                if name.endswith((".data", ".log")):
                    with open(os.path.join(directory, name), "r+b") as file:
                        for offset in range(500, os.path.getsize(file.name), 30_000):
                            file.seek(offset)
                            byte = file.read(1)
                            file.seek(offset)
                            file.write(bytes([byte[0] ^ 0x10]))
                            hit += 1
        self.assertGreater(hit, 50)
        self.start()
        self.same(self.read("f"), content)
        self.same(self.read("s"), small)

    def test_truncated_index_loses_only_clean_data(self):
        content = pattern(2 * MIB, 1)
        with open(os.path.join(self.origin, "f"), "wb") as file:
            file.write(content)
        self.start("--upload-delay", "10m")
        self.same(self.read("f"), content)
        self.daemon.kill()
        for directory, _, files in os.walk(self.cache):
            for name in files:
                if name.endswith(".meta"):
                    os.truncate(os.path.join(directory, name), 100)
        self.start()
        self.same(self.read("f"), content)

    def test_two_daemons_on_one_cache(self):
        self.start()
        other = os.path.join(self.directory, "other")
        os.mkdir(other)
        out = self.shoal("mount", self.origin, other, "--cache-dir", self.cache, "--foreground")
        self.assertEqual(out.returncode, 1)
        self.assertIn("another shoal daemon uses the cache directory", out.stderr)

    def test_concurrent_readers_fetch_once(self):
        stub = self.start_stub("--latency-ms", "30")
        stub.add("b", 16 * MIB, 9)
        self.start(origin=stub.url)
        results = []
        threads = [threading.Thread(target=lambda: results.append(self.read("b")))
                   for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(set(results)), 1)
        self.assertEqual(self.daemon.status()["origin"]["bytes_read"], 16 * MIB)

    def test_cold_random_reads_move_little(self):
        stub = self.start_stub()
        stub.add("b", 1024 * MIB, 9)
        self.start(origin=stub.url)
        choose = random.Random(4)
        with open(self.path("b"), "rb", buffering=0) as file:
            before = self.daemon.status()["origin"]["bytes_read"]
            for _ in range(50):
                os.pread(file.fileno(), 4096, choose.randrange(1024 * MIB - 4096))
        moved = self.daemon.status()["origin"]["bytes_read"] - before
        self.assertLessEqual(moved, 50 * 128 * KIB)


if __name__ == "__main__":
    main()
