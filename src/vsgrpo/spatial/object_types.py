"""The records of the types that boxes alone answer beside the benchmark's: families "relations" and "sizes"."""

from __future__ import annotations

from vsgrpo.spatial import object_measures, object_relations
from vsgrpo.spatial.question import QuestionType, wording

_MODES = ("vsi100k", "vsibench", "revsi")


def _in_modes(number: int) -> dict[str, int]:
    return dict.fromkeys(_MODES, number)


TYPES = (
    QuestionType(
        "object_rel_size",
        "choice",
        object_relations.make_rel_size,
        family="relations",
        column="RelSize",
        caps=_in_modes(6),
        pools=_in_modes(60),
        observe=object_relations.observe_rel_size,
        resolve=object_relations.resolve_rel_size,
        aliases=("relative_size_object",),
        sentence=wording("which has the longer longest edge"),
    ),
    QuestionType(
        "object_rel_volume",
        "choice",
        object_relations.make_rel_volume,
        family="relations",
        column="RelVolume",
        caps=_in_modes(6),
        pools=_in_modes(60),
        observe=object_relations.observe_rel_volume,
        resolve=object_relations.resolve_rel_volume,
        sentence=wording("which takes up more space"),
    ),
    QuestionType(
        "object_rel_count",
        "choice",
        object_relations.make_rel_count,
        family="relations",
        column="RelCount",
        caps=_in_modes(4),
        pools=_in_modes(40),
        observe=object_relations.observe_rel_count,
        resolve=object_relations.resolve_rel_count,
        aliases=("relative_count",),
        sentence=wording("which are there more of"),
        untrue="not every instance is visible",
    ),
    QuestionType(
        "object_above_below",
        "choice",
        object_relations.make_above_below,
        family="relations",
        column="Higher",
        caps=_in_modes(6),
        pools=_in_modes(60),
        words=object_relations.HIGHER_WORDS,
        observe=object_relations.observe_above_below,
        resolve=object_relations.resolve_above_below,
        sentence=wording(r"higher up than .+ or lower"),
    ),
    QuestionType(
        "object_abs_direction",
        "number",
        object_relations.make_abs_direction,
        family="relations",
        unit="degrees",
        column="Angle",
        caps=_in_modes(6),
        pools=_in_modes(60),
        observe=object_relations.observe_abs_direction,
        resolve=object_relations.resolve_abs_direction,
        aliases=("absolute_direction_object",),
        sentence=wording("by how many degrees .+ must I turn to face"),
        picture="turn",
    ),
    QuestionType(
        "object_height",
        "number",
        object_measures.make_height,
        family="sizes",
        unit="cm",
        column="Top",
        balance="category",
        needs=("floor",),
        observe=object_measures.observe_height,
        sentence=wording("how high above the floor"),
    ),
    QuestionType(
        "object_footprint",
        "number",
        object_measures.make_footprint,
        family="sizes",
        unit="m2",
        column="Footprint",
        balance="category",
        observe=object_measures.observe_outline,
        resolve=object_measures.resolve_footprint,
        sentence=wording("how much floor .+ cover"),
    ),
    QuestionType(
        "object_volume",
        "number",
        object_measures.make_volume,
        family="sizes",
        unit="m3",
        column="Volume",
        balance="category",
        observe=object_measures.observe_box,
        resolve=object_measures.resolve_volume,
        sentence=wording("how much space .+ take up"),
    ),
)
"""No mode asks these unless data.types lists them."""
