"""Writes docs/reference.md from the declarations: `python -m tests.reference`. A test compares."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from lmplay_tui import options
from lmplay_tui.plan.builtin import KNOWN_NAMES, known_dataset, shipped_plans
from lmplay_tui.plan.keys import DATASET_KEYS, STAGE_KEYS
from lmplay_tui.plan.reading import read_plan
from lmplay_tui.run import controls, events
from lmplay_tui.run.metric_names import METRICS, PLACE

PATH = Path(__file__).parent.parent / "docs/reference.md"

_PLAN_HELP = {
    "dataset": "a known name, a name of `[datasets]`, a hub name `owner/name`, or a local path",
    "datasets": "several of them, mixed",
    "epochs": "passes over the rows; may be fractional; default 1",
    "weights": "shares of a mixture, one a dataset; without them: in turn",
    "stopping": "`first_exhausted` (default) or `all_exhausted`",
    "seed": "of the mixture; default: the run's",
    "path": "hub name, or a local folder, `.jsonl`, `.json`, `.csv`, `.parquet` or `.txt` file",
    "config": "the hub's configuration",
    "revision": "the hub's branch, tag or commit",
    "split": "rows to train on; default `train`",
    "validation": "split to validate on; without it one that is called so, else rows held out",
    "text": "column of texts that are cut into samples",
    "title": "column of their titles: the first prompt is `Title: ...`",
    "prompt": "column of prompts; with `truth`",
    "system": "column that is put before the prompt",
    "truth": "column of what the model shall say",
    "messages": "column of conversations: each assistant turn is a truth, what precedes it the prompt",
    "saved_as": "its folder's name among datasets that LMPlay saved",
}


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

_CHECK = """\
`lmplay-tui check PLAN` opens every dataset and trains nothing. It prints a row a stage (rows, and estimates from the
first 20 batches), for each dataset what is read of it and its own first samples as the model sees them (`⏎` is a line
break, `<|endoftext|>` the end-of-text mark), and what was tried (`ok`, `NO`). `WARN` lines leave the exit status 0,
`NO` lines make it 2. With `--json` one object:

| name | what it is |
| --- | --- |
| `ok` | whether nothing stands against a run |
| `plan`, `model`, `device` | what would be trained, on what |
| `stages` | one object a stage, see below |
| `tried` | what was tried: `ok`, and `what` in a sentence |
| `warnings` | sentences: text that would be left out |
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


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [*lines, ""]


def option_rows() -> Iterable[tuple[str, ...]]:
    places = {"line": "command line", "run": "`[train]`", "stage": "`[train]`, stage"}
    for name in options.names():
        field = options.TrainOptions.model_fields[name]
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        is_off = field.default is None or field.default is False
        default = extra["shown_default"] or ("off" if is_off else str(field.default))
        where, kept = options.where(name), options.on_resume(name)
        yield f"`{options.flag(name)}`", str(field.description), str(default), places[where.value], kept.value


def event_rows(base: type[events.Event | controls.Command], module: object) -> Iterable[tuple[str, ...]]:
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, base) and value is not base and "." not in value.__qualname__:
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
    lines += table(("key", "what it says"), ((f"`{k}`", _PLAN_HELP[k]) for k in STAGE_KEYS))
    lines += ["Of a dataset in `[datasets.NAME]`:", ""]
    lines += table(("key", "what it says"), ((f"`{k}`", _PLAN_HELP[k]) for k in DATASET_KEYS))
    lines += ["## Known datasets", ""]
    lines += table(("name", "where it is", "configuration"), dataset_rows())
    lines += ["`wikipedia:es` is another language's Wikipedia, `wikitext:2` the small WikiText.", ""]
    lines += ["## What is read of the data", "", *_DATA.splitlines(), ""]
    lines += ["## What check says", "", *_CHECK.splitlines(), ""]
    lines += ["## Shipped plans", ""]
    lines += table(("plan", "stages", "purpose"), plan_rows())
    lines += ["## metrics.jsonl", "", "One object per `--log-interval` steps.", ""]
    lines += table(("name", "what it is"), ((f"`{k}`", v) for k, v in {**PLACE, **METRICS}.items()))
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
