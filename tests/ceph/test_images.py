# SPDX-License-Identifier: GPL-2.0-or-later
"""Users, namespaces, kinds of images, and clusters that are away for a while."""

import contextlib
import signal
import subprocess

import pytest

from tests.chaos import wire_client as wire
from tests.chaos.daemon import Daemon, run_client, wait_for
from tests.chaos.wire_client import opened
from tests.support.ceph import Ceph
from tests.support.standstill import freeze, hanging

from .conftest import SIZE
from .test_errors import refusal

BLOCK = 4096
PATIENCE = 60


def folder(tmp_path, name):
    (tmp_path / name).mkdir()
    return tmp_path / name


@pytest.mark.parametrize("space", ["", "space"], ids=["pool", "namespace"])
def test_a_user_with_few_capabilities_serves(cephx, tmp_path, space):
    """It takes the lock, writes, and gives the lock back."""
    image = f"{space}/served" if space else "served"
    if space:
        cephx.rbd("namespace", "create", cephx.spec(space))
    cephx.create_image(image, SIZE)
    user = f"serves-{space or 'pool'}"
    limit = f"pool={cephx.pool}" + (f" namespace={space}" if space else "")
    cephx.add_client(user, mon="profile rbd", osd=f"profile rbd {limit}")
    with Daemon(tmp_path, {"disk": cephx.uri(image, id=user)}) as proxy:
        assert not cephx.lockers(image)
        one = opened(proxy)
        assert len(cephx.lockers(image)) == 1
        assert one.write(0, b"x" * BLOCK) == wire.OK and one.flush() == wire.OK
        assert one.close()[0] == wire.OK
        assert not cephx.lockers(image)
        assert proxy.stop() == 0
    data = cephx.export(image, tmp_path / "export").read_bytes()
    assert data == b"x" * BLOCK + bytes(SIZE - BLOCK)


def test_a_user_with_few_capabilities_takes_over(cephx, tmp_path):
    """From a proxy that stands still: it has to be locked out of the cluster."""
    cephx.create_image("taken", SIZE)
    cephx.add_client("taker", mon="profile rbd", osd=f"profile rbd pool={cephx.pool}")
    volumes = {"disk": cephx.uri("taken", id="taker")}
    with Daemon(folder(tmp_path, "a"), volumes) as first, Daemon(folder(tmp_path, "b"), volumes) as second:
        assert opened(first).write(0, b"1" * BLOCK) == wire.OK
        freeze(first.process)
        one = opened(second, PATIENCE, flags=wire.ACTIVE | wire.TAKEOVER)
        assert one.read(0, BLOCK) == (wire.OK, b"1" * BLOCK)
        assert one.write(0, b"2" * BLOCK) == wire.OK
        assert one.close()[0] == wire.OK


def test_a_client_of_ceph_that_died_does_not_keep_its_image(cluster, image, tmp_path):
    with subprocess.Popen(
        cluster.rbd_command("bench", "--io-type", "write", "--io-total", "1T", cluster.spec(image)),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    ) as load:  # fmt: skip
        wait_for(lambda: cluster.lockers(image), "the lock of the load")
        load.send_signal(signal.SIGKILL)
    with Daemon(tmp_path, {"disk": cluster.uri(image)}) as proxy:
        # After 30 s the cluster takes it for dead
        wait_for(lambda: run_client("flush", "--timeout", "5000", proxy.uri("disk"))[0] == 0, "the volume", PATIENCE)


@pytest.mark.parametrize("kind", ["luks1", "luks2"])
def test_an_image_that_rbd_has_encrypted(cluster, image, tmp_path, kind):
    (tmp_path / "passphrase").write_text("secret")
    cluster.rbd("encryption", "format", cluster.spec(image), kind, tmp_path / "passphrase", timeout=120)
    assert "LUKS" in refusal(tmp_path, cluster.uri(image))


@pytest.mark.parametrize("options", [("--object-size", "64K"), ("--object-size", "32M"),
                                     ("--stripe-unit", "64K", "--stripe-count", "4"),
                                     ("--image-feature", "layering,exclusive-lock")])  # fmt: skip
def test_verified_load_on_images_of_every_kind(cluster, image, tmp_path, options):
    name = cluster.create_image(f"{image}-of-a-kind", SIZE, *options)
    with Daemon(tmp_path, {"disk": cluster.uri(name)}) as proxy:
        for size in "512", "4k", "1M":
            status, output = run_client("bench", proxy.uri("disk"), "--pattern", "randrw", "--size", size,
                                        "--depth", "16", "--seconds", "2", "--verify")  # fmt: skip
            assert status == 0 and "verified" in output, output


def test_a_clone_is_served(cluster, image, tmp_path):
    with Daemon(folder(tmp_path, "a"), {"disk": cluster.uri(image)}) as proxy:
        one = opened(proxy)
        assert one.write(0, b"p" * BLOCK) == wire.OK and one.flush() == wire.OK
    parent, child = f"{cluster.spec(image)}@base", f"{image}-child"
    cluster.rbd("snap", "create", "--no-progress", parent)
    cluster.rbd("clone", "--rbd-default-clone-format", "2", parent, cluster.spec(child))
    with Daemon(folder(tmp_path, "b"), {"disk": cluster.uri(child)}) as proxy:
        one = opened(proxy)
        assert one.read(0, BLOCK) == (wire.OK, b"p" * BLOCK)
        assert one.write(BLOCK, b"c" * BLOCK) == wire.OK
        assert one.read(0, 2 * BLOCK) == (wire.OK, b"p" * BLOCK + b"c" * BLOCK)


def test_a_proxy_starts_before_its_cluster_answers(tmp_path):
    with Ceph("bluestore") as cluster, contextlib.ExitStack() as stack:
        cluster.create_image("image", SIZE)
        with hanging(cluster.mon):
            volumes = {"disk": cluster.uri("image"), "other": "memory:?size=1M"}
            proxy = stack.enter_context(Daemon(tmp_path, volumes))
        wait_for(lambda: run_client("flush", proxy.uri("disk"))[0] == 0, "the volume", PATIENCE)


def test_a_proxy_ends_while_its_cluster_does_not_answer(cluster, image, tmp_path):
    with Daemon(tmp_path, {"disk": cluster.uri(image)}) as proxy:
        one = opened(proxy)
        assert one.write(0, bytes(BLOCK)) == wire.OK
        with hanging(cluster.osd), hanging(cluster.mon):
            one.submit(wire.WRITE, 0, data=b"x" * BLOCK)
            proxy.process.terminate()
            # Its exit status says whether the volume was given back, which it cannot be
            proxy.process.wait(31)
