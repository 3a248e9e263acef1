"""Whose turn it is on a line where devices speak only when they are asked; no clock, no I/O."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from firmware_adapters.adapter import Event, Turn

LONGEST_REST = 300.0
"""Seconds after which a device that never answers is asked again at the latest, unless its
questions come more seldom anyway."""


class Question(msgspec.Struct, frozen=True, eq=False):
    """`request` goes to the device `asked`, a name for people, every `interval` seconds.

    `sensors`: those whose values are in the answer, as far as that is known.
    """

    asked: str
    request: bytes
    interval: float
    sensors: tuple[str, ...] = ()


class Rota:
    """Asks one question at a time: the one that has been due longest.

    `timeout`: seconds from a request to the end of its answer. `pause`: seconds of silence that
    the line needs before a request. A device that says nothing rests, each time twice as long, so
    that the others have the line.
    """

    def __init__(self, questions: Sequence[Question], *, timeout: float, pause: float) -> None:
        self.current: Question | None = None
        """What is on the line and has no answer yet."""
        self._questions = questions
        self._timeout = timeout
        self._pause = pause
        self._due: dict[Question, float] = {}
        self._silences: Counter[str] = Counter()
        self._deadline = 0.0
        self._quiet_until = 0.0
        self._done: Question | None = None
        self._next: tuple[Question, bytes] | None = None
        self._urgent: deque[Question] = deque()

    def reset(self) -> None:
        """Withdraw the question, and ask all of them anew."""
        self.current = self._done = self._next = None
        self._quiet_until = float("-inf")
        self._due.clear()
        self._silences.clear()
        self._urgent.clear()

    def once(self, question: Question) -> None:
        """Ask a question before those that are due, one time."""
        if question not in self._urgent:
            self._urgent.append(question)

    def withdraw(self, question: Question) -> None:
        """Do not ask a question of `once`, unless it is on the line already."""
        if question in self._urgent:
            self._urgent.remove(question)

    def is_open(self, question: Question) -> bool:
        """Whether a question of `once` is on the line, or is going to be."""
        return question is self.current or question in self._urgent

    def answered(self, follow_up: bytes = b"") -> None:
        """The current question has its answer, or, with a `follow_up` to send, a part of it."""
        question, self.current = self.current, None
        if question is None:
            return
        self._done = question
        if follow_up:
            self._next = question, follow_up

    def turn(self, now: float, heard: Event | None = None) -> Turn:
        """See `PollingAdapter.poll`. `heard` tells of bytes that came and are no answer."""
        events: list[Event] = []
        if not self._due:
            self._due = dict.fromkeys(self._questions, now)
        if self._done is not None:
            self._silences[self._done.asked] = 0
            self._done = None
            self._quiet_until = now + self._pause
        elif self.current is not None:
            if now < self._deadline:
                return Turn(b"", events, self._deadline)
            told = heard or self._no_answer(self.current)
            events.append(replace(told, sensors=self.current.sensors))
            self._failed(self.current, now, silent=heard is None)
        if now < self._quiet_until:
            return Turn(b"", events, self._quiet_until)
        if self._next is not None:
            (question, request), self._next = self._next, None
            return self._ask(question, request, now, events)
        if self._urgent:
            question = self._urgent.popleft()
            return self._ask(question, question.request, now, events)
        question = min(self._questions, key=self._due.__getitem__)
        due = self._due[question]
        if now < due:
            return Turn(b"", events, due)
        # A little late keeps the rhythm; much later, the next turn would come too soon.
        late = now - due > question.interval / 2
        self._due[question] = (now if late else due) + question.interval
        return self._ask(question, question.request, now, events)

    def _ask(self, question: Question, request: bytes, now: float, events: list[Event]) -> Turn:
        self.current = question
        self._deadline = now + self._timeout
        return Turn(request, events, self._deadline)

    def _failed(self, question: Question, now: float, *, silent: bool) -> None:
        self.current = None
        self._quiet_until = now + self._pause
        if not silent:
            return
        for other in self._questions:
            if other.asked == question.asked:
                rest = other.interval * 2.0 ** min(self._silences[question.asked], 16)
                rest = max(other.interval, min(rest, LONGEST_REST))
                self._due[other] = max(self._due[other], now + rest)
        self._silences[question.asked] += 1

    def _no_answer(self, question: Question) -> Event:
        return Event("no-answer", f"{question.asked} said nothing for {self._timeout:g} s")
