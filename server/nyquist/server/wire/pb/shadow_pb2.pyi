from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MirroredInference(_message.Message):
    __slots__ = ("model_name", "model_version", "sha256", "pictures", "outputs", "trace_id")
    class Tensor(_message.Message):
        __slots__ = ("name", "datatype", "shape", "raw")
        NAME_FIELD_NUMBER: _ClassVar[int]
        DATATYPE_FIELD_NUMBER: _ClassVar[int]
        SHAPE_FIELD_NUMBER: _ClassVar[int]
        RAW_FIELD_NUMBER: _ClassVar[int]
        name: str
        datatype: str
        shape: _containers.RepeatedScalarFieldContainer[int]
        raw: bytes
        def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., raw: _Optional[bytes] = ...) -> None: ...
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    sha256: str
    pictures: MirroredInference.Tensor
    outputs: _containers.RepeatedCompositeFieldContainer[MirroredInference.Tensor]
    trace_id: str
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., sha256: _Optional[str] = ..., pictures: _Optional[_Union[MirroredInference.Tensor, _Mapping]] = ..., outputs: _Optional[_Iterable[_Union[MirroredInference.Tensor, _Mapping]]] = ..., trace_id: _Optional[str] = ...) -> None: ...

class MirrorReceipt(_message.Message):
    __slots__ = ("received",)
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    received: int
    def __init__(self, received: _Optional[int] = ...) -> None: ...
