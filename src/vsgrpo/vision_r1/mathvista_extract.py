"""Have a language model take the answer out of each response, as MathVista's official harness does.

The harness asks GPT-4 with five worked examples unless the response is the answer already. Here any OpenAI-compatible
endpoint serves (the client of build-cot), every answer is kept, and the score says which model extracted.
Deviation: the wording is ours, and of a long response its last 4,000 characters are shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from vsgrpo.config.evaluate import StepSection
from vsgrpo.errors import RunError
from vsgrpo.maths import plain_number
from vsgrpo.terminal import Progress
from vsgrpo.vision_r1.answers import AnswerCache, content_key
from vsgrpo.vision_r1.endpoint import Account, Endpoint, RowError
from vsgrpo.vision_r1.mathvista_rows import Problem
from vsgrpo.vision_r1.mathvista_rule import extract

VERSION = 1
"""Counts up with every change of the wording: it is part of the cache key."""
_SHOWN = 4000
_FORMS = {
    "integer": "a whole number",
    "float": "a decimal number",
    "list": "a Python list",
    "text": "a word or short phrase",
}
_EXAMPLES = """\
Question: How many bars are taller than 5? (Answer: a whole number)
Response: Three of the bars, the second, fourth and fifth, are taller than 5.
Extracted answer: 3

Question: What is the fraction of girls? (Answer: a decimal number)
Response: 11 of the 20 children are girls, so the fraction is 0.55.
Extracted answer: 0.55

Question: Between which years does the line fall? (Answer: a Python list)
Response: The line falls only between 2010 and 2012.
Extracted answer: [2010, 2012]

Question: Which is the largest animal? Choices: (A) cat (B) horse (C) hare
Response: The horse is by far the largest one, so it must be B.
Extracted answer: B

Question: How long is AC? Choices: (A) 3 (B) 4 (C) 5
Response: By Pythagoras AC is the root of 9 + 16, which is 5.
Extracted answer: C
"""


def is_answer(response: str, problem: Problem) -> bool:
    """Return whether a response needs no extraction: it is one of the choices, its letter, or a number as asked."""
    text = response.strip()
    if problem.question_type == "multi_choice":
        letters = [chr(ord("A") + i) for i in range(len(problem.choices))]
        return text in problem.choices or text in letters
    return problem.answer_type in ("integer", "float") and plain_number(text) is not None


def extraction_text(response: str, problem: Problem) -> str:
    """Return what the model is asked."""
    asked = problem.query
    if problem.question_type != "multi_choice":
        asked += f" (Answer: {_FORMS[problem.answer_type]})"
    return (
        "Take the final answer out of the response to a question. Give the answer alone: of a question with choices "
        "the letter of the one that the response decides for, otherwise the value without unit. If the response gives "
        f"no answer, say: none.\n\n{_EXAMPLES}\nQuestion: {asked}\nResponse: {response[-_SHOWN:]}\nExtracted answer:"
    )


def extract_answers(
    problems: Mapping[str, Problem], responses: Mapping[str, str], step: StepSection, seed: int, folder: Path
) -> dict[str, str]:
    """Return pid -> the extracted answer ("" where the model finds none); answers are kept in FOLDER/answers.sqlite.

    Raises:
        RunError: the endpoint can serve nothing, or some responses got no answer; what was extracted is kept.
        ConfigError, SetupError: a wrong key, `openai` is missing.
    """
    found: dict[str, str] = {}
    failed: dict[str, str] = {}
    with AnswerCache(folder) as cache:
        asyncio.run(_Extraction(cache, step, seed).run(problems, responses, found, failed))
    if failed:
        pid, reason = next(iter(failed.items()))
        raise RunError(
            f"{len(failed)} of {len(responses)} answers could not be extracted, such as pid={pid}: {reason}",
            "run the same command again: only what is missing is asked for",
        )
    return found


class _Extraction:
    def __init__(self, cache: AnswerCache, step: StepSection, seed: int) -> None:
        self._cache, self._step, self._seed = cache, step, seed
        self._account = Account()

    async def run(
        self,
        problems: Mapping[str, Problem],
        responses: Mapping[str, str],
        found: dict[str, str],
        failed: dict[str, str],
    ) -> None:
        endpoint = Endpoint("extract", self._step)
        progress = Progress("extractions", len(responses))
        pending = iter(responses.items())

        async def work() -> None:
            for pid, response in pending:
                problem = problems[pid]
                try:
                    quick = is_answer(response, problem)
                    found[pid] = extract(response, problem) if quick else await self._ask(endpoint, response, problem)
                except RowError as error:
                    failed[pid] = str(error)
                progress.advance()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._step.concurrency):
                    group.create_task(work())
        except* RunError as errors:
            raise errors.exceptions[0] from None
        finally:
            await endpoint.close()

    async def _ask(self, endpoint: Endpoint, response: str, problem: Problem) -> str:
        step, text = self._step, extraction_text(response, problem)
        key = content_key([VERSION, "extract", step.model, step.temperature, step.top_p, step.max_tokens, text])
        reply = self._cache.get(key)
        if reply is None:
            reply = await endpoint.ask(step, [{"role": "user", "content": text}], self._seed, self._account)
            self._cache.put(key, "extract", reply)
        said = reply.text.strip().removeprefix("Extracted answer:").strip()
        return "" if said.lower().rstrip(".") == "none" else extract(said, problem)
