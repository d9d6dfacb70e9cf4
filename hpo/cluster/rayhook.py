"""What `ray start` opens and cannot be told not to open. Ray calls `close_extras` before it starts its processes.

Where grpcio is installed, every head starts the server of Ray Client on port 10001: one number for all sweeps of a
host, and one more way into the cluster. And every head starts a dashboard process even with --include-dashboard=false;
where usage statistics are off, that one asks the cloud providers' metadata services who hosts us, and reports to
usage-stats.ray.io that statistics are off (Ray 2.60, ray/dashboard/modules/usage_stats). No trial uses either.
"""

from __future__ import annotations

from typing import Any

HOOK = f"{__name__}.close_extras"
NOWHERE = "http://127.0.0.1:9/"  # the discard port, where nobody listens: for reports, should they come from elsewhere


def close_extras(ray_params: Any, head: bool) -> None:
    """The hook of the variable RAY_START_HOOK, in the process of `ray start`; `ray_params` is Ray's own RayParams."""
    from ray._private import services

    ray_params.ray_client_server_port = None
    services.start_api_server = lambda *_, **__: (None, None)  # address and process
