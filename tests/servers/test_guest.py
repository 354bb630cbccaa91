# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest with its disk on an NBD server."""

import pytest

from tests.guest.test_filesystem import SUMS, WRITE_FILES
from tests.migration import evidence
from tests.migration.journey import Journey
from tests.support import boot_disk
from tests.support.fio import VERIFY, load_through_restarts
from tests.support.guest import Guest
from tests.support.nbd_server import Nbdkit, QemuNbdQcow2
from tests.support.paths import RELEASES, qemu_command
from tests.support.stream import listens

SIZE = 1 << 30


@pytest.fixture(params=RELEASES)
def release(request):
    return request.param


def disk(server, **properties):
    words = [f"server={server.uri()}", *(f"{key}={value}" for key, value in properties.items())]
    return ["-device", ",".join(["cloudblk-pci", *words])]


@pytest.fixture
def server_size():
    return SIZE


@pytest.mark.feature("guest: fio --verify, ext4, fstrim, blkdiscard")
def test_files_verified_load_and_what_is_given_back(release, server):
    with Guest(qemu_command(release), disk(server)) as guest:
        guest.run(VERIFY, timeout=300)
        guest.run(f"mkfs.ext4 -q /dev/vda; mount /dev/vda /mnt; {WRITE_FILES}")
        written = guest.run(SUMS)
        guest.run("rm /mnt/folder-5000001/file; sync; fstrim /mnt || true; umount /mnt")
        guest.run("e2fsck -fn /dev/vda >/tmp/check 2>&1 || { cat /tmp/check; exit 1; }")
        guest.run("blkdiscard -z --offset 900M --length 8M /dev/vda; cmp -n 8388608 -i 943718400:0 /dev/vda /dev/zero")
        guest.poweroff()
    assert len(written.splitlines()) == 208

    with Guest(qemu_command(release), disk(server)) as guest:
        guest.run("e2fsck -fn /dev/vda >/tmp/check 2>&1 || { cat /tmp/check; exit 1; }; mount /dev/vda /mnt")
        left = [line for line in written.splitlines() if "5000001" not in line]
        assert guest.run(SUMS).splitlines() == left
        guest.poweroff()


@pytest.mark.feature("guest: SIGKILL of the server under fio --verify")
def test_the_server_is_killed_under_verified_load(release, server, outcome):
    if not server.keeps_unflushed:
        pytest.skip("this server loses what was not flushed: tests/servers/test_device.py")
    with Guest(qemu_command(release), disk(server)) as guest:
        load_through_restarts(guest, [server] * 3)
        outcome("no error, no mismatch")
        guest.poweroff()


def test_qcow2_loses_what_was_not_flushed_and_the_guest_is_told(release, tmp_path):
    with QemuNbdQcow2(tmp_path, SIZE) as server, Guest(qemu_command(release), disk(server)) as guest:
        guest.run("tr '\\0' f </dev/zero | dd of=/dev/vda bs=64k count=16 iflag=fullblock oflag=direct conv=fsync")
        guest.run("tr '\\0' u </dev/zero | dd of=/dev/vda bs=64k count=16 seek=16 iflag=fullblock oflag=direct")
        server.kill()
        server.start()
        status, _ = guest.try_run("sync /dev/vda")
        assert status != 0
        guest.run("sync /dev/vda")
        guest.run("tr '\\0' f </dev/zero | head -c 1048576 | cmp -n 1048576 - /dev/vda")
        guest.poweroff()


class NbdkitOnSocket(Nbdkit):
    """For clients in other network namespaces."""

    def command(self):
        return ["nbdkit", "-f", "--log=null", "-U", self.folder / "socket", *self.plugin()]

    def is_up(self):
        return listens(self.folder / "socket")

    def uri(self, options=None):
        return f"nbd+unix:///?socket={self.folder}/socket"


def test_a_guest_moves_ten_times(release, tmp_path, net):
    with NbdkitOnSocket(tmp_path, 64 << 20) as server:
        journey = Journey(net, (release, release), lambda: disk(server))
        try:
            journey.boot()
            journey.start_load()
            journey.progress()
            for _ in range(10):
                there = journey.destination()
                journey.leave()
                journey.guest.migration("completed")
                journey.arrive(there).kill()
                journey.progress()
            journey.signal_load("TERM")
            written = journey.console.said("ended")
            assert not journey.guest.errors()
            journey.guest.poweroff()
        finally:
            journey.end()
        assert evidence.content(server.path) == written


def test_a_guest_boots_from_it(release, tmp_path):
    server = Nbdkit(tmp_path)
    boot_disk.make(server.path, "booted-from-nbd")
    with server:
        with Guest(qemu_command(release), disk(server, bootindex=1), memory="768M", firmware="seabios") as guest:
            assert "booted-from-nbd" in guest.run("cat /proc/cmdline")
            guest.poweroff()
