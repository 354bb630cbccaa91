# SPDX-License-Identifier: GPL-2.0-or-later
"""The proxy dies again and again under verified load, and the guest does not notice."""

import pytest

from tests.support.fio import load_through_restarts
from tests.support.guest import Guest

KILLS = 10


def test_ten_kills_under_verified_load(qemu, disk):
    if not disk.proxy:
        pytest.skip("needs a proxy to kill")
    with Guest(qemu, disk.arguments()) as guest:
        load_through_restarts(guest, [disk.proxy] * KILLS)
        assert guest.run("cat /sys/block/vda/inflight").split() == ["0", "0"]
        guest.poweroff()


def test_outage_is_waited_out(qemu, disk):
    if not disk.proxy:
        pytest.skip("needs a proxy to kill")
    with Guest(qemu, disk.arguments()) as guest:
        guest.run("dd if=/dev/urandom of=/tmp/data bs=1M count=8 2>/dev/null")
        disk.proxy.kill()
        guest.send(
            "dd if=/tmp/data of=/dev/vda bs=1M oflag=direct conv=fsync 2>&1 & writer=$!;"
            "until read -r reads writes </sys/block/vda/inflight && [ $writes -gt 0 ]; do :; done;"
            "echo in flight; wait $writer"
        )
        guest.line(lambda line: line == "in flight")
        disk.proxy.start()
        status, output = guest.finish()
        assert status == 0, output
        guest.run("cmp -n 8388608 /tmp/data /dev/vda")
        guest.poweroff()
