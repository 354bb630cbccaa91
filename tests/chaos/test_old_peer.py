# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients of the release of 57be3b1 and of today at one proxy, and who of them may resume a saved state."""

import itertools
import os
import subprocess

import pytest

from tests.chaos import wire_client as wire
from tests.chaos.daemon import Daemon, file_uri
from tests.support.old_peer import NIL, OK, RESUME, STALE, OldClient, OldServer
from tests.support.paths import CLIENT

SESSION, TOKEN, EPOCH = b"S" * 16, b"T" * 16, 3
FIRST, SECOND = b"1" * 16, b"2" * 16


@pytest.fixture
def proxy(tmp_path):
    with Daemon(tmp_path, {"disk": file_uri(tmp_path / "disk.img")}) as daemon:
        yield daemon


@pytest.fixture
def state(proxy):
    """The volume's UUID, after a machine on the disk was saved."""
    source = OldClient(proxy.address)
    status, text, volume = source.open("disk", SESSION, 1, 1)
    assert (status, text) == (OK, "")
    assert source.release(TOKEN, 1) == OK
    source.close_socket()
    return volume


class Resumers:
    """Clients that resume that state, each by one connection more."""

    def __init__(self, proxy, volume):
        self._proxy, self._volume = proxy, volume
        self._incarnations = itertools.count(1)

    def old(self, token=TOKEN):
        """(status, client)"""
        client = OldClient(self._proxy.address)
        status, _, _ = client.open("disk", SESSION, EPOCH, next(self._incarnations), wire.ACTIVE | RESUME,
                                   self._volume, token)
        return status, client

    def new(self, claimer, token=TOKEN):
        client = wire.Client(self._proxy.address)
        assert client.hello(features=wire.CLAIMER)[0] == wire.CLAIMER
        try:
            client.open(session=SESSION, epoch=EPOCH, incarnation=next(self._incarnations),
                        flags=wire.ACTIVE | wire.RESUME, volume_uuid=self._volume, token=token, claimer=claimer)
        except wire.Refused as refused:
            return refused.status, client
        return OK, client


@pytest.fixture
def resumers(proxy, state):
    return Resumers(proxy, state)


def test_an_old_client_resumes_and_repeats_a_claim_whose_answer_was_lost(resumers):
    status, first = resumers.old()
    assert status == OK
    assert first.flush() == OK
    first.close_socket()
    for token in TOKEN, NIL:
        status, again = resumers.old(token)
        assert status == OK
        assert again.flush() == OK


def test_an_old_client_is_not_taken_for_one_that_named_itself(resumers):
    status, first = resumers.new(FIRST)
    assert status == OK
    for token in TOKEN, NIL:
        assert resumers.old(token)[0] == wire.FENCED
    assert first.flush() == OK


def test_who_names_itself_is_not_taken_for_an_old_client(resumers):
    status, first = resumers.old()
    assert status == OK
    assert resumers.new(SECOND)[0] == wire.FENCED
    assert first.flush() == OK


def test_a_claim_that_the_upgrade_of_the_proxy_cut_off_is_repeated(proxy, resumers, tmp_path):
    """The proxy of the release before had made it, and kept that as it did: the answer was lost with it."""
    assert resumers.new(FIRST)[0] == OK
    proxy.kill()
    path = tmp_path / "disk.img"
    record = os.getxattr(path, "user.cloudblk.owner").decode()
    old = record.replace(" 31313131-3131-3131-3131-313131313131", "")
    assert old != record
    os.setxattr(path, "user.cloudblk.owner", old.encode())
    proxy.start()
    status, first = resumers.new(FIRST)
    assert status == OK
    assert resumers.new(SECOND)[0] == wire.FENCED
    assert first.flush() == OK
    assert os.getxattr(path, "user.cloudblk.owner").decode() == record


def test_an_old_client_goes_on_over_an_upgrade_of_the_proxy(proxy, resumers):
    assert resumers.old()[0] == OK
    proxy.kill()
    proxy.start()
    status, again = resumers.old(NIL)
    assert status == OK
    assert resumers.new(SECOND)[0] == wire.FENCED
    assert again.flush() == OK


def test_incarnations_are_compared_as_ever(proxy, state):
    client = OldClient(proxy.address)
    assert client.open("disk", SESSION, EPOCH, 5, wire.ACTIVE | RESUME, state, TOKEN)[0] == OK
    late = OldClient(proxy.address)
    assert late.open("disk", SESSION, EPOCH, 5, wire.ACTIVE | RESUME, state, TOKEN)[0] == STALE
    assert client.flush() == OK


def test_an_old_server_is_asked_nothing_that_it_does_not_know():
    # It answers all READs of a frame in one
    size = 128 << 10
    with OldServer(size) as server:
        def cloudblk(*words):
            return subprocess.run([CLIENT, *words], input=b"data" * 128, capture_output=True, timeout=60, check=False)

        assert cloudblk("write", server.uri).returncode == 0
        assert cloudblk("read", server.uri).stdout == b"data" * 128 + bytes(size - 512)
        refused = cloudblk("map", server.uri)
        assert refused.returncode == 1 and b"does not tell where the volume has data" in refused.stderr
        assert not server.violations
