"""Messages are byte for byte vLLM's; answers that are none are refused."""

import json
import struct
from pathlib import Path

import pytest

from vsgrpo.engine.wire import (
    VLLM_VERSIONS,
    Array,
    Item,
    Request,
    content_hash,
    encode_features,
    greedy,
    keyed,
    read_completion,
    seeded,
)
from vsgrpo.errors import RunError

GOLDEN = Path(__file__).parent / "golden"
ANSWER = {
    "token_ids": [5, 2],
    "finish_reason": "stop",
    "logprobs": {"content": [{"token_id": 5, "logprob": -0.5}, {"token_id": 2, "logprob": -1.5}]},
    "weight_versions": [{"version": "run-3", "start": 0, "end": 2}],
}


def array_of(dtype):
    """Return arange(8) as 2 tokens of width 4; the upper half of a float32 is a bfloat16."""
    numbers = [float(i) for i in range(8)]
    if dtype == "bfloat16":
        return Array(dtype, (2, 4), b"".join(struct.pack("<f", number)[2:] for number in numbers))
    return Array(dtype, (2, 4), struct.pack("<8f" if dtype == "float32" else "<8e", *numbers))


def test_every_supported_version_of_vllm_has_a_golden_file():
    assert {path.stem.removeprefix("wire_") for path in GOLDEN.glob("wire_*.json")} == set(VLLM_VERSIONS)


@pytest.mark.parametrize("version", VLLM_VERSIONS)
def test_messages_are_those_of_vllm(version):
    golden = json.loads((GOLDEN / f"wire_{version}.json").read_text())
    assert golden["vllm"] == version and len(golden["messages"]) == 8
    for case in golden["messages"]:
        made = encode_features(case["kind"], array_of(case["dtype"]), (1, 2, 4), case["seconds"])
        assert made == case["message"], case


def test_a_hash_names_all_that_an_answer_depends_on():
    base = (array_of("float32"), (1, 2, 4), None)
    other = Array("float32", (2, 4), base[0].data[:-1] + b"x")
    names = {content_hash(*base)}
    for changed in (
        (other, *base[1:]),
        (array_of("float16"), *base[1:]),
        (Array("float32", (4, 2), base[0].data), *base[1:]),
        (base[0], (1, 4, 2), None),
        (base[0], (1, 2, 4), 0.5),
    ):
        names.add(content_hash(*changed))
    assert len(names) == 6
    assert content_hash(array_of("float32"), [1, 2, 4], None) in names


def test_a_body_holds_features_once_and_then_their_hash():
    items = [Item("video", "a", 1, 2, lambda: "DATA"), Item("image", "b", 4, 1, lambda: "PICTURE")]
    request = Request((1, 7, 7, 2, 8, 3), tuple(items), greedy(4, (2,), suppress=(7, 8)))
    body = request.body("model", with_data=True)
    assert body["token_ids"] == [1, 7, 7, 2, 8, 3] and body["model"] == "model"
    assert body["features"] == {
        "mm_hashes": {"video": ["a"], "image": ["b"]},
        "mm_placeholders": {"video": [{"offset": 1, "length": 2}], "image": [{"offset": 4, "length": 1}]},
        "kwargs_data": {"video": ["DATA"], "image": ["PICTURE"]},
    }
    assert request.body("model", with_data=False)["features"]["kwargs_data"] == {"video": [None], "image": [None]}
    assert "features" not in Request((1,), (), greedy(4, (2,))).body("model", with_data=True)


def test_sampling_parameters():
    common = {"max_tokens": 4, "stop_token_ids": [2, 3], "logprobs": 0, "output_kind": 2}
    assert greedy(4, (2, 3), (9,)) == {**common, "temperature": 0, "logit_bias": {"9": -100.0}}
    key = {"seed": 1, "step": 2, "row": "a/b", "index": 3, "temperature": 0.7, "suppress": [9]}
    own = keyed(4, (2, 3), **{**key, "suppress": (9,)})
    assert own == {**common, "temperature": 0, "extra_args": {"keyed": key}}
    # A seed is a signed number of 64 bits there: 2^64 - 1 becomes 2^63 - 1.
    made = seeded(4, (2, 3), key=2**64 - 1, temperature=0.7, suppress=())
    assert made == {**common, "temperature": 0.7, "seed": 2**63 - 1}
    json.dumps([own, made])


def test_an_answer_is_read():
    found = read_completion({"choices": [ANSWER]})
    assert (found.token_ids, found.logprobs, found.weight_versions) == ((5, 2), (-0.5, -1.5), ("run-3",))
    assert read_completion({"choices": [{**ANSWER, "weight_versions": None}]}).weight_versions == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"finish_reason": "abort"}, "finish_reason=abort"),
        ({"finish_reason": "error"}, "finish_reason=error"),
        ({"finish_reason": None}, "finish_reason=None"),
        ({"token_ids": []}, "a completion of 0 tokens"),
        ({"logprobs": None}, "0 log-probs for 2 tokens"),
        ({"token_ids": "ab"}, "no completion"),
    ],
)
def test_an_answer_that_is_none_is_refused(change, words):
    with pytest.raises(RunError, match=words):
        read_completion({"choices": [{**ANSWER, **change}]})


@pytest.mark.parametrize("answer", [{}, {"choices": []}, [], None, {"choices": [None]}])
def test_other_json_is_no_completion(answer):
    with pytest.raises(RunError, match="no completion"):
        read_completion(answer)
