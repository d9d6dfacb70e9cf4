"""The driver's signals: no thread of its process may take them, or a request to stop kills it instead."""

from __future__ import annotations

import subprocess
import sys


def test_the_stop_signals_are_blocked_before_any_thread_starts():
    code = (
        "import os, re, pathlib\n"
        "import hpo.cluster.driver_main as main\n"
        "assert len(os.listdir('/proc/self/task')) == 1\n"
        "assert main.main(['/nonexistent', 'a']) == 2\n"  # its imports are done by then
        "for task in os.listdir('/proc/self/task'):\n"
        "    status = pathlib.Path(f'/proc/self/task/{task}/status').read_text()\n"
        "    blocked = int(re.search(r'SigBlk:\\s*(\\w+)', status).group(1), 16)\n"
        "    assert all(blocked >> (s - 1) & 1 for s in main.STOP_SIGNALS), status\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "is not a sweep directory" in done.stdout
