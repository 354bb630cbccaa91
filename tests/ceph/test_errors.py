# SPDX-License-Identifier: GPL-2.0-or-later
"""What is wrong is one line that names the cause and what to do."""

import subprocess
import time

import pytest

from tests.chaos.daemon import Daemon, run_client, wait_for
from tests.support.ceph import Ceph
from tests.support.standstill import freeze, thaw

from .conftest import SIZE

pytestmark = pytest.mark.brief

# Seconds after which nothing may be waited for any more
PATIENCE = 15
OPEN_TIMEOUT = "10000"


def refusal(tmp_path, uri):
    """The one line of a proxy that cannot start."""
    proxy = Daemon(tmp_path, {"disk": uri}).launch()
    try:
        assert proxy.process.wait(PATIENCE) == 1, proxy.log()
    finally:
        proxy.__exit__()
    lines = proxy.log().strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    "spec, cause, remedy",
    [
        ("nowhere/image", "no pool 'nowhere'", "ceph osd pool ls"),
        ("rbd/nothing", "no image 'nothing'", "rbd ls"),
        ("rbd/nowhere/image", "no namespace 'nowhere'", "rbd namespace ls rbd"),
    ],
)
def test_what_is_not_there(cluster, tmp_path, spec, cause, remedy):
    line = refusal(tmp_path, f"rbd:///{spec}?conf={cluster.conf}")
    assert cause in line and remedy in line


def test_no_such_snapshot(cluster, image, tmp_path):
    line = refusal(tmp_path, cluster.uri(f"{image}@never"))
    assert "snapshot 'never'" in line and "rbd snap ls" in line


def test_no_such_configuration(tmp_path):
    line = refusal(tmp_path, f"rbd:///rbd/image?conf={tmp_path}/no.conf")
    assert f"conf={tmp_path}/no.conf" in line and "No such file" in line


def test_a_configuration_that_is_none(tmp_path):
    (tmp_path / "other.conf").write_text("{ this is JSON }\n")
    line = refusal(tmp_path, f"rbd:///rbd/image?conf={tmp_path}/other.conf")
    assert "other.conf" in line


def test_a_user_without_a_key(cephx, tmp_path):
    line = refusal(tmp_path, cephx.uri("image", id="nobody"))
    assert "no key for client.nobody" in line and "keyring" in line


def test_a_user_whose_key_is_another(cephx, tmp_path):
    cephx.add_client("once", mon="profile rbd", osd="profile rbd")
    cephx.ceph("auth", "rm", "client.once")
    line = refusal(tmp_path, cephx.uri("image", id="once"))
    assert "client.once" in line and "key" in line


def test_a_user_who_may_not_use_the_pool(cephx, tmp_path):
    cephx.create_image("forbidden", 1 << 20)
    cephx.add_client("guest", mon="profile rbd", osd="profile rbd pool=other")
    line = refusal(tmp_path, cephx.uri("forbidden", id="guest"))
    assert "client.guest" in line and "profile rbd" in line


def test_an_image_without_the_exclusive_lock(cluster, tmp_path):
    image = cluster.create_image("unlocked", 1 << 20, "--image-feature", "layering")
    line = refusal(tmp_path, cluster.uri(image))
    assert "exclusive-lock" in line and f"rbd feature enable {cluster.spec(image)}" in line


def test_an_encrypted_image(cluster, tmp_path):
    """By its beginning: what makes one takes long."""
    (tmp_path / "encrypted").write_bytes(b"LUKS\xba\xbe\0\x02" + bytes(1 << 20))
    cluster.rbd("import", "--no-progress", tmp_path / "encrypted", cluster.spec("encrypted"))
    line = refusal(tmp_path, cluster.uri("encrypted"))
    assert "volume 'disk'" in line and "LUKS" in line and cluster.spec("encrypted") in line


@pytest.mark.parametrize(
    "uri, text",
    [
        ("rbd:///image", "rbd:///pool/image"),
        ("rbd:///", "rbd:///pool/image"),
        ("rbd:////pool/image", "rbd:///pool/image"),
        ("rbd:///pool//image", "rbd:///pool/image"),
        ("rbd:///pool/space/image/more", "rbd:///pool/image"),
        ("rbd://host/pool/image", "three slashes"),
        ("rbd:pool/image", "three slashes"),
        ("rbd:///pool/image@", "snapshot"),
        ("rbd:///pool/image@s?read-only=off", "snapshot"),
        ("rbd:///pool/image?size=1G", "size"),
        ("rbd:///pool/image?cnof=/etc/ceph/ceph.conf", "cnof"),
        ("rbd:///pool/image?read-only=perhaps", "read-only"),
        ("rbd:///pool/image?id=client.admin", "client."),
    ],
)
def test_a_bad_uri(tmp_path, uri, text):
    line = refusal(tmp_path, uri)
    assert f"'{uri}'" in line and text in line.replace(f"'{uri}'", "")


# --- Somebody else has the image: that may end, so it is for whoever opens the volume.


def try_to_open(proxy):
    """What a client is told, after the line that it waits for whoever has the image."""
    began = time.monotonic()
    status, output = run_client("flush", "--timeout", OPEN_TIMEOUT, proxy.uri("disk"))
    assert time.monotonic() - began < PATIENCE
    assert status == 1, output
    return output.strip().splitlines()[-1]


def opens(proxy):
    return run_client("flush", "--timeout", OPEN_TIMEOUT, proxy.uri("disk"))[0] == 0


def test_an_image_that_somebody_has_locked(cluster, image, tmp_path):
    cluster.rbd("lock", "add", cluster.spec(image), "maintenance")
    with Daemon(tmp_path, {"disk": cluster.uri(image)}) as proxy:
        [locker] = cluster.lockers(image)
        line = try_to_open(proxy)
        assert locker in line and "rbd lock ls" in line
        cluster.rbd("lock", "rm", cluster.spec(image), "maintenance", locker)
        assert opens(proxy)


def test_info_says_who_of_the_cluster_is_away(tmp_path):
    with Ceph() as cluster:
        cluster.create_image("image", SIZE)
        with Daemon(tmp_path, {"disk": cluster.uri("image")}) as proxy:
            status, output = run_client("info", proxy.uri("disk"))
            assert status == 0 and "answer" not in output
            freeze(cluster.osd.process)
            status, output = run_client("info", proxy.uri("disk"))
            assert status == 0 and "rbd/image: its OSD does not answer" in output, output
            freeze(cluster.mon.process)
            status, output = run_client("info", proxy.uri("disk"))
            assert status == 0 and "none of the cluster's monitors answers" in output, output
            thaw(cluster.osd.process)
            thaw(cluster.mon.process)
            status, output = run_client("info", proxy.uri("disk"))
            assert status == 0 and "answer" not in output


def test_an_image_that_another_client_of_ceph_uses(cluster, image, tmp_path):
    """It would give the lock away if asked, as those of a guest do when they migrate: nobody asks."""
    load = subprocess.Popen(
        cluster.rbd_command("bench", "--io-type", "write", "--io-total", "1T", cluster.spec(image)),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        [locker] = wait_for(lambda: cluster.lockers(image), "the lock of the load")
        with Daemon(tmp_path, {"disk": cluster.uri(image)}) as proxy:
            line = try_to_open(proxy)
            assert locker in line
            assert cluster.lockers(image) == [locker]
            assert load.poll() is None
            load.terminate()
            load.wait(PATIENCE)
            wait_for(lambda: opens(proxy), "the volume", 60)
    finally:
        if load.poll() is None:
            load.kill()
            load.wait()


def test_a_snapshot_is_read(cluster, image, tmp_path):
    """Also while somebody has the image."""
    data = bytes(range(256)) * 16
    with Daemon(tmp_path, {"disk": cluster.uri(image)}) as proxy:
        (tmp_path / "data").write_bytes(data)
        assert run_client("write", proxy.uri("disk"), tmp_path / "data")[0] == 0
        cluster.rbd("snap", "create", "--no-progress", f"{cluster.spec(image)}@before")
        (tmp_path / "other").write_bytes(data[::-1])
        assert run_client("write", proxy.uri("disk"), tmp_path / "other")[0] == 0
    cluster.rbd("lock", "add", cluster.spec(image), "maintenance")
    with Daemon(tmp_path, {"disk": cluster.uri(f"{image}@before")}) as proxy:
        status, _ = run_client("read", "--length", len(data), proxy.uri("disk"), tmp_path / "found")
        assert status == 0 and (tmp_path / "found").read_bytes() == data
        status, output = run_client("write", proxy.uri("disk"), tmp_path / "data")
        assert status == 1 and "read-only" in output
