"""Enqueue a variation: a trial's configuration, changed by hand, as the study's next trial."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import RedirectResponse, Response

from api.dashboard.actions import Clicker
from api.dashboard.render import Viewer, render, root_of
from api.dashboard.views import Shown, StudySummary, Who
from api.routers.parameters import TrialId
from api.security import Ctx, TokenFirst, require
from tuner import service
from tuner.errors import Conflict, InvalidInput
from tuner.protocol import Scalar
from tuner.service import Context, TrialView

router = APIRouter(route_class=TokenFirst)


@dataclass(frozen=True)
class VaryPage(Shown):
    """The form of a variation of a trial."""

    study: StudySummary
    trial: TrialView
    values: Mapping[str, str]
    """What the form's fields hold, by hyperparameter."""
    error: str


async def filled(request: Request) -> dict[str, str]:
    """The fields of the form, whatever their names: those of the hyperparameters."""
    form = await request.form(max_fields=1000, max_files=0)
    return {name: value for name, value in form.items() if isinstance(value, str)}


@router.get("/trials/{trial_id}/vary", dependencies=[Depends(require("submit"))])
def show_variation(request: Request, context: Ctx, who: Viewer, trial_id: TrialId) -> Response:
    """The form, filled with the trial's own values."""
    trial = service.show_trial(context, trial_id)
    values = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in trial.params.items()
    }
    return render(request, "vary.html", _page(context, who, trial, values))


@router.post("/trials/{trial_id}/vary")
def enqueue_variation(
    request: Request,
    context: Ctx,
    clicker: Clicker,
    who: Viewer,
    trial_id: TrialId,
    values: Annotated[dict[str, str], Depends(filled)],
) -> Response:
    """Enqueues it, or shows the form again with what is wrong."""
    trial = service.show_trial(context, trial_id)
    config = _config(context, trial, values)
    try:
        (made,) = service.enqueue(context, trial.study_id, [config], actor=clicker.name)
    except (InvalidInput, Conflict) as error:
        page = _page(context, who, trial, values, error.message.removeprefix("configs[0]."))
        return render(request, "vary.html", page, 422)
    return RedirectResponse(f"{root_of(request)}/trials/{made.id}", 303)


def _page(
    context: Context, who: Who, trial: TrialView, values: Mapping[str, str], error: str = ""
) -> VaryPage:
    study = service.show_study(context, trial.study_id)
    return VaryPage(
        title=f"Vary trial {trial.number}",
        section="/",
        who=who,
        study=StudySummary.of(study),
        trial=trial,
        values=values,
        error=error,
    )


def _config(context: Context, trial: TrialView, values: Mapping[str, str]) -> dict[str, Scalar]:
    """What was typed, without what was left empty; a text that the space knows is that text."""
    space = service.show_study(context, trial.study_id).spec.get("space", {})
    config: dict[str, Scalar] = {}
    for name, typed in values.items():
        given = space.get(name)
        choices = given.get("choices", ()) if isinstance(given, Mapping) else ()
        known = [one for one in (trial.params.get(name), *choices) if isinstance(one, str)]
        text = next((one for one in known if one.strip() == typed.strip()), None)
        if text is not None or typed.strip():
            config[name] = _read(typed) if text is None else text
    return config


def _read(text: str) -> Scalar:
    """A number, true, false or null as JSON has it; anything else is text."""
    with suppress(ValueError, RecursionError):
        value = json.loads(text)
        if value is None or isinstance(value, bool | int | float | str):
            return value
    return text.strip()
