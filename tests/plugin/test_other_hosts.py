# SPDX-License-Identifier: GPL-2.0-or-later
"""The loader in programs made for the purpose, and device libraries that do not fit their QEMU."""

import pathlib
import re
import subprocess

import pytest

from tests.plugin.test_loader import run_qemu
from tests.support.paths import PLUGIN, RELEASES, REPO, is_installed, script, stock_qemu

# Does with a plugin what QEMU does, and has what the loader looks for if compiled with VERSION.
HOST = r"""
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef VERSION
typedef struct { long long major, minor, micro; } Triple;
typedef struct { Triple *qemu; char *package; } Info;
Info *qmp_query_version(void *errp)
{
    static Triple triple = { VERSION };
    Info *info = calloc(1, sizeof(*info));
    (void)errp;
    info->qemu = &triple;
    info->package = strdup(PACKAGE);
    return info;
}
void qapi_free_VersionInfo(Info *info) { free(info->package); free(info); }
void virtio_pci_types_register(void) {}
#endif

int main(int argc, char **argv)
{
    void *plugin = dlopen(argv[argc - 1], RTLD_NOW);
    int (*install)(long, const void *, int, char **) = dlsym(plugin, "qemu_plugin_install");
    return install(1, NULL, 0, NULL);
}
"""


def run_host(folder, *definitions):
    """(exit status, output) of such a program with the plugin."""
    (folder / "host.c").write_text(HOST)
    command = ["gcc", "-rdynamic", *definitions, "-o", folder / "host", folder / "host.c"]
    subprocess.run(command, check=True)
    ended = subprocess.run(
        [folder / "host", PLUGIN], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False
    )
    return ended.returncode, ended.stdout


def test_qemu_without_exports(tmp_path):
    status, output = run_host(tmp_path)
    assert status == 1
    assert output.count("\n") == 1 and "exports no device interface" in output


@pytest.mark.parametrize(
    "package, shown, file_part",
    [
        ("", "9.1.3 (there", "9.1.3.so"),
        ("v9.1.3-dirty", "9.1.3 (v9.1.3-dirty)", "9.1.3-v9.1.3-dirty.so"),
        # A binary-only rebuild is the same release.
        ("Debian 1:9.1.3+ds-1+b2", "9.1.3 (Debian 1:9.1.3+ds-1)", "9.1.3-Debian-1-9.1.3+ds-1.so"),
        ("../../etc x", "9.1.3 (../../etc x)", "9.1.3-..-..-etc-x.so"),
    ],
)
def test_release_without_library(tmp_path, package, shown, file_part):
    status, output = run_host(tmp_path, "-DVERSION=9,1,3", f'-DPACKAGE="{package}"')
    assert status == 1
    assert output.count("\n") == 1
    assert f"for this QEMU {shown}" in output
    assert output.endswith(f"/cloudblk-qemu-{file_part}\n")


# Structures that a local patch or a configure switch could have changed: header, and a line in it.
CHANGED = {
    "PCIDevice": ("hw/pci/pci_device.h hw/pci/pci.h", r"^struct PCIDevice \{$"),
    "VirtIOPCIProxy": ("hw/virtio/virtio-pci.h", r"^    VirtIOIRQFD \*vector_irqfd;$"),
    "VirtIODevice": ("hw/virtio/virtio.h", r"^    VMChangeStateEntry \*vmstate;$"),
}


@pytest.mark.parametrize("changed", [*CHANGED, None])
@pytest.mark.parametrize("release", RELEASES)
def test_structures_are_compared(release, changed, tmp_path):
    """A library of the right version that was compiled with another structure is refused."""
    source, build = script("qemu-headers", "--stock", release)
    (tmp_path / "flags").write_text("\n".join(script("qemu-cflags", build)))
    if changed:
        names, line = CHANGED[changed]
        # The structure has moved to another header between the releases.
        name = next(name for name in names.split() if (pathlib.Path(source) / "include" / name).exists())
        text, count = re.subn(
            line, r"\g<0>\n    uint64_t added[4];", (pathlib.Path(source) / "include" / name).read_text(), flags=re.M
        )
        assert count == 1
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    library = tmp_path / "library.so"
    # The entry points and the check alone: without a device there is nothing else to load.
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-w", "-iquote", tmp_path, f"@{tmp_path / 'flags'}", "-o", library]
        + [REPO / "hw/plugin" / name for name in ("device-library.c", "identity.c", "layout.c")],
        check=True,
    )
    ways = [(["-plugin", str(library)], {})]
    if is_installed(release):
        # The other one is started by a shell script, which is no program to preload this into.
        ways.append(([], {"LD_PRELOAD": str(library)}))
    for arguments, env in ways:
        status, (line,) = run_qemu(stock_qemu(release), [*arguments, "-machine", "none", "-device", "nonesuch"], env)
        assert status == 1
        assert ("has the version but not the structures" in line) == bool(changed)
        assert ("nonesuch" in line) != bool(changed)
