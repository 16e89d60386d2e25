"""Texts that a corpus may hold, and many that it should not."""

from hypothesis import strategies as st

PIECES = st.sampled_from(
    ["a", "ab", "Xyz", "longerword", " ", " ", " ", "  ", ". ", ". ", ".", "! ", "?\n", '." ', "... ", "… ", "。", "\n",
     "\n\n", "\r\n\r\n", "\n \n", "\t", "é"]
)  # fmt: skip
PROSE = st.lists(PIECES, max_size=70).map("".join)
ODD = st.one_of(
    st.text("ab .!?\n", max_size=120),
    st.text("ab é中。😀\U0001f469‍\r\n\0\u2028\xa0.", max_size=60),
    st.text(max_size=60),
    st.builds(lambda piece, count: piece * count, st.sampled_from(["a", "é", "😀", ".", " ", "\n", "a.", '".'])
              , st.integers(1, 200)),
)  # fmt: skip
SHORT = st.lists(PIECES, max_size=25).map("".join)
TEXTS = st.one_of(PROSE, PROSE, ODD)
