"""Which columns of a dataset are read, and which are left out: those that the plan names, or those of a known form."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lmplay_tui.data import column_names as known
from lmplay_tui.data import conversations as chat
from lmplay_tui.data.cells import Column, Spell, looks_nested
from lmplay_tui.data.conversations import plain
from lmplay_tui.data.rows import Columns
from lmplay_tui.errors import UserError
from lmplay_tui.formats import counted
from lmplay_tui.options import nearest
from lmplay_tui.plan.schema import DatasetSpec
from lmplay_tui.text import one_line

_TRIED = 100  # cells, for what they are
_FORMS = 4  # at most, in one table


class _Look:
    """A table's columns, by name and by what a name means, and their first cells."""

    def __init__(self, table: pa.Table) -> None:
        self.columns = [Column(table, number) for number in range(table.num_columns)]
        self.by_name = {column.name: column for column in reversed(self.columns)}
        self._plain: dict[str, Column] = {}
        for column in self.columns:
            # A column without a single value is not there; of names that differ in case, the small one is meant.
            if column.holds != "nothing" and (plain(column.name) not in self._plain or column.name.islower()):
                self._plain[plain(column.name)] = column

    def named(self, names: Iterable[str]) -> list[Column]:
        """The columns of these plain names, in the order of the names."""
        return [self._plain[name] for name in names if name in self._plain]

    def listed(self) -> str:
        return one_line(", ".join(column.name for column in self.columns) or "no columns", 200)


def find_columns(spec: DatasetSpec, table: pa.Table, like: Columns | None = None) -> Columns:
    """The columns that `spec` names; where it names none, those of a known form, by their names and first cells.

    `like`: what was found in another split; the same columns are read where they are there.
    Raises `UserError` listing the columns where a named one is missing or of another kind, or no form fits.
    """
    look = _Look(table)
    if like is not None and all(name in look.by_name for name in like.used()):
        return _completed(like, look, like.spelling)
    named = Columns(
        spec.text,
        spec.title,
        (spec.prompt,) if spec.prompt else (),
        spec.system,
        spec.truth,
        (spec.messages,) if spec.messages else (),
    )
    plan_names = bool(spec.messages or spec.text or spec.truth)
    chosen = named if plan_names else _usual(spec, look)
    for name in chosen.used():
        if name not in look.by_name:
            raise UserError(
                f"dataset {spec.name}: there is no column {one_line(name, 60)}{nearest(name, look.by_name)}; "
                f"it has {look.listed()}"
            )
    if spec.messages and not _has_messages(column := look.by_name[spec.messages]):
        if not _is_bare(column):
            raise _refused(spec, column, "a list of messages")
        chosen = replace(chosen, alternating=True)
    for role in ("text", "title", "system", "truth"):
        if (name := getattr(chosen, role)) is not None:
            _check_text(spec, look.by_name[name], role)
    for name in chosen.prompt:
        _check_text(spec, look.by_name[name], "prompt")
    return _completed(chosen if plan_names else _with_other_forms(chosen, look, table), look, {})


def _check_text(spec: DatasetSpec, column: Column, role: str) -> None:
    if not _is_text(column, role):
        raise _refused(spec, column, "text")
    if role == "truth" and plain(column.name) in known.SEVERAL_ANSWERS:
        _check_written(spec, column, "one text")


def _check_written(spec: DatasetSpec, column: Column, wanted: str) -> None:
    """Raise `UserError` where the texts of a column are lists or objects, written as text."""
    if column.holds == "words" and column.there and all(map(looks_nested, column.there)):
        said = f"lists or objects written as text (such as {one_line(column.there[0], 60)}), not {wanted}"
        raise UserError(f"dataset {spec.name}: column {one_line(column.name, 60)} holds {said}")


def _is_text(column: Column, role: str) -> bool:
    """A text is a string; what stands before or after one may be a number, too."""
    fits = column.holds in ("words", "nothing") or (column.holds == "values" and role != "text")
    return fits or (role == "truth" and column.holds_inner_text)


def _refused(spec: DatasetSpec, column: Column, wanted: str) -> UserError:
    name = one_line(column.name, 60)
    return UserError(f"dataset {spec.name}: column {name} holds {column.described()}, not {wanted}")


def _completed(chosen: Columns, look: _Look, spelling: Mapping[str, Spell]) -> Columns:
    used = chosen.used()
    columns = [look.by_name[name] for name in used]
    forms = (chosen, *chosen.others)
    turns = {name for form in forms for name in (*form.messages, form.history)}
    texts = [column for column in columns if column.name not in turns]
    left = [
        one_line(column.name, 60) + " (all null)" * (column.holds == "nothing")
        for column in look.columns
        if column.name not in used
    ]
    spelling = dict(spelling) or {column.name: column.spell() for column in texts}
    chosen = replace(
        chosen,
        others=tuple(replace(other, spelling=spelling) for other in chosen.others),
        left_out=tuple(left),
        spelling=spelling,
        decoding={column.name: decode for column in columns if (decode := column.decode) is not None},
    )
    return replace(chosen, notes=tuple(_notes(chosen, look)))


def _notes(chosen: Columns, look: _Look) -> Iterable[str]:
    for other in chosen.others:
        assert other.told is not None
        count = pc.sum(look.by_name[other.told].filled).as_py() or 0
        yield f"rows of several forms: {count:,} of {len(look.columns[0].cells):,} have {other.form()}"
    if any(plain(name) in known.CHOSEN for name in chosen.used()):
        yield "of chosen and rejected answers, the chosen ones are read"
    if chosen.transcript:
        yield f"{one_line(chosen.truth, 60)} holds conversations: what follows Assistant: is what the model is to say"
    if chosen.truth and look.by_name[chosen.truth].holds_inner_text:
        yield f"of the answers in {one_line(chosen.truth, 60)} the first is read"
    if chosen.alternating:
        yield f"the strings in {one_line(chosen.messages[0], 60)} are read as those of a user and of a model, in turn"
    if chosen.messages or chosen.history:
        rows = _first_rows(chosen, look)
        met: Counter[str] = Counter()
        speakers = Counter(turn.speaker for row in rows for turn in chosen.turns(row, met))
        for said, count in met.items():
            name = " + ".join(chosen.messages or (chosen.history or "",))
            yield f"{one_line(name, 60)}: {count} {said} (in the first {counted(len(rows), 'row')})"
        unknown = [one_line(name, 40) for name in speakers if name and not chat.is_known(name)]
        if unknown:
            yield f"roles that are not known are read as prompts: {one_line(', '.join(unknown[:8]), 200)}"


def _first_rows(chosen: Columns, look: _Look) -> list[dict[str, Any]]:
    """The first rows that were looked at, decoded."""
    names = chosen.used()
    cells = (look.by_name[name].first for name in names)
    return [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=False)]


# ---- rows of several forms


def _with_other_forms(chosen: Columns, look: _Look, table: pa.Table) -> Columns:
    """The columns, and those of the rows that lack what is read: `messages` where `conversations` is null."""
    while len(chosen.others) + 1 < _FORMS:
        told = [form.told for form in (chosen, *chosen.others) if form.told]
        if not any(plain(column.name) in known.TOLD for column in look.columns if column.name not in told):
            break
        filled = [look.by_name[name].filled for name in told]
        has_text = reduce(pc.or_, filled)
        lacking = pc.indices_nonzero(pc.invert(has_text))[:_TRIED]
        if not len(lacking):
            break
        rows = table.take(lacking)
        rest = _Look(rows.select([number for number, column in enumerate(_Look(rows).columns) if column.there]))
        other = _own_pair(rest) or _conversation(rest) or _pair(rest) or _text(rest, None)
        if other is None or other.told in (None, *told) or not _is_of_other_rows(other, look, has_text):
            break
        # What only the other rows hold is no part of this form's prompt.
        kept = [name for name in chosen.prompt if _meet(look.by_name[name].filled, filled[0])]
        chosen = replace(chosen, prompt=tuple(kept), others=(*chosen.others, other))
    return chosen


def _is_of_other_rows(other: Columns, look: _Look, has_text: pa.ChunkedArray) -> bool:
    """Whether a form can be read, and is that of other rows: its answers stand hardly anywhere beside a text."""
    roles = [("text", other.text), ("truth", other.truth), ("system", other.system)]
    roles += [("prompt", name) for name in other.prompt]
    if not all(_is_text(look.by_name[name], role) for role, name in roles if name is not None):
        return False
    if other.messages and not other.truth:
        return True
    told = look.by_name[other.told or ""].filled
    return _meet(told, has_text) * 10 <= (pc.sum(told).as_py() or 0)


def _meet(one: pa.ChunkedArray, other: pa.ChunkedArray) -> int:
    """In how many rows both are filled."""
    return pc.sum(pc.and_(one, other)).as_py() or 0


# ---- the known forms


def _usual(spec: DatasetSpec, look: _Look) -> Columns:
    titles = [column for column in look.named(["title"]) if column.holds in ("words", "values")]
    title = spec.title or next((column.name for column in titles), None)
    found = _own_pair(look) or _conversation(look) or _pair(look) or _judged(look) or _text(look, title)
    found = found or _unanswered(look) or _lone(look, title)
    if found is None or found.text:
        for column in look.named(known.CONVERSATIONS):
            if found is None or found.text == column.name:
                _check_written(spec, column, "messages that can be read")
    if found is None:
        raise UserError(
            f"dataset {spec.name}: no column has a usual name for text; it has {look.listed()}. Say in the plan which: "
            f"text = ..., or prompt = ... and truth = ..., or messages = ...{_hint(look)}"
        )
    return replace(found, system=spec.system) if spec.system and not found.text else found


def _hint(look: _Look) -> str:
    """What is within columns that hold lists or objects, where that is not to be seen from their names."""
    bare = next((column for column in look.columns if column.holds == "nested" and _is_bare(column)), None)
    if bare is not None:
        name = one_line(bare.name, 60)
        return f" ({name} holds lists of strings: messages = \"{name}\" reads them as a user's and a model's, in turn)"
    nested = [column for column in look.columns if column.holds in ("nested", "mixed")]
    texts = [column for column in look.named(known.TEXTS) if column not in nested]
    said = [(column, column.described()) for column in (*texts, *nested) if column.holds != "words"]
    said += [
        (column, "identifiers, addresses, dates or numbers")
        for column in texts
        if column.holds == "words" and (column.only_marks or not _is_running(column))
    ]
    return "".join(f"; {one_line(column.name, 60)} holds {kind}" for column, kind in said[:3])


def _own_pair(look: _Look) -> Columns | None:
    """Columns called prompt and truth: those of this program. Others are of use only where they are no text alone."""
    found = look.named(["prompt", "truth"])
    if len(found) < 2 or any(column.holds not in ("words", "values") for column in found):
        return None
    before = [column for column in _prompts(look, *found) if plain(column.name) not in known.WEAK_CONTEXTS]
    return _of(before, found[1])


def _conversation(look: _Look) -> Columns | None:
    """A column of messages: by its name, or by its cells where nothing else could be meant."""
    candidates = [column for column in look.named(known.CONVERSATIONS) if _has_messages(column)]
    if not candidates and not look.named((*known.TEXTS, *known.TRUTHS, *known.CHOSEN)):
        told = [column for column in look.columns if column.holds == "nested" and _has_truths(column)]
        words = [column for column in look.columns if _is_running(column) and not known.is_description(column.name)]
        candidates = told if len(told) == 1 and not words else []
    if not candidates:
        return None
    preferred = look.named(known.CHOSEN)[:1] if look.named(known.REJECTED) else []
    answers = [*preferred, *look.named(known.TRUTHS)]
    answers = [column for column in answers if column.holds in ("words", "values") or _has_messages(column)]
    chosen = next((column for column in candidates if not column.there or _has_truths(column)), None)
    if chosen is not None and not (answers and _awaits_an_answer(chosen)):
        return Columns(prompt=_asked_before(look, chosen), messages=(chosen.name,), system=_system(look))
    history = chosen or candidates[0]  # what is to be said stands in another column
    if answers:
        if answers[0] in preferred and _has_whole_conversations(answers[0]):
            return Columns(messages=(answers[0].name,), system=_system(look))
        return replace(_of([history], answers[0]), system=_system(look))
    # Opening it is refused with the roles that it names, unless something else can be read.
    return _pair(look) or _text(look, None) or Columns(messages=(history.name,))


def _awaits_an_answer(column: Column) -> bool:
    """Whether no conversation of the column ends with a turn of a model's."""
    ends = [found[-1] for cell in column.there if (found := chat.turns(cell))]
    return bool(ends) and not any(turn.truth for turn in ends)


def _has_whole_conversations(column: Column) -> bool:
    """Whether the column's messages are not answers alone."""
    turns = [turn for cell in column.there for turn in chat.turns(cell)]
    return not all(turn.truth or chat.is_system(turn) for turn in turns)


def _asked_before(look: _Look, column: Column) -> tuple[str, ...]:
    """The columns of what was asked, where the messages are answers alone."""
    if not column.there or _has_whole_conversations(column):
        return ()
    prompts = [before for before in _prompts(look, None, column) if plain(before.name) not in known.WEAK_CONTEXTS]
    return tuple(before.name for before in prompts if plain(before.name) not in known.SYSTEMS)


def _system(look: _Look) -> str | None:
    return next((column.name for column in look.named(known.SYSTEMS) if column.holds == "words"), None)


def _has_messages(column: Column) -> bool:
    """Whether turns of speakers are read in the column's cells; of an empty one, whether its type has room for them."""
    if column.holds not in ("nested", "words", "mixed"):
        return False
    if not column.there:
        return column.holds == "nested" and column.holds_strings and not _is_bare(column)
    cells = column.there[:_TRIED]
    if column.holds == "words":  # JSON text, or a text that may look like it
        return all(_names_speakers(cell) for cell in cells)
    return any(_names_speakers(cell) for cell in cells)


def _names_speakers(cell: Any) -> bool:
    return any(turn.speaker for turn in chat.turns(cell))


def _has_truths(column: Column) -> bool:
    return any(turn.truth for cell in column.there for turn in chat.turns(cell))


def _is_bare(column: Column) -> bool:
    """Whether the cells are lists of strings alone."""
    lists = [cell for cell in column.there if isinstance(cell, list)]
    return bool(lists) and all(isinstance(turn, str) for cell in lists for turn in cell)


_ASKING = (*known.LEADS, *known.QUESTIONS, *known.INPUTS, *known.ASKED)


def _pair(look: _Look) -> Columns | None:
    """A truth and all columns that its prompt is made of."""
    fit = [column for column in look.columns if _may_be_told(column)]
    for wanted in (fit, look.columns):  # one that will not do is named in the refusal
        there = {plain(column.name) for column in wanted}
        for prompt, truth in _pairs(there):
            found = look.named([prompt, truth])
            if len(found) == 2 and all(column in wanted for column in found):
                return _after_history(look, _of(_prompts(look, found[0], found[1]), found[1]))
    preferred = _preferred(look)
    return (
        _after_history(look, preferred) if preferred and not preferred.messages else (preferred or _made_of_text(look))
    )


def _made_of_text(look: _Look) -> Columns | None:
    """A text and what was made of it, such as a summary; not what tells of it, such as a label."""
    for names in known.MADE_OF_TEXT:
        found = look.named(names)
        if len(found) == 2 and all(map(_is_running, found)):
            return _of([found[0]], found[1])
    return None


def _judged(look: _Look) -> Columns | None:
    """A question whose answer is called a label."""
    labels = [column for column in look.named(known.LABELS) if column.holds in ("words", "values")]
    asked = [column for column in look.named(_ASKING) if column.holds == "words"]
    return _of(_prompts(look, asked[0], labels[0]), labels[0]) if asked and labels and not _text(look, None) else None


def _unanswered(look: _Look) -> Columns | None:
    """A question whose answers are all null: opening it is refused with the column that ought to answer."""
    asked = [column for column in look.named(_ASKING) if column.holds == "words"]
    nulls = {plain(column.name): column for column in look.columns if column.holds == "nothing"}
    answers = [nulls[name] for name in (*known.TRUTHS, *known.LABELS) if name in nulls]
    return _of(_prompts(look, asked[0], answers[0]), answers[0]) if asked and answers else None


def _after_history(look: _Look, pair: Columns) -> Columns:
    """The pair, after the turns of a column of earlier ones: messages, or LLaMA-Factory's `[["Hi", "Hello."]]`."""
    for column in look.named(known.HISTORIES):
        if column.holds == "nested" and column.there and column.name not in pair.used():
            passages = plain(column.name) in known.CONTEXTS and not _has_messages(column)
            if not passages and all(chat.turns(cell, alternating=True) for cell in column.there):
                return replace(pair, history=column.name)
    return pair


def _pairs(there: set[str]) -> Iterable[tuple[str, str]]:
    """Plain names of prompts and truths, the surest first."""
    yield from known.PAIRS
    for truth in known.TRUTHS:
        if truth in there:
            yield from ((prompt, truth) for prompt in _ASKING)
    for truth in known.ANSWERS:
        if truth in there:
            yield from ((prompt, truth) for prompt in (*known.CONTEXTS, *known.WEAK_CONTEXTS))
    yield from ((prompt, truth) for truth in known.SUMMARIES for prompt in known.SUMMARIZED)


def _preferred(look: _Look) -> Columns | None:
    """The chosen answers of preference data, after their prompt where it is not within them."""
    answers = look.named(known.CHOSEN)
    if not answers or not look.named(known.REJECTED):
        return None
    chosen = answers[0]
    heads = look.named((*known.LEADS, *known.QUESTIONS, *known.INPUTS))
    head = next((column for column in heads if _may_be_told(column)), None)
    prompts = _prompts(look, head, chosen)
    if _has_messages(chosen):
        if _has_whole_conversations(chosen):
            return Columns(messages=(chosen.name,), system=_system(look))
    elif not prompts and chosen.there and all(map(chat.is_transcript, map(str, chosen.there))):
        return Columns(truth=chosen.name, transcript=True)
    return _of(prompts, chosen)


def _may_be_told(column: Column) -> bool:
    return column.holds in ("words", "values") or column.holds_inner_text or _has_messages(column)


def _of(prompts: list[Column], truth: Column) -> Columns:
    """The columns of a pair, of which each may be a text or a list of messages."""
    system = next((column.name for column in prompts if plain(column.name) in known.SYSTEMS), None)
    told = [
        column
        for column in (*prompts, truth)
        if (column.holds == "nested" or plain(column.name) in (*known.CHOSEN, *known.CONVERSATIONS))
        and _has_messages(column)
    ]
    texts = tuple(column.name for column in prompts if column not in told and column.name != system)
    return Columns(
        prompt=texts,
        system=system,
        truth=None if truth in told else truth.name,
        messages=tuple(column.name for column in told),
    )


def _prompts(look: _Look, head: Column | None, truth: Column) -> list[Column]:
    """All columns that a prompt is made of, in the order in which they are read."""
    before = [column for column in look.named(known.PROMPT_ORDER) if column is not truth]
    found = [column for column in before if column.holds in ("words", "values")]
    if head is None:
        return found
    if head not in found:  # a source that has a target; a list of messages
        found.append(head)
    found = [
        column
        for column in found
        if column is head
        or plain(column.name) not in known.WEAK_CONTEXTS
        or (column.there and not _is_rendered(column, head, truth))
    ]
    # A prompt that was made of the question holds it already.
    heads = [column for column in found if plain(column.name) in (*known.LEADS, *known.QUESTIONS)]
    doubled = [inner for inner in heads if any(_is_within(inner, outer) for outer in heads if outer is not inner)]
    return [column for column in found if column not in doubled] if len(doubled) < len(heads) else found


def _is_rendered(column: Column, prompt: Column, truth: Column) -> bool:
    """Whether the texts are the pair once more, in another writing (Alpaca's `text`)."""
    rows = list(zip(*(map(str, one.first) for one in (column, prompt, truth)), strict=False))
    return sum(asked in text and told in text for text, asked, told in rows) * 2 > len(rows)


def _is_within(inner: Column, outer: Column) -> bool:
    """Whether each text of one column stands in the other's: the prompt that was made of a question."""
    rows = [(a, b) for a, b in zip(inner.first, outer.first, strict=False) if isinstance(a, str) and isinstance(b, str)]
    return bool(rows) and all(a in b for a, b in rows)


def _text(look: _Look, title: str | None) -> Columns | None:
    """A column with a usual name for text. An article beside a question is no text of its own."""
    asked = look.named((*known.QUESTIONS, *known.LEADS, *known.TRUTHS))
    for column in look.named(known.TEXTS):
        sure = plain(column.name) in known.TEXTS[:2]
        fits = column.holds == "words" and not column.only_marks if sure else _is_running(column)
        if fits and (sure or not asked):
            return Columns(text=column.name, title=title)
    return None


def _lone(look: _Look, title: str | None) -> Columns | None:
    """The one column that holds words, where no other could hold any."""
    truths = [column for column in look.named(["truth"]) if column.holds == "words"]
    if truths:
        return Columns(truth=truths[0].name)
    others = [column for column in look.columns if column.name != title and column.holds != "nothing"]
    words = [column for column in others if _is_running(column)]
    if len(words) > 1:
        words = [column for column in words if not known.is_description(column.name)]
    if len(words) != 1:
        return None
    asks = plain(words[0].name) in _ASKING
    if asks and any(known.is_judgement(column.name) for column in look.columns):
        return None  # a question without its answer is no text
    unsure = any(_could_be_told(column) for column in others if column is not words[0])
    return None if unsure else Columns(text=words[0].name, title=title)


def _is_running(column: Column) -> bool:
    """Whether a column's texts are words of a language, as far as its name and its first cells show."""
    return column.holds == "words" and not (known.is_address(column.name) or column.only_codes or column.only_values)


def _could_be_told(column: Column) -> bool:
    """Whether a column could be what is to be said to a text: a number may be, a label or an address not."""
    if known.is_address(column.name) or known.is_description(column.name) or column.only_addresses:
        return False
    return column.holds == "values" or column.holds_strings
