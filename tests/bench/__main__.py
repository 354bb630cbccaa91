# SPDX-License-Identifier: GPL-2.0-or-later
"""Command line of scripts/bench."""

import argparse
import json
import os
import pathlib
import platform
import sys

from tests.support.paths import BUILD, REPO, stock_qemu

from . import budget, documents, extras, goals, guest, measure, rbd, tls  # noqa: F401 (tls has rows)
from .instructions import instructions
from .machine import allow_many_files, output_of
from .rows import ROWS, Setup, available
from .workloads import WORKLOADS

# Rows whose instructions are counted
COUNTED = ("nbd-nbdkit-null", "null-co", "cloudblk")


def machine():
    def field(path, name):
        for line in pathlib.Path(path).read_text().splitlines():
            if line.startswith(name):
                return line.split(":", 1)[1].strip()
        return "unknown"

    return {
        "processor": field("/proc/cpuinfo", "model name"),
        "processors": os.cpu_count(),
        "memory": field("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "system": next(
            line.split("=")[1].strip('"\n') for line in open("/etc/os-release") if line.startswith("PRETTY_NAME")
        ),
        "congestion control": pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        "load average before": f"{os.getloadavg()[0]:.2f}",
        "commit": output_of("git", "-C", REPO, "describe", "--always", "--dirty").strip(),
    }


def parse():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all if none is named")
    parser.add_argument("--quick", action="store_true", help="one run of one second each: to see that it works")
    parser.add_argument("--ceph", dest="part", action="store_const", const="ceph", default="", help="the rows on a Ceph cluster, and what idle disks on one need")
    parser.add_argument("--tls", dest="part", action="store_const", const="tls", help="the rows over TLS, beside clear text")
    parser.add_argument("--runs", type=int, help="how often, 21 unless told, 7 with --ceph")
    parser.add_argument("--seconds", type=float, help="of each run, 0.4 unless told, 2 with --ceph")
    parser.add_argument("--workload", action="append", metavar="NAME", help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--qemu", help="another QEMU than stock 10.0; with the device compiled in or as its plugin")
    parser.add_argument("--iothread", default="", metavar="PROPERTIES", help="of the IOThreads, as poll-max-ns=0; QEMU's defaults otherwise")
    parser.add_argument("--only-rows", action="store_true", help="no instructions, and no figures of files, guests and idle disks")
    parser.add_argument("--budget", action="store_true", help="write tests/bench/budget.json instead")
    parser.add_argument("--render", action="store_true", help="make page and documents anew from the published results.json")
    parser.add_argument("--verify", action="store_true", help="check the content instead of measuring")
    parser.add_argument("--output", type=pathlib.Path, help="folder of results.json and index.html")
    options = parser.parse_args()
    for names, known in ((options.rows, ROWS), (options.workload or [], WORKLOADS)):
        for name in names:
            if name not in known:
                parser.error(f"no '{name}' among {', '.join(known)}")
    for name in options.rows:
        if ROWS[name].part != options.part:
            kind = f"only measured with --{ROWS[name].part}" if ROWS[name].part else f"not measured with --{options.part}"
            parser.error(f"'{name}' is {kind}")
    ceph = options.part == "ceph"
    options.runs = options.runs or (1 if options.quick else 7 if ceph else 21)
    options.seconds = options.seconds or (1 if options.quick else 2 if ceph else 0.4)
    return options


def anonymous(value):
    """Without the names of this machine's folders."""
    if isinstance(value, dict):
        return {name: anonymous(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [anonymous(inner) for inner in value]
    if isinstance(value, str):
        return value.replace(f"{BUILD}/", "").replace(f"{REPO}/", "").replace(str(pathlib.Path.home()), "~")
    return value


def measure_all(options, rows, workloads, setup):
    """What the rows do not show, too, unless only these are wanted."""
    results = measure.measure(rows, workloads, setup, options.seconds, options.runs)
    if options.only_rows or options.part == "tls":
        return results
    if options.part == "ceph":
        return {**results, "idle": rbd.memory_of_idle_disks(setup)}
    results["instructions"] = {
        row.name: instructions(row, [one for one in workloads if one.main and one.queues == 1], setup)
        for row in rows
        if row.name in COUNTED
    }
    # These take whole seconds, and differ less from run to run
    runs = min(options.runs, 9)
    results["file"] = extras.proxy_on_a_file(BUILD, max(1, round(options.seconds)), runs)
    results["guest"] = guest.cpu_per_io(setup, max(3, round(options.seconds)), runs)
    results["footprint"] = extras.footprint(setup, max(3, options.seconds))
    return results


def verify(options, rows, workloads, setup):
    """Exit status."""
    failures = measure.verify(rows, workloads, setup)
    if not (options.rows or options.workload or options.only_rows or options.part):
        extras.verify_proxy_on_a_file(BUILD, 1)
        guest.verify(setup)
    return 1 if failures else 0


def run(options, setup):
    """Exit status."""
    rows = [ROWS[name] for name in options.rows or ROWS if ROWS[name].part == options.part]
    workloads = [WORKLOADS[name] for name in options.workload or WORKLOADS]
    rows, missing = available(rows, setup)
    for name, reason in missing.items():
        measure.say(f"{name} is left out: {reason}")
    if options.verify:
        return verify(options, rows, workloads, setup)
    settings = {"rounds": options.runs, "seconds": options.seconds, "iothread": options.iothread}
    results = {"machine": machine(), "settings": settings, "left out": missing}
    results = anonymous(results | measure_all(options, rows, workloads, setup))
    report = documents.REPORTS[options.part]
    # What was asked for in part, in haste, or of another QEMU or IOThread does not replace the published figures
    part = options.rows or options.workload or options.quick or options.only_rows or options.iothread or options.qemu
    output = options.output or (BUILD / "performance" if part else REPO / documents.FOLDER)
    found = report.publish(REPO, results) if output == REPO / documents.FOLDER else report.write(output, results)
    print(goals.table(found))
    print(f"figures: {output / report.figures}, plots: {output / report.page}")
    return 0


def main():
    options = parse()
    if options.render:
        for report in documents.REPORTS.values():
            report.publish(REPO, json.loads((REPO / documents.FOLDER / report.figures).read_text()))
        return 0
    allow_many_files()
    with rbd.Cluster() as cluster:
        setup = Setup(options.qemu or stock_qemu("10.0"), iothread=options.iothread, cluster=cluster)
        if options.budget:
            budget.write(setup.qemu)
            return 0
        return run(options, setup)


if __name__ == "__main__":
    sys.exit(main())
