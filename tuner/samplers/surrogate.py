"""A Gaussian process over configurations and training steps at once.

It predicts where a paused trial, or one that was never started, would end, from all learning curves
of the study. The form is that of freeze-thaw optimisation (Swersky et al., "Freeze-Thaw Bayesian
Optimization", 2014, https://arxiv.org/abs/1406.3896) with a stationary kernel in the progress
``s``:

    k = (a + b RBF(s)) Matern52(x) + [same trial] (c + e RBF(s)) + d s s' + [same row] noise

``x`` is the encoded configuration, ``s = log(1 + step) / log(1 + max_step)``. Values are normal
scores of ranks, so that neither the unit of the loss nor a diverged trial matters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.special import erfcx, ndtr, ndtri

from tuner.samplers.history import Floats

Ints = NDArray[np.int64]
START = np.log([0.3, 0.5, 0.05, 0.03, 0.1, 0.01])
"""Variances a, b, c, e, d and noise before any fit; together about that of a normal score."""
PROGRESS_SCALE = math.log(0.4)
LENGTH_SCALE = math.log(0.6)
JITTER = 1e-8


@dataclass(frozen=True)
class Rows:
    """Observed points of learning curves.

    Args:
        x: ``[n, F]`` encoded configurations.
        s: ``[n]`` progress in (0, 1].
        trial: ``[n]`` which rows are of one trial.
        z: ``[n]`` normal scores, low is good.
    """

    x: Floats
    s: Floats
    trial: Ints
    z: Floats

    def pick(self, index: NDArray[Any]) -> Rows:
        """Some of the rows."""
        return Rows(self.x[index], self.s[index], self.trial[index], self.z[index])


def normal_scores(values: Floats) -> Floats:
    """Ranks as quantiles of a standard normal; the worst 2 % (and inf) are tied."""
    from scipy.stats import rankdata  # noqa: PLC0415  (half a second to load)

    n = len(values)
    finite = values[np.isfinite(values)]
    cap = np.quantile(finite, 0.98) if finite.size else 0.0
    rank = rankdata(np.minimum(np.where(np.isfinite(values), values, np.inf), cap))
    scores: Floats = ndtri((rank - 0.5) / n)
    return scores


class Kernel:
    """The covariance, for given hyperparameters.

    Args:
        theta: Logs of six variances, of two scales of progress and of one length for each
            parameter.
        columns: ``[F]`` which parameter each encoded column belongs to.
    """

    def __init__(self, theta: Floats, columns: Ints) -> None:
        self.theta = theta
        self.columns = columns
        self.a, self.b, self.c, self.e, self.d, self.noise = np.exp(theta[:6])
        self.across, self.within = np.exp(theta[6:8])
        self.length = np.exp(theta[8:])[columns]

    @classmethod
    def default(cls, columns: Ints) -> Kernel:
        """The mean of the prior over hyperparameters."""
        return cls(default_theta(columns), columns)

    def matern(self, x: Floats, y: Floats) -> Floats:
        """Matern 5/2 of the scaled distances, ``[n, m]``."""
        u, v = x / self.length, y / self.length
        square = (u * u).sum(1)[:, None] + (v * v).sum(1)[None, :] - 2.0 * (u @ v.T)
        r = np.sqrt(5.0 * np.maximum(square, 0.0))
        out: Floats = (1.0 + r + r * r / 3.0) * np.exp(-r)
        return out

    def __call__(self, one: Rows, two: Rows) -> Floats:
        """``[n, m]`` covariances, without noise."""
        return self.cross(one.x, one.s, one.trial, two)

    def cross(self, x: Floats, s: Floats, trial: Ints, rows: Rows) -> Floats:
        """As :meth:`__call__`, for points without values."""
        gap = (s[:, None] - rows.s[None, :]) ** 2
        amplitude: Floats = self.a + self.b * np.exp(-0.5 * gap / self.across**2)
        out = amplitude * self.matern(x, rows.x)
        out += self.d * s[:, None] * rows.s[None, :]
        i, j = np.nonzero(trial[:, None] == rows.trial[None, :])
        out[i, j] += self.c + self.e * np.exp(-0.5 * gap[i, j] / self.within**2)
        return out

    def variance(self, s: Floats) -> Floats:
        """Prior variance of a point, without noise."""
        return np.asarray(self.a + self.b + self.c + self.e + self.d * s * s)


def default_theta(columns: Ints) -> Floats:
    """The mean of the prior over hyperparameters."""
    count = int(columns.max()) + 1 if columns.size else 0
    # one more parameter, one more distance that adds up: lengths grow with the root of their number
    length = LENGTH_SCALE + 0.5 * math.log(max(count, 1))
    return np.concatenate([START, [PROGRESS_SCALE, PROGRESS_SCALE], np.full(count, length)])


def negative_log_posterior(
    theta: Floats, rows: Rows, columns: Ints, center: Floats
) -> tuple[float, Floats]:
    """Minus the log of likelihood times prior, and its gradient.

    Each log hyperparameter has a normal prior around ``center``, one unit wide.
    """
    kernel = Kernel(theta, columns)
    n = len(rows.z)
    u = rows.x / kernel.length
    square = np.maximum((u * u).sum(1)[:, None] + (u * u).sum(1)[None, :] - 2 * (u @ u.T), 0.0)
    r = np.sqrt(5.0 * square)
    decay = np.exp(-r)
    m = (1.0 + r + r * r / 3.0) * decay
    gap = (rows.s[:, None] - rows.s[None, :]) ** 2
    across = np.exp(-0.5 * gap / kernel.across**2)
    within = np.exp(-0.5 * gap / kernel.within**2)
    same = (rows.trial[:, None] == rows.trial[None, :]).astype(float)
    ss = rows.s[:, None] * rows.s[None, :]
    amplitude = kernel.a + kernel.b * across
    k = amplitude * m + same * (kernel.c + kernel.e * within) + kernel.d * ss
    k[np.diag_indices(n)] += kernel.noise + JITTER
    factor = cholesky(k, lower=True, check_finite=False)
    inverse = cho_solve((factor, True), np.eye(n), check_finite=False)
    alpha = inverse @ rows.z
    value = 0.5 * rows.z @ alpha + np.log(np.diag(factor)).sum()
    w = 0.5 * (inverse - np.outer(alpha, alpha))  # d value = sum(w * dK)
    gradient = np.empty_like(theta)
    gradient[0] = kernel.a * (w * m).sum()
    gradient[1] = kernel.b * (w * across * m).sum()
    gradient[2] = kernel.c * (w * same).sum()
    gradient[3] = kernel.e * (w * same * within).sum()
    gradient[4] = kernel.d * (w * ss).sum()
    gradient[5] = kernel.noise * np.trace(w)
    gradient[6] = kernel.b * (w * m * across * gap).sum() / kernel.across**2
    gradient[7] = kernel.e * (w * same * within * gap).sum() / kernel.within**2
    # d Matern52 / d log(length_j) = 5/3 (1 + r) exp(-r) (x_j - y_j)^2 / length_j^2
    v = w * amplitude * (5.0 / 3.0) * (1.0 + r) * decay
    weight = v.sum(1)
    each = 2.0 * ((u * u).T @ weight) - 2.0 * np.einsum("if,if->f", u, v @ u)
    gradient[8:] = np.bincount(columns, weights=each, minlength=len(theta) - 8)
    off = theta - center
    return float(value + 0.5 * off @ off), gradient + off


def fit(rows: Rows, columns: Ints, seed: int, most_rows: int = 120, steps: int = 25) -> Kernel:
    """The kernel that maximises the posterior on at most ``most_rows`` random rows.

    It starts from the prior's mean every time: the outcome depends on the rows and the seed alone.
    """
    from scipy.optimize import minimize  # noqa: PLC0415  (slow to load, and not every sampler fits)

    center = default_theta(columns)
    if len(rows.z) > most_rows:
        chosen = np.random.default_rng([seed, len(rows.z), 3]).choice(
            len(rows.z), most_rows, replace=False
        )
        rows = rows.pick(np.sort(chosen))
    bounds = [(c - 5.0, c + 5.0) for c in center]  # a line search must not leave the finite
    found = minimize(
        negative_log_posterior,
        center,
        args=(rows, columns, center),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": steps},
    )
    theta = found.x if np.isfinite(found.fun) else center
    return Kernel(np.asarray(theta, dtype=float), columns)


class Posterior:
    """What the rows say about other points."""

    def __init__(self, kernel: Kernel, rows: Rows) -> None:
        self.kernel = kernel
        self.rows = rows
        k = kernel(rows, rows)
        k[np.diag_indices(len(k))] += kernel.noise + JITTER
        self._factor = cholesky(k, lower=True, check_finite=False)
        self._alpha = cho_solve((self._factor, True), rows.z, check_finite=False)

    def predict(self, x: Floats, s: Floats, trial: Ints) -> tuple[Floats, Floats]:
        """Mean and standard deviation at points, without noise."""
        cross = self.kernel.cross(x, s, trial, self.rows)
        mean = cross @ self._alpha
        half = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        variance = self.kernel.variance(s) - np.einsum("ij,ij->j", half, half)
        return mean, np.sqrt(np.maximum(variance, 1e-10))

    def believing(self, x: Floats, s: Floats, trial: Ints) -> Posterior:
        """This posterior once points are believed to turn out as predicted (a kriging believer)."""
        mean, _ = self.predict(x, s, trial)
        out = object.__new__(Posterior)
        new = Rows(x, s, trial, mean)
        old = self.rows
        cross = solve_triangular(
            self._factor, self.kernel(old, new), lower=True, check_finite=False
        )
        corner = self.kernel(new, new)
        corner[np.diag_indices(len(corner))] += self.kernel.noise + JITTER
        n, m = len(old.z), len(mean)
        factor = np.zeros((n + m, n + m))
        factor[:n, :n] = self._factor
        factor[n:, :n] = cross.T
        factor[n:, n:] = cholesky(corner - cross.T @ cross, lower=True, check_finite=False)
        out.kernel = self.kernel
        out.rows = Rows(
            np.vstack([old.x, x]),
            np.append(old.s, s),
            np.append(old.trial, trial),
            np.append(old.z, mean),
        )
        out._factor = factor
        out._alpha = cho_solve((factor, True), out.rows.z, check_finite=False)
        return out


def log_expected_improvement(mean: Floats, sigma: Floats, best: float) -> Floats:
    """Log of E[max(best - f, 0)], exact far into the tail where the expectation underflows."""
    u = (best - mean) / sigma
    log_pdf = -0.5 * u * u - 0.5 * math.log(2 * math.pi)
    near = u > -1.0
    out = np.empty_like(u)
    v = u[near]
    out[near] = np.log(np.exp(log_pdf[near]) + v * ndtr(v))
    v = u[~near]
    # 1 + u ndtr(u)/pdf(u); it falls as 1/u^2, below the rounding of the direct form from about 1e4
    ratio = 1.0 + v * math.sqrt(math.pi / 2) * erfcx(-v / math.sqrt(2))
    safe = np.where(v < -1e3, 1.0 / np.maximum(v * v, 1.0), np.maximum(ratio, 1e-300))
    out[~near] = log_pdf[~near] + np.log(safe)
    return out + np.log(sigma)
