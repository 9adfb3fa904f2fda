import pytest
from omegaconf import OmegaConf

from clips_pipeline.commands.refusals import RefusedError, refusals


def test_a_list_in_place_of_a_mapping_names_the_remedy() -> None:
    problem = r"^configuration: .*a list here and a mapping there.*write one form$"
    with pytest.raises(RefusedError, match=problem), refusals(None):
        OmegaConf.merge({"synthetic": {"llava": "a"}}, {"synthetic": ["a"]})
