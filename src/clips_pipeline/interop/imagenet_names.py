"""ImageNet's class names and prompt templates, from the package of open_clip, for sets whose files have none or others."""

from clips_pipeline.config import ConfigError
from clips_pipeline.shards.sources.source import Classes


def imagenet_classes() -> Classes:
    """The 1,000 names, in the order of the labels of ILSVRC 2012, and CLIP's 80 templates.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES
    except ImportError as error:
        raise ConfigError(
            f"evaluate.class_names: imagenet needs the package of open_clip ({error}); pip install 'clips-pipeline[open-clip]'"
        ) from None
    # Each template is a function of the name.
    return Classes(tuple(IMAGENET_CLASSNAMES), tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES))
