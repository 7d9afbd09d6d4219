"""Bad input gets an answer: what is wrong, why, and what to do; nothing hangs, nothing is guessed."""

import errno
import os
import socket
import subprocess
import time
import unittest

from harness import SAS, STUB_KEY, ShoalTest, eventually, main, pattern

MIB = 1024 * 1024


class BadInput(ShoalTest):
    def refuse(self, *arguments, says, code=1, env=None, within=40):
        environment = dict(os.environ)
        environment.setdefault("AZURE_STORAGE_ACCOUNT", "devstoreaccount1")
        environment.setdefault("AZURE_STORAGE_KEY", STUB_KEY)
        environment.update(env or {})
        begun = time.monotonic()
        out = self.shoal(*arguments, env=environment)
        self.assertEqual(out.returncode, code, out.stderr + out.stdout)
        self.assertLess(time.monotonic() - begun, within)
        for word in [says] if isinstance(says, str) else says:
            self.assertIn(word, out.stderr)
        self.assertNotIn("Traceback", out.stderr)
        self.assertFalse(os.path.ismount(self.mount))
        return out.stderr

    def mount_arguments(self, origin, *flags):
        return ("mount", origin, self.mount, "--cache-dir", self.cache, "--foreground",
                "--origin-timeout", "3s", *flags)

    def test_wrong_key(self):
        stub = self.start_stub()
        wrong = "d3Jvbmcga2V5IHdyb25nIGtleSB3cm9uZyBrZXkgd3Jvbmcga2V5"
        error = self.refuse(*self.mount_arguments(stub.url), says="key",
                            env={"AZURE_STORAGE_KEY": wrong})
        self.assertNotIn(wrong, error)
        self.refuse(*self.mount_arguments(stub.url), says="base64",
                    env={"AZURE_STORAGE_KEY": "not*base64"})

    def test_no_such_container(self):
        stub = self.start_stub()
        self.refuse(*self.mount_arguments(stub.url.replace("/data", "/nowhere")),
                    says=["nowhere", "container"])

    def test_origin_down_at_mount(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.refuse(*self.mount_arguments(f"http://127.0.0.1:{port}/devstoreaccount1/data"),
                    says=str(port))

    def test_no_such_directory(self):
        self.refuse(*self.mount_arguments(self.origin + "/missing"), says="missing")
        self.refuse(*self.mount_arguments("ftp://host/x"), says="ftp", code=2)
        self.refuse(*self.mount_arguments("az://account"), says="container", code=2)

    def test_mountpoints(self):
        other = os.path.join(self.directory, "file")
        with open(other, "w") as file:
            file.write("x")
        self.refuse("mount", self.origin, other, "--cache-dir", self.cache, "--foreground",
                    says="directory")
        self.refuse("mount", self.origin, other + "missing", "--cache-dir", self.cache,
                    "--foreground", says="missing")
        with open(os.path.join(self.mount, "x"), "w") as file:
            file.write("x")
        self.refuse(*self.mount_arguments(self.origin), says="not empty")
        os.unlink(os.path.join(self.mount, "x"))
        self.start()
        out = self.shoal("mount", self.origin, self.mount, "--cache-dir", self.cache + "2",
                         "--foreground")
        self.assertEqual(out.returncode, 1)
        self.assertIn("already", out.stderr)

    def test_cache_directories(self):
        os.mkdir(self.cache)
        with open(os.path.join(self.cache, "thesis.tex"), "w") as file:
            file.write("important")
        self.refuse(*self.mount_arguments(self.origin), says=self.cache)
        self.assertTrue(os.path.exists(os.path.join(self.cache, "thesis.tex")))
        os.unlink(os.path.join(self.cache, "thesis.tex"))
        self.start()
        self.daemon.stop()
        second = os.path.join(self.directory, "origin2")
        os.mkdir(second)
        self.refuse(*self.mount_arguments(second), says="origin")
        self.refuse("mount", self.origin, self.mount, "--cache-dir", "/proc/nothing/x",
                    "--foreground", says="/proc/nothing")

    def test_configuration(self):
        config = os.path.join(self.directory, "shoal.toml")

        def write(text):
            with open(config, "w") as file:
                file.write(text)
        write("cache-sise = '10GiB'\n")
        self.refuse(*self.mount_arguments(self.origin, "--config", config),
                    says=["cache-sise", "cache-size"], code=2)
        write("cache-size = 'ten'\n")
        self.refuse("serve", self.origin, "--cache-dir", self.cache, "--foreground", "--config",
                    config, says="ten", code=2)
        write("cache-size = \n")
        self.refuse(*self.mount_arguments(self.origin, "--config", config), says="shoal.toml", code=2)
        self.refuse(*self.mount_arguments(self.origin, "--config", config + "x"), says=config + "x")
        self.refuse("mount", says="origin", code=2)
        self.refuse("mount", self.origin, self.mount, "--frobnicate", says="frobnicate", code=2)

    def test_read_only_origin(self):
        """Without permission to write, a read-only mount works and a writable one is refused."""
        stub = self.start_stub("--sas", SAS, "--sas-permissions", "rl")
        stub.add("b", 1000, 9)
        env = {"AZURE_STORAGE_SAS_TOKEN": SAS, "AZURE_STORAGE_KEY": ""}
        error = self.refuse(*self.mount_arguments(stub.url), says="--read-only", env=env)
        self.assertNotIn("c2VjcmV0", error)
        self.start("--read-only", origin=stub.url, env=env)
        self.assertEqual(len(self.read("b")), 1000)
        with self.assertRaises(OSError) as caught:
            self.write("c", b"x")
        self.assertEqual(caught.exception.errno, errno.EROFS)

    def test_expired_sas(self):
        stub = self.start_stub("--sas", SAS, "--sas-expired")
        self.refuse(*self.mount_arguments(stub.url), says="expired",
                    env={"AZURE_STORAGE_SAS_TOKEN": SAS, "AZURE_STORAGE_KEY": ""})

    def test_odd_objects(self):
        stub = self.start_stub()
        for name in ("ok", "a//b", "dir/", "x/../y", "both", "both/below", "/lead", "e\u0301\u00e9",
                     "n" * 300):
            stub.add(name, 10, 1)
        stub.add("empty", 0, 1)
        self.start(origin=stub.url)
        names = os.listdir(self.mount)
        self.assertIn("ok", names)
        self.assertIn("e\u0301\u00e9", names)
        self.assertIn("both", names)
        self.assertTrue(os.path.isfile(self.path("both")))
        self.assertEqual(self.read("empty"), b"")
        self.assertEqual(len(self.read("ok")), 10)
        for name in names:
            self.assertNotIn(name, ("", ".", "..", "n" * 300))
            os.stat(self.path(name))
        out = self.shoal("doctor", stub.url, env={**os.environ, "AZURE_STORAGE_KEY": STUB_KEY,
                                                  "AZURE_STORAGE_ACCOUNT": "devstoreaccount1"})
        self.assertIn("5 cannot be shown as paths", out.stdout)

    def test_five_terabytes_read_at_the_end(self):
        stub = self.start_stub()
        size = 5_000_000_000_000
        stub.add("huge", size, 7)
        self.start(origin=stub.url)
        self.assertEqual(os.stat(self.path("huge")).st_size, size)
        with open(self.path("huge"), "rb") as file:
            file.seek(size - 100)
            self.assertEqual(len(file.read(1000)), 100)
        self.assertLess(self.daemon.status()["origin"]["bytes_read"], MIB)
        self.assertLess(self.daemon.status()["memory"]["rss_bytes"], 200 * MIB)

    def test_changed_and_deleted_while_open(self):
        def replace(content):
            with open(os.path.join(self.origin, "beside"), "wb") as file:
                file.write(content)
            os.rename(os.path.join(self.origin, "beside"), os.path.join(self.origin, "f"))
        old = pattern(40 * MIB, 1)
        replace(old)
        self.start("--attr-ttl", "0s")
        with open(self.path("f"), "rb", buffering=0) as file:
            self.assertEqual(os.pread(file.fileno(), 4096, 0), old[:4096])
            replace(pattern(39 * MIB, 2))
            with self.assertRaises(OSError) as caught:
                os.pread(file.fileno(), 4096, 30 * MIB)
            self.assertEqual(caught.exception.errno, errno.ESTALE)
            self.assertEqual(os.pread(file.fileno(), 4096, 0), old[:4096])
        self.assertEqual(self.read("f"), pattern(39 * MIB, 2))
        with open(self.path("f"), "rb") as file:
            os.unlink(os.path.join(self.origin, "f"))
            self.assertEqual(file.read(), pattern(39 * MIB, 2))
        self.assertFalse(os.path.exists(self.path("f")))

    def test_killed_daemon_leaves_nothing_hanging(self):
        stub = self.start_stub()
        stub.add("b", 64 * MIB, 9)
        self.start(origin=stub.url)
        os.stat(self.path("b"))
        stub.faults(latency_ms=600000)
        reader = subprocess.Popen(["cat", self.path("b")], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE)
        self.addCleanup(reader.stderr.close)
        eventually(lambda: self.daemon.status()["read"]["misses"] > 0, "the reader to wait")
        self.daemon.process.kill()
        self.daemon.process.wait()
        self.assertNotEqual(reader.wait(timeout=10), 0)
        stub.faults()
        # The dead mount is found and replaced without help.
        self.start(origin=stub.url)
        self.assertEqual(len(self.read("b")), 64 * MIB)

    def test_signals_end_in_order(self):
        self.start("--upload-delay", "10m")
        self.write("f", b"staged")
        self.assertEqual(self.daemon.stop(), 0)
        self.assertFalse(os.path.ismount(self.mount))
        self.start("--upload-delay", "0s")
        self.assertEqual(self.read("f"), b"staged")
        self.daemon.sync()
        out = self.shoal("unmount", self.mount)
        self.assertEqual(out.returncode, 0, out.stderr)
        self.assertEqual(self.daemon.process.wait(timeout=30), 0)

    def test_commands_without_a_daemon(self):
        for command in ("status", "sync", "warm"):
            out = self.shoal(command, self.mount)
            self.assertEqual(out.returncode, 1)
            self.assertIn(self.mount, out.stderr)

    def test_sync_of_what_is_not_there(self):
        self.start()
        for command in (("sync",), ("sync", "--level", "durable", "--timeout", "5s")):
            out = self.shoal(command[0], self.path("no", "such"), *command[1:])
            self.assertEqual(out.returncode, 1, out.stdout)
            self.assertIn("no/such does not exist", out.stderr)
        self.write("x", b"here")
        self.assertEqual(self.shoal("sync", self.path("x")).returncode, 0)
        self.assertEqual(self.shoal("sync", self.path("x"), self.mount).returncode, 0)
        os.unlink(self.path("x"))
        out = self.shoal("sync", self.path("x"))
        self.assertEqual(out.returncode, 1, out.stdout)
        self.assertIn("x does not exist", out.stderr)

    def test_warm_pin_evict(self):
        for i in range(5):
            with open(os.path.join(self.origin, f"f{i}"), "wb") as file:
                file.write(pattern(2 * MIB, i))
        self.start()
        out = self.shoal("warm", self.mount, "--wait")
        self.assertEqual(out.returncode, 0, out.stderr)
        read = self.daemon.status()["origin"]["bytes_read"]
        self.assertEqual(read, 10 * MIB)
        for i in range(5):
            self.assertEqual(self.read(f"f{i}"), pattern(2 * MIB, i))
        self.assertEqual(self.daemon.status()["origin"]["bytes_read"], read)
        self.assertEqual(self.shoal("pin", self.path("f1")).returncode, 0)
        self.assertEqual(self.shoal("evict", self.path("f0")).returncode, 0)
        eventually(lambda: self.daemon.status()["files"]["bytes"] == 8 * MIB, "f0 to be gone")
        self.assertEqual(self.shoal("unpin", self.path("f1")).returncode, 0)
        self.assertEqual(self.read("f0"), pattern(2 * MIB, 0))

    @unittest.skipIf(os.geteuid() != 0, "needs root to become somebody else")
    def test_ordinary_user(self):
        mode = os.stat("/dev/fuse").st_mode & 0o777
        os.chmod("/dev/fuse", 0o666)  # what every distribution's udev rules do
        self.addCleanup(os.chmod, "/dev/fuse", mode)
        os.chmod(self.directory, 0o755)
        for path in (self.origin, self.mount):
            os.chown(path, 65534, 65534)
        os.mkdir(self.cache)
        os.chown(self.cache, 65534, 65534)
        run = os.path.join(self.directory, "run")
        os.mkdir(run)
        os.chown(run, 65534, 65534)
        self.start(user=65534, env={"XDG_RUNTIME_DIR": run, "HOME": run})
        script = ("import os,sys; p=sys.argv[1]; open(p,'wb').write(b'z'*700000); "
                  "assert open(p,'rb').read()==b'z'*700000; os.rename(p,p+'2')")
        done = subprocess.run(["python3", "-c", script, self.path("f")], user=65534, group=65534,
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr + self.daemon.log())
        eventually(lambda: os.path.exists(os.path.join(self.origin, "f2")), "the upload")


if __name__ == "__main__":
    main()
