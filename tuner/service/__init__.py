"""The use cases: one function each, which owns its transaction.

Everything outside (the API, the commands, a worker in the same process) goes through these.
"""

from tuner.service.context import Context, ServiceSettings, utc_now
from tuner.service.events import events, newest_event
from tuner.service.own_loop import Asked, ask, renew_trial, report_trial, tell
from tuner.service.studies import (
    Preview,
    StudyPatch,
    best,
    cancel_study,
    delete_study,
    find_study,
    list_studies,
    pause_study,
    preview,
    resume_study,
    show_study,
    stop_study,
    submit,
    update_study,
)
from tuner.service.trials import (
    enqueue,
    list_trials,
    measurements,
    retry_trial,
    show_trial,
    stop_trial,
)
from tuner.service.upkeep import tick
from tuner.service.views import (
    CountsView,
    EventView,
    MeasurementView,
    ObjectiveView,
    Page,
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
    register_worker,
    report,
)

__all__ = [
    "Asked",
    "Context",
    "CountsView",
    "EventView",
    "MeasurementView",
    "ObjectiveView",
    "Page",
    "Preview",
    "ServiceSettings",
    "StudyPatch",
    "StudyView",
    "TrialView",
    "WorkerView",
    "ask",
    "best",
    "cancel_study",
    "delete_study",
    "drain_worker",
    "enqueue",
    "events",
    "find_study",
    "heartbeat",
    "lease",
    "leave",
    "list_studies",
    "list_trials",
    "list_workers",
    "measurements",
    "newest_event",
    "pause_study",
    "preview",
    "register_worker",
    "renew_trial",
    "report",
    "report_trial",
    "resume_study",
    "retry_trial",
    "show_study",
    "show_trial",
    "stop_study",
    "stop_trial",
    "submit",
    "tell",
    "tick",
    "update_study",
    "utc_now",
]
