"""From a batch of requests to their replies: read each, gather what fits together, compute once, write down, answer."""

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from perennial.spec import Serving as ServingOptions
from ray_jobs.serve.answer_log import AnswerLog, LogFull
from ray_jobs.serve.answers import Answers, Logged
from ray_jobs.serve.application import STICKY_KEY
from ray_jobs.serve.arrow_rows import read_arrow
from ray_jobs.serve.batching import Ask, Reply, mistake, refusal
from ray_jobs.serve.inference_protocol import HEADER_LENGTH, read_infer
from ray_jobs.serve.keeper import Keeper, Serving, Traffic
from ray_jobs.serve.replies import Form, Scores, read_form, write_reply
from ray_jobs.serve.request_log import RequestLog
from ray_jobs.serve.rows import Sent, read_rows
from ray_jobs.serve.trying import Failure, Mirror, Scored, Unscorable, log_weight, score, score_together
from ray_jobs.serve.values import BadRequest

logger = logging.getLogger("ray.serve")
_ERRORS = (Exception, pl.exceptions.PanicException)  # a panic of Polars is no Exception
_FULL = (  # why is in the replica's log: paths and what S3 said are no client's business
    "answers cannot be written down here now, so none was given. Come back after the seconds in Retry-After."
)
_RETRY = ((b"retry-after", b"30"),)


@dataclass(frozen=True)
class _Question:
    """A request that was read: its rows, how its answer is to look, and the version it insists on, if it does."""

    ask: Ask
    sent: Sent
    form: Form
    insisted: Serving | None

    @property
    def request_id(self) -> str:
        """The caller's id, or the one that was made up."""
        return self.ask.request_id

    @property
    def key(self) -> str:
        """By which a canary's share is drawn."""
        return self.ask.options.get(STICKY_KEY) or self.request_id

    @property
    def group(self) -> tuple[int, frozenset[str]]:
        """Questions with the same one can be computed together."""
        return id(self.insisted), frozenset(self.sent.columns)


@dataclass(frozen=True)
class _Part:
    """Questions of one version, their rows' features, and the sources that were stale then, each with how old in words."""

    questions: Sequence[_Question]
    computed: pl.DataFrame
    stale: Mapping[str, str]


class Questions:
    """The work of a replica's batches. Safe from any thread.

    Args:
        maximum_bytes: of one request's texts, however few bytes of its body name them.
    """

    def __init__(
        self,
        answers: Answers,
        keeper: Keeper,
        log: AnswerLog,
        mirror: Mirror,
        requests: RequestLog,
        options: ServingOptions,
        maximum_bytes: int,
    ) -> None:
        self._answers, self._keeper, self._log, self._mirror = answers, keeper, log, mirror
        self._requests, self._options, self._maximum_bytes = requests, options, maximum_bytes

    def answer(self, batch: Sequence[Ask]) -> None:
        """Set the reply of each request of a batch, refusals included."""
        traffic = self._keeper.traffic  # once: a swap meanwhile does not touch these requests
        groups: dict[Any, list[_Question]] = {}
        for ask in batch:
            try:
                question = self._read(ask)
                groups.setdefault(question.group, []).append(question)
            except _ERRORS as error:  # this request's alone, and the worker lives on
                ask.reply = _failed(ask, error)
        for group in groups.values():
            for part in _cut(group, self._options.batch_rows):
                self._answer(part, traffic)
        self._requests.add([_line(ask) for ask in batch if ask.reply is not None and ask.reply.status != 200])

    def _read(self, ask: Ask) -> _Question:
        tensors, schema, maximum_rows = None, self._answers.schema, self._options.maximum_rows
        if ask.kind == "infer":
            header = ask.options.get(HEADER_LENGTH)
            sent, tensors = read_infer(ask.body, header, schema, maximum_rows)
        elif ask.kind == "arrow":
            sent = read_arrow(ask.body, maximum_rows, self._maximum_bytes, schema)
        else:
            sent = read_rows(ask.body, maximum_rows, schema)
        ask.request_id = sent.request_id or ask.request_id or str(uuid.uuid4())
        form = read_form(ask, tensors)
        insisted = None
        if ask.version is not None:
            insisted = self._keeper.loaded(ask.version)
            if insisted is None:
                detail = f"version {ask.version} is not served here; leave the version out for the one that is."
                raise BadRequest(detail, 404)
        return _Question(ask, sent, form, insisted)

    def _answer(self, group: Sequence[_Question], traffic: Traffic) -> None:
        """All at once; where that fails, one by one, so that only the request it fails on is refused."""
        try:
            self._compute(group, traffic)
        except _ERRORS as error:
            # Who has a reply is in the log: of a canary's two parts the first stands when the second fails.
            waiting = [question for question in group if question.ask.reply is None]
            if len(group) > 1 and not isinstance(error, LogFull):
                for question in waiting:
                    self._answer([question], traffic)
                return
            for question in waiting:
                question.ask.reply = _failed(question.ask, error)

    def _compute(self, group: Sequence[_Question], traffic: Traffic) -> None:
        rows = self._answers.read([question.sent for question in group])
        now = datetime.now(UTC)
        stale = self._answers.stale(frozenset(rows.columns), traffic.champion, now)
        self._answers.refuse_stale(stale)
        computed = self._answers.compute(rows, traffic.champion, now)
        for part, serving, role in _by_version(_Part(group, computed, stale), traffic):
            scored = score_together(serving, role, part.computed)
            if scored is not None:
                self._reply(part, scored, traffic, now)
                continue
            for question, own in _each(part):
                self._answer_alone(_Part([question], own, stale), traffic, now)

    def _answer_alone(self, only: _Part, traffic: Traffic, now: datetime) -> None:
        """Where a version failed on several requests: which of them it fails on, and who answers those."""
        question, computed = only.questions[0], only.computed
        champion = question.insisted
        asked = Traffic(champion) if champion is not None else traffic
        try:
            scored = score(asked, computed, question.key)
        except Unscorable as error:
            self._log_failure(only, error.failure, now)
            question.ask.reply = refusal(error.status, error.detail)
            return
        if scored.failed:
            self._log_failure(only, scored.failed, now)
        self._reply(only, scored, traffic, now)

    def _reply(self, part: _Part, scored: Scored, traffic: Traffic, now: datetime) -> None:
        """Write the rows down, then answer; what cannot be put into an answer was not answered."""
        done = time.perf_counter()
        latencies = [(done - question.ask.arrived) * 1000 for question in part.questions]
        first, replies = 0, []
        for question in part.questions:
            rows = slice(first, first + question.sent.height)
            inputs = part.computed[rows].select(list(self._answers.inputs)) if question.form.features else None
            found = Scores(scored.scores[rows], part.stale, inputs)
            replies.append(write_reply(question.form, question.request_id, scored.serving, found))
            first = rows.stop
        self._log_answers(part, scored, traffic, latencies, now)
        lines = []
        for question, reply, latency in zip(part.questions, replies, latencies, strict=True):
            question.ask.reply = reply
            told = {"role": scored.role, "rows": question.sent.height, "latency_ms": round(latency, 2)}
            lines.append(_line(question.ask, scored.serving.version.version, **told))
        self._requests.add(lines)
        if traffic.mirrored:
            for (question, own), latency in zip(_each(part), latencies, strict=True):
                if question.insisted is None:
                    self._mirror.offer(traffic, own, question.request_id, now, latency)

    def _log_answers(
        self, part: _Part, scored: Scored, traffic: Traffic, latencies: Sequence[float], now: datetime
    ) -> None:
        weights = [log_weight(traffic, self._options.log_share, question.request_id) for question in part.questions]
        computed, scores = part.computed, scored.scores
        logged = [
            Logged(question.request_id, question.sent.height, latency, weight)
            for question, latency, weight in zip(part.questions, latencies, weights, strict=True)
            if weight is not None
        ]
        if len(logged) < len(weights):
            kept = np.repeat([w is not None for w in weights], [question.sent.height for question in part.questions])
            computed, scores = computed.filter(pl.Series(kept)), scores[kept]
        if logged:
            self._log.append(self._answers.all_to_log(computed, scores, scored.serving, logged, now, scored.role))

    def _log_failure(self, only: _Part, failure: Failure, now: datetime) -> None:
        question = only.questions[0]
        latency_ms = (time.perf_counter() - question.ask.arrived) * 1000
        asked = Logged(question.request_id, question.sent.height, latency_ms)
        rows = self._answers.all_to_log(only.computed, None, failure.serving, [asked], now, failure.role, failure.error)
        self._log.append(rows)


def _by_version(whole: _Part, traffic: Traffic) -> list[tuple[_Part, Serving, str]]:
    """The questions parted by who answers them: all by one, unless a canary has a share."""
    insisted = whole.questions[0].insisted
    if insisted is not None:
        tried = traffic.challenger
        role = "canary" if tried is not None and tried.serving is insisted else "champion"
        return [(whole, insisted, role)]
    if traffic.challenger is None:
        return [(whole, *traffic.choose(""))]
    parts: dict[str, tuple[list[_Question], list[pl.DataFrame], Serving]] = {}
    for question, own in _each(whole):
        serving, role = traffic.choose(question.key)
        questions, frames, _ = parts.setdefault(role, ([], [], serving))
        questions.append(question)
        frames.append(own)
    return [(_Part(qs, pl.concat(frames), whole.stale), serving, role) for role, (qs, frames, serving) in parts.items()]


def _each(part: _Part) -> list[tuple[_Question, pl.DataFrame]]:
    """Each question with its own rows."""
    found, first = [], 0
    for question in part.questions:
        found.append((question, part.computed[first : first + question.sent.height]))
        first += question.sent.height
    return found


def _cut(group: list[_Question], maximum_rows: int) -> list[list[_Question]]:
    """Parts of at most so many rows; a request with more is a part of its own."""
    parts: list[list[_Question]] = []
    size = 0
    for question in group:
        if not parts or size + question.sent.height > maximum_rows:
            parts.append([])
            size = 0
        parts[-1].append(question)
        size += question.sent.height
    return parts


def _line(ask: Ask, version: int | None = None, **more: Any) -> dict[str, Any]:
    status = ask.reply.status if ask.reply else None
    return {"request_id": ask.request_id, "client": ask.client, "version": version, "status": status, **more}


def _failed(ask: Ask, error: BaseException) -> Reply:
    if isinstance(error, LogFull):
        return refusal(503, _FULL, _RETRY)
    if isinstance(error, BadRequest):
        return refusal(error.status, error.detail, _RETRY if error.status == 503 else ())
    return mistake(ask, error)
