"""Data sets as `tfds build --file_format=array_record` leaves them, written without TensorFlow."""

import json
import struct

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter


def write_prepared(folder, features, splits):
    """Writes FOLDER/dataset_info.json, the features and a file of records for each split."""
    folder.mkdir(parents=True)
    tfds.features.FeaturesDict(features).save_config(folder)
    described = []
    for split, records in splits.items():
        name = folder.parts[-3] if len(folder.parts) > 2 else folder.name
        writer = ArrayRecordWriter(str(folder / f"{name}-{split}.array_record-00000-of-00001"), "group_size:1")
        for record in records:
            writer.write(_example(record))
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        described.append(
            {"name": split, "numBytes": "1", "shardLengths": [str(len(records))], "filepathTemplate": template}
        )
    info = {"name": name, "version": "1.0.0", "fileFormat": "array_record", "splits": described}
    (folder / "dataset_info.json").write_text(json.dumps(info))


def _example(record):
    """A serialised tf.train.Example of texts, integers, floats and lists of them."""
    entries = (_field(1, key.encode()) + _field(2, _feature(value)) for key, value in record.items())
    return _field(1, b"".join(_field(1, entry) for entry in entries))


def _feature(value):
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], str):
        return _field(1, b"".join(_field(1, v.encode()) for v in values))
    if isinstance(values[0], float):
        return _field(2, _field(1, struct.pack(f"<{len(values)}f", *values)))
    return _field(3, _field(1, b"".join(map(_varint, values))))


def _field(number, payload):
    return bytes([number << 3 | 2]) + _varint(len(payload)) + payload


def _varint(number):
    coded, number = b"", number % 2**64
    while number > 127:
        coded, number = coded + bytes([number & 127 | 128]), number >> 7
    return coded + bytes([number])
