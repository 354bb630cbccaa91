# SPDX-License-Identifier: GPL-2.0-or-later
"""`cloudblk libvirt-xml`: what it prints, and where in a domain it puts a disk. tests/libvirt starts such domains."""

import os
import xml.etree.ElementTree as ElementTree

import pytest

from tests.tools.test_commands import cloudblk

URI = "cloudblk://one,two/vol"
ARG = "{http://libvirt.org/schemas/domain/qemu/1.0}arg"
# In place of virsh: it gives the domain `have`, and keeps what it is told to define.
VIRSH = r"""#!/bin/sh
cd {folder}
echo "$*" >>calls
case "$*" in
  *dumpxml*) if [ -e have ]; then cat have; else
    printf 'error: failed to get domain\nerror: no domain\n' >&2; exit 1; fi ;;
  *define*) cat /dev/stdin >defined || exit 1 ;;
esac
"""
DOMAIN = """<domain type='kvm'{root}>
  <name>d</name>{more}
  <os><type machine='{machine}'>hvm</type>{boot}</os>
  <devices>{devices}</devices>{end}
</domain>"""
SPACE = " xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'"


def arguments(text):
    return [each.get("value") for each in ElementTree.fromstring(text).iter(ARG)]


def address(slot, function=0, bus=0):
    return (
        f"<controller type='pci' index='{slot * 8 + function}'><address type='pci' domain='0x0000' bus='{bus:#04x}'"
        f" slot='{slot:#04x}' function='{function:#x}'/></controller>"
    )


def printed(*words):
    result = cloudblk("libvirt-xml", *words)
    assert result.returncode == 0, result.stderr
    return result.stdout.decode()


def refused(*words):
    result = cloudblk("libvirt-xml", *words)
    assert result.returncode != 0 and result.stdout == b""
    said = result.stderr.decode()
    assert said.count("\n") == 1, said
    return said


@pytest.fixture
def virsh(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "virsh").write_text(VIRSH.format(folder=tmp_path))
    (folder / "virsh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path


@pytest.fixture
def add(virsh):
    """Adds a disk to a domain, and gives the arguments that it has then; with_text: the whole domain."""

    def run(*words, root="", more="", machine="pc-q35-7.2", boot="", devices="", end="", with_text=False):
        text = DOMAIN.format(root=root, more=more, machine=machine, boot=boot, devices=devices, end=end)
        (virsh / "have").write_text(text)
        made = printed(URI, "--domain", "d", "--print", *words)
        return made if with_text else arguments(made)

    return run


@pytest.fixture
def not_added(virsh):
    def run(*words, root="", more="", machine="pc-q35-7.2", boot="", devices="", end=""):
        text = DOMAIN.format(root=root, more=more, machine=machine, boot=boot, devices=devices, end=end)
        (virsh / "have").write_text(text)
        return refused(URI, "--domain", "d", *words)

    return run


def commandline(*words):
    inside = "".join(f"<qemu:arg value='{word}'/>" for word in words)
    return {"root": SPACE, "end": f"<qemu:commandline>{inside}<qemu:env name='A' value='b'/></qemu:commandline>"}


def test_it_prints_what_a_domain_needs():
    assert arguments(printed(URI)) == [
        "-plugin",
        "/usr/lib/cloudblk/cloudblk.so",
        "-device",
        "pcie-root-port,id=cloudblk0-port,bus=pcie.0,addr=0x08,chassis=136",
        "-device",
        "cloudblk-pci,server=cloudblk://one,,two/vol,id=cloudblk0,bus=cloudblk0-port,addr=0x00",
    ]


def test_options():
    words = ["--iothread", "2", "--bootindex", "3", "--id", "root", "--address", "pcie.0:0x9", "--property", "serial=a,b",
             "--property", "num-queues=2", "--plugin", "/x.so"]
    text = printed(URI, *words)
    assert "<iothreads>2</iothreads>" in text
    plugin, port, disk = arguments(text)[1::2]
    assert plugin == "/x.so"
    assert port == "pcie-root-port,id=root-port,bus=pcie.0,addr=0x09,chassis=137"
    assert disk.endswith("id=root,bus=root-port,addr=0x00,iothread=iothread2,bootindex=3,serial=a,,b,num-queues=2")


def test_compiled_in_and_on_a_bus_that_is_no_root():
    assert arguments(printed("cloudblk://h/v", "--compiled-in", "--address", "pci.0:1f")) == [
        "-device", "cloudblk-pci,server=cloudblk://h/v,id=cloudblk0,bus=pci.0,addr=0x1f"
    ]


@pytest.mark.parametrize(
    "words, said",
    [
        (["http://h/v"], "http"),
        ([URI, "--address", "pcie.0"], "is no BUS:SLOT"),
        ([URI, "--address", "pcie.0:20"], "is no BUS:SLOT"),
        ([URI, "--address", ":1"], "is no BUS:SLOT"),
        ([URI, "--iothread", "0"], "--iothread"),
        ([URI, "--bootindex", "x"], "--bootindex"),
        ([URI, "--property", "serial"], "is no NAME=VALUE"),
        ([URI, "--property", "addr=1"], "another option"),
        ([URI, "--plugin", "cloudblk.so"], "begin with /"),
        ([URI, "--plugin", "/x.so", "--compiled-in"], "exclude each other"),
    ],
)
def test_mistakes(words, said):
    assert said in refused(*words)


def test_it_defines_a_domain(virsh):
    (virsh / "have").write_text(DOMAIN.format(root="", more="", machine="pc-q35-7.2", boot="", devices="", end=""))
    assert printed(URI, "--domain", "d", "--connect", "qemu:///x") == (
        "domain d has cloudblk0 from its next start on, at slot 0x08 of pcie.0\n"
    )
    defined = (virsh / "defined").read_text()
    assert len(arguments(defined)) == 6
    assert "--security-info" in (virsh / "calls").read_text()
    assert all("--connect qemu:///x" in call for call in (virsh / "calls").read_text().splitlines())
    (virsh / "defined").unlink()
    printed(URI, "--domain", "d", "--print")
    assert not (virsh / "defined").exists()


def test_what_virsh_refuses_is_one_line(virsh):
    assert "no domain" in refused(URI, "--domain", "d")
    (virsh / "have").write_text("<network/>")
    assert "not the XML of a domain" in refused(URI, "--domain", "d")


def test_without_virsh(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "libvirt-clients" in refused(URI, "--domain", "d")


def test_slots_of_libvirts_devices_are_left_alone(add):
    devices = address(0x08) + address(0x09, 3) + address(0x0A, bus=1)
    assert "addr=0x0a,chassis=138" in add(devices=devices)[3]


def test_a_second_disk_is_beside_the_first(add):
    first = add(with_text=True)
    words = arguments(first)
    second = add(**commandline(*(word.replace("/vol", "/other") for word in words)))
    assert second[:6] == [word.replace("/vol", "/other") for word in words]
    assert second[6:] == [
        "-device",
        "pcie-root-port,id=cloudblk1-port,bus=pcie.0,addr=0x09,chassis=137",
        "-device",
        "cloudblk-pci,server=cloudblk://one,,two/vol,id=cloudblk1,bus=cloudblk1-port,addr=0x00",
    ]


def test_a_disk_that_was_written_as_json_is_seen(add):
    other = '{"driver":"cloudblk-pci","id":"cloudblk0","bus":"pcie.0","addr":"0x8.0","bootindex":1}'
    assert "id=cloudblk1" in add(**commandline("-device", other.replace('"', "&quot;")))[-1]


def test_what_the_domain_has_stays(add):
    text = add("--iothread", "1", with_text=True, **commandline("-device", "other"), more="<description>a  b</description>")
    root = ElementTree.fromstring(text)
    assert root.findtext("description") == "a  b" and root.findtext("iothreads") == "1"
    line = root.find(ARG.replace("}arg", "}commandline"))
    assert [each.tag.split("}")[1] for each in line] == ["arg"] * 8 + ["env"]


def test_pc(add):
    assert add(machine="pc-i440fx-7.2", devices=address(0x10))[-1].endswith("bus=pci.0,addr=0x11")


def test_machines_that_are_not_known(add, not_added):
    assert "say --address" in not_added(machine="microvm")
    assert add("--address", "bus:3", machine="microvm")[-1].endswith("bus=bus,addr=0x03")


def test_all_slots_are_taken(not_added):
    assert "slots 0x8 to 0x18" in not_added(devices="".join(address(slot) for slot in range(8, 0x19)))


def test_what_is_taken_is_refused(not_added):
    had = "cloudblk-pci,server=cloudblk://one,,two/vol,id=mine,bus=pci.3,addr=0x0"
    assert "already, as mine" in not_added(**commandline("-device", had))
    other = had.replace("vol", "other")
    assert "id mine" in not_added("--id", "mine", **commandline("-device", other))
    assert "something at pci.3:0" in not_added("--address", "pci.3:0", **commandline("-device", other))
    assert "something at pcie.0:8" in not_added("--address", "pcie.0:8", devices=address(8))


def test_boot_order(add, not_added):
    disk = "<disk type='file' device='disk'/>"
    assert add("--bootindex", "1", boot="<boot dev='hd'/>")[-1].endswith("bootindex=1")
    assert "--bootindex 2" in not_added("--bootindex", "1", boot="<boot dev='hd'/>", devices=disk)
    assert "--bootindex 3" in not_added(
        "--bootindex", "2", boot="<boot dev='hd'/><boot dev='network'/>", devices=disk + "<interface/>")
    assert "--bootindex 2" in not_added("--bootindex", "1", devices="<interface><boot order='1'/></interface>")
    assert "--bootindex 1" in not_added("--bootindex", "4", **commandline("-device", "x,bootindex=4"))


def test_iothreads(add, not_added):
    assert "<iothreads>2</iothreads>" in add("--iothread", "2", with_text=True)
    assert "iothread=iothread2" in add("--iothread", "2", more="<iothreads>2</iothreads>")[-1]
    assert "virsh iothreadadd" in not_added("--iothread", "3", more="<iothreads>2</iothreads>")
    named = "<iothreads>1</iothreads><iothreadids><iothread id='7'/></iothreadids>"
    assert "iothread=iothread7" in add("--iothread", "7", more=named)[-1]
    assert "virsh iothreadadd" in not_added("--iothread", "1", more=named)


def test_json(virsh):
    result = cloudblk("--json", "libvirt-xml", URI)
    assert result.returncode == 0 and b'"slot": 8' in result.stdout


def test_credentials_of_tls(tmp_path):
    keys = tmp_path / "psk"
    keys.mkdir()
    (keys / "keys.psk").write_text("alice:00112233445566778899aabbccddeeff\n")
    found = arguments(printed("cloudblks://one/vol", "--tls-dir", keys, "--tls-username", "alice", "--compiled-in"))
    assert f"tls-creds-psk,id=cloudblk0-tls,endpoint=client,dir={keys},username=alice" in found
    assert "tls-creds=cloudblk0-tls" in found[-1]
    # What is used has to come first
    assert found.index("-object") < found.index(found[-1])
    certificates = tmp_path / "x509"
    certificates.mkdir()
    (certificates / "ca-cert.pem").write_text("")
    words = ("nbds://one/vol", "--tls-dir", certificates, "--tls-hostname", "disk", "--compiled-in")
    found = arguments(printed(*words))
    assert f"tls-creds-x509,id=cloudblk0-tls,endpoint=client,dir={certificates}" in found
    assert "tls-hostname=disk" in found[-1]
    assert "--tls-dir" in refused("cloudblks://one/vol")
    assert "cloudblks://" in refused(URI, "--tls-dir", keys)
    assert "keys.psk" in refused("cloudblks://one/vol", "--tls-dir", tmp_path)
    assert "begin with /" in refused("cloudblks://one/vol", "--tls-dir", "keys")
