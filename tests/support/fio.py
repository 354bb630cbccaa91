# SPDX-License-Identifier: GPL-2.0-or-later
"""What fio is told in a guest, to load /dev/vda and to verify it."""

# Writes of every length, then reads all of it.
VERIFY = (
    "fio --name=verify --filename=/dev/vda --rw=randwrite --bsrange=512-1m --bs_unaligned=0 --blockalign=512"
    " --direct=1 --ioengine=libaio --iodepth=32 --numjobs=2 --size=48m --offset_increment=64m --verify=crc32c"
    " --verify_fatal=1 --random_generator=tausworthe64 --group_reporting"
)

# Writes and reads back what it wrote all the time, slowly enough to outlast what the test does, and says
# every second how much it has done: terse version 3, in which field 6 counts read KiB, 47 written.
LOAD = (
    "fio --name=load --filename=/dev/vda --rw=randwrite --bsrange=4k-64k --direct=1 --ioengine=libaio"
    " --iodepth=16 --numjobs=2 --size=96m --offset_increment=128m --rate=3m,3m --verify=crc32c"
    " --verify_fatal=1 --verify_backlog=64 --group_reporting --output-format=terse --terse-version=3"
    " --status-interval=1"
)


def kib_done(line):
    """What fio has written and read, from one of its status lines."""
    fields = line.split(";")
    return int(fields[5]) + int(fields[46]) if len(fields) > 46 else None


def wait_for_progress(guest, done):
    """Waits until fio has done more than that."""
    line = guest.line(lambda line: (kib_done(line) or 0) > done)
    return kib_done(line)


def load_through_restarts(guest, servers):
    """LOAD, while these servers, one after the other, are killed and started again; the guest must not see an error."""
    guest.send(f"exec 2>&1; {LOAD}")
    done = 0
    for server in servers:
        # Progress since the last restart: the load is running again, not still waiting.
        done = wait_for_progress(guest, done)
        server.kill()
        server.start()
    wait_for_progress(guest, done)
    status, output = guest.finish(timeout=300)
    assert status == 0, output
    assert not guest.errors()
