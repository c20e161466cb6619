"""The population engine: trials of one study trained together, and what belongs to that.

Start at :mod:`tuner.training.population`; it is made of rows (the tensors), slots (a trial's
numbers), programs (what is computed), steps (the optimizers) and an engine (which form runs).
"""

from tuner.training.population import Population
from tuner.training.slot import Slot
from tuner.training.source import TrainingData

__all__ = ["Population", "Slot", "TrainingData"]
