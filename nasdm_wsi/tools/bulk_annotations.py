"""Write nuclei as DICOM Microscopy Bulk Simple Annotations (PS3.3 A.87) of a DICOM slide.

Each type of nucleus is a group of polygons in pixels of the slide's finest level: x to the right, y
down, corners of pixels at integers, as in `Nuclei`.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import (
    ExplicitVRLittleEndian,
    MicroscopyBulkSimpleAnnotationsStorage,
    VLWholeSlideMicroscopyImageStorage,
)

from ..annotations.nuclei import Nuclei
from ..annotations.types import TYPES
from ..errors import SlideError
from ..slides.dicom import finest
from ..slides.dicom_attributes import Identity, code, dataset, file_meta

# What the slide and its annotations share: patient, study and equipment.
SHARED = (
    *("SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("PatientComments", "StudyInstanceUID", "StudyID", "StudyDate", "StudyTime"),
    *("StudyDescription", "ReferringPhysicianName", "AccessionNumber", "ContentDate"),
    *("ContentTime", "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber"),
    "SoftwareVersions",
)
CATEGORY = ("91723000", "SCT", "Anatomical Structure")
NUCLEUS = ("84640000", "SCT", "Nucleus")


def write_annotations(path: Path, slide: Path, nuclei: Nuclei) -> None:
    """Write the nuclei, in pixels of ``slide``, to a file; the same nuclei give the same bytes.

    Raises:
        SlideError: the slide is not a DICOM slide.
    """
    image = _image(slide)
    identity = Identity(f"{image.SOPInstanceUID} {nuclei.fingerprint()}")
    data = Dataset()
    for word in SHARED:
        if word in image:
            data[word] = image[word]
    reference = dataset(
        ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID
    )
    series = dataset(
        SeriesInstanceUID=image.SeriesInstanceUID, ReferencedInstanceSequence=[reference]
    )
    types = [number for number in range(1, len(TYPES)) if (nuclei.types == number).any()]
    data.update(
        dataset(
            SOPClassUID=MicroscopyBulkSimpleAnnotationsStorage,
            SOPInstanceUID=identity.uid("annotations"),
            Modality="ANN",
            SeriesInstanceUID=identity.uid("series of annotations"),
            SeriesNumber=2,
            InstanceNumber=1,
            ContentLabel="NUCLEI",
            ContentDescription="Nuclei by type",
            ContentCreatorName="nasdm-wsi^",
            AnnotationCoordinateType="2D",
            PixelOriginInterpretation="VOLUME",
            ReferencedImageSequence=[reference],
            ReferencedSeriesSequence=[series],
            AnnotationGroupSequence=[
                _group(place, nuclei, number, identity) for place, number in enumerate(types, 1)
            ],
        )
    )
    data.file_meta = file_meta(data, ExplicitVRLittleEndian)
    encoded = BytesIO()  # because pydicom adds a traceback to the error of a full disk
    dcmwrite(encoded, data, enforce_file_format=True)
    path.write_bytes(encoded.getbuffer())


def _image(slide: Path) -> Dataset:
    """Return the attributes of the finest level of a DICOM slide."""
    try:
        image = dcmread(finest(slide), stop_before_pixels=True)
    except Exception as error:  # as of pydicom for any other file
        raise SlideError(
            f"{slide}: is not a DICOM slide, so annotations cannot refer to it"
        ) from error
    if image.SOPClassUID != VLWholeSlideMicroscopyImageStorage:
        raise SlideError(f"{slide}: is not a DICOM slide, so annotations cannot refer to it")
    return image


def _group(place: int, nuclei: Nuclei, number: int, identity: Identity) -> Dataset:
    """Return the group of all nuclei of a type, by their outer outlines."""
    rings = nuclei.polygon_offsets[:-1][nuclei.types == number]
    first, last = nuclei.ring_offsets[rings], nuclei.ring_offsets[rings + 1] - 1
    lengths = last - first  # the last vertex of a ring repeats the first
    begin = np.cumsum(lengths) - lengths
    index = np.arange(lengths.sum()) + np.repeat(first - begin, lengths)
    points = nuclei.coords[index].astype("<f4")
    return dataset(
        AnnotationGroupNumber=place,
        AnnotationGroupUID=identity.uid(f"group {number}"),
        AnnotationGroupLabel=TYPES[number],
        AnnotationGroupGenerationType="MANUAL",
        AnnotationPropertyCategoryCodeSequence=[code(*CATEGORY)],
        AnnotationPropertyTypeCodeSequence=[code(*NUCLEUS)],
        AnnotationAppliesToAllOpticalPaths="YES",
        NumberOfAnnotations=len(rings),
        GraphicType="POLYGON",
        PointCoordinatesData=points.tobytes(),
        LongPrimitivePointIndexList=(2 * begin + 1).astype("<u4").tobytes(),
    )
