# SPDX-License-Identifier: GPL-2.0-or-later
"""Volumes behind nbdkit with our plugin, and the programs that people use with NBD."""

import json
import subprocess
import time

import pytest

from tests.support.nbd_server import Nbdkit
from tests.support.paths import CLIENT, NBDKIT_PLUGIN
from tests.support.proxy import Proxy
from tests.tools.test_commands import MIB, allocated, as_json, cloudblk, noise, output
from tests.tools.test_sparse import sparse_image

SIZE = 64 * MIB


class PluginServer(Nbdkit):
    """nbdkit with a volume."""

    def __init__(self, folder, volume, *parameters, read_only=False):
        self.volume, self.parameters, self.read_only = volume, parameters, read_only
        super().__init__(folder)

    def make(self):
        pass

    def plugin(self):
        return [*(["-r"] if self.read_only else []), NBDKIT_PLUGIN, f"server={self.volume}", *self.parameters]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "disk.img"


@pytest.fixture
def proxy(path):
    volumes = {
        "disk": f"file://{path}?size={SIZE}&create=on",
        "memory": f"memory:?size={SIZE}&logical-block-size=4096",
    }
    with Proxy(volumes) as started:
        yield started


@pytest.fixture
def served(proxy, tmp_path):
    with PluginServer(tmp_path, proxy.uri("disk")) as started:
        yield started


def run(*command, **options):
    return subprocess.run(
        [str(word) for word in command], capture_output=True, timeout=300, check=False, **{"text": True, **options}
    )


def said(*command):
    """What a program that must succeed prints."""
    result = run(*command)
    assert result.returncode == 0, result
    return result.stdout


def test_what_is_promised(served, proxy, tmp_path):
    (export,) = json.loads(said("nbdinfo", "--json", served.uri()))["exports"]
    assert export["export-size"] == SIZE and export["contexts"] == ["base:allocation"]
    yes = ("can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero")
    no = ("is_read_only", "is_rotational", "can_cache", "can_fast_zero")
    assert {name: export[name] for name in yes + no} == dict.fromkeys(yes, True) | dict.fromkeys(no, False)
    assert export["block_size_minimum"] == as_json("info", proxy.uri("disk"))["logical-block-size"]
    with PluginServer(tmp_path, proxy.uri("memory")) as other:
        (export,) = json.loads(said("nbdinfo", "--json", other.uri()))["exports"]
        assert export["block_size_minimum"] == export["block_size_preferred"] == 4096


def test_where_there_is_data(served, proxy):
    uri = proxy.uri("disk")
    output("write", "--offset", "1M", uri, data=noise(MIB))
    output("write", "--offset", "63M", uri, data=noise(MIB))
    found = json.loads(said("nbdinfo", "--map", "--json", served.uri()))
    assert [(part["offset"], part["length"], part["type"]) for part in found] == [
        (0, MIB, 3), (MIB, MIB, 0), (2 * MIB, 61 * MIB, 3), (63 * MIB, MIB, 0)
    ]


def test_copies_in_both_directions(served, proxy, path, tmp_path):
    """By every program; holes stay holes."""
    source = sparse_image(tmp_path / "source.raw", SIZE, [(5 * MIB, noise(3 * MIB)), (SIZE - 4096, noise(4096, 2))])
    copy = tmp_path / "copy.raw"
    for into, out in (
        (("nbdcopy", source, served.uri()), ("nbdcopy", served.uri(), copy)),
        (("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, served.uri()),
         ("qemu-img", "convert", "-f", "raw", "-O", "raw", served.uri(), copy)),
    ):
        output("write", proxy.uri("disk"), data=noise(SIZE, 3))
        said(*into)
        assert output("read", proxy.uri("disk")) == source.read_bytes(), into
        said(*out)
        assert copy.read_bytes() == source.read_bytes(), out
        said("qemu-img", "compare", "-f", "raw", "-F", "raw", served.uri(), source)
        assert allocated(copy) < 5 * MIB, out
        assert allocated(path) < 5 * MIB, into
        copy.unlink()


def test_qcow2_both_ways(served, proxy, tmp_path):
    first, second = tmp_path / "first.qcow2", tmp_path / "second.qcow2"
    output("write", proxy.uri("disk"), data=noise(SIZE))
    said("qemu-img", "convert", "-f", "raw", "-O", "qcow2", served.uri(), first)
    output("discard", "--length", str(SIZE), proxy.uri("disk"))
    said("qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", first, served.uri())
    assert output("read", proxy.uri("disk")) == noise(SIZE)
    said("qemu-img", "convert", "-f", "raw", "-O", "qcow2", served.uri(), second)
    said("qemu-img", "compare", first, second)


def test_verified_load(served, tmp_path):
    """Many requests at once, over several connections."""
    report = tmp_path / "report.json"
    said(
        "fio", "--output-format=json", f"--output={report}", "--name=load", "--ioengine=nbd", f"--uri={served.uri()}", "--rw=randrw",
        "--bssplit=4k/60:64k/30:1M/10", f"--size={SIZE}", "--iodepth=32", "--verify=crc32c", "--verify_fatal=1",
        f"--aux-path={tmp_path}",
    )  # fmt: skip
    (job,) = json.loads(report.read_text())["jobs"]
    assert job["error"] == 0 and job["write"]["total_ios"] > 0 and job["read"]["total_ios"] > 0


def test_several_clients_share_the_session(served, tmp_path):
    source = tmp_path / "source.raw"
    source.write_bytes(noise(SIZE))
    said("nbdcopy", "--connections=4", "--requests=16", source, served.uri())
    with subprocess.Popen(["nbdcopy", served.uri(), "-"], stdout=subprocess.PIPE) as slow:
        assert slow.stdout.read(1) == noise(SIZE)[:1]
        said("qemu-img", "compare", "-f", "raw", "-F", "raw", served.uri(), source)
        assert slow.stdout.read() == noise(SIZE)[1:]
    assert slow.returncode == 0


def test_the_volume_is_held_while_there_are_clients(served, proxy):
    uri = proxy.uri("disk")
    output("write", uri, data=noise(SIZE))
    with subprocess.Popen(["nbdcopy", served.uri(), "-"], stdout=subprocess.PIPE) as reader:
        assert reader.stdout.read(1) == noise(SIZE)[:1]
        assert b"in use" in cloudblk("flush", uri).stderr
        reader.stdout.read()
    assert reader.returncode == 0
    output("flush", uri)
    with subprocess.Popen([CLIENT, "write", uri], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as holder:
        while b"in use" not in cloudblk("flush", uri).stderr:
            pass
        assert run("nbdinfo", "--size", served.uri()).returncode != 0
        holder.communicate(b"")
    # It goes on when it can have the volume again
    assert said("nbdinfo", "--size", served.uri()) == f"{SIZE}\n"


def test_read_only(proxy, tmp_path):
    with PluginServer(tmp_path, proxy.uri("disk"), read_only=True) as served:
        (export,) = json.loads(said("nbdinfo", "--json", served.uri()))["exports"]
        assert export["is_read_only"]
        assert "Permission denied" in run("qemu-io", "-f", "raw", "-c", "write 0 4k", served.uri()).stderr
        said("qemu-io", "-r", "-f", "raw", "-c", "read -P 0 0 4k", served.uri())


def test_zeros_flush_and_trim(served, proxy, path):
    uri = proxy.uri("disk")
    output("write", uri, data=noise(SIZE))
    said("qemu-io", "-f", "raw", "-d", "unmap", "-c", "write -z -u 0 1M", "-c", "write -z -f 1M 1M", "-c", "discard 2M 8M",
         "-c", "write -f -P 7 16M 4k", "-c", "flush", served.uri())  # fmt: skip
    content = output("read", uri)
    assert content[: 2 * MIB] == bytes(2 * MIB)
    assert content[10 * MIB : 16 * MIB] == noise(SIZE)[10 * MIB : 16 * MIB]
    assert content[16 * MIB : 16 * MIB + 4096] == b"\x07" * 4096
    assert allocated(path) <= SIZE - 8 * MIB


def test_a_request_that_cannot_be_is_refused(served):
    """And the server goes on."""
    wrong = run("fio", "--name=odd", "--ioengine=nbd", f"--uri={served.uri()}", "--rw=read", "--bs=1000", "--size=1M")
    assert wrong.returncode != 0 and "Invalid argument" in wrong.stdout + wrong.stderr
    assert said("nbdinfo", "--size", served.uri()) == f"{SIZE}\n"


def test_what_is_wrong_is_said_at_start(proxy, tmp_path):
    command = ["nbdkit", "-f", "-U", tmp_path / "socket", NBDKIT_PLUGIN]
    for parameters, text in (
        ([], "say which volume"),
        (["server=nonsense"], "nonsense"),
        ([f"server={proxy.uri('none')}"], "there is no volume 'none' here"),
        (["server=cloudblk://127.0.0.1:1/d0"], "127.0.0.1"),
        ([f"server={proxy.uri('disk')}", "colour=red"], "there is no parameter 'colour'"),
    ):
        failed = run(*command, *parameters)
        assert failed.returncode == 1 and text in failed.stderr, failed


def test_requests_wait_for_a_proxy_that_restarts(served, proxy, path):
    with subprocess.Popen(["nbdcopy", "-", served.uri()], stdin=subprocess.PIPE) as copy:
        copy.stdin.write(noise(SIZE)[: SIZE // 2])
        copy.stdin.flush()
        proxy.kill()
        proxy.start()
        copy.communicate(noise(SIZE)[SIZE // 2 :])
    assert copy.returncode == 0
    assert path.read_bytes() == noise(SIZE)


# At most, for a figure of a machine with other work
ROUNDS = 7


def test_a_sparse_volume_is_exported_as_fast_as_what_it_has(tmp_path):
    """The rest, 99.75 % of it, at most doubles the time: with every program."""
    data, huge = 64 * MIB, 25 << 30
    volumes = {"sparse": f"file://{tmp_path}/s.img?size={huge}&create=on", "full": f"file://{tmp_path}/f.img?size={data}&create=on"}
    with Proxy(volumes) as proxy:
        content = noise(MIB)
        for part in range(0, data, MIB):  # in pieces all over the volume
            output("write", "--offset", str(part * (huge // data)), proxy.uri("sparse"), data=content)
        output("write", proxy.uri("full"), data=content * (data // MIB))
        out = tmp_path / "out.raw"
        for command in (
            lambda uri, _: (CLIENT, "export", uri, out),
            lambda _, nbd: ("qemu-img", "convert", "-f", "raw", "-O", "raw", nbd, out),
        ):
            taken = {name: [] for name in volumes}
            # Interleaved, as the machine has other work now and then
            for _ in range(ROUNDS):
                for volume, seconds in taken.items():
                    with PluginServer(tmp_path, proxy.uri(volume), read_only=True) as served:
                        start = time.monotonic()
                        said(*command(proxy.uri(volume), served.uri()))
                        seconds.append(time.monotonic() - start)
                    assert allocated(out) <= data + MIB
                    out.unlink()
                if min(taken["sparse"]) <= 2 * min(taken["full"]):
                    break
            else:
                raise AssertionError((command, taken))
