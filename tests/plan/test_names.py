"""Names that files are called by: refused, or a file in the run's own folder."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lmplay_tui.plan.reading import plan_name, problems_of
from lmplay_tui.plan.schema import NAME_PATTERN, check_name

RUN = Path("/runs/mine")


@given(st.text() | st.text("azAZ09_-./~ \n\0é", max_size=45))
def test_a_name_is_refused_or_stays_in_its_folder(name):
    if check_name("stage", name) is None:
        path = RUN / f"model.{name}.lmp"
        assert path.resolve().parent == RUN
        assert path.name.split(".") == ["model", name, "lmp"]
        assert len(name.encode()) <= 40
        assert NAME_PATTERN.fullmatch(name)
        text = f'[stages.{name}]\ndataset = "pydocs"\n'
        assert problems_of(text, file="x", folder=RUN) == []


@given(st.text("abAB01_-", min_size=1, max_size=41))
def test_plain_names_are_taken(name):
    assert (check_name("model", name) is None) == (name[0] not in "_-" and len(name) <= 40)


def test_names_of_a_runs_own_files_are_refused_in_every_case():
    for name in ("prev", "best", "past", "corrupted", "run", "Run", "BEST", "damaged", "step-00001200"):
        assert check_name("model", name) == "is no model name: a run's own files are called so"
    assert check_name("stage", "pretraining\n") is not None


@given(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1))
def test_every_file_gives_its_plan_a_name(stem):
    name = plan_name(Path(f"{stem}.toml"))
    assert NAME_PATTERN.fullmatch(name)
    if NAME_PATTERN.fullmatch(stem) and not stem.endswith("-"):
        assert name == stem
