"""The attributes of a synthetic slide in DICOM: VL Whole Slide Microscopy Image (PS3.3 A.32.8).

Every attribute that would tell of a patient, a specimen, a scanner or a time says instead that the
slide is synthetic, or is a fixed value. UIDs follow from how the slide was made, so that the same
render gives the same files.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL.ImageCms import ImageCmsProfile, createProfile
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, VLWholeSlideMicroscopyImageStorage

from .pyramid import objective_power

NAMESPACE = uuid.UUID("6f9d5a52-2a4b-5b0e-9d0f-5b1f0c1f7a52")  # of our UIDs
NO_DATE, NO_TIME = "19700101", "000000"  # a synthetic slide was never scanned
SYNTHETIC = "SYNTHETIC"
CORNER = (20.0, 50.0)  # millimetres: where the picture begins on the glass
LONGEST = 10240  # characters of ImageComments


@dataclass(frozen=True)
class Identity:
    """What the UIDs of a slide follow from.

    Attributes:
        made: how the slide was made, so that no other picture has it.
    """

    made: str

    def uid(self, role: str) -> UID:
        """Return the UID of a thing, such as the study, under the root of UUIDs (PS3.5 B.2)."""
        return UID(f"2.25.{uuid.uuid5(NAMESPACE, f'{role}: {self.made}').int}")


@dataclass(frozen=True)
class Instance:
    """A file of the slide.

    Attributes:
        number: that tells instances apart, from 1.
        kind: VOLUME for a level, else THUMBNAIL, LABEL or OVERVIEW.
        size: (h, w) of the picture.
        tile: (h, w) of a frame.
        spacing: millimetres per pixel, down and across.
        resampled: whether it is made of a finer level.
        encoding: of the frames, in words.
        lossless: whether the frames are JPEG 2000 without loss; otherwise they are JPEG.
    """

    number: int
    kind: str
    size: tuple[int, int]
    tile: tuple[int, int]
    spacing: tuple[float, float]
    resampled: bool
    encoding: str
    lossless: bool = False

    @property
    def image_type(self) -> list[str]:
        """The values of ImageType."""
        return ["DERIVED", "PRIMARY", self.kind, "RESAMPLED" if self.resampled else "NONE"]

    @property
    def frames(self) -> int:
        """Number of frames: the tiles of the picture."""
        (h, w), (down, across) = self.size, self.tile
        return -(-h // down) * -(-w // across)


def attributes(
    instance: Instance, identity: Identity, *, mpp: float, description: str, version: str
) -> Dataset:
    """Return all attributes of an instance but those that depend on its encoded frames.

    Args:
        mpp: micrometres per pixel of the finest level.
        description: goes into ImageComments, which is cut after 10,240 characters.
        version: of this package.
    """
    data = Dataset()
    for module in (_subject(identity), _equipment(version), _specimen(identity)):
        data.update(module)
    data.update(_image(instance))
    data.update(_tiling(instance, identity))
    data.update(_optics(mpp))
    data.SOPInstanceUID = identity.uid(f"instance {instance.number}")
    data.InstanceNumber = instance.number
    data.ImageComments = description[:LONGEST]
    if instance.kind == "VOLUME":
        data.PyramidUID = identity.uid("pyramid")
    if instance.kind in ("LABEL", "OVERVIEW"):
        data.LabelText, data.BarcodeValue = "SYNTHETIC: not for diagnosis", ""
    return data


def file_meta(data: Dataset, syntax: UID) -> FileMetaDataset:
    """Return the file meta information of an instance (PS3.10 7.1)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = data.SOPClassUID
    meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    return meta


def _subject(identity: Identity) -> Dataset:
    """Return the patient, study, series and frame of reference."""
    return dataset(
        SpecificCharacterSet="ISO_IR 192",
        SOPClassUID=VLWholeSlideMicroscopyImageStorage,
        PatientName="Synthetic^Slide",
        PatientID=SYNTHETIC,
        PatientBirthDate="",
        PatientSex="",
        PatientComments="Synthetic picture, in whole or in part: not for diagnosis.",
        StudyInstanceUID=identity.uid("study"),
        StudyID=SYNTHETIC,
        StudyDate=NO_DATE,
        StudyTime=NO_TIME,
        StudyDescription="Synthetic slide: not for diagnosis",
        ReferringPhysicianName="",
        AccessionNumber="",
        Modality="SM",
        SeriesInstanceUID=identity.uid("series"),
        SeriesNumber=1,
        SeriesDescription="Synthetic H&E: not for diagnosis",
        FrameOfReferenceUID=identity.uid("frame of reference"),
        PositionReferenceIndicator="SLIDE_CORNER",
        ContentDate=NO_DATE,
        ContentTime=NO_TIME,
        AcquisitionDateTime=NO_DATE + NO_TIME,
    )


def _equipment(version: str) -> Dataset:
    return dataset(
        Manufacturer="nasdm-wsi",
        ManufacturerModelName="nasdm-wsi",
        DeviceSerialNumber=SYNTHETIC,
        SoftwareVersions=version,
    )


def _specimen(identity: Identity) -> Dataset:
    """Return the container and a specimen that was never one, stained with H&E."""
    step = [
        _item("TEXT", ("121041", "DCM", "Specimen Identifier"), SYNTHETIC),
        _item("CODE", ("111701", "DCM", "Processing type"), code("127790008", "SCT", "Staining")),
        *(
            _item("CODE", ("424361007", "SCT", "Using substance"), code(number, "SCT", name))
            for number, name in (
                ("12710003", "hematoxylin stain"),
                ("36879007", "water soluble eosin stain"),
            )
        ),
    ]
    specimen = dataset(
        SpecimenIdentifier=SYNTHETIC,
        SpecimenUID=identity.uid("specimen"),
        IssuerOfTheSpecimenIdentifierSequence=[],
        SpecimenShortDescription="Synthetic: not for diagnosis",
        SpecimenPreparationSequence=[dataset(SpecimenPreparationStepContentItemSequence=step)],
    )
    return dataset(
        ContainerIdentifier=SYNTHETIC,
        IssuerOfTheContainerIdentifierSequence=[],
        ContainerTypeCodeSequence=[code("433466003", "SCT", "Microscope slide")],
        SpecimenDescriptionSequence=[specimen],
        AcquisitionContextSequence=[],
    )


def _image(instance: Instance) -> Dataset:
    """Return how the pixels are stored."""
    lossy = {} if instance.lossless else {"LossyImageCompressionMethod": "ISO_10918_1"}
    return dataset(
        **lossy,
        ImageType=instance.image_type,
        NumberOfFrames=instance.frames,
        Rows=instance.tile[0],
        Columns=instance.tile[1],
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB" if instance.lossless else "YBR_FULL_422",
        PlanarConfiguration=0,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        BurnedInAnnotation="NO",
        LossyImageCompression="00" if instance.lossless else "01",
        DerivationDescription=f"Painted by nasdm-wsi, in whole or in part; {instance.encoding}",
        VolumetricProperties="VOLUME",
        SpecimenLabelInImage="YES" if instance.kind in ("LABEL", "OVERVIEW") else "NO",
        FocusMethod="AUTO",
        ExtendedDepthOfField="NO",
    )


def _tiling(instance: Instance, identity: Identity) -> Dataset:
    """Return where the frames lie: TILED_FULL, in raster order from the top left."""
    (h, w), (down, across) = instance.size, instance.spacing
    organization = identity.uid("dimensions")
    measures = dataset(
        PixelSpacing=[_decimal(down), _decimal(across)],
        SliceThickness=_decimal(0.004),
        SpacingBetweenSlices=_decimal(0.004),
    )
    shared = dataset(
        PixelMeasuresSequence=[measures],
        WholeSlideMicroscopyImageFrameTypeSequence=[dataset(FrameType=instance.image_type)],
        OpticalPathIdentificationSequence=[dataset(OpticalPathIdentifier="1")],
    )
    x, y = CORNER
    return dataset(
        TotalPixelMatrixColumns=w,
        TotalPixelMatrixRows=h,
        TotalPixelMatrixFocalPlanes=1,
        TotalPixelMatrixOriginSequence=[
            dataset(
                XOffsetInSlideCoordinateSystem=_decimal(x),
                YOffsetInSlideCoordinateSystem=_decimal(y),
            )
        ],
        ImageOrientationSlide=["0", "-1", "0", "-1", "0", "0"],
        ImagedVolumeWidth=w * across,
        ImagedVolumeHeight=h * down,
        ImagedVolumeDepth=0.004,
        DimensionOrganizationType="TILED_FULL",
        DimensionOrganizationSequence=[dataset(DimensionOrganizationUID=organization)],
        SharedFunctionalGroupsSequence=[shared],
    )


def _optics(mpp: float) -> Dataset:
    path = dataset(
        OpticalPathIdentifier="1",
        OpticalPathDescription="Brightfield, as if: synthetic",
        IlluminationTypeCodeSequence=[code("111744", "DCM", "Brightfield illumination")],
        IlluminationColorCodeSequence=[code("414298005", "SCT", "Full Spectrum")],
        ObjectiveLensPower=_decimal(objective_power(mpp)),
        ICCProfile=srgb_profile(),
        ColorSpace="SRGB",
    )
    return dataset(NumberOfOpticalPaths=1, OpticalPathSequence=[path])


@cache
def srgb_profile() -> bytes:
    """Return an ICC profile of sRGB, as of an input device (PS3.3 C.11.15), the same every time."""
    profile = bytearray(ImageCmsProfile(createProfile("sRGB")).tobytes())
    profile[12:16] = b"scnr"
    profile[24:36] = bytes.fromhex("07b200010001000000000000")  # the date: 1970, January 1
    return bytes(profile) + bytes(len(profile) % 2)


def dataset(**values: Any) -> Dataset:
    """Return a dataset of these attributes; the value of a sequence is a list of datasets."""
    data = Dataset()
    for keyword, value in values.items():
        if keyword.endswith("Sequence"):
            value = Sequence(value)
        setattr(data, keyword, value)
    return data


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """Return a coded value."""
    return dataset(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _item(kind: str, name: tuple[str, str, str], value: Any) -> Dataset:
    """Return a content item: a name and its value, a text or a code."""
    told = {"TextValue": value} if kind == "TEXT" else {"ConceptCodeSequence": [value]}
    return dataset(ValueType=kind, ConceptNameCodeSequence=[code(*name)], **told)


def _decimal(number: float) -> str:
    """Return a number as DICOM's decimal string, of at most 16 characters."""
    return f"{number:.10g}"
