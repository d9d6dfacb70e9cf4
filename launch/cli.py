"""`slurmtune COMMAND ...`: the scripts of launch/ under one name."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "submit": "submit a sweep to SLURM, or run it here",
    "check": "find what would go wrong with a sweep, before it waits in a queue",
    "prepare": "make shards of images",
    "doctor": "look at a cluster, write a first site file, try it",
    "prefetch": "fetch the pretrained weights of a sweep's models",
    "results": "show what a sweep has found",
    "report": "write one HTML file about a sweep",
    "export": "write a trial's model for plain timm, or the sweep for Ray",
    "predict": "predict images with an exported model",
    "evaluate": "judge an exported model on labelled images",
    "retrain": "train the best trials again with several seeds",
    "clean": "remove checkpoints that nothing needs",
    "completion": "print completion of all this for bash, zsh or fish",
}


def main() -> int:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {name.ljust(width)}  {text}" for name, text in COMMANDS.items()]
        sys.stdout.write(
            "usage: slurmtune COMMAND ...\n\n" + "\n".join(lines) + "\n\nexample: slurmtune submit --partition gpu\n"
        )
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        from hpo.errors import nearest

        sys.stderr.write(f"slurmtune: no command {name!r}.{nearest(name, COMMANDS)} Known: {', '.join(COMMANDS)}.\n")
        return 2
    sys.argv = [f"slurmtune {name}", *arguments[1:]]
    return int(importlib.import_module(f"launch.{name}").main(arguments[1:]))


if __name__ == "__main__":
    raise SystemExit(main())
