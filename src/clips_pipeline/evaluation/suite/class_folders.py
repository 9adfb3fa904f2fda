"""ImageNet and its variants as folders, one per class, and ObjectNet, each in its published form.

class_folders  WordNet ids (`n01440764/*.JPEG`: ImageNet, -A, -R, -Sketch), class numbers (`0/*.jpeg`: ImageNet-V2), or
               one folder of files with the id at the end of their names (`ILSVRC2012_val_00000293_n01440764.JPEG`, as in
               Hugging Face's val_images.tar.gz)
objectnet      objectnet-1.0: images/FOLDER/*.png, mappings/folder_to_objectnet_label.json and objectnet_to_imagenet_1k.json;
               only the 113 classes that ImageNet has too
"""

import re
from importlib.util import find_spec
from pathlib import Path

from clips_pipeline.config import ConfigError
from clips_pipeline.data.shards.splits import Classes
from clips_pipeline.evaluation.metrics.zero_shot import imagenet_classes
from clips_pipeline.evaluation.published_files import image_path, read_json_file
from clips_pipeline.evaluation.suite.config import SetConfig
from clips_pipeline.evaluation.suite.image_set import FileSet, ImageItem

_IMAGES = (".jpg", ".jpeg", ".png", ".webp")
_FLAT_NAME = re.compile(r".+_(n\d{8})\.\w+")


def open_class_folders(config: SetConfig, path: Path) -> FileSet:
    """Find images and labels of ImageNet or a variant.

    Args:
        config: which classes the set has.
        path: the folder with one folder per class.

    Raises:
        ConfigError: a folder is no class of the set, there are no images, or the package open_clip is missing.
    """
    names = imagenet_classes()
    ids = wordnet_ids("imagenet")
    chosen = wordnet_ids(config.classes)
    kept = {wordnet_id: label for label, wordnet_id in enumerate(chosen)}
    all_names = dict(zip(ids, names.names, strict=True))
    classes = Classes(tuple(all_names[one] for one in chosen), names.templates)
    items: list[ImageItem] = []
    for folder in sorted(one for one in path.iterdir() if one.is_dir()):
        wordnet_id = folder.name
        if wordnet_id.isascii() and wordnet_id.isdigit() and int(wordnet_id) < len(ids):
            wordnet_id = ids[int(wordnet_id)]
        if wordnet_id not in kept:
            raise ConfigError(
                f"{folder}: {folder.name} is no class of {config.classes}; give the folder of the class folders, or set "
                "`classes` to the set's"
            )
        items += [_item(file, path, kept[wordnet_id]) for file in _images(folder)]
    for file in _images(path):
        found = _FLAT_NAME.fullmatch(file.name)
        if found is None or found[1] not in kept:
            raise ConfigError(f"{file}: has no class folder, and no id of {config.classes} at the end of its name")
        items.append(_item(file, path, kept[found[1]]))
    return FileSet.of(items, classes, path)


def open_objectnet(path: Path) -> FileSet:
    """Find images and labels of ObjectNet.

    As in CLIP_benchmark the classes are the 113 that ImageNet has too, under ObjectNet's names in lower case, in the order of
    their folders; the templates are ImageNet's.

    Args:
        path: folder `objectnet-1.0`.

    Raises:
        ConfigError: a mapping is missing or has another form, there are no images, or the package open_clip is missing.
    """
    mapping = path / "mappings" / "folder_to_objectnet_label.json"
    label_of, shared = (
        read_json_file(mapping, dict),
        read_json_file(mapping.with_name("objectnet_to_imagenet_1k.json"), dict),
    )
    kept = sorted(folder for folder, name in label_of.items() if isinstance(name, str) and name in shared)
    if not kept:
        raise ConfigError(
            f"{mapping}: names no class of objectnet_to_imagenet_1k.json; use the published files of ObjectNet"
        )
    classes = Classes(tuple(label_of[folder].lower() for folder in kept), imagenet_classes().templates)
    images = path / "images"
    items = [
        _item(file, images, label)
        for label, folder in enumerate(kept)
        for file in _images(image_path(images, folder, str(mapping)))
    ]
    return FileSet.of(items, classes, images)


def wordnet_ids(classes: str) -> tuple[str, ...]:
    """Return the WordNet ids of `imagenet`, `imagenet_a` or `imagenet_r`, in the order of ImageNet's labels.

    Raises:
        ConfigError: the package timm, which open_clip installs, is missing.
    """
    # Found without importing it, which takes seconds.
    spec = find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "suite: ImageNet's class ids are in the package timm; run pip install 'clips-pipeline[open-clip]'"
        )
    file = Path(spec.submodule_search_locations[0]) / "data" / "_info" / f"{classes}_synsets.txt"
    return tuple(sorted(file.read_text(encoding="utf-8").split()))


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; download the whole set")
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in _IMAGES and file.is_file())


def _item(file: Path, root: Path, label: int) -> ImageItem:
    return ImageItem(str(file.relative_to(root).with_suffix("")), file, (), label)
