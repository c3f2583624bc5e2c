"""Learned, exact samplers for lattice field theory with PyTorch Lightning.

Import what you need from the subpackages, in the order of the data flow: ``lattice``, ``groups``,
``actions``, ``samplers``, ``observables``, ``models``, ``methods``, ``data``, ``callbacks``.
"""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("lattice-lightning")
except PackageNotFoundError:
    __version__ = "unknown"
