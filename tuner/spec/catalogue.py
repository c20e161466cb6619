"""The study file described, as ``docs/studies.md``.

``python -m tuner.spec.catalogue > docs/studies.md`` writes the page anew; a test compares. Fields,
types, bounds and defaults are read from the code; what they are for is said here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from string import Template
from typing import Any

import yaml
from pydantic import BaseModel

from tuner import pruners, samplers, schedules
from tuner.optimizers import Hyper
from tuner.optimizers.catalogue import interval
from tuner.schedules import warmup
from tuner.settings import Settings
from tuner.spaces import Option
from tuner.spaces.parse import KEYS
from tuner.spaces.space import MOST_PARAMETERS
from tuner.spec import names
from tuner.spec.check import DEFAULT_BUDGET, resolve
from tuner.spec.defaults import auto_space
from tuner.spec.study import (
    BudgetSpec,
    ConstraintSpec,
    ObjectiveSpec,
    PrunerSpec,
    SamplerSpec,
    StudySpec,
    TaskSpec,
)

PAGE = Template("""\
# Study files

<!-- Generated: python -m tuner.spec.catalogue > docs/studies.md -->

A study is a file in YAML (`tuner submit`, `tuner run`), the same fields as a JSON body
(`POST /api/v1/studies`), or a form in the dashboard. Only `name` is required; without a built-in or
registered task, `space` is too. Fields that do not exist and values that nothing can take are
refused by name before anything runs. `tuner submit FILE --dry-run` has a server check a file, and
shows what it would try.

```yaml
name: digits-small
task: digits
space:
  optimizer: {type: categorical, choices: [adamw, sgd]}
  lr: {type: float, low: 1.0e-4, high: 1.0, log: true}
  momentum: {type: float, low: 0.0, high: 0.99, when: {optimizer: sgd}}
  batch_size: {type: categorical, choices: [32, 64, 128]}
  schedule: cosine
budget: {trials: 32, epochs: 10}
```

## Fields

$study

A mapping that has a `name` may be the name alone: `task: digits`, `sampler: tpe`, `pruner: none`.

### `task`

$task

[tasks.md](tasks.md) has the built-in ones with their parameters, [own_models.md](own_models.md)
your own and scripts. A study without a task is run by a loop of your own, which gives its
configurations any meaning it likes.

### `objective`

$objective

One mapping, or a list of them. The first of several is what curves show. Without one it is the
task's own, mostly `val_loss`, and `value`, minimised, where there is no task.

```yaml
name: small-and-good
task: digits
objective:
  - {metric: val_accuracy, direction: maximize}
  - {metric: train_loss, direction: minimize}
space: {lr: {type: float, low: 1.0e-4, high: 0.1, log: true}}
budget: {trials: 40, epochs: 5}
```

### `constraint`

$constraint

It is checked on each report; trials that break it still teach the sampler what to avoid. A metric
that is no finite number, or was never reported, breaks it.

### `budget`

$budget

A study without `budget` has $trials trials of $epochs epochs; with the sampler `grid`, at most as
many trials as the grid has points. A `budget` must name `trials`, `total_epochs` or `seconds`,
since `epochs` or `target` alone need not end a study; only `grid` and `manual` do without. The
study ends when the first of these bounds is met. An epoch goes through all training samples once,
at any batch size. `epochs` in the space takes the place of that in the budget.

Trials are measured and pruned each `eval_every` epochs, which must divide `epochs`: one such period
is a *step* of a trial's curve, and what a pruner counts in.

### `seed` and order

All trials of a study start from the weights and see the samples in the order that `seed` gives, and
so do those of another study with that seed. The sampler's draws come from `sampler.seed`, if it is
given. Studies of higher `priority` are served first, those of equal priority share the
devices. A trial whose worker dies is tried again, $attempts times in all unless the server says
otherwise (`TUNER_MAX_ATTEMPTS`); one that fails by itself is not.

`warm_start` names earlier studies by their ids, with the same objectives in the same order. Their
trials that had finished when this study was submitted inform the sampler where they are points of
its space, and count for nothing else. Of a study with other `epochs` or another `eval_every` only
the results of complete trials are taken, as the steps of its curves are not the same.

A study whose sampler or pruner raises an error fails, with that as its reason and the traceback in
the server's log; other studies go on. Once it is mended, more `budget` lets that study go on too.

## Space

Up to $parameters names, each with a constant or a parameter:

```yaml
weight_decay: 0.01                                                # a constant
lr: {type: float, low: 1.0e-5, high: 1.0e-1, log: true}
model.hidden: {type: int, low: 16, high: 256, log: true}
batch_size: {type: categorical, choices: [16, 32, 64]}
dropout: {type: float, low: 0.0, high: 0.5, step: 0.1}
```

$types

$keys

### `space: auto`

The space of a study that has a task but no `space`: the default optimizer with its own ranges,
batch sizes that leave an epoch at least four steps, and the task's settings that are worth
searching (the column *search* in [tasks.md](tasks.md)).

```yaml
$auto
```

It also asks for a range test (`range_test`): a worker first measures which learning rates are worth
searching, in one run in which the rate rises steadily, and `lr` is then searched in that range. Any
other study may ask for it too, if it has one optimizer and its `lr` is a float on a log scale
without a condition; its range is then only narrowed.

### Names

These are legal for every task; an unknown one is refused. Where a task is a script, or missing, any
name will do.

$names

## Samplers

Without `sampler` it is `$sampler`, with several objectives `$several`. Settings stand beside the
name: `sampler: {name: tpe, n_startup_trials: 20, seed: 1}`.

$sampler_fields

$samplers

## Pruners

Without `pruner` it is `$pruner`, with several objectives `none`, the only one there. Settings stand
beside the name: `pruner: {name: asha, reduction_factor: 4}`. What they call steps or epochs are
evaluation periods (`eval_every` epochs each).

$pruner_fields

$pruners

## While it runs

A study is `queued` until its first trial starts, then `running`, and at its end `completed`,
`failed` (every trial failed, or the search did) or `cancelled`. A trial is `waiting`, `running`,
`complete`, `pruned` or `fail`; one that the pruner has set aside is listed as `paused`, and goes on
later or is `pruned` when the study ends.

| command, and over REST `POST /api/v1/studies/{id}/...` | what |
|-|-|
| `tuner pause STUDY` | Starts nothing more; what trains is saved at its next report. |
| `tuner resume STUDY` | Goes on from there. |
| `tuner stop STUDY` | Starts nothing more and lets what trains end; then it is `completed`. |
| `tuner cancel STUDY` | Ends it now; what trains is dropped. |

`PATCH /api/v1/studies/{id}` and `Client.update` take `name`, `priority`, `max_concurrent`, `tags`,
`description`, `budget` and `space`, each whole; `tuner update` changes a part of a budget too. The
`epochs` of a budget must stay as they are; a study that has completed or failed goes on if the new
one allows more. A new `space` must hold every earlier trial.

    tuner update digits-adamw --set budget.trials=200 --set priority=5

`POST .../trials` with `{"configs": [{"lr": 0.003}]}` runs these configurations before any that is
suggested. `POST /api/v1/trials/{id}/stop` ends one trial, `.../retry` runs a failed one again.

## All of it

A study that says more than most:

```yaml
name: digits-thorough
description: After the first look, with a longer training.
tags: [digits, second]
task: {name: digits}
objective: {metric: val_accuracy, direction: maximize}
constraint: {metric: train_loss, max: 2.0}
space:
  optimizer: {type: categorical, choices: [adamw, lion, muon]}
  lr: {type: float, low: 1.0e-5, high: 1.0e-1, log: true, prior: {center: 1.0e-3, spread: 0.5}}
  beta1: {type: float, low: 0.8, high: 0.99, prior: none, when: {optimizer: [adamw, lion]}}
  batch_size: 64
  schedule: {type: categorical, choices: [cosine, wsd]}
  schedule.decay: {type: float, low: 0.1, high: 0.5, when: {schedule: wsd}}
  warmup: cosine
  warmup_fraction: {type: float, low: 0.0, high: 0.2}
  label_smoothing: {type: float, low: 0.0, high: 0.2}
  model.layers: {type: int, low: 1, high: 3}
  model.activation: relu
sampler: {name: auto, informed: 0.9, seed: 1}
pruner: {name: hyperband, reduction_factor: 3, min_resource: 2}
budget: {trials: 200, epochs: 40, total_epochs: 3000, seconds: 3600, target: 0.99}
eval_every: 0.5
seed: 7
priority: 10
max_concurrent: 16
```
""")

KEY_DOCS: dict[str, str] = {
    "low": "The least value, itself included. Above 0 on a log scale.",
    "high": "The greatest value, itself included.",
    "log": "Whether draws are uniform in the logarithm; `false` unless given.",
    "step": "Only `low`, `low + step`, ... up to `high`, which it must meet. Not with `log`.",
    "prior": "Where good values are expected, for the sampler `auto`: "
    "`{center, spread, scale}`, a normal distribution cut to the range. `scale` is `log`, `linear` "
    "or `complement` (1 - x, for decay rates), the range's own unless given; `spread` is one "
    "standard deviation, in decades, on `linear` as a share of the range. `none` switches off the "
    "prior that the optimizer has for its hyperparameter ([optimizers.md](optimizers.md)).",
    "when": "The parameter is there only in trials in which others have these values: "
    "`{optimizer: sgd}`, `{schedule: [wsd, cosine], warmup: linear}` (all of them). Parents may be "
    "anything but a float.",
    "default": "Only for a parameter that joins a study already running: what its earlier trials "
    "are read as having run with.",
    "choices": "Up to 1,000 numbers, texts, `true`, `false` or `null`, without order.",
    "value": "A number, a text, `true`, `false` or `null`. Only needed to put a `when` beside it.",
}
TYPE_DOCS: dict[str, str] = {
    "float": "A number of a range.",
    "int": "A whole number of a range.",
    "categorical": "One of several values.",
    "constant": "The same value in every trial.",
}
WORDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
}


def page() -> str:
    """``docs/studies.md``."""
    plain = resolve(StudySpec.parse({"name": "plain", "task": "digits", "space": {"lr": 0.1}})).spec
    two = tuple(ObjectiveSpec(metric=metric) for metric in ("val_loss", "train_loss"))
    left_out = {"objective": two, "sampler": None, "pruner": None}
    double = resolve(plain.model_copy(update=left_out)).spec
    assert plain.sampler is not None
    assert plain.pruner is not None
    assert double.sampler is not None
    return PAGE.substitute(
        study=_fields(
            StudySpec,
            objective="the task's",
            sampler=f"`{plain.sampler.name}`",
            pruner=f"`{plain.pruner.name}`",
            budget=f"{DEFAULT_BUDGET.trials} trials of {DEFAULT_BUDGET.epochs} epochs",
            range_test="`true` where space is `auto`",
        ),
        task=_fields(TaskSpec),
        objective=_fields(ObjectiveSpec),
        constraint=_fields(ConstraintSpec),
        budget=_fields(BudgetSpec),
        sampler_fields=_fields(SamplerSpec, seed="the study's"),
        pruner_fields=_fields(PrunerSpec),
        trials=DEFAULT_BUDGET.trials,
        epochs=DEFAULT_BUDGET.epochs,
        attempts=Settings.model_fields["max_attempts"].default,
        parameters=MOST_PARAMETERS,
        types=_table(
            ("type", "keys", "what"),
            (
                (f"`{kind}`", ", ".join(f"`{key}`" for key in keys), TYPE_DOCS[kind])
                for kind, keys in KEYS.items()
            ),
        ),
        keys=_table(
            ("key", "what"),
            (
                (f"`{key}`", KEY_DOCS[key])
                for key in dict.fromkeys(k for of in KEYS.values() for k in of)
            ),
        ),
        auto=yaml.safe_dump(auto_space({}, None), sort_keys=False, default_flow_style=None).strip(),
        names=_names(),
        sampler=plain.sampler.name,
        several=double.sampler.name,
        pruner=plain.pruner.name,
        samplers=_rooms(
            (name, kind.summary, kind.options, kind.most_objectives == 1)
            for name, kind in samplers.registry.items()
        ),
        pruners=_rooms(
            (name, kind.summary, kind.options, False) for name, kind in pruners.registry.items()
        ),
    )


def _fields(model: type[BaseModel], **defaults: str) -> str:
    """The fields of a part of a study file; ``defaults``: what resolving puts in place of none."""
    return _table(
        ("field", "default", "type", "what"),
        (
            (
                f"`{name}`",
                "required"
                if model.model_fields[name].is_required()
                else defaults.get(name, _value(form.get("default"))),
                _type(form),
                form.get("description", ""),
            )
            for name, form in model.model_json_schema()["properties"].items()
        ),
    )


def _type(form: Mapping[str, Any]) -> str:
    """A type of JSON's schema in words, with its bounds."""
    if "anyOf" in form:
        return " or ".join(_type(one) for one in form["anyOf"] if one.get("type") != "null")
    if "const" in form or "enum" in form:
        return " or ".join(f"`{value}`" for value in form.get("enum", [form.get("const")]))
    kind = form.get("type", "object")
    if kind == "array":
        return f"list of at most {form['maxItems']}: {_type(form['items'])}"
    if kind == "string":
        least, most = form.get("minLength", 0), form["maxLength"]
        return f"text of {least} to {most:,} characters" if least else f"text of at most {most:,}"
    if kind == "object":
        return "mapping"
    low, high = (
        form.get("minimum", form.get("exclusiveMinimum", -math.inf)),
        form.get("maximum", form.get("exclusiveMaximum", math.inf)),
    )
    bounds = _interval(low, high, "exclusiveMinimum" in form, "exclusiveMaximum" in form)
    return f"{WORDS[kind]} {bounds}".rstrip()


def _interval(low: float, high: float, open_low: bool, open_high: bool) -> str:
    """Legal numbers; nothing where all are."""
    if math.isinf(low) and math.isinf(high):
        return ""
    return interval(low, high, open_low=open_low, open_high=open_high)


def _value(value: object) -> str:
    if value is None or value in ("", []):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _names() -> str:
    """The names that a space may use with any task."""
    shapes = ", ".join(f"`{shape}`" for shape in warmup.SHAPES)
    rows: list[tuple[str, str, str, str]] = [
        (
            "`optimizer`",
            f"`{names.DEFAULT_OPTIMIZER}`",
            "a name",
            "One of [optimizers.md](optimizers.md).",
        ),
        ("`lr`, `weight_decay`, ...", "its own", "its own", "Whatever a chosen optimizer has."),
    ]
    for name, hyper in names.COMMON.items():
        rows.append((f"`{name}`", _common(name, hyper), _legal(name, hyper), _sentence(hyper.doc)))
    for name, setting in names.CHOSEN.items():
        choices = ", ".join(f"`{choice}`" for choice in setting.choices)
        rows.append((f"`{name}`", f"`{setting.default}`", choices, _sentence(setting.doc)))
    rows += [
        (
            "`lr_scale.PREFIX`",
            "`1`",
            "[0, inf)",
            "Multiplies `lr` for the parameters below PREFIX.",
        ),
        ("`schedule`", "`constant`", "a name", "One of [schedules.md](schedules.md)."),
        (
            "`schedule.*`",
            "its own",
            "its own",
            "The settings of the schedule, such as `schedule.final`.",
        ),
        ("`warmup`", "`linear`", shapes, "The shape of the warm-up."),
        (
            "`model.*`",
            "the task's",
            "the task's",
            "And other settings of the task: [tasks.md](tasks.md).",
        ),
    ]
    return _table(("name", "default", "legal", "what"), rows)


def _sentence(doc: str) -> str:
    return f"{doc[:1].upper()}{doc[1:]}."


def _common(name: str, hyper: Hyper) -> str:
    if name == "epochs":
        return "the budget's"
    if name == "warmup_fraction":
        of = {kind: rule.default_warmup_fraction for kind, rule in schedules.registry.items()}
        others = "".join(f", `{value:g}` for `{kind}`" for kind, value in of.items() if value)
        return f"`{hyper.default:g}`{others}"
    return "none" if math.isinf(hyper.default) else f"`{hyper.default:g}`"


def _legal(name: str, hyper: Hyper) -> str:
    bounds = _interval(hyper.low, hyper.high, hyper.open_low, hyper.open_high)
    return f"whole number {bounds}" if name in names.WHOLE else bounds


def _rooms(entries: Iterable[tuple[str, str, Mapping[str, Option], bool]]) -> str:
    """Entries of a registry, each with its settings."""
    parts: list[str] = []
    for name, summary, options, single in entries:
        only = " One objective only." if single else ""
        parts.append(f"### `{name}`\n\n{summary}{only}")
        if options:
            parts.append(_table(("setting", "default", "type", "what"), _options(options)))
    return "\n\n".join(parts)


def _options(options: Mapping[str, Option]) -> Iterator[tuple[str, str, str, str]]:
    for name, option in options.items():
        if option.kind == "choice":
            legal = " or ".join(f"`{choice}`" for choice in option.choices)
        elif option.kind == "bool":
            legal = WORDS["boolean"]
        else:
            word = WORDS["integer" if option.kind == "int" else "number"]
            bounds = _interval(option.low, option.high, option.open_low, option.open_high)
            legal = f"{word} {bounds}".rstrip()
        yield f"`{name}`", _value(option.default), legal, option.doc


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(columns)} |", f"|{'-|' * len(columns)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


if __name__ == "__main__":
    sys.stdout.write(page())
