"""The ranks of a run on the screen and in `status`, read from a run's folder as an attached dashboard reads it."""

import json
import math
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from textual.pilot import Pilot

from lmplay_tui.commands import status
from lmplay_tui.options import Launch
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.ranks import FILE, RankState, read_ranks
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.legend import RANKS
from lmplay_tui.ui.source import FolderSource
from lmplay_tui.ui.widgets.lines import row_width
from lmplay_tui.ui.widgets.system import System
from tests.run.recorded_runs import many_ranks, record_ranks, training_on
from tests.ui.conftest import text_of, tick

SIZES = ((80, 24), (120, 40), (200, 60))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "demo.lmp")


@asynccontextmanager
async def attached(
    run: RunFolder, ranks: Sequence[RankState], size: tuple[int, int], **options: Any
) -> AsyncIterator[Pilot[int]]:
    """A dashboard on a run of these ranks, its system pane in sight."""
    lock = training_on(run, ranks, 60)
    try:
        app = LmplayApp(Launch({"tz": "UTC", **options}), source=FolderSource(run), timers=False)
        async with app.run_test(size=size) as pilot:
            await pilot.press("5")
            for _ in range(2):
                await tick(pilot)
            yield pilot
    finally:
        lock.release()


def pane(pilot: Pilot[int]) -> list[str]:
    """Its rows, each no wider than the room there is."""
    system = pilot.app.screen.query_one(System)
    assert all(row_width(row) <= system.room.width for row in system.rows)
    return ["".join(text for text, _ in row) for row in system.rows]


@pytest.mark.parametrize("size", SIZES)
async def test_a_few_ranks_have_a_line_each(run: RunFolder, size: tuple[int, int]) -> None:
    ranks = many_ranks(4, slow=2)
    async with attached(run, ranks, size) as pilot:
        rows = pane(pilot)
        head = next(i for i, row in enumerate(rows) if row.split()[:2] == ["rank", "device"])
        assert rows[head].split()[2:4] == ["GiB", "busy"] and "own" in rows[head] and "wait" in rows[head]
        slowest = max(state.compute_s for state in ranks)
        for state, row in zip(ranks, rows[head + 1 : head + 5], strict=True):
            words = " ".join(row.split())
            assert words.startswith(f"{state.rank} GPU {state.rank} {state.memory_bytes / 2**30:.1f}/80 ")
            assert f"{100 * state.utilisation:.0f} %" in words
            assert f"{1000 * state.compute_s:.0f} ms {1000 * (slowest - state.compute_s):.0f} ms" in words
        styles = {text.strip(): style for text, style in pilot.app.screen.query_one(System).rows[head + 3]}
        assert styles["247 ms"] == RANKS["slowest"].style
        shown = " ".join(" ".join(row.split()) for row in rows)
        assert "rank 2 (node0, GPU 2) is 22 % slower than the others; all wait for it" in shown
        assert "reduce 7" in shown
        assert "GPU 2" in text_of(pilot.app)


@pytest.mark.parametrize("size", SIZES)
async def test_many_ranks_are_a_strip(run: RunFolder, size: tuple[int, int]) -> None:
    ranks = many_ranks(64, slow=5)
    async with attached(run, ranks, size) as pilot:
        rows = pane(pilot)
        signs = {sign.sign for sign in RANKS.values()}
        strip = "".join(row.strip() for row in rows if row.strip() and set(row.strip()) <= signs)
        assert len(strip) == 64
        assert [i for i, cell in enumerate(strip) if cell == RANKS["slowest"].sign] == [5]
        assert strip.count(RANKS["usual"].sign) == 63
        own = sorted(state.compute_s for state in ranks)
        shown = " ".join(" ".join(row.split()) for row in rows)
        assert f"own {1000 * own[0]:.0f} ms to {1000 * own[-1]:.0f} ms" in shown
        assert "ranks 64 on 8 machines" in shown and "rank 5 (node0, GPU 5) is 2" in shown
        assert strip[:16] in text_of(pilot.app)


async def test_the_slowest_of_many_is_named_where_none_is_a_straggler(run: RunFolder) -> None:
    ranks = many_ranks(64)
    last = max(ranks, key=lambda state: state.compute_s)
    async with attached(run, ranks, (80, 24)) as pilot:
        rows = pane(pilot)
        assert any(row.startswith(f" slowest   rank {last.rank} ({last.host}, {last.device_name})") for row in rows)
        assert "slower" not in "".join(rows)


async def test_of_more_ranks_than_there_are_cells_each_cell_is_the_slowest_of_several(run: RunFolder) -> None:
    async with attached(run, many_ranks(1024, slow=1000), (80, 24)) as pilot:
        rows = pane(pilot)
        signs = {sign.sign for sign in RANKS.values()}
        strips = [row.strip() for row in rows if row.strip() and set(row.strip()) <= signs]
        assert len(strips) <= 4 and "".join(strips).index(RANKS["slowest"].sign) == 1000 // 4
        assert any("1024 on 128 machines, 4 a cell" in row for row in rows)


@pytest.mark.parametrize("count", [4, 64])
async def test_in_ascii_slow_ranks_are_told_from_others(run: RunFolder, count: int) -> None:
    async with attached(run, many_ranks(count, slow=3), (80, 24), ascii=True) as pilot:
        shown = text_of(pilot.app)
        assert set(shown) <= {chr(code) for code in range(32, 127)} | {"\n", "°"}
        assert "---#---" in shown if count == 64 else "GPU 3" in shown


HOSTS = (
    "研究室の計算機",
    "e\u0301" * 20,
    "مختبر",
    "a\x1b[31mred\nhost\t" * 9,
    "👩‍🔬 lab",
    "\u202egnp.exe",
    "x" * 300,
    "",
)


@pytest.mark.parametrize("count", [3, 12])
async def test_hosts_of_any_writing_break_no_row(run: RunFolder, count: int) -> None:
    ranks = [replace(state, host=HOSTS[state.rank % len(HOSTS)], phase=HOSTS[1]) for state in many_ranks(count, slow=0)]
    for size in SIZES[:2]:
        async with attached(run, ranks, size) as pilot:
            assert pane(pilot)
            lines = text_of(pilot.app).split("\n")[:-1]
            assert all(cell_len(line) == size[0] for line in lines)
            assert all(line.isprintable() for line in lines)


def state_of(**said: Any) -> dict[str, Any]:
    return {"rank": 0, **dict.fromkeys(("compute_s", "memory_bytes", "utilisation")), **said}


@pytest.mark.parametrize(
    "listed",
    [
        [{"rank": 0}, {"rank": 4095}],
        [state_of(), state_of(rank=1, compute_s=1e9, wait_s=1e9, memory_bytes=1e18, memory_total=1e-300)],
        [state_of(rank=i, compute_s=0, tokens=0, memory_bytes=0, memory_total=0) for i in range(30)],
        [state_of(rank=i, compute_s=1e-300 if i else 1e9) for i in range(4096)],
        [state_of(rank=i, host="漢" * 500, device="cuda:" + "9" * 500, step=2**53) for i in range(8)],
    ],
)
async def test_no_file_breaks_a_screen(run: RunFolder, listed: list[dict[str, Any]]) -> None:
    async with attached(run, many_ranks(2), (80, 24)) as pilot:
        file = json.loads((run.folder / FILE).read_text())
        (run.folder / FILE).write_text(json.dumps(file | {"ranks": listed, "straggler": {"rank": 0, "slower": 1e4}}))
        pilot.app.screen.view.ranks = read_ranks(run.files)  # type: ignore[attr-defined]
        await tick(pilot)
        assert len(pane(pilot)) < 40


async def test_a_run_of_one_process_shows_nothing_of_ranks(run: RunFolder) -> None:
    """Nor what an earlier start with several has left."""
    async with attached(run, many_ranks(1), (80, 24)) as pilot:
        assert "rank" not in "".join(pane(pilot))
    record_ranks(run, many_ranks(4))
    file = json.loads((run.folder / FILE).read_text())
    (run.folder / FILE).write_text(json.dumps(file | {"pid": os.getpid() + 1}))
    async with attached(run, many_ranks(1), (80, 24)) as pilot:
        assert "rank" not in "".join(pane(pilot))


async def test_figures_that_are_old_say_so(run: RunFolder) -> None:
    async with attached(run, many_ranks(4), (80, 24)) as pilot:
        assert "as the ranks were" not in "".join(pane(pilot))
        view = pilot.app.screen.view  # type: ignore[attr-defined]
        assert view.ranks is not None
        view.ranks = replace(view.ranks, written_at=view.now() - 50)
        await tick(pilot)
        assert any(row.startswith(" as the ranks were 50 s ago") for row in pane(pilot))


# ---- the shell


def said_of(run: RunFolder, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    status.main([str(run.model), *words], "lmplay-tui status")
    return capsys.readouterr().out


def test_status_tells_of_a_few_ranks_one_by_one(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    lock = training_on(run, ranks := many_ranks(4, slow=2), 20)
    try:
        lines = dict(line.split("  ", 1) for line in said_of(run, capsys).splitlines()[1:])
        assert lines["straggler"].strip() == "rank 2 (node0, GPU 2) is 22 % slower than the others; all wait for it"
        assert lines["rank 1"].strip().startswith("node0, GPU 1, backward, own work 202 ms, waiting 4")
        said = json.loads(said_of(run, capsys, "--json"))
        assert [each["compute_s"] for each in said["ranks"]] == [state.compute_s for state in ranks]
        assert said["straggler"]["rank"] == 2
    finally:
        lock.release()
    assert "rank" not in said_of(run, capsys) and "ranks" not in json.loads(said_of(run, capsys, "--json"))


def test_status_tells_of_many_ranks_together(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    lock = training_on(run, many_ranks(64, slow=5), 20)
    try:
        shown = said_of(run, capsys)
        assert "64, own work 196 ms to 247 ms a step (rank 5), waiting 46 ms" in shown and "rank 6 " not in shown
        assert len(json.loads(said_of(run, capsys, "--json"))["ranks"]) == 64
    finally:
        lock.release()


def test_status_of_one_process_says_nothing_of_ranks(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    lock = training_on(run, many_ranks(1), 20)
    try:
        assert "rank" not in said_of(run, capsys)
        assert not {"ranks", "straggler"} & json.loads(said_of(run, capsys, "--json")).keys()
    finally:
        lock.release()


def test_what_is_not_known_of_a_rank_is_left_out(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    lock = training_on(run, [RankState(0), RankState(1, "node", "cpu", wait_s=math.nan)], 20)
    try:
        assert "rank 1         node, CPU\n" in said_of(run, capsys)
        assert "NaN" not in said_of(run, capsys, "--json")
    finally:
        lock.release()
