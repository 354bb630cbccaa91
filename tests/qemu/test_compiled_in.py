# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU with the device compiled in, in its program or as a module."""

import pathlib
import subprocess

import pytest

from tests.support.paths import PLUGIN
from tests.support.qemu import Qemu


@pytest.mark.parametrize("device", ["cloudblk-pci", "cloudblk-pci-transitional", "cloudblk-pci-non-transitional"])
def test_device_is_known_without_a_plugin(qemu, device):
    text = subprocess.check_output([qemu, "-device", f"{device},help"], text=True)
    assert "  server=<str>" in text


def test_device_is_listed(qemu):
    """Which loads all modules."""
    text = subprocess.check_output([qemu, "-device", "help"], text=True)
    assert 'name "cloudblk-pci", bus PCI' in text


def test_module_is_loaded_when_wanted(qemu):
    """Not before; of a build without modules, not at all."""
    modules = list(pathlib.Path(qemu).parent.glob("qemu-bundle/**/hw-block-cloudblk.so"))
    with Qemu(qemu, ["-machine", "none"]) as started:
        maps = pathlib.Path(f"/proc/{started.process.pid}/maps")
        assert "hw-block-cloudblk.so" not in maps.read_text()
        started.qmp.command("device-list-properties", typename="cloudblk-pci")
        assert ("hw-block-cloudblk.so" in maps.read_text()) == bool(modules)


def sanitizer_runtime(program):
    """Must come first among what is preloaded; of an ordinary build, nothing."""
    lines = subprocess.check_output(["ldd", program], text=True).splitlines()
    return [line.split()[2] for line in lines if "libasan.so" in line]


@pytest.mark.parametrize("way", ["plugin", "preload"])
def test_plugin_does_no_harm(qemu, way):
    arguments = ["-machine", "q35", "-S"] + (["-plugin", PLUGIN] if way == "plugin" else [])
    env = {"LD_PRELOAD": ":".join([*sanitizer_runtime(qemu), str(PLUGIN)])} if way == "preload" else {}
    with Qemu(qemu, arguments, env) as started:
        properties = started.qmp.command("device-list-properties", typename="cloudblk-pci")
        assert "server" in [each["name"] for each in properties]
        started.qmp.command("qom-list-types")
        started.qmp.quit()
        assert started.wait() == 0
        assert not started.messages()


def test_qtest_accelerator(qemu):
    with Qemu(qemu, ["-machine", "q35,accel=qtest"]) as started:
        assert started.qmp.command("query-status")["running"]
