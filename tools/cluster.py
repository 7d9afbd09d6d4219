#!/usr/bin/env python3
"""Many real nodes on one machine, each in a network namespace of its own.

    sudo tools/cluster.py --nodes 8 --mbit 500      # brings them up, prints where they are, and
                                                    # takes commands until the end of the input
As a module (tests/system/cluster_test.py):

    with Lab(places=9, mbit=500) as lab:
        lab.start(count=8, cluster="test")
        lab.node(3).kill9()

The work is done by `shoal lab` (bench/cluster), which the benchmarks use too: this file only speaks
its lines of JSON. When the lab ends, however it ends, its processes, namespaces, mounts and addresses
are gone; only after kill -9 of the lab its work directory stays.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHOAL = os.environ.get("TEST_SHOAL", os.path.join(ROOT, "build/release/shoal"))
SKIP = 77


class LabError(Exception):
    """A command that failed; the message is the lab's."""


class LabImpossible(LabError):
    """No namespaces here: not root, or a container that may not."""


class Node:
    """One node by its place. Its files are seen through path(), whatever mounts this process has."""

    def __init__(self, lab, place):
        self.lab, self.place = lab, place

    def ask(self, what, **more):
        return self.lab.ask(what, node=self.place, **more)

    def begin(self, **choice):
        """Starts without waiting: mount, cluster, cache_size, flags, origin, cache."""
        return self.ask("begin", **choice)

    def ready(self, seconds=60):
        return self.ask("ready", seconds=seconds)

    def start(self, **choice):
        self.begin(**choice)
        return self.ready()

    def restart(self):
        """The same daemon with the same cache, after kill9() or stop()."""
        return self.ask("again")

    def stop(self):
        return self.ask("stop")

    def kill9(self):
        return self.ask("kill9")

    def freeze(self, frozen=True):
        return self.ask("freeze", frozen=frozen)

    def status(self):
        return self.ask("status")

    def own(self):
        """The part of the status that is about this node alone."""
        status = self.status()
        return status["nodes"][status["self"]]

    def usage(self):
        """cpu_seconds and rss_bytes of the daemon."""
        return self.ask("usage")

    def limit(self, mbit):
        return self.ask("limit", mbit=mbit)

    def plug(self, plugged=True):
        """Pulls its network cable, or puts it back."""
        return self.ask("plug", **{"in": plugged})

    def shoal(self, *words, seconds=60):
        """`shoal WORDS...` beside the daemon: (exit status, output)."""
        answer = self.ask("shoal", argv=list(words), seconds=seconds)
        return answer["status"], answer["output"]

    def run(self, *argv, seconds=60):
        """Any program in its network namespace: (exit status, output)."""
        return self.lab.run(*argv, node=self.place, seconds=seconds)

    @property
    def host(self):
        return self.lab.addresses[self.place]

    @property
    def mountpoint(self):
        return f"{self.lab.work}/n{self.place}/mnt"

    def path(self, *names):
        return self.lab.path(self.mountpoint, *names)

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def log(self):
        try:
            with open(f"{self.lab.work}/n{self.place}/log", "rb") as file:
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""


class Lab:
    """The process that holds the namespaces. Its stub of Blob Storage is the nodes' origin."""

    def __init__(self, places=8, mbit=0, loopback=False, directory=None, shoal=None):
        command = [shoal or SHOAL, "lab", "--places", str(places), "--mbit", str(mbit)]
        command += ["--loopback"] if loopback else []
        command += ["--dir", directory] if directory else []
        self.lock = threading.Lock()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line:
            reason = self.process.stderr.read().strip()
            status = self.process.wait()
            raise (LabImpossible if status == SKIP else LabError)(reason)
        facts = json.loads(line)
        self.pid, self.work, self.hub = facts["pid"], facts["work"], facts["hub"]
        self.origin, self.addresses = facts["origin"], facts["addresses"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Ends everything that was started in it."""
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        if self.process.poll() is None:
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()

    def ask(self, what, **more):
        with self.lock:
            try:
                self.process.stdin.write(json.dumps({"do": what, **more}) + "\n")
                self.process.stdin.flush()
                line = self.process.stdout.readline()
            except BrokenPipeError:
                line = ""
        if not line:
            raise LabError("the lab ended: " + self.process.stderr.read().strip())
        answer = json.loads(line)
        if not answer["ok"]:
            raise LabError(answer["error"])
        return answer["answer"]

    def start(self, first=0, count=1, **choice):
        """Nodes in the places from `first` on, all at once; waits until each is ready."""
        self.ask("start", first=first, count=count, **choice)
        return [self.node(place) for place in range(first, first + count)]

    def node(self, place):
        return Node(self, place)

    def run(self, *argv, node=None, seconds=60):
        answer = self.ask("run", argv=list(argv), node=node, seconds=seconds)
        return answer["status"], answer["output"]

    def spawn(self, name, *argv, node=None):
        return self.ask("spawn", name=name, argv=list(argv), node=node)

    def signal(self, name, number, wait=True):
        return self.ask("signal", name=name, signal=number, wait=wait)

    def read(self, nodes, name, size, seed=1):
        """Whole, through the mounts of these nodes at the same moment; every byte is compared with
        the synthetic ones. [{seconds, error}] in the order of the nodes; error is "" if all is well."""
        return self.ask("read", nodes=list(nodes), object=name, size=size, seed=seed)

    def begin_load(self, nodes, name, size, seed=1):
        """Small random reads, compared, by a process of the lab's until end_load()."""
        self.ask("load", nodes=list(nodes), object=name, size=size, seed=seed)

    def end_load(self):
        """{reads, errors, longest_seconds, first_error}"""
        return self.ask("load_end")

    def python(self, script, *arguments, node=None, seconds=60):
        """Runs Python in a namespace (the hub's without a node); its output. For raw sockets."""
        status, output = self.run(sys.executable, "-c", script, *arguments, node=node,
                                  seconds=seconds)
        if status != 0:
            raise LabError(output)
        return output

    def path(self, *names):
        """A path in the lab's mount namespace, as seen from here."""
        return f"/proc/{self.pid}/root" + os.path.join(*names)

    # --- the origin ---

    def put(self, name, content):
        """An object with these bytes, not by way of a node."""
        script = ("import sys, urllib.request as u; u.urlopen(u.Request(sys.argv[1], "
                  "bytes.fromhex(sys.argv[2]), {'x-ms-blob-type': 'BlockBlob', "
                  "'x-ms-version': '2021-12-02'}, method='PUT'))")
        self.python(script, f"{self.origin}/{name}", content.hex())

    def get(self, name):
        script = ("import sys, urllib.request as u; print(u.urlopen(u.Request(sys.argv[1], "
                  "headers={'x-ms-version': '2021-12-02'})).read().hex())")
        return bytes.fromhex(self.python(script, f"{self.origin}/{name}").strip())

    def add(self, name, size, seed=1, count=None):
        body = {"container": "bench", "name": name, "size": size, "seed": seed}
        self.ask("stub", method="POST", path="/__stub/blobs",
                 body=body if count is None else {**body, "count": count})

    def origin_stats(self):
        return self.ask("stub")

    def origin_gets(self, name):
        gets = self.origin_stats()["gets"]
        return sum(n for key, n in gets.items() if key == name or key.endswith("/" + name))

    def reset_origin_stats(self):
        self.ask("stub", method="POST", path="/__stub/stats/reset", body={})

    def faults(self, **faults):
        self.ask("stub", method="POST", path="/__stub/faults", body=faults)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--places", type=int, help="namespaces; more than nodes leaves room to grow")
    parser.add_argument("--mbit", type=float, default=0, help="limit of each link; 0: none")
    parser.add_argument("--cluster", default="lab", help="'' : each node by itself")
    parser.add_argument("--serve", action="store_true", help="without mounts")
    parser.add_argument("--flag", action="append", default=[], help="for every node, --flag=--ack=..")
    parser.add_argument("--shoal", default=SHOAL)
    return parser.parse_args()


HELP = """commands: kill N | again N | stop N | start N | plug N | unplug N | status N | quit
or N COMMAND...: runs a program in that node's namespace; blob NAME SIZE: a new object"""


def obey(lab, arguments, words):
    verbs = {"kill": "kill9", "again": "restart", "stop": "stop", "status": "own"}
    if words[0] in verbs:
        print(json.dumps(getattr(lab.node(int(words[1])), verbs[words[0]])()))
    elif words[0] in ("plug", "unplug"):
        lab.node(int(words[1])).plug(words[0] == "plug")
    elif words[0] == "start":
        lab.node(int(words[1])).start(cluster=arguments.cluster, mount=not arguments.serve,
                                      flags=arguments.flag)
    elif words[0] == "blob":
        lab.add(words[1], int(words[2]))
    elif words[0].isdigit():
        print(lab.run(*words[1:], node=int(words[0]))[1], end="")
    else:
        print(HELP)


def main():
    arguments = parse_arguments()
    try:
        lab = Lab(max(arguments.nodes, arguments.places or 0), arguments.mbit,
                  shoal=arguments.shoal)
    except LabImpossible as error:
        print(f"cluster: {error}", file=sys.stderr)
        return SKIP
    with lab:
        try:
            lab.start(count=arguments.nodes, cluster=arguments.cluster,
                      mount=not arguments.serve, flags=arguments.flag)
        except LabError as error:
            print(f"cluster: {error}", file=sys.stderr)
            return 1
        for place in range(arguments.nodes):
            print(f"{place}: {lab.addresses[place]}  {lab.node(place).path()}")
        print(f"origin: {lab.origin}\n{HELP}")
        for line in sys.stdin:
            words = shlex.split(line)
            if words and words[0] == "quit":
                break
            try:
                if words:
                    obey(lab, arguments, words)
            except (LabError, IndexError, ValueError) as error:
                print(f"cluster: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
