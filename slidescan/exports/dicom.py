"""Maps as DICOM: a float32 Parametric Map, and a binary Segmentation of the regions.

Both have the pixel grid and the tiles of one level of the slide, so that a viewer that shows the
slide shows them in place (slim #321 has what happens to other grids). A pixel has the value of the
cell that its centre lies in. NaN, which says that nothing was scanned, is the Float Pixel Padding
Value, as DICOM PS3.3 C.7.6.24 allows. Tiles of which nothing was scanned are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, BinaryIO

import highdicom as hd
import numpy as np
from highdicom.spatial import PixelToReferenceTransformer
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from skimage.draw import polygon

from slidescan.exports.dicom_series import Source
from slidescan.geometry import Box
from slidescan.maps.regions import Region
from slidescan.maps.store import Heatmap
from slidescan.protocols import Bar

SERIES = {"map": 9001, "regions": 9002}
"""Numbers of the new series; those of a slide's own series are small."""


@dataclass(frozen=True, slots=True)
class Maker:
    """The model that made a map, as DICOM names devices: texts of up to 64 characters."""

    model: str
    sha256: str
    """of its weights"""

    @property
    def name(self) -> str:
        """slidescan and the model. DICOM separates values by backslashes."""
        return f"slidescan {self.model}".replace("\\", "/")[:64]


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles of a level that have values."""

    boxes: list[Box]
    """level px; may reach beyond the level"""
    values: BinaryIO
    """(tiles, rows, columns) of little-endian float32, NaN where nothing was scanned"""


def tiles(heatmap: Heatmap, source: Source, values: BinaryIO, bar: Bar) -> Tiles:
    """Resample a map to a level of its slide, and write it to `values` tile by tile.

    Raises MapError.

    Where the level is coarser than the cells, values are means of cells, as in the map's own
    coarser levels; an unfinished map has none, and gives single cells.
    """
    level = source.level
    cell_um = heatmap.mpp * heatmap.grid.stride
    at = 0
    while heatmap.complete and at + 1 < len(heatmap.shapes):
        if cell_um * 2 ** (at + 1) > min(level.mpp):
            break
        at += 1
    cells = heatmap.shapes[at]
    step = [mpp / (cell_um * 2**at) for mpp in level.mpp]
    boxes: list[Box] = []
    empty = np.full(source.tile_px, np.nan, "<f4")
    for box in _lattice(source):
        rows, columns = (
            ((np.arange(start, stop) + 0.5) * each).astype(int)
            for start, stop, each in zip((box.y0, box.x0), (box.y1, box.x1), step, strict=True)
        )
        held = Box(rows[0], columns[0], rows[-1] + 1, columns[-1] + 1).clip(Box(0, 0, *cells))
        bar.update(1)
        if not held.area:
            continue
        part = heatmap.read(held, at)
        if not np.isfinite(part).any():
            continue
        tile = empty.copy()
        inside = np.ix_(rows < held.y1, columns < held.x1)
        tile[inside] = part[
            np.ix_(rows[rows < held.y1] - held.y0, columns[columns < held.x1] - held.x0)
        ]
        values.write(tile.tobytes())
        boxes.append(box)
    if not boxes:  # a file without a frame is not valid
        boxes = [next(_lattice(source))]
        values.write(empty.tobytes())
    return Tiles(boxes, values)


def count_tiles(source: Source) -> int:
    """How often `tiles` advances its bar."""
    return sum(1 for _ in _lattice(source))


def _lattice(source: Source) -> Iterator[Box]:
    """Every tile of a level, row by row; those at its ends are whole and reach beyond it."""
    (height, width), (rows, columns) = source.level.shape_px, source.tile_px
    for y in range(0, height, rows):
        for x in range(0, width, columns):
            yield Box(y, x, y + rows, x + columns)


def parametric_map(made: Tiles, source: Source, by: Maker) -> hd.pm.ParametricMap:
    """Values as a Parametric Map in a series of its own.

    Its pixels stay in the file `made.values` and are copied when the map is saved.
    """
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="P(tumour)",
        lut_explanation="Probability of tumour in 32 x 32 px",
        unit=codes.UCUM.NoUnits,
        value_range=(0.0, 1.0),
        slope=1.0,
        intercept=0.0,
        quantity_definition=codes.DCM.ProbabilityOfCancer,
    )
    found = hd.pm.ParametricMap(
        # highdicom would hold the values four times. It gets one pixel of each tile.
        pixel_array=np.zeros((len(made.boxes), 1, 1), np.float32),
        plane_positions=_positions(made.boxes, source.instance),
        pixel_measures=_measures(source.instance),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=0.5, window_width=1.0)],
        content_qualification=hd.ContentQualificationValues.RESEARCH,
        content_label="P_TUMOUR",
        content_description="P(tumour) by slidescan, research use only",
        dimension_organization_type=hd.DimensionOrganizationTypeValues.TILED_SPARSE,
        **_common("map", source, by),
    )
    # highdicom takes the tiles that are there for the whole matrix.
    for name in (
        "TotalPixelMatrixOriginSequence", "TotalPixelMatrixRows", "TotalPixelMatrixColumns"
    ):  # fmt: skip
        setattr(found, name, deepcopy(getattr(source.instance, name)))
    found.Rows, found.Columns = source.tile_px
    made.values.seek(0)
    found.FloatPixelData = made.values
    found.FloatPixelPaddingValue = float("nan")
    found.FloatPixelPaddingRangeLimit = float("nan")
    return found


def _measures(instance: Dataset) -> hd.PixelMeasuresSequence:
    """The pixel grid of an instance. Not every slide records how thick its section is."""
    measures = instance.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    return hd.PixelMeasuresSequence(measures.PixelSpacing, measures.get("SliceThickness"))


def segmentation(
    regions: Sequence[Region], source: Source, mpp_l0: tuple[float, float], by: Maker
) -> hd.seg.Segmentation:
    """Regions as one segment of a binary Segmentation; `mpp_l0` is um/px of level 0, (y, x)."""
    mask = drawn(regions, source, mpp_l0)
    algorithm = hd.AlgorithmIdentificationSequence(
        name=by.name,
        version=version("slidescan"),
        family=codes.cid7162.ArtificialIntelligence,
        parameters={"weights_sha256": by.sha256},
    )
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Candidates for tumour",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )
    found = hd.seg.Segmentation(
        pixel_array=mask,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        tile_pixel_array=True,
        omit_empty_frames=bool(mask.any()),  # a file without a frame is not valid
        content_label="REGIONS",
        content_description="Regions of P(tumour) by slidescan, research only",
        **_common("regions", source, by),
    )
    return found


def drawn(
    regions: Sequence[Region], source: Source, mpp_l0: tuple[float, float]
) -> NDArray[np.uint8]:
    """Which pixels of a level have their centre in a region, (rows, columns) of 0 and 1."""
    level = source.level
    scale = [own / each for own, each in zip(mpp_l0[::-1], level.mpp[::-1], strict=True)]
    mask = np.zeros(level.shape_px, np.uint8)
    for region in regions:
        left, top, right, bottom = region.outline.bounds
        box = Box(
            int(top * scale[1]),
            int(left * scale[0]),
            int(bottom * scale[1]) + 1,
            int(right * scale[0]) + 1,
        ).clip(Box(0, 0, *level.shape_px))
        inside = np.zeros(box.shape, np.bool_)
        rings = [
            (region.outline.exterior, True),
            *((hole, False) for hole in region.outline.interiors),
        ]
        for ring, within in rings:
            x, y = (np.asarray(ring.coords) * scale).T
            # Whole numbers are the centres of pixels here.
            corners = y - 0.5 - box.y0, x - 0.5 - box.x0
            covered = polygon(*corners, box.shape)  # type: ignore[no-untyped-call]  # no types
            inside[covered] = within
        mask[box.slices] |= inside
    return mask


def _common(kind: str, source: Source, by: Maker) -> dict[str, Any]:
    return {
        "source_images": [source.instance],
        "series_instance_uid": hd.UID(),
        "series_number": SERIES[kind],
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        "manufacturer": "slidescan",
        "manufacturer_model_name": by.name,
        "software_versions": version("slidescan"),
        "device_serial_number": by.sha256[:64],
        "series_description": f"slidescan {kind}, research use only",
    }


def _positions(boxes: Sequence[Box], instance: Dataset) -> list[hd.PlanePositionSequence]:
    """Where tiles lie on the level and on the glass."""
    origin = instance.TotalPixelMatrixOriginSequence[0]
    measures = instance.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    on_glass = PixelToReferenceTransformer(
        image_position=(
            origin.XOffsetInSlideCoordinateSystem,
            origin.YOffsetInSlideCoordinateSystem,
            origin.get("ZOffsetInSlideCoordinateSystem", 0.0),
        ),
        image_orientation=instance.ImageOrientationSlide,
        pixel_spacing=measures.PixelSpacing,
    )
    corners = on_glass(np.array([(box.x0, box.y0) for box in boxes]))
    return [
        hd.PlanePositionSequence(
            coordinate_system=hd.CoordinateSystemNames.SLIDE,
            image_position=corner.tolist(),
            pixel_matrix_position=(box.x0 + 1, box.y0 + 1),  # counted from 1
        )
        for box, corner in zip(boxes, corners, strict=True)
    ]
