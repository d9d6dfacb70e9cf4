"""prefetch.py against a hub on this machine, and a real sweep without any network afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hpo.space import parse_space
from hpo.weights import is_offline, read_manifest, wanted_weights

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODELS = {"test_resnet": "timm/test_resnet.r160_in1k", "test_vit": "timm/test_vit.r160_in1k"}
NOBODY = "http://127.0.0.1:9"  # no hub answers there
SWEEP = """
data: data
hyperparameters:
  model.timm_image.checkpoint_name: {choice: [test_resnet, test_vit]}
  model.timm_image.pretrained: auto
  model.timm_image.image_size: 160
  optimization.learning_rate: {loguniform: [1e-3, 1e-2], default: 1e-3}
  optimization.max_epochs: 1
  env.num_workers: 1
  env.batch_size: 16
points_to_evaluate: [{model.timm_image.checkpoint_name: test_vit}]
hyperparameter_tune_kwargs: {num_trials: 2, scheduler: FIFO}
"""


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for the files in `files`: repository -> bytes. `trouble`: a status to fail with, once."""

    files: dict[str, bytes] = {}
    trouble: list[int] = []
    asked: list[str] = []

    def do_HEAD(self):
        self._answer(False)

    def do_GET(self):
        self._answer(True)

    def _answer(self, body):
        type(self).asked.append(f"{self.command} {self.path}")
        repository, _, rest = self.path.lstrip("/").partition("/resolve/")
        content = self.files.get(repository) if rest.endswith("/model.safetensors") else None
        if self.trouble:
            self.send_response(type(self).trouble.pop())
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if content is None:
            self.send_response(404)
            known = repository in self.files
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if body:
            self.wfile.write(content[start:])

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Real weights of two small models, as their repositories hold them."""
    import timm
    from safetensors.torch import save

    return {MODELS[name]: save(timm.create_model(name).state_dict()) for name in MODELS}


@pytest.fixture
def hub(weights):
    """A hub at a port of this machine: hub.files, hub.trouble, hub.asked and hub.url."""

    class Own(Hub):
        files, trouble, asked = dict(weights), [], []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    Own.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Own
    server.shutdown()


@pytest.fixture
def sweep(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SWEEP)
    return path


def run(script, *arguments, home, before=(), timeout=240, **environ):
    names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
    kept = {key: value for key, value in os.environ.items() if key not in names}
    command = [*before, sys.executable, ROOT / "launch" / script, *arguments]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=timeout, check=False,
                          env={**kept, "HF_HOME": str(home), **environ})  # fmt: skip


def test_all_weights_of_the_space_are_fetched_once_with_their_hashes(hub, sweep, weights, tmp_path):
    home = tmp_path / "hf"
    hub.trouble[:] = [503, 429]  # busy for a moment: asked again
    done = run("prefetch.py", sweep, home=home, HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(home)
    assert set(manifest) == set(MODELS)
    for model, entry in manifest.items():
        content = weights[MODELS[model]]
        assert (entry.source, entry.revision, entry.bytes) == (MODELS[model], COMMIT, len(content))
        assert entry.sha256 == hashlib.sha256(content).hexdigest()
        assert (home / entry.path).read_bytes() == content
        assert entry.sha256[:12] in done.stdout
    requests = len(hub.asked)
    assert run("prefetch.py", sweep, home=home, HF_ENDPOINT=hub.url).returncode == 0
    assert len(hub.asked) == requests  # what is there is not asked for again
    moved = tmp_path / "elsewhere"
    home.rename(moved)
    assert run("prefetch.py", sweep, "--check", home=moved, HF_ENDPOINT=NOBODY).returncode == 0
    damage((moved / manifest["test_resnet"].path).resolve())
    found = run("prefetch.py", sweep, "--check", home=moved, HF_ENDPOINT=NOBODY)
    assert found.returncode == 5
    assert "test_resnet" in found.stderr
    assert "test_vit" not in found.stderr
    assert found.stderr.count("\n") == 1
    assert run("prefetch.py", sweep, home=moved, HF_ENDPOINT=hub.url).returncode == 0
    assert run("prefetch.py", sweep, "--check", home=moved, HF_ENDPOINT=NOBODY).returncode == 0


def damage(file):
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_what_is_there_is_kept_when_another_model_fails(hub, sweep, tmp_path):
    del hub.files[MODELS["test_vit"]]
    home = tmp_path / "hf"
    done = run("prefetch.py", sweep, home=home, HF_ENDPOINT=hub.url)
    assert done.returncode == 5
    assert "1 of 2 models could not be fetched" in done.stderr
    assert "test_vit" in done.stderr
    assert set(read_manifest(home)) == {"test_resnet"}


def test_no_network_is_said_in_one_line(tmp_path):
    done = run("prefetch.py", "--model", "test_vit", "--dry-run", home=tmp_path / "hf", HF_ENDPOINT=NOBODY)
    assert done.returncode == 5
    [error] = [line for line in done.stderr.splitlines() if "error" in line]
    assert "127.0.0.1:9" in error
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a sweep file, or --model NAME"),
        (["--model", "resnet81"], "timm has no model 'resnet81'"),
        (["no-such.yaml"], "cannot be read"),
    ],
)
def test_what_cannot_be_fetched_is_refused(arguments, message, tmp_path):
    done = run("prefetch.py", *arguments, home=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def space(**keys):
    return parse_space({"optim.lr": {"loguniform": [1e-3, 1e-2]}, **keys})


def test_what_a_space_can_name():
    models = {"choice": ["test_resnet", "test_vit"]}
    names = {"model.timm_image.checkpoint_name": models}
    assert wanted_weights(space(**names)).models == ("test_resnet", "test_vit")  # auto is the default
    assert wanted_weights(space(**names, **{"model.timm_image.pretrained": False})).models == ()
    way = {"choice": ["true", "false"], "when": {"model.timm_image.checkpoint_name": "test_vit"}}
    both = wanted_weights(space(**names, **{"model.timm_image.pretrained": way}))
    assert both.models == ("test_resnet", "test_vit")
    assert both.downloads
    ways = [way, {"choice": ["false", "w.pth"], "when": {"model.timm_image.checkpoint_name": "test_resnet"}}]
    apart = wanted_weights(space(**names, **{"model.timm_image.pretrained": ways}))
    assert apart.models == ("test_vit",) or apart.models == ("test_resnet", "test_vit")
    assert [path.name for path in apart.files] == ["w.pth"]


@pytest.mark.parametrize(("value", "offline"), [(None, True), ("1", True), ("0", False), ("off", False)])
def test_jobs_are_offline_unless_a_person_says_otherwise(value, offline):
    environ = {} if value is None else {"HF_HUB_OFFLINE": value}
    assert is_offline(True, environ) is offline
    assert is_offline(False, environ) is (offline and value is not None)


def test_submit_refuses_a_sweep_without_its_weights(write_photos, tmp_path):
    sweep = write_photos(tmp_path, SWEEP)
    done = run("submit.py", sweep, "--cluster", "local", home=tmp_path / "hf")
    assert done.returncode == 5
    [error] = [line for line in done.stderr.splitlines() if "error: " in line]
    assert "no pretrained weights of test_resnet, test_vit" in error
    assert f"launch/prefetch.py {sweep}`" in error


@pytest.mark.ray
def test_a_sweep_runs_on_prefetched_weights_without_any_network(hub, write_photos, tmp_path):
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("a process without network needs root here")
    home = tmp_path / "hf"
    sweep = write_photos(tmp_path, SWEEP)
    done = run("prefetch.py", sweep, home=home, HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    alone = ["unshare", "-n", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]
    answer = run("submit.py", sweep, "--cluster", "local", "--run-dir", tmp_path / "run", home=home, before=alone,
                 SLURMTUNE_ACCELERATOR="cpu")  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr
    logs = "".join(path.read_text() for path in (tmp_path / "run" / "trials").glob("*/log.txt"))
    for model in MODELS:
        assert f"pretrained weights of {model} from the cache" in logs
    results = json.loads(run("results.py", tmp_path / "run", "--json", home=home).stdout)
    assert {trial["state"] for trial in results["trials"]} == {"completed"}


@pytest.fixture
def write_photos(photos):
    """write_photos(folder, sweep) -> its file, with shards of the bundled photographs beside it."""

    def write(folder, text):
        command = [sys.executable, ROOT / "launch" / "prepare.py", photos, "--out", folder / "data"]
        subprocess.run([*command, "--encoding", "raw", "--size", "160"], check=True, capture_output=True, timeout=120)
        path = folder / "small.yaml"
        path.write_text(text)
        return path

    return write
