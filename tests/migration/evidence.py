# SPDX-License-Identifier: GPL-2.0-or-later
"""What is left behind: the volume's content, and who owned it when."""

import array
import re

# Of tests/guest/agent/disk_load.cc
WORKERS, AREA, BLOCKS, STRIDE, UNIT = 8, 4 << 20, 61, 23, 16

BEGINS = re.compile(r"(?:active for|(claimed) by) (.+) \([^)]+\), session \w+ epoch (\d+)$")
ENDS = re.compile(r"(?:released by|: closed by|lost the last connection of) (.+) \([^)]+\)(?:;|$)")


def block_size(worker):
    return 4096 << worker % 5


def last_write(count, block):
    """The last of the first `count` writes that went to this block; 0 if none did."""
    writes = range(count, max(count - BLOCKS, 0), -1)
    return next((write for write in writes if write * STRIDE % BLOCKS == block), 0)


def block_content(worker, block, write):
    place = worker * AREA + block * block_size(worker)
    if not write:
        return bytes(block_size(worker))
    words = array.array("Q", bytes(block_size(worker)))
    words[0::2] = array.array("Q", range(place, place + block_size(worker), UNIT))
    words[1::2] = array.array("Q", [write]) * (block_size(worker) // UNIT)
    return words.tobytes()


def content(path):
    """The last write of each worker that the volume holds. Everything else must fit to it."""
    data = path.read_bytes()
    found = []
    for worker in range(WORKERS):
        size = block_size(worker)
        blocks = [data[at : at + size] for at in range(worker * AREA, worker * AREA + BLOCKS * size, size)]
        last = max(int.from_bytes(block[8:16], "little") for block in blocks)
        for number, block in enumerate(blocks):
            expected = last_write(last, number)
            assert block == block_content(worker, number, expected), (
                f"block {number} of worker {worker} is not of write {expected}, but the last is {last}"
            )
        found.append(last)
    return found


def timeline(log):
    """Who had the volume, as [(client, epoch)], from the proxy's log. Fails where two have it at a
    time, or where a claim does not raise the epoch."""
    owners, holder = [], None
    for line in log.splitlines():
        begins, ends = BEGINS.search(line), ENDS.search(line)
        if begins:
            claimed, client, epoch = begins.groups()
            assert holder is None, f"{holder} has the volume, and then: {line}"
            assert not claimed or int(epoch) > owners[-1][1], f"after epoch {owners[-1][1]}: {line}"
            holder = client
            owners.append((client, int(epoch)))
        elif ends and ends.group(1) == holder:
            holder = None
    return owners
