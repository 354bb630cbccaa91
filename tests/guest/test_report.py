# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that does not answer in time says where it is."""

import pytest

from tests.support.guest import Guest, GuestError


def test_what_is_known_of_a_guest_that_is_late(qemu):
    with Guest(qemu, []) as guest:
        guest.send("sleep 60")
        with pytest.raises(GuestError) as error:
            guest.line(timeout=0.1)
    report = str(error.value)
    assert "Run /init as init process" in report
    assert "VM status: running" in report
    # Two processors, looked at twice
    assert report.count("RIP=") == 4


def test_a_monitor_that_is_gone_does_not_hide_the_rest(qemu):
    with Guest(qemu, []) as guest:
        guest.kill()
        with pytest.raises(GuestError, match="the monitor does not answer") as error:
            guest.line()
    assert "Run /init as init process" in str(error.value)
