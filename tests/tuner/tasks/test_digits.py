"""The digits are those of scikit-learn, whose file is read without it."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from tuner.tasks.digits import shipped


def test_the_images_are_scikit_learns() -> None:
    known = load_digits()
    pixels, target = shipped()
    assert np.array_equal(pixels, known.data)
    assert np.array_equal(target, known.target)
