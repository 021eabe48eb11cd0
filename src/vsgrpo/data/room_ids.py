"""Find the room that a text names: scene ids of ScanNet, ARKitScenes and ScanNet++ in their usual spellings.

An id counts as a whole token only: `scene0025_00`, `scene_0025-00`, `41069025`, `41069025_3607.189`, `09c1414f1b`, but
never eight digits out of a longer number. Percent-encoding, Windows separators, upper case, full-width digits and
invisible characters are undone before. ScanNet scans of one room share `scene0025`; ARKitScenes videos of one visit
share the visit. In prose (questions, thoughts) a bare number counts only beside a word such as "scene" or "video", in a
path, or before a file's extension.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

from vsgrpo.data.id_text import normalize
from vsgrpo.data.row import Row
from vsgrpo.tables import arkitscenes_visits, denied_scenes, scannet_room_splits, split_of

_CACHED_TEXTS = 1 << 14
"""Paths and scene names come again with every question of a scene."""
_KEY = "key "
_PROSE_WORDS = 4
"""A text in `extra` with more words is read as prose."""

_SCANNET = re.compile(r"scene[\s_\-./:#=]{0,2}(\d{4})(?!\d)(?:[_\-./ ]?(\d{2})(?!\d))?")
_SCANNET_NAMED = re.compile(
    r"(?:scan[\s_-]?net(?:[\s_-]?v2)?[\s_\-/]{0,2}|(?<![a-z])scans(?:_test)?/)(\d{4})[_\-](\d{2})(?!\d)"
)
"""A scan by its numbers alone behind the data set's name, or in its folders, also in a sentence."""
_SCANNET_SHORT = re.compile(r"scene[\s_\-]?(\d{1,3})[_\-](\d{1,2})(?!\d)")
"""Numbers without their zeros, where the data set is known: "scene25_0"."""
_SCANNET_BARE = re.compile(r"(?:(?<![0-9a-z])|(?<=scan)|(?<=net)|(?<=scn))(\d{4})[_\-](\d{2})(?!\d)")
_SCANNET_ROOM = re.compile(r"scan[\s_-]?net(?:[\s_-]?v2)?[_\-/]+(\d{4})(?:\.(?:mp4|mov|mkv|avi|webm))?$")
"""A number alone: a whole name, right behind the data set's; elsewhere it is a frame or a question."""
_VIDEO = re.compile(r"(?<!\d)(?:(?<!\d\.)\d{8}(?!\d)|\d{8}(?=\.[a-z]))")
_VISIT = re.compile(r"visit(?:[_ ]?id)?[\W_]{0,6}(\d{6})(?!\d)")
_VISIT_BARE = re.compile(r"(?<![0-9a-z.])(\d{6})(?![0-9a-z])")
_HEX = re.compile(r"(?:(?<![0-9a-f])|(?<=[g-z][a-f])|(?<=[g-z][a-f]{2})|(?<=[g-z][a-f]{3}))[0-9a-f]{10}(?![0-9a-f])")
"""Behind a word, too, whose last letters are hexadecimal digits: "id09c1414f1b", "frame09c1414f1b"."""
_HINT = re.compile(
    r"[0-9]{6}|[0-9]{4}[_-][0-9]|[0-9a-fA-F]{10}|[sS][cC][eE][nN]|[vV][iI][sS][iI]|[nN][eE][tT].{0,4}[0-9]{4}|"
    r"[^\n\r\t -~]|[%&]"
)
_NET_HINT = re.compile(r"[nN][eE][tT].{0,4}[0-9]{4}")
_LOWER = bytes(range(256)).lower()
_FOLD = _LOWER.translate(
    bytes.maketrans(b"123456789-%&" + bytes({*range(32), 127} - {9, 10, 13}), b"000000000_" + b"!" * 32)
)
_FOLD_HEX = _LOWER.translate(bytes.maketrans(b"0123456789abcde", b"f" * 15))
"""Make fixed texts of what `_HINT` looks for: a search for these is ten times as fast."""
_DATASET_HINT = re.compile(r"[sS][cC][aA][nN]|[aA][rR][kK][iI]")
_SHORT = 1024
"""Bytes of a value that may be a name; longer ones are images or videos."""
_OWN_ID = re.compile(r"[0-9a-f]{16}")
"""`rows.row_id`: a hash, whose digits mean nothing."""
_ROOM = re.compile(r"(?:room|scene|scan)(?:_?(?:name|id))?[\W_]{0,6}(\d{6})(?!\d)")
_WORD_BEFORE = re.compile(
    r"(?:(?:scene|scan|video|visit|room|clip|recording|sequence|arkit|source|media|image|movie)[a-z_+]{0,12}"
    r"|file|path|name|key|sample|item|(?<![a-z])(?:u|v|uu)?id)[^0-9a-z]{0,6}$|/$"
)
_NUMBER = re.compile(r"\s*\d+(?:\.0*)?\s*")
_EXTENSION_AFTER = re.compile(r"(?:_[\d.]+)?\.(?:mp4|mov|mkv|avi|webm|png|jpe?g|json|npy|ply|txt)\b|/")
_DATASET = re.compile(
    r"(?P<scannetpp>scan[\s_-]?net[\s_-]?(?:\+\+|pp|plus[\s_-]?plus))|(?P<arkitscenes>(?<![a-z])arkit|arkit(?=[\s_-]?scenes))|"
    r"(?P<scannet>scan[\s_-]?net)"
)
_DATASET_NAME = re.compile(rf"(?:{_DATASET.pattern})(?:[\s_-]?scenes?)?(?:[\s_-]?v?\d)?")


class Found(NamedTuple):
    """A room that a text names."""

    dataset: str
    """scannet, arkitscenes or scannetpp, or the data set of a benchmark's table."""
    room: str
    scene: str
    """The scene or video, in the publisher's spelling; the room where the text names no more than that."""
    is_official: bool
    """The publisher's lists have it."""

    @property
    def label(self) -> str:
        """Name of the room for messages."""
        return room_label(self.dataset, self.room)


def room_label(dataset: str, room: str) -> str:
    """Return the name of a room for messages: ScanNet's ids tell the data set themselves."""
    return room if dataset == "scannet" else f"{dataset}/{room}"


def room_of(scene_name: str) -> str:
    """Return the room a scan shows: "scene0000" of "scene0000_00", the visit of an ARKitScenes video or clip.

    Names without a scan number, and videos whose visit is not published, are their own room.
    """
    if listed := [item.room for item in rooms_in(scene_name) if item.is_official]:
        return listed[0]
    head, _, tail = scene_name.rpartition("_")
    return head if head and tail.isdigit() and len(tail) == 2 else scene_name


def dataset_of_path(text: str) -> str | None:
    """Return scannet, arkitscenes or scannetpp if a path or data set name names it, else None.

    An id that the publisher lists decides; otherwise the last folder or word that names a data set does, in any usual
    spelling ("ScanNetpp", "scannet++", "scannetppv2", "ARkitScenes").
    """
    return _dataset_of(text) if _DATASET_HINT.search(text) or _may_name(text) else None


def dataset_named(text: str) -> str | None:
    """Return scannet, arkitscenes or scannetpp where a text is the data set's name in a usual spelling, else None."""
    named = _DATASET_NAME.fullmatch(normalize(text.strip()))
    return None if named is None else named.lastgroup


@lru_cache(maxsize=_CACHED_TEXTS)
def _dataset_of(text: str) -> str | None:
    listed = (item.dataset for item in rooms_in(text) if item.is_official)
    return next(listed, None) or _named_dataset(normalize(text))


def rooms_in(text: str, *, prose: bool = False, dataset: str | None = None) -> tuple[Found, ...]:
    """Return the rooms that a text names.

    Args:
        text: a name, id, path, or (`prose`) a sentence.
        dataset: the data set it belongs to, if it is known from elsewhere.
    """
    if dataset == "scannet" and not prose and len(text) == 4 and text.isdecimal():
        text = f"{dataset}/{text}"  # a scene named by its number alone
    if not _may_name(text):
        return ()
    return _search(text, prose, dataset) if prose or len(text) > _SHORT else _search_name(text, dataset)


def _search(text: str, prose: bool, dataset: str | None) -> tuple[Found, ...]:
    plain = normalize(text)
    dataset = _named_dataset(plain) or dataset
    found = [*_scannet(plain, dataset, prose), *_arkitscenes(plain, dataset, prose), *_scannetpp(plain, dataset, prose)]
    if (pattern := _other_scenes()) is not None:
        listed = {normalize(scene): (name, scene) for name, scene in denied_scenes()}
        for match in pattern.finditer(plain):
            name, scene = listed[match[0]]
            found.append(Found(name, denied_scenes()[name, scene], scene, True))
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=_CACHED_TEXTS)
def _search_name(text: str, dataset: str | None) -> tuple[Found, ...]:
    return _search(text, False, dataset)


def _named_dataset(plain: str) -> str | None:
    named = [match.lastgroup for match in _DATASET.finditer(plain)]
    return named[-1] if named else None


def _scannet(plain: str, dataset: str | None, prose: bool) -> Iterator[Found]:
    matches = [match.groups() for pattern in (_SCANNET, _SCANNET_NAMED) for match in pattern.finditer(plain)]
    if dataset == "scannet" and not prose:
        matches += [(match[1].zfill(4), match[2].zfill(2)) for match in _SCANNET_SHORT.finditer(plain)]
        matches += [match.groups() for match in _SCANNET_BARE.finditer(plain)]
        matches += [(match[1], None) for match in _SCANNET_ROOM.finditer(plain)]
    for number, scan in matches:
        room = f"scene{number}"
        if scan is not None:
            yield Found("scannet", room, f"{room}_{scan}", split_of(f"{room}_{scan}") is not None)
        else:
            yield Found("scannet", room, room, room in scannet_room_splits())


def _arkitscenes(plain: str, dataset: str | None, prose: bool) -> Iterator[Found]:
    visits = arkitscenes_visits()
    for match in _VIDEO.finditer(plain):
        if (visit := visits.get(match[0])) is not None and (
            not prose or dataset == "arkitscenes" or _in_context(plain, match)
        ):
            yield Found("arkitscenes", visit, match[0], True)
    bare = (_ROOM if prose else _VISIT_BARE,) if dataset == "arkitscenes" else ()
    for visit in (match[1] for pattern in (_VISIT, *bare) for match in pattern.finditer(plain)):
        if visit in _known_visits():
            yield Found("arkitscenes", visit, visit, True)


def _scannetpp(plain: str, dataset: str | None, prose: bool) -> Iterator[Found]:
    for match in _HEX.finditer(plain):
        scene = match[0]
        room = denied_scenes().get(("scannetpp", scene))
        # The full list of scenes is not published as a table; beside the data set's name any id of its form is one.
        is_plain_number = scene.isdigit() and prose and not _in_context(plain, match)
        if dataset == "scannetpp" or (room is not None and not is_plain_number):
            yield Found("scannetpp", room or scene, scene, True)


def _in_context(plain: str, match: re.Match[str]) -> bool:
    before = plain[max(0, match.start() - 24) : match.start()]
    return bool(_WORD_BEFORE.search(before) or _EXTENSION_AFTER.match(plain, match.end()))


def find_rooms(row: Row, *links: str) -> dict[Found, str]:
    """Return the rooms that a row names, each with the text that names it first.

    Looked at: scene, room, id, media paths, `links` (what the paths lead to), `generator`, `extra`, and as prose the
    other texts: question, options, answers, thought, type, split, unit and categories of objects.
    """
    known = _known_names(row.dataset, row.scene_name, row.room, _paths(row), links)
    found = dict(known.named)
    for item in _rooms_of_id(row.id, known.dataset):
        found.setdefault(item, row.id)
    _search_all(_loose_texts(row.extra, row.generator), found, known.dataset)
    spoken = (row.question, *(row.options or ()), row.answer, row.ground_truth, row.rejected or "", row.reasoning or "")
    spoken += (row.question_type, row.split, row.unit or "", *[item["category"] for item in row.objects])
    if _may_name("\n".join(spoken)):
        for text in spoken:
            for item in rooms_in(text, prose=True):
                found.setdefault(item, text)
    return found


def rooms_in_data(data: Any) -> dict[Found, str]:
    """Return the rooms that a JSON value names in keys, texts and whole numbers, each with the text that does."""
    texts = _loose_texts(data)
    hinted = [text for text in texts if _may_name(text)] if _may_name("\n".join(texts)) else []
    found: dict[Found, str] = {}
    if hinted:
        named = (dataset_of_path(text) for text in texts if _DATASET_HINT.search(text) and not _is_prose(text))
        listed = (dataset_of_path(text) for text in hinted if not _is_prose(text))
        _search_all(hinted, found, next(filter(None, (*named, *listed)), None))
    return found


def shown_rooms(row: Row, *links: str) -> list[Found]:
    """Return the rooms that the row's scene name, id and media paths name: those that it shows."""
    known = _known_names(row.dataset, row.scene_name, row.room, _paths(row), links)
    return list(dict.fromkeys([*known.shown, *_rooms_of_id(row.id, known.dataset)]))


class _Names(NamedTuple):
    dataset: str | None
    shown: tuple[Found, ...]
    named: tuple[tuple[Found, str], ...]


def _paths(row: Row) -> tuple[str, ...]:
    return tuple([str(item["path"]) for item in row.media])


@lru_cache(maxsize=_CACHED_TEXTS)
def _known_names(dataset: str, scene: str, room: str, paths: tuple[str, ...], links: tuple[str, ...]) -> _Names:
    """Return what the names say that all rows of a scene have in common."""
    known = next(filter(None, (dataset_of_path(text) for text in (dataset, scene, *paths, *links))), None)
    texts = (scene, *paths, *links)
    shown = {item: text for text in reversed(texts) for item in rooms_in(text, dataset=known)}
    others = {item: text for text in (room, dataset) for item in rooms_in(text, dataset=known)}
    named = {item: shown.get(item, others.get(item, "")) for item in (*shown, *others)}
    return _Names(known, tuple(shown), tuple(named.items()))


def _rooms_of_id(name: str, dataset: str | None) -> tuple[Found, ...]:
    return () if _OWN_ID.fullmatch(name) or not _may_name(name) else rooms_in(name, dataset=dataset)


def _search_all(texts: Sequence[str], found: dict[Found, str], dataset: str | None) -> None:
    for text in texts if texts and _may_name("\n".join(texts)) else ():
        if _may_name(text):
            for item in rooms_in(text, prose=_is_prose(text), dataset=dataset):
                found.setdefault(item, text)


def _is_prose(text: str) -> bool:
    """Tell whether a bare number in the text needs a word beside it: a sentence, or a number behind its key."""
    return text.startswith(_KEY) or len(text.split(None, _PROSE_WORDS)) > _PROSE_WORDS


def _may_name(text: str) -> bool:
    """Tell quickly whether a text, or one of several joined by line ends, can name a room; most cannot."""
    if not text.isascii():
        return _HINT.search(text) is not None or _other_scenes() is not None
    plain = text.encode()
    folded = plain.translate(_FOLD)
    if b"000000" in folded or b"0000_0" in folded or b"scen" in folded or b"visi" in folded or b"!" in folded:
        return True
    if b"net" in folded and _NET_HINT.search(text):
        return True
    return b"ffffffffff" in plain.translate(_FOLD_HEX) or _other_scenes() is not None


def _loose_texts(*values: Any) -> list[str]:
    """Return keys, texts and whole numbers inside JSON values, however deep; a number behind `_KEY` and its key.

    41069025 under "video_id" is a video, under "num_points" or "answer" it is a number.
    """
    texts: list[str] = []
    waiting: list[tuple[str, Any]] = [("", value) for value in values]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, str):
            texts.append(f"{_KEY}{key}: {value}" if not value[:1].isalpha() and _NUMBER.fullmatch(value) else value)
        elif isinstance(value, dict):
            for name, item in value.items():
                name = str(name)
                if not name.replace("_", "").isalpha():  # letters alone name no room
                    texts.append(name)
                if item is not None:
                    waiting.append((name, item))
        elif isinstance(value, (list, tuple)):
            waiting += [(key, item) for item in value]
        elif isinstance(value, float) and value.is_integer():
            waiting.append((key, int(value)))
        elif isinstance(value, bytes) and len(value) <= _SHORT:  # a text column of a parquet file without its type
            waiting.append((key, value.decode(errors="replace")))
        elif type(value) is int and 10**5 <= value < 10**10:
            texts.append(f"{_KEY}{key}: {value}")
    return texts


def forget_texts() -> None:
    """Look at every text anew: other rooms are denied now."""
    for cached in (_search_name, _dataset_of, _known_names):
        cached.cache_clear()


@cache
def _known_visits() -> frozenset[str]:
    return frozenset(arkitscenes_visits().values())


@cache
def _other_scenes() -> re.Pattern[str] | None:
    """Return a pattern of the listed scenes whose data set has no pattern here, None where there are none."""
    own = ("scannet", "arkitscenes", "scannetpp")
    names = sorted((normalize(scene) for name, scene in denied_scenes() if name not in own), key=len, reverse=True)
    return re.compile(rf"(?<![0-9a-z])(?:{'|'.join(map(re.escape, names))})(?![0-9a-z])") if names else None
