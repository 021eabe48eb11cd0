"""The wordings of all spatial questions, quoted as data, odd spaces included.

Source: `vsibench` measured on the 5,130 questions of VSI-Bench; `vsi100k` the examples printed in arXiv 2504.00883.
Whether a question says "Measuring from the closest point of each object" follows the distance that is meant, not the
mode: a centroid distance is never asked in the closest point's words.
"""

from __future__ import annotations

import re

CLOSEST_POINT = "Measuring from the closest point of each object, "

COUNTING = {
    "vsi100k": "How many {category}(s)in the room?",
    "vsibench": "How many {category}(s) are in this room?",
}
SIZE = {
    "vsi100k": "What is the length of the longest dimension (length,width, or height) of the {category}, "
    "measured in centimeters?",
    "vsibench": "What is the length of the longest dimension (length, width, or height) of the {category}, "
    "measured in centimeters?",
}
ROOM = {
    "vsi100k": "What is the size of this room (in square meters)?",
    "vsibench": "What is the size of this room (in square meters)? \n"
    "If multiple rooms are shown, estimate the size of the combined space.",
}
# Both modes: the prefix CLOSEST_POINT (and a small first letter) where the closest point is meant.
ABS_DISTANCE = "What is the distance between the {first} and the {second} (in meters)?"
REL_DISTANCE = {
    "vsi100k": "Which of these objects ({options})is the closest to the {category}?",
    "vsibench": "Which of these objects ({options}) is the closest to the {category}?",
}
DIRECTION_EASY_VSI100K = (
    "If I am standing by the {standing} and facing the {facing} "
    "is the {target} to the left or the right of the {facing}?"
)
DIRECTION = {
    "easy": "If I am standing by the {standing} and facing the {facing}, "
    "is the {target} to the left or the right of the {facing}?",
    "medium": "If I am standing by the {standing} and facing the {facing}, "
    "is the {target} to my left, right, or back?\n"
    "An object is to my back if I would have to turn at least 135 degrees in order to face it.",
    "hard": "If I am standing by the {standing} and facing the {facing}, "
    "is the {target} to my front-left, front-right, back-left, or back-right?\n"
    "The directions refer to the quadrants of a Cartesian plane "
    "(if I am standing at the origin and facing along the positive y-axis).",
}

ORDER = "What will be the first-time appearance order of the following categories in the video: {categories}?"
# The benchmark's own sentences differ in small things (written by hand); this is their commonest form.
ROUTE = (
    "You are a robot beginning at the {start} and facing the {facing}. You want to navigate to the {destination}. "
    "You will perform the following actions (Note: for each [please fill in], choose either 'turn back,' "
    "'turn left,' or 'turn right.'): {steps}. You have reached the final destination."
)
ROUTE_FORWARD = "Go forward until the {stop}"
ROUTE_BLANK = "[please fill in]"


def with_distance(sentence: str, distance: str) -> str:
    """Prefix `sentence` with "Measuring from the closest point ..." where `distance` is "closest_point"."""
    if distance == "closest_point":
        return CLOSEST_POINT + sentence[0].lower() + sentence[1:]
    return sentence


def pattern(template: str) -> re.Pattern[str]:
    """Return a pattern that reads the fields of `template` back out of a question; a repeated field must repeat."""
    seen: set[str] = set()

    def field(match: re.Match[str]) -> str:
        name = match[1]
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        return f"(?P<{name}>.+?)"

    escaped = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(re.sub(r"\{(\w+)\}", field, escaped), re.DOTALL)
