#!/usr/bin/env python3
"""Checks the rules of the house that a compiler does not know.

rooms    every #include goes to the room itself, a room it declares in DEPS, or one below those
world    base to node never reach outside but through `world`
readme   each room has a README of at most one page
ratchet  longer files and functions than the aim stand in tools/ratchet.txt and may only shrink

--update rewrites the ratchet list to what is there (it refuses growth; --accept-growth allows it).
Exit status: 0 clean, 1 findings, 2 usage.
"""

import argparse
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RATCHET = os.path.join(ROOT, "tools", "ratchet.txt")
FILE_LINES = 600
FUNCTION_LINES = 70
README_LINES = 60

# The rooms that see the outside through `world` only.
SEALED = ["base", "observe", "world", "async", "wire", "rpc", "placement", "store", "origin",
          "membership", "client", "node"]
# Every test may use these.
WORLDS = ["world_linux", "world_sim"]
FORBIDDEN = [
    (r"(?<![\w.>:])(clock_gettime|gettimeofday|srand|rand|getenv|usleep|nanosleep|fopen)\s*\(",
     "ask world instead of calling {0}()"),
    (r"(?<![\w>])::(open|openat|socket|read|write|pread|pwrite|stat|unlink|rename|sleep)\s*\(",
     "ask world instead of calling ::{0}()"),
    (r"(?<![\w.>:])(open)\s*\([^;]*\bO_(?:RDONLY|RDWR|WRONLY|CREAT)\b",
     "ask world instead of calling {0}()"),
    (r"\bstd::(thread|jthread|async|ifstream|ofstream|fstream|random_device|mt19937)\b",
     "std::{0} has no place below apps"),
    (r"\bstd::this_thread::(sleep_for|sleep_until)\b", "waiting is async/sync.h's, not {0}'s"),
    (r"\bstd::chrono::(system_clock|steady_clock|high_resolution_clock)::now\b",
     "time comes from the Executor, not from {0}"),
    (r"#include <(thread|fstream|random|sys/socket\.h|netinet/in\.h)>",
     "<{0}> has no place below apps"),
]


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def blank(match):
    """Replaces a piece of source by nothing but its line breaks."""
    return "\n" * match.group(0).count("\n")


def strip_source(text, keep_strings):
    """Takes comments and raw strings (and string literals) away; lines keep their numbers."""
    text = re.sub(r'R"(\w*)\(.*?\)\1"', lambda m: '""' + blank(m), text, flags=re.S)
    pattern = r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\''
    def one(match):
        piece = match.group(0)
        if piece.startswith("/"):
            return blank(match)
        return piece if keep_strings else piece[0] + piece[-1]
    return re.sub(pattern, one, text, flags=re.S)


def find_rooms():
    """room -> {"deps": [...], "test_deps": [...]}, from the add_room() declarations."""
    rooms = {}
    source = os.path.join(ROOT, "src")
    for room in sorted(os.listdir(source)):
        listing = os.path.join(source, room, "CMakeLists.txt")
        if not os.path.isfile(listing):
            continue
        text = re.sub(r"#[^\n]*", "", read(listing))
        match = re.search(r"add_room\(([^)]*)\)", text)
        if not match:
            continue
        words = match.group(1).split()
        lists, key = {}, None
        for word in words:
            if word in ("NAME", "SRCS", "TESTS", "DEPS", "LIBS", "TEST_DEPS", "TEST_LIBS"):
                key = word
                lists.setdefault(key, [])
            elif key:
                lists[key].append(word)
        rooms[room] = {"name": lists.get("NAME", [room])[0], "deps": lists.get("DEPS", []),
                       "test_deps": lists.get("TEST_DEPS", [])}
    return rooms


def room_order():
    text = read(os.path.join(ROOT, "CMakeLists.txt"))
    match = re.search(r"foreach\(room ([^)]*)\)", text)
    return match.group(1).split() if match else []


def reachable(rooms, direct):
    seen, waiting = set(), list(direct)
    while waiting:
        room = waiting.pop()
        if room in seen:
            continue
        seen.add(room)
        waiting.extend(rooms.get(room, {}).get("deps", []))
    return seen


def sources(folder):
    for directory, folders, names in os.walk(os.path.join(ROOT, folder)):
        folders[:] = sorted(f for f in folders if not f.endswith("_corpus"))
        for name in sorted(names):
            if name.endswith((".cc", ".h")):
                yield os.path.relpath(os.path.join(directory, name), ROOT)


def is_test(path):
    return bool(re.search(r"(_test|_fuzz|_bench|_compare|_model|test_support)\w*\.(cc|h)$", path)) or "/test" in path


def check_rooms(findings):
    rooms, order = find_rooms(), room_order()
    for room, facts in rooms.items():
        listing = f"src/{room}/CMakeLists.txt"
        if facts["name"] != room:
            findings.append(f"{listing}: the room is called {facts['name']}, its folder {room}")
        for dep in facts["deps"]:
            if dep not in rooms:
                findings.append(f"{listing}: DEPS names {dep}, which is no room")
            elif order and room in order and order.index(dep) >= order.index(room):
                findings.append(f"{listing}: {dep} is not below {room}")
        allowed = reachable(rooms, facts["deps"]) | {room}
        for path in sources(f"src/{room}"):
            extra = reachable(rooms, facts["test_deps"] + WORLDS) if is_test(path) else set()
            check_includes(path, room, rooms, allowed | extra, findings)


def check_includes(path, room, rooms, allowed, findings):
    for number, line in enumerate(read(os.path.join(ROOT, path)).splitlines(), 1):
        match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if not match:
            continue
        target = match.group(1)
        other = target.split("/")[0]
        where = f"{path}:{number}"
        if other not in rooms:
            findings.append(f'{where}: "{target}" is in no room; include by room, "room/file.h"')
        elif other not in allowed:
            findings.append(f"{where}: {room} may not include {other}; it is not among its DEPS")
        elif other != room and "/internal/" in target and not is_test(path):
            findings.append(f"{where}: {target} is internal to {other}")


def check_world(findings):
    for room in SEALED:
        for path in sources(f"src/{room}"):
            if is_test(path):
                continue
            text = strip_source(read(os.path.join(ROOT, path)), keep_strings=False)
            for pattern, message in FORBIDDEN:
                for match in re.finditer(pattern, text):
                    line = text.count("\n", 0, match.start()) + 1
                    findings.append(f"{path}:{line}: {message.format(match.group(1))}")


def check_readmes(findings):
    for room in find_rooms():
        path = os.path.join(ROOT, "src", room, "README.md")
        if not os.path.isfile(path):
            findings.append(f"src/{room}: has no README.md")
        elif len(read(path).splitlines()) > README_LINES:
            findings.append(f"src/{room}/README.md: is longer than a page ({README_LINES} lines)")


def functions(text):
    """(name, first line, length) of each function, by the layout that clang-format gives."""
    lines = strip_source(text, keep_strings=True).split("\n")
    found, spans = [], []
    for indent in ("", "  "):
        start = None
        for number, line in enumerate(lines):
            if line == indent + "}" and start is not None:
                inside = any(a <= number <= b for a, b in spans)
                head = " ".join(part.strip() for part in lines[start:start + 4])
                match = re.search(r"([~\w:]+)\s*\(", head)
                if match and not inside and not re.match(r"(namespace|enum|extern)\b", head):
                    found.append((match.group(1), start, number - start + 1))
                    if indent == "":
                        spans.append((start, number))
                start = None
            elif line.startswith(indent) and re.match(r"[^\s#})/]", line[len(indent):] or " "):
                start = number
    return found


def long_places():
    places = {}
    for folder in ("src", "bench", "tests"):
        if not os.path.isdir(os.path.join(ROOT, folder)):
            continue
        for path in sources(folder):
            text = read(os.path.join(ROOT, path))
            lines = text.count("\n")
            if lines > FILE_LINES:
                places[path] = lines
            for name, _, length in functions(text):
                if length > FUNCTION_LINES:
                    key = f"{path}:{name}"
                    places[key] = max(places.get(key, 0), length)
    return places


def load_ratchet():
    listed = {}
    if os.path.isfile(RATCHET):
        for line in read(RATCHET).splitlines():
            if line.strip() and not line.startswith("#"):
                place, size = line.rsplit(None, 1)
                listed[place] = int(size)
    return listed


def check_ratchet(findings):
    places, listed = long_places(), load_ratchet()
    aim = f"(the aim is {FILE_LINES} for files, {FUNCTION_LINES} for functions)"
    for place, size in sorted(places.items()):
        if place not in listed:
            findings.append(f"{place}: {size} lines {aim}; split it, or argue for a line in "
                            "tools/ratchet.txt")
        elif size > listed[place]:
            findings.append(f"{place}: grew to {size} lines; tools/ratchet.txt allows "
                            f"{listed[place]} and may only shrink")
    for place in sorted(set(listed) - set(places)):
        findings.append(f"tools/ratchet.txt: {place} is not too long any more; take the line out")


def update_ratchet(accept_growth):
    places, listed = long_places(), load_ratchet()
    grown = [p for p in places if places[p] > listed.get(p, 0 if accept_growth else -1)
             and p in listed]
    new = [p for p in places if p not in listed]
    if (grown or new) and listed and not accept_growth:
        for place in sorted(grown + new):
            print(f"{place}: {places[place]} lines is growth; split it, or --accept-growth")
        return 1
    with open(RATCHET, "w", encoding="utf-8") as file:
        file.write("# Places that are longer than STYLE aims at, with their lines. They may only "
                   "shrink.\n# tools/check_style.py --update keeps the list.\n")
        for place, size in sorted(places.items()):
            file.write(f"{place} {size}\n")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="rewrite the ratchet list")
    parser.add_argument("--accept-growth", action="store_true", help="with --update")
    arguments = parser.parse_args()
    if arguments.update:
        return update_ratchet(arguments.accept_growth)
    findings = []
    check_rooms(findings)
    check_world(findings)
    check_readmes(findings)
    check_ratchet(findings)
    for finding in findings:
        print(finding)
    print(f"style: {len(findings)} findings" if findings else "style: clean")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
