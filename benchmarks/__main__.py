"""Measures everything, in groups, and writes it down: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    busy,
    chart,
    discovery,
    folders,
    on_device,
    planning,
    ranks,
    remote,
    report,
    restoring,
    saving,
    sharing,
    slowing,
    stalling,
    verifying,
)
from benchmarks.faults import measuring, picture
from benchmarks.report import Row, Setting
from benchmarks.states import FULL, QUICK

# What depends on the disk first, before 100,000 files were made and removed on it; the largest late, since it
# leaves the page cache and the disk the most to do; last, who leave threads behind.
_GROUPS: dict[str, Callable[[Setting], list[Row]]] = {
    "save": saving.beside_the_disk,
    "over": saving.over_another,
    "small": saving.small,
    "many": saving.many,
    "verify": verifying.verifying,
    "restore": restoring.restoring,
    "folders": folders.folders,
    "sharing": sharing.sharing,
    "tmpfs": saving.in_memory,
    "find": discovery.finding,
    "planning": planning.planning,
    "ranks": ranks.ranks,
    "large": saving.large,
    "stall": stalling.stalling,
    "slow": slowing.slowing,
    "device": on_device.on_device,
    "remote": remote.remote,
    "others": saving.beside_others,
}
_FAULTS = "faults"
_HELP = f"of {', '.join(_GROUPS)}; all of these by default. Alone: {_FAULTS}, which counts and does not time"
_NO_CHART = "matplotlib is not installed: no chart"
_ORDER = (
    "save",
    "save cpu",
    "save others",
    "over",
    "large",
    "memory",
    "sharing",
    "tmpfs",
    "small",
    "many",
    "verify",
    "restore",
    "folders",
    "stall",
    "slow",
    "device",
    "ranks",
    "remote",
    "find",
    "planning",
)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=_HELP)
    parser.add_argument("--rounds", type=int, help="how often each is timed, 5 by default; medians count")
    parser.add_argument("--quick", action="store_true", help="tiny states, one round: whether it runs at all")
    parser.add_argument("--directory", type=Path, help="on the disk to measure; the temporary one by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw them: .svg or .png")
    parser.add_argument("--page", type=Path, metavar="FILE", help="put them into its table")
    parser.add_argument(
        "--busy",
        type=int,
        default=0,
        metavar="N",
        help="while N cores are busy with something else",
    )
    parser.add_argument(
        "--kills", type=int, metavar="N", help="of `faults`: of trainings of each kind, 100 by default"
    )
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.groups if name not in {*_GROUPS, _FAULTS}]:
        parser.error(f"no such group: {', '.join(unknown)}")
    if _FAULTS in arguments.groups and (len(arguments.groups) > 1 or arguments.page):
        parser.error(f"{_FAULTS} counts what becomes of damaged files, and goes alone and without --page")
    if arguments.kills is None:
        arguments.kills = 0 if arguments.quick else 100
    if arguments.rounds is None:
        arguments.rounds = 1 if arguments.quick else 5
    elif arguments.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if arguments.busy < 0:
        parser.error("--busy must be 0 or more")
    if arguments.busy and arguments.page:
        parser.error("the table is that of a quiet machine: --busy goes without --page")
    return arguments


def _place(row: Row) -> int:
    return next(at for at, name in reversed(list(enumerate(_ORDER))) if row.group.startswith(name))


def main() -> None:
    arguments = _arguments()
    if arguments.groups == [_FAULTS]:
        _faults(arguments)
    else:
        _timings(arguments)


def _faults(arguments: argparse.Namespace) -> None:
    def tell(line: str) -> None:
        print(line, flush=True)

    document = measuring.measure(arguments.directory, arguments.kills, tell, tell, quick=arguments.quick)
    if arguments.quick:
        print("\nThis was --quick: it shows that all of it runs, with a few bits.")
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if arguments.chart and not picture.draw(document, arguments.chart):
        print(_NO_CHART)


def _timings(arguments: argparse.Namespace) -> None:
    left_out: list[str] = []

    def leave_out(sentence: str) -> None:
        if sentence not in left_out:
            print(sentence, flush=True)
            left_out.append(sentence)

    def tell(line: str) -> None:
        print(f"  {line}", flush=True)

    rows: list[Row] = []
    sizes = QUICK if arguments.quick else FULL
    with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
        machine = report.machine(Path(folder), busy=arguments.busy)
        for name in arguments.groups or _GROUPS:
            print(f"measuring: {name}", flush=True)
            with tempfile.TemporaryDirectory(dir=folder) as own, busy.cores(arguments.busy):
                rows += _GROUPS[name](Setting(Path(own), arguments.rounds, sizes, leave_out, tell))
    rows.sort(key=_place)
    print(f"\n{report.sentence(machine)}\n\n{report.table(rows)}")
    if arguments.quick:
        print("\nThis was --quick: it shows that all of it runs, and not how fast.")
    if arguments.json:
        document = report.document(machine, arguments.rounds, rows, left_out, quick=arguments.quick)
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if arguments.page:
        text = arguments.page.read_text(encoding="utf-8")
        arguments.page.write_text(report.in_page(text, machine, rows), encoding="utf-8")
    if arguments.chart and not chart.draw(rows, report.sentence(machine), arguments.chart):
        print(_NO_CHART)


if __name__ == "__main__":
    main()
