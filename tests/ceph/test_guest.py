# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest with its disk on an image."""

import pytest

from tests.chaos.daemon import Daemon, wait_for
from tests.support.ceph import Ceph
from tests.support.fio import VERIFY, load_through_restarts
from tests.support.guest import Guest
from tests.support.paths import qemu_command

from .conftest import MIB

SIZE, LARGER = 256 * MIB, 320 * MIB
FILE = 96 * MIB
SECTORS = "/sys/block/vda/size"


def disk(proxy):
    return ["-device", f"cloudblk-pci,server={proxy.uri('disk')}"]


@pytest.mark.brief
def test_files_verified_load_trim_resize_and_what_is_left(release, cluster, tmp_path):
    # Small objects: one goes when all of it is trimmed, and few of them are at the ends of what is
    image = cluster.create_image(f"guest-{release}", SIZE, "--object-size", "1M")
    with Daemon(tmp_path, {"disk": cluster.uri(image)}) as proxy, Guest(qemu_command(release), disk(proxy)) as guest:
        assert len(cluster.lockers(image)) == 1
        guest.run(VERIFY, timeout=300)

        guest.run(
            "mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/vda; mount /dev/vda /mnt;"
            f"tr '\\0' x </dev/zero | dd of=/mnt/file bs=1M count={FILE // MIB} iflag=fullblock conv=fsync"
        )
        full = cluster.used(image)
        assert full >= FILE
        guest.run("rm /mnt/file; sync; fstrim /mnt")
        assert cluster.used(image) <= full - FILE * 3 // 4

        assert guest.run(f"cat {SECTORS}") == str(SIZE // 512)
        guest.send(f"echo waiting; while read -r s <{SECTORS}; [ $s != {LARGER // 512} ]; do :; done")
        guest.line(lambda line: line == "waiting")
        cluster.rbd("resize", "--no-progress", "--size", f"{LARGER}B", cluster.spec(image))
        assert guest.finish(timeout=30)[0] == 0
        guest.run(
            "resize2fs /dev/vda; dd if=/dev/urandom of=/mnt/random bs=1M count=24; umount /mnt;"
            "e2fsck -fn /dev/vda >/tmp/check 2>&1 || { cat /tmp/check; exit 1; }"
        )
        seen = guest.run("sync /dev/vda; sha256sum </dev/vda", timeout=300).split()[0]
        assert not guest.errors()
        guest.poweroff()
        wait_for(lambda: not cluster.lockers(image), "the lock to be given back")
        assert cluster.sha256(image) == seen


def test_daemons_of_the_cluster_die_under_verified_load(release, tmp_path):
    with Ceph("bluestore") as cluster:
        cluster.create_image("image", SIZE)
        with Daemon(tmp_path, {"disk": cluster.uri("image")}) as proxy:
            with Guest(qemu_command(release), disk(proxy)) as guest:
                load_through_restarts(guest, [cluster.osd, cluster.mon, cluster.osd])
                assert guest.run("cat /sys/block/vda/inflight").split() == ["0", "0"]
                seen = guest.run("sync /dev/vda; sha256sum </dev/vda", timeout=300).split()[0]
                assert not guest.errors()
                guest.poweroff()
            wait_for(lambda: not cluster.lockers("image"), "the lock to be given back")
            # Nobody lost it meanwhile
            assert len([line for line in proxy.log().splitlines() if " active for " in line]) == 1, proxy.log()
            assert cluster.sha256("image") == seen
