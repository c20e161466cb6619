"""Logs: stored once, in order, within bounds, and only from who holds the trial."""

from __future__ import annotations

import pytest

from tests.tuner.service.simulation import Clock, Trainer, submit
from tuner import service
from tuner.errors import InvalidInput, NotFound
from tuner.protocol import Leased, Printed, Report, SlotReport
from tuner.service import Context


@pytest.fixture
def trainer(ctx: Context) -> Trainer:
    submit(ctx)
    return Trainer(ctx, slots=1)


def printed(leased: Leased, text: str, start: int = 0, **changes: object) -> Printed:
    values = {"trial_id": leased.trial_id, "token": leased.token, "start": start, "text": text}
    return Printed.model_validate({**values, "size": len(text.encode()), **changes})


def say(ctx: Context, trainer: Trainer, *pieces: Printed) -> None:
    service.report(ctx, trainer.id, Report(slots=[], printed=list(pieces)))


def test_pieces_come_together_in_order_and_once(ctx: Context, trainer: Trainer) -> None:
    (leased,) = trainer.lease()
    first, second = printed(leased, "one\n"), printed(leased, "two\nthree", 4)
    say(ctx, trainer, first)
    say(ctx, trainer, first, second)
    found = service.show_log(ctx, leased.trial_id)
    assert found.text == "one\ntwo\nthree"
    assert (found.attempt, found.attempts, found.ended) == (1, [1], False)
    assert service.show_log(ctx, leased.trial_id, tail=2).text == "two\nthree"
    assert service.show_log(ctx, leased.trial_id, tail=0).text == ""
    assert service.show_log(ctx, leased.trial_id, after=found.cursor).text == ""
    say(ctx, trainer, printed(leased, "!", 13))
    assert service.show_log(ctx, leased.trial_id, after=found.cursor).text == "!"


def test_what_was_left_out_is_said(ctx: Context, trainer: Trainer) -> None:
    (leased,) = trainer.lease()
    say(ctx, trainer, printed(leased, "a"), printed(leased, "b", 1001))
    found = service.show_log(ctx, leased.trial_id)
    assert found.text == "a\n[... 1000 bytes left out ...]\nb"
    say(ctx, trainer, printed(leased, "c", 1012))
    news = service.show_log(ctx, leased.trial_id, after=found.cursor)
    assert news.text == "\n[... 10 bytes left out ...]\nc"


def test_a_long_log_keeps_its_beginning_and_its_end(ctx: Context, trainer: Trainer) -> None:
    (leased,) = trainer.lease()
    for i in range(100):
        say(ctx, trainer, printed(leased, f"{i:99}\n", 100 * i, keep=2000))
    text = service.show_log(ctx, leased.trial_id).text
    assert len(text) < 2100
    numbers = [int(line) for line in text.splitlines() if line.strip().isdecimal()]
    assert numbers == [*range(5), *range(85, 100)]
    assert "[... 8000 bytes left out ...]" in text


def test_pieces_that_were_left_out_do_not_come_back(ctx: Context, trainer: Trainer) -> None:
    """The answer to a report was lost that was itself longer than the log may be."""
    (leased,) = trainer.lease()
    pieces = [printed(leased, f"{i:99}\n", 100 * i, keep=1024) for i in range(30)]
    say(ctx, trainer, *pieces)
    before = service.show_log(ctx, leased.trial_id).text
    say(ctx, trainer, *pieces)
    assert service.show_log(ctx, leased.trial_id).text == before
    assert f"{29:99}\n" in before
    assert f"{15:99}\n" not in before


def test_only_the_holder_begins_a_log_and_its_run_may_end_it(
    ctx: Context, trainer: Trainer, clock: Clock
) -> None:
    (leased,) = trainer.lease()
    say(ctx, trainer, printed(leased, "stranger", token="x" * 32))
    assert service.show_log(ctx, leased.trial_id).text == ""
    say(ctx, trainer, printed(leased, "first "))
    clock.run(100, ctx)
    other = Trainer(ctx, slots=1, name="other")
    (again,) = other.lease()
    assert (again.trial_id, again.attempt) == (leased.trial_id, 2)
    say(ctx, other, printed(again, "second"))
    say(ctx, trainer, printed(leased, "attempt", 6))
    assert service.show_log(ctx, leased.trial_id, attempt=1).text == "first attempt"
    assert service.show_log(ctx, leased.trial_id, attempt=1).ended
    last = service.show_log(ctx, leased.trial_id)
    assert (last.text, last.attempt, last.attempts, last.ended) == ("second", 2, [1, 2], False)


def test_a_log_comes_before_the_end_that_it_explains(ctx: Context, trainer: Trainer) -> None:
    (leased,) = trainer.lease()
    failed = SlotReport(
        trial_id=leased.trial_id, token=leased.token, outcome="fail", reason="exit code 1"
    )
    news = Report(slots=[failed], printed=[printed(leased, "ValueError: no\n")], refill=-1)
    service.report(ctx, trainer.id, news)
    found = service.show_log(ctx, leased.trial_id)
    assert found.ended
    assert found.text == "ValueError: no\n"


def test_a_null_character_is_replaced(ctx: Context, trainer: Trainer) -> None:
    (leased,) = trainer.lease()
    say(ctx, trainer, printed(leased, "a\0b\x1b[31m \N{SNOWMAN}"))
    text = service.show_log(ctx, leased.trial_id).text
    assert text == "a\N{REPLACEMENT CHARACTER}b\x1b[31m \N{SNOWMAN}"


def test_what_is_not_there(ctx: Context, trainer: Trainer) -> None:
    (leased,) = trainer.lease()
    empty = service.show_log(ctx, leased.trial_id)
    assert (empty.text, empty.attempts, empty.cursor) == ("", [], 0)
    with pytest.raises(NotFound, match="attempt 1"):
        service.show_log(ctx, leased.trial_id, attempt=1)
    with pytest.raises(NotFound):
        service.show_log(ctx, leased.trial_id + 1)
    with pytest.raises(InvalidInput) as caught:
        service.show_log(ctx, leased.trial_id, tail=-1)
    assert caught.value.field == "tail"


def test_a_log_goes_with_its_study(ctx: Context, trainer: Trainer) -> None:
    (leased,) = trainer.lease()
    say(ctx, trainer, printed(leased, "text"))
    service.delete_study(ctx, leased.study_id)
    with pytest.raises(NotFound):
        service.show_log(ctx, leased.trial_id)
