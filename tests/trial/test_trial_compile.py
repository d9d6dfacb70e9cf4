"""torch.compile in a trial, what it leaves for the next node, and whose code is taken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from hpo.data import nodecopy
from hpo.trial import Training, compilation, compilecache
from hpo.trial.compilecache import VARIABLE, CompileCache

ROOT = Path(__file__).resolve().parents[2]
MODEL = "model.timm_image.checkpoint_name"
COMPILED = {MODEL: "test_vit", "env.compile": True, "env.batch_size": 40}
needs_compiler = pytest.mark.skipif(
    bool(compilation.missing_tools(torch.device("cpu"))), reason="torch.compile needs a C++ compiler"
)

UPDATE = """
import json, sys
from pathlib import Path
import timm
import torch
from torch import nn
from torch._dynamo.utils import counters

class Tiny(nn.Sequential):  # a few kernels, since each takes g++ seconds
    pretrained_cfg = default_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": (3, 32, 32)}

    def get_classifier(self):
        return self[-1]

@timm.models.register_model
def tiny_of_the_tests(pretrained=False, num_classes=4, **options):
    return Tiny(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.GELU(), nn.Linear(8, num_classes))

from hpo.trial import Training
from hpo.trial.compute import Step
from hpo.trialconfig import TrialConfig
keys, data, out, shared = json.loads(sys.argv[1]), *map(Path, sys.argv[2:])

def first_update(name, **more):
    with Training(TrialConfig.from_flat({**keys, **more}), data, out / name, compiled=shared) as training:
        batch = next(training._loader.training(training._augmentation.at(1)))
        training._compute.train()
        loss = training._compute.update(batch, Step(0.01)).item()
        if training._compiled:
            training._compiled.publish()
        return [loss, training._compute.weights()["3.weight"].sum().item(), training._compute._compilation.active]

shown = {"compiled": first_update("a"), **counters["inductor"]}
print(json.dumps({**shown, "plain": first_update("b", **{"env.compile": False})}))
"""


@pytest.fixture
def node(tmp_path, monkeypatch):
    """node(NAME): a node of that name, whose disk is new."""

    def choose(name):
        (tmp_path / name).mkdir()
        monkeypatch.setenv("SLURMTUNE_LOCAL_DIRS", str(tmp_path / name))
        monkeypatch.setattr(nodecopy, "_leases", {})
        return tmp_path / name

    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(CompileCache, "_ours", "")
    monkeypatch.setattr(compilation, "_warned", set())
    return choose


def first_updates(keys, data, out, shared):
    """Of a fresh process: loss, a sum of weights and whether it was compiled; what inductor counted."""
    command = [sys.executable, "-c", UPDATE, json.dumps(keys), str(data), str(out), str(shared)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@needs_compiler
def test_a_second_node_takes_what_the_first_compiled(raw_data, configure, tmp_path, node):
    keys, shared = {**configure(COMPILED).to_flat(), MODEL: "tiny_of_the_tests"}, tmp_path / "compiled"
    node("first")
    cold = first_updates(keys, raw_data, tmp_path / "a", shared)
    assert cold["fxgraph_cache_miss"] > 0
    [archive] = shared.glob("*/*.tar.gz")
    assert [path.stat().st_mode & 0o777 for path in (shared, archive.parent, archive)] == [0o700, 0o700, 0o600]
    node("second")
    warm = first_updates(keys, raw_data, tmp_path / "b", shared)
    assert "fxgraph_cache_miss" not in warm
    assert list(shared.glob("*/*.tar.gz")) == [archive]  # nothing new, nothing published
    assert warm["compiled"] == cold["compiled"]
    assert (cold["compiled"][2], cold["plain"][2]) == (True, False)
    assert cold["compiled"][:2] == pytest.approx(cold["plain"][:2], abs=1e-5)


def test_without_a_compiler_it_trains_all_the_same(raw_data, configure, tmp_path, node, monkeypatch):
    node("bare")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with Training(configure(COMPILED), raw_data, tmp_path / "a") as training:
        bare = training.run_epoch()["train_loss"]
    assert "no C++ compiler was found" in (tmp_path / "a" / "log.txt").read_text()
    with Training(configure({**COMPILED, "env.compile": False}), raw_data, tmp_path / "b") as training:
        assert training.run_epoch()["train_loss"] == bare


def test_what_cannot_be_compiled_trains_as_it_is(raw_data, configure, tmp_path, node, monkeypatch):
    """A backend that fails, as inductor does with some models, in forward and so before anything is learnt."""
    node("odd")

    def fail(graph, inputs):
        raise RuntimeError("an operator that nobody lowers")

    real = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: real(self, backend=fail))
    with Training(configure(COMPILED), raw_data, tmp_path / "a") as training:
        first = training.run_epoch()["train_loss"]
        assert not training._compute._compilation.active
    assert "torch cannot compile this model" in (tmp_path / "a" / "log.txt").read_text()
    with Training(configure({**COMPILED, "env.compile": False}), raw_data, tmp_path / "b") as training:
        assert training.run_epoch()["train_loss"] == first


def test_of_a_table_the_images_part_is_compiled_for_any_number(table_data, configure, tmp_path, node, monkeypatch):
    node("table")
    compiled = []
    monkeypatch.setattr(compilation, "missing_tools", lambda device: "")
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, dynamic: compiled.append((self, dynamic)))
    with Training(configure({**COMPILED, "env.batch_size": 8}), table_data, tmp_path / "a") as training:
        assert compiled == [(training._compute._own.image, True)]


def hand_on(tmp_path, node, content=b"code", name="ab/kernel.so"):
    """What node `maker` published of one file; the sweep's folder."""
    shared = tmp_path / "compiled"
    node("maker")
    cache = CompileCache(shared, "cpu")
    path = cache.directory / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert cache.publish() == 1
    assert cache.publish() == 0
    os.environ.pop(VARIABLE)
    return shared


def taken(tmp_path, node):
    """What a new node has of it."""
    node("taker")
    directory = CompileCache(tmp_path / "compiled", "cpu").directory
    assert directory.stat().st_mode & 0o777 == 0o700
    return {path.name: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_files_are_handed_on(tmp_path, node):
    hand_on(tmp_path, node)
    assert taken(tmp_path, node) == {"kernel.so": b"code"}


def test_nodes_with_another_cpu_share_nothing(tmp_path, node, monkeypatch):
    hand_on(tmp_path, node)
    monkeypatch.setattr(compilecache, "_cpu", lambda: "x86_64 flags: none")
    assert taken(tmp_path, node) == {}


@pytest.mark.parametrize("opened", ["folder", "key", "archive"])
def test_what_others_could_have_written_is_not_taken(tmp_path, node, opened, caplog):
    shared = hand_on(tmp_path, node)
    [archive] = shared.glob("*/*.tar.gz")
    {"folder": shared, "key": archive.parent, "archive": archive}[opened].chmod(0o777)
    assert taken(tmp_path, node) == {}
    assert "is not this user's alone" in caplog.text


def test_damaged_archives_and_names_outside_are_not_taken(tmp_path, node, caplog):
    shared = hand_on(tmp_path, node)
    [archive] = shared.glob("*/*.tar.gz")
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    outside = archive.with_name("outside.tar.gz")
    with tarfile.open(outside, "w:gz") as stream:
        stream.add(__file__, "../../kernel.so")
    outside.chmod(0o600)
    assert taken(tmp_path, node) == {}
    assert "../../kernel.so" in caplog.text
    assert not list(tmp_path.glob("taker/**/kernel.so"))


def test_the_archives_have_a_largest_size(tmp_path, node, monkeypatch, caplog):
    monkeypatch.setattr(compilecache, "LIMIT", 1)
    with pytest.raises(AssertionError):
        hand_on(tmp_path, node)
    assert "no more is published" in caplog.text
    assert not [path for path in (tmp_path / "compiled").rglob("*") if path.is_file()]


def test_a_persons_own_directory_is_left_to_them(tmp_path, node, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
    cache = CompileCache(tmp_path / "compiled", "cpu")
    assert cache.publish() == 0
    assert os.environ[VARIABLE] == str(tmp_path / "mine")
    assert not (tmp_path / "compiled").exists()


def test_the_nodes_directory_goes_with_its_last_user(tmp_path, node):
    place = node("node")
    cache = CompileCache(None, "cpu")
    nodecopy.remove_copies()
    assert cache.directory.is_dir()
    os.close(nodecopy._leases.pop(cache.directory))
    nodecopy.remove_copies()
    assert list(place.iterdir()) == []
    shutil.rmtree(place)
    assert CompileCache(None, "cpu").directory.is_dir()  # where no place is, one that is made anew
