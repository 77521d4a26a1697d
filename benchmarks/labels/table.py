"""Write the table of pictures, for `nasdm-wsi prepare`, of the four collections of colon.

    python benchmarks/labels/table.py DATA TABLE.json [--nuclei NUCLEI] [--regions REGIONS]
        [--only SET ...] [--names NAME ...]

DATA is what `pictures.py` describes; NUCLEI and REGIONS are the folders of pseudo-labels that
`nuclei.py` and `regions.py` write. Labels that nobody published are called pseudo in the table. Of
pictures that two collections hold, prepare keeps the one with published nuclei. To get the dataset
of Lizard and CoNSeP at its true scale:

    python benchmarks/labels/table.py DATA lizard-consep.json --only lizard consep
    nasdm-wsi prepare lizard-consep.json -o colon-true
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pictures import INK, SETS, Picture, glas_rows, pictures

MPP = 0.5  # of the pictures after enlargement
# What `pictures.json` of GlaS says of a picture, as the table says it.
HISTOLOGIES = {"healthy": "normal", "adenomatous": "adenoma"}
# Tiles of CoNSeP that Lizard holds as well.
SAME = {"train_16": "consep_12", "train_27": "consep_7"}


def row(picture: Picture, nuclei: Path | None, regions: Path | None) -> dict[str, str | float]:
    """The row of a picture."""
    published = picture.set in ("lizard", "consep")
    facts: dict[str, str | float] = {
        "image": str(picture.path.resolve()),
        "name": picture.name if published else picture.key,
        "mpp": MPP * picture.scale,
        "collection": picture.set,
    }
    pseudo = []
    if picture.set == "lizard":
        facts["nuclei"] = str(picture.path.with_name(f"{picture.name}_classes.png").resolve())
    elif picture.set == "consep":
        facts["nuclei"] = str((picture.data / f"consep-20x/labels/{picture.name}.mat").resolve())
        facts["same_as"] = SAME.get(picture.name, "")
    elif nuclei and (file := nuclei / f"{picture.key}.npz").exists():
        facts["nuclei"] = str(file.resolve())
        pseudo.append("nuclei")
    if regions and (file := regions / f"{picture.key}.png").exists():
        facts["regions"] = str(file.resolve())
        pseudo.append("regions")
    return {**facts, **of_glas(picture), "pseudo": " ".join(pseudo)}


def of_glas(picture: Picture) -> dict[str, str]:
    """Patient and histology of a GlaS picture, also of one in Lizard, and its copy there."""
    rows = glas_rows(picture.data)
    for name, own in rows.items():
        here = picture.set == "glas" and name == picture.name
        if here or own.get("lizard") == picture.name:
            histology = HISTOLOGIES.get(own["histology"], "carcinoma")
            facts = {"patient": f"glas {own['patient']}", "histology": histology}
            return facts | ({"same_as": own.get("lizard", "")} if here else {})
    return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--nuclei", type=Path)
    parser.add_argument("--regions", type=Path)
    parser.add_argument("--only", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--names", nargs="+", help="only these pictures, as the table calls them")
    options = parser.parse_args()
    chosen = [p for p in pictures(options.data, *options.only, copies=True)]
    chosen = [p for p in chosen if p.set != "consep" or p.name not in INK]
    rows = [row(picture, options.nuclei, options.regions) for picture in chosen]
    if options.names:
        rows = [row for row in rows if row["name"] in options.names]
    options.table.write_text(json.dumps(rows, indent=1))
    print(f"{options.table}: {len(rows)} pictures")


if __name__ == "__main__":
    main()
