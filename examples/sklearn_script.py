"""A script that fits a scikit-learn model once: there is nothing to stop early, and one number.

tuner run sklearn_script.yaml --config worker.toml
"""

from __future__ import annotations

from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import tuner.trial

trial = tuner.trial.current()
x, y = load_breast_cancer(return_X_y=True)
model = make_pipeline(StandardScaler(), SVC(**trial.params, random_state=trial.seed))
scores = cross_val_score(model, x, y, cv=5)
print("accuracy of each fold:", scores)
trial.report(1, accuracy=scores.mean())
