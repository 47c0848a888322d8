"""Reads Prometheus's protobuf exposition with protobuf's own decoder."""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# prometheus/client_model, io/prometheus/client/metrics.proto: (name, number, type), as far as it is used.
SCHEMA = {
    "LabelPair": [("name", 1, "string"), ("value", 2, "string")],
    "Timestamp": [("seconds", 1, "int64"), ("nanos", 2, "int32")],
    "Gauge": [("value", 1, "double")],
    "Untyped": [("value", 1, "double")],
    "Counter": [("value", 1, "double"), ("created_timestamp", 3, "Timestamp")],
    "BucketSpan": [("offset", 1, "sint32"), ("length", 2, "uint32")],
    "Histogram": [
        ("sample_count", 1, "uint64"),
        ("sample_sum", 2, "double"),
        ("schema", 5, "sint32"),
        ("zero_threshold", 6, "double"),
        ("zero_count", 7, "uint64"),
        ("positive_span", 12, "BucketSpan*"),
        ("positive_delta", 13, "sint64*"),
        ("created_timestamp", 15, "Timestamp"),
    ],
    "Metric": [
        ("label", 1, "LabelPair*"),
        ("gauge", 2, "Gauge"),
        ("counter", 3, "Counter"),
        ("untyped", 5, "Untyped"),
        ("histogram", 7, "Histogram"),
    ],
    "MetricFamily": [("name", 1, "string"), ("help", 2, "string"), ("type", 3, "int32"), ("metric", 4, "Metric*")],
}


def _family_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="metrics.proto", package="test", syntax="proto2")
    field_proto = descriptor_pb2.FieldDescriptorProto
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for title, number, written in fields:
            label = field_proto.LABEL_REPEATED if written.endswith("*") else field_proto.LABEL_OPTIONAL
            kind = written.rstrip("*")
            field = message.field.add(name=title, number=number, label=label)
            if kind in SCHEMA:
                field.type, field.type_name = field_proto.TYPE_MESSAGE, f".test.{kind}"
            else:
                field.type = getattr(field_proto, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("test.MetricFamily"))


_FAMILY = _family_class()


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and what comes after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def decode(data: bytes) -> list[Any]:
    """The families of a delimited body."""
    found, position = [], 0
    while position < len(data):
        length, position = _varint(data, position)
        found.append(_FAMILY.FromString(data[position : position + length]))
        position += length
    return found


def native_buckets(histogram: Any) -> dict[int, int]:
    """Index at the histogram's schema -> samples, of the buckets above the zero bucket."""
    found: dict[int, int] = {}
    index = count = 0
    deltas = iter(histogram.positive_delta)
    for span in histogram.positive_span:
        index += span.offset
        for _ in range(span.length):
            count += next(deltas)
            found[index] = count
            index += 1
    return found
