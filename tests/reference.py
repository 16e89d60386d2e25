"""Writes docs/reference.md from the declarations: `python -m tests.reference`. A test compares."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from lmplay_tui import options
from lmplay_tui.plan.builtin import KNOWN_NAMES, known_dataset, shipped_plans
from lmplay_tui.plan.dataset_specs import KINDS_SAID
from lmplay_tui.plan.reading import read_plan
from lmplay_tui.plan.tables import DatasetTable, StageKeys
from lmplay_tui.run import controls, events
from lmplay_tui.run.metric_names import FIGURES, METRICS, PLACE, RANK_FIELDS, SMOOTHED

PATH = Path(__file__).parent.parent / "docs/reference.md"

_PLAN_HELP = {
    "dataset": "a known name, a name of `[datasets]`, a hub name `owner/name`, or a local path",
    "datasets": "several of them, mixed",
    "epochs": "passes over the rows; may be fractional; default 1",
    "weights": "shares of a mixture, one a dataset; without them: in turn",
    "stopping": "`first_exhausted` (default) or `all_exhausted`",
    "seed": "of the mixture; default: the run's",
    "path": "hub name, or a local file or folder (see below)",
    "config": "configuration of the hub, or of a local folder's `README.md`",
    "revision": "the hub's branch, tag or commit",
    "split": "rows to train on: a split, a slice (`train[:50%]`, `train[10:20]`) or a sum of them; default `train`",
    "validation": "split or slice to validate on; without it a split that is called so, else rows held out",
    "text": "column of texts that are cut into samples",
    "title": "column of their titles: the first prompt is `Title: ...`",
    "prompt": "column of prompts; with `truth`",
    "system": "column that is put before the prompt",
    "truth": "column of what the model shall say",
    "messages": "column of conversations: each assistant turn is a truth, what precedes it the prompt",
    "saved_as": "its folder's name among datasets that LMPlay saved",
}

_FILES = """\
A path names a file or a folder, never a pattern; `~` is the home folder, as in every option that names a path and in \
`LMP_DATASETS`. Relative paths start at the plan's folder, then at the working folder. A link is read by the name \
that it bears. Kinds: {kinds}. UTF-8; UTF-16 and UTF-32 where the file begins with their mark. A compressed file is \
read also where its name does not say so.

Text files are converted once, into Arrow files under the user's cache folder (`lmplay-tui/datasets`; \
`XDG_CACHE_HOME` moves it); so is Parquet. An Arrow file is mapped as it lies. What was converted is known by the \
file's contents: every byte of up to 64 MB (1 MB where all files together are above 4 GB); of a larger file its ends, \
62 samples between them, path, size and time. What was not opened for 30 days is removed when the next file is \
converted.

- **Values** of text files are words as the file spells them: `001`, `1.50`, `1910-01-10`, `None` and `NA` stay so; \
only JSON's `null`, and the `NaN` without quotes that Python and pandas write for it, is a missing value. Lists and \
objects are kept as JSON text. Any row may have other keys and other kinds of values. Parquet and Arrow keep their \
types; a column whose types differ from file to file takes one that holds them all, or text, or is left out, which is \
said. A CSV of the hub is read so too, but for columns that its README declares as numbers or labels; JSON of the hub \
comes as the library `datasets` reads it, which spells numbers and dates its own way (`1.50` becomes `1.5`).
- **JSON**: one object a line, a list of objects, or objects one after the other, whatever the ending says. In a \
`.json`, one object that holds one list of objects stands for that list; one that holds lists of equal length, for \
their columns; one without lists, or with `messages`, for one row; any other is refused, naming its keys.
- **CSV**: the first record names the columns. Separated by `,` (`.tsv`: tabs), or by `;`, tabs or `|` where only \
that divides the header and the first records alike; which is said. A record of too many or too few fields is refused \
by its line. Where every line, its quotes counted as characters, has the header's number of fields and yet a quote is \
not closed in its line: of tabs, quotes stand as they are; else the quoted field is read, and the line is named.
- **.txt, .text, .md**: a row is a piece between lines that begin or end with `<|endoftext|>`, if there are such. Else \
a row is a paragraph, between blank lines (also of white space). A row is a line instead where at most one line in \
twenty is blank, and most lines have 200 characters or more, or 60 % of them (of ten at least) end as a sentence does, \
or there are a hundred (twenty, where none is blank) and they are not hard-wrapped: nine of ten break where the next \
word would not have fitted, or end a sentence; and, where no line is blank, a quarter begins in lower case, not half \
of them with one word, and a sentence begins within one of twenty. Which it was is said; a blank line between \
documents makes paragraphs.
- **Folders**: a `README.md` with `configs:` (as on the hub: `config_name`, `data_files`, `data_dir`, `default`) \
decides; its patterns start at `data_dir` and never lead out of the folder. Else all files below, hidden ones left \
out, in the order of their paths. A folder written by `datasets.save_to_disk` is read as it is.
- **Strangers** beside data never decide, and are named as left out. Of files of several kinds (and of `.json`) the \
first rows are looked at: a table is data if its columns are those that the plan names, or of a known form. Tables \
go before `.txt` (but for one called `train` or `test` where no table is), `.txt` before `.md`. A table whose only \
words are in a column of another name counts like `.txt`. No data beside others are: one or two `.json` of one \
object each; a table that names other files of the folder; a `.txt` of addresses; files called README, LICENSE, \
notes, metadata, config, log, todo and the like. Of kinds that are left, one is read: that which holds all but a \
tenth (compressed files count fourfold), or, of files that share their names, the first of JSON Lines, Parquet, \
Arrow, JSON, CSV; else the folder is refused with the list. Of a file and its compressed copy of the same name, the \
one that is not compressed is read. Of files of one kind, those that share no column that is \
read with most rows are left out.
- **Splits** by whole words of the file's name, else of its folders': `train`, `training`; `validation`, `valid`, \
`val`, `dev`; `test`, `testing`, `eval`, `evaluation`; `data/NAME-00000-of-00002...` by NAME; which is said. Where no \
name says train, only names that are such a word alone (and numbers) count. Files without such a word are `train`, or \
left out beside others that are. Each split may have its own kind.
"""


_DATA = """\
What each form of a row gives, character by character: [prompt-forms.md](prompt-forms.md).

When a dataset is opened, a line says which of its columns are read and which are left out, `dataset NAME: columns:
prompt = instruction + input, truth = output; left out: id`, and a line more each what else is to be known; so do
`check` and the `DatasetOpened` event. Once a start for each dataset.

- A dataset of which no row gives a sample is refused when it is opened: exit status 2.
- Rows without words give no sample. They are read and counted: in the line of the opening (of the first rows), in
  `check` (an estimate), in the curriculum (`empty`), in `data/rows_without_sample`, at the stage's end and in the
  statistics (`train_rows_without_sample`).
- A stage whose rows, all of them, gave no sample ends the run with exit status 3; the last checkpoint is intact. The
  stage counts as not begun: a resume reads its rows anew, and a changed plan may leave it out.
- Where less than 90 % of a dataset's text would reach a sample, by the first 20 batches, `check` and the stage's start
  warn (`TextLeftOut`), and the curriculum marks the stage's share with `!`. What of a row does not fit into its batch
  is left out unless `continue_rows = true`.
"""

_ACCURACY = """\
**Accuracy** is 1 - error rate, at least 0, a mean over truths: the edits between prediction and truth, divided by the
length of the truth. The truth itself says what is counted:

- words (`accuracy`), where spaces stand between them: word lists are compared.
- characters (`character_accuracy`), where words cannot be told by the spaces: of the truth's characters, white space
  left out, more than half are of writing without spaces (Chinese, Japanese, Thai, Khmer, ...: Unicode's line-breaking
  classes) or stand in a run of more than 40 without a space. A character is a Unicode code point; white space of any
  length counts as one.

So a truth of two kinds is measured once, and of several truths each measure has a mean of its own: texts of both kinds
make two curves. In the statistics files `character_accuracy` is a fifth column, where there is such a truth. The
predictions pane compares whole characters, with their marks and joiners.

"""

_CHECK = """\
`lmplay-tui check PLAN` opens every dataset and trains nothing. It prints a row a stage (rows, and estimates from the
first 20 batches), for each dataset what is read of it and its own first samples as the model sees them (`⏎` is a line
break, `<|endoftext|>` the end-of-text mark), and what was tried (`ok`, `NO`). `WARN` lines leave the exit status 0,
`NO` lines make it 2. With `--json` one object:

| name | what it is |
| --- | --- |
| `ok` | whether nothing stands against a run |
| `plan`, `model`, `device` | what would be trained, on what |
| `processes` | how many would train together (`--nproc`); times are estimated for one |
| `stages` | one object a stage, see below |
| `tried` | what was tried: `ok`, and `what` in a sentence |
| `warnings` | sentences: text that would be left out |
| `leak_guard` | training rows that carry an evaluated text, and the `sentence`; see "Rows to validate on" |
| `problems` | sentences: why a run would fail |
| `disk` | `needed_bytes` for checkpoints, `free_bytes` |

Of a stage, `problem` where it cannot be trained, else:

| name | what it is |
| --- | --- |
| `name`, `datasets`, `epochs` | as the plan says |
| `rows` | that will be read over all epochs |
| `rows_sampled` | of them, those that the estimates were made from |
| `rows_without_sample_estimate` | rows that will give no sample |
| `steps_estimate`, `tokens_estimate`, `seconds_estimate` | of the whole stage; seconds are null where not known |
| `text_shown` | share of the characters read that reached a sample |
| `longest`, `mean_tokens` | tokens of a sample |
| `samples` | the first samples in the order of training |
| `warnings` | of this stage |
| `data` | one object a dataset: `name`, `columns`, `notes`, `rows` (to train on), `rows_held_out`, `rows_sampled`, \
`rows_without_sample` (of those sampled), `text_shown`, `samples` (its own first ones) |

A sample has `row` (of the epoch as it is read; a dataset's own: of its rows to train on), `prompt`, `truth`, `tokens`,
and `ends`: whether the end-of-text mark closes its truth. An empty prompt is that mark.
"""

_HELD_OUT = """\
## Rows to validate on

A dataset with a split of its own for that (`validation`, `valid`, `val`, `dev`, `test`, `eval`) is validated on it,
unless the plan does not name it and it gives no sample (a test whose answers are kept secret), which is said. Of any
other, `--validation-split` of the rows are held out: for a share of 0.1 one of each ten rows, chosen by a hash
of the seed, the dataset and the ten; any share below 1 is met exactly.

The choice depends on a row's place in its whole file (in the whole split, of a dataset of the hub), so the same row
is on the same side in every stage: in slices, in configurations that share a file, in mixtures, and in `pydocs` as in
its parts. A dataset is told from others by what is read of its first row (the text, or the first answer), not by its
name or its other columns: a copy that was renamed, converted to another format or saved by `--save-datasets` holds out
the same rows. Rows that are appended to a file move none of those before them. A copy that was shuffled, filtered or
selected before it was saved has other places: which rows are held out of it is another choice, and only the leak guard
finds those that are trained elsewhere. A file of fewer rows than one in `--validation-split` may hold out none, and a
dataset's only row is never held out; where nothing is held out, that is said when the dataset is opened. A slice is cut
from the whole split, which is loaded; one that holds no row to train on is refused.

Rows that any stage of the plan validates on are trained in none: a split, or a slice of one, that another stage names
as its own, as a file, in a sum of splits or in a copy; and of a dataset with a split of its own those rows that another
stage holds out of the same file. Rows count as the same where their places are and where up to 16 of them, spread over
these places, say the same. How many are not trained is said when the dataset is opened; where none is left, the stage
is refused with a line that names both stages. This is computed for datasets on this machine and for several splits of
one dataset of the hub; rows that two different datasets of the hub share, or a file and one of the hub, are left to the
leak guard. So a change of the plan's datasets may change which rows an earlier stage trains.

Versions before chose by other rules. A run that they began goes on, with a warning: other rows are held out from there
on, so some that were validated on may be trained.

**Leak guard.** A row that is held out may still have a copy that is trained: a duplicate, a file that overlaps another,
a split that one stage trains and another validates on. So `check` and each run look at what the rows say, and tell in
one line how many training rows of each stage carry the text of a row that any stage validates or is evaluated on:

    leak guard: stage a trains 12 of 3,456 rows whose text is in an evaluation set (8 of stage a's own, 4 of stage b's)

The text of a row is its running text without the title, else prompt and truth together; white space does not count. A
row of several texts (a conversation) counts once. Of each stage the first 5,000 rows that it validates on are compared,
its evaluation set always among them, with 20,000 rows of one pass (or 32 million characters): all of a small stage; of
a larger one a sample spread over it, always the same, whose figure is then called "about". A run looks beside the
training, in a thread, and warns where it finds any; a stage whose data are not on this machine yet is looked at once it
is opened. Nothing that is trained changes. `check --json` has the figures under `leak_guard`: `rows_looked_at`,
`evaluation_rows`, `leaked`, `not_looked_at` and, by stage, `rows`, `rows_looked_at`, `leaked`, `of_evaluation_of` (of
the rows that leak, how many carry a text that each stage is evaluated on) and `is_estimate`.
"""


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [*lines, ""]


def option_rows() -> Iterable[tuple[str, ...]]:
    places = {"line": "command line", "run": "`[train]`", "stage": "`[train]`, stage"}
    for name in options.names():
        option = options.OPTIONS[name]
        is_off = option.default is None or option.default is False
        default = option.shown or ("off" if is_off else str(option.default))
        yield f"`{option.flag}`", option.help, default, places[option.where.value], option.on_resume.value


def event_rows(base: type[events.Event | controls.Command], module: object) -> Iterable[tuple[str, ...]]:
    for value in vars(module).values():
        if value in (base, events.Rewound):  # a line of its own form: {"resumed_from": step}
            continue
        if isinstance(value, type) and issubclass(value, base) and "." not in value.__qualname__:
            fields = ", ".join(f.name for f in dataclasses.fields(value) if f.name != "id")
            said = (value.__doc__ or "").split("\n")[0]
            yield f"`{value.__name__}`", "" if said.startswith(value.__name__ + "(") else said, fields


def text() -> str:
    lines = ["# Reference", "", "Made from the program's declarations by `python -m tests.reference`.", ""]
    lines += [
        "## Options", "",
        "Where: besides the command line, also in a plan's `[train]`, or in a stage too. "
        "On a resume: *fixed* must equal the checkpoint's; *kept* holds unless the command line "
        "or a changed plan gives another; *free* is said anew at each start.", "",
    ]  # fmt: skip
    lines += table(("option", "what it does", "default", "where", "resume"), option_rows())
    lines += ["## Plan keys", "", "Of a stage, beside the options that may stand in one:", ""]
    lines += table(("key", "what it says"), ((f"`{k}`", _PLAN_HELP[k]) for k in StageKeys.model_fields))
    lines += ["Of a dataset in `[datasets.NAME]`:", ""]
    lines += table(("key", "what it says"), ((f"`{k}`", _PLAN_HELP[k]) for k in DatasetTable.model_fields))
    lines += ["## Files and folders of your own", "", *_FILES.format(kinds=KINDS_SAID).splitlines(), ""]
    lines += [_HELD_OUT]
    lines += ["## Known datasets", ""]
    lines += table(("name", "where it is", "configuration"), dataset_rows())
    lines += ["`wikipedia:es` is another language's Wikipedia, `wikitext:2` the small WikiText.", ""]
    lines += ["## What is read of the data", "", *_DATA.splitlines(), ""]
    lines += ["## What check says", "", *_CHECK.splitlines(), ""]
    lines += ["## Shipped plans", ""]
    lines += table(("plan", "stages", "purpose"), plan_rows())
    lines += [
        "## metrics.jsonl", "",
        "One object per `--log-interval` steps, and one for each validation and evaluation at a step that has no such "
        "object: it holds the scores alone. So every `Validated` and `Evaluated` of `events.jsonl` stands here at its "
        "own step and stage. Where a stage ends, its last steps and their evaluation are one object. A step may have "
        "two objects: a column of one is then empty in the other, or the model was validated twice there.", "",
    ]  # fmt: skip
    lines += table(("name", "what it is"), ((f"`{k}`", v) for k, v in {**PLACE, **METRICS}.items()))
    lines += _ACCURACY.splitlines()
    lines += [
        "## Figures", "",
        "What a screen, a command or a picture calls by one of these names is the same number for the same step.", "",
    ]  # fmt: skip
    lines += table(("name", "what it is"), FIGURES.items())
    lines += [
        "The curves' smoothing (`m`) is the mean over the last so many steps; a line of the log weighs as many as it "
        "stands for (`steps`; in journals of older versions: the steps since the line before), be it live, attached or "
        "resumed. Smoothed are " + ", ".join(f"`{name}`" for name in SMOOTHED) + "; all others are drawn as they are, "
        "and their legend names the newest value.", "",
    ]  # fmt: skip
    lines += [
        "## ranks.json", "",
        "A run of several processes says here each two seconds how each of them is, as `ranks`; `straggler` is the one "
        "whose own work took more than 1.2 times the median of the others in 9 of the last 10 log intervals (`slower`: "
        "by which share; `more`: how many besides), or null. `status --json` has both.", "",
    ]  # fmt: skip
    lines += table(("field", "what it is"), ((f"`{k}`", v) for k, v in RANK_FIELDS.items()))
    lines += ["## Events", "", "Those in `events.jsonl` carry `time` and `event` besides their fields.", ""]
    lines += table(("event", "when", "fields"), event_rows(events.Event, events))
    lines += ["## Commands to a run", ""]
    lines += table(("command", "what it does", "fields"), event_rows(controls.Command, controls))
    return "\n".join(lines)


def dataset_rows() -> Iterable[tuple[str, ...]]:
    for name in KNOWN_NAMES:
        spec = known_dataset(name)
        assert spec is not None
        yield f"`{name}`", spec.path, spec.config or ""


def plan_rows() -> Iterable[tuple[str, ...]]:
    for name in shipped_plans():
        plan = read_plan(name)
        yield f"`{name}`", ", ".join(stage.name for stage in plan.stages), " ".join(plan.purpose.split())


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8", newline="\n")
