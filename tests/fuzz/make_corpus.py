# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes the golden frames as seeds for protocol_fuzz: make_corpus.py GOLDEN_BYTES_H FOLDER."""

import pathlib
import re
import sys


def main() -> None:
    text = pathlib.Path(sys.argv[1]).read_text()
    folder = pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in re.findall(r'k(\w+)\s*=((?:\s*"[0-9a-f]+")+);', text):
        limits = bytes([1 if "Crc" in name else 0])
        frame = bytes.fromhex("".join(re.findall(r'"([0-9a-f]+)"', body)))
        (folder / name).write_bytes(limits + frame)
    if not any(folder.iterdir()):
        sys.exit(f"no golden frames found in {sys.argv[1]}")


if __name__ == "__main__":
    main()
