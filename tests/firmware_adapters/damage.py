"""What a bad wire does to a stream of bytes, for hypothesis to choose from."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from hypothesis import strategies as st

Damage = Callable[[bytes], bytes]


def _at(stream: bytes, position: int) -> int:
    return position % (len(stream) + 1)


def flip(stream: bytes, position: int, mask: int) -> bytes:
    """Change the bits of `mask` in one byte."""
    if not stream:
        return stream
    at = position % len(stream)
    return stream[:at] + bytes([stream[at] ^ mask]) + stream[at + 1 :]


def cut(stream: bytes, position: int, size: int) -> bytes:
    """Lose a run of bytes."""
    at = _at(stream, position)
    return stream[:at] + stream[at + size :]


def repeat(stream: bytes, position: int, size: int) -> bytes:
    """Receive a run of bytes twice."""
    at = _at(stream, position)
    return stream[: at + size] + stream[at:]


def insert(stream: bytes, position: int, noise: bytes) -> bytes:
    """Receive bytes that nobody sent."""
    at = _at(stream, position)
    return stream[:at] + noise + stream[at:]


def swap(stream: bytes, position: int, size: int) -> bytes:
    """Receive two neighbouring runs of bytes in the wrong order."""
    at = _at(stream, position)
    first, second = stream[at : at + size], stream[at + size : at + 2 * size]
    return stream[:at] + second + first + stream[at + 2 * size :]


_POSITION = st.integers(0, 4096)
_SIZE = st.integers(1, 200)


def _one() -> st.SearchStrategy[Damage]:
    def bind(damage: Callable[..., bytes], *arguments: object) -> Damage:
        return lambda stream: damage(stream, *arguments)

    return st.one_of(
        st.builds(bind, st.just(flip), _POSITION, st.integers(1, 255)),
        st.builds(bind, st.just(cut), _POSITION, _SIZE),
        st.builds(bind, st.just(repeat), _POSITION, _SIZE),
        st.builds(bind, st.just(swap), _POSITION, _SIZE),
        st.builds(bind, st.just(insert), _POSITION, st.binary(max_size=200)),
    )


def damages() -> st.SearchStrategy[Damage]:
    """Up to five kinds of damage, one after the other."""

    def chain(steps: list[Damage]) -> Damage:
        def apply(stream: bytes) -> bytes:
            for step in steps:
                stream = step(stream)
            return stream

        return apply

    return st.lists(_one(), min_size=1, max_size=5).map(chain)


def pieces(data: st.DataObject, stream: bytes) -> list[bytes]:
    """Cut a stream into pieces of any size."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    edges = [0, *cuts, len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]
