#!/usr/bin/env python3
"""Black-box tests of the command line: exit status and messages. Needs no mount and no network.

Usage: cli_test.py SHOAL_BINARY
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest

SHOAL = ""


class CommandLine(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory(prefix="shoal-cli-")
        self.addCleanup(self.directory.cleanup)
        self.environment = {k: v for k, v in os.environ.items()
                            if not k.startswith(("SHOAL_", "AZURE_"))}
        # No node of this machine is to be seen.
        runtime = self.path("runtime")
        os.mkdir(runtime, 0o700)
        self.environment["XDG_RUNTIME_DIR"] = runtime

    def path(self, name):
        return os.path.join(self.directory.name, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        return self.path(name)

    def shoal(self, *arguments, **environment):
        return subprocess.run([SHOAL, *arguments], env={**self.environment, **environment},
                              capture_output=True, text=True, timeout=60, check=False)

    def refused(self, status, message, *arguments, **environment):
        done = self.shoal(*arguments, **environment)
        self.assertEqual(done.returncode, status, done)
        self.assertIn(message, done.stderr)
        self.assertTrue(done.stderr.startswith("shoal: "), done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, "one line: " + done.stderr)
        return done

    def test_usage_errors_name_the_nearest_word(self):
        self.refused(2, "a command is missing")
        self.refused(2, "did you mean mount?", "moutn")
        self.refused(2, "did you mean --cache-dir?", "mount", "/a", "/b", "--cache-dri", "/x")
        self.refused(2, "origin is required", "mount")
        self.refused(2, "does not take \"b\"", "status", "a", "b")
        self.refused(2, "not a duration", "sync", "/tmp", "--timeout", "soon")

    def test_secrets_are_no_flags(self):
        for flag in ("--account-key", "--sas", "--sas-token", "--password"):
            self.refused(2, flag, "mount", "az://a/b", "/mnt", flag, "c2VjcmV0")

    def test_help_is_on_stdout_and_complete(self):
        top = self.shoal("--help")
        self.assertEqual(top.returncode, 0)
        for command in ("mount", "serve", "unmount", "status", "warm", "sync", "pin", "unpin",
                        "evict", "publish", "scrub", "doctor", "completion", "version"):
            self.assertIn(f"\n  {command} ", top.stdout)
            one = self.shoal(command, "--help")
            self.assertEqual(one.returncode, 0, one)
            self.assertIn(f"Usage: shoal {command}", one.stdout)
        mount = self.shoal("mount", "--help").stdout
        for text in ("Examples:", "default: 5s", "SHOAL_CACHE_DIR", "--no-passthrough", "Origin:"):
            self.assertIn(text, mount)
        self.assertNotIn("blob-stub", top.stdout)

    def test_flags_of_the_mount_are_no_flags_of_serve(self):
        self.refused(2, "shoal serve knows no --uid", "serve", "/a", "--uid", "1")

    def test_configuration_errors_name_line_and_key(self):
        config = self.write("a.toml", "attr-ttl = \"5s\"\n\ncach-dir = \"/x\"\n")
        self.refused(2, f"{config}:3: unknown key \"cach-dir\"; did you mean \"cache-dir\"?",
                     "mount", "/a", self.directory.name, "--config", config)
        config = self.write("b.toml", "read-only = \"maybe\"\n")
        self.refused(2, ":1: read-only must be true or false", "mount", "/a", self.directory.name,
                     SHOAL_CONFIG=config)
        self.refused(1, "/nowhere.toml", "mount", "/a", self.directory.name, "--config",
                     "/nowhere.toml")

    def test_values_are_checked_before_anything_happens(self):
        self.refused(2, "SHOAL_ACK: \"never\" is not offered", "mount", "/a", self.directory.name,
                     SHOAL_ACK="never")
        self.refused(2, "--cache-size: ", "mount", "/a", self.directory.name, "--cache-size", "big")

    def test_a_missing_mountpoint_is_told(self):
        missing = self.path("missing")
        self.refused(1, f"{missing} does not exist; make it first", "mount", self.directory.name,
                     missing)

    def test_an_origin_that_cannot_be_is_told(self):
        mount = self.path("mnt")
        os.mkdir(mount)
        self.refused(2, "", "mount", "ftp://x/y", mount)
        done = self.shoal("serve", self.path("absent"), "--foreground", "--http", "off",
                          "--cache-dir", self.path("cache"), "--cache-size", "128MiB",
                          "--log-file", self.path("log"))
        self.assertEqual(done.returncode, 1, done)
        self.assertIn(self.path("absent"), done.stderr)

    def test_without_a_node_the_next_step_is_told(self):
        if os.geteuid() == 0:
            self.skipTest("root has /run/shoal, where nodes of this machine may be seen")
        self.refused(1, "start one with shoal mount", "status")

    def test_a_path_in_no_mount_is_told(self):
        self.refused(1, "is not in a Shoal mount", "sync", self.directory.name)
        self.refused(1, "does not answer", "status", "--at", "127.0.0.1:1")

    def test_completion_scripts_are_scripts(self):
        script = self.shoal("completion", "bash")
        self.assertEqual(script.returncode, 0)
        checked = subprocess.run(["bash", "-n"], input=script.stdout, text=True, timeout=30,
                                 capture_output=True, check=False)
        self.assertEqual(checked.returncode, 0, checked.stderr)
        words = subprocess.run(
            ["bash", "-c", script.stdout + "\nCOMP_WORDS=(shoal mount --cache-s); COMP_CWORD=2\n"
             "_shoal; echo ${COMPREPLY[@]}"], text=True, timeout=30, capture_output=True,
            check=True)
        self.assertEqual(words.stdout.strip(), "--cache-size")
        self.refused(2, "shell", "completion", "tcsh")

    def test_doctor_judges_a_directory(self):
        origin = self.path("origin")
        os.mkdir(origin)
        done = self.shoal("doctor", origin, "--json", "--cache-dir", self.path("cache"))
        facts = {f["check"]: f for f in json.loads(done.stdout)["findings"]}
        self.assertEqual(facts["origin: read"]["verdict"], "ok", facts)
        self.assertEqual(facts["origin: write"]["verdict"], "ok", facts)
        self.assertFalse(os.path.exists(self.path("cache")), "doctor leaves nothing behind")
        done = self.shoal("doctor", self.path("absent"))
        self.assertEqual(done.returncode, 1, done)
        self.assertRegex(done.stdout, r"fail +origin: read .*absent")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: cli_test.py SHOAL_BINARY")
    SHOAL = os.path.abspath(sys.argv.pop(1))
    unittest.main()
