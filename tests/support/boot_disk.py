# SPDX-License-Identifier: GPL-2.0-or-later
"""Disk images from which a firmware boots the test guest. Made without root and without mounting."""

import pathlib
import subprocess
import tempfile

from .guest import KERNEL_COMMAND_LINE
from .paths import guest_files

MIB = 1 << 20
PARTITION_START = MIB
MBR_CODE = "/usr/lib/syslinux/mbr/mbr.bin"
EFI_LOADER = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"


def make(path, marker):
    """Writes an image for SeaBIOS: a partition table, SYSLINUX, the guest's kernel and initramfs. The
    kernel command line carries marker, so that the guest can tell from where it was booted."""
    _make_partition(path, "type=c, bootable")
    with open(path, "r+b") as image:
        image.write(pathlib.Path(MBR_CODE).read_bytes())
    config = (
        "DEFAULT linux\nLABEL linux\nLINUX /vmlinuz\nINITRD /initrd\n"
        f"APPEND {KERNEL_COMMAND_LINE} {marker}\n"
    )
    _write(path, "syslinux.cfg", config)
    _run("syslinux", "--install", "--offset", str(PARTITION_START), path)


def make_efi(path, marker):
    """Writes an image for OVMF: a GPT, and an EFI system partition with systemd-boot, the guest's kernel
    and initramfs. marker: as of make()."""
    _make_partition(path, "type=uefi", "label: gpt\n")
    for folder in ("EFI", "EFI/BOOT", "loader", "loader/entries"):
        _run("mmd", "-i", _partition(path), f"::/{folder}")
    _run("mcopy", "-i", _partition(path), EFI_LOADER, "::/EFI/BOOT/BOOTX64.EFI")
    _write(path, "loader/loader.conf", "default linux.conf\ntimeout 0\n")
    entry = f"title linux\nlinux /vmlinuz\ninitrd /initrd\noptions {KERNEL_COMMAND_LINE} {marker}\n"
    _write(path, "loader/entries/linux.conf", entry)


def _make_partition(path, kind, label=""):
    """One FAT32 partition with the guest's kernel and initramfs. kind and label are sfdisk's words."""
    kernel, initramfs = (pathlib.Path(file) for file in guest_files())
    # A GPT wants room behind the partition.
    size = (kernel.stat().st_size + initramfs.stat().st_size + 64 * MIB) // MIB * MIB
    sectors = (size - PARTITION_START) // 512
    with open(path, "wb") as image:
        image.truncate(size + MIB)
    text = f"{label}start={PARTITION_START // 512}, size={sectors}, {kind}\n"
    _run("sfdisk", "--quiet", path, input=text)
    geometry = ["-T", str(sectors), "-h", "64", "-s", "32", "-H", str(PARTITION_START // 512)]
    _run("mformat", "-i", _partition(path), "-F", *geometry, "::")
    _run("mcopy", "-i", _partition(path), kernel, "::/vmlinuz")
    _run("mcopy", "-i", _partition(path), initramfs, "::/initrd")


def _partition(path):
    return f"{path}@@{PARTITION_START}"


def _write(path, name, text):
    """Makes a file in the partition."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(text)
        file.flush()
        _run("mcopy", "-i", _partition(path), file.name, f"::/{name}")


def _run(*command, **options):
    # mtools compares the geometry with the partition table's, which means nothing here.
    env = {"PATH": "/usr/sbin:/usr/bin", "MTOOLS_SKIP_CHECK": "1"}
    subprocess.run([str(word) for word in command], check=True, text=True, env=env, **options)
