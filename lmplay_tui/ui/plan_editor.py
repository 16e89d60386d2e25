"""The dashboard's part of the plan editor: which plan holds, what a change would do, applying and saving it.

A plan's file, looked at some times a second: has another hand changed it?

Finishing, skipping, repeating and extending a stage: changes of the plan's text, comments kept.
"""

import math
import os
import re
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tomlkit
from textual import on

from lmplay_tui.background import BackgroundCall
from lmplay_tui.files import write_whole
from lmplay_tui.plan.builtin import shipped_folder
from lmplay_tui.plan.editing import rounded_epochs, stage_tables
from lmplay_tui.plan.problems import PlanError, Problem
from lmplay_tui.plan.reading import parse_plan, problems_of
from lmplay_tui.plan.schema import DatasetSpec
from lmplay_tui.run.controls import ChangePlan
from lmplay_tui.run.view import StageView
from lmplay_tui.text import one_line
from lmplay_tui.ui.messages import PaneAsked, PlanApplied, PlanEdited, SavePlanAsked, StageAsked, StageChange
from lmplay_tui.ui.plan_effect import effect_rows, refusals
from lmplay_tui.ui.screens import dialogs
from lmplay_tui.ui.screens.dashboard import Commanding
from lmplay_tui.ui.widgets.plan_pane import PlanPane

_Stamp = tuple[int, int]
_Seen = tuple[_Stamp, str] | Literal[False]  # another stamp and the text; False: it is as it was, or not there


def _read(path: Path, known: _Stamp | None) -> _Seen:
    """In a thread: what the file holds, where it is not as it was."""
    try:
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        return stamp != known and (stamp, path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return False


class PlanFile:
    """What a file holds, read only when it has changed."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.text: str | None = None  # as last read; None while it could not be
        self._stamp: _Stamp | None = None
        self._looks = 0  # since it last changed
        self._is_news = False
        self._asked: BackgroundCall[_Seen] | None = None

    def look(self, path: Path | None) -> None:
        """Read the file at `path` if it is another one, or has changed since the last look; beside the screen."""
        if path != self.path:
            self.path, self.text, self._stamp, self._is_news, self._asked = path, None, None, False, None
        if path is None:
            return
        self._asked = self._asked or BackgroundCall(partial(_read, path, self._stamp))
        seen = self._asked.poll()
        if seen is None:
            return
        self._asked = None
        self._looks += 1
        if seen:
            stamp, text = seen
            self._is_news = self._stamp is not None and text != self.text
            self.text, self._stamp, self._looks = text, stamp, 0

    def news(self) -> str | None:
        """The new text of a file that has changed, once.

        Not at the first look: the run writes its own file before it says that its plan has changed.
        """
        if not self._is_news or self._looks == 0:
            return None
        self._is_news = False
        return self.text


_NUMBERED = re.compile(r"-\d+$")


def changed_plan(
    text: str, stage: StageView, change: StageChange, *,
    epochs: float = 1.0, rows_per_s: float = 0, begun: Collection[str] = (),
) -> str:  # fmt: skip
    """The plan with one stage changed. `KeyError` if the text has no such stage, `ValueError` if it cannot be.

    `epochs`: how many more than the text says, for `extend`. `begun`: the stages that have begun; they stay before all
    others, so `repeat` puts the copy behind them. `finish`: the stage ends some seconds from now, at the rate given,
    because it may not end before what it has read when the change arrives.
    """
    document = tomlkit.parse(text)
    tables = stage_tables(document)
    table = tables[stage.name]
    if change == "skip":
        del tables[stage.name]
    elif change == "extend":
        table["epochs"] = rounded_epochs(float(table.get("epochs", 1)) + epochs)
    elif change == "repeat":
        last = [name for name in tables if name in begun or name == stage.name][-1]
        _insert_after(tables, last, _free_name(stage.name, tables), table)
    else:
        table["epochs"] = _end_soon(stage, rows_per_s)
    return tomlkit.dumps(document)


def _end_soon(stage: StageView, rows_per_s: float) -> float:
    if not stage.rows_total:
        return stage.epochs
    per_epoch = stage.rows_total / stage.epochs
    soon = stage.rows_done + max(math.ceil(3 * rows_per_s), 1)
    return min(math.ceil(soon / per_epoch * 1e6) / 1e6, stage.epochs)


def _free_name(name: str, tables: Any) -> str:
    stem = _NUMBERED.sub("", name)[:36]
    return next(f"{stem}-{i}" for i in range(2, 1000) if f"{stem}-{i}" not in tables)


def _insert_after(tables: Any, name: str, new_name: str, table: Any) -> None:
    """Put a copy of `table` behind the stage called `name`; the stages that follow keep their order."""
    copy = tomlkit.table()
    for key, value in table.unwrap().items():
        copy.add(key, value)
    names = list(tables)
    later = [(other, tables[other]) for other in names[names.index(name) + 1 :] if isinstance(tables[other], dict)]
    for other, _ in later:
        del tables[other]
    tables[new_name] = copy
    for other, kept in later:
        tables[other] = kept


class Planning(Commanding):
    """Keeps the editor and the run's plan together."""

    def __init__(self) -> None:
        super().__init__()
        self._holding = ""  # the plan's text that the run has
        self._files = [PlanFile(), PlanFile()]  # the run's own, and the one that it was given with

    @property
    def composed(self) -> bool:
        """Whether its panes are there: not yet when it was just pushed, never where the app was left just then."""
        return self.is_mounted and bool(self.children)

    @property
    def plan_folder(self) -> Path:
        """Where relative paths of the plan start: as the run says; before it has spoken, beside its model."""
        if self.view.plan_folder:
            return Path(self.view.plan_folder)
        return self.source.folder.model.parent if self.source.folder is not None else Path.cwd()

    @property
    def unsaved_plan(self) -> str | None:
        """What was typed and has been neither applied nor saved."""
        if not self.composed:
            return None
        pane = self.query_one(PlanPane)
        return pane.text if pane.unsaved else None

    def check_plan(self, text: str) -> Sequence[Problem]:
        """All that is wrong with a plan's text, and why the run would refuse it."""
        problems = problems_of(text, file="plan", folder=self.plan_folder)
        return problems or refusals(self._holding, text, self.view, self.plan_folder)

    def follow_plan(self) -> None:
        """Take over the run's plan when it is known and whenever it changes; notice when its files change."""
        pane = self.query_one(PlanPane)
        pane.locked = self.view.over
        own, given = self._files
        own.look(self.source.folder.plan if self.source.folder is not None else None)
        given.look(Path(self.view.plan_file) if self.view.plan_file else None)
        # Before the run has spoken, and of one that never has said its plan, the file has to tell.
        holding = self.view.plan_text or own.text
        if holding is not None and holding != self._holding:
            first, self._holding = not self._holding, holding
            if not pane.load(holding) and not first:
                self.notify("the run's plan has changed; your text stays as it is", severity="warning", timeout=8)
        if self.view.plan_text and self.view.state in ("running", "paused"):
            for file in (own, given):
                self._tell_of_file(file, pane)

    def _tell_of_file(self, file: "PlanFile", pane: PlanPane) -> None:
        """Another hand has changed a file of the plan: what it holds can be applied, like what is typed."""
        text = file.news()
        if text is None or file.path is None or text in (self._holding, pane.text):
            return
        taken = pane.offer(text)
        said = "the editor shows it, ctrl+s applies it" if taken else "your text stays as it is; f9 takes in the file's"
        self.notify(f"{one_line(file.path, 200)} has changed: {said}", severity="warning", timeout=8, markup=False)

    @on(PlanEdited)
    def _plan_edited(self, message: PlanEdited) -> None:
        price = self.options.get("price_per_hour")
        pane = self.query_one(PlanPane)
        rows = effect_rows(self._holding, message.text, self.view, self.plan_folder, price, width=pane.notes_width)
        pane.show_effect(rows)

    @on(PlanApplied)
    def _plan_applied(self, message: PlanApplied) -> None:
        self._tell(ChangePlan(message.text), "the plan changes with the next batch")

    @on(StageAsked)
    def _stage_asked(self, message: StageAsked) -> None:
        stage = self.view.stages[message.index]

        def answered(change: StageChange | None) -> None:
            if change == "extend":
                self.app.push_screen(dialogs.extend_dialog(stage), extended)
            elif change is not None:
                self._change_stage(stage, change)

        def extended(answers: list[str] | None) -> None:
            if answers is not None:
                self._change_stage(stage, "extend", float(answers[0]))

        if self.view.over:
            self.notify(f"the run is {self.view.state}", severity="warning", markup=False)
        else:
            self.app.push_screen(dialogs.stage_dialog(stage), answered)

    def _change_stage(self, stage: StageView, change: StageChange, epochs: float = 1.0) -> None:
        """Put the changed plan into the editor, where its effect is seen before it is applied."""

        pane = self.query_one(PlanPane)
        rate = self.view.pace.rows_per_s
        rows_per_s = 0.0 if math.isnan(rate) else rate
        try:
            begun = [each.name for each in self.view.stages if each.begun]
            text = changed_plan(pane.text, stage, change, epochs=epochs, rows_per_s=rows_per_s, begun=begun)
        except (KeyError, ValueError, TypeError, AttributeError):  # no such stage, no plan, no number, no table
            self.notify("the plan in the editor cannot be changed like that; mend it first", severity="error")
            return
        self.post_message(PaneAsked(4))
        pane.replace_text(text)

    @on(SavePlanAsked)
    def _save_plan_asked(self, message: SavePlanAsked) -> None:
        def answered(answers: list[str] | None) -> None:
            if answers is None:
                return
            try:
                path = new_plan_path(answers[0])
                write_whole(path, message.text.encode("utf-8"))
            except (OSError, ValueError) as error:
                said = error.strerror if isinstance(error, OSError) else error
                self.notify(
                    f"not saved: {one_line(answers[0])}: {one_line(said)}; F2 tries again",
                    severity="error",
                    markup=False,
                )
                return
            self.query_one(PlanPane).saved(message.text)
            self.notify(f"saved {one_line(path)}", markup=False)
            if _needs_its_place(message.text, here, path.absolute().parent):
                said = f"its datasets are found from {one_line(here)}, not from there: write their paths whole"
                self.notify(said, severity="warning", timeout=8, markup=False)

        here = self.plan_folder
        place = str((_place_beside(here) if self.view.plan_folder else Path()) / "my_plan.toml")
        self.app.push_screen(dialogs.save_plan_dialog(place, _wrong_with_name), answered)


def _place_beside(plan_folder: Path) -> Path:
    """Where to propose to save a plan: where its relative paths start, if that is a place for a user's files."""
    here = Path.cwd()
    if plan_folder == shipped_folder() or not os.access(plan_folder, os.W_OK):
        return Path()
    return plan_folder.relative_to(here) if plan_folder.is_relative_to(here) else plan_folder


def _needs_its_place(text: str, here: Path, there: Path) -> bool:
    """Whether a plan means other datasets, or none, in another folder. Of a text that is no plan nobody can say."""

    def datasets(folder: Path) -> list[tuple[DatasetSpec, ...]]:
        return [stage.datasets for stage in parse_plan(text, name="plan", file="plan", folder=folder).stages]

    try:
        meant = datasets(here)
    except PlanError:
        return False
    try:
        return datasets(there) != meant
    except PlanError:
        return True


def new_plan_path(typed: str) -> Path:
    """The file that a typed name means: `~` is home, `.toml` is added. Raises `ValueError`, or `OSError`."""
    typed = typed.strip()
    try:
        path = Path(typed).expanduser()
    except RuntimeError:
        raise ValueError("there is no such user") from None
    if path.name in ("", "..") or typed.endswith("/"):
        raise ValueError("must be a file's name, not a folder's")
    if path.suffix != ".toml":
        path = path.with_name(path.name + ".toml")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {one_line(path.parent)}")
    if path.exists():
        raise ValueError(f"{one_line(path.name)} is there already; choose another name")
    return path


def _wrong_with_name(typed: str) -> str | None:
    try:
        new_plan_path(typed)
    except OSError as error:
        return error.strerror or one_line(error)
    except ValueError as error:
        return str(error)
    return None
