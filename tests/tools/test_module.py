# SPDX-License-Identifier: GPL-2.0-or-later
"""The module that cloudblk-proxy loads when rbd: is named: when it is, and what is said of one that cannot be."""

import pathlib
import re
import shutil
import subprocess

import pytest

from tests.chaos.daemon import Daemon
from tests.support.paths import PLUGIN, PROXY, RBD_MODULE

PATIENCE = 30
CEPH = re.compile(r"/[^/]*(?:librbd|librados|libceph|cloudblk-proxy-rbd)[^/]*$", re.MULTILINE)

needs_module = pytest.mark.skipif(not RBD_MODULE.exists(), reason="built without librbd (librbd-dev)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Has the program, and nothing beside it."""
    made = tmp_path_factory.mktemp("program")
    shutil.copy(PROXY, made)
    return made


@pytest.fixture
def program(folder):
    yield folder / PROXY.name
    (folder / RBD_MODULE.name).unlink(missing_ok=True)


def refusal(tmp_path, program, uri="rbd:///rbd/image?conf=/nowhere/ceph.conf"):
    """The one line of a proxy that cannot start."""
    proxy = Daemon(tmp_path, {"disk": uri}, program=program).launch()
    try:
        assert proxy.process.wait(PATIENCE) == 1, proxy.log()
    finally:
        proxy.__exit__()
    [line] = proxy.log().strip().splitlines()
    return line


def install(program, content):
    (program.parent / RBD_MODULE.name).write_bytes(content)


def with_replaced(content, old, new):
    assert old in content and len(old) == len(new)
    return content.replace(old, new)


def test_a_proxy_without_rbd_has_nothing_of_it(tmp_path):
    volumes = {"memory": "memory:?size=1M", "file": f"file://{tmp_path}/disk.img?size=1M&create=on"}
    with Daemon(tmp_path, volumes) as proxy:
        mapped = pathlib.Path(f"/proc/{proxy.process.pid}/maps").read_text()
        assert "/" + PROXY.name in mapped
        assert not CEPH.findall(mapped)


@needs_module
def test_it_is_found_beside_the_program_that_a_link_leads_to(tmp_path, program):
    install(program, RBD_MODULE.read_bytes())
    link = tmp_path / "linked"
    link.symlink_to(program)
    assert "cannot read conf=/nowhere/ceph.conf" in refusal(tmp_path, link)


def test_there_is_none(tmp_path, program):
    line = refusal(tmp_path, program)
    assert f"there is no {program.parent / RBD_MODULE.name}" in line and "librbd-dev" in line
    assert "'rbd:///rbd/image?conf=/nowhere/ceph.conf'" in line


@needs_module
def test_it_is_of_another_build(tmp_path, program):
    content = RBD_MODULE.read_bytes()
    builds = [set(re.findall(rb"\0([0-9a-f]{64})\0", each)) for each in (content, PROXY.read_bytes())]
    [build] = set.intersection(*builds)
    install(program, with_replaced(content, build, build[:-1] + (b"1" if build.endswith(b"0") else b"0")))
    line = refusal(tmp_path, program)
    assert str(program.parent / RBD_MODULE.name) in line and "not of the same build" in line


@needs_module
def test_librbd_is_not_installed(tmp_path, program):
    install(program, with_replaced(RBD_MODULE.read_bytes(), b"librbd.so.1\0", b"librbd.so.0\0"))
    line = refusal(tmp_path, program)
    assert "librbd.so.0: cannot open shared object file" in line and "librbd1" in line


def test_it_is_something_else(tmp_path, program):
    install(program, PLUGIN.read_bytes())
    line = refusal(tmp_path, program)
    assert str(program.parent / RBD_MODULE.name) in line and "not of the same build" in line


def test_it_was_cut_short(tmp_path, program):
    install(program, b"\x7fELF")
    line = refusal(tmp_path, program)
    assert str(program.parent / RBD_MODULE.name) in line and "cannot be loaded" in line


def variables(binary):
    """What it has that can change, of ours and of the log, by the names in its symbol table."""
    command = ["nm", "-C", "-f", "sysv", str(binary)]
    symbols = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    columns = [[column.strip() for column in line.split("|")] for line in symbols.splitlines()]
    return {
        each[0] for each in columns
        if len(each) == 7 and re.fullmatch(r"\.t?(data|bss)", each[6]) and re.search("cloudblk::|spdlog::", each[0])
    }  # fmt: skip


@needs_module
def test_it_has_no_state_that_the_program_has_too():
    """Both are linked from one archive: what the module has of that is functions."""
    of_module, of_program = variables(RBD_MODULE), variables(PROXY)
    assert of_module and of_program
    assert not of_module & of_program
