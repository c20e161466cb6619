"""The advisor's page: what to change with the batch size, a picture of why, and a plan to be surer.

The form's answer is rendered on the server, so the page works without JavaScript; with it the
answer follows the form as it is filled in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request
from starlette.datastructures import QueryParams
from starlette.responses import RedirectResponse, Response

from api.dashboard.actions import Clicker
from api.dashboard.advisor_views import AdvisorPage, Answer, Changed, PlanForm
from api.dashboard.question import MORE, Question, asked, known_studies, started, task_of
from api.dashboard.render import Viewer, render, render_pieces, root_of
from api.dashboard.views import Who
from api.security import Ctx, TokenFirst
from tuner import service
from tuner.advisor import RULES, Advice
from tuner.advisor.families import TRAITS
from tuner.advisor.plan import Plan
from tuner.errors import Conflict, InvalidInput, UnknownName
from tuner.service import Context
from tuner.spec import StudySpec

router = APIRouter(route_class=TokenFirst)

TRIALS, EPOCHS = "60", "5"
FRAGMENTS = {"answer": "advisor_answer.html", "brief": "advisor_brief.html"}


@router.get("/advisor")
def show_advisor(
    request: Request,
    context: Ctx,
    who: Viewer,
    fragment: Annotated[str, Query(max_length=20)] = "",
) -> Response:
    """The form with its answer; ``fragment``: the answer alone, or in brief for a study's page."""
    page = _page(context, who, request.query_params)
    if fragment:
        # It is put in place by the page's script, whatever was wrong with the form.
        return render_pieces(request, page, FRAGMENTS, fragment)
    return render(request, "advisor.html", page, 422 if page.error else 200)


@router.post("/advisor/plan")
def plan(
    request: Request,
    context: Ctx,
    clicker: Clicker,
    who: Viewer,
    query: Annotated[str, Form(max_length=10_000)],
    task: Annotated[str, Form(max_length=255)],
    trials: Annotated[str, Form(max_length=20)],
    epochs: Annotated[str, Form(max_length=20)],
    name: Annotated[str, Form(max_length=255)],
    do: Annotated[Literal["preview", "submit"], Form()],
) -> Response:
    """Shows the study that would tell the best learning rate best, or submits it."""
    form = PlanForm(task=task, trials=trials, epochs=epochs, name=name.strip())
    page = _page(context, who, QueryParams(query), form)
    if page.error or page.planned is None:
        return render(request, "advisor.html", page, 422)
    if do == "preview":
        return render(request, "advisor.html", page)
    try:
        spec = StudySpec.parse(page.planned.study)
        made = service.submit(context, spec, actor=clicker.name)
    except (InvalidInput, Conflict) as error:
        wrong = page.with_plan_error(error.message)
        return render(request, "advisor.html", wrong, 422)
    return RedirectResponse(f"{root_of(request)}/studies/{made.id}", 303)


def _page(
    context: Context, who: Who, query: QueryParams, form: PlanForm | None = None
) -> AdvisorPage:
    """Everything there is to show; what is wrong with the form is part of it."""
    question = started(context, query)
    error: InvalidInput | None = None
    answer: Answer | None = None
    planned: Plan | None = None
    plan_error = ""
    try:
        asked(question)
        answer = _answer(context, question)
    except InvalidInput as wrong:
        error = wrong
    if form is not None and error is None:
        try:
            planned = _plan(context, question, form)
        except InvalidInput as wrong:
            plan_error = wrong.message
    return AdvisorPage(
        title="Advisor",
        section="/advisor",
        who=who,
        values=question.values,
        more=MORE,
        optimizers=sorted(TRAITS),
        rules=[*RULES, "trials"],
        studies=known_studies(context),
        chosen=question.studies,
        error="" if error is None else error.message,
        field="" if error is None else _form_field(error.field),
        answer=answer,
        tasks=[one.name for one in service.list_tasks(context)],
        plan=form or _plan_form(question),
        planned=planned,
        plan_error=plan_error,
        query=urlencode([(n, v) for n, v in query.multi_items() if n != "fragment"]),
    )


def _answer(context: Context, question: Question) -> Answer:
    observed = service.observed(context, question.studies)
    fit, unfit = service.fitted([o for _, o in observed], question.optimizer)
    noise = question.noise_scale
    known = (
        noise
        if noise is not None
        else service.noise_beside(context, question.studies, question.config)
    )
    advice = service.advise_config(
        context,
        question.config,
        question.batch,
        optimizer=question.optimizer,
        studies=question.studies,
        noise_scale=known,
        fixed=question.fixed,
        rule=question.rule or None,
    )
    refused = next((one.refused for one in advice.alternatives if one.rule == "trials"), "")
    if fit is not None and refused not in ("", fit.why):
        fit, unfit = None, refused  # whatever it tells, it is the answer to another question
    # What a caution says in full needs no second and third place.
    cautioned = refused != "" and any(refused in caution for caution in advice.cautions)
    return Answer(
        advice=advice,
        others=[o for o in advice.alternatives if not (cautioned and o.rule == "trials")],
        changed=_changed(advice),
        trials=len(observed),
        fit=fit if fit is not None and fit.identified else None,
        unfit="" if cautioned and unfit == refused else unfit,
        noise="" if known is None or noise is not None else str(known),
        picture=service.picture(observed, fit, advice, known),
    )


def _changed(advice: Advice) -> list[Changed]:
    """The configuration line by line, what changes first."""
    rows = [
        Changed(
            name,
            advice.old.get(name),
            value,
            advice.changes.get(name, ""),
            advice.old.get(name) != value,
        )
        for name, value in advice.config.items()
        if name != "optimizer"
    ]
    return sorted(rows, key=lambda row: not row.differs)


def _plan_form(question: Question) -> PlanForm:
    task, _ = task_of(question.study)
    budget: Mapping[str, Any] = question.study.budget if question.study else {}
    name = f"{question.study.name} scaling" if question.study else "scaling"
    return PlanForm(str(task["name"]), TRIALS, str(budget.get("epochs", EPOCHS)), name[:255])


def _plan(context: Context, question: Question, form: PlanForm) -> Plan:
    task, objective = task_of(question.study)
    if form.task != task["name"]:
        task, objective = {"name": form.task}, None
    if objective is None:
        known = {one.name: one.objective for one in service.list_tasks(context)}
        if form.task not in known:
            raise UnknownName("task", form.task, list(known), "task")
        metric, direction = known[form.task]
        objective = {"metric": metric, "direction": direction}
    config = {n: v for n, v in question.config.items() if n not in ("steps", "warmup_steps")}
    return service.plan_study(
        context,
        config,
        studies=question.studies,
        task=dict(task),
        objective=dict(objective),
        trials=_whole("trials", form.trials),
        epochs=_whole("epochs", form.epochs),
        optimizer=question.optimizer,
        target=question.batch,
        name=form.name or "scaling",
    )


def _whole(name: str, text: str) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise InvalidInput(name, f"{text!r} is not a whole number") from error
    if not 1 <= value <= 10**6:
        raise InvalidInput(name, f"{value} is outside [1, 1000000]")
    return value


def _form_field(field: str) -> str:
    """The form's field that a refusal is about."""
    return {"batch": "to", "studies": "study"}.get(field, field)
