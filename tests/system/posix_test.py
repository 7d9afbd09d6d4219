"""POSIX behaviour through a real mount over a directory origin."""

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import stat
import subprocess
import unittest

from harness import ShoalTest, eventually, main, pattern

KIB, MIB = 1024, 1024 * 1024


class Posix(ShoalTest):
    passthrough = os.geteuid() == 0

    def setUp(self):
        super().setUp()
        self.start()

    def error(self, number, function, *arguments, **options):
        with self.assertRaises(OSError) as caught:
            function(*arguments, **options)
        self.assertEqual(errno.errorcode[caught.exception.errno], errno.errorcode[number])

    def test_sizes_around_every_boundary(self):
        for size in (0, 1, 4095, 4096, 65535, 65536, 65537, 131072, 131073, 262143, 262144, 262145,
                     MIB, 8 * MIB - 1, 8 * MIB + 1, 20 * MIB):
            name = f"f{size}"
            content = pattern(size, size)
            self.write(name, content)
            self.assertEqual(os.stat(self.path(name)).st_size, size)
            self.assertEqual(self.read(name), content, name)
        self.daemon.sync()
        for size in (0, 65537, 262145, 20 * MIB):
            with open(os.path.join(self.origin, f"f{size}"), "rb") as file:
                self.assertEqual(file.read(), pattern(size, size))

    def test_overwrite_in_the_middle_and_truncate(self):
        for size in (1000, 300 * KIB, 9 * MIB):
            model = bytearray(pattern(size, 1))
            self.write("f", bytes(model))
            with open(self.path("f"), "r+b") as file:
                for offset, length in ((10, 100), (size // 2 - 50, 300), (size - 20, 5000)):
                    piece = os.urandom(length)
                    file.seek(offset)
                    file.write(piece)
                    file.flush()
                    if offset + length > len(model):
                        model.extend(bytes(offset + length - len(model)))
                    model[offset:offset + length] = piece
                file.seek(0)
                self.assertEqual(file.read(), bytes(model))
                file.truncate(size // 3)
            model = model[:size // 3]
            self.assertEqual(self.read("f"), bytes(model))
            os.truncate(self.path("f"), size)
            model.extend(bytes(size - len(model)))
            self.assertEqual(self.read("f"), bytes(model))
            self.daemon.sync()
            with open(os.path.join(self.origin, "f"), "rb") as file:
                self.assertEqual(file.read(), bytes(model))

    def test_append_from_two_descriptors(self):
        a = os.open(self.path("log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        b = os.open(self.path("log"), os.O_WRONLY | os.O_APPEND)
        for i in range(50):
            os.write(a, b"a%04d\n" % i)
            os.write(b, b"b%04d\n" % i)
        os.close(a)
        os.close(b)
        lines = self.read("log").split(b"\n")[:-1]
        self.assertEqual(len(lines), 100)
        self.assertEqual(sorted(lines), sorted(b"%c%04d" % (c, i) for c in b"ab" for i in range(50)))

    def test_holes_read_as_zeros_and_can_be_sought(self):
        with open(self.path("sparse"), "wb") as file:
            file.seek(10 * MIB)
            file.write(b"end")
        with open(self.path("sparse"), "r+b") as file:
            self.assertEqual(file.read(10 * MIB), bytes(10 * MIB))
            self.assertEqual(file.read(), b"end")
            fd = file.fileno()
            data = os.lseek(fd, 0, os.SEEK_DATA)
            self.assertLessEqual(data, 10 * MIB)
            self.assertEqual(os.lseek(fd, 10 * MIB, os.SEEK_DATA), 10 * MIB)
            self.assertEqual(os.lseek(fd, 10 * MIB, os.SEEK_HOLE), 10 * MIB + 3)
            self.error(errno.ENXIO, os.lseek, fd, 11 * MIB, os.SEEK_DATA)

    def test_fallocate_punch_and_zero(self):
        libc = ctypes.CDLL(None, use_errno=True)
        content = pattern(2 * MIB, 3)
        self.write("f", content)
        with open(self.path("f"), "r+b") as file:
            def fallocate(mode, offset, length):
                arguments = (file.fileno(), mode, ctypes.c_long(offset), ctypes.c_long(length))
                return 0 if libc.fallocate(*arguments) == 0 else ctypes.get_errno()
            self.assertEqual(fallocate(0, 0, 3 * MIB), 0)
            self.assertEqual(os.fstat(file.fileno()).st_size, 3 * MIB)
            self.assertEqual(fallocate(1, 3 * MIB, MIB), 0)  # KEEP_SIZE
            self.assertEqual(os.fstat(file.fileno()).st_size, 3 * MIB)
            self.assertEqual(fallocate(3, 100, MIB), 0)  # PUNCH_HOLE | KEEP_SIZE
            self.assertEqual(fallocate(8, 0, 4), errno.EOPNOTSUPP)  # COLLAPSE_RANGE
        expected = content[:100] + bytes(MIB) + content[100 + MIB:] + bytes(MIB)
        self.assertEqual(self.read("f"), expected)

    def test_mmap_shared_write_and_read(self):
        for size in (8 * KIB, 4 * MIB):
            self.write("m", bytes(size))
            with open(self.path("m"), "r+b") as file:
                with mmap.mmap(file.fileno(), size) as view:
                    view[100:105] = b"hello"
                    view[size - 3:] = b"end"
                    view.flush()
                    file.seek(100)
                    self.assertEqual(file.read(5), b"hello")
            content = self.read("m")
            self.assertEqual(content[100:105] + content[-3:], b"helloend")
            with open(self.path("m"), "rb") as file:
                with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
                    self.assertEqual(bytes(view[100:105]), b"hello")

    def test_rename_over_an_open_file(self):
        self.write("old", b"old" * 100000)
        self.write("new", b"new" * 100000)
        with open(self.path("old"), "rb") as file:
            os.rename(self.path("new"), self.path("old"))
            self.assertEqual(file.read(), b"old" * 100000)
        self.assertEqual(self.read("old"), b"new" * 100000)
        self.assertFalse(os.path.exists(self.path("new")))
        self.daemon.sync()
        self.assertEqual(sorted(n for n in os.listdir(self.origin) if n != ".shoal"), ["old"])

    def test_atomic_replace_pattern(self):
        for round_number in range(20):
            self.write("config.tmp", b"version %d" % round_number)
            os.rename(self.path("config.tmp"), self.path("config"))
            self.assertEqual(self.read("config"), b"version %d" % round_number)
        self.daemon.sync()
        with open(os.path.join(self.origin, "config"), "rb") as file:
            self.assertEqual(file.read(), b"version 19")
        self.assertFalse(os.path.exists(os.path.join(self.origin, "config.tmp")))

    def test_rename_directories(self):
        os.makedirs(self.path("a/b/c"))
        self.write("a/b/c/f", b"1")
        self.write("a/g", b"2" * 400000)
        self.daemon.sync()
        self.write("a/b/h", b"3")
        os.rename(self.path("a"), self.path("z"))
        self.assertFalse(os.path.exists(self.path("a")))
        self.assertEqual(self.read("z/b/c/f"), b"1")
        self.assertEqual(self.read("z/g"), b"2" * 400000)
        self.assertEqual(self.read("z/b/h"), b"3")
        os.mkdir(self.path("empty"))
        os.rename(self.path("z"), self.path("empty"))
        self.error(errno.EINVAL, os.rename, self.path("empty"), self.path("empty/b/x"))
        os.makedirs(self.path("full/x"))
        self.error(errno.ENOTEMPTY, os.rename, self.path("empty"), self.path("full"))
        self.daemon.sync()
        with open(os.path.join(self.origin, "empty/b/h"), "rb") as file:
            self.assertEqual(file.read(), b"3")

    def test_unlink_while_open(self):
        for size in (100, 600 * KIB):
            content = pattern(size, 5)
            file = open(self.path("gone"), "w+b")
            file.write(content)
            file.flush()
            os.unlink(self.path("gone"))
            self.assertFalse(os.path.exists(self.path("gone")))
            file.seek(0)
            self.assertEqual(file.read(), content)
            file.write(b"more")
            self.assertEqual(os.fstat(file.fileno()).st_nlink, 0)
            file.close()
        self.daemon.sync()
        self.assertEqual([n for n in os.listdir(self.origin) if n != ".shoal"], [])

    def test_directories(self):
        os.mkdir(self.path("d"))
        self.error(errno.EEXIST, os.mkdir, self.path("d"))
        self.error(errno.ENOENT, os.mkdir, self.path("no/d"))
        self.write("d/f", b"x")
        self.error(errno.ENOTEMPTY, os.rmdir, self.path("d"))
        self.error(errno.ENOTDIR, os.rmdir, self.path("d/f"))
        self.error(errno.EISDIR, os.unlink, self.path("d"))
        self.error(errno.ENOTDIR, os.stat, self.path("d/f/g"))
        os.unlink(self.path("d/f"))
        os.rmdir(self.path("d"))
        self.error(errno.ENOENT, os.stat, self.path("d"))
        for i in range(3000):
            os.close(os.open(self.path(f"n{i}"), os.O_CREAT | os.O_WRONLY))
        self.assertEqual(sorted(os.listdir(self.mount)), sorted(f"n{i}" for i in range(3000)))
        self.daemon.sync()
        self.assertEqual(len([e for e in os.scandir(self.mount) if e.is_file()]), 3000)

    def test_symbolic_links(self):
        self.write("target", b"content")
        os.symlink("target", self.path("link"))
        self.assertEqual(os.readlink(self.path("link")), "target")
        self.assertEqual(self.read("link"), b"content")
        self.assertTrue(stat.S_ISLNK(os.lstat(self.path("link")).st_mode))
        os.unlink(self.path("link"))
        self.assertEqual(self.read("target"), b"content")
        self.error(errno.EPERM, os.link, self.path("target"), self.path("hard"))

    def test_the_origin_stays_plain(self):
        """Any tool of any user reads what was written, as the umask of the daemon says."""
        os.mkdir(self.path("d"))
        for name, size in (("d/small", 100), ("d/large", 9 * MIB)):
            self.write(name, pattern(size, 2))
        self.daemon.sync()
        umask = os.umask(0)
        os.umask(umask)
        for name, size in (("d/small", 100), ("d/large", 9 * MIB)):
            about = os.stat(os.path.join(self.origin, name))
            self.assertEqual(stat.S_IMODE(about.st_mode), 0o666 & ~umask)
        self.assertEqual(stat.S_IMODE(os.stat(os.path.join(self.origin, "d")).st_mode),
                         0o777 & ~umask)

    def test_attributes_survive_upload_and_restart(self):
        self.write("f", b"x" * 1000)
        os.chmod(self.path("f"), 0o640)
        os.chown(self.path("f"), 12, 34)
        os.utime(self.path("f"), ns=(1_600_000_000_123_456_789, 1_600_000_001_123_456_789))
        os.setxattr(self.path("f"), "user.note", b"caf\xc3\xa9 \x00 binary")
        os.mkdir(self.path("d"))
        os.chmod(self.path("d"), 0o711)
        self.daemon.sync()

        def check():
            about = os.stat(self.path("f"))
            self.assertEqual(stat.S_IMODE(about.st_mode), 0o640)
            self.assertEqual((about.st_uid, about.st_gid), (12, 34))
            self.assertEqual(about.st_mtime_ns, 1_600_000_001_123_456_789)
            self.assertEqual(os.getxattr(self.path("f"), "user.note"), b"caf\xc3\xa9 \x00 binary")
            self.assertEqual(stat.S_IMODE(os.stat(self.path("d")).st_mode), 0o711)
        check()
        os.chmod(self.path("f"), 0o600)  # of a clean object: goes to the origin
        os.chmod(self.path("f"), 0o640)
        os.utime(self.path("f"), ns=(1_600_000_000_123_456_789, 1_600_000_001_123_456_789))
        self.assertEqual(self.daemon.stop(), 0)
        self.start()
        check()
        self.assertEqual(self.read("f"), b"x" * 1000)

    def test_xattr_rules(self):
        self.write("f", b"")
        path = self.path("f")
        self.error(errno.ENODATA, os.getxattr, path, "user.none")
        os.setxattr(path, "user.a", b"1", os.XATTR_CREATE)
        self.error(errno.EEXIST, os.setxattr, path, "user.a", b"1", os.XATTR_CREATE)
        self.error(errno.ENODATA, os.setxattr, path, "user.b", b"1", os.XATTR_REPLACE)
        self.error(errno.EOPNOTSUPP, os.setxattr, path, "trusted.a", b"1")
        self.assertIn("user.a", os.listxattr(path))
        self.assertIn(os.getxattr(path, "user.shoal.state"), (b"staged", b"uploading", b"clean"))
        self.daemon.sync()
        self.assertEqual(os.getxattr(path, "user.shoal.state"), b"clean")
        self.assertTrue(os.getxattr(path, "user.shoal.version"))
        os.removexattr(path, "user.a")
        self.error(errno.ENODATA, os.getxattr, path, "user.a")

    def test_open_flags(self):
        self.write("f", b"0123456789" * 100000)
        self.error(errno.EEXIST, os.open, self.path("f"), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        fd = os.open(self.path("f"), os.O_RDONLY)
        self.error(errno.EBADF, os.write, fd, b"x")
        os.close(fd)
        fd = os.open(self.path("f"), os.O_RDWR | os.O_TRUNC)
        self.assertEqual(os.fstat(fd).st_size, 0)
        os.write(fd, b"new")
        os.close(fd)
        self.assertEqual(self.read("f"), b"new")
        fd = os.open(self.path("direct"), os.O_CREAT | os.O_RDWR | os.O_DIRECT)
        buffer = mmap.mmap(-1, 4096)
        buffer[:] = b"d" * 4096
        self.assertEqual(os.write(fd, buffer), 4096)
        os.close(fd)
        self.assertEqual(self.read("direct"), b"d" * 4096)
        self.error(errno.EISDIR, os.open, self.mount, os.O_WRONLY)
        self.error(errno.ENAMETOOLONG, os.open, self.path("x" * 256), os.O_CREAT | os.O_WRONLY)
        self.write("x" * 255, b"longest")
        self.assertEqual(self.read("x" * 255), b"longest")

    def test_reader_that_was_first_meets_a_writer(self):
        """A file in the cache is read through the kernel; a writer comes, the reader stays."""
        old = pattern(3 * MIB, 1)
        self.write("f", old)
        self.daemon.sync()
        self.assertEqual(self.read("f"), old)
        with open(self.path("f"), "rb") as reader:
            self.assertEqual(reader.read(MIB), old[:MIB])
            with open(self.path("f"), "r+b") as writer:
                writer.seek(2 * MIB)
                writer.write(b"changed")
            rest = reader.read()
        new = old[:2 * MIB] + b"changed" + old[2 * MIB + 7:]
        # Through the kernel it keeps the version it opened; through the daemon it sees the writer.
        self.assertEqual(rest, (old if self.passthrough else new)[MIB:])
        self.assertEqual(self.read("f"), new)

    def test_locks(self):
        self.write("lock", b"")
        with open(self.path("lock"), "rb") as one, open(self.path("lock"), "rb") as two:
            fcntl.flock(one, fcntl.LOCK_EX)
            self.error(errno.EAGAIN, fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(one, fcntl.LOCK_UN)
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_odd_names(self):
        names = ["with space", "per%cent", "ques?tion", "hash#", "plus+", "quote'\"", "\u00e9\u00df",
                 "\U0001F41F", "back\\slash", "semi;colon&amp", "-dash", "tab\there"]
        for name in names:
            self.write(name, name.encode())
        self.daemon.sync()
        self.assertEqual(sorted(os.listdir(self.mount)), sorted(names))
        for name in names:
            self.assertEqual(self.read(name), name.encode())

    def test_tools_that_people_use(self):
        source = os.path.join(self.directory, "tree")
        os.makedirs(os.path.join(source, "sub/deeper"))
        for i, size in enumerate((0, 10, 5000, 400000)):
            with open(os.path.join(source, f"sub/f{i}"), "wb") as file:
                file.write(pattern(size, i))
        os.symlink("f1", os.path.join(source, "sub/link"))
        run = lambda *command: subprocess.run(command, check=True, capture_output=True)
        run("cp", "-a", source, self.path("copy"))
        run("diff", "-r", source, self.path("copy"))
        run("tar", "-C", source, "-cf", self.path("t.tar"), ".")
        os.mkdir(self.path("out"))
        run("tar", "-C", self.path("out"), "-xpf", self.path("t.tar"))
        run("diff", "-r", source, self.path("out"))
        run("mv", self.path("out"), self.path("moved"))
        run("rm", "-r", self.path("copy"))
        self.daemon.sync()
        run("diff", "-r", source, self.path("moved"))
        self.assertEqual(sorted(os.listdir(self.mount)), ["moved", "t.tar"])


class Signals(ShoalTest):
    """What programs that wait for an origin that does not answer do at a signal."""

    def start_stubbed(self):
        self.start_stub()
        self.stub.add("model", 100 * KIB)
        self.start("--ack", "durable", "--attr-ttl", "1h", origin=self.stub.url)
        self.assertEqual(os.stat(self.path("model")).st_size, 100 * KIB)
        self.addCleanup(self.stub.go_on)

    def reader(self):
        """One whose read waits for the origin."""
        process = subprocess.Popen(["cat", self.path("model")], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE)
        self.addCleanup(process.kill)
        self.addCleanup(process.stderr.close)

        def waits():
            with open(f"/proc/{process.pid}/stat", encoding="ascii") as file:
                name, rest = file.read().split("(", 1)[1].rsplit(")", 1)
            return name == "cat" and rest.split()[0] in "SD"
        eventually(waits, "cat to wait")
        return process

    def writer(self):
        """One whose close() waits for the origin."""
        process = subprocess.Popen(["cp", "/dev/stdin", self.path("new")], stdin=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        self.addCleanup(process.kill)
        self.addCleanup(process.stderr.close)
        eventually(lambda: os.path.exists(self.path("new")), "cp to open its file")
        self.stub.pause()
        process.stdin.write(b"new")
        process.stdin.close()
        eventually(lambda: [item["state"] for item in self.daemon.status()["backlog"]] ==
                   ["uploading"], "the upload to begin")
        return process

    def assert_ended_by(self, process, number):
        process.wait(timeout=5)
        self.assertEqual(process.returncode, -number, process.stderr.read())

    def test_control_c_and_kill_end_a_reader_at_once(self):
        self.start_stubbed()
        self.stub.pause()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGALRM):
            cat = self.reader()
            cat.send_signal(number)  # SIGALRM too, which cat does not handle
            self.assert_ended_by(cat, number)
        cat = self.reader()
        self.stub.go_on()
        self.assertEqual(cat.wait(timeout=60), 0, cat.stderr.read())

    def test_a_writer_can_be_stopped_and_go_on(self):
        self.start_stubbed()
        writer = self.writer()
        writer.send_signal(signal.SIGSTOP)
        self.daemon.status()  # by then the daemon has been told
        writer.send_signal(signal.SIGCONT)
        self.stub.go_on()
        self.assertEqual(writer.wait(timeout=60), 0, writer.stderr.read())
        self.assertEqual(self.read("new"), b"new")

    def test_kill_ends_a_writer_that_was_stopped(self):
        """The kernel tells us of the first signal only."""
        self.start_stubbed()
        writer = self.writer()
        writer.send_signal(signal.SIGSTOP)
        self.daemon.status()
        writer.send_signal(signal.SIGKILL)
        self.assert_ended_by(writer, signal.SIGKILL)


class PosixWithoutPassthrough(Posix):
    flags = ("--no-passthrough",)
    passthrough = False


if __name__ == "__main__":
    main()
