# SPDX-License-Identifier: GPL-2.0-or-later
"""What the documents say of the published figures: made from results.json, so that they never tell of another run."""

import dataclasses
import functools
import json
import textwrap
from collections.abc import Callable

from . import goals
from .goals import goal_of, value_of
from .page import page
from .workloads import WORKLOADS

BEGIN, END = "<!-- made by scripts/bench: -->", "<!-- : made by scripts/bench -->"
# (title, workload, figures with their forms)
COLUMNS = (
    ("4 KiB read, depth 1: p50, CPU", "randread-4k-qd1", (("p50-us", "{:.1f} us"), ("iothread-cpu-us", "{:.1f} us"))),
    ("depth 32: IOPS, CPU", "randread-4k-qd32", (("iops", "{:,.0f}"), ("iothread-cpu-us", "{:.2f} us"))),
    ("depth 128: IOPS, CPU", "randread-4k-qd128", (("iops", "{:,.0f}"), ("iothread-cpu-us", "{:.2f} us"))),
    ("4 KiB write, depth 32: IOPS, CPU", "randwrite-4k-qd32", (("iops", "{:,.0f}"), ("iothread-cpu-us", "{:.2f} us"))),
    ("128 KiB read, depth 16: MB/s, CPU", "read-128k-qd16", (("mb-per-s", "{:,.0f}"), ("iothread-cpu-us", "{:.1f} us"))),
)


def _table(names, rows):
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(figures, forms):
    if figures is None:
        return ""
    return ", ".join(form.format(figures[name]) if name in figures else "-" for name, form in forms)


def _paragraph(text):
    return textwrap.fill(text, 120, break_on_hyphens=False, break_long_words=False)


def _rows(results):
    rows = [
        [f"`{row}`", *(_cell(figures.get(workload), forms) for _, workload, forms in COLUMNS)]
        for row, figures in results["figures"].items()
    ]
    return _table(["row", *(title for title, _, _ in COLUMNS)], [cells for cells in rows if any(cells[1:])])


def _made_with(results):
    machine, settings = results["machine"], results["settings"]
    versions = {text for row in results["rows"].values() for text in row["versions"].values()}
    left_out = "".join(f" Left out: `{row}`, {reason}." for row, reason in results.get("left out", {}).items())
    return _paragraph(
        f"Medians of {settings['rounds']} interleaved runs of {settings['seconds']} s each, commit {machine['commit']}, "
        f"on {machine['processors']} processors ({machine['processor']}, {machine['system']}, kernel {machine['kernel']}), "
        f"with {'; '.join(sorted(versions))}.{left_out}"
    )


def _judged(found):
    rows = [[line.goal, value_of(line), line.meaning, goal_of(line), line.verdict] for line in found if line.must is not None]
    return _table(["figure", "value", "of what", "goal", ""], rows)


def performance(results, found):
    """For docs/performance/README.md."""
    figures = [[line.goal, value_of(line), line.meaning, line.bound] for line in found if line.must is None]
    return "\n\n".join((
        _made_with(results),
        "CPU is the IOThread's processor time per I/O, of `floor` the client's; `vhost-user` has no IOThread.",
        _rows(results),
        "Goals, with the stretch in parentheses:",
        _judged(found),
        "Figures that two processors cannot decide have no goal:",
        _table(["figure", "value", "of what", "what bounds it"], figures),
    ))  # fmt: skip


def summary(results, found):
    """For README.md."""
    machine, runs = results["machine"], results["settings"]["rounds"]
    value = {line.goal: "?" if line.value is None else f"{line.value:.2g}" for line in found}

    def both(depth):
        text = f"4 KiB random read, depth {depth}"
        return value[f"{text}: IOPS"], value[f"{text}: IOThread CPU per I/O"]

    (rate, cpu), (deep_rate, deep_cpu) = both(32), both(128)
    return _paragraph(
        "Against `virtio-blk-pci` with QEMU's own NBD client and the fastest of five NBD servers, one IOThread, one connection "
        f"over loopback, on {machine['processors']} cores (medians of {runs} interleaved runs, `scripts/bench`): 4 KiB random "
        f"reads at depth 32 run {rate} times as fast for {cpu} of the IOThread's processor time, at depth 128 {deep_rate} times "
        f"for {deep_cpu}; reads of 128 KiB {value['128 KiB read, depth 16: MB/s (stretch)']} times. The whole table, also of "
        "what is not reached: [docs/performance](docs/performance/README.md)."
    )


def replaced(document, text):
    """The document with that text between its two marks."""
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def _on_ceph_rows(results):
    r = goals.Results(results)
    rows = []
    for name, workload in WORKLOADS.items():
        for row in results["figures"]:
            figures = results["figures"][row].get(name)
            if not figures:
                continue
            times = (("iothread", "main"), ("iothread", "main", "server"), ("osd",))
            rows.append([
                workload.title, f"`{row}`", f"{figures['iops']:,.0f}", f"{figures['mb-per-s']:,.0f}", f"{figures['p50-us']:.0f} us",
                *(f"{r.cpu(row, name, *roles):.1f} us" for roles in times),
            ])  # fmt: skip
    return _table(["load", "row", "IOPS", "MB/s", "p50", "CPU: QEMU", "QEMU and proxy", "OSD"], rows)


def _idle_disks(results):
    r = goals.Results(results)

    def text(row):
        return "{:.1f} MB, {} threads".format(*(goals.added_by_disks(r, row, figure) for figure in ("mb", "threads")))

    if not results.get("idle"):
        return "Idle disks were not measured."
    return _paragraph(
        f"{r.extra('idle', 'disks')} QEMUs with an idle disk each need, more than without a disk: {text(goals.ON_CEPH)} "
        f"with `{goals.ON_CEPH}`, the proxy among them; {text(goals.LIBRBD)} with `{goals.LIBRBD}`."
    )


def ceph(results, found):
    """For docs/performance/ceph.md."""
    return "\n\n".join((
        _made_with(results),
        f"Load average before the run: {results['machine']['load average before']}. CPU is processor time per I/O of all threads.",
        _on_ceph_rows(results),
        _idle_disks(results),
        "Goals, with the stretch in parentheses:",
        _judged(found),
    ))  # fmt: skip


def tls(results, found):
    """For docs/performance/tls.md."""
    rows = [
        [workload.title, f"`{row}`", f"{figures['iops']:,.0f}", f"{figures['mb-per-s']:,.0f}", f"{figures['p50-us']:.0f} us",
         f"{figures['iothread-cpu-us']:.1f} us", f"{figures['server-cpu-us']:.1f} us"]
        for name, workload in WORKLOADS.items()
        for row in results["figures"]
        if (figures := results["figures"][row].get(name))
    ]  # fmt: skip
    price = [[line.goal, value_of(line), line.meaning] for line in found if line.must is None]
    return "\n\n".join((
        _made_with(results),
        _table(["load", "row", "IOPS", "MB/s", "p50", "CPU: IOThread", "server"], rows),
        "Goals, with the stretch in parentheses:",
        _judged(found),
        "What TLS costs:",
        _table(["figure", "value", "of what"], price),
    ))  # fmt: skip


FOLDER = "docs/performance"


@dataclasses.dataclass(frozen=True)
class Report:
    """What becomes of the results of a kind of run."""

    figures: str  # the results' file
    page: str  # and the page's, beside it
    lines: Callable  # results -> goals
    make_page: Callable  # results, goals -> text
    documents: dict  # {path in the repository: (results, goals) -> text}

    def write(self, output, results):
        """Gives the goals."""
        found = self.lines(results)
        output.mkdir(parents=True, exist_ok=True)
        (output / self.figures).write_text(json.dumps(results, indent=1) + "\n")
        (output / self.page).write_text(self.make_page(results, found))
        return found

    def publish(self, repo, results):
        """Likewise, with what the documents say of the published figures."""
        found = self.write(repo / FOLDER, results)
        for path, make in self.documents.items():
            document = repo / path
            document.write_text(replaced(document.read_text(), make(results, found)))
        return found


WHOLE = Report(
    "results.json", "index.html", goals.lines, page, {"README.md": summary, f"{FOLDER}/README.md": performance}
)
ON_CEPH = Report(
    "ceph.json", "ceph.html", goals.ceph_lines, functools.partial(page, every_thread=True), {f"{FOLDER}/ceph.md": ceph}
)
OVER_TLS = Report("tls.json", "tls.html", goals.tls_lines, page, {f"{FOLDER}/tls.md": tls})
# By the kind of the run
REPORTS = {"": WHOLE, "ceph": ON_CEPH, "tls": OVER_TLS}
