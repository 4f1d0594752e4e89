from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Subject(_message.Message):
    __slots__ = ("model_name", "model_version", "pictures")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    pictures: Pictures
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., pictures: _Optional[_Union[Pictures, _Mapping]] = ...) -> None: ...

class Pictures(_message.Message):
    __slots__ = ("datatype", "shape", "raw")
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    raw: bytes
    def __init__(self, datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., raw: _Optional[bytes] = ...) -> None: ...

class Graph(_message.Message):
    __slots__ = ("model_name", "model_version", "sha256", "execution_provider", "no_reference", "reference")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_PROVIDER_FIELD_NUMBER: _ClassVar[int]
    NO_REFERENCE_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    sha256: str
    execution_provider: str
    no_reference: bool
    reference: str
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., sha256: _Optional[str] = ..., execution_provider: _Optional[str] = ..., no_reference: _Optional[bool] = ..., reference: _Optional[str] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("done", "total")
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    done: int
    total: int
    def __init__(self, done: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class CheckParityRequest(_message.Message):
    __slots__ = ("subject",)
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    subject: Subject
    def __init__(self, subject: _Optional[_Union[Subject, _Mapping]] = ...) -> None: ...

class CheckParityResponse(_message.Message):
    __slots__ = ("progress", "report")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    report: ParityReport
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., report: _Optional[_Union[ParityReport, _Mapping]] = ...) -> None: ...

class ParityReport(_message.Message):
    __slots__ = ("graph", "pictures", "max_abs_error", "mean_abs_error", "relative_error", "argmax_agreement", "tolerance", "holds", "built_batch_error")
    GRAPH_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_ERROR_FIELD_NUMBER: _ClassVar[int]
    MEAN_ABS_ERROR_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_ERROR_FIELD_NUMBER: _ClassVar[int]
    ARGMAX_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    BUILT_BATCH_ERROR_FIELD_NUMBER: _ClassVar[int]
    graph: Graph
    pictures: int
    max_abs_error: float
    mean_abs_error: float
    relative_error: float
    argmax_agreement: float
    tolerance: float
    holds: bool
    built_batch_error: float
    def __init__(self, graph: _Optional[_Union[Graph, _Mapping]] = ..., pictures: _Optional[int] = ..., max_abs_error: _Optional[float] = ..., mean_abs_error: _Optional[float] = ..., relative_error: _Optional[float] = ..., argmax_agreement: _Optional[float] = ..., tolerance: _Optional[float] = ..., holds: _Optional[bool] = ..., built_batch_error: _Optional[float] = ...) -> None: ...

class CheckShiftConsistencyRequest(_message.Message):
    __slots__ = ("subject", "protocols", "pairs", "seed")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOLS_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    subject: Subject
    protocols: _containers.RepeatedScalarFieldContainer[str]
    pairs: int
    seed: int
    def __init__(self, subject: _Optional[_Union[Subject, _Mapping]] = ..., protocols: _Optional[_Iterable[str]] = ..., pairs: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class CheckShiftConsistencyResponse(_message.Message):
    __slots__ = ("progress", "report")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    report: ConsistencyReport
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., report: _Optional[_Union[ConsistencyReport, _Mapping]] = ...) -> None: ...

class ConsistencyReport(_message.Message):
    __slots__ = ("graph", "pictures", "measured", "tolerance", "holds", "pairs", "built_one_pixel", "built_circular")
    class Measured(_message.Message):
        __slots__ = ("protocol", "served", "served_error", "reference", "reference_error")
        PROTOCOL_FIELD_NUMBER: _ClassVar[int]
        SERVED_FIELD_NUMBER: _ClassVar[int]
        SERVED_ERROR_FIELD_NUMBER: _ClassVar[int]
        REFERENCE_FIELD_NUMBER: _ClassVar[int]
        REFERENCE_ERROR_FIELD_NUMBER: _ClassVar[int]
        protocol: str
        served: float
        served_error: float
        reference: float
        reference_error: float
        def __init__(self, protocol: _Optional[str] = ..., served: _Optional[float] = ..., served_error: _Optional[float] = ..., reference: _Optional[float] = ..., reference_error: _Optional[float] = ...) -> None: ...
    class Built(_message.Message):
        __slots__ = ("share", "standard_error", "pictures", "pairs")
        SHARE_FIELD_NUMBER: _ClassVar[int]
        STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
        PICTURES_FIELD_NUMBER: _ClassVar[int]
        PAIRS_FIELD_NUMBER: _ClassVar[int]
        share: float
        standard_error: float
        pictures: int
        pairs: int
        def __init__(self, share: _Optional[float] = ..., standard_error: _Optional[float] = ..., pictures: _Optional[int] = ..., pairs: _Optional[int] = ...) -> None: ...
    GRAPH_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    BUILT_ONE_PIXEL_FIELD_NUMBER: _ClassVar[int]
    BUILT_CIRCULAR_FIELD_NUMBER: _ClassVar[int]
    graph: Graph
    pictures: int
    measured: _containers.RepeatedCompositeFieldContainer[ConsistencyReport.Measured]
    tolerance: float
    holds: bool
    pairs: int
    built_one_pixel: ConsistencyReport.Built
    built_circular: ConsistencyReport.Built
    def __init__(self, graph: _Optional[_Union[Graph, _Mapping]] = ..., pictures: _Optional[int] = ..., measured: _Optional[_Iterable[_Union[ConsistencyReport.Measured, _Mapping]]] = ..., tolerance: _Optional[float] = ..., holds: _Optional[bool] = ..., pairs: _Optional[int] = ..., built_one_pixel: _Optional[_Union[ConsistencyReport.Built, _Mapping]] = ..., built_circular: _Optional[_Union[ConsistencyReport.Built, _Mapping]] = ...) -> None: ...

class CompareLatencyRequest(_message.Message):
    __slots__ = ("subject", "batch_sizes", "runs")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZES_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    subject: Subject
    batch_sizes: _containers.RepeatedScalarFieldContainer[int]
    runs: int
    def __init__(self, subject: _Optional[_Union[Subject, _Mapping]] = ..., batch_sizes: _Optional[_Iterable[int]] = ..., runs: _Optional[int] = ...) -> None: ...

class CompareLatencyResponse(_message.Message):
    __slots__ = ("progress", "report")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    report: LatencyReport
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., report: _Optional[_Union[LatencyReport, _Mapping]] = ...) -> None: ...

class LatencyReport(_message.Message):
    __slots__ = ("graph", "runs", "measured")
    class Measured(_message.Message):
        __slots__ = ("batch_size", "served_s", "served_p95_s", "reference_s", "reference_p95_s")
        BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
        SERVED_S_FIELD_NUMBER: _ClassVar[int]
        SERVED_P95_S_FIELD_NUMBER: _ClassVar[int]
        REFERENCE_S_FIELD_NUMBER: _ClassVar[int]
        REFERENCE_P95_S_FIELD_NUMBER: _ClassVar[int]
        batch_size: int
        served_s: float
        served_p95_s: float
        reference_s: float
        reference_p95_s: float
        def __init__(self, batch_size: _Optional[int] = ..., served_s: _Optional[float] = ..., served_p95_s: _Optional[float] = ..., reference_s: _Optional[float] = ..., reference_p95_s: _Optional[float] = ...) -> None: ...
    GRAPH_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    graph: Graph
    runs: int
    measured: _containers.RepeatedCompositeFieldContainer[LatencyReport.Measured]
    def __init__(self, graph: _Optional[_Union[Graph, _Mapping]] = ..., runs: _Optional[int] = ..., measured: _Optional[_Iterable[_Union[LatencyReport.Measured, _Mapping]]] = ...) -> None: ...

class DescribeModelRequest(_message.Message):
    __slots__ = ("subject",)
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    subject: Subject
    def __init__(self, subject: _Optional[_Union[Subject, _Mapping]] = ...) -> None: ...

class ModelDescription(_message.Message):
    __slots__ = ("graph", "architecture", "options", "precision", "opset", "parameters", "multiply_adds", "receptive_field", "figures", "tolerances", "training", "built_with", "verdict", "reason")
    class ReceptiveField(_message.Message):
        __slots__ = ("layer", "height", "width", "output_stride", "drift", "aligned", "whole")
        LAYER_FIELD_NUMBER: _ClassVar[int]
        HEIGHT_FIELD_NUMBER: _ClassVar[int]
        WIDTH_FIELD_NUMBER: _ClassVar[int]
        OUTPUT_STRIDE_FIELD_NUMBER: _ClassVar[int]
        DRIFT_FIELD_NUMBER: _ClassVar[int]
        ALIGNED_FIELD_NUMBER: _ClassVar[int]
        WHOLE_FIELD_NUMBER: _ClassVar[int]
        layer: str
        height: int
        width: int
        output_stride: int
        drift: float
        aligned: bool
        whole: bool
        def __init__(self, layer: _Optional[str] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., output_stride: _Optional[int] = ..., drift: _Optional[float] = ..., aligned: _Optional[bool] = ..., whole: _Optional[bool] = ...) -> None: ...
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class FiguresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class TolerancesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class TrainingEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class BuiltWithEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    GRAPH_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    OPSET_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_ADDS_FIELD_NUMBER: _ClassVar[int]
    RECEPTIVE_FIELD_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    TOLERANCES_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    BUILT_WITH_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    graph: Graph
    architecture: str
    options: _containers.ScalarMap[str, str]
    precision: str
    opset: int
    parameters: int
    multiply_adds: int
    receptive_field: ModelDescription.ReceptiveField
    figures: _containers.ScalarMap[str, float]
    tolerances: _containers.ScalarMap[str, float]
    training: _containers.ScalarMap[str, str]
    built_with: _containers.ScalarMap[str, str]
    verdict: str
    reason: str
    def __init__(self, graph: _Optional[_Union[Graph, _Mapping]] = ..., architecture: _Optional[str] = ..., options: _Optional[_Mapping[str, str]] = ..., precision: _Optional[str] = ..., opset: _Optional[int] = ..., parameters: _Optional[int] = ..., multiply_adds: _Optional[int] = ..., receptive_field: _Optional[_Union[ModelDescription.ReceptiveField, _Mapping]] = ..., figures: _Optional[_Mapping[str, float]] = ..., tolerances: _Optional[_Mapping[str, float]] = ..., training: _Optional[_Mapping[str, str]] = ..., built_with: _Optional[_Mapping[str, str]] = ..., verdict: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...
