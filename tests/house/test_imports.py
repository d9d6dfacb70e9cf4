"""The rooms of the code: who may import what, and that light commands stay light."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TORCH = {"torch", "torchvision", "timm", "accelerate", "safetensors"}
ARRAYS = {"numpy", "h5py", "PIL", "cv2", "simplejpeg", "isal"}
RAY = {"ray", "optuna", "tensorboardX"}
MEETING = "hpo/cluster/trainable.py"  # the one file in which Ray and torch meet

ALLOWED = {  # room -> packages from outside, rooms of ours
    "hpo": (set(), {"hpo", "hpo.data.manifest"}),
    "hpo/results": (set(), {"hpo", "hpo.cluster.jobs", "hpo.results"}),
    "hpo/data": (ARRAYS, {"hpo", "hpo.data"}),
    "hpo/trial": (TORCH | ARRAYS | {"huggingface_hub"}, {"hpo", "hpo.data", "hpo.trial"}),
    "hpo/search": (RAY | {"numpy"}, {"hpo", "hpo.results", "hpo.search"}),
    "hpo/export": (
        {"torch", "timm", "numpy", "safetensors"},
        {"hpo", "hpo.data", "hpo.results", "hpo.trial", "hpo.predictor.scores", "hpo.export"},
    ),
    "hpo/cluster": ({"ray", "submitit"}, {"hpo", "hpo.data", "hpo.results", "hpo.search", "hpo.cluster"}),
    "hpo/check": (
        {"torch"},
        {
            "hpo",
            "hpo.data.manifest",
            "hpo.search.asha",
            "hpo.search.scheduler",
            "hpo.cluster.request",
            "hpo.cluster.words",
            "hpo.trial",
            "hpo.check",
        },
    ),
    "hpo/doctor": (set(), {"hpo", "hpo.check", "hpo.cluster", "hpo.data", "hpo.doctor"}),
    "hpo/price": (
        set(),
        {
            "hpo",
            "hpo.results.wording",
            "hpo.search.replay",
            "hpo.search.simulation",
            "hpo.cluster.commands",
            "hpo.cluster.request",
            "hpo.cluster.share",
            "hpo.cluster.words",
            "hpo.check.corners",
            "hpo.price",
        },
    ),
    "hpo/predictor": (
        {"numpy"},
        {
            "hpo",
            "hpo.data",
            "hpo.results",
            "hpo.check.preflight",
            "hpo.search.plugins",
            "hpo.search.sweep",
            "hpo.search.trialfiles",
            "hpo.cluster.commands",
            "hpo.cluster.completion",
            "hpo.cluster.request",
            "hpo.cluster.sites",
            "hpo.cluster.submission",
            "hpo.cluster.terms",
            "hpo.cluster.winner",
            "hpo.predictor",
        },
    ),
    "launch": (
        set(),
        {
            "hpo",
            "hpo.check",
            "hpo.price",
            "hpo.doctor",
            "hpo.data",
            "hpo.results",
            "hpo.cluster",
            "hpo.search.plugins",
            "launch",
        },
    ),
}


def files():
    return [*sorted(ROOT.glob("hpo/**/*.py")), *sorted(ROOT.glob("launch/**/*.py"))]


def room(path):
    parts = path.relative_to(ROOT).parts
    return "/".join(parts[:2]) if parts[0] == "hpo" and len(parts) > 2 else parts[0]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
            yield from (word.value for word in node.args if isinstance(word, ast.Constant))


LATE = {  # room or file -> what it may import inside functions only
    "hpo/predictor": (
        "pandas",
        "ruamel.yaml",
        "safetensors",
        "hpo.trial",
        "hpo.search.ray_plugins",  # for who has an instance of Ray's
        "hpo.price.packing",  # for who wants trials_per_gpu: auto
    ),  # torch side: to predict, in the person's own process
    "hpo/__init__.py": ("hpo.predictor",),
    "hpo/search/figures.py": ("plotly",),  # for the report at an attempt's end only
    "hpo/export/graph.py": ("onnxruntime",),  # a wish of few
    "hpo/export/trackers.py": ("mlflow", "wandb"),  # the same
    "launch/completion.py": ("shtab",),  # when asked for
    "launch/export.py": ("hpo.export", "hpo.search.ray_form"),  # torch and Ray, when the command line is understood
    "launch/predict.py": ("hpo.export",),
    "launch/prefetch.py": ("hpo.trial",),  # what timm knows of its weights
    "launch/retrain.py": ("hpo.export",),
    "launch/evaluate.py": ("hpo.export", "numpy"),
    "launch/report.py": ("hpo.search.figures",),
    "hpo/check/dataset.py": ("hpo.data",),  # to read every byte, where that is asked for
    "hpo/config.py": ("ruamel.yaml",),  # 40 ms: for who reads a sweep file only
}


def imported_at_once(path):
    """What importing the module imports: not what stands inside functions or is for type checkers only."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def is_late(path, module):
    """Whether it is one of LATE, and imported late indeed."""
    places = (room(path), str(path.relative_to(ROOT)))
    names = [name for place in places for name in LATE.get(place, ())]
    known = any(module == name or module.startswith(f"{name}.") for name in names)
    return known and module not in set(imported_at_once(path))


def room_of(module):
    parts = module.split(".")
    if parts[0] == "launch":
        return "launch"
    inner = ROOT.joinpath(*parts[:2])
    return ".".join(parts[:2]) if len(parts) > 1 and inner.is_dir() else parts[0]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    packages, rooms = ALLOWED[room(path)]
    for module in imported(path):
        if is_late(path, module):
            continue
        top = module.split(".")[0]
        if top in ("hpo", "launch"):
            meeting = str(path.relative_to(ROOT)) == MEETING and room_of(module) == "hpo.trial"
            assert meeting or room_of(module) in rooms or module in rooms, f"{path} imports {module}"
        elif top not in sys.stdlib_module_names:
            assert top in packages, f"{path} imports {module}"


def file_of(module):
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def test_light_rooms_reach_no_package_through_others():
    seen, todo = set(), [path for path in files() if room(path) in ("hpo", "hpo/results")]
    assert todo
    while todo:
        path = todo.pop()
        for module in set(imported_at_once(path)) - seen:
            seen.add(module)
            if module.split(".")[0] in ("hpo", "launch"):
                todo += {file_of(module), file_of(module.rpartition(".")[0] or module)}
            else:
                assert module.split(".")[0] in sys.stdlib_module_names, f"{path} imports {module}"


def test_slurm_holds_no_python_and_no_module_is_too_long():
    assert not list((ROOT / "slurm").rglob("*.py"))
    for path in files():
        assert len(path.read_text().splitlines()) <= 400, path


HEAVY = ("ray", "torch", "timm", "optuna", "pandas", "accelerate")


@pytest.mark.parametrize(
    ("script", "absent"),
    [
        ("submit.py", HEAVY),
        ("check.py", HEAVY),
        ("prepare.py", HEAVY),
        ("prefetch.py", HEAVY),
        ("completion.py", (*HEAVY, "shtab")),
        ("doctor.py", (*HEAVY, "submitit", "h5py")),
        ("results.py", (*HEAVY, "numpy", "submitit", "h5py", "ruamel.yaml")),
        ("export.py", HEAVY),
        ("predict.py", HEAVY),
        ("retrain.py", HEAVY),
        ("evaluate.py", HEAVY),
        ("clean.py", (*HEAVY, "numpy", "submitit", "h5py", "ruamel.yaml")),
        ("report.py", (*HEAVY, "numpy", "submitit", "h5py", "ruamel.yaml")),
    ],
)
def test_commands_start_light(script, absent):
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{script!r}, '--help']\n"
        f"try: runpy.run_path({str(ROOT / 'launch' / script)!r}, run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('MODULES', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    modules = set(done.stdout.rpartition("MODULES")[2].split())
    assert not modules & set(absent)
    assert "example" in done.stdout


def test_the_library_and_its_face_start_light():
    code = (
        "import sys, hpo; from hpo import Bool, Categorical, Int, Real\n"
        f"light = set(sys.modules) & {{*{HEAVY!r}, 'numpy', 'submitit', 'h5py'}}\n"
        "from hpo import MultiModalPredictor; MultiModalPredictor(label='label')\n"
        f"print(sorted(light), sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["[]", "[]"]


def project_files():
    """What git knows; where there is no git, or only an unpacked archive, what lies in the project's rooms."""
    if shutil.which("git") and (ROOT / ".git").exists():
        command = ["git", "-c", "safe.directory=*", "ls-files"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    rooms = ("hpo", "launch", "slurm", "tests", "docs", "examples")
    inside = [path for name in rooms for path in (ROOT / name).rglob("*") if "__pycache__" not in path.parts]
    return [str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.*"), ROOT / "Makefile", *inside] if path.is_file()]


def test_no_path_of_any_machine_and_no_registry_in_the_project():
    listed = project_files()
    words = ("/".join(["", "work", ""]), "/".join(["", "root", ""]), "pypi" + ".org", "files." + "pythonhosted")
    for name in listed:
        path = ROOT / name
        if path.suffix in (".zip", ".png", ".npz") or name.startswith("bench/") or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        assert not [word for word in words if word in text], name
