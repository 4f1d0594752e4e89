"""Files of other exporters, some of those that `python -m tests.interop.exporters` writes."""

from pathlib import Path

from tests.interop.exporters import results

FILES = Path(__file__).parent / "exported_files"


def test_what_other_exporters_write_is_served_as_it_is_and_bit_for_bit_as_onnxruntime_runs_it() -> (
    None
):
    found = results(FILES)
    refused = found.pop("skl2onnx_dictionaries")
    assert "'output_probability' is no dense tensor" in refused
    assert found == dict.fromkeys(found, "")
    assert len(found) == 10
