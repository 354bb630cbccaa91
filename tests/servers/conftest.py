# SPDX-License-Identifier: GPL-2.0-or-later
"""Which servers are tried: one, or with --all-servers all that there are. Then the table of docs/nbd.md is written
anew, of what the tests have found."""

import collections

import pytest

from tests.support.nbd_server import DEFAULT, SERVERS, SIZE
from tests.support.paths import REPO

PAGE = REPO / "docs/nbd.md"
BEGIN, END = "<!-- what was tried: written by the tests -->", "<!-- end of what was tried -->"


def pytest_configure(config):
    config.addinivalue_line("markers", "feature(name): the row of docs/nbd.md's table that this test fills")


def pytest_generate_tests(metafunc):
    if "server_kind" in metafunc.fixturenames:
        everyone = metafunc.config.getoption("--all-servers")
        metafunc.parametrize("server_kind", list(SERVERS) if everyone else [DEFAULT])


@pytest.fixture
def server_size():
    return SIZE


def release_of(node):
    return getattr(node, "callspec", None) and node.callspec.params.get("release")


@pytest.fixture
def server(server_kind, server_size, tmp_path, request, record_property):
    release = release_of(request.node)
    with SERVERS[server_kind](tmp_path, server_size, release or "7.2") as started:
        marker = request.node.get_closest_marker("feature")
        if marker:
            record_property("tried", [server_kind, started.version(), marker.args[0], release or ""])
        yield started


@pytest.fixture
def outcome(record_property):
    """Called with what the server made of it, where that differs."""
    return lambda text: record_property("outcome", text)


class Findings:
    """Of one row and column of the table."""

    def __init__(self):
        self.releases, self.outcomes, self.failed, self.passed = set(), {}, False, False

    def add(self, report, release):
        self.failed |= report.failed
        self.passed |= report.passed
        if report.passed and release:
            self.releases.add(release)
        for name, text in report.user_properties:
            if name == "outcome":
                self.outcomes[text] = True

    def __str__(self):
        if self.failed:
            return "**fails**"
        if not self.passed:
            return "-"
        text = ", ".join(sorted(self.releases, key=float)) or "yes"
        return ": ".join([text, *self.outcomes])


def pytest_terminal_summary(terminalreporter, config):
    """In the process that has all results."""
    if not config.getoption("--all-servers"):
        return
    found = collections.defaultdict(Findings)
    versions = collections.defaultdict(set)
    features = {}
    for kind in "passed", "failed", "error", "skipped":
        for report in terminalreporter.stats.get(kind, ()):
            for name, value in report.user_properties:
                if name == "tried":
                    server, version, feature, release = value
                    versions[server].add(version)
                    features[feature] = True
                    found[feature, server].add(report, release)
    servers = [server for server in SERVERS if server in versions]
    lines = ["| | " + " | ".join(servers) + " |", "|---" * (len(servers) + 1) + "|"]
    lines.append("| version | " + " | ".join(", ".join(sorted(versions[server])) for server in servers) + " |")
    for feature in sorted(features):
        lines.append(f"| {feature} | " + " | ".join(str(found[feature, server]) for server in servers) + " |")
    page = PAGE.read_text()
    head, rest = page.split(BEGIN)
    tail = rest.split(END)[1]
    PAGE.write_text(head + BEGIN + "\n\n" + "\n".join(lines) + "\n\n" + END + tail)
