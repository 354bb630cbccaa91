# SPDX-License-Identifier: GPL-2.0-or-later
"""The disk under test: a file, and what QEMU needs to show it to a guest."""

import pathlib

from .proxy import Proxy


class CloudblkDisk:
    """cloudblk-pci on a proxy's file volume."""

    def __init__(self, path, size=None):
        self.path = pathlib.Path(path)
        query = f"?size={size}&create=on" if size else ""
        self.proxy = Proxy({"d0": f"file://{self.path}{query}"})

    def arguments(self, read_only=False, **properties):
        """QEMU's arguments. Properties are those of virtio-blk-pci, with _ for -."""
        options = {"server": self.proxy.uri("d0"), **properties}
        if read_only:
            options["read-only"] = "on"
        return ["-device", _device("cloudblk-pci", options)]

    def __enter__(self):
        self.proxy.start()
        return self

    def __exit__(self, *_):
        self.proxy.kill()


class PlainDisk:
    """QEMU's own virtio-blk-pci on the same file: tells a mistake of the tests from one of ours."""

    proxy = None

    def __init__(self, path, size=None):
        self.path = pathlib.Path(path)
        if size and not self.path.exists():
            with open(self.path, "wb") as file:
                file.truncate(size)

    def arguments(self, read_only=False, **properties):
        drive = f"file={self.path},format=raw,if=none,id=d0,discard=unmap,detect-zeroes=off"
        drive += ",read-only=on" if read_only else ""
        return ["-drive", drive, "-device", _device("virtio-blk-pci", {"drive": "d0", **properties})]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def _device(name, options):
    return ",".join([name, *(f"{key.replace('_', '-')}={value}" for key, value in options.items())])
