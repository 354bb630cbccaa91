# SPDX-License-Identifier: GPL-2.0-or-later
"""cloudblk.so in QEMUs that it has a device library for, in others, and in what is no QEMU."""

import os
import shutil
import subprocess

import pytest

from tests.support.paths import BUILD, PLUGIN, RELEASES, is_installed, script, stock_qemu
from tests.support.qemu import Qemu

DEVICE = "cloudblk-pci"


@pytest.fixture(params=["tcg", "kvm"])
def accelerator(request):
    if request.param == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("no access to /dev/kvm")
    return request.param


@pytest.fixture(params=["plugin", "preload"])
def way(request):
    """The two ways to bring a library into QEMU: gives (arguments, environment) for a file."""
    if request.param == "plugin":
        return lambda path: (["-plugin", str(path)], {})
    return lambda path: ([], {"LD_PRELOAD": str(path)})


def run_qemu(qemu, arguments, env):
    """A QEMU that is expected to end by itself: (exit status, its messages by line)."""
    ended = subprocess.run(
        [qemu, "-nodefaults", "-display", "none", *arguments],
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout.splitlines()


def device_libraries():
    return sorted(BUILD.glob("cloudblk-qemu-*.so"))


def version_of(qemu):
    """As QEMU says it: "7.2.22"."""
    return subprocess.check_output([qemu, "--version"], text=True).split()[3]


def own_library(qemu):
    (library,) = [path for path in device_libraries() if f"-qemu-{version_of(qemu)}-" in path.name]
    return library


def has_device(qemu, arguments, env):
    with Qemu(qemu, ["-machine", "none", *arguments], env) as started:
        types = started.qmp.command("qom-list-types", implements="virtio-pci")
        properties = started.qmp.command("device-list-properties", typename=DEVICE)
        started.qmp.quit()
        assert started.wait() == 0, started.messages()
    assert "server" in [entry["name"] for entry in properties]
    return DEVICE in [entry["name"] for entry in types]


def test_device_is_there(qemu, way, accelerator):
    arguments, env = way(PLUGIN)
    assert has_device(qemu, [*arguments, "-accel", accelerator], env)


def test_device_is_there_in_a_sandbox(qemu, way):
    arguments, env = way(PLUGIN)
    sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    assert has_device(qemu, [*arguments, "-sandbox", sandbox], env)


def test_help_with_preload(qemu):
    status, lines = run_qemu(qemu, ["-device", f"{DEVICE},help"], {"LD_PRELOAD": str(PLUGIN)})
    assert status == 0
    assert any(line.strip().startswith("server=") for line in lines)


def test_registers_once(qemu, tmp_path):
    """Given twice, by path and by another name, and preloaded besides."""
    alias = tmp_path / "alias.so"
    alias.symlink_to(PLUGIN)
    arguments = ["-plugin", str(PLUGIN), "-plugin", str(alias)]
    assert has_device(qemu, arguments, {"LD_PRELOAD": str(PLUGIN)})


def test_second_copy_changes_nothing(qemu, tmp_path):
    copy = shutil.copy(own_library(qemu), tmp_path / "copy.so")
    assert has_device(qemu, ["-plugin", str(PLUGIN), "-plugin", str(copy)], {})


def test_no_device_library(qemu, way, accelerator, tmp_path):
    copy = shutil.copy(PLUGIN, tmp_path)
    arguments, env = way(copy)
    status, lines = run_qemu(qemu, [*arguments, "-accel", accelerator], env)
    assert status == 1
    (line,) = lines
    assert line.startswith(f"cloudblk: no device library for this QEMU {version_of(qemu)} ")
    assert "(there are: none)" in line and "scripts/build-plugin" in line
    assert str(tmp_path / own_library(qemu).name) in line


def test_other_libraries_are_named(qemu, way, tmp_path):
    shutil.copy(PLUGIN, tmp_path)
    others = [path for path in device_libraries() if path != own_library(qemu)]
    for path in others:
        shutil.copy(path, tmp_path)
    arguments, env = way(tmp_path / PLUGIN.name)
    status, (line,) = run_qemu(qemu, arguments, env)
    assert status == 1
    for path in others:
        assert path.stem.removeprefix("cloudblk-qemu-") in line


def test_library_of_another_release_under_our_name(qemu, way, tmp_path):
    shutil.copy(PLUGIN, tmp_path)
    (other,) = [path for path in device_libraries() if path != own_library(qemu)]
    shutil.copy(other, tmp_path / own_library(qemu).name)
    arguments, env = way(tmp_path / PLUGIN.name)
    status, (line,) = run_qemu(qemu, arguments, env)
    assert status == 1
    # Refused by the linker, for a symbol that this release lacks, or by the library's own check.
    assert line.startswith("cloudblk: cannot load the device library:") or "does not fit QEMU" in line


def test_broken_library(qemu, way, tmp_path):
    shutil.copy(PLUGIN, tmp_path)
    (tmp_path / own_library(qemu).name).write_bytes(b"no ELF file")
    arguments, env = way(tmp_path / PLUGIN.name)
    status, (line,) = run_qemu(qemu, arguments, env)
    assert status == 1
    assert line.startswith("cloudblk: cannot load the device library:")


@pytest.mark.parametrize(
    "program", [["/bin/true"], ["/bin/sh", "-c", "qemu-img --version >/dev/null"], ["/usr/bin/qemu-storage-daemon", "-V"]]
)
def test_quiet_in_other_programs(program):
    env = {**os.environ, "LD_PRELOAD": str(PLUGIN)}
    ended = subprocess.run(program, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("release", RELEASES)
def test_build_plugin(release, tmp_path):
    """The self-contained form, from a source tree and the folder it was configured in."""
    output = tmp_path / "own.so"
    source, build = script("qemu-headers", "--stock", release)
    script("build-plugin", "--qemu-source", source, "--qemu-build", build, "--output", str(output))
    qemu = stock_qemu(release)
    assert has_device(qemu, ["-plugin", str(output)], {})
    if is_installed(release):
        # The other one is started by a shell script, which is no program to preload this into.
        assert has_device(qemu, [], {"LD_PRELOAD": str(output)})
    for other in RELEASES:
        if other != release:
            status, lines = run_qemu(stock_qemu(other), ["-plugin", str(output)], {})
            assert status == 1 and len(lines) == 1, lines
