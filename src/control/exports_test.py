"""What libshoal.so shows and needs: the functions of shoal.h and libc, nothing else."""

import re
import subprocess
import sys


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main():
    library, abi, header, sanitizers = sys.argv[1:5]
    with open(header, encoding="utf-8") as file:
        text = re.sub(r"/\*.*?\*/", "", file.read(), flags=re.S)
    declared = set(re.findall(r"^[a-z].*?\b(shoal_\w+)\(", text, re.M))
    with open(abi, encoding="utf-8") as file:
        listed = set(re.findall(r"^\s+(shoal_\w+);", file.read(), re.M))
    lines = output("nm", "-D", "--defined-only", library).splitlines()
    shown = {line.split()[-1] for line in lines}
    assert len(declared) >= 10, declared
    assert listed == declared, f"shoal.h and the map differ: {listed ^ declared}"
    expected = {f"{name}@@SHOAL_1" for name in declared}
    assert shown == expected, f"wrong symbols: {sorted(shown ^ expected)}"
    dynamic = output("readelf", "-d", library)
    assert "Library soname: [libshoal.so.1]" in dynamic, dynamic
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic))
    if sanitizers:
        print("skipped: what it needs, since sanitizers bring their own")
    else:
        foreign = {name for name in needed if not re.match(r"(libc|libm|ld-linux[-\w]*)\.so\.", name)}
        assert not foreign, f"it needs {foreign}"


if __name__ == "__main__":
    main()
