"""The page about the advisor says what the code does."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from tuner.advisor import RULES, advise, move, rules
from tuner.advisor.families import TRAITS

PAGE = Path(__file__).parents[3] / "docs" / "advisor.md"


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_every_rule_is_described(page: str) -> None:
    assert set(re.findall(r"^\| `(\w+)` \| lr′", page, re.M)) >= set(RULES) - {"sde", "half_life"}
    for name in RULES:
        assert f"| `{name}` |" in page


def test_the_example_is_true(page: str) -> None:
    advice = advise({"lr": 5e-4, "batch_size": 128, "weight_decay": 0.1}, 1024, optimizer="adamw")
    shown = dict(re.findall(r"^advice\.(\w+) +# (.+)$", page, re.M))
    assert shown["lr"] == f"{advice.lr:.6g}"
    assert shown["range"] == str(advice.range)
    assert shown["rule"] == repr(advice.rule)


def test_the_defaults_named_are_the_defaults(page: str) -> None:
    line = page[page.index("Without evidence:") :].split("**At fixed steps**", maxsplit=1)[0]
    for optimizer, rule in (
        ("sgd", "linear"),
        ("adam", "sde"),
        ("lion", "sqrt"),
        ("adagrad", "keep"),
    ):
        config = {"lr": 1e-3, "batch_size": 128}
        assert advise(config, 256, optimizer=optimizer).rule == rule
        assert f"`{rule}`" in line
    for name in ("lion", "sophia_g", "muon", "lars"):
        assert TRAITS[name].family == "sign"


def test_the_formulas_by_themselves_are_shown_with_true_numbers(page: str) -> None:
    shown = re.findall(r"`rules\.(\w+)\(([^`]*)\)`(?: → ([\d.e+-]+))?", page)
    used = Path(move.__file__).read_text(encoding="utf-8")
    functions = inspect.getmembers(rules, inspect.isfunction)
    own = {name for name, made in functions if made.__module__ == rules.__name__}
    alone = {name for name in own if f"rules.{name}(" not in used}
    assert {name for name, _, _ in shown} == alone
    numbers = [(name, given, value) for name, given, value in shown if value]
    assert len(numbers) >= 7
    for name, given, value in numbers:
        assert f"{eval(f'rules.{name}({given})'):.3g}" == value
