"""Charts: well-formed, to scale, points thinned and smoothed without moving them."""

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsgrpo.report.page import calibration_svg, histogram_svg, lines_svg, nice_ticks, scores_svg, smooth, thin


def test_thinning_keeps_means_and_leaves_out_what_is_not_finite():
    curve = [(1, 1.0), (2, 3.0), (3, math.nan), (4, 5.0), (5, 7.0)]
    assert thin(curve, 2) == [(1.5, 2.0), (4.5, 6.0)]


@pytest.mark.parametrize("values", [(-1e308, 1e308), (0.0, 5e-324), (1e99, -1e99), (1e-320, 2e-320)])
def test_values_at_the_ends_of_floats_end_no_page(values):
    curve = [*enumerate(values), (2, 1.0)]
    assert "<polyline" in lines_svg([(0, "a", curve)], "x") and "nan" not in lines_svg([(0, "a", curve)], "x")
    assert thin([(0, 1e100), (1, -math.inf), (2, 5e-324)]) == [(2.0, 0.0)]


def test_smoothing_keeps_the_ends_and_a_straight_line():
    points = [(float(i), 2.0 * i) for i in range(100)]
    assert [value for _, value in smooth(points)] == pytest.approx([value for _, value in points])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.13, 0.87, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (0.0, 0.0, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (90, 100, [90, 92.5, 95, 97.5, 100]),
        (6.4123, 6.4131, [6.4, 6.41, 6.42]),  # labels have three digits: steps of less would print 6.41 five times
        (9.996, 9.998, [9.8, 9.9, 10]),
    ],
)
def test_ticks_are_round_and_span_the_values(low, high, expected):
    assert nice_ticks(low, high) == pytest.approx(expected)


@given(st.floats(-1e9, 1e9), st.floats(0, 1e3))
def test_no_two_ticks_of_a_chart_have_one_label(low, span):
    chart = ElementTree.fromstring(lines_svg([(0, "a", [(0, low), (1, low + span)])], "x"))
    labels = [item.text for item in chart if item.tag == "text" and not item.text.startswith("step")]
    assert len(labels) == len(set(labels)) >= 3


def test_a_line_chart_places_its_points():
    svg = ElementTree.fromstring(lines_svg([(0, "a<b", [(0, 0.0), (10, 1.0)])], "x & y"))
    line = next(item for item in svg if item.tag == "polyline")
    # 480 x 230 with margins 66, 12, 10, 30: step 0 at x = 66, step 10 at x = 470; 0 at y = 200, 1 at y = 12
    assert line.attrib["points"] == "66.0,200.0 470.0,12.0"
    assert line[0].text == "a<b: 0 to 1"
    assert lines_svg([(0, "a", [(1, math.nan)])], "nothing finite") == ""


def test_histograms_of_words_few_and_many_numbers():
    few = ElementTree.fromstring(histogram_svg(["10", "2", "2", "3"], are_numbers=True))
    assert [text.text for text in few.iter("text")] == ["2", "50 %", "3", "25 %", "10", "25 %"]
    many = ElementTree.fromstring(histogram_svg([f"{0.1 * k:.1f}" for k in range(1, 101)], are_numbers=True))
    assert len(list(many.iter("rect"))) == 14


def test_charts_are_well_formed_and_to_scale():
    svg = scores_svg(
        [("overall", "Avg <1>")], {"overall": 0.5}, {"overall": (0.4, 0.6)}, [("m1", "a", {"overall": 1.0})]
    )
    shapes = ElementTree.fromstring(svg)
    # The scale is 1000 - 110 - 60 = 830 wide.
    assert [shape.get("width") for shape in shapes if shape.get("class") == "bar"] == ["415.0"]
    ElementTree.fromstring(calibration_svg([(2.0, 3.0), (2.0, 3.0), (4.0, 4.0)], "x"))
    ElementTree.fromstring(calibration_svg([(2.0, 2.0)], "x"))
