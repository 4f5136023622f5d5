"""Random damage to files and to what is in them, from a seeded generator."""

import copy
import io
import random
import zipfile
from typing import Any

TOKENS = (b"\r", b"\0", b"\xff", b"nan", b"-1", b"1e999", b",", b"\n", b'"', b"9" * 30, b"{", b"]", b"\xef\xbb\xbf")
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 7, 2**31, 10**9, 10**25, 0.5, -0.5, 1e300, float("nan"), float("inf")),
    *("", "x", "2", "none", "\ud800", "a" * 1000, [], [1], [None, "x"], {}, {"a": 1}, [[[]]]),
)


def bytes_of(content: bytes, rng: random.Random) -> bytes:
    """Content with one to three changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = _one_change(content, rng)
    return content


def _one_change(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    span = slice(start, start + int(2 ** rng.uniform(0, 9)))
    kind = rng.randrange(9)
    if kind <= 2 and content:
        changed = bytearray(content)
        for _ in range(rng.choice((1, 1, 20))):
            changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == 3:
        return content[:start] + rng.randbytes(rng.randrange(1, 20)) + content[start:]
    if kind == 4:
        return content[: span.start] + content[span.stop :]
    if kind == 5:
        return content[: span.stop] + content[span.start :]
    if kind == 6:
        return content[:start]
    if kind == 7:
        return content[:start] + rng.choice(TOKENS) + content[start:]
    return rng.choice((b"", rng.randbytes(200), content + content))


def zip_of(content: bytes, rng: random.Random) -> bytes:
    """A zip container in which one record was changed, with the checksum of the change."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        pickles = [name for name in names if name.endswith("data.pkl")]
        chosen = rng.choice(pickles or names) if rng.random() < 0.8 else rng.choice(names)
        for name in names:
            data = old.read(name)
            new.writestr(name, bytes_of(data, rng) if name == chosen else data)
    return out.getvalue()


def tree_of(content: Any, rng: random.Random, values: tuple[Any, ...] = VALUES) -> Any:
    """A copy of nested dicts and lists in which one to three places were changed, removed, renamed or added."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change_tree(content, rng, values)
    return content


def _change_tree(content: Any, rng: random.Random, values: tuple[Any, ...]) -> None:
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = rng.choice(keys)
        if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.25:
            break
        place = place[key]
    kind = rng.random()
    if kind < 0.75:
        place[key] = rng.choice(values)
    elif kind < 0.85:
        del place[key]
    elif isinstance(place, dict):
        place[rng.choice(("x", 3, None, str(key) + "_", str(key)[:-1]))] = place[key]
    else:
        place.append(place[key])
