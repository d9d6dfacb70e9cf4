"""Knocks at ports in every way that Ray's processes understand, without a token, with a wrong one, or with a given one.

    python knocks.py PORT...       prints one JSON line for each knock that was answered with anything but a refusal,
    python knocks.py --token TOKEN PORT...   and a last line that counts all knocks by port and kind of answer

Each method of each service in Ray's own protocol files is called by gRPC with an empty request; by HTTP/1.1 the paths
of Ray's agents, its dashboard and its metrics.
"""

from __future__ import annotations

import http.client
import importlib
import json
import pkgutil
import sys
from collections import Counter

import grpc
import ray.core.generated

HOST, DEADLINE_S = "127.0.0.1", 20
HEADERS = {
    "no token": [],
    "wrong token": [("authorization", "Bearer " + "0" * 64)],
    "no scheme": [("authorization", "0" * 64)],
    "empty token": [("authorization", "Bearer ")],
}
PATHS = (
    ("GET", "/"), ("GET", "/metrics"), ("GET", "/api/healthz"), ("GET", "/api/gcs_healthz"), ("GET", "/api/version"),
    ("GET", "/api/local_raylet_healthz"), ("GET", "/nodes?view=summary"), ("GET", "/api/jobs/"),
    ("POST", "/api/jobs/"), ("GET", "/api/job_agent/jobs/x/logs"), ("POST", "/api/job_agent/jobs/"),
    ("GET", "/logs"), ("GET", "/api/v0/logs"), ("GET", "/worker/traceback"), ("GET", "/worker/cpu_profile"),
    ("GET", "/test/dump"), ("GET", "/api/cluster_status"), ("GET", "/api/authentication_mode"), ("GET", "/index.html"),
    ("POST", "/get_or_create_runtime_env"), ("POST", "/delete_runtime_env_if_possible"),
    ("POST", "/get_runtime_envs_info"), ("GET", "/-/healthz"), ("GET", "/timezone"), ("GET", "/log_proxy?url=file:///"),
)  # fmt: skip


def methods() -> list[str]:
    """/package.Service/Method of all that Ray's protocol files name, and gRPC's own services."""
    found = ["/grpc.health.v1.Health/Check", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"]
    found += [f"/ray.rpc.ObjectManagerService/{name}" for name in ("Push", "Pull", "FreeObjects")]  # not in the wheel
    for module in pkgutil.iter_modules(ray.core.generated.__path__):
        if module.name.endswith("_pb2"):
            described = importlib.import_module(f"ray.core.generated.{module.name}").DESCRIPTOR
            for service in described.services_by_name.values():
                found += [f"/{service.full_name}/{method.name}" for method in service.methods]
    return found


def knock_grpc(port: int, headers: dict[str, list[tuple[str, str]]], names: list[str]) -> list[tuple[str, str, str]]:
    """(method, header, status or 'answered'): one channel, all calls at once."""
    answers = []
    with grpc.insecure_channel(f"{HOST}:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(DEADLINE_S)
        except grpc.FutureTimeoutError:
            return [("connect", "", "no gRPC")]
        calls = [
            (name, kind, channel.unary_unary(name).future(b"", metadata=header, timeout=DEADLINE_S))
            for name in names
            for kind, header in headers.items()
        ]
        for name, kind, call in calls:
            error = call.exception(2 * DEADLINE_S)
            status = "answered" if error is None else error.code().name
            if error is not None and status == "UNKNOWN":
                status = f"UNKNOWN: {error.details()}"
            answers.append((name, kind, status))
    return answers


def knock_http(port: int, headers: dict[str, list[tuple[str, str]]]) -> list[tuple[str, str, str]]:
    """(request, header, status and begin of the answer)."""
    answers = []
    for verb, path in PATHS:
        for kind, header in headers.items():
            client = http.client.HTTPConnection(HOST, port, timeout=DEADLINE_S)
            try:
                client.request(verb, path, headers=dict(header))
                answer = client.getresponse()
                answers.append(
                    (f"{verb} {path}", kind, f"HTTP {answer.status} {answer.read(60).decode(errors='replace')}")
                )
            except (OSError, http.client.HTTPException) as error:
                answers.append((f"{verb} {path}", kind, f"no HTTP ({type(error).__name__})"))
                if path == "/":
                    return answers
            finally:
                client.close()
    return answers


def main(arguments: list[str]) -> int:
    headers = HEADERS
    if arguments[0] == "--token":
        headers = {"token": [("authorization", f"Bearer {arguments[1]}")]}
        arguments = arguments[2:]
    (*names,) = methods() if headers is HEADERS else ["/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"]
    counts: dict[str, Counter[str]] = {}
    for port in map(int, arguments):
        count = counts.setdefault(str(port), Counter())
        for what, kind, answer in knock_grpc(port, headers, names) + knock_http(port, headers):
            count[answer.split(" ", 2)[0] + (" " + answer.split(" ", 2)[1] if answer.startswith("HTTP") else "")] += 1
            print(json.dumps({"port": port, "what": what, "with": kind, "answer": answer}))
    print(json.dumps(counts))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
