"""Conversations in every spelling in use: who says what, and which turns a model is to say."""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from lmplay_tui.data.cells import from_json, from_repr, text_of
from lmplay_tui.data.samples import Item
from lmplay_tui.text import one_line

# Names are compared without case, spaces and marks: "System Prompt" is systemprompt.
_SPEAKER_KEYS = ("role", "from", "speaker", "author", "sender")
_TEXT_KEYS = ("content", "value", "text", "message", "utterance", "parts", "contents")
_WRAPPERS = ("messages", "conversations", "conversation", "turns", "dialogue", "dialog")
_MODEL_NAMES = """
    assistant gpt model bot chatgpt ai llm agent answer answerer chatbot bing bard claude gemini response responder
    output completion reply functioncall toolcall aimessage modelresponse assistantmessage
"""
_OTHER_NAMES = """
    system user human tool function developer observation prompter prompt question questioner query instruction input
    context ipython environment customer client student asker toolresponse functionresponse toolresult humanmessage
    systemmessage usermessage systemprompt
"""
_MODELS = frozenset(_MODEL_NAMES.split())
_OTHERS = frozenset(_OTHER_NAMES.split())
_SYSTEM = frozenset(("system", "developer", "systemmessage", "systemprompt"))
_TEXT_PARTS = frozenset(("", "text", "inputtext", "outputtext"))
_MARKED = re.compile(r"\n\n(Human|Assistant):")


class Turn(NamedTuple):
    """One turn of a conversation. `speaker`: as the data name it, or ""; `truth`: a model is to say it."""

    speaker: str
    text: str
    truth: bool


def plain(name: str) -> str:
    """A name without case, spaces and marks."""
    return re.sub(r"[\W_]+", "", name).lower()


@lru_cache(maxsize=1024)
def _is_model(speaker: str) -> bool:
    name = plain(speaker)
    return name in _MODELS or name.startswith(("gpt", "chatgpt", "claude"))


@lru_cache(maxsize=1024)
def is_known(speaker: str) -> bool:
    """Whether it is known what a speaker of this name is."""
    return _is_model(speaker) or plain(speaker) in _OTHERS


def is_system(turn: Turn) -> bool:
    """Whether a turn gives the conversation its rules."""
    return plain(turn.speaker) in _SYSTEM


def turns(cell: Any, *, alternating: bool = False, met: Counter[str] | None = None) -> list[Turn]:
    """The turns of a cell: a list of messages, one message, a struct of lists, or JSON text of these.

    `alternating`: strings without a speaker are those of a user and of a model, in turn. `met` counts what is not
    read, or not as one would think, under the words that say so.
    """
    met = Counter() if met is None else met
    found: list[Turn] = []
    for number, message in enumerate(_messages(cell)):
        if isinstance(message, Mapping):
            role, content = message.get("role"), message.get("content")
            if type(role) is str and type(content) is str and message.get("weight") is None:
                found.append(Turn(role, content.removeprefix("\ufeff"), _is_model(role)))
            else:
                found += _read(message, met)
        elif alternating and isinstance(message, str):
            found.append(Turn("", message.removeprefix("\ufeff"), number % 2 == 1))
        elif isinstance(message, list) and len(message) == 2 and all(isinstance(part, str) for part in message):
            if is_known(message[0]):
                found.append(Turn(message[0], text_of(message[1]), _is_model(message[0])))
            elif alternating:
                found += [Turn("", text_of(message[0]), False), Turn("", text_of(message[1]), True)]
    return found


def _messages(cell: Any) -> Sequence[Any]:
    if isinstance(cell, list):
        return cell
    if isinstance(cell, str):
        cell = from_repr(from_json(cell))
        if isinstance(cell, list):
            return cell
    if not isinstance(cell, Mapping):
        return ()
    for key, value in cell.items():
        if plain(key) in _WRAPPERS and isinstance(value, list | Mapping):
            return _messages(value)
    columns = {key: value for key, value in cell.items() if isinstance(value, list)}
    if any(_holds_a_column(key, value) for key, value in columns.items()):
        rows = itertools.zip_longest(*columns.values())
        return [dict(zip(columns, row, strict=True)) for row in rows]
    return (cell,)


def _holds_a_column(key: str, values: list[Any]) -> bool:
    """Whether a list in a struct is a speaker's turns or the turns' speakers, not the parts of one content."""
    name = plain(key)
    return name in _SPEAKER_KEYS or (is_known(key) and all(isinstance(value, str | None) for value in values))


def _read(message: Mapping[str, Any], met: Counter[str]) -> Iterator[Turn]:
    """The turns of one message: that of its speaker, or one for each key that is a speaker's name."""
    there = {plain(key): value for key, value in message.items() if value is not None}
    speaker = next((there[key] for key in _SPEAKER_KEYS if key in there), None)
    kind = there.get("type")
    if speaker is None and isinstance(kind, str) and is_known(kind):  # LangChain's
        speaker = kind
        if isinstance(there.get("data"), Mapping):
            there = {plain(key): value for key, value in there["data"].items() if value is not None}
    if isinstance(speaker, Mapping):
        speaker = speaker.get("role") or speaker.get("name")
    said = next((there[key] for key in _TEXT_KEYS if key in there), None)
    if speaker is not None:
        name = speaker if isinstance(speaker, str) else str(speaker)
        truth = _is_model(name)
        if truth and _is_zero(there.get("weight")):
            met["turns of weight 0 are read as prompts"] += 1
            truth = False
        yield Turn(name, _text(said, met), truth)
        return
    keyed = [(key, value) for key, value in there.items() if is_known(key)]
    if said is not None and not any(_is_model(key) for key, _ in keyed):
        if isinstance(said, Mapping) and any(plain(key) in _SPEAKER_KEYS for key in said):
            yield from _read(said, met)
        else:
            yield Turn("", _text(said, met), False)
        return
    for key, value in sorted(keyed, key=lambda pair: (_is_model(pair[0]), pair[0] not in _SYSTEM)):
        yield Turn(key, _text(value, met), _is_model(key))


def _is_zero(weight: Any) -> bool:
    try:
        return weight is not None and float(weight) == 0
    except (TypeError, ValueError):
        return False


def _text(content: Any, met: Counter[str]) -> str:
    """What a turn says: a text, or the texts of its parts, a line each."""
    if isinstance(content, list):
        return "\n".join(text for part in content if (text := _text(part, met)))
    if not isinstance(content, Mapping):
        return text_of(content)
    kind = content.get("type") or content.get("content_type") or ""
    if plain(str(kind)) in _TEXT_PARTS:
        for key in ("text", "content", "value", "parts"):
            if content.get(key) is not None:
                return _text(content[key], met)
    met[f"parts of kind {one_line(kind, 40) or 'unknown'} are left out"] += 1
    return ""


def is_transcript(text: str) -> bool:
    """Whether a text is a conversation as Anthropic's HH-RLHF writes it."""
    return text.lstrip().startswith("Human:") and "\n\nAssistant:" in text


def transcript(text: str) -> list[Turn]:
    """The turns of such a conversation: each after a blank line and its speaker."""
    opening, *pieces = _MARKED.split("\n\n" + text.strip())
    found = [Turn("", opening.strip(), False)] if opening.strip() else []
    for speaker, said in zip(pieces[::2], pieces[1::2], strict=True):
        found.append(Turn(speaker, said.strip(), _is_model(speaker)))
    return found


def items(conversation: Sequence[Turn]) -> list[Item]:
    """Each turn that a model is to say as a truth; the turns before it, a line break after each, as its prompt."""
    whole = "".join([f"{text}\n" for _, text, _ in conversation])
    found = []
    end = 0
    for _, text, truth in conversation:
        if truth:
            found.append(Item(whole, text, prompt_end=end))
        end += len(text) + 1
    return found
