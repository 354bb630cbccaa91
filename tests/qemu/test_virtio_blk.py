# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's own test of virtio-blk, with cloudblk-pci as the device, in a QEMU that has it compiled in."""

import collections
import os
import pathlib
import subprocess

import pytest

from tests.support.paths import CLIENT, PROXY, script

HERE = pathlib.Path(__file__).parent

TESTS = ["basic", "indirect", "idx", "nxvirtq", "hotplug", "config", "resize", "msix"]


def qos_test(qemu, *arguments):
    """Result of QEMU's program of tests."""
    return subprocess.run(
        [pathlib.Path(qemu).with_name("qos-test"), *arguments],
        env={**os.environ, "QTEST_QEMU_BINARY": qemu, "CLOUDBLK_PROXY": str(PROXY), "CLOUDBLK": str(CLIENT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize("name", TESTS)
def test_passes(qemu, name):
    listed = qos_test(qemu, "-l").stdout.split()
    paths = [path for path in listed if "/cloudblk-pci/" in path and path.endswith(f"/{name}")]
    assert paths
    for path in paths:
        result = qos_test(qemu, "--tap", "-p", path)
        assert result.returncode == 0 and f"ok 1 {path}" in result.stdout, result.stdout


def test_assertions_are_untouched():
    """Only those of the image file's creation go."""
    source = pathlib.Path(script("qemu-headers", "10.0.2")[0]) / "tests/qtest/virtio-blk-test.c"
    made = subprocess.check_output(["sed", "-f", HERE / "virtio-blk-test.sed", source], text=True)

    def assertions(text):
        return collections.Counter(line.strip() for line in text.splitlines() if "g_assert" in line)

    before, after = assertions(source.read_text()), assertions(made)
    assert before - after == {"g_assert_cmpint(fd, >=, 0);": 1, "g_assert_cmpint(ret, ==, 0);": 1}
    assert not after - before
