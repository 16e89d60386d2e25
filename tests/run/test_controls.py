"""The trainer's mailbox while a signal handler leaves commands in it: the handler may run between any two instructions
of the thread that takes them out."""

import itertools
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest

from lmplay_tui.run import controls as asked
from lmplay_tui.run.controls import Command, Controls, HandOver, Pause, SaveNow, Stop

USES: dict[str, Callable[[Controls], object]] = {
    "send": lambda controls: controls.send(Stop(id="own")),
    "wants_stop": Controls.wants_stop,
    "decide": Controls.decide,
    "stay": Controls.stay,
    "take_waiting": Controls.take_waiting,
    "left_over": Controls.left_over,
}


def interrupted(work: Callable[[], object], number: int, handler: Callable[[], None]) -> tuple[object, bool]:
    """What `work` gives where `handler` runs before its `number`-th instruction in the mailbox's module.

    And whether it had as many.
    """
    left = number

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != asked.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                handler()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        given = work()
    finally:
        sys.settrace(before)
    return given, left <= 0


@pytest.mark.timeout(20)  # a mailbox with a lock would wait for itself
@pytest.mark.parametrize("sent", [Pause(id="sent"), Stop(id="sent"), HandOver(id="sent")], ids=["pause", "stop", "go"])
@pytest.mark.parametrize("use", USES)
def test_what_a_signal_handler_sends_arrives_once(use: str, sent: Command) -> None:
    for number in itertools.count(1):
        controls = Controls()
        controls.sources.append(list)
        controls.send(SaveNow(id="save"))
        controls.send(HandOver(id="over"))
        given, has_come = interrupted(partial(USES[use], controls), number, partial(controls.send, sent))
        if not has_come:
            break
        taken: list[Command] = given if isinstance(given, list) else []
        if isinstance(sent, Stop) and sent not in taken:
            assert controls.stop_now, "a stop holds"
        arrived = sorted(command.id for command in (*taken, *controls.left_over()))
        assert arrived == sorted(["save", "over", "sent", *(["own"] if use == "send" else [])])
    assert number > 5
