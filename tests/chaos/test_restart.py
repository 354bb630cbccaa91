# SPDX-License-Identifier: GPL-2.0-or-later
"""The proxy dies, or is told to stop, while somebody writes and verifies."""

import os

import pytest

from tests.chaos import wire_client as wire
from tests.chaos.daemon import Daemon, client, file_uri

LOAD = ("--pattern", "randrw", "--size", "4k", "--depth", "32", "--verify")


def finish(load):
    output, _ = load.communicate(timeout=120)
    assert load.returncode == 0, output
    assert "verified" in output
    return output


@pytest.mark.parametrize("options", ["", "&aio=io_uring", "&direct=off"])
def test_killed_ten_times_under_load(tmp_path, options):
    volumes = {"disk": file_uri(tmp_path / "disk.img", options=options)}
    with Daemon(tmp_path, volumes, "--threads", "2") as proxy:
        # Longer than ten restarts take on a machine that is busy
        load = client("bench", proxy.uri("disk"), *LOAD, "--seconds", "25")
        for _ in range(10):
            proxy.wait_for_log("active for")
            proxy.wait_until_busy()
            assert load.poll() is None, load.stdout.read()
            proxy.kill()
            proxy.start()
        output = finish(load)
        assert "reconnects: 10" in output, output


def test_told_to_stop_under_load_it_ends_in_order(tmp_path):
    with Daemon(tmp_path, {"disk": file_uri(tmp_path / "disk.img")}) as proxy:
        load = client("bench", proxy.uri("disk"), *LOAD, "--seconds", "12")
        for _ in range(3):
            proxy.wait_for_log("active for")
            proxy.wait_until_busy()
            assert load.poll() is None, load.stdout.read()
            assert proxy.stop() == 0, proxy.log()
            proxy.start()
        finish(load)


def test_a_server_that_moved_is_found_by_its_name(tmp_path):
    """The name has another address when the server is up again."""
    if os.geteuid() != 0:
        pytest.skip("an own /etc/hosts needs root")
    hosts = tmp_path / "hosts"
    own_hosts = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts)]
    with Daemon(tmp_path, {"disk": file_uri(tmp_path / "disk.img")}, listen=["tcp://127.0.0.2:0"]) as proxy:
        port = proxy.address[1]
        hosts.write_text("127.0.0.2 storage.test\n")
        uri = f"cloudblk://storage.test:{port}/disk"
        load = client("bench", uri, *LOAD, "--seconds", "15", prefix=own_hosts)
        for address in ("127.0.0.3", "127.0.0.4"):
            proxy.wait_for_log("active for")
            proxy.wait_until_busy()
            proxy.kill()
            proxy.listen = [f"tcp://{address}:{port}"]
            proxy.start()
            hosts.write_text(f"{address} storage.test\n")
        proxy.wait_for_log("active for")
        output = finish(load)
        assert "reconnects: 2" in output, output


def test_flushed_data_and_the_owner_survive_a_kill(tmp_path):
    with Daemon(tmp_path, {"disk": file_uri(tmp_path / "disk.img")}) as proxy:
        first = wire.Client(proxy.address)
        first.hello()
        first.open()
        data = os.urandom(65536)
        assert first.write(0, data) == wire.OK
        assert first.flush() == wire.OK
        proxy.kill()
        proxy.start()

        other = wire.Client(proxy.address)
        other.hello()
        with pytest.raises(wire.Refused) as refused:
            other.open(name="somebody else")
        assert refused.value.status == wire.BUSY
        assert 0 < refused.value.reply["retry_ms"] <= 10000

        again = wire.Client(proxy.address)
        again.hello()
        again.open(session=first.session, incarnation=2, flags=wire.ACTIVE | wire.RESUME,
                   volume_uuid=first.info["volume"], generation=first.info["generation"])
        assert again.info["generation"] == first.info["generation"]
        assert again.read(0, 65536) == (wire.OK, data)


def test_memory_that_died_with_the_proxy_is_another_volume(tmp_path):
    with Daemon(tmp_path, {"disk": "memory:?size=64M"}) as proxy:
        first = wire.Client(proxy.address)
        first.hello()
        first.open()
        proxy.kill()
        proxy.start()
        again = wire.Client(proxy.address)
        again.hello()
        with pytest.raises(wire.Refused) as refused:
            again.open(session=first.session, incarnation=2, flags=wire.ACTIVE | wire.RESUME,
                       volume_uuid=first.info["volume"], generation=first.info["generation"])
        assert refused.value.status == wire.VOLUME_CHANGED


def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_not(tmp_path):
    address = f"unix://{tmp_path}/proxy.sock"
    volumes = {"disk": "memory:?size=1M"}
    with Daemon(tmp_path, volumes, listen=[address]) as proxy:
        proxy.kill()
        assert (tmp_path / "proxy.sock").exists()
        proxy.start()
        folder = tmp_path / "second"
        folder.mkdir()
        second = Daemon(folder, volumes, listen=[address]).launch()
        assert second.process.wait(30) == 1
        assert "stop the server" in second.log()
        assert proxy.stop() == 0
        assert not (tmp_path / "proxy.sock").exists()


def test_a_second_proxy_waits_for_the_files_lock(tmp_path):
    """The lock of the file keeps two proxies apart, and the successor knows the owner."""
    folder = tmp_path / "second"
    folder.mkdir()
    volumes = {"disk": file_uri(tmp_path / "disk.img")}
    with Daemon(tmp_path, volumes) as proxy:
        holder = wire.Client(proxy.address)
        holder.hello()
        holder.open(name="the holder")
        with Daemon(folder, volumes) as second:
            other = wire.Client(second.address)
            other.hello()
            with pytest.raises(wire.Refused) as refused:
                other.open(flags=wire.ACTIVE | wire.TAKEOVER)
            assert refused.value.status == wire.BUSY
            assert "another process" in refused.value.text
            proxy.kill()
            late = wire.Client(second.address)
            late.hello()
            with pytest.raises(wire.Refused) as refused:
                late.open()
            assert refused.value.status == wire.BUSY
            assert "the holder" in refused.value.text
            moved = wire.Client(second.address)
            moved.hello()
            moved.open(session=holder.session, incarnation=2, flags=wire.ACTIVE | wire.RESUME,
                       volume_uuid=holder.info["volume"],
                       generation=holder.info["generation"])
            assert moved.info["volume"] == holder.info["volume"]
