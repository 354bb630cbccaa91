# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs rows and workloads in turn, and makes medians of what they report."""

import dataclasses
import json
import statistics
import subprocess
import sys

from .rows import started
from .workloads import FILL

RUN_TIMEOUT = 300


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(running, *options, unwatched=()):
    """What virtio-bench or loopback-floor reports for that row, or None when it was not to report."""
    command = [str(word) for word in (*running.command, *options)]
    for name, pid in running.watched.items():
        if name not in unwatched:
            command += ["--watch", f"{name}={pid}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip()}")
    return json.loads(result.stdout) if result.stdout else None


def is_iothread(thread):
    """Whether it carries the disk's I/O: QEMU's IOThreads, or the bare client's only thread."""
    return thread["process"] == "client" or (thread["process"] == "qemu" and thread["thread"].startswith("IO "))


def role_of(thread):
    if is_iothread(thread):
        return "iothread"
    return thread["process"] if thread["process"] in ("server", "osd") else "main"


def figures(report):
    """The figures of one run, flat. CPU and system calls are per I/O and by role: of the IOThreads, of
    QEMU's other threads ("main"), of all threads of the server, of all of the Ceph cluster's OSD."""
    flat = {"iops": report["iops"], "mb-per-s": report["mb-per-s"]}
    for name, value in report["latency-us"].items():
        flat[f"{name}-us"] = value
    for name in ("driver-cpu-us-per-io", "kicks-per-io", "submit-batch", "completion-batch"):
        if name in report:
            flat[name] = report[name]
    for thread in report["threads"]:
        role = role_of(thread)
        for name, value in (
            ("cpu-us", thread["cpu-us-per-io"]),
            ("switches", thread["voluntary-switches-per-io"] + thread["involuntary-switches-per-io"]),
        ):
            flat[f"{role}-{name}"] = flat.get(f"{role}-{name}", 0) + value
    return flat


def calls(report):
    """{role: {system call: per I/O}}"""
    by_role = {}
    for thread in report["threads"]:
        counts = by_role.setdefault(role_of(thread), {})
        for name, value in thread["syscalls-per-io"].items():
            counts[name] = round(counts.get(name, 0) + value, 4)
    return by_role


def median_calls(runs):
    """Likewise of what calls() gives for several runs."""
    names = {role: {name for one in runs for name in one.get(role, ())} for role in {role for one in runs for role in one}}
    return {
        role: {
            name: round(statistics.median(one.get(role, {}).get(name, 0) for one in runs), 4) for name in sorted(found)
        }
        for role, found in names.items()
    }


def medians(runs):
    names = {name for one in runs for name in one}
    result = {name: round(statistics.median(one.get(name, 0) for one in runs), 4) for name in sorted(names)}
    result["iops-of-runs"] = [round(one["iops"]) for one in runs]
    return result


def measure(rows, workloads, setup, seconds, rounds, with_calls=True):
    """{"rows": ..., "figures": {row: {workload: medians}}, "syscalls": {row: {workload: by role}}}

    All rows are up all the time, and take turns within a workload: what changes on the machine in
    the course of an hour then changes for all."""
    collected, counted = {}, {}
    with started(rows, setup) as running:
        for row in rows:
            if row.device and row.keeps:
                run(running[row.name], *FILL)
        pairs = [(workload, row) for workload in workloads for row in rows if workload.suits(row)]
        for turn in range(rounds):
            say(f"round {turn + 1} of {rounds}")
            for workload, row in pairs:
                report = run(running[row.name], *workload.options, "--seconds", seconds, "--warmup", seconds / 5)
                collected.setdefault((row.name, workload.name), []).append(figures(report))
        for turn in range(rounds if with_calls else 0):
            say(f"system calls, round {turn + 1} of {rounds}")
            for workload, row in pairs:
                options = (*workload.options, "--seconds", 0.2, "--warmup", 0.1, "--syscalls")
                # Counting costs a file for each thread and call, and an OSD has many threads
                report = run(running[row.name], *options, unwatched=["osd"])
                counted.setdefault((row.name, workload.name), []).append(calls(report))
        described = {
            row.name: {"title": row.title, "versions": running[row.name].versions, "options": running[row.name].options}
            for row in rows
        }
    result = {"rows": described, "figures": {}, "syscalls": {}}
    for (row, workload), runs in collected.items():
        result["figures"].setdefault(row, {})[workload] = medians(runs)
    for (row, workload), runs in counted.items():
        result["syscalls"].setdefault(row, {})[workload] = median_calls(runs)
    return result


def verify(rows, workloads, setup):
    """Runs every configuration with its content checked; gives what failed."""
    failures = []
    with started(rows, dataclasses.replace(setup, verify=True)) as running:
        for workload in workloads:
            for row in rows:
                if not workload.suits(row):
                    continue
                options = [*workload.options, "--seconds", 0.5, "--warmup", 0, "--verify"]
                options += ["--range", "16M"] if row.device else []
                try:
                    run(running[row.name], *options)
                    say(f"{row.name}, {workload.name}: content is right")
                except RuntimeError as error:
                    failures.append(str(error))
                    say(failures[-1])
    return failures
