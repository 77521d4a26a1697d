"""MATLAB files of HoVer-Net's tile mode and of CoNSeP: instances, and numbers for their types.

HoVer-Net: Simultaneous Segmentation and Classification of Nuclei in Multi-Tissue Histology Images,
Graham et al. 2019. Both have ``inst_map`` (h, w). HoVer-Net's ``inst_type`` (n, 1) belongs to the
``inst_uid`` (n, 1); CoNSeP's ``type_map`` (h, w) has the type of each pixel. The meaning of a
number depends on the weights or data set; the numbers are used as class names.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import AnnotationError
from ..isolated import IsolatedError
from .contents import Contents, Format, Reading, Source
from .dense import commonest, dense
from .labels import named, of_image
from .parsers import mat_names, mat_variables
from .types import UNTYPED

FIELDS = ("inst_map", "type_map", "inst_type", "inst_uid")


def read_instances(source: Source) -> tuple[np.ndarray, list[str]]:
    """Return instances int (h, w), 0 = none, and the class names of instances 1, 2, ...

    Raises:
        AnnotationError: a damaged file, or types that do not fit the instances.
    """
    try:
        fields = mat_variables(source.path, FIELDS, source.max_pixels)
        instances, ids = dense(fields.pop("inst_map"))
        return instances, _names(fields, instances, ids)
    except (IsolatedError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise AnnotationError(
            f"{source.path}: inst_map and the types do not match ({' '.join(str(error).split())}): "
            "export it again"
        ) from error


def _names(fields: dict, instances: np.ndarray, ids: np.ndarray) -> list[str]:
    """Return the class name of each instance, from whichever field contains it."""
    if "type_map" in fields:
        types = commonest(instances, np.asarray(fields["type_map"]))
    elif "inst_type" in fields:
        types = np.ravel(fields["inst_type"])
        if "inst_uid" in fields:
            of_id = dict(zip(np.ravel(fields["inst_uid"]).tolist(), types.tolist(), strict=True))
            types = np.array([of_id[k] for k in ids.tolist()])
    else:
        return [UNTYPED] * len(ids)
    if len(types) != len(ids):
        raise ValueError(f"{len(types)} types for {len(ids)} instances")
    return [f"{int(kind)}" for kind in types]


def fields_of(path: Path) -> set[str]:
    """Return the names of the variables in a MATLAB file; none if it is damaged."""
    try:
        return mat_names(path)
    except IsolatedError:
        return set()


def is_hovernet(path: Path) -> bool:
    """Return whether a MATLAB file is HoVer-Net's or CoNSeP's, and not Lizard's."""
    fields = fields_of(path)
    return "inst_map" in fields and not {"id", "class"} & fields


def _sniff(source: Source) -> bool:
    return source.magic.startswith(b"MATLAB 5") and is_hovernet(source.path)


def _read(source: Source, reading: Reading) -> Contents:
    instances, names = read_instances(source)
    nuclei = of_image(named(instances, names, reading), instances.shape)
    return Contents(FORMAT.name, nuclei, reading.findings)


FORMAT = Format("HoVer-Net or CoNSeP labels", _sniff, _read)
