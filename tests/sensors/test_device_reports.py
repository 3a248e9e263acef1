"""The gateway's part of a device's document, beside edits of others at the same time."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.documents.attachment import inline
from agent.documents.revision import Rev
from agent.sensors.device_document import setting_rows
from agent.sensors.device_reports import DeviceReports, body_of
from agent.sensors.shadow import Refusal
from agent.store.store import Store
from tests.mqtt.site import edit

_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None

ID = "device:node"
AT = "2026-03-01T08:00:00.000000Z"
LATER = "2026-03-01T09:00:00.000000Z"


def reports(store: Store) -> DeviceReports:
    return DeviceReports(store, "gateway-1", "node")


async def winner(store: Store) -> tuple[Rev | None, dict[str, Any]]:
    document = await store.get(ID)
    return None if document is None or document.deleted else document.rev, body_of(document)


async def desire(store: Store, **desired: Any) -> Rev:
    rev, body = await winner(store)
    return await edit(store, ID, rev, **{**body, "desired": desired})


async def live_leaves(store: Store) -> dict[Rev, dict[str, Any]]:
    document = await store.get(ID)
    assert document is not None
    [found] = await store.revisions([(ID, [str(rev) for rev in document.leaves()])])
    return {
        revision.rev: msgspec.json.decode(revision.body)
        for _, revision in found
        if revision is not None and not revision.deleted
    }


async def copy(source: Store, target: Store) -> None:
    """What replication does."""
    document = await source.get(ID)
    if document is not None:
        [found] = await source.revisions([(ID, [str(rev) for rev in document.leaves()])])
        await target.graft([revision for _, revision in found if revision is not None])


# --- one after the other ---------------------------------------------------------------


async def test_a_report_is_written_beside_what_others_wrote(store: Store) -> None:
    rev = await edit(
        store,
        ID,
        None,
        inline("plan.txt", "text/plain", b"a plan"),
        desired={"interval_ms": 500},
        place="cellar",
    )
    document = await reports(store).write({"interval_ms": 500}, {}, AT)
    assert body_of(document) == {
        "type": "device",
        "device": "node",
        "gateway": "gateway-1",
        "desired": {"interval_ms": 500},
        "place": "cellar",
        "reported": {"interval_ms": 500},
        "reported_at": AT,
    }
    assert document is not None
    assert document.rev.generation == rev.generation + 1
    [attachment] = document.revision().attachments
    assert attachment.name == "plan.txt"


async def test_nothing_new_is_not_written(store: Store) -> None:
    writer = reports(store)
    assert writer.are_in(None, {}, {})
    assert not writer.are_in(None, {"a": 1}, {})
    refused = {"a": Refusal("too high", AT, 7)}
    document = await writer.write({"a": 1}, refused, AT)
    assert writer.are_in(document, {"a": 1}, refused)
    assert not writer.are_in(document, {"a": True}, refused)
    assert not writer.are_in(document, {"a": 1}, {})
    again = await writer.write({"a": 1}, refused, LATER)
    assert again == document


async def test_a_document_that_was_deleted_comes_back_without_its_wishes(store: Store) -> None:
    await desire(store, a=1)
    rev, _ = await winner(store)
    await edit(store, ID, rev, deleted=True)
    assert "desired" not in body_of(await reports(store).write({"a": 1}, {}, AT))


async def test_a_document_of_another_gateway_is_left_alone(store: Store) -> None:
    rev = await edit(store, ID, None, gateway="gateway-2", reported={"a": 2})
    document = await reports(store).write({"a": 1}, {}, AT)
    assert document is not None
    assert document.rev == rev


async def test_what_others_scribble_over_the_report_is_put_right(store: Store) -> None:
    writer = reports(store)
    await writer.write({"a": 1}, {}, AT)
    rev, body = await winner(store)
    await edit(store, ID, rev, **{**body, "reported": "nonsense", "refused": [], "type": 5})
    assert not writer.are_in(await store.get(ID), {"a": 1}, {})
    body = body_of(await writer.write({"a": 1}, {}, LATER))
    assert (body["type"], body["reported"]) == ("device", {"a": 1})
    assert "refused" not in body


def test_where_each_setting_stands() -> None:
    body = {
        "desired": {
            "same": 1,
            "on_its_way": 2,
            "refused": 3,
            "changed_since": 4,
            "long": "x" * 300,
        },
        "reported": {"same": 1.0, "on_its_way": 1, "refused": 1, "changed_since": 1, "own": True},
        "refused": {
            "refused": {"reason": "odd", "time": AT, "value": 3},
            "changed_since": {"reason": "odd", "time": AT, "value": 3},
            "long": {"reason": "long", "time": AT},
        },
    }
    rows = setting_rows(body)
    assert {name: row["state"] for name, row in rows.items()} == {
        "same": "confirmed",
        "on_its_way": "pending",
        "refused": "refused",
        "changed_since": "pending",
        "long": "refused",
        "own": "reported",
    }
    assert rows["refused"] == {"desired": 3, "reported": 1, "state": "refused", "reason": "odd"}
    malformed = {"desired": [1], "refused": {"*": {"reason": "no object", "time": AT}}}
    assert setting_rows(malformed)["*"]["reason"] == "no object"


# --- at the same time ------------------------------------------------------------------


@dataclass(frozen=True)
class Wish:
    """An edit by a person: what it says, and what it was made of."""

    rev: Rev
    says: Mapping[str, Any]
    replaces: Mapping[str, Any]
    ancestors: frozenset[Rev]


def of_people(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: body[name] for name in ("desired", "note") if name in body}


async def ancestors(store: Store, rev: Rev) -> frozenset[Rev]:
    document = await store.get(ID)
    assert document is not None
    path = document.tree().path(rev)
    return frozenset(Rev(rev.generation - age, digest) for age, digest in enumerate(path))


PLACES = st.integers(0, 2)
ACTIONS = st.one_of(
    st.tuples(st.sampled_from(["desired", "note"]), PLACES, st.integers(0, 2)),
    st.tuples(st.just("copy"), PLACES, PLACES),
    st.tuples(st.just("report"), st.just(0), st.integers(0, 3)),
    st.tuples(st.just("compact"), st.just(0), st.just(0)),
)


@example([("report", 0, 0), ("copy", 0, 1), ("desired", 1, 1), ("report", 0, 2), ("copy", 1, 0)])
@example([("report", 0, 0), ("desired", 1, 1), ("copy", 1, 0), ("report", 0, 1)])
@settings(max_examples=80, deadline=None)
@given(st.lists(ACTIONS, max_size=12))
async def test_no_wish_is_lost_and_the_gateway_leaves_no_conflict(
    actions: list[tuple[str, int, int]],
) -> None:
    """Stores 0 (the gateway's), 1 and 2 edit, and replicate in any order and incompletely."""
    wishes: list[Wish] = []
    compacted = False
    with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
        stores = [await Store.open(Path(folder, f"{place}.sqlite")) for place in range(3)]
        writer = reports(stores[0])
        reported = {"x": 0}
        for action, place, argument in actions:
            store = stores[place]
            if action == "copy":
                await copy(store, stores[argument])
            elif action == "report":
                reported = {"x": argument}
                await writer.write(reported, {}, AT)
            elif action == "compact":
                compacted = True
                await store.start_compaction()
            else:
                rev, body = await winner(store)
                value = {"x": argument} if action == "desired" else argument
                made = await edit(store, ID, rev, **{**body, action: value})
                says = of_people({**body, action: value})
                wishes.append(Wish(made, says, of_people(body), await ancestors(store, made)))
        for _ in range(3):  # all get all
            for source in stores:
                for target in stores:
                    await copy(source, target)
            await writer.write(reported, {}, AT)
        for target in stores[1:]:
            await copy(stores[0], target)
        assert await live_leaves(stores[0]) == await live_leaves(stores[1])
        leaves = await live_leaves(stores[0])
        descent = {rev: await ancestors(stores[0], rev) for rev in leaves}
        for store in stores:
            await store.close()
    for wish in wishes:
        assert (
            any(wish.rev in known for known in descent.values())
            or any(of_people(body) == wish.says for body in leaves.values())
            or any(
                other is not wish and (wish.rev in other.ancestors or other.replaces == wish.says)
                for other in wishes
            )
        ), wish
    # Leaves that people say the same in are one; the report is in the one that wins.
    said = [of_people(body) for body in leaves.values()]
    assert all(said.count(each) == 1 for each in said)
    assert any(body["reported"] == reported for body in leaves.values())
    where = {place for action, place, _ in actions if action in ("desired", "note")}
    if len(where) <= 1 and not compacted:
        assert len(leaves) == 1
        [body] = leaves.values()
        assert of_people(body) == (wishes[-1].says if wishes else {})
