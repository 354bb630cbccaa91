# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest on a proxy whose volume is another server's, which dies under load, as the proxy does."""

import pytest

from tests.guest.test_filesystem import SUMS, WRITE_FILES
from tests.support.fio import LOAD, load_through_restarts, wait_for_progress
from tests.support.guest import Guest
from tests.support.nbd_server import Nbdkit
from tests.support.paths import qemu_command
from tests.support.proxy import Proxy

SIZE = 1 << 30


class UpstreamProxy(Proxy):
    def __init__(self, folder, size):
        super().__init__({"up": f"file://{folder}/disk.img?size={size}&create=on"}, ["--state-dir", folder / "state"])

    def uri(self, volume="up"):
        return super().uri(volume)


@pytest.fixture(params=[Nbdkit, UpstreamProxy], ids=["nbd", "cloudblk"])
def upstream(request, tmp_path):
    folder = tmp_path / "upstream"
    folder.mkdir()
    with request.param(folder, SIZE) as started:
        yield started


@pytest.fixture
def front(upstream, tmp_path):
    with Proxy({"d0": upstream.uri()}, ["--state-dir", tmp_path / "state"]) as started:
        yield started


def test_files_and_verified_load_while_servers_die(upstream, front):
    device = ["-device", f"cloudblk-pci,server={front.uri('d0')}"]
    with Guest(qemu_command("10.0"), device) as guest:
        guest.run(f"mkfs.ext4 -q /dev/vda; mount /dev/vda /mnt; {WRITE_FILES}")
        written = guest.run(SUMS)
        guest.run("rm /mnt/folder-5000001/file; sync; fstrim /mnt; umount /mnt")
        guest.run("e2fsck -fn /dev/vda >/tmp/check 2>&1 || { cat /tmp/check; exit 1; }; mount /dev/vda /mnt")
        left = [line for line in written.splitlines() if "5000001" not in line]
        assert guest.run(SUMS).splitlines() == left
        guest.run("umount /mnt")

        guest.send(f"exec 2>&1; {LOAD}")
        done = 0
        for _ in range(3):
            done = wait_for_progress(guest, done)
            upstream.kill()
            upstream.start()
        done = wait_for_progress(guest, done)
        assert front.stop() == 0
        front.start()
        wait_for_progress(guest, done)
        status, output = guest.finish(timeout=300)
        assert status == 0, output
        assert not guest.errors()
        guest.poweroff()


def test_a_proxy_that_is_killed_comes_back(front):
    device = ["-device", f"cloudblk-pci,server={front.uri('d0')}"]
    with Guest(qemu_command("10.0"), device) as guest:
        load_through_restarts(guest, [front])
        guest.poweroff()
