# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest mirrors its data over the disks of two proxies, and one of them dies for good."""

import contextlib

import pytest

from tests.support.guest import Guest
from tests.support.proxy import Proxy

MIB = 1 << 20
SIZE = 64 * MIB
# What md's own tool would do, which would need one package more. Without metadata on the disks
CREATE = f"""set -e
echo md0 >/sys/module/md_mod/parameters/new_array
cd /sys/block/md0/md
echo none >metadata_version
echo raid1 >level
echo 2 >raid_disks
echo {SIZE // 1024} >component_size
echo none >resync_start
for disk in vda vdb; do cat /sys/block/$disk/dev >new_dev; done
echo 0 >dev-vda/slot
echo 1 >dev-vdb/slot
echo active >array_state
cat degraded"""
# A line for each MiB that is written
LOAD = """i=0; while [ $i -lt 60 ]; do
  dd if=/tmp/data of=/dev/md0 bs=1M count=1 seek=$i oflag=direct conv=fsync,notrunc 2>/dev/null || exit 1
  i=$((i + 1)); echo "written $i"; sleep 0.1
done"""


@pytest.fixture
def proxies(tmp_path):
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(Proxy({"d0": f"file://{tmp_path}/{name}?size={SIZE}&create=on"})) for name in ("a", "b")
        ]


def disks(proxies, **properties):
    for index, proxy in enumerate(proxies):
        options = {"id": f"leg{index}", "server": proxy.uri("d0"), "addr": f"{4 + index:#x}", **properties}
        yield from ("-device", ",".join(["cloudblk-pci", *(f"{key.replace('_', '-')}={value}" for key, value in options.items())]))


@pytest.mark.parametrize("set_later", (False, True), ids=("from-the-start", "set-when-it-hangs"))
def test_a_mirror_goes_on_with_the_other_leg(qemu, proxies, tmp_path, set_later):
    with Guest(qemu, [*disks(proxies, **({} if set_later else {"request_timeout": 5}))]) as guest:
        assert guest.run(CREATE) == "0"
        guest.run("dd if=/dev/urandom of=/tmp/data bs=1M count=1 2>/dev/null")
        guest.send(LOAD)
        guest.line(lambda line: line == "written 5")
        proxies[0].kill()
        if set_later:
            for leg in ("leg0", "leg1"):
                guest.qmp.command("qom-set", path=f"/machine/peripheral/{leg}", property="request-timeout", value=5)
        # Longer than the disk takes to fail it, as the guest is slow
        guest.line(lambda line: line == "written 20", timeout=30)
        assert guest.finish()[0] == 0
        assert guest.run("cat /sys/block/md0/md/degraded") == "1"
        assert "faulty" in guest.run("cat /sys/block/md0/md/dev-vda/state").split(",")
        sums = guest.run("sha256sum </tmp/data; dd if=/dev/md0 bs=1M skip=59 count=1 iflag=direct 2>/dev/null | sha256sum")
        assert len(set(sums.splitlines())) == 1
        # The dead leg goes
        guest.run("echo remove >/sys/block/md0/md/dev-vda/state")
        guest.qmp.command("device_del", id="leg0")
        guest.qmp.wait_event("DEVICE_DELETED", timeout=60)
        assert guest.run("cat /proc/mdstat | grep -c vdb") == "1"
        guest.poweroff()
