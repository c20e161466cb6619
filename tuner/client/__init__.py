"""The HTTP client: studies, trials and your own loop, from a script or a notebook.

>>> client = Client("http://127.0.0.1:8420", token)            # doctest: +SKIP
>>> study = client.submit("examples/digits.yaml")              # doctest: +SKIP
>>> client.wait(study.id)                                      # doctest: +SKIP
>>> client.trials_frame(study.id).sort_values("value").head()  # doctest: +SKIP

Errors are those of ``tuner.errors``, of the class that the server raised.
"""

from tuner.client.client import Client, load

__all__ = ["Client", "load"]
