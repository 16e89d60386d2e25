"""The names in `metrics.jsonl`, and the figures that every screen shows: what documents and tests are made from.

`PLACE` says where a line stands, `METRICS` what was measured there, `FIGURES` what a screen or a command calls by name.
"""

from collections.abc import Mapping

PLACE: Mapping[str, str] = {
    "time": "when the line was written, UTC, ISO 8601",
    "elapsed_s": "seconds of training over the run, resumes included, pauses and validation not",
    "step": "optimizer updates over the run",
    "steps": "updates that the line stands for: it weighs as much where lines are averaged (only in lines of steps)",
    "samples": "dataset rows read over the run (`total_train_samples` of the statistics)",
    "stage_samples": "dataset rows read in this stage",
    "tokens": "positions that the model read over the run, without padding",
    "stage": "the stage's name",
    "epoch": "epochs done in this stage, with their fraction",
    "row": "row of the epoch that is read next",
}

METRICS: Mapping[str, str] = {
    "train/loss": "nats a token, mean over the loss tokens of the interval",
    "train/recent_loss": 'nats a token, mean over the loss tokens of the last 50 steps: the figure "train loss"',
    "train/accuracy": "word accuracy of training batches, 0 to 1; of truths with spaces between words",
    "train/character_accuracy": "character accuracy of training batches, 0 to 1; of truths without",
    "train/lr": "learning rate of the last step",
    "train/grad_norm": "gradient norm before clipping",
    "val/loss": "nats a truth token, of the validation at this step",
    "val/accuracy": "word accuracy of that validation",
    "val/character_accuracy": "its character accuracy",
    "eval/loss": "nats a truth token, of the stage's fixed evaluation set at this step",
    "eval/accuracy": "word accuracy of the evaluation set",
    "eval/character_accuracy": "its character accuracy",
    "eval/bits_per_byte": "bits a byte of text of the evaluation set: comparable between tokenizers",
    "eval/STAGE/loss": "the same of an earlier stage's set, at a stage's end: what was forgotten",
    "eval/STAGE/accuracy": "the same of an earlier stage's set",
    "eval/STAGE/character_accuracy": "the same of an earlier stage's set",
    "eval/STAGE/bits_per_byte": "the same of an earlier stage's set",
    "perf/tokens_per_s": "real tokens a second over the steps, waiting for data included",
    "perf/samples_per_s": "dataset rows a second over the steps: by what `samples` has grown since the line before",
    "perf/mfu": "share of the device's peak: the vendor's dense figure (above 1 a warning says once that it is too "
    "low), or measured where it is unknown, and what the run itself has reached where that is more (said once)",
    "time/step_s": "seconds a step, mean",
    "time/data_s": "of it: waiting for the next batch",
    "time/forward_s": "of it: forward passes",
    "time/backward_s": "of it: backward passes",
    "time/reduce_s": "of it: waiting for the other ranks and summing the gradients (this and `ranks/...` only where a "
    "run has several processes)",
    "time/optimizer_s": "of it: clipping and update",
    "time/validate_s": "seconds of validation and evaluation since the last line",
    "time/save_s": "seconds that training waited for checkpoints since the last line",
    "memory/process_bytes": "resident memory of the trainer's process (these and `sys/...` at most once a second)",
    "memory/used": "share of the machine's memory that is in use, by whomever",
    "memory/device_bytes": "most that tensors took on the GPU since the last reading",
    "memory/device_used": "share of the GPU's memory that is in use, by whomever",
    "sys/cpu": "share of all cores that was busy since the last reading, by whomever",
    "sys/gpu": "share of the time that the GPU was busy, as its driver tells",
    "sys/gpu_watts": "what the GPU draws",
    "sys/gpu_celsius": "its temperature",
    "ranks/compute_s_min": "seconds a step of a rank's own work, before the reduction, mean over the interval: the "
    "quickest rank's",
    "ranks/compute_s_mean": "the same, mean over the ranks",
    "ranks/compute_s_max": "the same, the slowest rank's: all wait for it",
    "ranks/slowest": "the number of that rank",
    "ranks/wait_share": "share of a step that a rank waits for the slowest one, mean over the ranks",
    "ranks/memory_bytes_max": "most that a rank has in use on its device (`memory/...` and `sys/...` are of rank 0 "
    "and its machine)",
    "ranks/utilisation_mean": "share of the time that a rank's device was busy, mean over the ranks that know it",
    "ranks/celsius_max": "temperature of the hottest of their devices",
    "data/text_shown": "share of the characters read in this stage that reached a sample",
    "data/rows_without_sample": "rows read in this stage that hold no words",
}

# What `ranks.json` and `status --json` say of each rank; null where it is not known.
RANK_FIELDS: Mapping[str, str] = {
    "rank": "its number; 0 leads the run",
    "host": "the machine that it is on",
    "device": "`cpu`, `cuda:1`, ...",
    "pid": "its process there",
    "phase": "what it is at",
    "step": "the step that it is at",
    "compute_s": "seconds a step of its own work, before the reduction, mean over the last log interval",
    "wait_s": "seconds a step from then on until the slowest rank was as far, mean over the same",
    "tokens": "positions that it computed a step, mean over the same: what its seconds are measured by where ranks are "
    "compared",
    "memory_bytes": "in use on its device",
    "memory_total": "bytes that its device has",
    "utilisation": "share of the time that its device was busy, 0 to 1",
    "celsius": "its device's temperature",
}


def is_share(metric: str) -> bool:
    """Whether it measures a share of a whole, 0 to 1: as its line in `METRICS` says, and an accuracy always."""
    return METRICS.get(metric, "").startswith("share ") or metric.endswith("accuracy")


OF_STEPS = "train/loss"  # each line that stands for steps has it; one without holds scores alone
RECENT_LOSS = "train/recent_loss"
RECENT_STEPS = 50  # that a figure "of the last steps" is a mean over, fewer where there are no more

# Figures that stand in several places: each is found once, by the trainer, and read from there by all of them.
FIGURES: Mapping[str, str] = {
    "train loss": f"mean over the loss tokens of the run's last {RECENT_STEPS} steps, across stages and resumes "
    "(`train/recent_loss`). The curves' legend where it smooths over as many steps, the curriculum (of a stage that is "
    "done: at its last step), the terminal's title, `status`, `runs`, the launcher, headless lines, `averages` of the "
    "statistics file, and behind a run's name in plots",
    "val loss": "of the newest validation alone, mean over its truth tokens (`val/loss`): the same places",
    "val accuracy": 'of the newest validation alone, by words (`val/accuracy`): `status`, headless lines; "val '
    'character accuracy" of truths without spaces between words (`val/character_accuracy`)',
    "eval loss": "of the newest evaluation of the stage's fixed set (`eval/loss`)",
    "learning rate": "of the last step (`train/lr`)",
    "tok/s": "tokens over the last 20 seconds by the clock, all that happens between steps included, all ranks' "
    "together: the system pane, the curriculum, `status`, `runs`, the launcher, headless lines (`perf/tokens_per_s` "
    "counts the steps alone)",
    "own, wait": "seconds a step, means over the last log interval: a rank's own work before the reduction, and from "
    "then on until the slowest rank was as far: the system pane, `status` (both from `ranks.json`)",
    "ends, left, ETA": "the rows that are left, at the pace of the last ten minutes by the clock, all included: the "
    "same places",
}

# Curves that are averaged over the chosen number of steps. All others (rates, memory, shares, counts) are drawn as they
# are, and their legend names the newest value.
SMOOTHED = (
    "train/loss", "train/accuracy", "train/character_accuracy", "train/grad_norm", "perf/tokens_per_s",
    "perf/samples_per_s", "time/step_s", "time/data_s", "time/forward_s", "time/backward_s", "time/reduce_s",
    "time/optimizer_s",
)  # fmt: skip

# Which of them a step says itself: the attribute of `StepDone`, the metric's mean over the interval.
STEP_METRICS: Mapping[str, str] = {
    "train/loss": "loss",
    "train/recent_loss": "recent_loss",
    "train/accuracy": "accuracy",
    "train/character_accuracy": "character_accuracy",
    "train/lr": "lr",
    "train/grad_norm": "grad_norm",
    "time/data_s": "data_s",
    "time/forward_s": "forward_s",
    "time/backward_s": "backward_s",
    "time/reduce_s": "reduce_s",
    "time/optimizer_s": "optimizer_s",
    "time/step_s": "step_s",
}
