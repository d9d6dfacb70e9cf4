"""`ray start` in a process that has imported Ray before it is told what to start.

    python -m hpo.cluster.raystart    (started by hpo.cluster.worker, with a pipe as standard input)

Ray's import takes a second, on a cold file system many; a worker that waits for the head of its job has nothing else to
do meanwhile. The arguments of `ray start` come as one list in JSON; when the pipe ends without one, so does this.
"""

from __future__ import annotations

import json
import sys

COMMAND = (sys.executable, "-m", "hpo.cluster.raystart")


def main() -> None:
    from ray.scripts.scripts import main as ray  # before the arguments are there

    if arguments := sys.stdin.read():
        sys.argv = ["ray", "start", *json.loads(arguments)]
        ray()


if __name__ == "__main__":
    main()
