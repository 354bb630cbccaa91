# SPDX-License-Identifier: GPL-2.0-or-later
"""What the documents say of the published figures: made from results.json, so that they never tell of another run."""

import textwrap

from .goals import goal_of, value_of

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


def performance(results, found):
    """For docs/performance/README.md."""
    goals = [[line.goal, value_of(line), line.meaning, goal_of(line), line.verdict] for line in found if line.must is not None]
    figures = [[line.goal, value_of(line), line.meaning, line.bound] for line in found if line.must is None]
    return "\n\n".join((
        _made_with(results),
        "CPU is the IOThread's processor time per I/O, of `floor` the client's; `vhost-user` has no IOThread.",
        _rows(results),
        "Goals, with the stretch in parentheses:",
        _table(["figure", "value", "of what", "goal", ""], goals),
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


def write(repo, results, found):
    for path, make in ((repo / "README.md", summary), (repo / "docs/performance/README.md", performance)):
        path.write_text(replaced(path.read_text(), make(results, found)))
