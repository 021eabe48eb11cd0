"""`vsgrpo eval decoding.engine=vllm` against a server that does what was measured of vLLM."""

import json
import threading
import time

import pytest
from PIL import Image

from evaluation_rows import write_vsibench
from vsgrpo.config.compose import load_config
from vsgrpo.engine.connections import EngineError
from vsgrpo.errors import ConfigError, DataError, RunError, SetupError, VsgrpoError
from vsgrpo.evaluation.run import run_eval
from vsgrpo.modeling.save import save_model

pytestmark = pytest.mark.integration
TOKENS = "decoding.max_new_tokens=6"


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """Three scenes of 8 random frames of 56 px, three questions each."""
    folder = tmp_path_factory.mktemp("vsibench")
    write_vsibench(folder)
    return folder


@pytest.fixture
def evaluate(benchmark, tiny_folder, tmp_path):
    """Return a function that evaluates into a folder of a name, by servers where some are given."""

    def run(name, *words, servers=(), **options):
        given = [f"model={tiny_folder}", f"benchmark.path={benchmark}", f"output={tmp_path / name}", TOKENS, *words]
        if servers:
            urls = ",".join(server.url for server in servers)
            given += ["decoding.engine=vllm", f"decoding.vllm.base_urls=[{urls}]"]
        run_eval(load_config("eval", given), **options)
        return tmp_path / name

    return run


def answers(folder, name="predictions.jsonl"):
    return (folder / name).read_bytes()


def test_answers_are_those_of_our_own_engine_byte_for_byte(serve, evaluate):
    own, served = evaluate("own"), evaluate("served", servers=[serve()])
    assert answers(own) == answers(served) and answers(own).count(b"\n") == 9
    assert sorted(path.name for path in own.iterdir()) == sorted(path.name for path in served.iterdir())
    made = [json.loads((folder / "results.json").read_text()) for folder in (own, served)]
    assert [results["engine"] for results in made] == ["own", "vllm"]
    assert json.loads((served / "settings.json").read_text())["engine"] == "vllm"
    page = (served / "report.html").read_text()
    assert "engine vllm" in page and "engine" not in (own / "report.html").read_text()
    timing = [json.loads(line) for line in (served / "timing.jsonl").read_text().splitlines()]
    assert [(line["videos"], line["questions"]) for line in timing] == [(1, 3)] * 3


def test_keyed_samples_and_controls_are_those_of_our_own_engine(serve, evaluate):
    words = ("decoding.temperature=0.8", "decoding.num_samples=2", "controls=[blind,blank,shuffled]")
    own, served = evaluate("own", *words), evaluate("served", *words, servers=[serve()])
    for name in ("", "_blind", "_blank", "_shuffled"):
        assert answers(own, f"predictions{name}.jsonl") == answers(served, f"predictions{name}.jsonl"), name


def test_questions_are_thought_over_where_the_server_is_unsure(serve, evaluate):
    think = ["prompt.mode=think", "decoding.think_below=1"]
    own = [json.loads(line) for line in answers(evaluate("own", *think)).splitlines()]
    assert [line["prompt_mode"] for line in own] == ["think"] * 9  # no answer has probability 1
    sure = [line["first_probability"] for line in own]
    middle = sorted(sure)[4] + 5e-5  # four of nine are surer; the rounding to 4 digits cannot move one across
    assert min(abs(value - middle) for value in sure) > 4e-5
    words = ["prompt.mode=think", f"decoding.think_below={middle}"]
    half, served = evaluate("half", *words), evaluate("served", *words, servers=[serve()])
    found = [[json.loads(line) for line in answers(folder).splitlines()] for folder in (half, served)]
    for mine, theirs in zip(*found, strict=True):
        assert theirs.pop("first_probability") == pytest.approx(mine.pop("first_probability"), abs=1.01e-4)
        assert theirs == mine
    assert sorted(line["prompt_mode"] for line in found[1]) == ["think"] * 5 + ["vanilla"] * 4
    assert json.loads((served / "results.json").read_text())["thought"] == {"n": 5, "of": 9}


def test_an_adapter_is_sent_and_sent_again_to_a_server_that_was_started_anew(serve, evaluate, lora, tmp_path):
    save_model(lora, tmp_path / "adapter", merge=False)
    server, words = serve(), (f"model.adapter={tmp_path / 'adapter'}",)
    own = evaluate("own", *words)
    before = server.count("/inference/v1/generate")

    def restart():
        while server.count("/inference/v1/generate") < before + 8:  # as below: some answers came
            time.sleep(0.01)
        server.restart()

    thread = threading.Thread(target=restart, daemon=True)
    thread.start()
    server.does.delay_s = 0.2
    served = evaluate("served", *words, "decoding.vllm.concurrency=1", servers=[server])
    thread.join()
    assert answers(own) == answers(served)
    assert server.count("/v1/load_lora_adapter") == 2


def test_an_evaluation_whose_server_dies_keeps_its_answers_and_goes_on(serve, evaluate, tmp_path):
    own, server = evaluate("own"), serve()
    words = ("decoding.vllm.startup_timeout_s=0", "decoding.vllm.concurrency=2")
    before = server.count("/inference/v1/generate")

    def die():
        while server.count("/inference/v1/generate") < before + 8:  # the comparison and introductions are among them
            pass
        server.stop()

    threading.Thread(target=die, daemon=True).start()
    server.does.delay_s = 0.2
    with pytest.raises(RunError) as caught:
        evaluate("served", *words, servers=[server])
    assert "answers that came are kept" in caught.value.hint and "\n" not in caught.value.hint
    kept = answers(tmp_path / "served", "predictions.part-0.jsonl").count(b"\n")
    assert 0 < kept < 9
    server.does.delay_s = 0
    server.start()
    asked = server.count("/inference/v1/generate")
    served = evaluate("served", *words, servers=[server])
    assert answers(served) == answers(own)
    # The comparison and 9 - kept answers; each brings the features of a video once.
    extra = server.count("/inference/v1/generate") - asked - (9 - kept) - 1
    assert 0 < extra <= 3
    assert not list(served.glob("*.part-*"))


def test_a_finished_evaluation_needs_no_server(serve, evaluate):
    server = serve()
    first = answers(evaluate("served", servers=[server]))
    server.stop()
    assert answers(evaluate("served", servers=[server])) == first


def test_several_servers_share_the_videos_and_keep_each_together(serve, evaluate):
    servers = [serve(), serve()]
    served = evaluate("served", servers=servers)
    assert answers(served) == answers(evaluate("own"))
    sent = [set(server.sent_with_data()) for server in servers]
    # The longest video is used to compare each server; of the others each goes to one of them.
    assert len(sent[0] & sent[1]) == 1 and len(sent[0] | sent[1]) == 3


def test_a_video_that_cannot_be_read_leaves_its_rows_without_an_answer(serve, evaluate, benchmark, tmp_path):
    write_vsibench(tmp_path / "broken", num_scenes=2)
    (tmp_path / "broken" / "scannet" / "scene0000_00.mp4").write_bytes(b"no video")
    words = (f"benchmark.path={tmp_path / 'broken'}",)
    own, served = evaluate("own", *words), evaluate("served", *words, servers=[serve()])
    assert answers(own) == answers(served) and answers(served).count(b'"prediction": null') == 3


def test_questions_about_images_are_answered_too(serve, evaluate, tmp_path):
    for number, size in enumerate([(112, 84), (56, 140)]):
        Image.radial_gradient("L").resize(size).rotate(90 * number).convert("RGB").save(tmp_path / f"{number}.png")
    asked = [{"image": "0.png"}, {"images": ["0.png", "1.png"]}, {"image": "1.png"}]
    rows = [{"question": f"What is this, {i}?", "answer": "3", **row} for i, row in enumerate(asked)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("benchmark=folder", f"benchmark.path={tmp_path / 'rows.jsonl'}")
    own, served = evaluate("own", *words), evaluate("served", *words, servers=[serve()])
    assert answers(own) == answers(served) and answers(served).count(b"\n") == 3


def problem(evaluate, kind, *words, **options):
    with pytest.raises(kind) as caught:
        evaluate("refused", *words, **options)
    return caught.value


def test_a_server_that_is_not_the_right_one_is_refused_before_any_answer(serve, evaluate, tmp_path):
    server = serve()
    server.does.shift = (0.2,)
    error = problem(evaluate, RunError, servers=[server])
    assert "0.2 from ours (decoding.vllm.max_logprob_gap=0.1)" in error.message
    server.does.shift, server.does.version = (0.0,), "0.29.1"
    assert "0.29.1" in problem(evaluate, SetupError, servers=[server]).message
    server.does.version, server.max_model_len = "0.32.0", 64
    assert "serve.max_model_len=" in problem(evaluate, SetupError, servers=[server]).hint
    server.max_model_len, server.sampling = 4096, "seeded"
    assert "serve.sampling=keyed" in problem(evaluate, SetupError, servers=[server]).hint
    server.stop()
    gone = problem(evaluate, VsgrpoError, "decoding.vllm.startup_timeout_s=0.2", servers=[server])
    assert "no server answers after 0.2 seconds" in gone.message and not isinstance(gone, EngineError)
    assert not list((tmp_path / "refused").glob("predictions*"))


def test_what_servers_cannot_answer_is_refused_before_the_model_is_loaded(
    evaluate, serve, monkeypatch, tmp_path, tiny_folder
):
    servers = [serve()]
    error = problem(evaluate, ConfigError, "model.text_after_video=library", servers=servers)
    assert "vLLM places text as published only" in error.message
    (tmp_path / "adapter" / "earlier_adapters" / "0").mkdir(parents=True)
    base = json.dumps({"base_model_name_or_path": str(tiny_folder)})
    (tmp_path / "adapter" / "adapter_config.json").write_text(base)
    error = problem(evaluate, DataError, f"model.adapter={tmp_path / 'adapter'}", servers=servers)
    assert "earlier adapters" in error.message and "vsgrpo merge" in error.hint
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "2 processes would ask" in problem(evaluate, ConfigError, servers=servers).message


def test_answers_of_one_engine_are_not_gone_on_with_by_another(serve, evaluate):
    evaluate("refused", "benchmark.limit=3")
    words = ("benchmark.limit=3",)
    assert "made under another engine" in problem(evaluate, DataError, *words, servers=[serve()]).message
    assert evaluate("refused", *words, servers=[serve()], overwrite=True)
