"""Every sign, colour and term that the screens use, each with what it means: screens and the legend are made from it.

A screen takes its signs from here, and help's second page shows them all. What a screen draws without its standing here
fails a test.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Sign(NamedTuple):
    """What is drawn, in which style, and what it says."""

    sign: str
    style: str
    means: str


STATES: Mapping[str, Sign] = {
    "starting": Sign("◌", "warn", "the run is starting"),
    "running": Sign("●", "good", "it runs"),
    "paused": Sign("‖", "warn", "it is paused"),
    "stopping": Sign("◐", "warn", "it is stopping, and saves what has been trained"),
    "stopped": Sign("■", "accent", "it was stopped; it can go on"),
    "finished": Sign("✓", "good", "it has trained the whole plan"),
    "failed": Sign("✗", "bad", "it could not go on; the log says why"),
    "dead": Sign("✗", "bad", "its process ended without a word"),
}

STAGES: Mapping[str, Sign] = {
    "waiting": Sign("·", "dim", "a stage whose turn comes"),
    "running": Sign("▸", "accent", "the stage that is trained now; in a list, what is chosen"),
    "done": Sign("✓", "good", "a stage that is done"),
}

BARS = (
    Sign("━━╸", "done", "done, or in use"),
    Sign("───", "todo", "still to do, or free"),
)

VAL_SPAN = 5  # validations that their line is a mean over

CURVES: Mapping[str, Sign] = {
    "train": Sign("━", "train", "training, smoothed over the steps that the frame names"),
    "raw": Sign("⣿", "raw", "its least and greatest values, not smoothed"),
    "val": Sign("•", "val", f"validation: rows that are never trained on; its line is a mean over {VAL_SPAN} of them"),
    "eval": Sign("◆", "eval", "evaluation: a fixed set of each stage"),
    "ghost": Sign("┈", "ghost", "another run (r chooses it), and how far this one lies above it"),
}

# In the order of importance: where signs crowd below the axis, the first ones stand.
MARKS: Mapping[str, Sign] = {
    "stage": Sign("▶", "accent", "a stage begins"),
    "resume": Sign("↻", "accent", "the run was resumed"),
    "spike": Sign("▲", "bad", "the loss jumped"),
    "plan": Sign("✎", "accent", "the plan was changed"),
    "lr": Sign("λ", "warn", "the learning rate was changed by hand"),
    "bookmark": Sign("⚑", "good", "a bookmark of yours"),
    "warning": Sign("!", "warn", "a warning; the log has it"),
    "save": Sign("▪", "dim", "a checkpoint was saved; where they crowd, not each is drawn"),
}

LINES = (
    Sign("┊", "axis", "where a stage begins"),
    Sign("┄", "axis", "a loss to compare with: what the token counts alone would give"),
    Sign("│", "accent", "the cursor (Enter); the title reads the values there"),
)

LEVELS: Mapping[str, Sign] = {
    "info": Sign(" ", "", "it happened"),
    "good": Sign("✓", "good", "saved, done, better than before"),
    "warning": Sign("!", "warn", "worth a look, or worse than before"),
    "error": Sign("✗", "bad", "it went wrong"),
}

WORDS: Mapping[str, Sign] = {
    "equal": Sign("word", "good", "a word that the truth has there, too"),
    "replace": Sign("≠word", "wrong", "another word than the truth's"),
    "delete": Sign("+word", "extra", "a word too many"),
    "insert": Sign("−word", "missing", "a word of the truth that is lacking"),
    "line": Sign("↵", "", "a line ends there in the text"),
    "cut": Sign("…", "", "there is more than fits"),
}

SHADES = (0.01, 0.1, 0.4, 0.8)  # probabilities between the shades p0 to p4

SURENESS = (
    Sign("token", "p0", f"a token of the truth that the model gave less than {SHADES[0]:.0%}"),
    Sign("token", "p1", f"less than {SHADES[1]:.0%}"),
    Sign("token", "p2", f"less than {SHADES[2]:.0%}"),
    Sign("token", "p3", f"less than {SHADES[3]:.0%}"),
    Sign("token", "p4", "more: it was expected"),
    Sign("█", "done", "how likely the model held a token, at the cursor"),
)

STEP_PARTS: Mapping[str, Sign] = {  # of a step's time; they differ by their filling as well as by their colour
    "data": Sign("░", "data", "waiting for the next batch"),
    "forward": Sign("█", "forward", "the model computes its predictions"),
    "backward": Sign("▓", "backward", "gradients: how each weight should move"),
    "reduce": Sign("▖", "reduce", "waiting for other ranks, and summing the gradients of all"),
    "optimizer": Sign("▒", "optimizer", "clipping them, and moving the weights"),
    "other": Sign("·", "other", "everything else of a step"),
    "validate": Sign("▚", "validate", "validation and evaluation"),
    "save": Sign("▞", "save", "waiting for a checkpoint to be written"),
}

RANKS: Mapping[str, Sign] = {  # of a rank's own work a step, against the ranks' median; higher is slower
    "quick": Sign("▁", "accent", "a rank that needs less than 0.95 of what the ranks' median needs"),
    "usual": Sign("▃", "good", "as long as the others"),
    "slow": Sign("▆", "warn", "more than 1.05 times as long"),
    "slowest": Sign("█", "bad", "more than 1.2 times as long: the others wait for it"),
    "unknown": Sign("·", "dim", "not known"),
}

LOOKS = (
    Sign("key", "key", "a key to press"),
    Sign("text", "strong", "what matters most in its row"),
    Sign("text", "dim", "what matters less"),
    Sign("text", "label", "what the figure beside or below it is"),
    Sign("text", "accent", "what is chosen, or goes on now"),
    Sign("text", "cursor", "where the cursor is"),
    Sign("–", "dim", "not known yet"),
)

TERMS: Mapping[str, str] = {
    "loss": "nats a token: how surprised the model is by the next token; lower is better",
    "accuracy": "share of the truth's words that are predicted, each after the true ones before it",
    "character accuracy": "the same by characters, for text without spaces between words",
    "bits per byte": "the loss a byte of text: comparable between tokenizers",
    "grad norm": "the gradient's length before clipping; jumps warn of a loss that jumps",
    "lr": "learning rate: how far a step moves the weights",
    "step": "one update of the weights",
    "rows": "rows of the stage's datasets, read of all",
    "empty": "rows that hold no words to train on",
    "text shown": "share of the text read that fits the context, and is trained on",
    "eval": "loss of the stage's own evaluation set: at its end -> now, once others have trained over it",
    "ends": "when it is done, at the pace of the last minutes",
    "tok/s": "tokens a second that training reads",
    "MFU": "model FLOP utilisation: share of what the device could compute at most",
    "token counts alone": "the loss of guessing by how frequent each token is (unigram entropy)",
    "step time": "where the time of a step goes",
    "rank": "one process of a run that has several; number 0 leads it",
    "own": "what a rank needs for its own share of a step, before the gradients are summed",
    "wait": "how long a rank then waits for the slowest one",
    "busy": "share of the time that a rank's device computes",
    "GiB": "what is in use of a rank's memory, and all of it, in units of 2^30 bytes",
    "°C": "how hot a rank's device is",
    "phase": "what a rank is at",
    "slowest": "the rank that needs longest for its own share of a step",
    "ranks": "the processes of the run; a cell is a rank, higher where it needs longer",
    "prompt": "what the model is given",
    "truth": "what should come then, shaded by how surely the model expected each token",
    "model": "the token that it held likeliest at each place, after the true ones before it",
    "says": "what it writes by itself, token by token",
    "true": "the token at the cursor, and the five that the model held likeliest there",
    "packed": "samples lie one behind the other in a row, without padding between them",
    "freed memory kept": "memory that a step has freed is used again instead of being given back",
}


def sections() -> Iterator[tuple[str, list[Sign]]]:
    """The legend: what a part of it is about, and its signs."""
    from lmplay_tui.run.metric_names import METRICS  # not before a launcher's first frame, which knows no run

    yield "a run", list(STATES.values())
    yield "curriculum", [*STAGES.values(), *BARS]
    yield "curves", [*CURVES.values(), *LINES]
    yield "below the curves", list(MARKS.values())
    yield "predictions", [*WORDS.values(), *SURENESS]
    yield "where a step's time goes", list(STEP_PARTS.values())
    yield "ranks, where there are more than eight", list(RANKS.values())
    yield "log", list(LEVELS.values())[1:]
    yield "letters", list(LOOKS)
    yield "terms", [Sign(term, "label", means) for term, means in TERMS.items()]
    yield "curves by name", [Sign(name, "strong", means) for name, means in METRICS.items()]
