"""Surrogates that predict an expensive observable from cheap inputs: the interface, ridge and trees.

One interface for all: ``fit(inputs, labels)``, then ``predict(inputs)``; labels are numpy arrays ``[n]``,
inputs features ``[n, k]`` or, where ``takes`` says so, links. What they predict is biased;
:func:`lattice_lightning.analysis.bias_corrected` mends that. Networks are in
:mod:`lattice_lightning.methods.network_regressors`.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lattice_lightning.exceptions import InputError

__all__ = ["DeepTrees", "Regressor", "Ridge", "Trees"]

Array = npt.NDArray[np.float64]
_LAYOUTS = {"features": "features [n, k]", "links": "links [n, mu, *lattice, N, N]"}


class Regressor(ABC):
    """A regressor to one label, whose data are checked before it is fitted.

    Attributes:
        takes: ``features``, numpy ``[n, k]``; or ``links``, a tensor of fields in the public layout.
    """

    takes: ClassVar[str] = "features"
    _model: Any = None

    @abstractmethod
    def _fit(self, inputs: Any, labels: Array, folder: Path | None) -> Any:
        """What is fitted to checked data; it becomes ``_model``."""

    @abstractmethod
    def _predict(self, inputs: Any) -> Array:
        """Predictions of ``_model``."""

    def _as_inputs(self, inputs: Any) -> Any:
        """Inputs as the regressor works with them."""
        return np.asarray(inputs, np.float64)

    def _numbers(self, inputs: Any) -> npt.NDArray[Any]:
        """Inputs as an array, for checks."""
        return np.asarray(inputs)

    def fit(self, inputs: Any, labels: Array, folder: Path | None = None) -> "Regressor":
        """Fit to features ``[n, k]`` (or links ``[n, mu, ...]``) and ``labels [n]``.

        Args:
            inputs: what ``takes`` names, rows in the order of Markov time.
            labels: one a row.
            folder: where a long fit keeps its checkpoints and goes on from; others leave it alone.

        Raises:
            InputError: for shapes that do not fit, values that are not finite, a feature that never
                varies, or fewer than two labels.
        """
        x, y = self._as_inputs(inputs), np.asarray(labels, np.float64)
        values = self._numbers(x)
        if (self.takes == "features" and x.ndim != 2) or y.shape != tuple(x.shape[:1]):
            raise InputError(
                f"expected {_LAYOUTS[self.takes]} and labels [n], got {tuple(x.shape)} and {y.shape}"
            )
        if len(y) < 2:
            raise InputError(f"a surrogate needs at least two labels, got {len(y)}")
        for what, numbers in ((self.takes, values), ("labels", y)):
            bad = np.argwhere(~np.isfinite(numbers))
            if len(bad):
                raise InputError(f"{what}: entry {bad[0].tolist()} is not finite ({len(bad)} in all)")
        if self.takes == "features":
            constant = np.flatnonzero(values.min(0) == values.max(0)).tolist()
            if constant:
                raise InputError(
                    f"features {constant} never vary on the training set; leave them out, or measure what "
                    "went wrong there"
                )
        elif bool((values == values[:1]).all()):
            raise InputError("links: all fields are equal; pass configurations of a Markov chain")
        self._model = self._fit(x, y, folder)
        return self

    def predict(self, inputs: Any) -> Array:
        """Predictions ``[n]``; raises InputError before a fit."""
        if self._model is None:
            raise InputError(f"{type(self).__name__} predicts after fit({self.takes}, labels)")
        return self._predict(self._as_inputs(inputs))


class _Estimator(Regressor):
    """A regressor of scikit-learn."""

    @abstractmethod
    def _build(self) -> Any:
        """An unfitted estimator."""

    def _fit(self, inputs: Any, labels: Array, folder: Path | None) -> Any:
        return self._build().fit(inputs, labels)

    def _predict(self, inputs: Any) -> Array:
        predicted: Array = np.asarray(self._model.predict(inputs), np.float64)
        return predicted


class Ridge(_Estimator):
    """Linear regression on standardised features.

    Args:
        ridge: penalty on the squared weights of standardised features.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> x = rng.normal(size=(50, 2))
        >>> model = Ridge(1e-8).fit(x, 3 * x[:, 0] - x[:, 1] + 2)
        >>> round(float(model.predict(np.array([[1.0, 1.0]]))[0]), 6)
        4.0
    """

    def __init__(self, ridge: float = 1e-3) -> None:
        if not ridge >= 0:
            raise InputError(f"ridge must not be negative, got {ridge}")
        self.ridge = float(ridge)

    def _build(self) -> Any:
        from sklearn.linear_model import Ridge as Linear
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), Linear(alpha=self.ridge))


class Trees(_Estimator):
    """Boosted decision trees (1807.05971).

    Args:
        n_trees: trees one after another.
        depth: of each.
        learning_rate: weight of each.
        subsample: share of the labels that each is fitted to.
        seed: of the shares.
    """

    def __init__(
        self, n_trees: int = 100, depth: int = 3, learning_rate: float = 0.1, subsample: float = 0.7,
        seed: int = 0,
    ) -> None:
        if n_trees < 1 or depth < 1 or not 0 < learning_rate <= 1 or not 0 < subsample <= 1:
            raise InputError(
                "expected n_trees >= 1, depth >= 1, learning_rate and subsample in (0, 1], got "
                f"{n_trees}, {depth}, {learning_rate}, {subsample}"
            )
        self.n_trees, self.depth, self.seed = int(n_trees), int(depth), int(seed)
        self.learning_rate, self.subsample = float(learning_rate), float(subsample)

    def _build(self) -> Any:
        from sklearn.ensemble import GradientBoostingRegressor

        return GradientBoostingRegressor(
            n_estimators=self.n_trees, max_depth=self.depth, learning_rate=self.learning_rate,
            subsample=self.subsample, random_state=self.seed,
        )


class DeepTrees(_Estimator):
    """One tree without limit, which learns its training set by heart: a warning example.

    Args:
        seed: of ties between features.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = int(seed)

    def _build(self) -> Any:
        from sklearn.tree import DecisionTreeRegressor

        return DecisionTreeRegressor(random_state=self.seed)
