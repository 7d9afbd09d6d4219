"""The conformance suites that users of file systems know: fsx (random operations against a model) and
pjdfstest (POSIX rules). They come from crates.io by tools/install-conformance.sh; without them the
tests are skipped with a reason.

What Shoal deliberately does not offer is listed here as data and in docs/operating.md."""

import os
import re
import subprocess
import unittest

from harness import ROOT, ShoalTest, main

BINARIES = os.environ.get("TEST_CONFORMANCE", os.path.join(ROOT, "build/conformance/bin"))

# pjdfstest's tests that fail by design: (pattern, why).
DEVIATIONS = (
    (r"::(fifo|char|block|socket)$", "no special files: mknod gives EPERM"),
    (r"^(mkfifo|mknod)::", "no special files"),
    (r"^open::(fifo_nonblock_wronly|socket_error)$", "no special files"),
    (r"^link::", "no hard links: link gives EPERM"),
    (r"^rename::(preserve_metadata::regular|to_multiply_linked::regular)$", "they make hard links"),
    (r"^unlink::(unchanged_ctime_failed|update_ctime_success)::regular$", "they make hard links"),
    (r"^rename::updates_link_parent$", "a directory's link count is always 1"),
    (r"::enametoolong_path$", "object names end at 1,024 bytes, paths would at 4,096"),
)

PJDFSTEST_CONFIGURATION = """
[features]
posix_fallocate = {}
utimensat = {}
utime_now = {}
rename_ctime = {}
[settings]
naptime = 0.01
allow_remount = false
expected_failures = []
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"], ["bin", "bin"]]
"""


def tool(name):
    path = os.path.join(BINARIES, name)
    return path if os.path.exists(path) else None


class Conformance(ShoalTest):
    flags = ("--allow-other", "--upload-delay", "50ms")

    @unittest.skipUnless(tool("fsx"), "fsx is not installed: tools/install-conformance.sh")
    def test_fsx(self):
        config = os.path.join(self.directory, "fsx.toml")
        with open(config, "w") as file:
            file.write("flen = 2000000\n[opsize]\nmax = 300000\n")
        self.start()
        for seed in range(1, 5):
            run = subprocess.run(
                [tool("fsx"), "-f", config, "-N", "2500", "-S", str(seed), "-P", self.directory,
                 self.path(f"fsx{seed}")], capture_output=True, text=True, timeout=240)
            self.assertEqual(run.returncode, 0, f"seed {seed}:\n{run.stdout[-3000:]}")

    @unittest.skipUnless(tool("pjdfstest"), "pjdfstest is not installed: tools/install-conformance.sh")
    @unittest.skipIf(os.geteuid() != 0, "pjdfstest needs root to become other users")
    def test_pjdfstest(self):
        config = os.path.join(self.directory, "pjdfstest.toml")
        with open(config, "w") as file:
            file.write(PJDFSTEST_CONFIGURATION)
        os.chmod(self.directory, 0o755)
        self.start()
        os.mkdir(self.path("suite"))
        os.chmod(self.path("suite"), 0o777)
        run = subprocess.run([tool("pjdfstest"), "-c", config, "-p", self.path("suite")],
                             capture_output=True, text=True, timeout=400, cwd=self.directory)
        results = re.findall(r"^(\S+::\S+)\s+(ok|FAILED)$", run.stdout + run.stderr, re.M)
        passed = sum(1 for _, result in results if result == "ok")
        failed = [name for name, result in results if result == "FAILED"]
        unexpected = [name for name in failed
                      if not any(re.search(pattern, name) for pattern, _ in DEVIATIONS)]
        print(f"pjdfstest: {passed} passed, {len(failed) - len(unexpected)} deviate by design")
        self.assertEqual(unexpected, [])
        self.assertGreater(passed, 170, run.stdout[-2000:])


if __name__ == "__main__":
    main()
