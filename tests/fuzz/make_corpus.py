# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes seeds for the fuzzers: make_corpus.py GOLDEN_BYTES_H FOLDER. The golden frames go to protocol-seeds,
what an NBD server says to nbd-seeds, the texts that people write to text-seeds. Of the targets whose input is a
script that FuzzedDataProvider reads, the seeds are drawn, always the same, so that most of what a script does makes
sense: see Small and Maybe in check.h."""

import pathlib
import random
import re
import struct
import sys


def negotiation(structured):
    def reply(option, kind, data=b""):
        return struct.pack(">QIII", 0x3E889045565A9, option, kind, len(data)) + data

    return (
        b"NBDMAGICIHAVEOPT\0\3"
        + reply(8, 1 if structured else 0x80000001)
        + (reply(10, 4, struct.pack(">I", 7) + b"base:allocation") + reply(10, 1) if structured else b"")
        + reply(7, 3, struct.pack(">HQH", 0, 1 << 20, 0x16D))
        + reply(7, 3, struct.pack(">HIII", 3, 512, 4096, 1 << 25))
        + reply(7, 1)
    )


def nbd_seeds():
    """(name, bytes): the requests in flight have the cookies 1 << 24, 2 << 24 | 1, ..."""

    def cookie(slot):
        return (slot + 1) << 24 | slot

    def simple(slot, data=b"", error=0):
        return struct.pack(">IIQ", 0x67446698, error, cookie(slot)) + data

    def chunk(slot, kind, payload=b"", flags=0, name=None):
        return struct.pack(">IHHQI", 0x668E33EF, flags, kind, name or cookie(slot), len(payload)) + payload

    own = (1 << 64) - 2
    known = b"\x55" * 512
    known_simple = struct.pack(">IIQ", 0x67446698, 0, own) + known
    known_chunk = chunk(0, 1, struct.pack(">Q", 512) + known, 1, own)

    small, large = bytes(512), bytes(40960)
    replies = simple(0, small) + simple(2) + simple(3) + simple(1, large)
    chunks = (
        chunk(0, 1, struct.pack(">Q", 0) + small, 1)
        + chunk(1, 2, struct.pack(">QI", 4096, 4096))
        + chunk(1, 1, struct.pack(">Q", 8192) + large[4096:])
        + chunk(1, 0, b"", 1)
        + simple(2)
        + chunk(3, 0x8001, struct.pack(">IH", 5, 2) + b"no", 1)
        + chunk(4, 5, struct.pack(">7I", 7, 4096, 3, 1000, 0, 1 << 31, 2), 1)
    )
    for pace in range(4):
        yield f"simple-{pace}", bytes([pace << 3]) + negotiation(False) + replies
        yield f"structured-{pace}", bytes([pace << 3]) + negotiation(True) + chunks
        yield f"replies-{pace}", bytes([pace << 3 | 1]) + replies
        yield f"chunks-{pace}", bytes([pace << 3 | 3]) + chunks
        yield f"known-simple-{pace}", bytes([pace << 3 | 97]) + known_simple + replies + known_simple
        yield f"known-chunks-{pace}", bytes([pace << 3 | 99]) + known_chunk + chunks + known_chunk
        yield f"staged-{pace}", bytes([pace << 3 | 7]) + chunks


CONFIG, SERVER, BACKEND, ADDRESS, NUMBER, RECORD, TEXT = range(7)
UUID = "00112233-4455-6677-8899-aabbccddeeff"
TEXTS = {
    CONFIG: [
        'listen = ["tcp://127.0.0.1:9810", "unix:///run/s"]\nadmin = "unix:///run/a"\nthreads = 2\nlease = 10\n'
        'max-connections = 7\nmax-memory = "1G"\nlog-level = "info"\nstate-dir = "/var/lib/cloudblk"\n'
        '[volumes]\nd0 = "memory:?size=1G"\n"d 1" = "file:///d1.img"\n',
        '[[access]]\nuser = "root"\nvolumes = ["*"]\nrights = ["administer"]\n'
        '[[access]]\ngroup = 7\nvolumes = "a?"\nrights = "observe"\n'
        '[[access]]\nanyone = true\nvolumes = "*"\nrights = ["read", "write", "resize", "takeover"]\n',
        '[[access]]\ncertificate = "*.org"\nvolumes = "*"\nrights = "read"\n[[access]]\npsk = "a"\nvolumes = "b"\n',
        # Both were findings.
        "[=]\n",
        "\u00e9 = 1\n",
    ],
    SERVER: [
        "cloudblk://host:9810,[::1]:1,c/disk%20one",
        "cloudblk+unix:///disk?socket=/run/s",
        "nbd://host/export?noflush=accept&unflushed=lost&failover=unfenced&quarantine=5",
        "nbd+unix:///?socket=/run/nbd",
        "cloudblks://host/disk",
    ],
    BACKEND: [
        "memory:?size=1G&logical-block-size=4096",
        "file:///var/lib/d%30.img?size=20G&create=on&aio=io_uring",
        "rbd:///pool/namespace/image?conf=/etc/ceph.conf&id=admin",
    ],
    ADDRESS: ["tcp://127.0.0.1:9810", "tcp://[::1]:0", "unix:///run/s", "host:1", "[::1]", "tcp://:9810"],
    NUMBER: ["160M", "007", "1T", "18446744073709551615", "d0=memory:?size=1M", UUID],
    RECORD: [
        f"holder {UUID} 7 exclusive {UUID} a name\nspent {UUID} {UUID} {UUID}\n",
        f"holder {UUID} 7 share-rw - a\nholder {UUID} 1 read-only - b\n",
        f"last {UUID} 7 {UUID} -\nlast {UUID}\n",
    ],
    TEXT: ["a\tb\x1b[0m", "\u00e9\u20ac\U0001f600", "%41%00%zz"],
}


def text_seeds():
    for reader, texts in TEXTS.items():
        for number, text in enumerate(texts):
            yield f"{reader}-{number}", bytes([reader]) + text.encode()


# What was found with such a script, made as short as it goes, and mended.
FOUND = {
    "virtio": {
        # What a read has stored that fails and waits for the machine to go on was not marked for migration
        "kept-read": "b19dd942aaaaaaaaaaaaaaaa0600000000082bda34c50ab1aaaaaaaaaaaa06000000000000007895c1ac082bda34c50ab1",
    },
}


def found_seeds(target):
    for name, seed in FOUND.get(target, {}).items():
        yield name, bytes.fromhex(seed)


def drawn_seeds(target):
    draw = random.Random(target)
    for number in range(60):
        usual = draw.choice((0, 0.5, 0.8))
        length = draw.choice((100, 400, 1500))
        yield f"drawn-{number}", bytes(
            draw.randrange(192) if draw.random() < usual else draw.randrange(256) for _ in range(length)
        )


def write(folder, seeds):
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in seeds:
        (folder / name).write_bytes(seed)


def main() -> None:
    text = pathlib.Path(sys.argv[1]).read_text()
    folder = pathlib.Path(sys.argv[2]) / "protocol-seeds"
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in re.findall(r'k(\w+)\s*=((?:\s*"[0-9a-f]+")+);', text):
        limits = bytes([1 if "Crc" in name else 0])
        frame = bytes.fromhex("".join(re.findall(r'"([0-9a-f]+)"', body)))
        (folder / name).write_bytes(limits + frame)
    if not any(folder.iterdir()):
        sys.exit(f"no golden frames found in {sys.argv[1]}")
    root = pathlib.Path(sys.argv[2])
    write(root / "nbd-seeds", nbd_seeds())
    write(root / "text-seeds", text_seeds())
    for target in ("client", "proxy", "virtio", "tls"):
        write(root / f"{target}-seeds", drawn_seeds(target))
        write(root / f"{target}-seeds", found_seeds(target))


if __name__ == "__main__":
    main()
