"""What a training run asks of a row beyond the schema; asked by check-data and before a run."""

from __future__ import annotations

from dataclasses import dataclass

from vsgrpo.config import TrainConfig
from vsgrpo.data.prompts import target_text, wrong_answer
from vsgrpo.data.row import Row


@dataclass(frozen=True)
class RunNeeds:
    """The texts that a run trains on, and a wrong answer. An object goes to other processes with the rule inside.

    Attributes:
        method: grpo, sft or dpo.
        mode, show_options, seed: prompt.mode, prompt.show_options and run.seed of the run.
        types: data.types: rows of other types are not trained on; None: all are.
    """

    method: str
    mode: str
    show_options: bool
    seed: int
    types: frozenset[str] | None

    @classmethod
    def of(cls, config: TrainConfig) -> RunNeeds:
        """Return the needs of a run of `config`."""
        types = None if config.data.types is None else frozenset(config.data.types)
        return cls(config.trainer.name, config.prompt.mode, config.prompt.show_options, config.run.seed, types)

    def __call__(self, row: Row) -> None:
        """Raise DataError where the run could not make its texts of the row."""
        if self.method == "grpo" or (self.types is not None and row.question_type not in self.types):
            return
        target_text(row, self.mode, self.show_options)
        if self.method == "dpo":
            target_text(row, self.mode, self.show_options, wrong_answer(row, self.seed))
