"""What counts as a reading, whatever form its document has."""

from __future__ import annotations

import pytest

from agent.documents.readings import readings_in


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ('{"type":"reading","value":20.5}', 1),
        ('{"device":"d","type":"readings","columns":{"time":[0,1,2],"value":[1,null,"x"]}}', 3),
        ('{"type":"readings","columns":{"time":[],"value":[]}}', 0),
        ('{"type":"readings","title":"somebody else\'s"}', 0),
        ('{"type":"alarm","urgent":true}', 0),
        ("{}", 0),
    ],
)
def test_readings_in_a_document(body: str, count: int) -> None:
    assert readings_in(body) == count
