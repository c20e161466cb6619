"""The use cases: one function each, which owns its transaction.

Everything outside (the API, the commands, a worker in the same process) goes through these.
"""

from tuner.service.advice import (
    advise_config,
    advise_study,
    fit_studies,
    noise_beside,
    observed,
    plan_study,
)
from tuner.service.context import Context, ServiceSettings, utc_now
from tuner.service.critical import critical_batch
from tuner.service.curves import Curve, Curves, Progress, curves
from tuner.service.events import audit, events, newest_event
from tuner.service.gauges import gauges
from tuner.service.housekeeping import chores
from tuner.service.importances import METHODS, Evaluator, Importances, importances
from tuner.service.landscape import Landscape, landscape
from tuner.service.lifecycle import (
    StudyPatch,
    cancel_study,
    delete_study,
    pause_study,
    resume_study,
    stop_study,
    update_study,
)
from tuner.service.logs import LogView, show_log
from tuner.service.offers import list_tasks, offer_tasks
from tuner.service.overview import Axis, Overview, overview
from tuner.service.own_loop import Asked, ask, renew_trial, report_trial, tell
from tuner.service.picture import fitted, picture
from tuner.service.preview import Preview, preview
from tuner.service.probes import show_range
from tuner.service.results import (
    FIGURES,
    FORMATS,
    export,
    figure,
    frozen_trials,
    trials_frame,
)
from tuner.service.sketches import Sketch, sketches
from tuner.service.studies import (
    best,
    find_study,
    list_studies,
    show_study,
    submit,
)
from tuner.service.timeline import Span, Timeline, TrialEvent, timeline, trial_events
from tuner.service.trials import (
    enqueue,
    list_trials,
    measurements,
    retry_trial,
    show_trial,
    stop_trial,
)
from tuner.service.upkeep import look_ahead, tick
from tuner.service.views import (
    CountsView,
    EventView,
    MeasurementView,
    ObjectiveView,
    Page,
    RangeEvidence,
    RangeTestView,
    StudyView,
    TrialView,
    WorkerView,
)
from tuner.service.workers import (
    drain_worker,
    heartbeat,
    lease,
    leave,
    list_workers,
    page_of_workers,
    register_worker,
    report,
    worker_names,
)

__all__ = [
    "FIGURES",
    "FORMATS",
    "METHODS",
    "Asked",
    "Axis",
    "Context",
    "CountsView",
    "Curve",
    "Curves",
    "Evaluator",
    "EventView",
    "Importances",
    "Landscape",
    "LogView",
    "MeasurementView",
    "ObjectiveView",
    "Overview",
    "Page",
    "Preview",
    "Progress",
    "RangeEvidence",
    "RangeTestView",
    "ServiceSettings",
    "Sketch",
    "Span",
    "StudyPatch",
    "StudyView",
    "Timeline",
    "TrialEvent",
    "TrialView",
    "WorkerView",
    "advise_config",
    "advise_study",
    "ask",
    "audit",
    "best",
    "cancel_study",
    "chores",
    "critical_batch",
    "curves",
    "delete_study",
    "drain_worker",
    "enqueue",
    "events",
    "export",
    "figure",
    "find_study",
    "fit_studies",
    "fitted",
    "frozen_trials",
    "gauges",
    "heartbeat",
    "importances",
    "landscape",
    "lease",
    "leave",
    "list_studies",
    "list_tasks",
    "list_trials",
    "list_workers",
    "look_ahead",
    "measurements",
    "newest_event",
    "noise_beside",
    "observed",
    "offer_tasks",
    "overview",
    "page_of_workers",
    "pause_study",
    "picture",
    "plan_study",
    "preview",
    "register_worker",
    "renew_trial",
    "report",
    "report_trial",
    "resume_study",
    "retry_trial",
    "show_log",
    "show_range",
    "show_study",
    "show_trial",
    "sketches",
    "stop_study",
    "stop_trial",
    "submit",
    "tell",
    "tick",
    "timeline",
    "trial_events",
    "trials_frame",
    "update_study",
    "utc_now",
    "worker_names",
]
