"""The client against a server that does what was measured of vLLM: one test for each way that it fails."""

import pickle
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from vsgrpo.engine.client import Server
from vsgrpo.engine.connections import EngineError
from vsgrpo.engine.wire import Array, Item, Request, encode_features, keyed

pytestmark = pytest.mark.integration
GRID = (2, 4, 4)
"""8 tokens after merging 2 x 2."""


def video(name, seed=0, calls=None):
    def payload():
        if calls is not None:
            calls.append(name)
        numbers = torch.randn(8, 96, generator=torch.Generator().manual_seed(seed))
        return encode_features("video", Array("float32", (8, 96), numbers.numpy().tobytes()), GRID)

    return lambda offset: Item("video", name, offset, 8, payload)


@pytest.fixture
def asked(tiny):
    """Return a function that makes requests about a video."""

    def make(item, count=2, row="a", tokens=4):
        pad = tiny.processor.video_token_id
        ids = (3, 4, *[pad] * 8, 5, 6)
        return [
            Request(
                ids,
                (item(2),),
                keyed(tokens, (1,), seed=1, step=0, row=row, index=i, temperature=1.0, suppress=(pad,)),
            )
            for i in range(count)
        ]

    return make


def client(server, **options):
    return Server(server.url, server.name, **{"timeout_s": 20, **options})


def drawn(completions):
    return [completion.token_ids for completion in completions]


def test_features_go_once_and_then_their_hash(serve, asked):
    server, calls = serve(), []
    own = client(server)
    first = own.generate(asked(video("a", 0, calls)) + asked(video("b", 1, calls)))
    again = own.generate(asked(video("a", 0, calls)))
    assert drawn(again) == drawn(first[:2]) != drawn(first[2:])
    assert len(set(drawn(first))) > 1
    assert sorted(server.sent_with_data()) == sorted(calls) == ["a", "b"]
    # 6 completions, and one token for each of two videos
    assert server.count("/inference/v1/generate") == 8
    assert all(len(each.logprobs) == len(each.token_ids) for each in first)


def test_the_same_completions_come_from_one_thread_and_from_many(serve, asked):
    server = serve()
    requests = asked(video("a"), 6)
    assert drawn(client(server, concurrency=1).generate(requests)) == drawn(client(server).generate(requests))


def test_forgotten_features_are_sent_again(serve, asked):
    server = serve(memory=1)
    own = client(server, concurrency=1)
    first = own.generate(asked(video("a")))
    own.generate(asked(video("b", 1)))  # "a" has to make room
    assert drawn(own.generate(asked(video("a")))) == drawn(first)
    assert server.sent_with_data() == ["a", "b", "a"]


def test_an_engine_that_fails_is_asked_once_more_and_no_longer(serve, asked):
    server = serve()
    own = client(server)
    own.generate(asked(video("a"), 1))
    server.does.error = 500
    before = server.count("/inference/v1/generate")
    with pytest.raises(EngineError, match=r"HTTP 500.*Internal server error"):
        own.generate(asked(video("a"), 1))
    assert server.count("/inference/v1/generate") == before + 2


def test_a_server_that_is_down_is_waited_for(serve, asked):
    server = serve()
    own = client(server, patience_s=20)
    requests = asked(video("a"))
    first = own.generate(requests)
    server.stop()
    threading.Timer(0.3, server.start).start()
    assert drawn(own.generate(requests)) == drawn(first)
    assert server.sent_with_data() == ["a", "a"]


def test_a_server_that_stays_down_is_an_error(serve, asked):
    server = serve()
    own = client(server, patience_s=0.6)
    server.stop()
    with pytest.raises(EngineError, match=r"no server answers after 0\.6 seconds") as error:
        own.generate(asked(video("a")))
    assert error.value.kind == "down" and error.value.exit_code == 1
    with pytest.raises(EngineError, match="Connection refused"):
        client(server).generate(asked(video("a")))


def test_a_server_that_dies_over_a_request_is_an_error(serve, asked):
    server = serve()
    server.does.delay_s = 30
    threading.Timer(0.2, server.stop).start()
    began = time.monotonic()
    with pytest.raises(EngineError) as error:
        client(server).generate(asked(video("a")))
    assert error.value.kind == "down" and time.monotonic() - began < 10


def test_a_slow_answer_is_asked_for_once_more(serve, asked):
    server = serve()
    expected = drawn(client(server).generate(asked(video("a"), 1)))
    server.does.mute = 1
    assert drawn(client(server, timeout_s=1.5).generate(asked(video("a"), 1))) == expected
    server.does.mute = 2
    with pytest.raises(EngineError, match=r"no answer in 0\.5 seconds") as error:
        client(server, timeout_s=0.5).generate(asked(video("a"), 1))
    assert error.value.kind == "slow" and "timeout_s" in error.value.hint


def test_another_model_under_the_address_is_an_error(serve, asked):
    own = Server(serve().url, "another", timeout_s=20)
    with pytest.raises(EngineError, match="does not know the model another") as error:
        own.generate(asked(video("a")))
    assert error.value.kind == "unknown" and "vsgrpo serve" in error.value.hint


def test_a_server_started_anew_gets_its_adapter_back(serve, asked):
    server = serve()
    own = client(server, patience_s=20)
    restored = []

    def restore():
        restored.append(1)
        own.weights = None  # as if it had been loaded

    own.weights, own.restore = "run-3", restore
    assert len(own.generate(asked(video("a"), 6))) == 6
    assert restored == [1]


def test_an_adapter_that_stays_unknown_is_an_error(serve, asked):
    own = client(serve())
    own.weights, own.restore = "run-3", lambda: None
    with pytest.raises(EngineError, match="does not know the model run-3"):
        own.generate(asked(video("a"), 1))


def test_completions_of_other_weights_are_refused(serve, asked):
    server = serve()
    own = client(server)
    own.version = "run-3"
    with pytest.raises(EngineError, match=r"drew with the weights default, not with run-3 \(it was started anew\)"):
        own.generate(asked(video("a"), 1))
    own.restore = lambda: server.name_weights({"new_version": "run-3"})
    assert own.generate(asked(video("a"), 1))[0].weight_versions == ("run-3",)
    server.does.weight_version = "run-2"
    with pytest.raises(EngineError, match="drew with the weights run-2") as error:
        own.generate(asked(video("a"), 1))
    assert error.value.kind == "stale"


def test_a_completion_that_was_aborted_is_an_error(serve, asked):
    server = serve()
    server.does.finish_reason = "abort"
    with pytest.raises(EngineError, match="finish_reason=abort"):
        client(server).generate(asked(video("a"), 1))


def test_what_does_not_fit_is_refused_before_it_is_sent(serve, asked):
    server = serve(max_model_len=16)
    request = asked(video("a"), 1, tokens=5)  # 12 + 5 tokens
    assert len(client(server).generate(request)[0].token_ids) <= 4, "vLLM cuts without a word"
    own = client(server, max_model_len=16)
    before = server.count("/inference/v1/generate")
    with pytest.raises(EngineError, match=r"a prompt of 12 tokens and 5 new ones: .* takes 16") as error:
        own.generate(request)
    assert "--max-model-len 17" in error.value.hint and server.count("/inference/v1/generate") == before


def test_keyed_parameters_that_are_wrong_are_refused(serve, asked):
    (request,) = asked(video("a"), 1)
    request.params["temperature"] = 1.0
    with pytest.raises(EngineError, match=r"refused a completion \(HTTP 400\): keyed sampling wants temperature=0"):
        client(serve()).generate([request])


def test_weights_are_read_and_old_caches_emptied(serve, asked, tmp_path, tiny_folder):
    from vsgrpo.modeling.tiny import build_tiny

    build_tiny(tmp_path / "other", seed=5)
    server = serve()
    own = client(server)
    before = own.generate(asked(video("a"), 4))
    own.reload_weights(str(tmp_path / "other"), "run-1")
    own.version = "run-1"
    after = own.generate(asked(video("a"), 4))
    assert [each.logprobs for each in after] != [each.logprobs for each in before]
    assert drawn(after) == drawn(client(serve(folder=tmp_path / "other")).generate(asked(video("a"), 4)))


def test_adapters_come_and_go(serve, lora, tmp_path, asked):
    from vsgrpo.modeling.save import save_model

    save_model(lora, tmp_path / "adapter", merge=False)
    server = serve()
    own = client(server)
    base = own.generate(asked(video("a"), 4))
    own.add_adapter("run-1", str(tmp_path / "adapter"))
    own.add_adapter("run-1", str(tmp_path / "adapter"))  # it is there: another process was first
    own.weights = "run-1"
    assert [each.logprobs for each in own.generate(asked(video("a"), 4))] != [each.logprobs for each in base]
    assert own.models() == [server.name, "run-1"]
    own.drop_adapter("run-1")
    own.drop_adapter("run-1")
    assert own.models() == [server.name]
    with pytest.raises(EngineError, match=r"refused to load the adapter .*nowhere.*HTTP 404"):
        own.add_adapter("run-2", str(tmp_path / "nowhere"))


def test_what_a_server_says_of_itself(serve):
    server = serve()
    server.preemptions = 3
    own = client(server)
    assert own.is_alive() and own.vllm_version() == "0.32.0" and own.preemptions() == 3
    assert own.server_info()["model_config"]["max_model_len"] == 4096


def test_an_endpoint_that_is_no_vllm_is_an_error():
    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404 if self.path == "/health" else 200)
            self.send_header("Content-Length", "12")
            self.end_headers()
            self.wfile.write(b"<html></html"[:12])

        def log_message(self, *args):
            pass

    other = ThreadingHTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    try:
        own = Server(f"http://127.0.0.1:{other.server_address[1]}", "m")
        for ask in (own.vllm_version, own.models, own.server_info, lambda: own.wait_until_alive(60)):
            with pytest.raises(EngineError, match="no answer of a vLLM server") as error:
                ask()
            assert "vllm.base_urls" in error.value.hint
    finally:
        other.shutdown()
        other.server_close()


def test_a_server_without_token_endpoint_is_told_apart_from_another_model(serve, asked, monkeypatch):
    from fake_server import FakeServer, Refusal

    def missing(self, body):
        raise Refusal(404, "", detail="Not Found")

    monkeypatch.setattr(FakeServer, "generate", missing)
    with pytest.raises(EngineError, match="takes no token ids") as error:
        client(serve()).generate(asked(video("a"), 1))
    assert "--enable-scale-out" in error.value.hint


def test_a_port_on_which_nothing_listens_is_an_error_within_seconds():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(EngineError, match="Connection refused"):
        Server(f"http://127.0.0.1:{port}", "m").vllm_version()
    with pytest.raises(EngineError, match=r"no server answers$"):
        Server(f"http://127.0.0.1:{port}", "m").wait_until_alive(0)


def test_what_is_stopped_is_not_asked_again(serve, asked):
    """Also not on a connection kept from an earlier request, where a server that closed it is asked anew."""
    server = serve()
    own = client(server, patience_s=20, concurrency=1)
    own.generate(asked(video("a"), 1))
    before, server.does.delay_s = server.count("/inference/v1/generate"), 3
    threading.Timer(0.5, own.stop).start()
    began = time.monotonic()
    with pytest.raises(EngineError):
        own.generate(asked(video("a"), 1))
    assert time.monotonic() - began < 2.5
    assert server.count("/inference/v1/generate") == before + 1


def test_an_error_reaches_other_processes_whole():
    error = pickle.loads(pickle.dumps(EngineError("slow", "no answer", "look")))
    assert (error.kind, error.message, error.hint, error.exit_code) == ("slow", "no answer", "look", 1)
