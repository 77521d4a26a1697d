"""The provenance in a slide's description: that it is synthetic, and how it was made."""

from __future__ import annotations

import json
from typing import Any

from PIL.PngImagePlugin import PngInfo

BOXES = 3  # of an edit, as many as a row names
WARNING = "Synthetic image made by nasdm-wsi: not for diagnosis."


def provenance(facts: dict[str, Any]) -> str:
    """Return the description of a slide with these facts."""
    return f"{WARNING} {json.dumps(facts)}"


def is_synthetic(description: str) -> bool:
    """Return whether a slide with this description was rendered or edited by this package.

    The provenance of an edit stands behind the description of the slide that was edited.
    """
    return WARNING in description


def png_text(description: str) -> PngInfo:
    """Return the ``pnginfo`` of a picture that is made from a slide with this description."""
    text = PngInfo()
    if is_synthetic(description):
        text.add_itxt("Description", description)
    return text


def facts_of(description: str) -> dict[str, Any]:
    """Return the facts in a description; empty if it is damaged or not of a rendered slide."""
    try:
        _, warning, text = description.rpartition(WARNING)
        facts = json.loads(text) if warning else {}
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def edited_boxes(description: str) -> list[list[float]]:
    """Return the boxes (y0, x0, y1, x1) of an edited slide that were painted anew, if it says."""
    known = facts_of(description).get("known")
    boxes = known.get("boxes") if isinstance(known, dict) else None
    whole = isinstance(boxes, list) and all(isinstance(b, list) and len(b) == 4 for b in boxes)
    return boxes if whole else []  # type: ignore[return-value]


def legible_facts(description: str) -> list[tuple[str, str]]:
    """Return the facts as rows of (name, value), with boxes in the order of the options."""
    rows: list[tuple[str, str]] = []
    for name, value in facts_of(description).items():
        if name == "known" and isinstance(value, dict):
            rows += [(f"edit: {part}", _legible(part, told)) for part, told in value.items()]
        else:
            rows.append((name, _legible(name, value)))
    return rows


def _corner_and_size(y0: float, x0: float, y1: float, x1: float) -> str:
    return " ".join(f"{n:g}" for n in (x0, y0, x1 - x0, y1 - y0))


def _legible(name: str, value: Any) -> str:
    match name, value:
        case "region", [int(y0), int(x0), int(y1), int(x1)]:
            return f"{x0} {y0} {x1 - x0} {y1 - y0} (x, y, width, height)"
        case "canvas", [int(height), int(width)]:
            return f"{width} x {height} pixels"
        case "boxes", [[_, _, _, _], *_]:
            shown = "; ".join(_corner_and_size(*box) for box in value[:BOXES])
            more = f"; and {len(value) - BOXES} more" if len(value) > BOXES else ""
            return f"{shown}{more} (x, y, width, height)"
    if isinstance(value, dict):
        value = [f"{name} {part}" for name, part in value.items()]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
