"""A whole stage: what is trained, what is held out, and that any batch is found again in every mode."""

import random
import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from lmplay_tui.data.batches import Batch, Position
from lmplay_tui.data.samples import Item
from lmplay_tui.data.splits import Segment
from lmplay_tui.data.stage_data import StageData
from lmplay_tui.data.tokenizer import load_tokenizer
from lmplay_tui.errors import DataError, UserError
from lmplay_tui.options import TrainOptions
from lmplay_tui.plan.schema import DatasetSpec, Stage
from tests.data.conftest import Open, write_splits
from tests.seams import Seams

Jsonl = Callable[..., DatasetSpec]


def story(number: int, kind: str = "row") -> str:
    return " ".join(f"In {kind} {number} part {part} happens." for part in range(1 + number % 7))


def texts(number: int, kind: str = "row") -> list[dict[str, object]]:
    return [{"title": f"{kind} {n}", "text": story(n, kind)} for n in range(number)]


def talks(number: int) -> list[dict[str, object]]:
    turns = ({"role": role, "content": story(n + extra)} for n in range(number)
             for extra, role in ((0, "user"), (3, "assistant")))  # fmt: skip
    listed = list(turns)
    return [{"messages": listed[n : n + 2 + 2 * (n % 3)]} for n in range(0, 2 * number, 2)]


def read(data: StageData, start: Position | None = None) -> list[Batch]:
    return list(data.batches(start or Position()))


def rows_trained(found: list[Batch], kind: str = "row") -> list[int]:
    """The numbers of the rows that samples came from, in order, each once for each time it was read."""
    pattern = re.compile(rf"Title: {kind} (\d+)\n")
    samples = [sample for batch in found for sample in batch.samples]
    return [int(match[1]) for sample in samples if (match := pattern.match(sample.prompt))]


MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "continued": {"continue_rows": True},
    "shuffled": {"shuffle": True, "epochs": 2.0},
    "fractional": {"epochs": 1.37, "shuffle": True, "continue_rows": True},
    "mixture": {"weights": (0.7, 0.3), "stopping": "all_exhausted", "epochs": 1.5},
    "in turn": {"shuffle": True, "continue_rows": True, "mixed": True},
    "messages": {"messages": True},
    "messages continued": {"messages": True, "continue_rows": True, "shuffle": True},
}


@pytest.fixture
def staged(opened: Open, jsonl: Jsonl) -> Callable[[str], StageData]:
    def make(mode: str) -> StageData:
        given = dict(MODES[mode])
        specs = [jsonl(talks(20) if given.pop("messages", False) else texts(30))]
        if given.pop("mixed", False) or "weights" in given:
            specs.append(jsonl(texts(12, "other"), "second"))
        return opened(*specs, **given)

    return make


@pytest.mark.parametrize("mode", MODES)
def test_resuming_after_any_batch_gives_the_same_remainder(mode: str, staged: Callable[[str], StageData]) -> None:
    found = read(staged(mode))
    digests = [batch.digest() for batch in found]
    assert len(found) > 5
    again = staged(mode)  # opened once for many looks: what was asked of it before must not matter
    for number, batch in enumerate(found):
        rest = read(again, batch.position_after)
        assert [other.digest() for other in rest] == digests[number + 1 :]


def test_a_row_that_goes_on_from_batch_to_batch_is_read_once(staged: Callable[[str], StageData], seams: Seams) -> None:
    """A book in one row takes hundreds of batches: read for each of them, it would take the square of its length."""
    data = staged("messages continued")
    asked: list[int] = []
    seams.watch("row", lambda _, row: asked.append(row))
    found = list(data.reading(Position()))
    assert sum(batch.position_after.item > 0 for batch in found) > 3, "rows go on"
    assert len(asked) == len(set(asked)) == data.rows_total


@pytest.mark.parametrize("mode", MODES)
def test_a_stage_ends_at_its_last_row(mode: str, staged: Callable[[str], StageData]) -> None:
    data = staged(mode)
    found = read(data)
    assert sum(batch.rows_read for batch in found) == data.rows_total
    assert found[-1].position_after == Position(data.rows_total)
    for before, after in pairwise([Position(), *(batch.position_after for batch in found)]):
        assert before < after


@pytest.mark.parametrize(("epochs", "total"), [(1.0, 27), (0.5, 14), (2.5, 68), (0.01, 1), (3.0, 81)])
def test_fractional_epochs(epochs: float, total: int, opened: Open, jsonl: Jsonl) -> None:
    data = opened(jsonl(texts(30)), epochs=epochs)
    assert (data.rows_per_epoch, data.rows_total) == (27, total)
    found = read(data)
    once = [n for n in range(30) if n in rows_trained(found)] if epochs >= 1 else rows_trained(found)
    assert rows_trained(found) == [once[n % 27] for n in range(total)]


def test_rows_come_in_the_order_of_the_dataset(opened: Open, jsonl: Jsonl) -> None:
    rows = rows_trained(read(opened(jsonl(texts(30)), validation_split=0.0)))
    assert rows == list(range(30))


def test_shuffled_epochs_hold_every_row_once_in_new_orders(opened: Open, jsonl: Jsonl) -> None:
    data = opened(jsonl(texts(30)), shuffle=True, epochs=3.0)
    rows = rows_trained(read(data))
    epochs = [rows[n * 27 : (n + 1) * 27] for n in range(3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != sorted(epochs[0])
    other = rows_trained(read(opened(jsonl(texts(30)), shuffle=True, seed=1, validation_split=0.0)))
    assert other != rows_trained(read(opened(jsonl(texts(30)), shuffle=True, validation_split=0.0)))


def test_a_mixture_keeps_its_shares(opened: Open, jsonl: Jsonl) -> None:
    specs = jsonl(texts(400)), jsonl(texts(400, "other"), "second")
    data = opened(*specs, weights=(0.75, 0.25), batch_size=1, validation_split=0.0)
    found = read(data)
    kinds = [re.sub(r"Title: (\w+) .*\n", r"\1", batch.samples[0].prompt) for batch in found]
    for block in range(data.rows_per_epoch // 100):
        assert Counter(kinds[block * 100 : block * 100 + 100]) == {"row": 75, "other": 25}
    assert rows_trained(found) == list(range(len(rows_trained(found))))
    assert 398 <= len(rows_trained(found)) <= 400


def test_a_dataset_that_begins_again_in_a_mixture_is_shuffled_anew(opened: Open, jsonl: Jsonl) -> None:
    data = opened(
        jsonl(texts(40)), jsonl(texts(10, "other"), "second"), stopping="all_exhausted", shuffle=True,
        validation_split=0.0, batch_size=1,
    )  # fmt: skip
    rows = rows_trained(read(data), "other")
    assert len(rows) == 40
    passes = [rows[n * 10 : n * 10 + 10] for n in range(4)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) == 4


def held_out(data: StageData) -> set[str]:
    found, position = [], 0
    for _ in range(60):
        samples, position = data.validation(position, 1)
        found += [sample.prompt for sample in samples]
    return set(found)


def test_validation_rows_are_the_same_in_every_stage_and_trained_in_none(opened: Open, jsonl: Jsonl) -> None:
    spec = jsonl(texts(50))
    stages = [
        opened(spec),
        opened(spec, shuffle=True, name="second", batch_size=7, context_len=128, continue_rows=True, epochs=2.0),
        opened(DatasetSpec("renamed", spec.path, text="text", title="title"), jsonl(texts(30, "other"), "second")),
        opened(spec, weights=None, lr=0.1, include_prompts=True),
    ]
    sets = [{prompt for prompt in held_out(data) if "row" in prompt} for data in stages]
    assert len(sets[0]) == 5
    assert sets == [sets[0]] * 4
    for data in stages:
        assert not sets[0] & {sample.prompt for batch in read(data) for sample in batch.samples}
    assert held_out(opened(spec, seed=5)) != sets[0]


def test_a_file_that_was_moved_holds_out_the_same_rows(opened: Open, jsonl: Jsonl, tmp_path: Any) -> None:
    spec = jsonl(texts(50))
    before, fingerprint = held_out(opened(spec)), opened(spec).fingerprint
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "own.jsonl").rename(tmp_path / "elsewhere" / "own.jsonl")
    there = opened(DatasetSpec("own", str(moved)))
    assert (held_out(there), there.fingerprint) == (before, fingerprint)


def test_a_split_of_its_own_is_validated_on(opened: Open, tmp_path: Any) -> None:
    write_splits(tmp_path, train=texts(20), validation=texts(3, "held"))
    data = opened(DatasetSpec("mine", str(tmp_path)))
    assert rows_trained(read(data)) == list(range(20))
    assert held_out(data) == {f"Title: held {n}\n" for n in range(3)}


def test_validation_goes_round_and_round(opened: Open, jsonl: Jsonl) -> None:
    data = opened(jsonl(texts(50)))
    position, seen = 0, []
    for _ in range(12):
        samples, following = data.validation(position, 3)
        again, _ = opened(jsonl(texts(50))).validation(position, 3)
        assert [s.truth for s in samples] == [s.truth for s in again]
        assert len(samples) == 3
        assert all(len(s.prompt_ids) + len(s.truth_ids) <= 64 for s in samples)
        seen.append((position, following))
        position = following
    assert {start for start, _ in seen} <= set(range(5))
    assert any(after <= before for before, after in seen)
    few, _ = data.validation(0, 1000)  # each row once at most
    assert len({(s.prompt, s.truth) for s in few}) == len(few)


def test_the_evaluation_set_is_fixed_and_bounded(opened: Open, jsonl: Jsonl) -> None:
    data = opened(jsonl(texts(200)), eval_samples=10)
    first = [s.truth for s in data.evaluation()]
    assert len(first) == 10
    read(data)
    data.validation(3, 5)
    data.evaluation().clear()
    assert [s.truth for s in data.evaluation()] == first
    assert [s.truth for s in opened(jsonl(texts(200)), eval_samples=10, shuffle=True).evaluation()] == first
    everything = opened(jsonl(texts(200)), eval_samples=100_000).evaluation()
    assert [s.truth for s in everything][:10] == first
    assert len({s.row for s in everything}) == 20
    assert len({s.prompt for s in everything if s.prompt.startswith("Title")}) == 20


def test_a_small_dataset_of_a_mixture_is_evaluated_once(opened: Open, jsonl: Jsonl) -> None:
    data = opened(jsonl(texts(300)), jsonl(texts(20, "other"), "second"), weights=(0.5, 0.5), eval_samples=10_000)
    titles = Counter(s.prompt for s in data.evaluation() if s.prompt.startswith("Title"))
    assert set(titles.values()) == {1}
    assert sum("row" in title for title in titles) == 30
    assert sum("other" in title for title in titles) == 2


def test_unigram_entropy(opened: Open, jsonl: Jsonl) -> None:
    data = opened(jsonl(texts(100)))
    counts = Counter(int(token) for sample in data.evaluation() for token in sample.truth_ids)
    shares = np.array(list(counts.values())) / sum(counts.values())
    assert data.unigram_entropy() == pytest.approx(float(-(shares * np.log(shares)).sum()))
    assert opened(jsonl([{"text": "One."}], "single")).unigram_entropy() is None


def test_a_dataset_of_one_row_is_trained(opened: Open, jsonl: Jsonl) -> None:
    data = opened(jsonl([{"text": "Only this."}]))
    assert [s.truth for batch in read(data) for s in batch.samples] == ["Only this."]
    assert (data.validation(0, 4), data.evaluation()) == (([], 0), [])


def test_rows_without_words_alone(opened: Open, jsonl: Jsonl) -> None:
    """They are refused at once; a stage that reads no others, of a dataset that has some, gives no sample."""
    empty: list[dict[str, object]] = [{"text": " \n"}, {"text": None}, {"text": ""}]
    with pytest.raises(UserError, match=r"dataset own: none of .*30 rows .*gives a sample"):
        opened(jsonl(empty * 10), epochs=1.5)
    data = opened(jsonl([*empty * 10, {"text": "Words."}]), epochs=0.5, validation_split=0.0)
    found = read(data)
    assert all(batch.samples == () for batch in found)
    assert sum(batch.rows_read for batch in found) == sum(batch.rows_without_sample for batch in found)
    assert sum(batch.rows_read for batch in found) == data.rows_total == 16


def test_no_rows_at_all(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    empty = datasets.Dataset.from_dict({"text": []}, datasets.Features(text=datasets.Value("string")))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict({"train": empty}))
    with pytest.raises(UserError, match="dataset own has no rows to train on in its split train"):
        opened(DatasetSpec("own", "owner/name"))


def test_nothing_touches_the_global_randomness(staged: Callable[[str], StageData]) -> None:
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), str(np.random.get_state())
    data = staged("in turn")
    read(data)
    data.validation(0, 5)
    data.evaluation()
    assert (random.getstate(), str(np.random.get_state())) == before


def test_how_far_it_runs_ahead_does_not_matter(staged: Callable[[str], StageData]) -> None:
    data = staged("continued")
    expected = [batch.digest() for batch in read(data)]
    assert [batch.digest() for batch in data.batches(Position(), ahead=1)] == expected
    running = data.batches(Position(), ahead=1)
    taken = [next(running) for _ in range(3)]
    running.close()
    assert [batch.digest() for batch in taken + read(data, taken[-1].position_after)] == expected


def test_validation_beside_training_changes_neither(staged: Callable[[str], StageData]) -> None:
    data = staged("in turn")
    expected = [batch.digest() for batch in read(data)]
    validated = [s.truth for s in data.validation(2, 5)[0]]
    running, found = data.batches(Position()), []
    for batch in running:
        found.append(batch.digest())
        assert [s.truth for s in data.validation(2, 5)[0]] == validated
    assert found == expected


def test_an_error_of_the_disk_reaches_the_trainer(opened: Open, jsonl: Jsonl, seams: Seams) -> None:
    data = opened(jsonl(texts(30)))

    def broken(_: object, row: int) -> None:
        if row > 20:
            raise DataError("dataset own: row 21 cannot be read")

    seams.watch("row", broken)
    running = data.batches(Position())
    with pytest.raises(DataError, match="row 21"):
        list(running)


def test_a_place_in_a_hundred_million_rows_is_found_with_few_reads() -> None:
    """Shuffled, mixed, the third epoch: only the rows of the batch are read."""
    from lmplay_tui.data.order import Source, StagePart

    reads: list[int] = []

    class Many:
        num_rows = 100_000_000

        def items(self, row: int) -> list[Item]:
            reads.append(row)
            return [Item("", f"Row {row}.")]

        def fingerprint(self) -> str:
            return "many"

    options = TrainOptions(tokenizer="bytes", context_len=64, batch_size=5, shuffle=True)
    specs = tuple(DatasetSpec(name, f"owner/{name}") for name in ("a", "b"))
    segments = (Segment("many", 0, Many.num_rows),)
    parts = [StagePart(Source(spec, Many(), None, segments), share=0.1, seed=0) for spec in specs]  # type: ignore[arg-type]
    stage = Stage("s", specs, epochs=3.0, weights=(0.6, 0.4), stopping="all_exhausted")
    data = StageData(stage, options, load_tokenizer("bytes"), parts)
    running = data.batches(Position(data.rows_total - 5))
    batch = next(running)
    running.close()
    assert len(batch.samples) == 5
    assert batch.position_after == Position(data.rows_total)
    assert len(reads) == 5


def test_a_fingerprint_tells_stages_apart(opened: Open, jsonl: Jsonl) -> None:
    spec = jsonl(texts(30))
    same = opened(spec).fingerprint
    assert opened(spec, epochs=2.0, batch_size=7, lr=0.1).fingerprint == same
    others = [
        opened(spec, **changed).fingerprint
        for changed in (
            {"shuffle": True}, {"seed": 1}, {"context_len": 32}, {"tokenizer": "gpt2:300"}, {"continue_rows": True},
            {"validation_split": 0.2},
        )
    ]  # fmt: skip
    others += [
        opened(jsonl(texts(31), "longer")).fingerprint,
        opened(jsonl([*texts(29), {"text": "Other."}], "changed")).fingerprint,
    ]
    assert len({same, *others}) == len(others) + 1
