"""What campaign.py and curve.py have measured, for docs/reliability.md: a table of kills, and a loss curve.

python tests/faults/measured.py                                   # writes both, from tests/faults/results
python tests/faults/measured.py --take DIR --machine "..."        # first takes the results of a campaign in DIR
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import measured_slurm

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results"
KILLS, SLURM, CURVE = RESULTS / "kills.jsonl", RESULTS / "slurm.jsonl", RESULTS / "curve.json"
PAGE, FIGURE = ROOT / "docs" / "reliability.md", ROOT / "docs" / "figures" / "resumed_loss.svg"
BEGIN, END = "<!-- table of tests/faults/measured.py -->", "<!-- end of the table -->"
WHO = {
    "trial": "a trial's process",
    "driver": "the driver",
    "raylet": "Ray's raylet",
    "gcs": "Ray's GCS",
    "supervisor": "the attempt's supervisor",
    "all": "every process of the sweep at once",
}
_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 640, 260, 48, 16, 620, 216


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def table(rows):
    """Markdown: fault, how injected, survived of tried, what was lost, when it was back, where and when measured."""
    names = "fault | how injected | survived of tried | lost beyond the epoch at work | next epoch after | measured"
    lines = [f"| {names} |", "|---|---|---|---|---|---|"]
    for kind, who in WHO.items():
        tried = [row for row in rows if row["kind"] == kind]
        if not tried:
            continue
        survived = sum(not row["wrong"] for row in tried)
        faults = sorted({wrong for row in tried for wrong in row["wrong"]})
        back = [row["back_s"] for row in tried if "back_s" in row]
        when = sorted({time.strftime("%d %B %Y", time.gmtime(row["t"])) for row in tried})
        lines.append(
            f"| {who} | SIGKILL at a random moment | {survived} of {len(tried)} | {'; '.join(faults) or 'nothing'} "
            f"| {f'{statistics.median(back):.0f} s' if back else ''} | {tried[0]['machine']}, {', '.join(when)} |"
        )
    return "\n".join(lines)


def draw(curve):
    """Both curves in one SVG, a dashed line for each kill."""
    low, high = min(curve["unbroken"]), max(curve["unbroken"])

    def x(epoch):
        return round(_LEFT + (epoch - 0.5) / len(curve["epochs"]) * (_RIGHT - _LEFT), 1)

    def y(loss):
        return round(_BOTTOM - (loss - low) / ((high - low) or 1) * (_BOTTOM - _TOP - 10), 1)

    def line(losses, style):
        points = " ".join(f"{x(epoch)},{y(loss)}" for epoch, loss in zip(curve["epochs"], losses, strict=True))
        return f'<polyline points="{points}" fill="none" {style}/>'

    places = [epoch + 0.5 for epoch in curve["kills"]]
    kills = "".join(f'<path d="M{x(p)} {_TOP}V{_BOTTOM}" stroke="#c33" stroke-dasharray="3 3"/>' for p in places)
    epochs = "".join(f'<text x="{x(e)}" y="{_BOTTOM + 16}" text-anchor="middle">{e}</text>' for e in curve["epochs"])
    wide, thin = 'stroke="#9bd" stroke-width="7"', 'stroke="#124"'
    drawn = line(curve["unbroken"], wide) + line(curve["broken"], thin)
    values = "".join(f'<text x="{_LEFT - 6}" y="{y(v) + 4}" text-anchor="end">{v:.3f}</text>' for v in (low, high))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="11"><rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>{kills}'
        f"{drawn}"
        f'{epochs}{values}<text x="{_RIGHT}" y="{_HEIGHT - 8}" text-anchor="end">epoch; training loss, wide: '
        f"undisturbed, thin: with {len(places)} kills (dashed)</text></svg>\n"
    )


def write_page(begin, text, end):
    before, _, rest = PAGE.read_text().partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def take(folder, machine):
    """Copies a campaign's results; `machine`: where it ran."""
    rows = [{**row, "machine": machine} for row in read(folder / "kills.jsonl")]
    RESULTS.mkdir(exist_ok=True)
    KILLS.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", type=Path)
    parser.add_argument("--machine", default="")
    arguments = parser.parse_args()
    if arguments.take:
        take(arguments.take, arguments.machine)
    if KILLS.exists():
        write_page(BEGIN, table(read(KILLS)), END)
    write_page(measured_slurm.BEGIN, measured_slurm.slurm_table(read(SLURM)), measured_slurm.END)
    FIGURE.parent.mkdir(exist_ok=True)
    FIGURE.write_text(draw(json.loads(CURVE.read_text())))


if __name__ == "__main__":
    main()
