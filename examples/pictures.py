"""A folder of pictures with captions, for the tutorial docs/tutorials/own-pictures.md, for those who have none at hand.

The pictures are scenes of the embedded data. Arguments: the folder to write, the captions file, and how many (1,500 by default).
"""

import json
import sys
from pathlib import Path

from clips_pipeline.data.scenes.source import ScenesConfig, scene_record


def main(folder: Path, captions: Path, pictures: int) -> None:
    """Write the pictures as files, and their captions in the form of `prepare.source.folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number in range(pictures):
        record = scene_record(ScenesConfig(), "example", number)
        name = f"{record.key}.{record.extension}"
        (folder / name).write_bytes(record.image)
        entries.append(
            {
                "image": name,
                "caption": record.web_captions[0],
                "long_caption": record.synthetic_captions[0].text,
                "captions": list(record.captions),
            }
        )
    captions.write_text(json.dumps(entries, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int((*sys.argv[3:], 1500)[0]))
