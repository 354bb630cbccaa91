# SPDX-License-Identifier: GPL-2.0-or-later
"""What every backend holds, on images."""

import os
import re
import subprocess

import pytest

from tests.support.paths import BUILD

TIMEOUT = 300


@pytest.mark.brief
@pytest.mark.parametrize("program, least", [("proxy_backend_test", 32), ("proxy_fault_test", 10)])
def test_the_contract(cluster, program, least):
    found = subprocess.run(
        [BUILD / "tests/unit" / program, "--gtest_filter=Ceph/*"],
        env={**os.environ, "CLOUDBLK_TEST_CEPH_CONF": str(cluster.conf)},
        capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    passed = re.search(r"PASSED  \] (\d+) tests", found.stdout)
    assert passed and int(passed[1]) >= least, found.stdout
