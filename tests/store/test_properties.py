"""Properties that hold whatever is written: convergence, and a simple model of a store."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agent.documents.revision import Rev, Revision, canonical, new_hash
from agent.errors import ConflictError
from agent.store.store import Store
from tests.documents.histories import (
    HASHES,
    arrivals,
    contradicting_histories,
    histories,
    leaves_of,
    parents_of,
    tombstones_of,
    winner_of,
)
from tests.store.helpers import edit, rows

_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where the files of these tests are: what is tested here does not depend on the disk."""

# --- convergence ---------------------------------------------------------------------------

_DOCUMENTS = st.tuples(histories(id="a"), histories(id="b"), histories(id="c", most=1)).map(
    lambda parts: [revision for part in parts for revision in part]
)


async def _filled(path: Path, batches: list[list[Revision]]) -> tuple[Any, ...]:
    """What a store shows after these batches, apart from the order of its changes."""
    store = await Store.open(path)
    for batch in batches:
        await store.graft(batch)
    documents = (await store.changes(0, limit=1000)).documents
    info = await store.info()
    asked = [(each.id, [str(leaf) for leaf in each.leaves()]) for each in documents]
    bodies = await store.revisions(sorted(asked))
    await store.close()
    columns = "id, gen, hash, deleted, conflicts, body, tree"
    return (
        rows(path, f"SELECT {columns} FROM docs ORDER BY id"),
        {each.id: (each.tree(), each.leaves(), each.rev) for each in documents},
        bodies,
        rows(path, "SELECT * FROM conflicts ORDER BY id, conflict"),
        rows(
            path, "SELECT id, gen, hash, deleted, body FROM revisions WHERE leaf ORDER BY 1, 2, 3"
        ),
        (info.doc_count, info.doc_del_count, info.conflict_count),
        rows(path, "PRAGMA integrity_check"),
    )


@settings(max_examples=60, deadline=None)
@given(st.data(), _DOCUMENTS)
async def test_the_same_revisions_make_the_same_store(
    data: st.DataObject, revisions: list[Revision]
) -> None:
    batches = data.draw(arrivals(revisions))
    with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
        one = await _filled(Path(folder, "one.sqlite"), [[each] for each in revisions])
        two = await _filled(Path(folder, "two.sqlite"), batches)
    assert one == two
    # Every leaf is readable, with its own body.
    bodies = {(each.id, each.rev): each.body for each in revisions}
    read = [revision for found in one[2] for _, revision in found]
    assert None not in read
    assert all(bodies[each.id, each.rev] == each.body for each in read)
    assert len(one[1]) == len({each.id for each in revisions})


@settings(max_examples=40, deadline=None)
@given(st.data(), contradicting_histories())
async def test_peers_that_contradict_each_other_converge_too(
    data: st.DataObject, revisions: list[Revision]
) -> None:
    with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
        one = await _filled(Path(folder, "one.sqlite"), [[each] for each in revisions])
        two = await _filled(Path(folder, "two.sqlite"), data.draw(arrivals(revisions)))
    without_rows_of_revisions = (0, 1, 5, 6)
    for part in without_rows_of_revisions:
        assert one[part] == two[part]


# --- a model -------------------------------------------------------------------------------

IDS = st.sampled_from(["a", "b", "c\0", "😀"])
NAMES = st.sampled_from(["x", "y"])
BODIES = st.fixed_dictionaries({"n": st.integers(0, 2)})


class Model:
    """A store in a few dictionaries: everything ever grafted, and what follows from it."""

    def __init__(self) -> None:
        self.revisions: dict[str, list[Revision]] = {}
        self.bodies: dict[tuple[str, Rev], str] = {}
        self.order: list[str] = []  # ids, the one that changed last at the end
        self.seq = 0
        self.local: dict[str, tuple[int, str]] = {}

    def leaves(self, id: str) -> set[Rev]:
        return leaves_of(parents_of(self.revisions.get(id, [])))

    def tombstones(self, id: str) -> set[Rev]:
        return tombstones_of(self.revisions.get(id, []))

    def winner(self, id: str) -> Rev:
        return winner_of(self.leaves(id), self.tombstones(id))

    def deleted(self, id: str) -> bool:
        return self.leaves(id) <= self.tombstones(id)

    def path(self, id: str, rev: Rev) -> tuple[str, ...]:
        parents = parents_of(self.revisions[id])
        hashes = []
        step: Rev | None = rev
        while step is not None:
            hashes.append(step.hash)
            step = parents[step]
        return tuple(hashes)

    def knows(self, id: str, rev: Rev) -> bool:
        return rev in parents_of(self.revisions.get(id, []))

    def graft(self, revision: Revision) -> bool:
        new = not self.knows(revision.id, revision.rev)
        self.revisions.setdefault(revision.id, []).append(revision)
        if new:
            self.bodies[revision.id, revision.rev] = revision.body
        return new

    def contradicts(self, revision: Revision) -> bool:
        """Says otherwise than what was grafted: that is tested apart from this model."""
        known = self.revisions.get(revision.id, [])
        before, after = parents_of(known), parents_of([*known, revision])
        return (
            any(parent and parent != after[rev] for rev, parent in before.items())
            or any(
                parent and after[rev] != parent for rev, parent in parents_of([revision]).items()
            )
            or self.bodies.get((revision.id, revision.rev), revision.body) != revision.body
            or any(each.deleted != revision.deleted for each in known if each.rev == revision.rev)
        )

    def edit(self, id: str, parent: Rev | None, deleted: bool, body: dict[str, int]) -> Rev | None:
        leaves = self.leaves(id)
        if parent is None and leaves and self.deleted(id) and not deleted:
            parent = self.winner(id)
        if (parent is None) is bool(leaves) or (parent is not None and parent not in leaves):
            return None
        digest = new_hash(canonical(body), parent=parent, deleted=deleted)
        path = (digest, *(self.path(id, parent) if parent else ()))
        generation = parent.generation + 1 if parent else 1
        text = edit(id, parent, **body).body
        self.graft(Revision(id, generation, path, deleted, text))
        return Rev(generation, digest)


class StoreMachine(RuleBasedStateMachine):
    """Does to a store and to the model the same, and compares what they show."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=_MEMORY)
        self.path = Path(self.folder.name, "db.sqlite")
        self.runner = asyncio.Runner()
        self.model = Model()
        self.feed: list[tuple[int, str]] = []  # what a follower of the changes has seen

    @initialize()
    def open(self) -> None:
        self.store = self.runner.run(Store.open(self.path))

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()
        try:
            assert rows(self.path, "PRAGMA integrity_check") == ["ok"]
            self.compare_tables()
        finally:
            self.folder.cleanup()

    # What can be done

    @rule(id=IDS, data=st.data(), deleted=st.booleans(), body=BODIES)
    def edit(self, id: str, data: st.DataObject, deleted: bool, body: dict[str, int]) -> None:
        known = sorted(parents_of(self.model.revisions.get(id, [])))
        leaves = sorted(self.model.leaves(id))
        choices = [st.none(), st.just(Rev(1, "unknown"))]
        choices += [st.sampled_from(known)] if known else []
        choices += [st.sampled_from(leaves)] * 2 if leaves else []
        parent = data.draw(st.one_of(choices), label="parent")
        before = self.states()
        (rev,) = self.runner.run(self.store.edit([edit(id, parent, _deleted=deleted, **body)]))
        assert rev == self.model.edit(id, parent, deleted, body)
        self.note_changes(before)

    @rule(id=IDS, data=st.data(), revisions=histories(most=5))
    def graft(self, id: str, data: st.DataObject, revisions: list[Revision]) -> None:
        self.graft_all(
            [
                Revision(id, each.generation, each.path, each.deleted, each.body)
                for each in data.draw(st.permutations(revisions))
            ]
        )

    @precondition(lambda self: self.model.revisions)
    @rule(data=st.data(), digest=HASHES, deleted=st.booleans(), length=st.integers(1, 3))
    def graft_a_branch(self, data: st.DataObject, digest: str, deleted: bool, length: int) -> None:
        """A child of some revision, as another replica makes it; its history may be cut off."""
        id = data.draw(st.sampled_from(sorted(self.model.revisions)))
        parent = data.draw(st.sampled_from(sorted(parents_of(self.model.revisions[id]))))
        path = (digest, *self.model.path(id, parent))[:length]
        body = f'{{"by":{len(self.model.bodies)}}}'
        self.graft_all([Revision(id, parent.generation + 1, path, deleted, body)])

    @precondition(lambda self: self.model.revisions)
    @rule(data=st.data())
    def graft_again(self, data: st.DataObject) -> None:
        sent = [each for revisions in self.model.revisions.values() for each in revisions]
        self.graft_all(data.draw(st.lists(st.sampled_from(sent), max_size=4)))

    @rule(name=NAMES, rev=st.sampled_from([None, "0-1", "0-2"]), body=st.sampled_from(["{}", "1"]))
    def put_local(self, name: str, rev: str | None, body: str) -> None:
        number, _ = self.model.local.get(name, (0, ""))
        if rev == (f"0-{number}" if number else None):
            assert self.runner.run(self.store.put_local(name, rev, body)) == f"0-{number + 1}"
            self.model.local[name] = (number + 1, body)
        else:
            with pytest.raises(ConflictError):
                self.runner.run(self.store.put_local(name, rev, body))

    @rule(name=NAMES, rev=st.integers(0, 3), body=st.sampled_from([None, "{}", "1"]))
    def overwrite_local(self, name: str, rev: int, body: str | None) -> None:
        writing = self.store.write(
            lambda transaction: transaction.locals.overwrite(name, rev, body)
        )
        number = 0 if body is None else rev + 1
        assert self.runner.run(writing) == f"0-{number}"
        self.model.local.pop(name, None)
        if body is not None:
            self.model.local[name] = (number, body)

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.store.close())
        self.store = self.runner.run(Store.open(self.path, create=False))

    # What it shows

    @rule(limit=st.integers(1, 3))
    def follow_changes(self, limit: int) -> None:
        """A follower who saw a change earlier sees every later one, in order, once."""
        since = self.feed[-1][0] if self.feed else 0
        while (page := self.runner.run(self.store.changes(since, limit=limit))).documents:
            for document in page.documents:
                assert document.seq > since
                since = document.seq
                self.feed.append((since, document.id))
            assert page.last_seq == since
        newest = {id: seq for seq, id in self.feed}
        current = dict(rows(self.path, "SELECT id, seq FROM docs"))
        assert newest == current
        assert [id for _, id in sorted((seq, id) for id, seq in newest.items())] == self.model.order

    @rule(id=IDS, data=st.data())
    def missing_and_revisions(self, id: str, data: st.DataObject) -> None:
        known = sorted(parents_of(self.model.revisions.get(id, [])))
        asked = [*known, Rev(1, "unknown"), Rev(77, "unknown")]
        asked = data.draw(st.permutations(asked))
        unknown = [str(rev) for rev in asked if rev not in known]
        texts = [str(rev) for rev in asked]
        assert self.runner.run(self.store.missing({id: texts})) == {id: unknown}
        (found,) = self.runner.run(self.store.revisions([(id, texts)]))
        assert [rev for rev, _ in found] == texts
        tombstones = self.model.tombstones(id)
        leaves = self.model.leaves(id)
        for rev, (_, revision) in zip(asked, found, strict=True):
            if revision is None:
                assert rev not in leaves
                continue
            assert revision == Revision(
                *(id, rev.generation, self.model.path(id, rev), rev in tombstones),
                self.model.bodies[id, rev],
            )

    @invariant()
    def same_documents(self) -> None:
        documents = self.runner.run(self.store.documents(sorted(self.model.revisions)))
        assert set(documents) == set(self.model.revisions)
        for id, document in documents.items():
            leaves, tombstones = self.model.leaves(id), self.model.tombstones(id)
            winner = self.model.winner(id)
            assert document.rev == winner
            assert document.deleted is self.model.deleted(id)
            assert document.body == self.model.bodies[id, winner]
            assert set(document.leaves()) == leaves
            assert document.leaves()[0] == winner
            assert document.conflicts == len(leaves - tombstones - {winner})
            assert len(document.tree()) == len(parents_of(self.model.revisions[id]))

    @invariant()
    def same_counts(self) -> None:
        info = self.runner.run(self.store.info())
        gone = {id for id in self.model.revisions if self.model.deleted(id)}
        assert info.doc_del_count == len(gone)
        assert info.doc_count == len(self.model.revisions) - len(gone)
        assert info.update_seq == self.store.update_seq == self.model.seq
        listed = self.runner.run(self.store.all_docs(limit=100)).documents
        assert [each.id for each in listed] == sorted(set(self.model.revisions) - gone)

    @invariant()
    def same_local_documents(self) -> None:
        for name in ("x", "y"):
            number, body = self.model.local.get(name, (0, ""))
            expected = (f"0-{number}", body) if number else None
            assert self.runner.run(self.store.get_local(name)) == expected

    # How

    def graft_all(self, revisions: list[Revision]) -> None:
        before = self.states()
        sent, new = [], []
        for each in revisions:
            if not self.model.contradicts(each):
                sent.append(each)
                new.append(self.model.graft(each))
        assert self.runner.run(self.store.graft(sent)) == new
        self.note_changes(before)

    def states(self) -> dict[str, Any]:
        """What makes a change: another set of leaves, or one of them is a tombstone now."""
        return {
            id: {(leaf, leaf in self.model.tombstones(id)) for leaf in self.model.leaves(id)}
            for id in self.model.revisions
        }

    def note_changes(self, before: dict[str, Any]) -> None:
        after = self.states()
        changed = {id for id in after if after[id] != before.get(id)}
        self.model.seq += len(changed)
        last = rows(self.path, "SELECT id FROM docs ORDER BY seq")[-len(changed) :]
        assert set(last) == changed or not changed
        self.model.order = [id for id in self.model.order if id not in changed]
        self.model.order += last if changed else []

    def compare_tables(self) -> None:
        """What is kept only to be fast agrees with what it was counted from."""
        (counts,) = rows(self.path, "SELECT count(*) - total(deleted), total(deleted) FROM docs")
        kept = dict(rows(self.path, "SELECT key, value FROM meta"))
        assert (kept["doc_count"], kept["doc_del_count"]) == counts
        seqs = rows(self.path, "SELECT seq FROM docs")
        assert len(set(seqs)) == len(seqs)
        shown = set(rows(self.path, "SELECT id, winner, conflict, conflict_body FROM conflicts"))
        assert shown == {
            (id, str(winner), str(leaf), self.model.bodies[id, leaf])
            for id in self.model.revisions
            for winner in [self.model.winner(id)]
            for leaf in self.model.leaves(id) - self.model.tombstones(id) - {winner}
        }
        # One revision, one row; and the winner's body is nowhere twice.
        assert rows(self.path, "SELECT id FROM docs WHERE tree IS NULL AND conflicts > 0") == []
        assert (
            rows(self.path, "SELECT docs.id FROM docs JOIN revisions USING (id, gen, hash)") == []
        )


def test_a_store_behaves_as_the_model_does() -> None:
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=60,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
