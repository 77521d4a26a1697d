"""Weights between those of two files, which often generalise better than either.

    python benchmarks/blend.py BEFORE AFTER SHARE OUT

OUT lies SHARE of the way from BEFORE to AFTER, which was trained from BEFORE (Wortsman and others
2022, "Robust fine-tuning of zero-shot models"). Its header is that of BEFORE.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nasdm_wsi.model.checkpoint import load_weights, save_weights

KEPT = ("halo", "mpp", "planes", "guidance", "sampler", "training")  # of the header


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("share", type=float)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    (network, header), (after, _) = (load_weights(p) for p in (options.before, options.after))
    ends = network.state_dict(), after.state_dict()
    between = {name: ends[0][name].lerp(ends[1][name], options.share) for name in ends[0]}
    network.load_state_dict(between)
    save_weights(options.out, network, **{name: getattr(header, name) for name in KEPT})


if __name__ == "__main__":
    main()
