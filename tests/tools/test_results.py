# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/count-results, by which a run of the tests is judged."""

import subprocess

import pytest

from tests.support.paths import REPO

RESULTS = """<testsuites><testsuite name="pytest">
<testcase classname="tests.one" name="passes"/>
<testcase classname="tests.one" name="fails[installed]"><failure message="no"/></testcase>
<testcase classname="tests.one" name="cannot start"><error message="no"/></testcase>
<testcase classname="Suite" name="Fails" status="run"><failure message="no"/></testcase>
<testcase name="one command"><failure/></testcase>
<testcase classname="tests.two" name="is skipped"><skipped message="no /dev/kvm"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "results.xml"
    path.write_text(RESULTS)
    return path


def count_results(*arguments):
    """Exit status and the lines of output."""
    command = [str(word) for word in (REPO / "scripts/count-results", *arguments)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return run.returncode, run.stdout.splitlines()


def test_counts(results):
    assert count_results("--status", 1, results) == (0, ["1 passed, 4 failed, 1 skipped"])
    assert count_results("--final", "--status", 1, results) == (1, ["1 passed, 4 failed, 1 skipped"])


def test_a_layer_that_ends_without_results_has_failed(results, tmp_path):
    arguments = ("--status", 1, results, "--status", 124, tmp_path / "missing.xml")
    assert count_results("--final", *arguments) == (1, ["1 passed, 5 failed, 1 skipped"])


def test_a_layer_that_ran_no_test_has_failed(results, tmp_path):
    (tmp_path / "none.xml").write_text("<testsuites/>")
    arguments = ("--status", 0, results, "--status", 0, tmp_path / "none.xml")
    assert count_results("--final", *arguments) == (1, ["1 passed, 5 failed, 1 skipped"])


def test_a_folder_counts_as_all_that_is_in_it(results, tmp_path):
    """A process that crashed has left no file, or half of one: its layer's status tells."""
    folder = tmp_path / "folder"
    folder.mkdir()
    passed = '<testsuites><testcase classname="Suite" name="Passes"/></testsuites>'
    (folder / "a.xml").write_text(passed)
    (folder / "b.xml").write_text(passed)
    (folder / "crashed.xml").write_text(passed[:40])
    assert count_results("--final", "--status", 0, folder) == (0, ["2 passed, 0 failed, 0 skipped"])
    assert count_results("--final", "--status", 8, folder) == (1, ["2 passed, 1 failed, 0 skipped"])
    (folder / "c.xml").write_text(RESULTS)
    assert count_results("--failed", folder)[1] == count_results("--failed", results)[1]


def test_names_of_what_failed(results, tmp_path):
    names = ["tests.one.fails[installed]", "tests.one.cannot start", "Suite.Fails", "one command"]
    assert count_results("--failed", results) == (0, names)
    assert count_results("--failed", tmp_path / "missing.xml") == (0, [])
