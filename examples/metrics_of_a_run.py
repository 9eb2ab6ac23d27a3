"""Makes a table of the metrics of the runs of a directory, those of removed checkpoints too.

    marlin-ckpt log checkpoints/quickstart --json | python examples/metrics_of_a_run.py > metrics.csv

They are in the history of the directory, which outlives its checkpoints.
"""

import csv
import json
import sys


def main() -> None:
    """Reads the document from stdin, and writes the table to stdout."""
    events = [one for one in json.load(sys.stdin)["events"] if one.get("metrics")]
    names = sorted({name for one in events for name in one["metrics"]})
    table = csv.writer(sys.stdout)
    table.writerow(["at", "run", "event", "step", *names])
    for one in events:
        values = [one["metrics"].get(name, "") for name in names]
        table.writerow([one["at"], one["run_id"], one["event"], one["step"], *values])


if __name__ == "__main__":
    main()
