from vsgrpo.evaluation.score_tables import score_table


def test_plain_table_has_the_papers_columns_in_order():
    lines = [
        ("sft", {"overall": 0.5125, "room_size_estimation": 0.75, "object_counting": 0.275}),
        ("chance", {"object_rel_distance": 0.25}),
    ]
    assert score_table(lines, {"object_counting": 8, "room_size_estimation": 4}, "held out") == (
        "held out\n"
        "         Avg  Count  RoomSize  RelDist\n"
        "sft     51.2   27.5      75.0        -\n"
        "chance     -      -         -     25.0\n"
        "n         12      8         4        0"
    )


def test_terminal_table_is_boxed(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    text = score_table([("sft", {"overall": 1.0})], title="t")
    assert "100.0" in text and "Avg" in text and "│" in text
