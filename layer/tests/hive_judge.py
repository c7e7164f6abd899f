"""Independent readers of registry hives, all with one output, and a foreign writer.

    hive_judge.py hivex|libregf|reglookup FILE      what the reader sees, a line for every key and value
    hive_judge.py make FILE                         changes a hive with hivex

Debian packages: python3-hivex, python3-libregf, reglookup. A missing one is a failure.
"""

import hashlib
import subprocess
import sys


def shown(name):
    """A name with everything but plain ASCII as UTF-16 code units, and no backslash that is not ours."""
    units = name.encode("utf-16-le", "surrogatepass")
    units = [int.from_bytes(units[at : at + 2], "little") for at in range(0, len(units), 2)]
    plain = lambda unit: 0x20 < unit < 0x7F and unit not in b"\\%"
    return "".join(chr(unit) if plain(unit) else f"%{unit:04x}" for unit in units)


def value_line(path, name, kind, data):
    digest = hashlib.sha256(data).hexdigest()[:16]
    print(f"value {path} {shown(name)!r} {kind:#x} {len(data)} {digest}")


def hivex_dump(file):
    import hivex

    hive = hivex.Hivex(file)
    pending = [(hive.root(), "\\")]
    while pending:
        node, path = pending.pop()
        print(f"key {path} {hive.node_timestamp(node)}")
        for value in hive.node_values(node):
            kind, data = hive.value_value(value)
            value_line(path, hive.value_key(value), kind & 0xFFFFFFFF, data)
        children = hive.node_children(node)
        pending += [(child, path + shown(hive.node_name(child)) + "\\") for child in reversed(children)]


def libregf_dump(file):
    import pyregf

    hive = pyregf.file()
    hive.open(file)
    if hive.is_corrupted():
        sys.exit("libregf takes the hive for corrupt")
    pending = [(hive.get_root_key(), "\\")]
    while pending:
        key, path = pending.pop()
        print(f"key {path} {key.get_last_written_time_as_integer()} {shown(key.class_name or '')!r}")
        for index in range(key.number_of_values):
            value = key.get_value(index)
            name, kind, data = value.name or "", value.type & 0xFFFFFFFF, value.data or b""
            # Version 20201007 gives strings another end than they have, and takes the wrong bytes of the four where
            # one to three lie; three other readers agree on those.
            if kind in (1, 2, 6, 7) or len(data) < 4:
                print(f"value {path} {shown(name)!r} {kind:#x}")
            else:
                value_line(path, name, kind, data)
        children = [key.get_sub_key(index) for index in range(key.number_of_sub_keys)]
        pending += [(child, path + shown(child.name) + "\\") for child in reversed(children)]


def reglookup_dump(file):
    """Keys with their owners and classes: no other reader looks into descriptors."""
    run = subprocess.run(
        ["reglookup", "-s", "-H", "-t", "KEY", file],
        capture_output=True,
        check=False,
    )
    # It prints in the locale's character set, which it takes for ASCII mostly.
    names = "WARN: Error occurred while converting key name to encoding"
    warnings = [line for line in run.stderr.decode().splitlines() if not line.startswith(names)]
    if run.returncode or any(warnings):
        sys.exit(f"reglookup: {warnings[:20]}")
    for line in run.stdout.decode("ascii").splitlines():
        path, _kind, _value, _time, owner, group, _sacl, dacl, name = line.split(",")
        print(f"key {path} {owner} {group} {len(dacl.split('|'))} {name}")


def make(file):
    """A hive as another writer leaves it: slack in cells, one long list, a long value in one cell."""
    import hivex

    hive = hivex.Hivex(file, write=True)
    root = hive.root()
    base = hive.node_add_child(root, "Base")
    hive.node_set_values(
        base,
        [
            {"key": "", "t": 1, "value": "default\0".encode("utf-16-le")},
            {"key": "kept", "t": 4, "value": b"\1\2\3\4"},
            {"key": "Changed", "t": 3, "value": b"before"},
            {"key": "deleted", "t": 7, "value": b""},
            {"key": "long", "t": 3, "value": bytes(range(256)) * 100},
        ],
    )
    many = hive.node_add_child(base, "Many")
    for number in range(600):
        hive.node_add_child(many, f"Key {number}")
    gone = hive.node_add_child(base, "Gone")
    hive.node_add_child(gone, "Below")
    again = hive.node_add_child(base, "Again")
    hive.node_set_value(again, {"key": "old", "t": 3, "value": b"old"})
    hive.node_add_child(again, "Below")
    hive.node_add_child(base, "Größe 日本")
    hive.commit(None)


if __name__ == "__main__":
    verb, file = sys.argv[1:]
    {"hivex": hivex_dump, "libregf": libregf_dump, "reglookup": reglookup_dump, "make": make}[verb](file)
