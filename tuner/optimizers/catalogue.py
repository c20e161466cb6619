"""The registry as plain values, for the API and the documentation page.

python -m tuner.optimizers.catalogue > docs/optimizers.md
"""

from __future__ import annotations

import inspect
import math
import re
import sys
from dataclasses import dataclass

from tuner.optimizers import registry
from tuner.optimizers.rule import Hyper, Rule

_ORDINARY = """\
## In an ordinary training loop

`tuner.optimizers.AdamW(model.parameters(), lr=1e-3)` is a `torch.optim.Optimizer`, with groups,
closures and the schedulers of torch. Settings have the names below, `beta1` and `beta2` in place of
`betas`; what is no setting is refused, in a group too.

`load_state_dict` takes its own checkpoints, and those of the same optimizer in `torch.optim`: Adam,
AdamW, NAdam, SGD, RMSprop and Adagrad, whose `betas` become `beta1` and `beta2`, whose `alpha`
becomes `beta2`. Anything else is refused by the name of the setting or state that does not fit:
another rule's checkpoint, or one made with other options, such as `decoupled`. Rules that differ in
defaults and options alone (`adam`, `adamw`, `amsgrad`; `sgd`, `momentum`, `nag`) count as one.

torch's `OneCycleLR` and `CyclicLR` look for `betas` or `momentum`: with rules that have `beta1` and
no `momentum` give them `cycle_momentum=False`, or take
`tuner.schedules.LRScheduler(optimizer, "one_cycle", total_steps=...)`, which moves `beta1` too."""

_LOOPS = {
    "gnb": """\
A population estimates it by itself; in a training loop of your own, give it the gradients of the
mean loss under labels drawn from the model, through `update_hessian`. Without any, each coordinate
moves by `lr`, however small its gradient, and a warning says so.

```python
from tuner.optimizers import SophiaG

optimizer = SophiaG(model.parameters(), lr=1e-4)
for step, (x, y) in enumerate(loader):
    if step % 10 == 0:
        logits = model(x)
        drawn = torch.distributions.Categorical(logits=logits.detach()).sample()
        optimizer.zero_grad()
        F.cross_entropy(logits, drawn).backward()
        optimizer.update_hessian(batch_size=len(x))
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
```""",
    "hutchinson": """\
A population estimates it by itself; in a training loop of your own, give it to `update_hessian`.
Without any, each coordinate moves by `lr`, however small its gradient, and a warning says so.

```python
from tuner.optimizers import SophiaH
from tuner.optimizers.curvature import hutchinson

optimizer = SophiaH(model.parameters(), lr=1e-4)
for step, (x, y) in enumerate(loader):
    if step % 10 == 0:
        loss = F.cross_entropy(model(x), y)
        optimizer.update_hessian(hutchinson(loss, list(model.parameters())))
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
```""",
}
"""How a training loop gives a rule the curvature it needs."""

_SEEN = {"element": "coordinates", "tensor": "tensors", "model": "the model"}


@dataclass(frozen=True)
class HyperEntry:
    """One hyperparameter; a bound that does not exist is None, so that all of it is JSON."""

    name: str
    doc: str
    default: float
    low: float | None
    high: float | None
    open_low: bool
    open_high: bool
    search: tuple[float, float] | None
    log: bool
    complement: bool
    prior_center: float | None
    prior_spread: float | None


@dataclass(frozen=True)
class OptionEntry:
    """One option of the rule's constructor."""

    name: str
    default: str


@dataclass(frozen=True)
class OptimizerEntry:
    """One optimizer, described.

    ``granularity`` is what one update sees: ``element``, ``tensor`` or ``model``. ``equations`` and
    ``differs`` are the docstring's; a preset has those of the rule it presets.
    """

    name: str
    class_name: str
    summary: str
    when: str
    formula: str
    equations: str
    differs: str
    title: str
    year: int
    address: str
    granularity: str
    state: tuple[str, ...]
    state_bytes_per_parameter: float
    needs: str
    hessian_every: int
    eval_mode: bool
    options: tuple[OptionEntry, ...]
    hyper: tuple[HyperEntry, ...]


def catalogue() -> tuple[OptimizerEntry, ...]:
    """Every optimizer of the registry, sorted by name."""
    return tuple(_entry(rule) for _, rule in registry.items())


def page() -> str:
    """The documentation page, in Markdown."""
    entries = catalogue()
    parts = [
        "# Optimizers",
        "<!-- Generated: python -m tuner.optimizers.catalogue > docs/optimizers.md -->",
        "Each is one formula, used for one model (`tuner.optimizers.AdamW(params, lr=1e-3)`) and "
        "for a population of trials whose hyperparameters are vectors. A study names it, and its "
        "settings, in its space ([studies.md](studies.md)). `m^` is `m` after bias "
        "correction, `EMA(x, b)` the moving average with decay `b`, `wd` is `weight_decay`. State "
        "is in bytes a parameter at four bytes a number, counted on a 256 x 256 matrix.",
        _overview(entries),
        _ORDINARY,
        *(_section(entry) for entry in entries),
    ]
    return "\n\n".join(parts) + "\n"


def _entry(rule: Rule) -> OptimizerEntry:
    title, year, address = rule.reference
    signature = inspect.signature(type(rule))
    return OptimizerEntry(
        name=rule.name,
        class_name=type(rule).__name__,
        summary=rule.summary,
        when=rule.when,
        formula=rule.formula,
        equations=_documented(rule, r"^Equations[^\n]*(?:\n[^\n]+)*::\n\n((?:    [^\n]*\n|\n)+)"),
        differs=_plain(_documented(rule, r"^Differs: ((?:[^\n]+\n?)+)")),
        title=title,
        year=year,
        address=address,
        granularity=rule.granularity,
        state=rule.state,
        state_bytes_per_parameter=round(rule.state_bytes_per_parameter(), 2),
        needs=rule.needs,
        hessian_every=rule.hessian_every,
        eval_mode=rule.eval_mode,
        options=tuple(OptionEntry(p.name, repr(p.default)) for p in signature.parameters.values()),
        hyper=tuple(_hyper(name, hyper) for name, hyper in rule.hyper.items()),
    )


def _hyper(name: str, hyper: Hyper) -> HyperEntry:
    prior = hyper.prior
    return HyperEntry(
        name=name,
        doc=hyper.doc,
        default=hyper.default,
        low=hyper.low if math.isfinite(hyper.low) else None,
        high=hyper.high if math.isfinite(hyper.high) else None,
        open_low=hyper.open_low,
        open_high=hyper.open_high,
        search=hyper.search,
        log=hyper.log,
        complement=hyper.complement,
        prior_center=prior.center if prior else None,
        prior_spread=prior.spread if prior else None,
    )


def _documented(rule: Rule, pattern: str) -> str:
    """What the pattern finds in the docstring of the rule, or else of the nearest base with it."""
    for base in type(rule).__mro__:
        found = re.search(pattern, inspect.cleandoc(base.__doc__ or "") + "\n", re.MULTILINE)
        if found:
            return inspect.cleandoc("\n" + found.group(1))
    return ""


def _plain(text: str) -> str:
    """A paragraph of a docstring as Markdown: one line, roles and literals as code."""
    return re.sub(r":\w+:`~?", "`", " ".join(text.split()).replace("``", "`"))


def _overview(entries: tuple[OptimizerEntry, ...]) -> str:
    lines = ["| name | step | state | looks at | when |", "|---|---|---|---|---|"]
    lines += [
        f"| [{e.name}](#{e.name}) | `{e.formula.replace('|', chr(92) + '|')}` | "
        f"{e.state_bytes_per_parameter:g} | {_SEEN[e.granularity]} | {e.when} |"
        for e in entries
    ]
    return "\n".join(lines)


def _section(entry: OptimizerEntry) -> str:
    facts = [entry.summary]
    if entry.needs:
        facts.append(
            f"Takes a curvature estimate (`{entry.needs}`) every {entry.hessian_every} steps."
        )
    if entry.eval_mode:
        facts.append(
            "The weights to evaluate differ from those trained: call `eval()` and `train()`."
        )
    parts = [
        f"## {entry.name}",
        f"`tuner.optimizers.{entry.class_name}`. {' '.join(facts)} "
        f"[{entry.title}, {entry.year}]({entry.address}).",
        f"```\n{entry.equations}\n```",
        _table(entry.hyper),
        "State: " + ", ".join(f"`{name}`" for name in entry.state) + ".",
    ]
    if entry.needs:
        parts.append(_LOOPS[entry.needs])
    if entry.options:
        parts.append(
            "Options: " + ", ".join(f"`{o.name}={o.default}`" for o in entry.options) + "."
        )
    if entry.differs:
        parts.append(f"Where it differs: {entry.differs}")
    return "\n\n".join(parts)


def _table(hyper: tuple[HyperEntry, ...]) -> str:
    lines = [
        "| setting | default | legal | searched | prior | |",
        "|---|---|---|---|---|---|",
    ]
    for h in hyper:
        low = -math.inf if h.low is None else h.low
        high = math.inf if h.high is None else h.high
        legal = interval(low, high, open_low=h.open_low, open_high=h.open_high)
        searched = ""
        if h.search is not None:
            scale = ", log of 1 - x" if h.complement else ", log" if h.log else ""
            searched = f"{h.search[0]:g} to {h.search[1]:g}{scale}"
        prior = ""
        if h.prior_center is not None:
            unit = " decades" if h.log else ""
            prior = f"{h.prior_center:g} ± {h.prior_spread:g}{unit}"
        lines.append(f"| `{h.name}` | {h.default:g} | {legal} | {searched} | {prior} | {h.doc} |")
    return "\n".join(lines)


def interval(low: float, high: float, *, open_low: bool, open_high: bool) -> str:
    """Legal numbers, as mathematics writes them; whole bounds with all their digits."""
    left = "(" if open_low or math.isinf(low) else "["
    right = ")" if open_high or math.isinf(high) else "]"
    ends = (str(end) if isinstance(end, int) else f"{end:g}" for end in (low, high))
    return f"{left}{', '.join(ends)}{right}"


if __name__ == "__main__":
    sys.stdout.write(page())
