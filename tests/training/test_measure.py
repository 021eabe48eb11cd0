import pytest

from vsgrpo.training import measure
from vsgrpo.training.measure import PhaseTimer, peak_memory, summarize
from vsgrpo.training.waits import PhaseWatch


def test_an_inner_phase_stops_the_clock_of_the_outer_one(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    timer = PhaseTimer()
    with timer.phase("update"):
        now[0] += 1.0
        with timer.phase("generate"):
            now[0] += 5.0
        now[0] += 2.0
    now[0] += 100.0  # outside every phase
    # update 1 + 2, generate 5; the order is that of PHASES.
    assert timer.take() == {"generate": 5.0, "update": 3.0}
    assert timer.take() == {}


class GpuEdge:
    """Stands for an event of a GPU: passed once the GPU's clock is there."""

    clock = 0.0

    def __init__(self, at):
        self.at = at

    def query(self):
        return GpuEdge.clock >= self.at

    def elapsed_time(self, later):
        return 1e3 * (later.at - self.at)


def test_a_gpu_is_not_waited_for_what_it_has_not_done_comes_with_the_next_take(monkeypatch):
    queued = iter([GpuEdge(at) for at in (0.0, 3.0, 4.0, 9.0, 9.0, 10.0, 10.0)])
    monkeypatch.setattr(measure, "edge_now", lambda: next(queued))
    timer = PhaseTimer()
    timer.start("generate")  # 0 to 3 s on the GPU
    timer.start("reward")  # 3 to 4
    timer.stop()  # generate goes on, 4 to 9
    GpuEdge.clock = 4.5
    timer.stop()
    assert timer.take() == {"generate": 3.0, "reward": 1.0}  # the GPU is still at work
    timer.start("update")
    GpuEdge.clock = 20.0
    assert timer.take() == {"generate": 5.0, "update": 0.0}


def test_edges_of_the_host_and_of_a_gpu_are_not_compared(monkeypatch):
    edges = iter([measure.HostEdge(), GpuEdge(5.0), GpuEdge(7.0)])
    monkeypatch.setattr(measure, "edge_now", lambda: next(edges))
    GpuEdge.clock = 20.0
    timer = PhaseTimer()
    timer.start("decode")
    timer.start("vision")
    assert timer.take() == {"vision": 2.0}


def test_an_unknown_phase_is_refused():
    with pytest.raises(ValueError, match="rollout"):
        PhaseTimer().start("rollout")


def test_processes_are_summarised_by_mean_slowest_sum_and_fullest():
    one = {"phases": {"update": 2.0, "decode": 1.0}, "counts": {"tokens/computed": 300}, "seconds": 4.0, "peak": 2**30}
    two = {"phases": {"update": 6.0}, "counts": {"tokens/computed": 500}, "seconds": 5.0, "peak": 3 * 2**30}
    # Means over two processes, the one without a phase counting 0; 800 tokens in the 5 s that the slower one took.
    assert summarize([one, two]) == {
        "time/decode": 0.5,
        "time/update": 4.0,
        "time_max/decode": 1.0,
        "time_max/update": 6.0,
        "tokens/computed": 800,
        "tokens/second": 160.0,
        "memory/peak_gib": 3.0,
    }
    alone = summarize([one])
    assert alone["time/update"] == 2.0 and not any(name.startswith("time_max/") for name in alone)


def test_a_summary_starts_anew(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    timer = PhaseTimer()
    with timer.phase("reward"):
        now[0] += 3.0
    now[0] += 1.0
    found = timer.take_summary()
    assert (found["phases"], found["seconds"]) == ({"reward": 3.0}, 4.0)
    assert timer.take_summary()["seconds"] == 0.0


def test_peak_memory_counts_bytes():
    # A process that imported torch holds between 50 MB and this machine's memory.
    assert 50e6 < peak_memory() < 1e13


def test_a_phase_that_lasts_is_told_once(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    timer = PhaseTimer()
    watch = PhaseWatch(timer, rank=1, limit_s=60.0, step=lambda: 7)
    now[0] += 32.0
    watch.look()
    with timer.phase("update"):
        now[0] += 29.0  # below half of 60 s
        watch.look()
        assert capsys.readouterr().err.count("\n") == 1
        now[0] += 2.0
        watch.look()
        watch.look()
    now[0] += 33.0
    watch.look()
    lines = [
        f"warning: process 1 has been {place} of step 7 for {seconds} s (launch.timeout_s=60)"
        for place, seconds in (("in phase update", 31), ("after phase update", 33))
    ]
    assert capsys.readouterr().err.splitlines() == lines
