"""What names of columns mean, written without case, spaces and marks: `System Prompt` is systemprompt."""

import re

CONVERSATIONS = (
    "messages",
    "conversations",
    "conversation",
    "dialogue",
    "dialog",
    "dialogues",
    "dialogs",
    "turns",
    "chat",
    "chats",
    "chatmessages",
    "conversationturns",
    "thread",
    "items",
    "message",
    "contents",
)
TEXTS = (
    "text",
    "content",
    "article",
    "document",
    "story",
    "body",
    "passage",
    "contents",
    "rawcontent",
    "rawtext",
    "fulltext",
    "pagecontent",
    "markdown",
    "code",
    "paragraph",
    "sentence",
    "transcript",
)

SYSTEMS = ("systemprompt", "system", "systemmessage", "systeminstruction", "systeminstructions")
# What opens a prompt, before what it speaks of.
LEADS = ("prompt", "instruction", "instructions", "userprompt", "usermessage")
ASKED = ("task", "request", "user", "human")  # a prompt where there is no other
CONTEXTS = ("context", "passage", "paragraph", "background", "evidence", "knowledge", "ctx")
WEAK_CONTEXTS = ("article", "document", "story", "body", "content", "text")  # may also be the pair, written once more
HISTORIES = ("history", "chathistory", "conversationhistory", "dialoghistory", "dialoguehistory", *CONTEXTS)
INPUTS = ("input", "inputs", "userinput")
QUESTIONS = ("question", "questions", "query", "problem", "q")
PROMPT_ORDER = (*SYSTEMS, *LEADS, *CONTEXTS, *WEAK_CONTEXTS, *INPUTS, *QUESTIONS, "choices", "options")

ANSWERS = ("truth", "completion", "response", "answer", "output", "solution", "reply")  # to a bare context, too
SEVERAL_ANSWERS = ("answers", "targets", "outputs")
TRUTHS = (
    *ANSWERS,
    "assistant",
    "gpt",
    "expectedoutput",
    "groundtruth",
    "correctanswer",
    "finalanswer",
    "modelresponse",
    "target",
    "targets",
    "outputs",
    "answers",
)
# Which of several is meant.
PAIRS = (
    ("prompt", "truth"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("question", "response"),
    ("instruction", "response"),
    ("instruction", "output"),
    ("problem", "solution"),
    ("query", "answer"),
    ("query", "response"),
    ("input", "output"),
    ("q", "a"),
    ("source", "target"),
    ("src", "tgt"),
    ("user", "assistant"),
    ("user", "bot"),
    ("human", "assistant"),
    ("human", "ai"),
    ("human", "gpt"),
    ("human", "bot"),
)
SUMMARIES = ("highlights", "summary", "abstract")
# A text and what was made of it: the text would else be read alone.
MADE_OF_TEXT = (
    *(
        (text, summary)
        for text in ("text", "content", "story", "body", "passage", "contents", "fulltext")
        for summary in ("highlights", "summary")
    ),
    *(
        (text, made)
        for text in ("text", "content")
        for made in (
            "target",
            "targettext",
            "outputtext",
            "translation",
            "translatedtext",
            "rewrite",
            "paraphrase",
            "correction",
            "code",
        )
    ),
    ("sourcetext", "targettext"),
    ("inputtext", "targettext"),
    ("inputtext", "outputtext"),
    ("docstring", "code"),
)
LABELS = ("label", "labels")  # of a question, not of a text
SUMMARIZED = ("article", "document", "dialogue", "dialog", "report", "transcript")
CHOSEN = ("chosen", "chosenresponse")
REJECTED = ("rejected", "rejectedresponse")

TOLD = frozenset((*CONVERSATIONS, *TEXTS, *TRUTHS, *SUMMARIES, *CHOSEN))  # without one of these, a row has no text


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


_ADDRESSES = _listed("""
    id ids idx index uid uuid guid key url urls uri link links href hash sha sha1 sha256 sha512 md5 checksum path paths
    file filename filepath timestamp date time datetime created updated source lang language languages locale license
    version split dataset dump repo revision commit
""")
# What tells of a text, and is none.
_DESCRIPTIONS = _listed("""
    label labels score scores rating ratings stars count counts length len size year month day number rank weight
    category categories class topic topics genre tag tags sentiment difficulty level format subset type types domain
    model generator author authors status meta metadata embedding embeddings tokens probability confidence likes votes
    upvotes downvotes views price similarity perplexity
""")
_JUDGEMENTS = frozenset(("label", "labels", "score", "scores", "rating", "ratings", "class", "sentiment", "stars"))
_ASKING = frozenset(("is", "has", "num", "n"))


def words_of(name: str) -> list[str]:
    """The words of a column's name: docId, doc_id and `Doc ID` are doc and id."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.split(r"[\W_]+", parted) if word]


def is_address(name: str) -> bool:
    """Whether a column of this name says which row it is, or where it comes from."""
    words = words_of(name)
    return bool(words) and (words[-1] in _ADDRESSES or words[0] in ("id", "uuid", "url"))


def is_description(name: str) -> bool:
    """Whether a column of this name tells of a row's text: a label, a score, a count."""
    words = words_of(name)
    return bool(words) and (words[-1] in _DESCRIPTIONS or words[0] in _ASKING or words[0] in ("label", "created"))


def is_judgement(name: str) -> bool:
    """Whether a column of this name judges a row: a label, a score."""
    return not _JUDGEMENTS.isdisjoint(words_of(name))
