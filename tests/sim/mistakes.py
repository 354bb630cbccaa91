# SPDX-License-Identifier: GPL-2.0-or-later
"""Mistakes put into the code, one at a time: the simulation has to fail for each.

Only when named (scripts/test mistakes): each is a build of its own. A mistake is a list of (file, text, text in its
place); the text has to be there once, so that a mistake that the code has outgrown is noticed.
"""

import pathlib
import shutil
import subprocess

import pytest

from tests.support.paths import BUILD, REPO

FOLDER = BUILD / "mistakes"
PARTS = ("CMakeLists.txt", "base", "proxy-protocol", "block", "hw", "proxy", "tools", "tests", "docs/examples")

MISTAKES = {
    "no incarnation fence": [
        (
            "proxy/owner_rules.cc",
            "    call->to_stop.insert(channel->second.peer);\n  }\n  return Ok();\n}\n\nOwnershipAnswer OwnerTable::JudgeOwnSession",
            "  }\n  return Ok();\n}\n\nOwnershipAnswer OwnerTable::JudgeOwnSession",
        )
    ],
    "replay out of order": [
        (
            "block/request_queue.cc",
            "  bulk_queue_.Prepend(&sent_);\n",
            "  while (!sent_.empty()) {\n    LinkedList<Piece> one;\n    one.PushBack(sent_.PopFront());\n"
            "    bulk_queue_.Prepend(&one);\n  }\n",
        )
    ],
    "an answer before the store": [
        (
            "proxy/request_stream.cc",
            "  ++at_storage_;\n",
            "  if (job->kind == Operation::kWrite) {\n    Job* early = host_->jobs().Get();\n    early->kind = job->kind;\n"
            "    early->tag = std::exchange(job->tag, 0);\n    ++jobs_in_flight_;\n    writer_->AddReply(early);\n"
            "    NoteWork();\n  }\n  ++at_storage_;\n",
        ),
        (
            "proxy/request_stream.cc",
            "  if (abandoned_.load(std::memory_order_relaxed)) {\n",
            "  if (abandoned_.load(std::memory_order_relaxed) || job->tag == 0) {\n",
        ),
        ("proxy/request_stream.cc", "#include <memory>\n", "#include <memory>\n#include <utility>\n"),
    ],
    "a request completed twice": [
        (
            "block/request_queue.cc",
            "  done_.push_back({request->opaque, request->result, request->bytes_stored});\n  requests_.Give(request);\n}\n",
            "  done_.push_back({request->opaque, request->result, request->bytes_stored});\n"
            "  if (stats_.requests % 50 == 0) done_.push_back(done_.back());\n  requests_.Give(request);\n}\n",
        )
    ],
    "the generation ignored": [
        (
            "block/session_state.cc",
            "  if (generation_.exchange(generation) == generation) return false;\n",
            "  if (generation_.exchange(generation) != 0) return false;\n",
        )
    ],
    "a storage lock given back too early": [
        (
            "proxy/owner_table.cc",
            "return std::ranges::any_of(sessions_, [](const auto& s) { return !s.second.token; });",
            "return sessions_.size() > 1;",
        )
    ],
}


@pytest.fixture(scope="module")
def tree():
    """A copy of the sources, configured. Made anew: what a mistake of the last time was built into is older."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    source = FOLDER / "source"
    for part in PARTS:
        if (REPO / part).is_dir():
            shutil.copytree(REPO / part, source / part)
        else:
            source.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / part, source / part)
    subprocess.run(["cmake", "-G", "Ninja", "-S", source, "-B", FOLDER / "build"], check=True)
    return source


def simulation(tree):
    """Its exit status; None: it does not compile."""
    build = FOLDER / "build"
    if subprocess.run(["ninja", "-C", build, "sim_test"], check=False).returncode:
        return None
    program = build / "tests/unit/sim_test"
    return subprocess.run([program, "--gtest_brief=1", "--gtest_fail_fast"], check=False, timeout=300).returncode


def test_without_a_mistake_it_passes(tree):
    assert simulation(tree) == 0


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_noticed(tree, name):
    originals = {file: (tree / file).read_text() for file, _, _ in MISTAKES[name]}
    try:
        for file, text, wrong in MISTAKES[name]:
            path = pathlib.Path(tree / file)
            found = path.read_text()
            assert found.count(text) == 1, f"{file} has changed: write this mistake anew"
            path.write_text(found.replace(text, wrong))
        status = simulation(tree)
        assert status is not None, "the mistake does not compile: write it anew"
        assert status != 0
    finally:
        for file, text in originals.items():
            (tree / file).write_text(text)
