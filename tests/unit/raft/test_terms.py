"""Which index has which term: the log agrees with a plain list, whatever is appended, cut and compacted."""

from __future__ import annotations

import random

import pytest

from multiraft._core import MessageKind
from multiraft.interfaces import HardState
from multiraft.raft import Entry, Message, Replica

from .harness import PLAIN, voters


class Model:
    """The terms of a log as a list: ``terms[i]`` is that of index ``base + 1 + i``."""

    def __init__(self, terms: list[int]) -> None:
        self.base, self.base_term, self.terms = 0, 0, terms

    @property
    def last(self) -> int:
        return self.base + len(self.terms)

    def at(self, index: int) -> int | None:
        if index == self.base:
            return self.base_term
        return self.terms[index - self.base - 1] if self.base < index <= self.last else None

    def append(self, before: int, term: int, count: int) -> None:
        """A run of ``count`` entries after ``before``: what conflicts is cut, what agrees stays."""
        for index in range(before + 1, before + 1 + count):
            if self.at(index) != term:
                self.terms = [*self.terms[: index - self.base - 1], term]

    def compact(self, index: int) -> None:
        self.base_term = self.at(index) or 0
        self.terms = self.terms[index - self.base :]
        self.base = index


@pytest.mark.parametrize("seed", range(30))
def test_terms_agree_with_a_list(seed: int) -> None:
    draw = random.Random(seed)
    terms = sorted(draw.randint(1, 6) for _ in range(draw.randint(0, 12)))
    replica = Replica(
        PLAIN,
        replica=1,
        membership=voters(1, 2, 3),
        hard_state=HardState(term=6),
        entries=[Entry(i + 1, term) for i, term in enumerate(terms)],
    )
    model = Model(terms)
    commit, term = 0, 6
    for _ in range(60):
        term += draw.random() < 0.4
        before = draw.randint(commit, model.last)
        count = draw.randint(0, 3)
        run = tuple(Entry(before + 1 + i, term) for i in range(count))
        if before + count >= commit:
            commit = draw.randint(commit, before + count)
        replica.step(
            Message(
                MessageKind.MSG_APPEND,
                2,
                1,
                term=term,
                index=before,
                log_term=model.at(before) or 0,
                commit=commit,
                entries=run,
            )
        )
        model.append(before, term, count)
        ready = replica.ready()
        if ready.tag is not None:
            replica.persisted(ready.tag)
        replica.ready()
        replica.applied(commit)
        if draw.random() < 0.3 and commit > model.base:
            model.compact(draw.randint(model.base + 1, commit))
            replica.compact(model.base)
        status = replica.status()
        assert (status.first_index, status.last_index, status.commit_index) == (
            model.base + 1,
            model.last,
            commit,
        )
        assert [replica.term_at(i) for i in range(model.last + 3)] == [
            model.at(i) for i in range(model.last + 3)
        ]
