"""Surrogates that predict an expensive observable from cheap features: ridge and trees.

One interface for all: ``fit(features, labels)``, then ``predict(features)``, numpy arrays ``[n, k]`` and
``[n]``. What they predict is biased; :func:`lattice_lightning.analysis.bias_corrected` mends that.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from lattice_lightning.exceptions import InputError

__all__ = ["DeepTrees", "Regressor", "Ridge", "Trees"]

Array = npt.NDArray[np.float64]


class Regressor(ABC):
    """A regressor from features to one label, checked before it is fitted."""

    _model: Any = None

    @abstractmethod
    def _build(self) -> Any:
        """An unfitted scikit-learn estimator."""

    def fit(self, features: Array, labels: Array) -> "Regressor":
        """Fit to ``features [n, k]`` and ``labels [n]``.

        Raises:
            InputError: for shapes that do not fit, values that are not finite, a feature that never
                varies, or fewer than two labels.
        """
        x, y = np.asarray(features, np.float64), np.asarray(labels, np.float64)
        if x.ndim != 2 or y.shape != x.shape[:1]:
            raise InputError(f"expected features [n, k] and labels [n], got {x.shape} and {y.shape}")
        if len(y) < 2:
            raise InputError(f"a surrogate needs at least two labels, got {len(y)}")
        for what, values in (("features", x), ("labels", y)):
            bad = np.argwhere(~np.isfinite(values))
            if len(bad):
                raise InputError(f"{what}: entry {bad[0].tolist()} is not finite ({len(bad)} in all)")
        constant = np.flatnonzero(x.min(0) == x.max(0)).tolist()
        if constant:
            raise InputError(
                f"features {constant} never vary on the training set; leave them out, or measure what "
                "went wrong there"
            )
        self._model = self._build().fit(x, y)
        return self

    def predict(self, features: Array) -> Array:
        """Predictions ``[n]``; raises InputError before a fit."""
        if self._model is None:
            raise InputError(f"{type(self).__name__} predicts after fit(features, labels)")
        predicted: Array = np.asarray(self._model.predict(np.asarray(features, np.float64)), np.float64)
        return predicted


class Ridge(Regressor):
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


class Trees(Regressor):
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


class DeepTrees(Regressor):
    """One tree without limit, which learns its training set by heart: a warning example.

    Args:
        seed: of ties between features.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = int(seed)

    def _build(self) -> Any:
        from sklearn.tree import DecisionTreeRegressor

        return DecisionTreeRegressor(random_state=self.seed)
