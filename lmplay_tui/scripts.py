"""Writing without spaces between words: which characters it is made of, and whether a text is written so."""

import re

# Unicode's line-breaking classes for which no space is needed (UAX 14: ID, CJ, SA, AK, and the punctuation of Chinese
# and Japanese): Thai and Lao, Tibetan, Burmese, Khmer, Tai, Balinese, Javanese, Han, kana, Bopomofo, Yi, Tangut.
# Hangul is not among them: Korean has spaces.
_RANGES = (
    "\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\u2e80-\u2fdf\u3000-\u312f"
    "\u31a0-\u31ff\u3400-\u4dbf\u4e00-\ua4cf\ua980-\ua9ff\uaa60-\uaadf\uf900-\ufaff\ufe30-\ufe4f\uff01-\uff9f"
    "\U00016fe0-\U00018dff\U0001aff0-\U0001b2ff\U00020000-\U0003ffff"
)
UNSPACED = re.compile(f"[{_RANGES}]")
LONGEST_WORD = 40  # characters: of longer ones without a space ordinary writing has none


def is_unspaced(text: str) -> bool:
    """Whether words cannot be told by the spaces: more than half of the characters (white space left out) have none.

    Those are the characters of writing without spaces, and all those of a run without a space that is longer than any
    word. A pure function of the text: it knows no language.
    """
    runs = text.split()
    lengths = [len(run) for run in runs]
    if max(lengths, default=0) <= LONGEST_WORD and (text.isascii() or UNSPACED.search(text) is None):
        return False
    unspaced = sum(
        length if length > LONGEST_WORD else len(UNSPACED.findall(run))
        for run, length in zip(runs, lengths, strict=True)
    )
    return 2 * unspaced > sum(lengths)
