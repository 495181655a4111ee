from pathlib import Path

import pytest

from gguf_embed.config import ModelConfig
from gguf_embed.errors import ModelFileError, WayOut
from gguf_embed.model_pool.entry import load_failure
from tests.model_pool.fake_models import make_spec

TOWER = Path("/towers/tower.gguf")
SPEC = make_spec("a", config=ModelConfig(mmproj=TOWER))


@pytest.mark.parametrize("path", [SPEC.path, TOWER])
def test_clients_see_a_file_s_name_without_its_folder_and_the_ways_out(path):
    failure = load_failure(SPEC, ModelFileError(f"{path} is damaged", [WayOut.REPAIR_FILE]))
    assert failure.message == f"model 'a' cannot be loaded: {path.name} is damaged"
    assert failure.ways_out == (WayOut.REPAIR_FILE,)


def test_what_was_not_raised_on_purpose_is_named_by_its_type_only():
    assert "ZeroDivisionError" in load_failure(SPEC, ZeroDivisionError("secret")).message
    assert "secret" not in load_failure(SPEC, ZeroDivisionError("secret")).message
