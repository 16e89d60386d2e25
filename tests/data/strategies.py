"""Texts that a corpus may hold, and many that it should not."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st


def examples(number: int) -> settings:
    """So many examples, however slow the machine is just now."""
    return settings(
        max_examples=number,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


WORDS = st.text("abcdefgXYZ", min_size=1, max_size=9)
SENTENCES = st.builds(
    lambda words, mark: " ".join(words) + mark,
    st.lists(WORDS, min_size=1, max_size=9),
    st.sampled_from([".", ".", "?", "!", '."', "...", "…", "", "。"]),
)
BREAKS = st.sampled_from([" ", " ", " ", "  ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\n \n\n", "\t", ""])
PROSE = st.lists(st.tuples(SENTENCES, BREAKS), max_size=14).map(
    lambda parts: "".join(part for pair in parts for part in pair)
)
ODD = st.one_of(
    st.text("ab .!?\n", max_size=120),
    st.text("ab é中。😀\U0001f469‍\r\n\0\u2028\xa0.", max_size=60),
    st.text(max_size=60),
    st.builds(lambda piece, count: piece * count, st.sampled_from(["a", "é", "😀", ".", " ", "\n", "a.", '".'])
              , st.integers(1, 200)),
)  # fmt: skip
SHORT = st.one_of(PROSE.map(lambda text: text[:120]), st.text("ab é😀 .\n", max_size=60))
TEXTS = st.one_of(PROSE, PROSE, ODD)
