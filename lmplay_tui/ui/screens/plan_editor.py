"""The dashboard's plan editor: it follows the run's plan and its files, shows what an edit would do, applies and saves.

Three parts: the controller, which the dashboard's screen owns; a watch on the plan's files; changes of a stage by key.
"""

import math
import os
import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

from textual.screen import Screen

from lmplay_tui.background import BackgroundCall
from lmplay_tui.errors import EXIT_USAGE
from lmplay_tui.files import Folder, open_given, write_whole
from lmplay_tui.plan.builtin import shipped_folder
from lmplay_tui.plan.problems import Form, PlanError, Problem
from lmplay_tui.plan.reading import MAX_BYTES, failure_problems, parse_plan, plan_path, problems_of
from lmplay_tui.plan.schema import DatasetSpec
from lmplay_tui.run.controls import ChangePlan
from lmplay_tui.run.events import RunFailed
from lmplay_tui.run.status import StageView
from lmplay_tui.run.view import RunView
from lmplay_tui.text import one_line
from lmplay_tui.ui.messages import PaneAsked, StageChange
from lmplay_tui.ui.screens import dialogs
from lmplay_tui.ui.source import RunSource
from lmplay_tui.ui.widgets.plan_pane import PlanPane


class PlanEditor:
    """Keeps the plan pane and the run's plan together; the screen that owns it hands it the pane's messages."""

    def __init__(
        self,
        screen: Screen[None],
        source: RunSource,
        send: Callable[[ChangePlan, str], None],
        *,
        price_per_hour: float | None,
        asked: str | None = None,
    ) -> None:
        """`send`: gives the run a command, with the sentence that says so. `asked`: the plan that the start names."""
        self._screen = screen
        self._source = source
        self._send = send
        self._price_per_hour = price_per_hour
        self._asked = None if asked is None else plan_path(asked)
        self._failure: RunFailed | None = None  # whose problems stand in the pane
        self._run_plan = ""  # the text of the plan that the run has
        self._files = [PlanFile(_open_own), PlanFile()]  # the run's own, and the one that it was given with

    @property
    def _pane(self) -> PlanPane:
        return self._screen.query_one(PlanPane)

    @property
    def _view(self) -> RunView:
        return self._source.view

    @property
    def folder(self) -> Path:
        """Where relative paths of the plan start: as the run's first event says; until then, beside its model."""
        if self._view.plan_folder:
            return Path(self._view.plan_folder)
        if self._asked is not None:
            return self._asked.parent
        return self._source.folder.model.parent if self._source.folder is not None else Path.cwd()

    @property
    def unsaved(self) -> str | None:
        """What was typed and has been neither applied nor saved."""
        return self._pane.text if self._pane.unsaved else None

    def check(self, text: str) -> Sequence[Problem]:
        """All that is wrong with a plan's text, and why the run would refuse it."""
        from lmplay_tui.ui.screens.plan_effect import (
            refusals,  # here, as below: for an edit alone, behind the first frame
        )

        problems = problems_of(text, file="plan", folder=self.folder)
        return problems or refusals(self._run_plan, text, self._view, self.folder)

    # ---- the run's plan and its files

    def follow_run(self) -> None:
        """Take over the run's plan when it is known and whenever it changes; notice when its files change."""
        pane, view = self._pane, self._view
        pane.locked = view.over
        own, given = self._files
        own.look(self._source.folder.plan if self._source.folder is not None else None)
        # A journal may come from another hand and name any file: it is looked at only while the run itself says so.
        trains = self._source.alive and view.state in ("running", "paused")
        given.look(Path(view.plan_file) if trains and view.plan_file else self._asked)
        # Until the run's first event, and for a run that never recorded its plan, the file is what there is.
        failed_plan = given.text if isinstance(view.result, RunFailed) else None
        text = view.plan_text or failed_plan or own.text
        if text is not None and text != self._run_plan:
            is_first, self._run_plan = not self._run_plan, text
            if not pane.load(text) and not is_first:
                said = "the run's plan has changed; your text stays as it is"
                self._screen.notify(said, severity="warning", timeout=8, markup=False)
        if view.plan_text and trains:
            for file in (own, given):
                self._offer_change_of(file)

    def shows_new_failure(self) -> bool:
        """Whether a start has failed by its plan, which the pane now shows with the problems at their lines."""
        result, text = self._view.result, self._run_plan
        if not isinstance(result, RunFailed) or result is self._failure or not text or result.exit_code != EXIT_USAGE:
            return False
        self._failure = result
        file = self._asked if self._asked is not None else Path("plan.toml")
        form: Form = "json" if file.suffix == ".json" else "toml"
        problems = failure_problems(result.message, text, file="plan", form=form)
        is_of_plan = any(problem.line for problem in problems)
        if is_of_plan:
            self._pane.show_failure(problems)
        return is_of_plan

    def _offer_change_of(self, file: "PlanFile") -> None:
        """A file of the plan was changed from outside: what it holds can be applied, like what is typed."""
        text = file.news()
        if text is None or file.path is None or text in (self._run_plan, self._pane.text):
            return
        is_taken = self._pane.offer(text)
        said = (
            "the editor shows it, ctrl+s applies it" if is_taken else "your text stays as it is; f9 takes in the file's"
        )
        said = f"{one_line(file.path, 200)} has changed: {said}"
        self._screen.notify(said, severity="warning", timeout=8, markup=False)

    # ---- what the pane asks for

    def show_effect(self, text: str) -> None:
        """Show under the text what applying it would change."""
        from lmplay_tui.ui.screens.plan_effect import effect_rows

        pane = self._pane
        pane.show_effect(
            effect_rows(self._run_plan, text, self._view, self.folder, self._price_per_hour, width=pane.notes_width)
        )

    def apply(self, text: str) -> None:
        """Give the run this plan."""
        self._send(ChangePlan(text), "the plan changes with the next batch")

    def ask_stage_change(self, index: int) -> None:
        """Ask what is to become of a stage, and put the changed plan into the editor."""
        stage = self._view.stages[index]

        def answered(change: StageChange | None) -> None:
            if change == "extend":
                self._screen.app.push_screen(dialogs.extend_dialog(stage), extended)
            elif change is not None:
                self._change_stage(stage, change)

        def extended(answers: list[str] | None) -> None:
            if answers is not None:
                self._change_stage(stage, "extend", float(answers[0]))

        if self._view.over:
            self._screen.notify(f"the run is {self._view.state}", severity="warning", markup=False)
        else:
            self._screen.app.push_screen(dialogs.stage_dialog(stage), answered)

    def _change_stage(self, stage: StageView, change: StageChange, epochs: float = 1.0) -> None:
        """Put the changed plan into the editor, where its effect is seen before it is applied."""
        pane = self._pane
        rate = self._view.pace.rows_per_s
        rows_per_s = 0.0 if math.isnan(rate) else rate
        try:
            begun = [each.name for each in self._view.stages if each.begun]
            text = changed_plan(pane.text, stage, change, epochs=epochs, rows_per_s=rows_per_s, begun=begun)
        # No such stage, no plan, no number, no table; numbers that a journal may hold, as no epochs at all.
        except (KeyError, ValueError, TypeError, AttributeError, ArithmeticError):
            said = "the plan in the editor cannot be changed like that; mend it first"
            self._screen.notify(said, severity="error", markup=False)
            return
        self._screen.post_message(PaneAsked("plan"))
        pane.replace_text(text)

    def ask_file_to_save(self, text: str) -> None:
        """Ask for a new file, and write the text there."""
        here = self.folder

        def answered(answers: list[str] | None) -> None:
            if answers is not None:
                self._save(text, answers[0], here)

        place = str((_place_beside(here) if self._view.plan_folder else Path()) / "my_plan.toml")
        self._screen.app.push_screen(dialogs.save_plan_dialog(place, wrong_with_name), answered)

    def _save(self, text: str, typed: str, here: Path) -> None:
        try:
            path = new_plan_path(typed)
            write_whole(path, text.encode("utf-8"))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            said = f"not saved: {one_line(typed)}: {one_line(why)}; F2 tries again"
            self._screen.notify(said, severity="error", markup=False)
            return
        self._pane.saved(text)
        self._screen.notify(f"saved {one_line(path)}", markup=False)
        if _needs_its_place(text, here, path.absolute().parent):
            said = f"its datasets are found from {one_line(here)}, not from there: write their paths whole"
            self._screen.notify(said, severity="warning", timeout=8, markup=False)


def _place_beside(plan_folder: Path) -> Path:
    """Where to propose to save a plan: where its relative paths start, if that is a place for a user's files."""
    if plan_folder == shipped_folder() or not os.access(plan_folder, os.W_OK):
        return Path()
    try:
        here = Path.cwd()
    except OSError:  # the working folder is gone
        return plan_folder
    return plan_folder.relative_to(here) if plan_folder.is_relative_to(here) else plan_folder


def _needs_its_place(text: str, here: Path, there: Path) -> bool:
    """Whether a plan means other datasets, or none, in another folder; not asked of a text that is no plan."""

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


def wrong_with_name(typed: str) -> str | None:
    try:
        new_plan_path(typed)
    except OSError as error:
        return error.strerror or one_line(error)
    except ValueError as error:
        return str(error)
    return None


_Stamp = tuple[int, int]
_Seen = tuple[_Stamp, str] | Literal[False]  # another stamp and the text; False: it is as it was, or not there


def _open_own(path: Path) -> BinaryIO:
    """A file in a run's folder, which may come from another hand."""
    return os.fdopen(Folder(path.parent).open(path.name), "rb")


def _read(path: Path, known: _Stamp | None, opened: Callable[[Path], BinaryIO] = open_given) -> _Seen:
    """In a thread: what the file holds, where it is not as it was; of a file too large for a plan its beginning."""
    try:
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        if stamp == known:
            return False
        with opened(path) as file:
            return stamp, file.read(MAX_BYTES + 1).decode("utf-8", errors="replace")
    except OSError:
        return False


class PlanFile:
    """What a file holds, read only when it has changed."""

    def __init__(self, opened: Callable[[Path], BinaryIO] = open_given) -> None:
        self._opened = opened
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
        self._asked = self._asked or BackgroundCall(partial(_read, path, self._stamp, self._opened))
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
    import tomlkit  # for a change alone: a run's first frame waits for none

    from lmplay_tui.plan.editing import rounded_epochs, stage_tables

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
    import tomlkit

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
