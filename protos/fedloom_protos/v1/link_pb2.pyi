from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_UNSPECIFIED: _ClassVar[Kind]
    KIND_DESCRIBE: _ClassVar[Kind]
    KIND_TRAIN: _ClassVar[Kind]
    KIND_EVALUATE: _ClassVar[Kind]
    KIND_SECURE: _ClassVar[Kind]
KIND_UNSPECIFIED: Kind
KIND_DESCRIBE: Kind
KIND_TRAIN: Kind
KIND_EVALUATE: Kind
KIND_SECURE: Kind

class FromDevice(_message.Message):
    __slots__ = ("hello", "heartbeat", "wants", "piece", "progress", "result", "refusal", "goodbye")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    WANTS_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    heartbeat: Heartbeat
    wants: Wants
    piece: Piece
    progress: Progress
    result: Result
    refusal: Refusal
    goodbye: Goodbye
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., wants: _Optional[_Union[Wants, _Mapping]] = ..., piece: _Optional[_Union[Piece, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., result: _Optional[_Union[Result, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ...) -> None: ...

class FromCoordinator(_message.Message):
    __slots__ = ("welcome", "work", "wants", "piece", "acknowledgement", "cancel", "drain", "received")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    WANTS_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGEMENT_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    work: Work
    wants: Wants
    piece: Piece
    acknowledgement: Acknowledgement
    cancel: Cancel
    drain: Drain
    received: Received
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., work: _Optional[_Union[Work, _Mapping]] = ..., wants: _Optional[_Union[Wants, _Mapping]] = ..., piece: _Optional[_Union[Piece, _Mapping]] = ..., acknowledgement: _Optional[_Union[Acknowledgement, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., received: _Optional[_Union[Received, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "device", "version", "board", "trainer", "task", "task_digest", "examples", "validation", "finished")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BOARD_FIELD_NUMBER: _ClassVar[int]
    TRAINER_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    TASK_DIGEST_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    device: str
    version: str
    board: Board
    trainer: str
    task: str
    task_digest: bytes
    examples: int
    validation: int
    finished: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, protocol: _Optional[int] = ..., device: _Optional[str] = ..., version: _Optional[str] = ..., board: _Optional[_Union[Board, _Mapping]] = ..., trainer: _Optional[str] = ..., task: _Optional[str] = ..., task_digest: _Optional[bytes] = ..., examples: _Optional[int] = ..., validation: _Optional[int] = ..., finished: _Optional[_Iterable[str]] = ...) -> None: ...

class Board(_message.Message):
    __slots__ = ("model", "machine", "system", "cores", "memory_bytes")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_FIELD_NUMBER: _ClassVar[int]
    CORES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    model: str
    machine: str
    system: str
    cores: int
    memory_bytes: int
    def __init__(self, model: _Optional[str] = ..., machine: _Optional[str] = ..., system: _Optional[str] = ..., cores: _Optional[int] = ..., memory_bytes: _Optional[int] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("run", "heartbeat_seconds", "artefact", "no_artefact")
    RUN_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ARTEFACT_FIELD_NUMBER: _ClassVar[int]
    NO_ARTEFACT_FIELD_NUMBER: _ClassVar[int]
    run: str
    heartbeat_seconds: float
    artefact: File
    no_artefact: str
    def __init__(self, run: _Optional[str] = ..., heartbeat_seconds: _Optional[float] = ..., artefact: _Optional[_Union[File, _Mapping]] = ..., no_artefact: _Optional[str] = ...) -> None: ...

class File(_message.Message):
    __slots__ = ("sha256", "bytes")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    sha256: bytes
    bytes: int
    def __init__(self, sha256: _Optional[bytes] = ..., bytes: _Optional[int] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("sha256", "offset")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    sha256: bytes
    offset: int
    def __init__(self, sha256: _Optional[bytes] = ..., offset: _Optional[int] = ...) -> None: ...

class Work(_message.Message):
    __slots__ = ("id", "kind", "round", "arrays", "constants", "settings", "seed", "proximal_mu", "seconds", "behind")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    CONSTANTS_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PROXIMAL_MU_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    BEHIND_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: Kind
    round: int
    arrays: Tensors
    constants: Tensors
    settings: _containers.RepeatedCompositeFieldContainer[Setting]
    seed: int
    proximal_mu: float
    seconds: float
    behind: Behind
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[_Union[Kind, str]] = ..., round: _Optional[int] = ..., arrays: _Optional[_Union[Tensors, _Mapping]] = ..., constants: _Optional[_Union[Tensors, _Mapping]] = ..., settings: _Optional[_Iterable[_Union[Setting, _Mapping]]] = ..., seed: _Optional[int] = ..., proximal_mu: _Optional[float] = ..., seconds: _Optional[float] = ..., behind: _Optional[_Union[Behind, _Mapping]] = ...) -> None: ...

class Behind(_message.Message):
    __slots__ = ("seed", "first")
    SEED_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    seed: int
    first: int
    def __init__(self, seed: _Optional[int] = ..., first: _Optional[int] = ...) -> None: ...

class Setting(_message.Message):
    __slots__ = ("name", "number", "whole", "text")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    number: float
    whole: int
    text: str
    def __init__(self, name: _Optional[str] = ..., number: _Optional[float] = ..., whole: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class Tensors(_message.Message):
    __slots__ = ("tensors", "chunks")
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    chunks: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., chunks: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("name", "dtype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Wants(_message.Message):
    __slots__ = ("chunks",)
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    chunks: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, chunks: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Piece(_message.Message):
    __slots__ = ("data", "more")
    DATA_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    more: bool
    def __init__(self, data: _Optional[bytes] = ..., more: bool = ...) -> None: ...

class Received(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Progress(_message.Message):
    __slots__ = ("work", "epoch", "loss")
    WORK_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    work: str
    epoch: int
    loss: float
    def __init__(self, work: _Optional[str] = ..., epoch: _Optional[int] = ..., loss: _Optional[float] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("work", "examples", "arrays", "figures", "warnings")
    WORK_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    work: str
    examples: int
    arrays: Tensors
    figures: _containers.RepeatedCompositeFieldContainer[Figure]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, work: _Optional[str] = ..., examples: _Optional[int] = ..., arrays: _Optional[_Union[Tensors, _Mapping]] = ..., figures: _Optional[_Iterable[_Union[Figure, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class Figure(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("work", "reason")
    WORK_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    work: str
    reason: str
    def __init__(self, work: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Acknowledgement(_message.Message):
    __slots__ = ("work", "counted", "reason")
    WORK_FIELD_NUMBER: _ClassVar[int]
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    work: str
    counted: bool
    reason: str
    def __init__(self, work: _Optional[str] = ..., counted: bool = ..., reason: _Optional[str] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("work",)
    WORK_FIELD_NUMBER: _ClassVar[int]
    work: str
    def __init__(self, work: _Optional[str] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("telemetry", "work")
    TELEMETRY_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    telemetry: Telemetry
    work: str
    def __init__(self, telemetry: _Optional[_Union[Telemetry, _Mapping]] = ..., work: _Optional[str] = ...) -> None: ...

class Telemetry(_message.Message):
    __slots__ = ("cpu_percent", "temperature_c", "memory_available_bytes", "agent_rss_bytes", "throttled", "disk_free_bytes", "power_w", "uptime_seconds")
    CPU_PERCENT_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_C_FIELD_NUMBER: _ClassVar[int]
    MEMORY_AVAILABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    AGENT_RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    THROTTLED_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    POWER_W_FIELD_NUMBER: _ClassVar[int]
    UPTIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    cpu_percent: float
    temperature_c: float
    memory_available_bytes: int
    agent_rss_bytes: int
    throttled: bool
    disk_free_bytes: int
    power_w: float
    uptime_seconds: float
    def __init__(self, cpu_percent: _Optional[float] = ..., temperature_c: _Optional[float] = ..., memory_available_bytes: _Optional[int] = ..., agent_rss_bytes: _Optional[int] = ..., throttled: bool = ..., disk_free_bytes: _Optional[int] = ..., power_w: _Optional[float] = ..., uptime_seconds: _Optional[float] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ("reason", "reconnect_seconds")
    REASON_FIELD_NUMBER: _ClassVar[int]
    RECONNECT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    reconnect_seconds: float
    def __init__(self, reason: _Optional[str] = ..., reconnect_seconds: _Optional[float] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class AuthorityRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AuthorityReply(_message.Message):
    __slots__ = ("certificate_pem",)
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    certificate_pem: bytes
    def __init__(self, certificate_pem: _Optional[bytes] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("token", "request_pem")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_PEM_FIELD_NUMBER: _ClassVar[int]
    token: str
    request_pem: bytes
    def __init__(self, token: _Optional[str] = ..., request_pem: _Optional[bytes] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("request_pem",)
    REQUEST_PEM_FIELD_NUMBER: _ClassVar[int]
    request_pem: bytes
    def __init__(self, request_pem: _Optional[bytes] = ...) -> None: ...

class Certificate(_message.Message):
    __slots__ = ("device", "certificate_pem", "link_port")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    LINK_PORT_FIELD_NUMBER: _ClassVar[int]
    device: str
    certificate_pem: bytes
    link_port: int
    def __init__(self, device: _Optional[str] = ..., certificate_pem: _Optional[bytes] = ..., link_port: _Optional[int] = ...) -> None: ...
