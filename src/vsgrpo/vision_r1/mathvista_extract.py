"""Take the answer out of a response to MathVista: by rule, or by a language model as the official harness does.

By rule: first the part of the response that states the answer, then of that part an option, a number or a list. The
rules look at forms ("**Answer:** B", "the correct option is B", "20 cm^2"), never at single rows.

By a model: the harness asks GPT-4 with five worked examples unless the response is the answer already. Here any
OpenAI-compatible endpoint serves (the client of build-cot), every answer is kept, and the score says which model
extracted. Deviation: the wording is ours, and of a long response its last 4,000 characters are shown.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vsgrpo.config.evaluate import StepSection
from vsgrpo.errors import RunError
from vsgrpo.maths import number_at, plain_characters, plain_number, strip_wrappers
from vsgrpo.terminal import Progress, counted
from vsgrpo.vision_r1.chat import Account, AnswerCache, content_key
from vsgrpo.vision_r1.endpoint import Endpoint, RowError, work_through
from vsgrpo.vision_r1.filters import BOXED


@dataclass(frozen=True)
class Problem:
    """One question of MathVista.

    Attributes:
        pid: its id.
        query: hint, question and choices, as models are shown.
        choices: of a multi_choice question, without letters; empty otherwise.
        precision: decimals of a float answer, else None.
        answer: the ground truth as text (of multi_choice: the choice itself).
        image: path or name of the image.
        groups: per name of GROUPS the values that the question counts under.
    """

    pid: str
    query: str
    choices: tuple[str, ...]
    question_type: str
    answer_type: str
    precision: int | None
    answer: str
    image: str
    groups: Mapping[str, tuple[str, ...]]

    @property
    def letters(self) -> list[str]:
        """Letters of the choices."""
        return [chr(ord("A") + number) for number in range(len(self.choices))]


_ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_OF = r"(?:\s+(?:to|for|of)\s[^.:\n]{1,80}?)?"
"""Part of "the answer to this question is"."""
_STATED = re.compile(
    rf"\banswers?{_OF}(?:\s+(?:is|are|would be|should be|must be)\b|\s*[:=\uff1a]|\s+-\s|\s*\n)[\s:]*([^\n]+)"
    rf"|\u7b54\u6848\s*(?:\u662f|\u4e3a|[:\uff1a])\s*([^\n]+)"
    rf"|\b(?:option|choice|letter){_OF}(?:\s+(?:is|must be|should be|would be)\b|\s*[:=])[\s:]*([^\n]+)"
    r"|\b(?:therefore|thus|hence|so),?\s+(\(?(?-i:[A-Z])\)?)\s*(?:\.|$|\n)"
    r"|\b(?:choose|select|pick|go with)\s+((?:option\s+)?\(?(?-i:[A-Z])\)?)(?![\w'])"
    r"|(?<![\w'])(\(?(?-i:[A-Z])\)?)\s+(?:is|must be|seems)\s+(?:the\s+)?(?:correct|right|best|answer)",
    re.IGNORECASE,
)
_MARKDOWN = re.compile(r"\*\*|__|`|(?<!\S)\*(?=\S)|(?<=[\w:.])\*(?=[\s:]|$)|^[ \t]*(?:#+|>)[ \t]*", re.MULTILINE)
_OPTION = re.compile(r"(?:(?:option|choice|letter)\s+)?\(?([A-Z])(?:\)|[.:,](?=\s|$)|\s*$|\s+\()", re.IGNORECASE)
_NAMED_OPTION = re.compile(
    r"\(([A-Z])\)|\b(?:[Oo]ption|[Cc]hoice|[Ll]etter)\s+\(?([A-Z])\b|(?:^|\n)\s*([A-Z])\s*[.)]?\s*(?=\n|$)"
)
_NUMBER = re.compile(r"(?<![\w^.])(?<!\^\{)[-+]?(?:\.?[0-9]|\\[dt]?frac)")
"""Start of a number: not in a word, an exponent or another number."""
_WORDS = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}
_WORDS |= {"ten": 10, "eleven": 11, "twelve": 12, "fifteen": 15, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50}
_WORD = re.compile(rf"\b({'|'.join(_WORDS)})\b", re.IGNORECASE)
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_NEGATION = re.compile(r"\b(?:not|no|cannot|none)\b|n't\b", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\b(?:provide|information|enough|clear|determin|unable|sorry|can(?:not|'t)|possible to)", re.IGNORECASE
)
"""Words of a sentence without an answer: the edit distance decides, as for GPT-4's "not enough information"."""
_CONCLUDES = re.compile(r"\W*(?:therefore|thus|hence|so|in conclusion|in total|in summary)\b", re.IGNORECASE)
_COUNTED = re.compile(r"\W*there (?:are|is|were|was|will be)\b([^.\n]*)", re.IGNORECASE)
_ADDS_UP = re.compile(r"\b(?:so|thus|therefore|hence|making|which makes)\b|=", re.IGNORECASE)
"""Marks of a count that ends in its sum: "there is 1 car and 5 bikes, so 6 in all"."""
_LIST = re.compile(r"\[[^\[\]]*\]")


def extract(response: str, problem: Problem) -> str:
    """Return the answer that a response gives, "" where no rule finds one; never raises on model text.

    The part that states it: the last `<answer>..</answer>`, else the last `\\boxed{..}`, else what follows the last
    "answer is", "Answer:" or "option is", else the whole response. From that part: an option by letter or by its words;
    the number that it begins with or equates to, else its last one; the last list.
    """
    text, stated = _stated(response)
    if problem.question_type == "multi_choice":
        return _choice(text, problem)
    if problem.answer_type in ("integer", "float"):
        return _number(text, stated)
    if problem.answer_type == "list":
        lists = _LIST.findall(text)
        try:
            return str(ast.literal_eval(lists[-1])) if lists else text
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return text
    return text


def _stated(response: str) -> tuple[str, bool]:
    """Return the part of a response that states its answer, and whether it was marked as such."""
    text, stated = response, False
    for pattern in (_ANSWER, BOXED, _STATED, BOXED):
        if pattern is _STATED:
            text = _MARKDOWN.sub("", text)
        found = [next(filter(None, match.groups()), "") for match in pattern.finditer(text)]
        if found:
            text, stated = found[-1], True
    bold = _BOLD.findall(response)
    if not stated and len(set(bold)) == 1 and any(map(str.isdigit, bold[0])):
        return strip_wrappers(bold[0]), True
    return strip_wrappers(text), stated


def _choice(text: str, problem: Problem) -> str:
    """Return the letter or the words of the option that `text` decides for, else `text`."""
    choices = problem.choices
    bare = text.strip(" \n.\"'").casefold()
    same = [choice for choice in choices if choice.casefold() == bare]
    if same:
        return same[0]
    first = _OPTION.match(text)
    if first and first[1] in problem.letters:
        return first[1]
    named = {next(filter(None, match.groups())) for match in _NAMED_OPTION.finditer(text)} & {*problem.letters}
    if len(named) == 1:
        return named.pop()
    begins = [choice for choice in choices if _mentions(text, choice, at_start=True)]
    if len(begins) == 1:
        return begins[0]
    sentence = _sentences(text)[0]
    is_denial = _NEGATION.search(sentence) and not _REFUSAL.search(sentence)
    if is_denial and {choice.casefold() for choice in choices} == {"yes", "no"}:
        return next(choice for choice in choices if choice.casefold() == "no")
    for part in (text, _conclusion(text)):
        mentioned = [choice for choice in choices if _mentions(part, choice)]
        longest = [choice for choice in mentioned if not any(choice != o and choice in o for o in mentioned)]
        if len(longest) == 1:
            return longest[0]
    return text


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+|\n+", text.strip())


def _conclusion(text: str) -> str:
    """Return the last sentence that draws a conclusion, else of a short text the first one, of a longer one all."""
    sentences = _sentences(text)
    drawn = [sentence for sentence in sentences if _CONCLUDES.match(sentence)]
    return drawn[-1] if drawn else text


def _mentions(text: str, choice: str, at_start: bool = False) -> bool:
    pattern = rf"(?<![\w.]){re.escape(choice)}(?!\w|\.[0-9])"
    found = re.match(pattern, text, re.IGNORECASE) if at_start else re.search(pattern, text, re.IGNORECASE)
    return found is not None


def _number(text: str, stated: bool) -> str:
    """Return the number of a text in digits: the first one of a stated answer or of a count, else the last one."""
    text = plain_characters(text)
    number = plain_number(text.rstrip("%").strip(" $"))
    if number is not None:
        return repr(number)
    counted = None if stated else _COUNTED.match(text)
    if counted:
        text, stated = counted[1], _ADDS_UP.search(counted[1]) is None
    sides = re.split(r"=|\u2248|\\approx", text)
    result = sides[0] if stated and plain_number(sides[0]) is not None else sides[-1]  # "20 = 4 * 5", "12 + 8 = 20"
    text = result if any(map(str.isdigit, result)) else text
    found = _numbers(text)
    if counted or not found:
        found += [(match.start(), str(_WORDS[match[0].lower()])) for match in _WORD.finditer(text)]
    return (min if stated else max)(found)[1] if found else ""


def _numbers(text: str) -> list[tuple[int, str]]:
    """Return (place, digits) of the numbers in a text."""
    found: list[tuple[int, str]] = []
    place = 0
    while begin := _NUMBER.search(text, place):
        value, place = number_at(text, begin.start()) or (None, begin.end())
        if value is not None:
            written = text[begin.start() : place].replace(",", "")
            found.append((begin.start(), repr(float(value)) if plain_number(written) is None else written))
    return found


def normalize(extraction: str, problem: Problem) -> str | None:
    """Return the extraction in the form of the ground truth, None where it cannot be brought into it.

    multi_choice: "(A)" and "A" become their choice, anything else the choice of least edit distance; integer:
    cut to a whole number; float: rounded to `precision`; text and list: without outer space. Deviation: an empty
    extraction is None; the official code gives it the choice that is nearest to nothing.
    """
    if not extraction.strip():
        return None
    if problem.question_type == "multi_choice":
        text = extraction.strip()
        bracketed = re.findall(r"\(([a-zA-Z])\)", text)
        text = bracketed[0].upper() if bracketed else text
        if text in problem.letters:
            return problem.choices[problem.letters.index(text)]
        return min(problem.choices, key=lambda choice: edit_distance(text, choice))
    if problem.answer_type in ("integer", "float"):
        try:
            value = float(extraction)
            return str(int(value)) if problem.answer_type == "integer" else str(round(value, problem.precision))
        except (ValueError, OverflowError):
            return None
    return extraction.strip()


def edit_distance(left: str, right: str) -> int:
    """Return Levenshtein's distance; beyond 1,000 characters of `left` only its first 1,000 count."""
    left = left[:1000]
    before = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        row = [i]
        for j, b in enumerate(right, start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b)))
        before = row
    return before[-1]


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
        return text in problem.choices or text in problem.letters
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


async def extract_answers(
    problems: Mapping[str, Problem], responses: Mapping[str, str], step: StepSection, seed: int, folder: Path
) -> dict[str, str]:
    """Return pid -> the extracted answer ("" where the model finds none); answers are kept in FOLDER/answers.sqlite.

    Raises:
        RunError: the endpoint can serve nothing, or some responses got no answer; what was extracted is kept.
        ConfigError, SetupError: a wrong key, `openai` is missing.
    """
    found: dict[str, str] = {}
    failed: dict[str, str] = {}

    async def work(entry: tuple[str, str]) -> None:
        pid, response = entry
        try:
            if not is_answer(response, problems[pid]):
                response = await ask(extraction_text(response, problems[pid]))
            found[pid] = extract(response, problems[pid]) if response else ""
        except RowError as error:
            failed[pid] = str(error)
        progress.advance()

    async def ask(text: str) -> str:
        key = content_key([VERSION, "extract", step.model, step.temperature, step.top_p, step.max_tokens, text])
        if (reply := cache.get(key)) is None:
            reply = await endpoint.ask(step, [{"role": "user", "content": text}], seed, Account())
            cache.put(key, "extract", reply)
        said = reply.text.strip().removeprefix("Extracted answer:").strip()
        return "" if said.lower().rstrip(".") == "none" else said

    with AnswerCache(folder) as cache:
        endpoint, progress = Endpoint("extract", step), Progress("extractions", len(responses))
        try:
            await work_through(iter(responses.items()), step.concurrency, work)
        finally:
            await endpoint.close()
    if failed:
        pid, reason = next(iter(failed.items()))
        raise RunError(
            f"{len(failed)} of {counted(len(responses), 'answer')} could not be extracted, such as pid={pid}: {reason}",
            "run the same command again: only what is missing is asked for",
        )
    return found
