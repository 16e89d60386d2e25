"""Other runs: look at one as a ghost behind our curves."""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical

from lmplay_tui.background import BackgroundCall
from lmplay_tui.ui.run_list import RunEntry, find_runs, run_table
from lmplay_tui.ui.screens.dialogs import Dialog
from lmplay_tui.ui.tty.patches import in_background, set_titles
from lmplay_tui.ui.widgets.picker import Picker


class Runs(Dialog[str]):
    """Gives the checkpoint's path of the run to draw as a ghost, "" for none, None to leave all as it is."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,r,q", "dismiss_none", "back"),
        Binding("n", "no_ghost", "no ghost"),
    ]

    def __init__(self, out_dir: str | None, own: str) -> None:
        """`own`: the name of the run that is on the screen."""
        super().__init__()
        self._own = own
        self._entries: Sequence[RunEntry] = ()
        self._asked = BackgroundCall(partial(find_runs, out_dir))

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog", classes="-wide") as box:
            set_titles(box, "runs · enter draws one as a ghost", "n no ghost · esc back")
            yield Picker(id="runs-list", empty="no other run in this folder or in the output folder")

    def on_mount(self) -> None:
        picker = self.query_one(Picker)
        picker.styles.height = 1
        picker.focus()
        if (found := self._asked.poll()) is not None:
            self._show(found)
        else:
            picker.show_rows([((" reading the folders", "dim"),)])
            in_background(self.app, lambda: partial(self._show, self._asked.result()))

    def _show(self, found: Sequence[RunEntry]) -> None:
        if self.is_attached:  # else it was left meanwhile
            self._entries = [entry for entry in found if entry.folder.name != self._own]
            self.query_one(Picker).styles.height = min(max(len(self._entries), 1), 20)
            self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        picker = self.query_one(Picker)
        picker.show_items(run_table(self._entries, picker.room.width - 3)[1])

    @on(Picker.Picked)
    def _picked(self, message: Picker.Picked) -> None:
        self.answer(str(self._entries[message.index].folder.model))

    def action_no_ghost(self) -> None:
        self.answer("")

    def action_dismiss_none(self) -> None:
        self.answer(None)
