# SPDX-License-Identifier: GPL-2.0-or-later
"""A volume is taken over from a proxy that cannot be asked, and what that one still sends must never land."""

import contextlib

import pytest

from tests.chaos import wire_client as wire
from tests.chaos.daemon import Daemon, client, wait_for
from tests.chaos.wire_client import Disconnected, Refused, opened
from tests.support import network
from tests.support.ceph import Ceph, sockets
from tests.support.standstill import freeze, thaw

from .conftest import SIZE

BLOCK = 4096
BLOCKS = 16
PATIENCE = 60
# Ceph's own protection, and the same without it: then late writes do land, and the tests see them.
BLOCKLISTS = {"fenced": {}, "unfenced": {"rbd_blocklist_on_break_lock": "false"}}
LOAD = ("--pattern", "randrw", "--verify", "--depth", "16", "--seconds", "45")
# What the proxy that has lost its volume says
LOST = "on its blocklist"


@pytest.fixture(params=BLOCKLISTS)
def protection(request):
    return request.param


@pytest.fixture
def net():
    if not network.possible():
        pytest.skip("no network namespaces can be made here: that needs root")
    with network.Network() as made:
        yield made


def daemon(tmp_path, name, *arguments, **more):
    (tmp_path / name).mkdir()
    return Daemon(tmp_path / name, *arguments, **more)


@contextlib.contextmanager
def load_on(proxy, volume):
    """Verified load, which is killed at the end if it has not ended by itself."""
    process = client("bench", proxy.uri(volume), *LOAD)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def connect(net, namespace, proxy):
    one = net.run(namespace, lambda: wire.Client(proxy.address, PATIENCE))
    one.hello()
    return one


def opened_if_free(proxy):
    try:
        return opened(proxy, PATIENCE, name="again")
    except Refused as refused:
        assert refused.status == wire.BUSY
        return None


def write(one, blocks, letter):
    """Sends a write for each block; their tags."""
    return [one.submit(wire.WRITE, block * BLOCK, data=letter * BLOCK) for block in blocks]


def write_all(one, letter):
    for tag in write(one, range(BLOCKS), letter):
        assert one.wait(tag)[0] == wire.OK
    assert one.flush() == wire.OK


def answers(one, tags):
    """The status of each that is answered before the connection ends."""
    statuses = []
    try:
        for tag in tags:
            statuses.append(one.wait(tag)[0])
    except (Disconnected, Refused):
        pass
    return statuses


def letters(cluster, tmp_path):
    """What the blocks hold, one letter each."""
    data = cluster.export("image", tmp_path / "export").read_bytes()
    blocks = [data[block * BLOCK : (block + 1) * BLOCK] for block in range(BLOCKS)]
    assert all(block == block[:1] * BLOCK for block in blocks)
    return b"".join(block[:1] for block in blocks)


def test_late_writes_of_a_proxy_that_stood_still(tmp_path, protection):
    """The OSD has some of them in its sockets when both stand still, and the proxy the others in its own."""
    with Ceph(client=BLOCKLISTS[protection]) as cluster:
        for name in "image", "other":
            cluster.create_image(name, SIZE)
        volumes = {"disk": cluster.uri("image"), "other": cluster.uri("other")}
        with contextlib.ExitStack() as stack:
            first, second = (stack.enter_context(daemon(tmp_path, name, volumes)) for name in "ab")
            old = opened(first, PATIENCE, name="old")
            write_all(old, b"o")
            load = stack.enter_context(load_on(first, "other"))
            wait_for(lambda: cluster.lockers("other"), "the load's lock")
            freeze(cluster.osd.process)
            early = write(old, range(BLOCKS // 2), b"e")
            wait_for(lambda: cluster.osd.unread() >= BLOCKS // 2 * BLOCK, "the writes at the OSD")
            freeze(first.process)
            late = write(old, range(BLOCKS // 2, BLOCKS), b"l")
            thaw(cluster.osd.process)

            new = opened(second, PATIENCE, name="new", flags=wire.ACTIVE | wire.TAKEOVER)
            write_all(new, b"n")
            assert load.poll() is None
            thaw(first.process)

            answers(old, early)
            statuses = answers(old, late)
            if protection == "fenced":
                assert wire.OK not in statuses
                assert new.flush() == wire.OK
                assert letters(cluster, tmp_path) == b"n" * BLOCKS
                first.wait_for_log(LOST)
                # Its other volume goes on
                wait_for(lambda: load.poll() is not None, f"the end of the load; {first.log()}", 2 * PATIENCE)
                output = load.stdout.read()
                assert load.returncode == 0 and "verified" in output, output + first.log()
            else:
                assert b"l" in letters(cluster, tmp_path)


def test_late_writes_of_a_proxy_that_was_cut_off(tmp_path, net, protection):
    """They are on their way until the network is there again."""
    address = {"address": network.SERVER_ADDRESS, "prefix": net.command(net.server)}
    with Ceph(client=BLOCKLISTS[protection], **address) as cluster:
        cluster.create_image("image", SIZE)
        volumes = {"disk": cluster.uri("image")}
        with (
            daemon(tmp_path, "a", volumes, prefix=net.command(net.client)) as first,
            daemon(tmp_path, "b", volumes, prefix=net.command(net.server)) as second,
        ):
            old = connect(net, net.client, first).open(name="old")
            write_all(old, b"o")
            net.cut()
            late = write(old, range(BLOCKS), b"l")
            in_flight = lambda: sum(
                one.unacknowledged for one in sockets(first.process) if one.remote in cluster.osd_ports
            )
            wait_for(lambda: in_flight() >= BLOCKS * BLOCK, "the writes in the network")
            new = connect(net, net.server, second).open(name="new", flags=wire.ACTIVE | wire.TAKEOVER)
            write_all(new, b"n")
            net.heal()

            statuses = answers(old, late)
            if protection == "fenced":
                assert wire.OK not in statuses
                assert new.flush() == wire.OK
                assert letters(cluster, tmp_path) == b"n" * BLOCKS
                first.wait_for_log(LOST)
            else:
                assert b"l" in letters(cluster, tmp_path)


def test_a_proxy_that_answers_is_asked_and_gives_the_volume_up(cluster, image, tmp_path):
    """Its client is told, nothing of it is lost, and it has its volume back when the other one has ended."""
    volumes = {"disk": cluster.uri(image)}
    with daemon(tmp_path, "a", volumes) as first, daemon(tmp_path, "b", volumes) as second:
        old = opened(first, PATIENCE, name="old")
        assert old.write(0, b"1" * BLOCK) == wire.OK
        [locker] = cluster.lockers(image)
        with pytest.raises(Refused) as refused:
            opened(second, PATIENCE, name="new")
        assert refused.value.status == wire.BUSY
        assert cluster.lockers(image) == [locker]
        assert old.write(BLOCK, b"1" * BLOCK) == wire.OK

        new = opened(second, PATIENCE, name="new", flags=wire.ACTIVE | wire.TAKEOVER)
        assert new.read(0, 2 * BLOCK) == (wire.OK, b"1" * 2 * BLOCK)
        assert answers(old, write(old, [0], b"l")) in ([], [wire.FENCED], [wire.NOT_ACTIVE])
        assert new.read(0, BLOCK) == (wire.OK, b"1" * BLOCK)
        assert new.write(0, b"2" * BLOCK) == wire.OK
        assert new.close()[0] == wire.OK
        # The other proxy had precedence for a while
        again = wait_for(lambda: opened_if_free(first), "the volume")
        assert again.read(0, BLOCK) == (wire.OK, b"2" * BLOCK)
        # Nobody was locked out of the cluster
        assert "client" not in cluster.ceph("osd", "blocklist", "ls")
