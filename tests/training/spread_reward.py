"""A reward that random weights can earn: the share of even token ids (a user's own function, named module:function).

Workers import this module, so the mutations of test_two_processes*.py stand here too, switched by TEST_MUTATION.
"""

import os
import time


def spread(completions: list[str], completion_ids: list[list[int]], **columns: object) -> list[float]:
    """Return the share of even ids of each completion."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def thirds(completions: list[str], completion_ids: list[list[int]], **columns: object) -> list[float]:
    """Return 1 where the first id is divisible by three: a second reward, of another spread."""
    return [float(ids[0] % 3 == 0) for ids in completion_ids]


def fifths(completions: list[str], completion_ids: list[list[int]], **columns: object) -> list[float]:
    """Return 1 where the first id is divisible by five: two groups of four in five earn nothing."""
    return [float(ids[0] % 5 == 0) for ids in completion_ids]


def opened(completions: list[str], **columns: object) -> list[float]:
    """Return 1 where an answer begins with a thought."""
    return [float(text.startswith("<think>\n")) for text in completions]


def endless(completions: list[str], **columns: object) -> list[float]:
    """Return infinity for the first completion: what a division by zero does."""
    return [float("inf")] + [0.0] * (len(completions) - 1)


def slow(completions: list[str], **columns: object) -> list[float]:
    """Take ten minutes, as a judge model might; TEST_MARK names a file that appears then."""
    if "TEST_MARK" in os.environ:
        open(os.environ["TEST_MARK"], "w").close()
    time.sleep(600)
    return [0.0] * len(completions)


def broken(completions: list[str], **columns: object) -> list[float]:
    """Fail, as a user's own function may."""
    raise KeyError("score")


_calls: list[int] = []


def endless_once(completions: list[str], completion_ids: list[list[int]], **columns: object) -> list[float]:
    """Return infinity for the first completion of the first rollout of this process, then what `spread` does."""
    _calls.append(len(completions))
    usual = spread(completions, completion_ids)
    return [float("inf"), *usual[1:]] if len(_calls) == 1 else usual


def _bad_loss() -> None:
    """Rank 1's loss is no number in its first step."""
    from vsgrpo.training.grpo import SpatialGRPOTrainer

    compute = SpatialGRPOTrainer._compute_loss
    SpatialGRPOTrainer._compute_loss = lambda self, *args: (
        compute(self, *args) * (float("nan") if self.run_step == 0 else 1.0)
    )


def _bad_gradient() -> None:
    """Rank 1's loss is fine in its first step, a gradient is not."""
    import torch

    from vsgrpo.training.grpo import SpatialGRPOTrainer

    compute = SpatialGRPOTrainer._compute_loss

    def spoilt(self, *args):
        loss = compute(self, *args)
        if self.run_step == 0:
            loss.register_hook(lambda gradient: gradient * torch.nan)
        return loss

    SpatialGRPOTrainer._compute_loss = spoilt


def _bad_answers() -> None:
    """The loss of rank 1's answers is no number in its first step."""
    from vsgrpo.training.sft_dpo import AnswerTrainer

    share = AnswerTrainer._share_of_update
    AnswerTrainer._share_of_update = lambda self, *args: share(self, *args) * float("nan")


def _zero_gradients() -> None:
    """Rank 1 trains on nothing."""
    from vsgrpo.training.grpo import SpatialGRPOTrainer

    compute = SpatialGRPOTrainer._compute_loss
    SpatialGRPOTrainer._compute_loss = lambda self, *args: compute(self, *args) * 0.0


def _other_videos() -> None:
    """Rank 1 sees the videos of other rows."""
    from vsgrpo.training.samples import SampleMaker

    make = SampleMaker.make

    def swapped(self, rows, *args):
        videos = sorted({row["video"] for row in rows})
        # One video for all of this rank's rows, which is the right one for one of them at most.
        other = [{"kind": "video", "path": videos[0].replace(os.path.basename(videos[0]), "5.mp4")}]
        return make(self, [{**row, "media": other} for row in rows], *args)

    SampleMaker.make = swapped


def _kill() -> None:
    """Rank 1 ends without a word in its second rollout."""
    import signal

    from vsgrpo.training.grpo import SpatialGRPOTrainer

    generate = SpatialGRPOTrainer._generate_single_turn

    def killed(self, *args, **kwargs):
        if self.run_step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return generate(self, *args, **kwargs)

    SpatialGRPOTrainer._generate_single_turn = killed


def _hang() -> None:
    """Rank 1 never comes back from its second rollout."""
    import time

    from vsgrpo.training import grpo

    rollout = grpo.rollout

    def hanging(model, prompts, features, keys, sampling, **options):
        if sampling.step == 2:
            time.sleep(600)
        return rollout(model, prompts, features, keys, sampling, **options)

    grpo.rollout = hanging


def _hang_before_backward() -> None:
    """Rank 1 never comes to the backward pass of its second step."""
    from vsgrpo.training.grpo import SpatialGRPOTrainer

    look = SpatialGRPOTrainer._look_at
    SpatialGRPOTrainer._look_at = lambda self, *args: time.sleep(600) if self.run_step == 1 else look(self, *args)


def _hang_in_save() -> None:
    """Rank 1 never comes to write its part of a checkpoint."""
    from transformers import Trainer

    Trainer._save_checkpoint = lambda self, *args: time.sleep(600)


def _lonely() -> None:
    """Rank 1 makes a collective call that the others do not make, as a condition on its own rows might."""
    from vsgrpo.training.grpo import SpatialGRPOTrainer

    count = SpatialGRPOTrainer._live_scale
    SpatialGRPOTrainer._live_scale = lambda self, *given: (
        count(self, *given) + 0.0 * float(self.accelerator.reduce(self.reward_weights.sum()))
    )


def _quota() -> None:
    """No file may grow beyond 20 kB from the third step on: what a full disk or a quota does."""
    import resource

    from vsgrpo.training.grpo import SpatialGRPOTrainer

    save = SpatialGRPOTrainer._save_checkpoint

    def limited(self, *args):
        if self.run_step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        return save(self, *args)

    SpatialGRPOTrainer._save_checkpoint = limited


def _term_in_save() -> None:
    """SIGTERM comes while the second checkpoint is being written."""
    import signal

    from vsgrpo.training.run_folder import RunFolder

    publish = RunFolder.publish

    def signalled(self, stage, step, number):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return publish(self, stage, step, number)

    RunFolder.publish = signalled


def without(names):
    """Return a `SampleMaker._load` that finds these files bad."""
    from vsgrpo.training.samples import SampleMaker

    load = SampleMaker._load
    return lambda self, kind, path: None if os.path.basename(path) in names else load(self, kind, path)


def _bury(names):
    from vsgrpo.training.samples import SampleMaker

    SampleMaker._load = without(names)


def _draw_ragged() -> None:
    """One token of eight ends a completion, so lengths are spread as they are with a real model."""
    from dataclasses import replace

    from vsgrpo.training.grpo import SpatialGRPOTrainer

    sampling = SpatialGRPOTrainer._sampling
    SpatialGRPOTrainer._sampling = lambda self: replace(sampling(self), eos_ids=tuple(range(0, 1 << 12, 8)))


def _note_types() -> None:
    """Rank 1 writes into the file TEST_MARK what it sums gradients and steps in, as it is before an update."""
    import json

    from vsgrpo.training.base import StageTrainer

    check = StageTrainer._get_grad_norm

    def noted(self, model, grad_norm=None):
        found = {"held": {str(p.dtype) for p in self.model.parameters() if p.requires_grad}}
        if self.is_deepspeed_enabled:
            found["gradients"] = {str(self.model_wrapped.optimizer.gradient_accumulation_dtype)}
        else:
            found["gradients"] = {str(p.grad.dtype) for p in self.model.parameters() if p.grad is not None}
        states = getattr(self.optimizer, "optimizer", self.optimizer).state.values()
        found["moments"] = {str(v.dtype) for state in states for k, v in state.items() if k.startswith("exp_avg")}
        with open(os.environ["TEST_MARK"], "w", encoding="utf-8") as stream:
            json.dump({name: sorted(types) for name, types in found.items()}, stream)
        return check(self, model, grad_norm)

    StageTrainer._get_grad_norm = noted


_MUTATIONS = {"note_types": _note_types}
_MUTATIONS |= {"hang_before_backward": _hang_before_backward, "hang_in_save": _hang_in_save, "lonely": _lonely}
_MUTATIONS |= {"bad_answers": _bad_answers, "hang": _hang, "quota": _quota, "term_in_save": _term_in_save}
_MUTATIONS |= {"bad_gradient": _bad_gradient, "bad_loss": _bad_loss}
_MUTATIONS |= {"zero_gradients": _zero_gradients, "other_videos": _other_videos, "kill": _kill}
if os.environ.get("RANK", "1") == "1" and os.environ.get("TEST_MUTATION"):
    _MUTATIONS[os.environ["TEST_MUTATION"]]()
if os.environ.get("TEST_RAGGED"):  # on all ranks, as the next
    _draw_ragged()
if os.environ.get("TEST_DEAD_VIDEOS"):
    _bury(os.environ["TEST_DEAD_VIDEOS"].split())
