"""Fixtures that all tests share."""

from pathlib import Path

import pytest
import torch

from lattice_lightning.groups import SU2, SUN, U1

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "configurations"


@pytest.fixture
def rng():
    """A generator with a seed fixed beforehand."""
    return torch.Generator().manual_seed(20241124)


@pytest.fixture(params=[U1(), SU2(), SUN(2), SUN(3), SUN(4)], ids=["U1", "SU2", "SUN2", "SU3", "SU4"])
def group(request):
    """Every kind of gauge group; SUN(2) is SU(2) in the general implementation."""
    return request.param


@pytest.fixture(scope="session")
def other_code():
    """Folder of configurations written by another code; skips where it does not stand beside."""
    if not SHARED.is_dir():
        pytest.skip(f"configurations of another code are not at {SHARED}")
    return SHARED
