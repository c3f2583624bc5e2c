"""Modules import only what stands above them in the layout; importing has no side effects."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lattice_lightning

PACKAGE = Path(lattice_lightning.__file__).parent
# a module may import from entries before its own, and from its own
LAYOUT = [
    "exceptions", "files", "parallel", "seeds", "lattice", "groups", "gauge", "fermions", "actions", "observables", "samplers", "metrics",
    "analysis", "models", "methods", "data", "callbacks", "testing", "pipeline", "cli",
]
MODULES = sorted(p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py"))


def entry(module):
    """Place of a dotted module in the layout."""
    return LAYOUT.index(module.split(".")[1])


def imports(tree):
    """Dotted names of our package that a file imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "lattice_lightning":
                yield from (f"lattice_lightning.{a.name}" for a in node.names if a.name != "__version__")
            else:
                yield node.module


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_only_from_above(path):
    found = [
        name
        for name in imports(ast.parse((PACKAGE / path).read_text()))
        if name == "lattice_lightning" or name.startswith("lattice_lightning.")
    ]
    if path == Path("__init__.py"):
        assert not found
        return
    own = LAYOUT.index(path.parts[0].removesuffix(".py"))
    wrong = [name for name in found if entry(name) > own]
    assert not wrong, f"{path} imports {wrong} from below"


def test_every_entry_of_the_layout_exists():
    there = {p.name.removesuffix(".py") for p in PACKAGE.iterdir() if p.suffix == ".py" or p.is_dir()}
    assert there - {"__init__", "__pycache__", "py.typed", "configs"} == set(LAYOUT)


def test_a_wrong_import_would_be_seen():
    text = "def f():\n    from lattice_lightning.cli import main\nimport lattice_lightning.pipeline.x"
    tree = ast.parse(text)
    assert sorted(map(entry, imports(tree))) == [LAYOUT.index("pipeline"), LAYOUT.index("cli")]


PROBE = """
import os, sys, warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", message=".*LeafSpec.*")
warnings.filterwarnings("ignore", message=r".*scipy\\.odr.*")
warnings.filterwarnings("ignore", message=".*pkg_resources.*")
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
def state():
    return (torch.get_default_dtype(), torch.get_num_threads(), torch.get_num_interop_threads(),
            torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
            torch.random.get_rng_state().tolist(), GlobalHydra.instance().is_initialized(),
            OmegaConf.has_resolver("steps"), os.getcwd(), sorted(os.listdir()))
before = state()
import importlib, pkgutil, lattice_lightning
for module in pkgutil.walk_packages(lattice_lightning.__path__, "lattice_lightning."):
    importlib.import_module(module.name)
assert state() == before, (state(), before)
assert not torch.cuda.is_initialized()
assert "wandb" not in sys.modules, "imported only where it logs"
"""


def test_importing_has_no_side_effects(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == run.stderr == ""
