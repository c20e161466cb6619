"""How to move a good configuration to another batch size, from the best evidence there is.

The user's own finished trials come first (:func:`fit`), then the measured gradient noise scale
(:mod:`tuner.advisor.noise_scale`), then a rule (:func:`scale`); :func:`advise` puts them in that
order and says how sure it is. All of it is plain arithmetic on values that the caller brings.
"""

from tuner.advisor.advice import Advice
from tuner.advisor.advising import advise
from tuner.advisor.fitted import Fit
from tuner.advisor.fitting import fit
from tuner.advisor.known_rules import RULES
from tuner.advisor.observations import Observation
from tuner.advisor.scaling import Scaled, scale

__all__ = ["RULES", "Advice", "Fit", "Observation", "Scaled", "advise", "fit", "scale"]
