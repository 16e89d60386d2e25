import csv
import json

import pytest

from lmplay_tui.commands.export import main
from lmplay_tui.errors import UserError
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.journal import Journal
from tests.commands.asked import assert_refused, help_of
from tests.faults.terminals import Terminal


@pytest.fixture(autouse=True)
def run(tmp_path, monkeypatch):
    """A run of three logged steps in the output folder."""
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(tmp_path / "out_gpt" / "m.lmp")
    folder.create()
    journal = Journal(folder.metrics)
    for step in (10, 20, 30):
        journal.write({"time": "2026-01-02T03:04:05.000Z", "step": step, "train/loss": 5.0})
    journal.close()
    return folder


def export(*words):
    return main(list(words), "lmplay-tui export")


def test_weights_as_safetensors(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    from safetensors import safe_open
    from safetensors.torch import load_file

    from tests.train.runs import SENTENCES, stop_after, train, write_plan

    row = json.dumps({"title": "Mill", "text": " ".join(SENTENCES)})
    (tmp_path / "stories.jsonl").write_text(f"{row}\n" * 12, encoding="utf-8")
    model = 'exp = "test_runner"\nnum_blocks = 1\nembed_dim = 8\nnum_heads = 2\ncontext_len = 64\ntokenizer = "bytes"\n'
    plan = write_plan(tmp_path, f'[train]\n{model}batch_size = 2\n[stages.stories]\ndataset = "stories.jsonl"\n')
    stop_after(1, training_plan=plan, model="out_gpt/real.lmp")
    early = (tmp_path / "out_gpt" / "real.stories.lmp").read_bytes()
    train(model="out_gpt/real.lmp")
    (tmp_path / "out_gpt" / "real.stories.lmp").unlink()  # another name of the newest
    (tmp_path / "out_gpt" / "real.stories.lmp").write_bytes(early)

    assert export("real", "--to", "safetensors") == 0
    assert "out_gpt/real.safetensors: " in capsys.readouterr().out
    assert export("out_gpt/real.stories.lmp", "--to", "safetensors") == 0
    exported = []
    for name in ("real", "real.stories"):
        # As the document opens a checkpoint by hand.
        state = torch.load(f"out_gpt/{name}.lmp", weights_only=True)["model"]["state"]
        exported.append(load_file(f"out_gpt/{name}.safetensors"))
        assert exported[-1].keys() == state.keys()
        assert all(torch.equal(exported[-1][key], state[key]) for key in state)
    assert any(not torch.equal(exported[0][key], exported[1][key]) for key in exported[0])
    with safe_open("out_gpt/real.safetensors", "pt") as file:
        assert json.loads(file.metadata()["model"])["embed_dim"] == 8


def test_metrics_as_csv_beside_the_model_elsewhere_and_to_standard_output(run, tmp_path, capsys):
    assert export("--to", "csv") == 0
    assert capsys.readouterr().out == "out_gpt/m.csv: 3 rows\n"
    text = (tmp_path / "out_gpt" / "m.csv").read_text(encoding="utf-8")
    assert [row["step"] for row in csv.DictReader(text.splitlines())] == ["10", "20", "30"]
    assert export("m", "--to", "csv", "--output", "other.csv") == 0
    assert (tmp_path / "other.csv").read_text(encoding="utf-8") == text
    capsys.readouterr()
    assert export("m", "--to", "csv", "--output", "-") == 0
    assert capsys.readouterr().out == text


@pytest.mark.long
def test_metrics_for_tensorboard(run, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert export("m", "--to", "tensorboard", "--follow") == 0  # nobody trains it: what there is, and done
    reader = accumulator.EventAccumulator(str(tmp_path / "out_gpt" / "m.tensorboard"))
    reader.Reload()
    assert [event.step for event in reader.Scalars("train/loss")] == [10, 20, 30]


def test_ctrl_c_ends_following_and_what_was_written_stands(run, tmp_path, monkeypatch, seams):
    looks = []

    def interrupted_at_the_second_look(self):
        looks.append(self)
        if len(looks) == 2:
            raise KeyboardInterrupt
        return True

    seams.put("alive", interrupted_at_the_second_look)
    seams.put("export looks every", 0.0)
    assert export("m", "--to", "csv", "--follow") == 130
    assert len((tmp_path / "out_gpt" / "m.csv").read_text(encoding="utf-8").splitlines()) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["m"], "arguments are required: --to"),
        (["m", "--to", "onnx"], "invalid choice: 'onnx'"),
        (["nobody", "--to", "csv"], "no run called nobody"),
        (["m", "--to", "safetensors"], "m.lmp: no such file"),
        (["m", "--to", "safetensors", "--follow"], "--follow: goes with csv and tensorboard"),
        (["m", "--to", "tensorboard", "--output", "-"], "--output -: only csv"),
        (["m", "--to", "csv", "--follow", "--output", "-"], "--output -: only csv"),
        (["m", "--to", "csv", "--output", "m.lmp"], "would be taken for a checkpoint"),
        (["m", "--to", "csv", "--output", "no/where.csv"], "no/where.csv: cannot be written: No such file"),
        (["fresh", "--to", "csv"], "fresh: no metrics yet"),
        (["bad", "--to", "safetensors"], "bad.lmp: damaged"),
    ],
)
def test_a_mistake_is_one_line(run, tmp_path, words, said):
    RunFolder(tmp_path / "fresh.lmp").create()
    (tmp_path / "bad.lmp").write_bytes(b"PK\x03\x04 not an archive")
    assert_refused(export, *words, said=said)


def test_a_failed_export_does_not_cost_the_earlier_one(run, tmp_path):
    export("m", "--to", "tensorboard")
    run.metrics.unlink()
    with pytest.raises(UserError):
        export("m", "--to", "tensorboard")
    assert list((tmp_path / "out_gpt" / "m.tensorboard").iterdir())


def test_help_reads_well(capsys):
    assert "lmplay-tui export my_model --to safetensors" in help_of(export, capsys)


def test_csv_on_a_terminal_is_harmless_and_in_a_file_as_it_was(run, tmp_path):
    """Names of metrics and stages are another's: on a terminal they would write its clipboard or its title."""
    hostile = "\x1b]52;c;aGk=\x07\x1b[2J\x9b31m\u202ex"
    journal = Journal(run.metrics)
    journal.write({"step": 40, "stage": hostile, f"train/{hostile}": 1.0, "train/loss": 5.0})
    journal.close()
    with Terminal(lambda: export("m", "--to", "csv", "--output", "-")) as terminal:
        assert terminal.wait() == 0
    shown = terminal.output.decode()
    assert "\n40," in shown
    assert not [sign for sign in shown if not sign.isprintable() and sign not in "\r\n"]
    assert export("m", "--to", "csv") == 0
    assert hostile in (tmp_path / "out_gpt" / "m.csv").read_text(encoding="utf-8")
