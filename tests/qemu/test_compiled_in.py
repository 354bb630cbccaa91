# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU with the device compiled in, in its program or as a module."""

import subprocess

import pytest

from tests.support.paths import PLUGIN
from tests.support.qemu import Qemu


@pytest.mark.parametrize("device", ["cloudblk-pci", "cloudblk-pci-transitional", "cloudblk-pci-non-transitional"])
def test_device_is_known_without_a_plugin(compiled_qemu, device):
    text = subprocess.check_output([compiled_qemu, "-device", f"{device},help"], text=True)
    assert "  server=<str>" in text


def test_device_is_listed(compiled_qemu):
    """Which loads all modules."""
    text = subprocess.check_output([compiled_qemu, "-device", "help"], text=True)
    assert 'name "cloudblk-pci", bus PCI' in text


@pytest.mark.parametrize("way", ["plugin", "preload"])
def test_plugin_does_no_harm(compiled_qemu, way):
    arguments = ["-machine", "q35", "-S"] + (["-plugin", PLUGIN] if way == "plugin" else [])
    env = {"LD_PRELOAD": str(PLUGIN)} if way == "preload" else {}
    with Qemu(compiled_qemu, arguments, env) as qemu:
        properties = qemu.qmp.command("device-list-properties", typename="cloudblk-pci")
        assert "server" in [each["name"] for each in properties]
        qemu.qmp.command("qom-list-types")
        qemu.qmp.quit()
        assert qemu.wait() == 0
        assert not qemu.messages()


def test_qtest_accelerator(compiled_qemu):
    with Qemu(compiled_qemu, ["-machine", "q35,accel=qtest"]) as qemu:
        assert qemu.qmp.command("query-status")["running"]
