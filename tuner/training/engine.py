"""Which form of the program to run: measured on this device, for this model, while it trains.

Fusing pays where a step is too small to fill the device, and nowhere else. The first micro-batches
of an architecture run in each form in turn, recorded as they will be; all of them train, so nothing
is thrown away. Before that, two slots in float64 must agree between the forms, or the faster one is
not a candidate.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import torch

from tuner.training.program import Backend, Form

log = logging.getLogger(__name__)

T = TypeVar("T")
Choice = Literal["auto", "fused", "looped"]
BLOCKS = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
WARM_CALLS = 1
TIMED_CALLS = 3
AGREEMENT = 1e-9
"""Largest relative difference between forms in float64; rounding alone stays under 1e-12."""


@dataclass(frozen=True)
class Mode:
    """One form of the program.

    Args:
        fused: Whether ``vmap`` runs a block of slots at once.
        block: How many; 1 when looped.
        backend: How the program runs.
        channels_last: Whether images lie channels last.
    """

    fused: bool
    block: int
    backend: Backend
    channels_last: bool = False

    def __str__(self) -> str:
        form = f"fused x{self.block}" if self.fused else "looped"
        return f"{form}, {self.backend}{', channels last' if self.channels_last else ''}"

    @property
    def form(self) -> Form:
        """What the programs are told."""
        return Form(self.fused, self.backend, self.channels_last)


@dataclass
class Verdict:
    """What the self-check found.

    Args:
        fused: Whether the fused form may be used.
        recorded: Whether recorded programs may.
        reason: Why not, or an empty string.
        images: Whether the model convolves images, so that their layout matters.
        whole: Whether gradients depend on how a batch is cut into micro-batches.
        halvable: Whether the halves of a micro-batch tell of its noise as any other parts would.
    """

    fused: bool
    recorded: bool
    reason: str = ""
    images: bool = False
    whole: bool = False
    halvable: bool = True


@dataclass
class Engine:
    """Chooses a mode and remembers why.

    Args:
        choice: What the user asked for.
        device: Where it runs.
        verdict: What the self-check found.
        compiled: Whether compiled programs are candidates too (they cost seconds to make).
    """

    choice: Choice
    device: torch.device
    verdict: Verdict
    compiled: bool = False
    max_block: int = 1 << 30
    """Shrinks when the device runs out of memory."""
    timings: dict[tuple[int, int, Mode], list[float]] = field(default_factory=dict)
    """Seconds of each call so far, by rows, samples and mode."""
    _decided: dict[tuple[int, int], Mode] = field(default_factory=dict)

    @property
    def explanation(self) -> str:
        """The choice so far, in words for the log, the trial and the dashboard."""
        if self.verdict.reason and not self.verdict.fused:
            return f"looped: {self.verdict.reason}"
        if not self._decided:
            return "still measuring"
        rows, samples = max(self._decided)
        mode = self._decided[rows, samples]
        parts = []
        for other in self.timed_modes(rows, samples):
            best = self._best(rows, samples, other)
            if best is not None:
                parts.append(f"{other}: {rows * samples / best:,.0f}/s")
        why = "; ".join(parts) if parts else f"asked for {self.choice}"
        return f"{mode} ({why})"

    def candidates(self, rows: int, samples: int) -> list[Mode]:
        """The modes that make sense for so many rows; fewer once their layout is decided."""
        widest = min(rows, self.max_block)
        blocks = [b for b in BLOCKS if b <= widest / 2] + [widest]
        if self.choice == "fused":
            blocks = [widest]
        first = [mode for last in self._layouts for mode in self._of_layout(last, widest)]
        layout = self._layout(rows, samples, first)
        if layout is None:
            return first
        return self._of_layout(layout, *blocks)

    @property
    def _layouts(self) -> list[bool]:
        return [False, True] if self.verdict.images else [False]

    def _layout(self, rows: int, samples: int, modes: Sequence[Mode]) -> bool | None:
        """Whether images lie better channels last; None until all of ``modes`` are timed."""
        if len(self._layouts) == 1:
            return self._layouts[0]
        if any(self._open(rows, samples, mode) for mode in modes):
            return None
        fastest = min(modes, key=lambda mode: self._best(rows, samples, mode) or math.inf)
        return fastest.channels_last

    def _of_layout(self, last: bool, *blocks: int) -> list[Mode]:
        modes: list[Mode] = []
        fused = self.choice != "looped" and self.verdict.fused
        for backend in self._backends:
            if self.choice != "fused" or not fused:
                modes.append(Mode(False, 1, backend, last))
            if fused:
                modes += [Mode(True, b, backend, last) for b in blocks if b > 1]
        return modes or [Mode(True, 1, self._backends[-1], last)]

    @property
    def _backends(self) -> list[Backend]:
        if not self.verdict.recorded:
            return ["eager"]
        found: list[Backend] = ["graphed"] if self.device.type == "cuda" else ["recorded"]
        return [*found, "compiled"] if self.compiled else found

    def mode(self, rows: int, samples: int) -> Mode:
        """The mode for the next micro-batch: the fastest, or one that has yet to be timed."""
        decided = self._decided.get((rows, samples))
        if decided is not None:
            return decided
        adopted = self._adopted(rows) or self._meanwhile(rows, samples)
        candidates = [adopted] if adopted else self.candidates(rows, samples)
        if len(candidates) > 1:
            for mode in candidates:
                if self._open(rows, samples, mode):
                    return mode
        best = min(candidates, key=lambda mode: self._best(rows, samples, mode) or 0.0)
        if adopted is not None and not self._decided:
            return best
        self._decided[rows, samples] = best
        log.info("engine for %d slots x %d samples: %s", rows, samples, self.explanation)
        return best

    @property
    def evaluation(self) -> tuple[Backend, bool]:
        """How validation runs, and whether channels last: as training does where it is known."""
        plain: Backend = "recorded" if self.verdict.recorded else "eager"
        last = next(reversed(self._decided.values())).channels_last if self._decided else False
        return plain, last

    def deciding(self, rows: int, samples: int) -> bool:
        """Whether calls of this shape are still being timed."""
        return (rows, samples) not in self._decided

    def timed(self, rows: int, samples: int, mode: Mode, call: Callable[[], T]) -> T:
        """What ``call`` gives; its time is kept while the choice is open."""
        if not self.deciding(rows, samples):
            return call()
        self._wait()
        start = time.perf_counter()
        result = call()
        self._wait()
        self.timings.setdefault((rows, samples, mode), []).append(time.perf_counter() - start)
        return result

    def timed_modes(self, rows: int, samples: int) -> list[Mode]:
        """The modes that were tried on this shape."""
        return [mode for r, s, mode in self.timings if (r, s) == (rows, samples)]

    def shrink(self, block: int) -> None:
        """The device ran out of memory with blocks of this size: use half from now on."""
        self.max_block = max(1, block // 2)
        self._decided.clear()
        self.timings.clear()
        log.warning("out of memory with %d slots at once; going on with %d", block, self.max_block)

    def refuse(self, form: Form, reason: str) -> None:
        """The model cannot run fused in this form, though the check on the CPU found nothing."""
        if form.channels_last:
            self.verdict = replace(self.verdict, images=False)
        else:
            self.verdict = replace(self.verdict, fused=False, reason=reason)
        self._decided.clear()
        self.timings.clear()
        layout = ", channels last" if form.channels_last else ""
        log.warning("not fused%s from now on: %s", layout, reason)

    def wanted_slots(self) -> int | None:
        """How many trials at once pay on this device; None while that is not known.

        The smallest block within a tenth of the fastest; twice as many as tried where the widest
        block won clearly; one where looping wins, since trials one after another teach a sampler
        more.
        """
        if not self._decided:
            return None
        rows, samples = max(self._decided)
        mode = self._decided[rows, samples]
        if not mode.fused:
            return 1
        speeds = {
            m.block: 1 / best
            for m in self.timed_modes(rows, samples)
            if m.fused and (best := self._best(rows, samples, m)) is not None
        }
        if not speeds:
            return None
        fastest = max(speeds.values())
        enough = min(block for block, speed in speeds.items() if speed >= 0.9 * fastest)
        if enough == rows and fastest > 1.15 * speeds.get(rows // 2, 0.0):
            return 2 * rows
        return enough

    def reconsider(self, *, compiled: bool) -> None:
        """Opens the choice again, with or without compiled candidates."""
        if compiled != self.compiled:
            self.compiled = compiled
            self._decided.clear()

    def _adopted(self, rows: int) -> Mode | None:
        """The mode found for about as many rows or more: not worth timing again."""
        for (known, _), mode in self._decided.items():
            if known >= rows / 1.5 and known > 1:
                return replace(mode, block=min(mode.block, rows))
        return None

    def _meanwhile(self, rows: int, samples: int) -> Mode | None:
        """For the last, partial micro-batch of an epoch: what whole ones are being timed with."""
        larger = [mode for r, s, mode in self.timings if r == rows and s > samples]
        return larger[-1] if larger else None

    def _open(self, rows: int, samples: int, mode: Mode) -> bool:
        return len(self.timings.get((rows, samples, mode), ())) < WARM_CALLS + TIMED_CALLS

    def _best(self, rows: int, samples: int, mode: Mode) -> float | None:
        times = self.timings.get((rows, samples, mode), [])[WARM_CALLS:]
        return min(times) if times else None

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
