# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk image from which SeaBIOS boots the test guest. Made without root and without mounting."""

import pathlib
import subprocess
import tempfile

from .guest import KERNEL_COMMAND_LINE
from .paths import guest_files

MIB = 1 << 20
PARTITION_START = MIB
MBR_CODE = "/usr/lib/syslinux/mbr/mbr.bin"


def make(path, marker):
    """Writes the image: a partition table, SYSLINUX, the guest's kernel and initramfs. The kernel
    command line carries marker, so that the guest can tell from where it was booted."""
    kernel, initramfs = (pathlib.Path(file) for file in guest_files())
    size = kernel.stat().st_size + initramfs.stat().st_size + 64 * MIB
    with open(path, "wb") as image:
        image.truncate(size // MIB * MIB)
    _run("sfdisk", "--quiet", path, input=f"start={PARTITION_START // 512}, type=c, bootable\n")
    with open(path, "r+b") as image:
        image.write(pathlib.Path(MBR_CODE).read_bytes())

    partition = f"{path}@@{PARTITION_START}"
    sectors = (size // MIB * MIB - PARTITION_START) // 512
    geometry = ["-T", str(sectors), "-h", "64", "-s", "32", "-H", str(PARTITION_START // 512)]
    _run("mformat", "-i", partition, "-F", *geometry, "::")
    with tempfile.NamedTemporaryFile("w", suffix=".cfg") as config:
        config.write(
            "DEFAULT linux\nLABEL linux\nLINUX /vmlinuz\nINITRD /initrd\n"
            f"APPEND {KERNEL_COMMAND_LINE} {marker}\n"
        )
        config.flush()
        _run("mcopy", "-i", partition, config.name, "::/syslinux.cfg")
    _run("mcopy", "-i", partition, kernel, "::/vmlinuz")
    _run("mcopy", "-i", partition, initramfs, "::/initrd")
    _run("syslinux", "--install", "--offset", str(PARTITION_START), path)


def _run(*command, **options):
    # mtools compares the geometry with the partition table's, which means nothing here.
    env = {"PATH": "/usr/sbin:/usr/bin", "MTOOLS_SKIP_CHECK": "1"}
    subprocess.run([str(word) for word in command], check=True, text=True, env=env, **options)
