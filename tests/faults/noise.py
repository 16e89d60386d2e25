"""What a terminal, a bad line or a cat on the keyboard can send, made from a seed."""

import random
from collections.abc import Iterator

# Left out: what asks to leave at once or to sleep, ctrl+c and ctrl+z, as bytes and by their numbers.
_LEAVES = (b"\x03", b"\x1a", b"99;", b"122;", b"67;", b"90;", b":99", b":122")
_TEXTS = (
    "Zürich",
    "日本語のテキスト",
    "مرحبا",
    "ภาษาไทย",
    "👩‍👩‍👧 🇩🇪 e\u0301",
    "\u202eabc\u2066",
    "[bold]x[/]",
    "a" * 300,
)
_FINALS = "ABCDEFHIMOPQRSTZcmnqtuy~XK"


def byte_strings(count: int, seed: int) -> Iterator[bytes]:
    """`count` strings of at most some hundred bytes; none that a user would leave with."""
    rng = random.Random(seed)
    made = 0
    while made < count:
        string = _one(rng)
        if not any(leaves in string for leaves in _LEAVES):
            made += 1
            yield string


def _one(rng: random.Random) -> bytes:
    kind = rng.randrange(10)
    if kind < 3:
        return rng.randbytes(rng.randrange(1, 12))
    if kind < 6:
        return _sequence(rng)
    if kind == 6:
        string = rng.choice(_TEXTS).encode(rng.choice(["utf-8", "utf-16", "utf-7"]))
        return string[rng.randrange(len(string)) :]
    if kind == 7:
        introducer = rng.choice([b"\x1b]", b"\x1bP", b"\x1b_", b"\x1bX", b"\x1b^"])
        return introducer + rng.randbytes(rng.randrange(40)) + rng.choice([b"\x07", b"\x1b\\", b"", b"\x1b"])
    if kind == 8:
        pasted = rng.choice([_sequence(rng), rng.randbytes(20), rng.choice(_TEXTS).encode()])
        return b"\x1b[200~" + pasted + rng.choice([b"\x1b[201~"] * 8 + [b"", b"\x1b[201"])
    return bytes(rng.choices(b"0123456789?abcdefghijklmnoprstuvwyz[]{}+-=/<>.,;:'\"\\|#*", k=rng.randrange(1, 4)))


def _sequence(rng: random.Random) -> bytes:
    if rng.random() < 0.1:  # the mouse, on the screen and off it
        place = rng.choice([rng.randrange(-3, 250), 10**9])
        return f"\x1b[<{rng.randrange(140)};{place};{rng.randrange(-3, 80)}{rng.choice('Mm')}".encode()
    numbers = [rng.choice(["", str(rng.randrange(300)), str(rng.randrange(0x120000)), "9" * rng.randrange(1, 30)])]
    numbers += [str(rng.randrange(12)) for _ in range(rng.randrange(4))]
    private = rng.choice(["", "", "", "?", "<", ">", "="])
    return f"\x1b[{private}{rng.choice([';', ':']).join(numbers)}{rng.choice(_FINALS)}".encode()
