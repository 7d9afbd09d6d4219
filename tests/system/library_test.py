"""libshoal from C, C++ and Python, installed into a directory of its own and built against as a user
would, over real mounts."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import unittest

from harness import ROOT, NodesTest, ShoalTest, eventually, main, pattern

BUILD = os.environ.get("TEST_DIRECTORY", os.path.join(ROOT, "build/release"))
SANITIZE = os.environ.get("TEST_SANITIZE", "")
EXAMPLES = os.path.join(ROOT, "examples")
MIB = 1 << 20
STUCK = {"fault": "busy", "method": "PUT", "skip": 0, "count": 1_000_000}


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


class Installed:
    """`cmake --install` once, and the examples built with pkg-config."""

    prefix = os.path.join(BUILD, "installed-library")
    ready = False

    @classmethod
    def get(cls):
        if not cls.ready:
            shutil.rmtree(cls.prefix, ignore_errors=True)
            cls.must("cmake", "--install", BUILD, "--component", "library", "--prefix", cls.prefix)
            cls.libdir = cls.pkg_config("--variable=libdir")[0]
            warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
            flags = [f"-fsanitize={SANITIZE}"] if SANITIZE else []
            cc, cxx = "clang-19", "clang++-19"
            if not SANITIZE and shutil.which("cc") and shutil.which("c++"):
                cc, cxx = "cc", "c++"  # gcc, as most users have it
            used = [*cls.pkg_config("--cflags", "--libs"), f"-Wl,-rpath,{cls.libdir}"]
            runtime = ["-fsanitize-link-c++-runtime", "-lstdc++"] if SANITIZE else []
            cls.c = cls.build([cc, "-std=c11", *warnings, *flags], "checkpoint.c", used + runtime)
            cls.cxx = cls.build([cxx, "-std=c++17", *warnings, *flags], "wait.cc", used)
            if not SANITIZE:
                cls.build(["clang++-19", "-std=c++20", *warnings], "wait.cc", used)
            cls.ready = True
        return cls

    @classmethod
    def build(cls, compiler, source, used):
        program = os.path.join(cls.prefix, source.replace(".", "-"))
        cls.must(*compiler, os.path.join(EXAMPLES, source), *used, "-o", program)
        return program

    @classmethod
    def pkg_config(cls, *what):
        found = run("find", cls.prefix, "-name", "shoal.pc").stdout.strip()
        environment = {**os.environ, "PKG_CONFIG_PATH": os.path.dirname(found)}
        return cls.must("pkg-config", *what, "shoal", env=environment).split()

    @staticmethod
    def must(*command, **options):
        out = run(*command, **options)
        if out.returncode != 0:
            raise AssertionError(f"{' '.join(command)}:\n{out.stdout}{out.stderr}")
        return out.stdout


def python_package():
    """The package `shoal` in this process."""
    os.environ["SHOAL_LIBRARY"] = os.path.join(Installed.get().libdir, "libshoal.so.1")
    sys.path.insert(0, os.path.join(ROOT, "python"))
    import shoal
    return shoal


class LibraryTest(ShoalTest):
    def setUp(self):
        super().setUp()
        self.installed = Installed.get()

    def start_stuck(self, *flags):
        """A mount with 300,000 bytes in run/a that the origin refuses to take."""
        stub = self.start_stub()
        self.start("--upload-delay", "0s", *flags, origin=stub.url)
        os.makedirs(self.path("run/step"))
        stub.faults(script=[{**STUCK, "target": "run/step/"}])
        self.write("run/step/a", pattern(300_000))
        return stub

    def in_origin(self, name):
        with open(os.path.join(self.origin, name), "rb") as file:
            return file.read()

    def begin(self, *command):
        """A program that is at work: it has told of progress."""
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        first = child.stderr.readline()
        self.assertIn("bytes left", first)
        return child

    def end(self, child, within):
        begun = time.monotonic()
        out, err = child.communicate(timeout=60)
        self.assertLess(time.monotonic() - begun, within)
        return out, err


class C(LibraryTest):
    def test_publishes_with_keep_last(self):
        self.start("--upload-delay", "1h")
        os.mkdir(self.path("run"))
        for step in range(1, 5):
            out = run(self.installed.c, self.path(f"run/step-{step}"))
            self.assertEqual(out.returncode, 0, out.stderr + self.daemon.log())
            self.assertIn("is published (libshoal 0.", out.stdout)
            self.assertRegex(out.stderr, r"\d of \d files, \d+ bytes left")
            self.assertEqual(self.in_origin("run/latest"), f"step-{step}\n".encode())
        self.assertEqual(sorted(os.listdir(os.path.join(self.origin, "run"))),
                         ["latest", "step-3", "step-4"])
        self.assertEqual(self.in_origin("run/step-4/weights"),
                         bytes(i * 31 % 251 for i in range(3_000_000)))

    def test_timeout_tells_what_is_left(self):
        stub = self.start_stuck()
        os.unlink(self.path("run/step/a"))
        begun = time.monotonic()
        out = run(self.installed.c, self.path("run/step"), "1500")
        self.assertLess(time.monotonic() - begun, 1.5 + 2 + 10)
        self.assertEqual(out.returncode, 1, out.stderr)
        self.assertIn("not within the time limit", out.stderr)
        self.assertIn("Connection timed out", out.stderr)  # what strerror() says of the code
        self.assertIn("left: 3005000 bytes", out.stderr)
        stub.faults()
        out = run(self.installed.c, self.path("run/step"), "60000")
        self.assertEqual(out.returncode, 0, out.stderr)

    def test_outside_any_mount(self):
        self.start()
        out = run(self.installed.c, os.path.join(self.directory, "elsewhere"))
        self.assertEqual(out.returncode, 1)
        self.assertIn("elsewhere is not in a Shoal mount of this user; the mounts are", out.stderr)
        self.assertIn("No such device", out.stderr)


class Cxx(LibraryTest):
    def test_waits(self):
        self.start("--upload-delay", "1h")
        self.write("a", pattern(2 * MIB))
        self.assertFalse(os.path.exists(os.path.join(self.origin, "a")))
        out = run(self.installed.cxx, "durable", "60", self.path("a"))
        self.assertEqual(out.returncode, 0, out.stderr + self.daemon.log())
        self.assertIn("/a: level 3", out.stdout)
        self.assertEqual(self.in_origin("a"), pattern(2 * MIB))
        out = run(self.installed.cxx, "replicated", "60", self.path("a"))
        self.assertEqual(out.returncode, 1)
        self.assertIn("nobody to replicate to", out.stderr)

    def test_timeout_tells_what_is_left(self):
        self.start_stuck()
        out = run(self.installed.cxx, "durable", "1", self.path("run/step/a"))
        self.assertEqual(out.returncode, 1)
        self.assertIn("timed out with 300000 bytes left", out.stderr)
        self.assertRegex(out.stderr, r"not within the time limit: 1 file \(.*\) at or below "
                                     r".*/run/step/a is not in the origin yet")

    def test_a_daemon_that_is_killed_ends_the_call(self):
        self.start_stuck()
        child = self.begin(self.installed.cxx, "durable", "600", self.path("run/step"))
        self.daemon.process.kill()
        out, err = self.end(child, within=20)
        self.assertEqual(child.returncode, 1, err)
        self.assertIn("went away before the end", err)
        self.daemon.process.wait()
        out = run(self.installed.cxx, "durable", "600", self.path("run/step"))
        self.assertEqual(out.returncode, 1)
        self.assertIn("has died; mount it again", out.stderr)

    @unittest.skipIf(os.geteuid() != 0, "only root can be two users")
    def test_another_users_mount(self):
        self.start("--allow-other")
        self.write("a", b"1")
        os.chmod(self.directory, 0o755)
        out = run(self.installed.cxx, "durable", "60", self.path("a"), user=65534)
        self.assertEqual(out.returncode, 1)
        self.assertIn("is in a Shoal mount of another user", out.stderr)

    def test_a_daemon_that_hangs_costs_no_more_than_the_timeout(self):
        self.start_stuck()
        self.daemon.process.send_signal(signal.SIGSTOP)
        self.addCleanup(self.daemon.process.send_signal, signal.SIGCONT)
        begun = time.monotonic()
        out = run(self.installed.cxx, "durable", "0.5", self.path("run/step"))
        self.assertLess(time.monotonic() - begun, 0.5 + 2 + 10)
        self.assertEqual(out.returncode, 1)
        self.assertIn("not within the time limit", out.stderr)


@unittest.skipIf(SANITIZE, "Python cannot load a library with sanitizers")
class Python(LibraryTest):
    def setUp(self):
        super().setUp()
        self.shoal = python_package()

    def test_sync_and_levels(self):
        self.start("--upload-delay", "1h")
        heard = []
        with open(self.path("a"), "wb") as file:
            file.write(pattern(MIB))
            file.flush()
            self.assertEqual(self.shoal.file_level(self.path("a")), self.shoal.Level.OPEN)
        self.assertEqual(self.shoal.file_level(self.path("a")), self.shoal.Level.LOCAL)
        last = self.shoal.sync(self.path("a"), timeout=60, progress=heard.append)
        self.assertEqual(self.shoal.file_level(self.path("a")), self.shoal.Level.DURABLE)
        self.assertEqual((last.bytes_total, last.bytes_left, last.objects_done), (MIB, 0, 1))
        self.assertEqual(heard[-1], heard[-1].__class__(**{**last.__dict__,
                                                          "seconds": heard[-1].seconds,
                                                          "bytes_per_second":
                                                          heard[-1].bytes_per_second}))
        self.assertEqual(self.in_origin("a"), pattern(MIB))
        # Nothing is left to do; a timeout of nothing at all is a question.
        self.assertEqual(self.shoal.sync(self.mount, timeout=0).objects_left, 0)

    def test_publish(self):
        self.start("--upload-delay", "1h")
        os.mkdir(self.path("run"))
        for step in range(3):
            os.mkdir(self.path(f"run/{step}"))
            self.write(f"run/{step}/a\u00e4", b"x" * step)
            self.shoal.publish(self.path(f"run/{step}"), latest="newest", keep_last=1, timeout=60)
        self.assertEqual(sorted(os.listdir(os.path.join(self.origin, "run"))), ["2", "newest"])
        self.assertEqual(self.in_origin("run/newest"), b"2\n")
        with self.assertRaises(self.shoal.NotFound) as caught:
            self.shoal.publish(self.path("run/absent"))
        self.assertIn("does not exist", str(caught.exception))
        with self.assertRaises(OSError) as caught:
            self.shoal.publish(self.mount)
        self.assertIn("root", str(caught.exception))

    def test_errors(self):
        self.start()
        for path in ("/proc/self", self.directory, "/no/such"):
            with self.assertRaises(self.shoal.NotMounted) as caught:
                self.shoal.sync(path)
            self.assertIn(self.mount, str(caught.exception))
        with self.assertRaises(FileNotFoundError):
            self.shoal.sync(self.path("absent"))
        with self.assertRaises(self.shoal.Error):
            self.shoal.file_level(self.mount)
        for bad in ({"level": "safe"}, {"level": "local"}, {"timeout": -1}, {"timeout": 1e12}):
            with self.assertRaises(ValueError):
                self.shoal.sync(self.mount, **bad)
        with self.assertRaises(ValueError):
            self.shoal.sync(self.mount + "\0")
        with self.assertRaises(ValueError):
            self.shoal.publish(self.mount, keep_last=-1)

    def test_timeout_while_the_origin_is_away(self):
        stub = self.start_stuck()
        stub.faults(outage=True)
        begun = time.monotonic()
        with self.assertRaises(TimeoutError) as caught:
            self.shoal.sync(self.path("run"), timeout=1)
        self.assertLess(time.monotonic() - begun, 1 + 2 + 10)
        self.assertEqual(caught.exception.progress.bytes_left, 300_000)
        self.assertEqual(caught.exception.progress.objects_left, 1)
        self.assertIn("1 file (293 KiB) at or below", str(caught.exception))
        # The reason is told while it waits.
        with self.assertRaises(self.shoal.Cancelled) as caught:
            self.shoal.sync(self.path("run"), timeout=60, progress=lambda now: not now.last_error)
        self.assertIn("origin", caught.exception.progress.last_error)
        self.assertGreater(caught.exception.progress.failures, 0)
        stub.faults()
        self.assertEqual(self.shoal.sync(self.path("run"), timeout=60).objects_left, 0)

    def test_cancelling(self):
        self.start_stuck()
        heard = []

        def twice(progress):
            heard.append(progress)
            return len(heard) < 2

        with self.assertRaises(self.shoal.Cancelled):
            self.shoal.sync(self.path("run"), progress=twice)
        self.assertEqual(len(heard), 2)
        self.assertEqual(heard[1].bytes_left, 300_000)

        def broken(_progress):
            raise KeyError("mine")

        with self.assertRaises(KeyError):
            self.shoal.publish(self.path("run/step"), progress=broken)
        # In a thread that is not the main one.
        caught = []

        def work():
            try:
                self.shoal.sync(self.path("run"), progress=lambda _: False)
            except self.shoal.Cancelled as error:
                caught.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(30)
        self.assertEqual(len(caught), 1)
        # The daemon's jobs end with their askers: more of them than it runs at a time.
        for _ in range(40):
            eventually(self.is_cancelled_not_busy, "the jobs to end")

    def is_cancelled_not_busy(self):
        with self.assertRaises(self.shoal.Error) as caught:
            self.shoal.sync(self.path("run"), progress=lambda _: False)
        return isinstance(caught.exception, self.shoal.Cancelled)

    def test_all_ranks_wait_at_once(self):
        stub = self.start_stuck()
        waiting = threading.Barrier(25, timeout=60)
        ended = []

        def rank():
            heard = []

            def progress(_):
                if not heard:
                    waiting.wait()
                heard.append(1)

            ended.append(self.shoal.sync(self.path("run"), timeout=120, progress=progress))

        ranks = [threading.Thread(target=rank) for _ in range(24)]
        for thread in ranks:
            thread.start()
        waiting.wait()  # all 24 are at work
        self.daemon.status()  # and others are still heard
        stub.faults()
        for thread in ranks:
            thread.join(120)
        self.assertEqual([last.bytes_left for last in ended], [0] * 24)

    def test_control_c(self):
        self.start_stuck()
        child = self.begin(sys.executable, "-c", f"""
import sys
sys.path.insert(0, {os.path.join(ROOT, "python")!r})
import shoal
def show(progress):
    print(progress.bytes_left, "bytes left", file=sys.stderr, flush=True)
try:
    shoal.sync({self.path("run")!r}, progress=show)
except KeyboardInterrupt:
    print("interrupted")
""")
        child.send_signal(signal.SIGINT)
        out, err = self.end(child, within=20)
        self.assertEqual(out, "interrupted\n", err)
        self.assertEqual(child.returncode, 0, err)

    def test_the_example(self):
        self.start("--upload-delay", "1h")
        os.mkdir(self.path("run"))
        environment = {**os.environ, "PYTHONPATH": os.path.join(ROOT, "python")}
        out = run(sys.executable, os.path.join(EXAMPLES, "checkpoint.py"), self.path("run/s"), "60",
                  env=environment)
        self.assertEqual(out.returncode, 0, out.stderr)
        self.assertEqual(self.in_origin("run/latest"), b"s\n")

    def test_by_socket_and_after_a_restart(self):
        self.start("--upload-delay", "1h")
        out = self.shoal_status_socket()
        self.write("a", b"1")
        self.shoal.sync(self.path("a"), timeout=60, socket=out)
        self.assertEqual(self.in_origin("a"), b"1")
        self.daemon.stop()
        with self.assertRaises(self.shoal.Unavailable):
            self.shoal.sync(self.path("a"), timeout=60, socket=out)
        self.start("--upload-delay", "1h")
        self.write("b", b"2")
        self.shoal.sync(self.path("b"), timeout=60, socket=out)
        self.assertEqual(self.in_origin("b"), b"2")

    def shoal_status_socket(self):
        """From the file that the daemon leaves for others to find it."""
        directory = ("/run/shoal" if os.geteuid() == 0 else
                     os.path.join(os.environ.get("XDG_RUNTIME_DIR", ""), "shoal"))
        for name in os.listdir(directory):
            if name.endswith(".json"):
                with open(os.path.join(directory, name), encoding="utf-8") as file:
                    node = json.load(file)
                if node["mountpoint"] == self.mount:
                    return node["socket"]
        raise AssertionError("the daemon has left no file")


@unittest.skipIf(SANITIZE, "Python cannot load a library with sanitizers")
class Cluster(NodesTest):
    count = 2

    def test_replicated(self):
        shoal = python_package()
        stub = self.start_stub()
        self.start_nodes("--upload-delay", "0s", origin=stub.url, ack="local")
        a, b = self.nodes
        os.makedirs(self.path_at(a, "run/s"))
        stub.faults(script=[{**STUCK, "target": "run/s/"}])
        self.write_at(a, "run/s/x", pattern(9 * MIB))
        shoal.sync(self.path_at(a, "run/s"), level="replicated", timeout=60)
        self.assertGreaterEqual(shoal.file_level(self.path_at(b, "run/s/x")),
                                shoal.Level.REPLICATED)
        shoal.publish(self.path_at(b, "run/s"), level=shoal.Level.REPLICATED, timeout=60)
        with open(self.path_at(a, "run/latest.replicated"), "rb") as file:
            self.assertEqual(file.read(), b"s\n")
        with self.assertRaises(shoal.Timeout) as caught:
            shoal.sync(self.path_at(a, "run/s"), timeout=1)
        self.assertGreater(caught.exception.progress.bytes_left, 0)
        stub.faults()
        shoal.sync(self.path_at(a, "run"), timeout=60)
        # Other nodes may still show what they knew of the file.
        for node in self.nodes:
            eventually(lambda node=node: shoal.file_level(self.path_at(node, "run/s/x")) ==
                       shoal.Level.DURABLE, "the level to be seen")


if __name__ == "__main__":
    main()
