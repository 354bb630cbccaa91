# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules for AppArmor that we ship, in the profile that libvirt makes for a domain. They are compiled and not loaded: a
kernel without AppArmor does for that."""

import pathlib
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest

from tests.support.libvirt import EXAMPLES

SYSTEM = pathlib.Path("/etc/apparmor.d")
LOCAL = "local/abstractions/libvirt-qemu"
RULES = EXAMPLES / "apparmor-libvirt-qemu"


@pytest.fixture
def profiles(tmp_path):
    """What libvirt and AppArmor install, with our rules where an administrator puts them."""
    base = tmp_path / "apparmor.d"
    shutil.copytree(SYSTEM, base, symlinks=True)
    (base / LOCAL).parent.mkdir(parents=True, exist_ok=True)
    with open(base / LOCAL, "a") as file:
        file.write(RULES.read_text())
    profile = (base / "libvirt/TEMPLATE.qemu").read_text().replace("LIBVIRT_TEMPLATE", "libvirt-test")
    (base / "libvirt/libvirt-test").write_text(profile)
    return base


def parser(base, *words):
    return subprocess.run(
        ["apparmor_parser", "--base", base, *words, base / "libvirt/libvirt-test"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120,
    )


def allowed(base):
    """The rules for files of the whole profile, as patterns with what they allow."""
    result = parser(base, "--preprocess")
    assert result.returncode == 0, result.stderr
    found = re.findall(r"^\s*(/\S+) ([rwmkxl]+),", result.stdout, re.MULTILINE)
    return {pattern: access for pattern, access in found if "cloudblk" in pattern}


def matches(pattern, path):
    text = re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", "[^/]*").replace(",", "|")
    return re.fullmatch(text.replace(r"\{", "(").replace(r"\}", ")"), path)


def test_the_rules_are_compiled(profiles):
    result = parser(profiles, "--skip-kernel-load", "--skip-cache")
    assert result.returncode == 0, result.stderr
    with open(profiles / LOCAL, "a") as file:
        file.write("/no/access\n")
    assert parser(profiles, "--skip-kernel-load", "--skip-cache").returncode != 0


def test_they_allow_what_the_examples_name(profiles):
    rules = allowed(profiles)
    named = set()
    for file in EXAMPLES.glob("*.xml"):
        for argument in ElementTree.parse(file).iter("{http://libvirt.org/schemas/domain/qemu/1.0}arg"):
            named.update(re.findall(r"(?:^|socket=)(/[^,]+)", argument.get("value")))
    assert named == {"/usr/lib/cloudblk/cloudblk.so", "/run/cloudblk/proxy.sock"}
    for path in named:
        wanted = "mr" if path.endswith(".so") else "rw"
        assert any(matches(pattern, path) and access == wanted for pattern, access in rules.items()), (path, rules)
