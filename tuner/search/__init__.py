"""The search over a study's space: suggestions and verdicts, from records and a seed."""

from tuner.search.records import Budget, Objective, Record, Suggestion, Verdict
from tuner.search.search import Search

__all__ = ["Budget", "Objective", "Record", "Search", "Suggestion", "Verdict"]
