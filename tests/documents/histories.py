"""Histories of a document, made up by hypothesis, and what is true of them by plain reasoning.

The functions here know nothing of `RevTree`: the tests hold it against them.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping

from hypothesis import strategies as st

from agent.documents.revision import Rev, Revision


def hex_hash(seed: object) -> str:
    """32 lower-case hex digits that depend on `seed` alone."""
    return hashlib.blake2b(repr(seed).encode(), digest_size=16).hexdigest()


HASHES = st.one_of(
    st.sampled_from(["abc", "abcd", "b", "Z", "é", "😀", "3-abc", "00", "f" * 31, "f" * 33]),
    st.integers(0, 9).map(hex_hash),
    st.integers(0, 9).map(lambda seed: hex_hash(seed)[:31].upper()),
    st.integers(0, 9).map(lambda seed: hex_hash(seed)[:31] + "g"),  # of that length, but not hex
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=40),
)
"""Hashes as this program, CouchDB, PouchDB and people make them, as `normal_hash` has them."""

_Node = tuple[int | None, str, bool, int]


@st.composite
def histories(draw: st.DrawFn, *, id: str = "doc", most: int = 12) -> list[Revision]:
    """Revisions of one document, with branches, several roots, tombstones and cut-off histories.

    They agree with each other: a revision has the same parent wherever it appears. Each has a
    body of its own. Parents come before their children; each comes once.
    """
    nodes: list[_Node] = draw(
        st.lists(
            st.tuples(
                st.none() | st.integers(0, most),  # the parent, counted from the newest
                HASHES,
                st.booleans(),
                st.integers(1, 4),  # a root's generation; histories may be cut off
            ),
            min_size=1,
            max_size=most,
        )
    )
    parents: dict[Rev, Rev | None] = {}
    made: list[Revision] = []
    for back, digest, deleted, generation in nodes:
        parent = None if back is None or back >= len(made) else made[-1 - back].rev
        rev = Rev(parent.generation + 1 if parent else generation, digest)
        if rev in parents:
            continue
        parents[rev] = parent
        body = f'{{"at":{len(made)}}}'
        made.append(Revision(id, rev.generation, _path(rev, parents), deleted, body))
    known = draw(st.lists(st.integers(1, 6) | st.none(), min_size=len(made), max_size=len(made)))
    return [
        Revision(id, each.generation, each.path[:length], each.deleted, each.body)
        for each, length in zip(made, known, strict=True)
    ]


@st.composite
def contradicting_histories(draw: st.DrawFn) -> list[Revision]:
    """Revisions as broken peers send them: a parent here is another one there."""
    hashes = st.sampled_from(["a", "b", "c"])
    made = []
    for generation in draw(st.lists(st.integers(1, 4), min_size=1, max_size=8)):
        path = draw(st.lists(hashes, min_size=1, max_size=generation))
        made.append(Revision("doc", generation, tuple(path), draw(st.booleans()), "{}"))
    return made


@st.composite
def arrivals(draw: st.DrawFn, revisions: list[Revision]) -> list[list[Revision]]:
    """The same revisions as they may arrive: in any order, some repeatedly, in batches."""
    repeated = draw(st.lists(st.sampled_from(revisions), max_size=len(revisions)))
    order = draw(st.permutations([*revisions, *repeated]))
    cuts = sorted(draw(st.sets(st.integers(1, len(order)), max_size=4)) | {0, len(order)})
    return [order[start:end] for start, end in itertools.pairwise(cuts)]


def parents_of(revisions: Iterable[Revision]) -> dict[Rev, Rev | None]:
    """Each known revision's parent; where two are named, the greater one."""
    parents: dict[Rev, Rev | None] = {}
    for revision in revisions:
        chain: list[Rev | None] = [
            Rev(revision.generation - step, digest) for step, digest in enumerate(revision.path)
        ]
        for rev, parent in itertools.pairwise([*chain, None]):
            assert rev is not None
            claims = [claim for claim in (parents.get(rev), parent) if claim is not None]
            parents[rev] = max(claims, default=None)
    return parents


def tombstones_of(revisions: Iterable[Revision]) -> set[Rev]:
    return {revision.rev for revision in revisions if revision.deleted}


def leaves_of(parents: Mapping[Rev, Rev | None]) -> set[Rev]:
    return set(parents) - set(parents.values())


def winner_of(leaves: Iterable[Rev], tombstones: set[Rev]) -> Rev:
    """CouchDB's rule, step by step."""
    candidates = set(leaves)
    candidates = candidates - tombstones or candidates
    longest = max(rev.generation for rev in candidates)
    candidates = {rev for rev in candidates if rev.generation == longest}
    highest = max(_couchdb_hash(rev.hash) for rev in candidates)
    # Two are left when one peer writes hex digits in capitals, which CouchDB takes for the same.
    return max(rev for rev in candidates if _couchdb_hash(rev.hash) == highest)


def _couchdb_hash(digest: str) -> bytes:
    if re.fullmatch("[0-9a-fA-F]{32}", digest):
        return int(digest, 16).to_bytes(16, "big")
    return digest.encode()


def _path(rev: Rev, parents: Mapping[Rev, Rev | None]) -> tuple[str, ...]:
    hashes = []
    step: Rev | None = rev
    while step is not None:
        hashes.append(step.hash)
        step = parents[step]
    return tuple(hashes)
