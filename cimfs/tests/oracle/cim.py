#!/usr/bin/env python3
"""Dumps a CIM, one JSON object a line, from what is publicly known of the format.

An oracle for the tests of the crate `cimfs`: written from the description of the format alone, and in another
shape than the crate's reader, so that both have to be wrong in the same way to agree. It trusts its input.

usage: cim.py DIRECTORY NAME.cim
"""

import os
import struct
import sys
import uuid


class Space:
    """The regions of an image, the parents' first, as one space of 64-bit offsets."""

    def __init__(self, directory, sets):
        self.blobs = []
        for ident, count in sets:
            for i in range(count):
                with open(os.path.join(directory, "region_%s_%d" % (ident, i)), "rb") as file:
                    blob = file.read()
                assert blob[:8] == b"cimfile0" and blob[12] == 1, "not a region file"
                self.blobs.append(blob)

    def cut(self, offset, length):
        region, start = offset >> 48, offset & 0xFFFFFFFFFFFF
        assert start >= 40, "in a header"
        piece = self.blobs[region][start:start + length]
        assert len(piece) == length, "past the end of region %d" % region
        return piece

    def ints(self, offset, form):
        return struct.unpack("<" + form, self.cut(offset, struct.calcsize("<" + form)))

    def counted(self, offset):
        (length,) = self.ints(offset, "H")
        return self.cut(offset + 2, length)


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def load(space, offset, packed):
    """All bytes of a stream."""
    length, kind, sparse = packed & 0xFFFFFFFFFFFF, packed >> 48 & 0xFF, packed >> 56 & 1
    assert packed >> 57 == 0, "unknown bits"
    if length == 0:
        return b""
    if sparse:
        return bytes(length)
    if kind == 0:
        return space.cut(offset, length)
    assert kind == 2, "unknown kind of stream"
    base, end, _, count, _ = space.ints(offset, "QQIHH")
    moves = [space.ints(offset + 24 + 8 * i, "II") for i in range(count)]
    # Which delta counts is asked for every byte at which it can change.
    edges = sorted({0, length} | {at for at, _ in moves if at < length})
    assert end & (1 << 63) - 1 >= length
    out = b""
    for low, high in zip(edges, edges[1:]):
        delta = ([0] + [d for at, d in moves if at <= low])[-1]
        out += space.cut(base + low + delta, high - low)
    return out


def links(table, width):
    """(name as code units, raw value) for each link of a table given as bytes."""
    size, count = struct.unpack_from("<II", table)
    assert 8 <= size <= len(table) and 8 + count * (width + 4) <= size
    for i in range(count):
        value = table[8 + i * width:8 + (i + 1) * width]
        (at,) = struct.unpack_from("<I", table, 8 + count * width + 4 * i)
        (units,) = struct.unpack_from("<H", table, at)
        assert at + 2 + 2 * units <= size
        yield struct.unpack_from("<%dH" % units, table, at + 2), value


def stream_links(space, offset):
    """A table of alternate streams in either of the two framings that it may have."""
    first, second = space.ints(offset, "II")
    if second <= (first - 8) // 24:
        return list(links(space.cut(offset, first), 16))
    return list(links(space.cut(offset + 4, first), 16))


def quote(units):
    return '"' + "".join(
        chr(u) if 0x21 <= u <= 0x7E and u not in (0x22, 0x5C) else "\\u%04x" % u for u in units
    ) + '"'


def ea_list(blob):
    at, more = 0, len(blob) > 0
    while more:
        step, flags, name, value = struct.unpack_from("<IBBH", blob, at)
        name_at = at + 8
        value_at = name_at + name + 1
        yield '[%d,"%s","%s"]' % (
            flags, blob[name_at:name_at + name].hex(), blob[value_at:value_at + value].hex())
        at, more = at + step, step != 0


class Cim:
    def __init__(self, directory, name):
        with open(os.path.join(directory, name), "rb") as file:
            head = file.read()
        assert head[:8] == b"cimfile0" and head[12] == 0, "not a filesystem file"
        (self.major,) = struct.unpack_from("<I", head, 16)
        assert self.major in (1, 2, 3)
        filesystem, _, _, parents = struct.unpack_from("<QIHH", head, 56)
        assert len(head) == 72 + 24 * parents
        places = [72 + 24 * i for i in range(parents)] + [32]
        sets = [(str(uuid.UUID(bytes_le=head[p:p + 16])), struct.unpack_from("<H", head, p + 16)[0])
                for p in places]
        self.space = Space(directory, sets)
        self.upcase_at, tables, count, self.root = self.space.ints(filesystem, "QQII")
        self.upcase = self.space.ints(self.upcase_at, "65536H")
        self.tables = [self.space.ints(tables + 16 * i, "QHHI") for i in range(count)]

    def entry(self, number):
        offset, count, size, _ = self.tables[(number - 1) // 1024]
        slot = (number - 1) % 1024
        assert slot < count
        raw = self.space.cut(offset + slot * size, size)[:96].ljust(96, b"\0")
        return struct.unpack("<HHI4Q2Q4QIHH", raw)

    def lines(self):
        todo = [((), self.root)]
        while todo:
            path, number = todo.pop()
            (flags, ea_length, tag, *rest) = self.entry(number)
            times, (start, packed), (security, eas, reparse, streams), (_, base, _) = (
                rest[:4], rest[4:6], rest[6:10], rest[10:])
            assert base == 0
            space = self.space
            directory = packed >> 48 & 0xFF == 1
            attributes = sum(win for bit, win in ((1, 1), (2, 2), (4, 4), (8, 32), (16, 512)) if flags & bit)
            attributes |= (16 if directory else 0) | (1024 if reparse else 0)
            if directory:
                data = '"directory"'
                length = packed & 0xFFFFFFFFFFFF
                names = list(links(space.cut(start, length), 4)) if length else []
                keys = [[self.upcase[u] for u in name] for name, _ in names]
                assert keys == sorted(keys) and len({tuple(k) for k in keys}) == len(keys), "order"
                todo += [(path + (name,), struct.unpack("<I", raw)[0]) for name, raw in reversed(names)]
            else:
                data = self.shown(start, packed)
            more = []
            if streams:
                for name, raw in stream_links(space, streams):
                    more.append("[%s,%s]" % (quote(name), self.shown(*struct.unpack("<QQ", raw))))
            buffer = space.counted(reparse) if reparse else None
            assert tag == (struct.unpack_from("<I", buffer)[0] if buffer else 0)
            yield '{"path":[%s],"id":%d,"attributes":%d,"times":[%s],"data":%s,"security":%s,"reparse":%s,"eas":[%s],"streams":[%s]}' % (
                ",".join(map(quote, path)), number, attributes or 128, ",".join(map(str, times)), data,
                '"%s"' % space.counted(security).hex() if security else "null",
                '"%s"' % buffer.hex() if buffer is not None else "null",
                ",".join(ea_list(space.cut(eas, ea_length) if ea_length else b"")), ",".join(more))

    def shown(self, start, packed):
        data = load(self.space, start, packed)
        return '[%d,"%016x"]' % (len(data), fnv(data))


def main():
    directory, name = sys.argv[1:]
    for line in Cim(directory, name).lines():
        print(line)


main()
