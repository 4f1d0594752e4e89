"""What a worker that comes later is told."""

from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.workers.journal import Journal


def load(model: str) -> pb.RepositoryModelLoadRequest:
    return pb.RepositoryModelLoadRequest(model_name=model)


def trace(model: str, **settings: str) -> pb.TraceSettingRequest:
    request = pb.TraceSettingRequest(model_name=model)
    for key, value in settings.items():
        request.settings[key].value.append(value)
    return request


def told(journal: Journal) -> list[str]:
    return [name for name, _ in journal]


def test_models_come_before_the_settings_that_need_them_in_whatever_order_they_were_told() -> None:
    journal = Journal()
    journal.note("RepositoryModelLoad", load("a"))
    journal.note("TraceSetting", trace("a", trace_rate="9"))
    journal.note("RepositoryModelLoad", load("a"))
    assert told(journal) == ["RepositoryModelLoad", "TraceSetting"]


def test_of_each_model_and_setting_the_last_is_kept() -> None:
    journal = Journal()
    journal.note("RepositoryModelLoad", load("a"))
    journal.note("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="a"))
    for rate in range(3000):
        journal.note("TraceSetting", trace("", trace_rate=str(rate)))
    journal.note("TraceSetting", trace("", trace_count="5"))
    (unload, traced) = [request for _, request in journal]
    assert isinstance(unload, pb.RepositoryModelUnloadRequest)
    assert isinstance(traced, pb.TraceSettingRequest)
    assert {key: list(held.value) for key, held in traced.settings.items()} == {
        "trace_rate": ["2999"],
        "trace_count": ["5"],
    }


def test_what_only_reads_is_not_told() -> None:
    journal = Journal()
    journal.note("TraceSetting", trace("a"))
    journal.note("LogSettings", pb.LogSettingsRequest())
    assert told(journal) == []
