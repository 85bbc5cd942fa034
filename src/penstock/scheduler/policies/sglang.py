"""SGLang's pipeline loop (``scheduler_pp_mixin.py``): slots that take turns, each with its own running batch."""

from __future__ import annotations

from collections.abc import Callable

from penstock.scheduler.policies.limits import SchedulerView, StepLimits

DEFAULT_SMOOTHING = 0.75
SMALLEST_SHARE = 4


class Slots:
    """``pp_size + async_depth`` slots in a round-robin; a slot runs at most ``micro_batch`` requests, by default
    max(max_num_seqs // pp_size, 1). A prompt in chunks belongs to the scheduler and not to a slot (SGLang's
    ``Scheduler.chunked_req``): each turn takes its next chunk, and it decodes in the slot of its last one.

    Wins where vLLM's single pool lets one micro-batch swallow all sequences. Costs where load is light: a
    slot without work is a turn lost, and its requests wait for their turn. Set ``max_in_flight`` to the number
    of slots.
    """

    def __init__(self, pp_size: int, *, micro_batch: int | None = None, async_depth: int = 0) -> None:
        self.pp_size = pp_size
        self.slots = pp_size + async_depth
        self.micro_batch = micro_batch
        self._turn = -1

    def limits(self, view: SchedulerView) -> StepLimits:
        """See :class:`Policy`."""
        self._turn = (self._turn + 1) % self.slots
        most = self.micro_batch or max(view.options.max_num_seqs // self.pp_size, 1)
        room = most - view.num_running_in(self._turn)
        return StepLimits(slot=self._turn, admissions=max(room, 0))


class DynamicChunks(Slots):
    """Slots, and prefill chunks of equal time instead of equal length: the next chunk x after L tokens is such
    that f(L + x) - f(L) = f(first chunk), f(l) = a l^2 + b l + c fitted to the stage's prefill times.

    ``smoothing`` moves the fixed chunk that far towards the predicted one; no chunk is shorter than a quarter
    of the first. Wins with long prompts, whose later chunks attend to more and more tokens.
    """

    def __init__(
        self,
        pp_size: int,
        *,
        prefill_ns: Callable[[int, int], int],
        micro_batch: int | None = None,
        async_depth: int = 0,
        first_chunk: int | None = None,
        smoothing: float = DEFAULT_SMOOTHING,
    ) -> None:
        super().__init__(pp_size, micro_batch=micro_batch, async_depth=async_depth)
        self._prefill_ns = prefill_ns
        self.first_chunk = first_chunk
        self.smoothing = smoothing
        self.linear_ns = 0.0
        self.quadratic_ns = 0.0
        self.first = 0

    def limits(self, view: SchedulerView) -> StepLimits:
        """See :class:`Policy`."""
        if not self.first:
            self.fit(self.first_chunk or view.options.max_num_batched_tokens)
        limits = super().limits(view)
        limits.chunk_tokens = self._chunk
        return limits

    def fit(self, first: int) -> None:
        """The marginal time of a chunk is b x + a (2 L x + x^2): from two chunks of equal length."""
        self.first = first
        early = self._prefill_ns(first, 0)
        late = self._prefill_ns(first, 8 * first)
        self.quadratic_ns = max((late - early) / (16 * first * first), 0.0)
        self.linear_ns = max(early / first - self.quadratic_ns * first, 1e-9)

    def _chunk(self, context: int) -> int:
        a, first = self.quadratic_ns, self.first
        slope = self.linear_ns + 2 * a * context
        target = self.linear_ns * first + a * first * first
        equal_time = target / slope if not a else ((slope * slope + 4 * a * target) ** 0.5 - slope) / (2 * a)
        smoothed = first + self.smoothing * (equal_time - first)
        return int(min(max(smoothed, first / SMALLEST_SHARE), first))
