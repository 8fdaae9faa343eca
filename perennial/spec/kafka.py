"""A Kafka topic as a source."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from perennial.spec.sources import Source

OWN_SETTINGS = ("bootstrap.servers", "auto.offset.reset", "enable.auto.commit", "enable.partition.eof")
"""librdkafka settings on which exactly once rests; a source cannot set them."""

_SECRET_WORDS = ("password", "secret", "jaas", "key.pem")


@dataclass(frozen=True)
class Kafka(Source):
    """Messages of a Kafka topic, read by offset: the table holds the offsets, no consumer group has a say.

    Columns that a contract may name besides the message's fields: `kafka_key` and `kafka_headers` (text, the headers as
    a JSON list of pairs) and `kafka_timestamp` (`UtcMicroseconds`).

    Args:
        topic: the topic; partitions that it gets later are picked up.
        servers: where the cluster is found: `host:port,host:port`.
        format: `json`, an object per message whose fields are the columns; `avro`, a binary record of `avro_schema` per
            message; `raw`, the message as the text column `value`, or as `value_base64` where it is not text.
        avro_schema: the schema of bare records, as JSON; or, where messages begin with a schema registry's five bytes,
            the schemas by their ids there.
        settings: more settings of librdkafka, such as `{"security.protocol": "SASL_SSL"}`.
        secrets: settings whose values are secrets, by the secrets' names: `{"sasl.password": "kafka_password"}`.
        maximum_messages: that one batch brings in at most; the rest waits for the next run.
        maximum_bytes: of messages that one batch brings in at most, and a few messages more; the rest waits likewise.
        accept_loss: go on where messages expired before they were read; else the run fails and says how many.
    """

    topic: str = field(kw_only=True)
    servers: str = field(kw_only=True)
    format: Literal["json", "avro", "raw"] = field(default="json", kw_only=True)
    avro_schema: str | Mapping[int, str] = field(default="", kw_only=True)
    settings: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    secrets: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    maximum_messages: int = field(default=5_000_000, kw_only=True)
    maximum_bytes: int = field(default=4 << 30, kw_only=True)
    accept_loss: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse what cannot be right, where it is written."""
        here = f"source {self.name!r}"
        if self.format not in ("json", "avro", "raw"):
            raise ValueError(f"{here}: format {self.format!r} must be json, avro or raw.")
        if (self.format == "avro") != bool(self.avro_schema):
            raise ValueError(f"{here}: avro_schema goes with format='avro', and only with it.")
        for schema in self.avro_schemas.values():
            json.loads(schema)
        if self.maximum_messages < 1:
            raise ValueError(f"{here}: maximum_messages {self.maximum_messages} must be at least 1.")
        if self.maximum_bytes < 1:
            raise ValueError(f"{here}: maximum_bytes {self.maximum_bytes} must be at least 1.")
        for name in {*self.settings, *self.secrets} & {*OWN_SETTINGS}:
            raise ValueError(f"{here}: the setting {name!r} is Perennial's own; leave it out.")
        for name in self.settings:
            if any(word in name for word in _SECRET_WORDS):
                raise ValueError(
                    f"{here}: {name!r} is a secret: name it in secrets={{{name!r}: '<name of the secret>'}} and put its value "
                    "into the secrets folder."
                )

    @property
    def avro_schemas(self) -> dict[int | None, str]:
        """The schemas by their ids in a registry; None is the id of bare records."""
        if isinstance(self.avro_schema, str):
            return {None: self.avro_schema} if self.avro_schema else {}
        return {number: schema for number, schema in self.avro_schema.items()}  # noqa: C416 - dict() has other types
