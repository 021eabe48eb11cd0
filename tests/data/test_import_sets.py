"""Rows of published data sets, one made-up row of each form: every field is what the file says."""

import json

import pytest

from vsgrpo.data.frame_true import is_true_at
from vsgrpo.data.importing.answer_values import Refused
from vsgrpo.data.importing.record_to_row import record_to_row
from vsgrpo.data.importing.type_names import question_type_of
from vsgrpo.data.leak_guard import denied_in_data
from vsgrpo.spatial.question_types import QUESTION_TYPES

SCAN = "scene0000_00"
FRAMES = [f"{SCAN}/image_color/{k}.jpg" for k in (0, 20, 40)]
COUNT = "How many chair(s) are in this room?"
PRE = "<image>\nThese are frames of a video.\n"
LETTER = "\nAnswer with the option's letter from the given choices directly."
VIEWS = "What is the camera translation distance from view A to view B (meters)?"


def talk(question, answer):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def vsi590k(kind, question, answer, place="scannet/scene0191_00.mp4"):
    return {"conversations": talk(f"{PRE}{question}", answer), "video": place, "question_type": kind}


def taken(data):
    row = record_to_row(data, "imported").row
    return {
        "type": row.question_type,
        "scene": f"{row.dataset}/{row.scene_name}",
        "answer": row.answer,
        "kind": row.answer_kind,
        "unit": row.unit,
        "options": row.options,
        "question": row.question,
        "media": [item["path"] for item in row.media],
        "kinds": {item["kind"] for item in row.media},
        "frames": row.extra.get("frames"),
    }


NAV = "".join(f"Frame-{k}: <image>\n" for k in range(3))
VSTI = {"id": 1, "dataset": "scannet", "scene_name": SCAN, "video_path": f"scannet/videos/train/{SCAN}.mp4"}
VSTI |= {"frame_indices": [3, 9], "options": ["A. 1.0", "B. 2.0", "C. 3.0"], "question_template": "..."}
HOLI = {"scene_id": SCAN, "image_a": FRAMES[0], "image_b": FRAMES[1], "question_type": "camera"}
HOLI |= {"camera_a": {"intrinsics": [[1.0]], "transform_matrix": [[1.0]]}}
LADDER = {"question_id": 1, "image": FRAMES, "data_type": "video"}
SETS = {
    "SPAR-7M, two views": (
        {"id": "a_1", "image": FRAMES[:2], "type": "distance_infer_oo_mv", "depth": None, "red_point": None}
        | {"conversations": talk("<image>\n<image>\nHow far is the bed from the tv, in meters?", "2.3")},
        {"type": "distance_infer_oo_mv", "scene": f"scannet/{SCAN}", "answer": "2.3", "unit": "m", "kinds": {"image"}},
    ),
    "SPAR-7M, a choice in the text": (
        {"id": "a_2", "image": FRAMES[:1], "type": "obj_spatial_relation_oo"}
        | {"conversations": talk("<image>\nIs the bed left of the tv? \nA. yes\nB. no", "B")},
        {"type": "obj_spatial_relation_oo", "options": ("yes", "no"), "answer": "no"}
        | {"question": "Is the bed left of the tv?"},
    ),
    "SPAR-7M, frames of a video": (
        {"id": "a_3", "image": FRAMES, "type": "nav", "conversations": talk(f"{NAV}{COUNT}", "3")},
        {"type": "object_counting", "question": COUNT, "media": [f"images/{path}" for path in FRAMES], "frames": True},
    ),
    "VG-LLM's copy of SPAR": (
        {"images": FRAMES[:2], "tag": "spar", "spar_info": json.dumps({"type": "depth_prediction_oc_mv"})}
        | {"conversations": talk("<image>\n<image>\nHow deep is the bed?", "2.3 m")},
        {"type": "depth_prediction_oc_mv", "answer": "2.3", "kind": "number", "unit": "m"},
    ),
    "SpatialLadder, spatial": (
        LADDER
        | {"question": "If I am standing by the bed and facing the tv, is the sofa to the left or the right of the tv?"}
        | {"options": ["A. left", "B. right"], "answer": "A", "question_type": "relative direction"},
        {"type": "object_rel_direction_easy", "answer": "left", "scene": f"scannet/{SCAN}", "frames": True},
    ),
    "SpatialLadder, one image": (
        LADDER
        | {"question": COUNT, "answer": 3, "options": None, "image": FRAMES[:1]}
        | {"question_type": "object count", "data_type": "single_image"},
        {"type": "object_counting", "answer": "3", "media": [f"images/{FRAMES[0]}"]},
    ),
    "SpatialLadder, coldstart": (
        {"question_id": 2, "prompt": COUNT, "image": FRAMES, "data_type": "multi_view"}
        | {"solution": "<think>Two here, one there.</think>\n<answer>3</answer>"},
        {"type": "object_counting", "answer": "3", "question": COUNT},
    ),
    "VSI-590K, degrees": (
        vsi590k("absolute_direction_object", "By how many degrees must I turn?", "73", "scannetppv2/0a5c013435.mp4"),
        {"kind": "number", "unit": "degrees", "scene": "scannetpp/0a5c013435"},
    ),
    "VSI-590K, six options": (
        vsi590k("relative_size_object", "Which is it?\nA. bed\nB. tv\nC. sofa\nD. lamp\nE. door\nF. bin" + LETTER, "E"),
        {"answer": "door", "question": "Which is it?", "scene": "scannet/scene0191_00"},
    ),
    "VSI-590K, feet where nothing else is asked": (
        vsi590k("absolute_distance_object", "How far is the bed from the tv?", "5 ft", "arkitscenes/40753679.mp4"),
        {"type": "object_abs_distance", "answer": "1.524", "unit": "m", "scene": "arkitscenes/40753679"},  # 5 x 0.3048
    ),
    "VSI-590K, an image": (
        {"conversations": talk("<image>\nWhich is larger?\nA. bed\nB. tv", "A"), "image": "hypersim/ai_001_001.jpg"}
        | {"question_type": "relative_size_object"},
        {"scene": "hypersim/ai_001_001", "answer": "bed", "kinds": {"image"}},
    ),
    "VSI-Train-10k": (
        {"dataset": "scannetpp", "scene_name": "0a5c013435", "question_type": "relative_distance", "ground_truth": "B"}
        | {"question": "Which of these objects (bed, tv) is the closest to the sofa?", "options": ["A. bed", "B. tv"]},
        {"type": "object_rel_distance", "answer": "tv", "scene": "scannetpp/0a5c013435"},
    ),
    "SpaceR-151k": (
        {"problem_id": 4, "problem": COUNT, "problem_type": "regression", "solution": "<answer>3</answer>"}
        | {"path": f"./scannet/{SCAN}.mp4", "data_source": "SR_dataset", "data_type": "video", "options": []},
        {"type": "object_counting", "answer": "3", "scene": f"scannet/{SCAN}"},
    ),
    "Video-R1, five options": (
        {"problem_id": 1, "problem": "Which is it?", "problem_type": "multiple choice", "path": "./LLaVA/ab.mp4"}
        | {"options": ["A. x", "B. y", "C. z", "D. u", "E. v"], "solution": "<answer>E</answer>", "data_type": "video"},
        {"options": ("x", "y", "z", "u", "v"), "answer": "v"},
    ),
    "VLM-3R, training": (
        {"id": "u", "data_source": "ARkitScenes", "scene_name": "40753679", "question_type": "object_counting"}
        | {"video": "ARkitScenes/videos/train/40753679.mp4", "conversations": talk(f"{PRE}{COUNT}", "3")},
        {"type": "object_counting", "answer": "3", "scene": "arkitscenes/40753679"},
    ),
    "VSTI-Bench, a number beside candidates": (
        VSTI | {"question_type": "camera_displacement", "ground_truth": "2.0", "mc_answer": "B"}
        | {"question": "Approximately how far (in meters) did the camera move between frame 3 and frame 9 of 32?"},
        {"type": "camera_displacement", "answer": "2.0", "kind": "number", "unit": "m", "options": None},
    ),
    "VSTI-Bench, the letter of a number": (
        VSTI
        | {"question_type": "camera_obj_abs_dist", "ground_truth": "C", "mc_answer": "C", "question": "How far is it?"},
        {"type": "camera_obj_abs_dist", "answer": "3.0", "kind": "number", "unit": "m", "options": None},
    ),
    "Vlaser's copy of VSI-100k": (
        {"image": FRAMES, "conversations": talk("".join(f"Image-{k}: <image>\n" for k in (1, 2, 3)) + COUNT, "3")},
        {"question": COUNT, "scene": f"scannet/{SCAN}", "frames": True, "kinds": {"image"}},
    ),
    "Holi-Spatial, a choice": (
        HOLI | {"question": VIEWS, "options": {"A": "1 m", "B": "2 m", "C": "3 m"}, "answer": "C"},
        {"answer": "3 m", "media": [f"images/{path}" for path in FRAMES[:2]]},
    ),
    "Holi-Spatial, a number": (
        HOLI | {"question": "How far is the bed from the tv?", "options": None, "answer": "2.4 m"},
        {"answer": "2.4", "kind": "number", "unit": "m", "scene": f"scannet/{SCAN}"},
    ),
    "MindCube": (
        {"id": "among_1", "type": "among", "category": ["P-P"], "gt_answer": "C", "meta_info": [[1, 2]]}
        | {"images": [f"other_all_image/among/set_7/{side}.jpg" for side in ("front", "left")]}
        | {"question": "From the second view, what is behind me? A. Sofa B. Bed C. Lamp D. Door"},
        {"type": "among", "scene": "imported/set_7", "answer": "Lamp", "options": ("Sofa", "Bed", "Lamp", "Door")},
    ),
    "ReVSI, nothing to count": (
        {"scene_id": "0a5c013435", "num_frames": 16, "question_type": "object_counting_single", "ground_truth": "0"}
        | {"question": "How many chairs are in the scene?", "options": None, "dataset": "ScanNet++"},
        {"type": "object_counting", "answer": "0", "kind": "number", "scene": "scannetpp/0a5c013435"},
    ),
    "ReVSI, a size in metres": (
        {"scene_id": SCAN, "num_frames": 64, "question_type": "object_size_estimation", "ground_truth": "1.9"}
        | {"question": "What is the length of the longest dimension of the bed (in meters)?"},
        {"type": "object_size_in_meters", "answer": "1.9", "unit": "m"},
    ),
    "an angle": (
        {"question": "How far did it turn?", "answer": "73 degrees", "video": f"{SCAN}.mp4"},
        {"answer": "73", "kind": "number", "unit": "degrees"},
    ),
    "LLaMA-Factory, a preference": (
        {"conversations": [{"from": "human", "value": f"<video>{COUNT}"}], "videos": [f"scannet/{SCAN}.mp4"]}
        | {"chosen": {"from": "gpt", "value": "3"}, "rejected": {"from": "gpt", "value": "4"}},
        {"answer": "3", "question": COUNT},
    ),
    "TRL, prompt and completion": (
        {"prompt": [{"role": "user", "content": COUNT}], "completion": [{"role": "assistant", "content": "3"}]}
        | {"video": f"{SCAN}.mp4"},
        {"answer": "3", "question": COUNT},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_a_row_of_every_set_keeps_what_it_says(name):
    data, expected = SETS[name]
    found = taken(data)
    assert {key: found[key] for key in expected} == expected


def test_what_was_said_in_another_unit_stays_beside_the_number():
    row = record_to_row(SETS["VSI-590K, feet where nothing else is asked"][0], "x").row
    assert row.extra["source_answer"] == "5 ft"
    assert "source_answer" not in record_to_row(SETS["VSI-590K, degrees"][0], "x").row.extra
    assert record_to_row(SETS["SpatialLadder, coldstart"][0], "x").row.reasoning == "Two here, one there."


def test_what_a_row_says_of_frames_holds_for_these_alone():
    frames = [record_to_row(SETS[name][0], "x").row for name in (
        "VSTI-Bench, a number beside candidates", "ReVSI, nothing to count", "SPAR-7M, frames of a video")]  # fmt: skip
    assert [frames[0].extra.get(name) for name in ("frames_shown", "true_at")] == [32, None]
    assert [is_true_at(frames[0], number) for number in (16, 32)] == [False, True]
    assert [is_true_at(frames[1], number) for number in (16, 32)] == [True, None]  # ReVSI has another row for 32
    assert is_true_at(frames[2], 16) is None


def test_a_map_is_an_answer_of_its_own_kind():
    said = '<map>{"table": [[0, 3], [5, 7]], "chair": [[9, 3]]}</map>'
    talk = [{"role": "user", "content": "<video>Draw the map."}, {"role": "assistant", "content": said}]
    row = record_to_row({"messages": talk, "videos": [f"{SCAN}.mp4"], "question_type": "object_map"}, "x").row
    assert (row.answer_kind, row.answer, row.ground_truth, row.options) == ("map", said, said, None)


def test_the_wrong_answer_of_a_preference_is_read_in_every_form():
    prompt, right, wrong = ([{"role": role, "content": text}] for role, text in
                            (("user", COUNT), ("assistant", "3"), ("assistant", "4")))  # fmt: skip
    forms = [
        SETS["LLaMA-Factory, a preference"][0],
        {"prompt": prompt, "chosen": right, "rejected": wrong, "video": f"{SCAN}.mp4"},
        {"chosen": [*prompt, *right], "rejected": [*prompt, *wrong], "video": f"{SCAN}.mp4"},
        {"messages": [*prompt, *right], "rejected_response": "4", "videos": [f"{SCAN}.mp4"]},
    ]
    rows = [record_to_row(data, "x").row for data in forms]
    assert [(row.question, row.answer, row.rejected) for row in rows] == [(COUNT, "3", "4")] * 4


VSI_590K_TYPES = {
    "absolute_count": "object_counting",
    "absolute_distance_object": "object_abs_distance",
    "absolute_size_object": "object_size_estimation",
    "absolute_size_room": "room_size_estimation",
    "relative_distance_object": "object_rel_distance",
    "appearance_order": "obj_appearance_order",
    "absolute_direction_object": "object_abs_direction",
    "relative_size_object": "object_rel_size",
    "relative_count": "object_rel_count",
    "relative_distance_camera": "camera_nearest",
    "relative_direction_camera": "object_where_now",
}


@pytest.mark.parametrize("name", VSI_590K_TYPES)
def test_types_of_vsi590k_have_our_names(name):
    ours = VSI_590K_TYPES[name]
    assert question_type_of("What is it?", name) == (ours if ours in QUESTION_TYPES else name)


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ("is the tv to the left or the right of the sofa?", "object_rel_direction_easy"),
        ("is the tv to my left, right, or back?", "object_rel_direction_medium"),
        ("is the tv to my front-left, front-right, back-left, or back-right?", "object_rel_direction_hard"),
    ],
)
def test_the_sentence_decides_how_hard_a_direction_is(asked, kind):
    standing = f"If I am standing by the bed and facing the sofa, {asked}"
    for name in ("relative_direction_object", "object_rel_direction_forward_easy", "object_rel_direction_v1", None):
        assert question_type_of(standing, name) == kind
    behind = "If I am standing by the bed with the sofa behind me, is the tv to my left, right, or back?"
    opposite = behind.replace("with the sofa behind me", "and facing the opposite direction of the sofa")
    for question in (behind, opposite):
        for name in ("object_rel_direction_backward_easy", "object_rel_direction_backward", "relative direction", None):
            assert question_type_of(question, name) == "object_rel_direction_backward"


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("How many chair(s) and table(s) are in the scene in total?", "object_counting_multiple"),
        ("How many chairs are in the scene?", "object_counting"),
        ("Which of these objects (bed, tv) is the farthest from the sofa?", "object_rel_distance_farthest"),
        ("Which of these objects (bed, tv) is the closest to the sofa?", "object_rel_distance"),
    ],
)
def test_a_type_is_known_by_its_sentence(question, kind):
    assert question_type_of(question) == kind


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"red_point": [[500, 200]]}, "objects marked in the pictures"),
        ({"spar_info": json.dumps({"type": "depth_prediction_oc", "blue_bbox": [[1, 2, 3, 4]]})}, "objects marked"),
        ({"image": [FRAMES[0], "scene0001_00/image_color/3.jpg"]}, "name several scans"),
        ({"image": FRAMES, "scene_name": "scene0001_00"}, "name several scans"),
        ({"image": FRAMES, "video_path": "scannet/scene0001_00.mp4"}, "several scans|a video and images"),
        ({"image": ["scannetpp/0a5c013435/1.jpg", "scannetppv2/036bce3393/1.jpg"]}, "name several scans"),
        ({"image": ["a/1.jpg", "b/1.jpg"]}, "no scene"),
        ({"image": [{"bytes": b"x", "path": None}]}, "pictures inside the file"),
        ({"data_type": "audio"}, "about audios"),
        ({"answer": [{"bbox_2d": [1, 2, 3, 4], "label": "bed"}]}, "no answer|not a number"),
        ({"history": [["Hello?", "Yes."]]}, "several rounds"),
    ],
)
def test_what_a_row_cannot_say_is_refused(data, reason):
    with pytest.raises(Refused, match=reason):
        record_to_row({"question": COUNT, "answer": "3", "image": FRAMES} | data, "imported")


@pytest.mark.parametrize(
    ("paths", "scene"),
    [
        ([f"scannetpp/0a5c013435/dslr/images/DSC0{k}.JPG" for k in (1, 2)], "scannetpp/0a5c013435"),
        (["scannetpp_v2/data/0a5c013435/iphone/rgb/frame_0000012345.jpg"] * 2, "scannetpp/0a5c013435"),
        (["ARkitScenes/40753679/lowres_wide/40753679_3607.189.png"] * 2, "arkitscenes/40753679"),
        (["3dod/Training/40777060/frames/1.png"] * 2, "arkitscenes/40777060"),
        ([f"scannet/scans/scene0000_00/color/001{k}_34.jpg" for k in (2, 3)], f"scannet/{SCAN}"),
        (["structured3d/scene_00011/rgb/1.jpg", "structured3d/scene_00011/rgb/2.jpg"], "structured3d/scene_00011"),
        (["hypersim/ai_001_001/images/1.jpg", "hypersim/ai_001_001/images/2.jpg"], "hypersim/ai_001_001"),
        (["mine/kitchen/rgb/1.jpg", "mine/kitchen/rgb/2.jpg"], "imported/kitchen"),
        (["procthor/house_12.jpg"], "procthor/house_12"),
        (["procthor/0012.jpg"], "procthor/0012"),
        (["mine/kitchen/rgb/1.jpg"], "imported/kitchen"),
        (["Math/Geometry/triangle_a.png"], "imported/triangle_a"),
    ],
)  # fmt: skip
def test_the_scene_of_frames_is_in_their_paths(paths, scene):
    assert taken({"question": COUNT, "answer": "3", "images": paths})["scene"] == scene


@pytest.mark.parametrize("video", ["41159525", "41159521", "3e8bba0176", "scene0025_00"])
@pytest.mark.parametrize("name", SETS)
def test_no_form_hides_a_benchmark_room(name, video):
    """41159525 and 3e8bba0176 are videos of VSI-Bench, 41159521 shows the room of the first, scene0025_00 is a scan."""
    dataset = "scannetpp" if video == "3e8bba0176" else "arkitscenes" if video.startswith("4") else "scannet"
    text = json.dumps(SETS[name][0])
    for other in (SCAN, "scene0191_00", "0a5c013435", "40753679", "ai_001_001", "set_7", "LLaVA/ab"):
        text = text.replace(other, f"{dataset}/{video}" if "/" in other else video)
    assert denied_in_data(json.loads(text)), text
