# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may do what at a proxy: rules in its configuration, their reload, and the address for whoever administers it."""

import os
import pathlib
import shutil
import signal
import tempfile

import pytest

from tests.chaos.daemon import Daemon, client, run_client, wait_for

NOBODY = 65534
AS_NOBODY = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]


def rule(who, *rights, volumes="*"):
    listed = ", ".join(f'"{right}"' for right in rights)
    return f'[[access]]\n{who}\nvolumes = ["{volumes}"]\nrights = [{listed}]\n'


@pytest.fixture
def folder():
    """One that every user may look into."""
    made = pathlib.Path(tempfile.mkdtemp(prefix="cloudblk-access-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


class Guarded(Daemon):
    """A proxy with a configuration and a unix socket that every user may connect to."""

    def __init__(self, folder, *rules):
        self.config = folder / "proxy.toml"
        self.write(*rules)
        self.block = folder / "block"
        self.block.write_bytes(bytes(512))
        admin = f"unix://{folder}/admin"
        super().__init__(folder, {"disk": "memory:?size=8M"}, "--config", str(self.config), "--admin", admin,
                         listen=["tcp://127.0.0.1:0", f"unix://{folder}/socket"])  # fmt: skip

    def start(self):
        super().start()
        (self.folder / "socket").chmod(0o777)
        return self

    def at(self, socket):
        return f"cloudblk+unix:///disk?socket={self.folder}/{socket}"

    def write(self, *rules):
        self.config.write_text("".join(rules))

    def reload(self, said):
        """Waits for what it says to that."""
        before = self.log().count(said)
        self.process.send_signal(signal.SIGHUP)
        wait_for(lambda: self.log().count(said) > before, f"{said!r} in {self.log()}")


def refused(*arguments, prefix=()):
    """What a command that must fail says, in one line."""
    process = client(*arguments, prefix=prefix)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and output.count("\n") == 1, output
    return output


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="to be another user needs root")


@needs_root
def test_users_have_the_rights_that_rules_give_them(folder):
    with Guarded(folder, rule('user = "root"', "write"), rule(f"group = {NOBODY}", "read")) as proxy:
        data = folder / "data"
        data.write_text("Z" * 4096)
        assert run_client("write", proxy.at("socket"), data)[0] == 0
        text = refused("write", proxy.at("socket"), data, prefix=AS_NOBODY)
        assert f"uid {NOBODY} does not have the right 'write' for volume 'disk'" in text
        process = client("read", "--length", "512", proxy.at("socket"), prefix=AS_NOBODY)
        assert process.communicate(timeout=60)[0] == "Z" * 512 and process.returncode == 0
        # Who comes over TCP is nobody in particular.
        assert "an unknown client does not have the right 'observe'" in refused("info", proxy.uri("disk"))
        assert "refused: uid" in proxy.log() and "uid 0" not in proxy.log()


@needs_root
def test_the_administrators_address_is_its_owners(folder):
    with Guarded(folder, rule('user = "root"', "write")) as proxy:
        assert (folder / "admin").stat().st_mode & 0o777 == 0o600
        assert "does not have the right 'resize'" in refused("resize", proxy.at("socket"), "16M")
        assert "Permission denied" in refused("info", proxy.at("admin"), prefix=AS_NOBODY)
        assert run_client("resize", proxy.at("admin"), "16M")[0] == 0
        proxy.wait_for_log("uid 0")


def test_a_reload_takes_rights_away_and_gives_them_back(folder):
    own = f"user = {os.geteuid()}"
    with Guarded(folder, rule(own, "write")) as proxy:
        load = client("bench", proxy.at("socket"), "--pattern", "randrw", "--verify", "--seconds", "60")
        proxy.wait_until_busy()
        proxy.write(rule(own, "observe"))
        proxy.reload("1 rules of access")
        proxy.wait_for_log("dropped: uid")
        assert "does not have the right 'write'" in refused("write", "--takeover", proxy.at("socket"), proxy.block)
        proxy.write(rule(own, "administer"))
        proxy.reload("1 rules of access")
        # What was under way goes on.
        proxy.wait_until_busy(0.5)
        load.send_signal(signal.SIGINT)
        output, _ = load.communicate(timeout=60)
        assert "does not have the right 'write'" in output, output


def test_a_mistake_keeps_the_rules_and_is_refused_at_the_start(folder):
    with Guarded(folder, rule(f"user = {os.geteuid()}", "read")) as proxy:
        proxy.write(rule("anyone = true", "write", "everything"))
        proxy.reload("nothing is reloaded: ")
        assert f"{proxy.config}:4: no right 'everything'" in proxy.log()
        assert "does not have the right 'write'" in refused("write", proxy.at("socket"), proxy.block)
        assert "does not have the right" in refused("info", proxy.uri("disk"))
    proxy.launch()
    assert proxy.process.wait(30) == 1
    assert f"{proxy.config}:4: no right 'everything'" in proxy.log()


def test_without_rules_a_resize_over_tcp_warns(folder):
    with Guarded(folder) as proxy:
        assert run_client("resize", proxy.at("socket"), "16M")[0] == 0
        assert "RESIZE over TCP" not in proxy.log()
        assert run_client("resize", proxy.uri("disk"), "24M")[0] == 0
        proxy.wait_for_log("RESIZE over TCP without a right to it")
