"""`lmp_trainer`: train headless. `lmplay-tui` without a command (commands/dashboard.py) reads its line by `parse`, and
trains by `run_headless` where it shows no screen."""

import argparse
import gc
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, tzinfo
from types import FrameType
from typing import TYPE_CHECKING, Any

from lmplay_tui.command_line import add_options, checked_options, new_parser, read_line
from lmplay_tui.commands.output import Output, to_stderr
from lmplay_tui.commands.terminal_tables import cells_in, cut, line_width
from lmplay_tui.errors import EXIT_LEFT_AT_ONCE, EXIT_OK, EXIT_TRAINING, EXIT_USAGE, UserError
from lmplay_tui.formats import format_clock, format_cost, format_duration, format_loss, format_rate, time_zone
from lmplay_tui.options import Launch, TrainOptions
from lmplay_tui.process import Interrupts, leave, typed
from lmplay_tui.run import events
from lmplay_tui.run.controls import Controls, SaveNow, Stop
from lmplay_tui.run.folder import LOCK_FROM, utc_now
from lmplay_tui.run.journal import encode, number
from lmplay_tui.run.metric_names import OF_STEPS
from lmplay_tui.run.sentences import sentence_of, sentences_of
from lmplay_tui.text import one_line, printable

if TYPE_CHECKING:
    from lmplay_tui.train.process_group import Place, ProcessGroup

ORPHAN_STAYS_S = 10.0  # rank 0 may be of another machine, where nothing has happened
SHOWN_CHARACTERS = 400  # of a prompt, a truth, a prediction, where no terminal's width says how many
NARROW = 100  # cells; a terminal with fewer gets the figures of a line closer together


DESCRIPTION = """\
Train a language model along a plan of stages, headless.

A checkpoint that is there already is resumed: `lmp_trainer --model FILE` alone goes on exactly as it was.
Ctrl+C stops and saves; the next start goes on at the next step."""
EPILOG = "Plans: default, wikitext3, tinystories, fineweb, full, demo and curriculum_demo (offline), or a file."


def main(arguments: Sequence[str], prog: str) -> int:
    """`lmp_trainer`. Raises `UserError`."""
    return run_headless(parse(arguments, prog, DESCRIPTION, EPILOG))


def parser(prog: str, description: str = DESCRIPTION, epilog: str = EPILOG) -> argparse.ArgumentParser:
    """The command line of the trainer."""
    made = new_parser(prog, description, epilog, usage=f"{prog} [options]")
    add_options(made)
    return made


def parse(arguments: Sequence[str], prog: str, description: str, epilog: str) -> Launch:
    """What a command line of the trainer asks for.

    Raises `UserError` with all that is wrong with it: its words, and what they name.
    """
    namespace, problems = read_line(parser(prog, description, epilog), arguments)
    given, more = checked_options(namespace)
    launch = Launch(given, prog)
    if problems := [*problems, *more]:
        if launch.names_a_run:
            from lmplay_tui.train.preflight import problems_of

            problems += problems_of(launch, to_stderr)
        raise UserError("\n".join(problems))
    return launch


def run_headless(launch: Launch) -> int:
    """Train with one line a log interval; gives the exit status."""
    options = launch.options
    if options.exp == "list":
        return _list_experiments()
    if options.describe:
        return _describe(launch)
    if options.save_datasets:
        return _save_datasets(options)
    from lmplay_tui.train.process_group import place_of, settle

    place = place_of(os.environ)
    if place is not None:
        if options.nproc != 1 and place.agent is None:
            raise UserError(f"--nproc: {place.started_by} has started {place.world_size} processes; leave it out")
        settle(place)
        leave(_follow(launch) if place.rank else _train_and_print(launch, place))
    if options.detach:
        return _detach(launch)
    if options.nproc != 1:
        return _train_together(launch)
    return _train_and_print(launch)


def _zone(options: TrainOptions) -> tzinfo | None:
    return time_zone(options.tz) if options.tz is not None else None


def _goes_on(options: TrainOptions) -> bool:
    """Whether the run goes on without the terminal in which it was started."""
    return options.on_hangup == "continue" or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def _train_and_print(launch: Launch, place: "Place | None" = None, controls: Controls | None = None) -> int:
    """Train in this process, as rank 0 where it is one of several; gives the exit status.

    `controls`: with what signals have asked for before.
    """
    options, controls = launch.options, controls or Controls()
    zone = _zone(options)
    goes_on = _goes_on(options)
    catch_signals(controls, stop_on_hangup=not goes_on)
    # Before torch comes, which takes a second: a stop that is asked for in that time is heeded too.
    on_reader_gone = None if goes_on else lambda: controls.send(Stop(reason="standard output is closed"))
    with Output(on_reader_gone, ascii_only=options.ascii) as out:
        return _train(launch, controls, out, zone, place)


def _train_together(launch: Launch) -> int:
    """Start several processes that train together, and wait for them; the exit status."""
    quiet = LOCK_FROM in os.environ
    controls = Controls()
    catch_signals(controls, stop_on_hangup=not _goes_on(launch.options))  # until the agent does
    from lmplay_tui.train.preflight import problems_of

    if problems := problems_of(launch, to_stderr):
        raise UserError("\n".join(problems))
    from lmplay_tui.train.process_group import processes_of

    count = processes_of(launch.options)
    if count == 1:
        print("--nproc auto: one process, as this machine has no more than one CUDA device for it", flush=True)
        return _train_and_print(launch, controls=controls)
    from lmplay_tui.train.agent import train_together

    with Output(None, ascii_only=launch.options.ascii) as out:
        printer = JsonLines(out) if launch.options.json_lines else Headless(out, launch.options, _zone(launch.options))
        return train_together(launch, count, controls, (lambda _: None) if quiet else printer.say, quiet=quiet)


def _follow(launch: Launch) -> int:
    """Compute what rank 0 says, until it says that this is over; gives the exit status."""
    from lmplay_tui.train.process_group import ProcessGroup

    group = ProcessGroup.of_environment(launch.options.device)
    assert group is not None
    _leave_signals_to_rank_0(group)
    from lmplay_tui.train.follower import follow

    status = follow(group, launch.line.get("exp"))
    group.close()
    return status


def _leave_signals_to_rank_0(group: "ProcessGroup") -> None:
    """It alone decides, so that all leave at one step. One whose torchrun is no more waits for that, but not long."""

    def pass_over(_: int, frame: FrameType | None) -> None:
        if group.agent is None and group.is_orphan:
            leaving = threading.Timer(ORPHAN_STAYS_S, leave, [EXIT_TRAINING])
            leaving.daemon = True
            leaving.start()

    for caught in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(caught, pass_over)


def _train(launch: Launch, controls: Controls, out: Output, zone: tzinfo | None, place: "Place | None" = None) -> int:
    """Train and print, clock times too where a `zone` for them was given; gives the exit status."""
    agent = None if place is None else place.agent
    quiet = LOCK_FROM in os.environ if agent is None else agent.quiet  # handed over: the log has every line already
    gc.disable()  # what torch brings stays: searching it for garbage took a tenth to a sixth of its import
    try:
        printer = JsonLines(out) if launch.options.json_lines else Headless(out, launch.options, zone)
        from lmplay_tui.train.preflight import problems_of

        if problems := problems_of(launch, to_stderr):  # said before torch comes
            printer.say(events.RunFailed("\n".join(problems), EXIT_USAGE, 0, None))
            return EXIT_USAGE
        from lmplay_tui.train.launch import draw_pictures, exit_status, run_events
        from lmplay_tui.train.process_group import ProcessGroup

        last: events.Event | None = None
        say = (lambda _: None) if quiet else printer.say
        stopped = lambda: controls.stop_now  # noqa: E731
        group = None if place is None else ProcessGroup.of_environment(launch.options.device, stopped)
        for event in run_events(_as_before(launch, place), controls, tell=say, group=group):
            if isinstance(event, events.RunStarted):
                gc.enable()
            say(event)
            last = event
    finally:
        gc.enable()
    assert last is not None
    draw_pictures(last, launch)
    if group is not None:
        group.close()
    return exit_status(last)


def _as_before(launch: Launch, place: "Place | None") -> Launch:
    """The start that our agent goes on with: after a save without what that remembers."""
    if place is None or place.agent is None:
        return launch
    launch = replace(launch, prog=place.agent.prog)
    if not place.agent.resumes:
        return launch
    from lmplay_tui.train.handoff import to_go_on
    from lmplay_tui.train.preflight import choose_run

    return to_go_on(choose_run(launch), launch)


def _detach(launch: Launch) -> int:
    """Start the run in a process of its own and say where to look."""
    from lmplay_tui.train.preflight import problems_of

    if problems := problems_of(launch, to_stderr):
        raise UserError("\n".join(problems))
    from lmplay_tui.train.launch import start_detached

    run, pid = start_detached(launch, until_it_trains=True)
    name, tui = one_line(run.name), typed("lmplay-tui")
    print(f"{name}: training in process {pid}; look with: {tui} attach {name}; end: {tui} ctl {name} stop")
    return EXIT_OK


def catch_signals(controls: Controls, *, stop_on_hangup: bool) -> None:
    """SIGINT and SIGTERM stop the run with its checkpoint saved; a second SIGINT soon after leaves at once.

    SIGHUP stops too, unless the run shall go on without a terminal. SIGUSR1, a cluster's warning, saves.
    """
    interrupts = Interrupts()

    def stop(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and interrupts.is_second():
            os._exit(EXIT_LEFT_AT_ONCE)  # whatever hangs, the user is free; the last checkpoint stands
        controls.send(Stop(reason=signal.Signals(number).name))

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop if stop_on_hangup else signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda *_: controls.send(SaveNow()))


class JsonLines:
    """Prints one JSON object a line: what the journals hold."""

    def __init__(self, out: Output) -> None:
        self._out = out

    def say(self, event: events.Event) -> None:
        """Print what the journals take of `event`."""
        if event.journaled or isinstance(event, events.MetricsLogged | events.Predicted):
            record = event.values if isinstance(event, events.MetricsLogged) else event.record()
            self._out.write(encode({"time": utc_now(), **record}, ascii_only=True))


class Headless:
    """Prints a run for people: one line a log interval, an example at each validation, and what happens besides."""

    def __init__(
        self, out: Output, options: TrainOptions, zone: tzinfo | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """`zone`: also say when it will be done, by the clock there."""
        from lmplay_tui.run.view import RunView  # here: no `--help` waits for it

        self._out = out
        self._zone = zone
        self._verbose = options.verbose
        self._price_per_hour = options.price_per_hour
        self._view = RunView(clock)
        self._activity = ""
        self._day: date | None = None  # of the line before

    def say(self, event: events.Event) -> None:
        """Print what `event` is worth. Warnings and failures go to stderr."""
        self._view.follow(event)
        match event:
            case events.MetricsLogged() if OF_STEPS in event.values:
                width = line_width()
                self._print(self.step_line(event.values, None if width is None else width - len("00:00:00  ")))
            case events.Predicted():
                self._out.write(example(event.prediction, line_width()))
            case events.ActivityChanged():
                self._say_activity(event)
            case events.RunFailed():
                self._out.warn(printable(event.message))
            case events.Warned():
                self._out.warn(self._timed(printable(event.message)))
            case events.LossSpiked() | events.Stalled() | events.TextLeftOut():
                self._out.warn(self._timed(sentence_of(event).text))  # type: ignore[union-attr]  # each has its sentence
            case events.RunStopped():
                self._print(sentence_of(event).text)  # type: ignore[union-attr]  # every last event has its sentence
                self._out.write(f"go on with: {printable(event.command)}")
            case events.LogLine() if event.level == "traceback":
                pass  # in log.txt
            case events.RunDone() if event.already:
                pass  # one line has said how to go on
            case _:
                for _, line in sentences_of(event):
                    self._print(line)

    def _print(self, line: str) -> None:
        self._out.write(self._timed(line))

    def _timed(self, line: str) -> str:
        """The line behind the time of day; above the first one of another day, its date."""
        now = datetime.fromtimestamp(self._view.now()).astimezone(self._zone)
        begin = f"{now:%A %Y-%m-%d}\n" if self._day not in (None, now.date()) else ""
        self._day = now.date()
        return f"{begin}{now:%H:%M:%S}  {line}"

    def _say_activity(self, event: events.ActivityChanged) -> None:
        """Loading may take minutes: say each kind of it once; training and validating speak for themselves."""
        said = f"{event.activity} {event.detail}".strip()
        between = event.activity in ("training", "validating", "evaluating", "saving", "stopping")
        if said != self._activity and (self._verbose or not between):
            self._print(one_line(said))
        self._activity = said

    def step_line(self, values: Mapping[str, Any], width: int | None = None) -> str:
        """`stage 2/3 docstrings  41 %  step 1200  loss 3.412  acc 0.287  9.1k tok/s  ETA 3 min`.

        `width`: cells that there are; in few of them the figures stand closer, and the last needed are left out.
        """
        view = self._view
        accuracy, of_characters = values.get("train/accuracy"), values.get("train/character_accuracy")
        left, rate = view.seconds_left(), view.pace.tokens_per_s  # of its first moments the line alone knows
        is_narrow = width is not None and width < NARROW
        parts = {
            "stage": f"{'' if is_narrow else 'stage '}{view.stage_index + 1}/{len(view.stages)} {values['stage']}",
            "done": f"{100 * view.stage.fraction:.0f} %" if view.stage else "",
            "step": f"step {values['step']}",
            "loss": f"loss {format_loss(number(view.train_loss))}",
            "accuracy": f"acc {accuracy:.3f}" if accuracy is not None else "",
            "by characters": f"char acc {of_characters:.3f}" if of_characters is not None else "",
            "rate": f"{format_rate(rate if math.isfinite(rate) else values['perf/tokens_per_s'])} tok/s",
            "left": f"ETA {format_duration(left)}{self._clock(left)}" if math.isfinite(left) else "",
            "cost": f"cost {format_cost(self._price_per_hour, view.spent_s)}"
            if self._price_per_hour is not None
            else "",
        }
        for needed_last in ("by characters", "accuracy", "rate", "done", ""):
            line = (" " if is_narrow else "  ").join(part for part in parts.values() if part)
            if width is None or cells_in(line) <= width:
                break
            parts.pop(needed_last, None)
        return line

    def _clock(self, left_s: float) -> str:
        return "" if self._zone is None else f" at {format_clock(self._view.now(), left_s, self._zone)}"


def example(prediction: events.Prediction, width: int | None = None) -> str:
    """A prediction as the document prints it, each line in at most `width` cells."""
    texts = {"Input": prediction.prompt, "Truth": prediction.truth, "Pred": prediction.prediction}
    lines = []
    for name, text in texts.items():
        if text or name != "Truth":  # a prompt that was asked has none
            begin = f'  {name + ":":<8}"'
            room = None if width is None else width - len(begin) - 1
            lines.append(f'{begin}{cut(one_line(text, SHOWN_CHARACTERS), room)}"')
    return "\n".join(lines)


def _list_experiments() -> int:
    from lmplay_tui.models.registry import experiments

    for experiment in experiments().values():
        shape = f"{experiment.num_blocks} blocks, {experiment.embed_dim} wide, {experiment.num_heads} heads"
        print(f"{experiment.name:<16} {shape:<32} {experiment.summary}")
    return EXIT_OK


def _describe(launch: Launch) -> int:
    from lmplay_tui.train.check import describe_run

    print(printable(describe_run(launch)))
    return EXIT_OK


def _save_datasets(options: TrainOptions) -> int:
    from lmplay_tui.data.saved import save_datasets
    from lmplay_tui.plan.builtin import DEFAULT_PLAN
    from lmplay_tui.plan.reading import read_plan
    from lmplay_tui.run.folder import datasets_folder

    said: set[str] = set()

    def report(activity: str, detail: str, fraction: float | None) -> None:
        line = one_line(f"{activity} {detail}")
        if line not in said:
            said.add(line)
            print(line, flush=True)

    plan = read_plan(options.training_plan or DEFAULT_PLAN)
    paths = save_datasets(plan, datasets_folder(options.out_dir), report)
    for path in paths:
        print(f"saved {one_line(path, 400)}")
    if not paths:
        print(f"plan {one_line(plan.name)} needs no network: all its data are on this machine")
    return EXIT_OK
