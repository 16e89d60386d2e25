"""The user's document, statement by statement, each with the tests that show it.

Where the specification departs from the document on purpose, the statement says so. A test that is renamed or removed
without a successor fails here.
"""

import ast
from pathlib import Path

import pytest
import torch

from tests.train.conftest import place as place  # noqa: PLC0414  (a fixture)
from tests.train.runs import stop_after, train, write_plan

TESTS = Path(__file__).parent

STATEMENTS: dict[str, dict[str, tuple[str, ...]]] = {
    "Overview": {
        "datasets are loaded and batched with intelligent text continuation": (
            "data/test_stage_data.py::test_resuming_after_any_batch_gives_the_same_remainder",
            "data/test_samples.py::test_cuts_are_at_sentence_ends_where_a_sentence_fits",
        ),
        "multi-stage training by plans": ("commands/test_train.py::test_the_users_json_plan_runs_through_both_stages",),
        "gradient accumulation": ("train/test_gradients.py::test_gradient_does_not_depend_on_the_cut",),
        "checkpointing and resume": ("train/test_resume.py::test_every_step",),
        "loss, accuracy, tokens per stage": ("run/test_statistics.py::test_totals_averages_and_places_on_the_curve",),
        "several optimizers with intelligent weight decay": (
            "train/test_optim.py::test_each_name_is_its_own_rule_and_sgd_has_momentum",
            "train/test_optim.py::test_adamw_decays_by_a_hundredth_unless_told_otherwise",
            "train/test_optim.py::test_the_others_decay_only_when_told",
        ),
    },
    "Training entry point and configuration": {
        "lmp_trainer [options]: every command line of the document": (
            "commands/test_train.py::test_every_command_line_of_the_users_document_is_understood",
        ),
        "the defaults": ("test_options.py::test_defaults_are_those_of_the_specification",),
        "--context_len and --context-len": ("test_options.py::test_both_spellings_of_context_len",),
        "--initial-model: fallback if --model is not found": (
            "train/test_build.py::test_initial_model_is_the_fallback_only",
            "train/test_build.py::test_initial_model_gives_weights_and_nothing_else",
        ),
        "--reset-history: clear previous training": (
            "commands/test_train.py::test_reset_history_moves_the_past_aside_and_deletes_nothing",
        ),
        "--default-freeze": ("train/test_optim.py::test_default_freeze_leaves_what_says_freeze_false",),
        "--ignore-optimizer": ("train/test_build.py::test_ignore_optimizer_drops_its_state",),
        "--optimizer-warmup-fraction and -steps": (
            "train/test_build.py::test_warm_up_goes_on_after_a_resume_that_does_not_mention_it",
        ),
    },
    "Datasets": {
        "default: Wikipedia, English and Spanish (the official 20231101 dump)": (
            "plan/test_builtin.py::test_the_shipped_plans_are_those_that_the_documents_name",
        ),
        "datasets.load_dataset": ("data/test_hub.py::test_a_hub_dataset_is_asked_for_as_the_plan_says",),
        "any dataset with a text field": ("data/test_columns.py::test_usual_columns_are_found",),
        "the first prompt is the title, a continuation's the last sentence": (
            "data/test_samples.py::test_prompts_are_as_the_document_draws_them",
        ),
        "continuations never cross batch boundaries": (
            "data/test_batches.py::test_rows_come_in_order_and_never_continue_in_another_batch",
        ),
        "continuation points use sentence boundaries": (
            "data/test_samples.py::test_cuts_are_at_sentence_ends_where_a_sentence_fits",
        ),
        "samples preserve their order": ("data/test_samples.py::test_nothing_is_lost_and_nothing_is_too_long",),
        "1.5 tokens a word is estimated (and confirmed by exact counts)": (
            "data/test_samples.py::test_a_cut_takes_the_last_sentence_that_fits",
        ),
    },
    "Training plans": {
        "built-in plans": ("plan/test_builtin.py::test_the_shipped_plans_are_those_that_the_documents_name",),
        "custom JSON plans": ("plan/test_reading.py::test_the_users_json_plan",),
        "fractional epochs": ("data/test_stage_data.py::test_fractional_epochs",),
        "resume starts from the current stage and row": (
            "train/test_resume.py::test_every_step",
            "data/test_stage_data.py::test_a_place_in_a_hundred_million_rows_is_found_with_few_reads",
        ),
    },
    "Training loop and gradient accumulation": {
        "50 samples by 4 are 13 mini-batches, the last of 2": (
            "train/test_gradients.py::test_fifty_by_four_is_thirteen_mini_batches",
            "test_training_system.py::test_the_trainer_cuts_fifty_by_four",
        ),
        "each loss is scaled by mini_batch_size / batch_size (with --loss-normalization samples)": (
            "train/test_gradients.py::test_samples_normalization_is_the_documents_formula",
        ),
        "warm-up updates the learning rate": ("train/test_build.py::test_warm_up_given_on_a_resume_begins_there",),
        "validation when due prints an example": (
            "commands/test_train.py::test_one_readable_line_a_log_interval_and_an_example_at_each_validation",
        ),
        "saves when due, and at the end of the plan": (
            "train/test_build.py::test_keep_holds_so_many_numbered_checkpoints",
            "train/test_resume.py::test_finished_run_trains_nothing",
        ),
    },
    "Optimizers and weight decay": {
        "adamw, adam, adagrad, sgd (momentum), rmsprop and their decays": (
            "train/test_optim.py::test_each_name_is_its_own_rule_and_sgd_has_momentum",
            "train/test_optim.py::test_adamw_decays_by_a_hundredth_unless_told_otherwise",
            "train/test_optim.py::test_the_others_decay_only_when_told",
        ),
        "biases, norms and embeddings are left out": (
            "train/test_optim.py::test_names_that_do_not_decay",
            "train/test_optim.py::test_norms_and_embeddings_do_not_decay_whatever_their_name",
        ),
        "skip_weight_decay; the document's own module works": ("train/test_optim.py::test_the_documents_model",),
    },
    "Validation": {
        "no gradients, loss on truth tokens, accuracy by edit distance, one example": (
            "train/test_accuracy.py::test_both_libraries_give_the_textbooks_number",
            "data/test_stage_data.py::test_validation_beside_training_changes_neither",
        ),
        "running averages, saved to JSON": ("run/test_statistics.py::test_totals_averages_and_places_on_the_curve",),
    },
    "Checkpointing": {
        "NAME.STAGE.lmp": ("commands/test_train.py::test_the_users_json_plan_runs_through_both_stages",),
        "manual inspection (with weights_only=True instead of False)": (
            "test_training_system.py::test_manual_inspection",
        ),
        "--model alone resumes": ("train/test_resume.py::test_stopped_many_times",),
    },
    "Statistics and plotting": {
        "the files of a run and of its stages": (
            "commands/test_train.py::test_the_users_json_plan_runs_through_both_stages",
        ),
        "saved to out_gpt or LMP_DATASETS": ("train/test_build.py::test_default_names",),
        "lmp_plotstats draws regular and difference plots": (
            "commands/test_plot.py::test_two_runs_give_the_combined_pictures_and_each_runs_own",
            "run/test_plots.py::test_a_difference_is_taken_at_equal_tokens_from_the_longest_run",
        ),
    },
    "Error handling": {
        "Ctrl+C saves, updates statistics, exits cleanly; the next run resumes": (
            "faults/test_signals.py::test_headless",
            "train/test_resume.py::test_between_mini_batches_and_inside_validation",
        ),
        "a failure is never silent; the last checkpoint stands": (
            "faults/test_failing_saves.py::test_a_disk_that_stays_full_ends_the_run_in_order",
        ),
    },
    "Troubleshooting": {
        "model shock: warm-up on a resume": ("train/test_build.py::test_warm_up_given_on_a_resume_begins_there",),
        "--describe": ("commands/test_train.py::test_describe_and_the_list_of_experiments",),
        "--check-grads": ("test_training_system.py::test_check_grads_names_frozen_parameters",),
    },
    "Dataset caching": {
        "--save-datasets stores a plan's datasets for another machine": (
            "commands/test_offline_box.py::test_stored_copied_and_trained_without_network",
            "data/test_saved.py::test_what_is_saved_is_read_without_network",
            "data/test_saved.py::test_datasets_saved_by_lmplay_are_used_as_they_are",
        ),
    },
}


def names_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, functions) and node.name.startswith("test_")}


@pytest.mark.parametrize(
    ("statement", "named"),
    [(f"{part}: {said}", named) for part, rows in STATEMENTS.items() for said, named in rows.items()],
)
def test_each_statement_has_the_tests_that_show_it(statement, named):
    for test in named:
        file, _, name = test.partition("::")
        assert (TESTS / file).is_file(), f"{statement}: {file} is gone"
        assert name in names_in(TESTS / file), f"{statement}: {test} is gone"


def test_the_trainer_cuts_fifty_by_four(place, seams):
    sizes: list[int] = []
    seams.watch("pack", lambda samples, **_: sizes.append(len(samples)))
    events = stop_after(1, training_plan=write_plan(place), model="m.lmp", batch_size=50, mini_batch_size=4)
    step = next(event for event in events if type(event).__name__ == "StepDone")
    assert step.samples == 50
    assert sizes[-13:] == [4] * 12 + [2], "after the comparison of packed samples with padded ones"


def test_manual_inspection(place, capsys):
    """The document's snippet, word for word but for `weights_only`."""
    train(training_plan=write_plan(place), model="model.lmp")
    checkpoint = torch.load("model.lmp", weights_only=True)
    assert list(checkpoint) == ["curriculum", "model", "runner", "optimizers", "lr_schedulers"]
    assert set(checkpoint["model"].keys()) == {"state_args", "state"}

    model_weights = checkpoint["model"]["state"]
    model_args = checkpoint["model"]["state_args"]
    assert model_weights["head.weight"].shape == (model_args["vocab_size"], model_args["embed_dim"])

    runner_state = checkpoint["runner"]["state"]
    stats = runner_state["stats"]
    print(f"Total samples trained: {stats['total_train_samples']}")
    print(f"Total loss: {stats['train_loss_total']}")
    step_stats = runner_state["step_stats"]
    for stage_name, stage_stat in step_stats.items():
        print(f"{stage_name}: {stage_stat['total_train_samples']} samples")
    out = capsys.readouterr().out
    assert {"stories", "pairs", "both"} == set(step_stats)
    assert stats["total_train_samples"] == sum(s["total_train_samples"] for s in step_stats.values())
    assert "pairs: " in out


def test_check_grads_names_frozen_parameters(place):
    (place / "mine.py").write_text(
        "from lmplay_tui.models.gpt2ish import GPT2ish\n"
        "class Mine(GPT2ish):\n"
        "    def __init__(self, *, vocab_size, context_len, num_blocks, embed_dim, num_heads, dropout):\n"
        "        super().__init__(vocab_size=vocab_size, context_len=context_len, num_blocks=num_blocks,\n"
        "                         embed_dim=embed_dim, num_heads=num_heads, dropout=dropout)\n"
        "        self.head.freeze = False\n",
        encoding="utf-8",
    )
    events = stop_after(
        1, training_plan=write_plan(place), model="m.lmp", exp="mine.py:Mine", default_freeze=True, check_grads=True
    )
    said = [event.message for event in events if type(event).__name__ == "LogLine"]
    assert any("without a gradient" in line and "blocks.0" in line and "head" not in line for line in said), said
