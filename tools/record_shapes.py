"""Record the shapes of vLLM's releases, from their sources, for conformance/promise/upstream.py.

python tools/record_shapes.py FOLDER   # holds a folder for each release, with vllm/ in it
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pytest_rocm_attn.conformance.adapters import shape
from pytest_rocm_attn.conformance.promise import release

OUT = Path(__file__).parents[1] / "conformance/promise/contracts/vllm/shapes.json"


def main(folder: Path) -> None:
    """Write the file."""
    found = {
        release.parse(one.name): shape.of_folder(one / "vllm").features
        for one in folder.iterdir()
        if (one / "vllm" / shape.PLATFORM).is_file()
    }
    releases = sorted(found)
    features = {}
    for feature in sorted(set().union(*found.values())):
        spans: list[list[str]] = []
        before = None
        for one in releases:
            if feature in found[one]:
                if before is not None and feature in found[before]:
                    spans[-1][1] = release.words(one)
                else:
                    spans.append([release.words(one)] * 2)
            before = one
        features[feature] = spans
    lines = [f"  {json.dumps(name)}: {json.dumps(spans)}" for name, spans in features.items()]
    texts = json.dumps([release.words(one) for one in releases])
    OUT.write_text(
        f'{{"releases": {texts},\n"features": {{\n' + ",\n".join(lines) + "\n}}\n", "utf-8"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
